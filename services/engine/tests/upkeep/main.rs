//! Copies, verifications and looks into snapshots, through the engine's public face.

mod copy;
mod rig;
mod verify;
mod view;
