//! First-boot enrolment state machine.

fn main() {}
