//! md arrays, LUKS2 volumes and XFS through mdadm, cryptsetup, mkfs.xfs and blkid.
//!
//! [`Machine`] is the seam below everything: a command run, a file of sysfs read. Each function
//! is one command; what order they come in is not decided here.

pub mod folder;
pub mod luks;
mod machine;
pub mod md;
pub mod mount;
pub mod probe;
#[cfg(feature = "simulated")]
pub mod simulated;
mod sys;
pub mod xfs;

pub use machine::{Error, Host, Machine, Output};
pub use md::watch::ArrayWatch;
