//! Reads a live file tree into entries and writes entries back: links, modes, times, xattrs, ACLs, holes.
//!
//! - [`walk`] yields a tree's entries in snapshot order, and opens their content as data and holes.
//! - [`mod@write`] makes a tree of entries again, and never writes outside its target.
//! - [`memory`] keeps what a backup found for the next one.
//! - [`compare`] says in what two trees differ.
//! - [`specimen`] makes a tree with everything real servers have, for tests and the main job.
//!
//! Linux only. Every call is relative to an open directory and follows no symbolic link; what goes
//! wrong with one object is a [`Problem`] and the work goes on.

pub mod compare;
mod dirs;
mod exclude;
pub mod memory;
mod path;
mod problem;
pub mod specimen;
pub mod walk;
pub mod write;
mod xattrs;

pub use exclude::{Pattern, PatternError};
pub use problem::{Problem, ProblemKind, shown};
