//! Backup definitions, stages, runs and history.

fn main() {}
