//! The one unsafe call: lending udev's descriptor to tokio.
#![allow(unsafe_code)]

use tokio::io::unix::AsyncFd;
use udev::MonitorSocket;

pub(crate) fn register(socket: MonitorSocket) -> std::io::Result<AsyncFd<MonitorSocket>> {
    // SAFETY: the socket owns its descriptor, keeps it the same and open while it lives, and the
    // AsyncFd owns the socket.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}
