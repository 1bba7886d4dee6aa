//! [`Tunnel`]: the kernel's WireGuard over netlink.
//!
//! The messages are made and read here ([`message`]) and not by a netlink crate: both what we send
//! and what the kernel answers hold the private key, and only buffers of our own can be wiped
//! (docs/decisions/0031). [`Ports`] is the seam below everything: bytes to and from a socket.

mod generic;
pub mod message;
mod port;
mod route;
#[cfg(feature = "simulated")]
pub mod simulated;
mod tunnel;

pub use port::{Error, Kernel, Port, Ports, Protocol};
pub use tunnel::{Interface, Peer, PeerState, Tunnel};

/// Bytes of a WireGuard key, private or public.
pub const KEY_LEN: usize = 32;
