//! Sole owner of datastores: intake, restore, replication.

fn main() {}
