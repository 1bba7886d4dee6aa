//! What breaks, disks, the power, the process, and what does not belong in a datastore: everything
//! that was finished before stays whole.

mod faults;
mod full;
mod hostile;
mod power_cuts;
mod refusals;
#[path = "../rig/taken.rs"]
mod taken;
mod targets;
mod trees;
