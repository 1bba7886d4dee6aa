//! Copies, verifications and looks into snapshots, through the engine's public face.

mod copy;
mod repair;
mod restore;
mod rig;
mod verify;
mod view;
