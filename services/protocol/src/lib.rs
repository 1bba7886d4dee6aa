//! What agent, site and centre say to each other: messages and sans-I/O state machines.
//!
//! docs/protocol.md describes every message. What comes from a peer is bounded while it is read:
//! no count, length or order of messages makes an end panic or take memory beyond its bounds.

mod bounded;
pub mod control;
pub mod digests;
pub mod enrol;
pub mod entry;
pub mod frame;
#[cfg(test)]
mod fuzz;
mod inbox;
pub mod intake;
pub mod pairing;
pub mod replication;
pub mod restore;
pub mod session;
pub mod time;
pub mod token;

/// ALPN of agents' sessions, whatever their kind.
pub const ALPN_AGENT: &[u8] = b"strongroom-agent/1";
/// ALPN of a site's copying to its centre.
pub const ALPN_SITE: &[u8] = b"strongroom-site/1";

pub use frame::WireError;
pub use inbox::Malformed;
