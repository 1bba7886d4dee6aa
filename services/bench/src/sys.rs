//! The one call of the system that no safe crate has.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

/// A process that ended.
pub(crate) struct Ended {
    pub(crate) pid: u32,
    /// As `wait(2)` gives it.
    pub(crate) status: i32,
    /// User and system time of it and of those it waited for.
    pub(crate) cpu: Duration,
    /// Bytes resident at its peak, or at that of the largest it waited for.
    pub(crate) peak: u64,
}

/// Waits for the next process of this group to end; `None` when none is left.
pub(crate) fn wait_for_group(group: u32) -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which all zeros are a value
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live values of the types the call writes
        let pid = unsafe { libc::wait4(-group.cast_signed(), &raw mut status, 0, &raw mut usage) };
        if let Ok(pid) = u32::try_from(pid) {
            let time = |t: libc::timeval| {
                Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
            };
            return Ok(Some(Ended {
                pid,
                status,
                cpu: time(usage.ru_utime) + time(usage.ru_stime),
                peak: usage.ru_maxrss as u64 * 1024,
            }));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ECHILD) => return Ok(None),
            Some(libc::EINTR) => {}
            _ => return Err(error),
        }
    }
}
