//! Runs on protected servers: pair, back up, list, restore.

fn main() {}
