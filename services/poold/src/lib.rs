//! poold: finds, assembles, unlocks and mounts the disk pool, and makes one.
//!
//! [`plan`] decides from what is there now ([`view`]) and remembers almost nothing: whatever
//! interrupted it, the next look continues. [`create`] is the one thing that writes on blank
//! disks. The shell around them is [`worker`].

mod bus;
pub mod create;
pub mod name;
pub mod plan;
mod remember;
pub mod view;
mod worker;

pub use worker::{Parts, Settings, run};
