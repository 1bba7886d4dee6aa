//! What keeps copies of a datastore whole, through the engine's public face.

mod copy;
mod rig;
mod verify;
