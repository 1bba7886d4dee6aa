//! Assembles, unlocks and mounts disk pools.

fn main() {}
