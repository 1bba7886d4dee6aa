//! Keeps our memory out of swap, core dumps and other processes' hands.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use zeroize::Zeroize;

/// Before the first key is read. What the system does not permit is logged: swap is absent from
/// our image, and its units forbid core dumps as well.
pub(crate) fn harden() {
    // not every page at once: the allocator reserves far more than it touches
    let flags = MlockAllFlags::MCL_CURRENT
        | MlockAllFlags::MCL_FUTURE
        | MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
    let steps = [
        ("lock its memory", mlockall(flags)),
        ("refuse to be dumped or traced", set_dumpable(false)),
        ("forbid core dumps", setrlimit(Resource::RLIMIT_CORE, 0, 0)),
    ];
    for (what, result) in steps {
        if let Err(error) = result {
            tracing::warn!("keyd cannot {what}: {error}");
        }
    }
}

/// Does `work`, then overwrites the stack it used. Keys wipe themselves where they end, not where
/// they passed: a value that is moved leaves its bytes behind.
pub(crate) fn wiped<T>(work: impl FnOnce() -> T) -> T {
    // neither may become part of this frame, or the second would not lie over the first
    let result = apart(work);
    overwrite();
    result
}

#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn overwrite() {
    let mut stack = [0u8; 256 << 10];
    stack.zeroize();
    std::hint::black_box(&stack);
}
