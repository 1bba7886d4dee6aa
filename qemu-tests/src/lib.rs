//! Boots the image in QEMU and does to it what the world does.
//!
//! [`Lab`] makes machines for a test and tells on failure what happened in them; [`Machine`] is one
//! of them: disks, a TPM that keeps its state, a serial console, network ports, and a *hand* inside
//! that runs commands. Nothing of the hand is in the image: QEMU brings it on a disk of its own and
//! credentials in the firmware tables start it.
//!
//! Whatever is waited for is an event with a deadline. All processes end with the one that started
//! them, unless [`Machine::leave_up`] was called.

mod accel;
mod console;
mod error;
mod guard;
mod hand;
mod lab;
mod machine;
mod pace;
mod qmp;
mod setup;
mod sys;
mod tree;
pub mod wire;

pub use accel::accelerator;
pub use console::Console;
pub use error::{Error, Result};
pub use guard::keep;
pub use hand::{Hand, Input, Output, Running};
pub use lab::{Lab, scenario};
pub use machine::{Machine, left_up};
pub use pace::{Deadline, Pace};
pub use qmp::Qmp;
pub use setup::{Boot, Disk, Nic, Setup};
pub use tree::{runs, workspace};
