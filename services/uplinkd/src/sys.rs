//! The one system call nix lacks.
#![allow(unsafe_code)]

/// Clears the kernel's mark that the clock is not synchronised. It then keeps the hardware clock
/// in step by itself, which needs no access to /dev/rtc.
pub(crate) fn mark_synchronised() -> std::io::Result<()> {
    // SAFETY: timex is plain integers, for which all-zero is a value.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
    change.maxerror = 1_000_000; // microseconds: a second each way
    change.esterror = 1_000_000;
    // SAFETY: adjtimex reads and writes one timex, which `change` is.
    if unsafe { libc::adjtimex(&mut change) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}
