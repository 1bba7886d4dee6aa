//! What breaks: disks, the power, the process. What was finished before stays whole.

mod faults;
mod power_cuts;
mod trees;
