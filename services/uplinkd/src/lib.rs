//! uplinkd: keeps the WireGuard uplink, and the clock it needs.
//!
//! [`site`] decides, purely, when to set the clock, resolve and raise; the worker does it, over the
//! seams of [`Parts`]. A centre's end only stands and has peers.

mod bus;
pub mod clock;
pub mod configuration;
mod resolve;
pub mod site;
mod store;
mod sys;
mod worker;

pub use worker::{Parts, Settings, run};
