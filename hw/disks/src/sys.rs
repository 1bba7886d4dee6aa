//! The one unsafe call: lending a descriptor to tokio.
#![allow(unsafe_code)]

use std::fs::File;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) fn register(file: File, interest: Interest) -> std::io::Result<AsyncFd<File>> {
    // SAFETY: the file owns its descriptor, keeps it the same and open while it lives, and the
    // AsyncFd owns the file.
    unsafe { AsyncFd::register_with_interest(file, interest) }.map_err(Into::into)
}
