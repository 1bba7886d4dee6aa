//! The one call of this crate that the borrow checker cannot judge.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::{prctl, signal::Signal};

/// The command's process is killed when the thread that spawns it ends. Meant for a process whose
/// main thread spawns and then only waits.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
}
