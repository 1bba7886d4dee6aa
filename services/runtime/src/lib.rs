//! Daemon kit: what every daemon of ours does alike.
//!
//! [`main`] starts one: logging, configuration, the bus, SIGTERM, the watchdog. [`Daemon`] is what
//! it is given. [`job`] carries slow work, [`caller`] tells who asks, [`pipe`] hands descriptors.
//!
//! Environment: `STRONGROOM_BUS`, a D-Bus address instead of the system bus, and
//! `STRONGROOM_ROOT`, a directory that stands for `/` (configuration and state below it), both for
//! running the daemons as plain processes; `RUST_LOG` as usual.

pub mod caller;
pub mod config;
mod daemon;
pub mod follow;
pub mod job;
mod kernel;
pub mod pipe;
#[cfg(feature = "testing")]
pub mod testing;

pub use daemon::{Daemon, connect, main, root};
pub use kernel::{now, random};
