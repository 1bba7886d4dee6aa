//! portald, enrold, centred and keyd together, as plain processes on private buses.

mod agent;
mod custody;
mod enrolment;
mod pairing;
mod policy;
mod rig;
mod sessions;
mod strangers;
mod whole;
