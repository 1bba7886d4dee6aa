//! House checks and generated artefacts.

fn main() {}
