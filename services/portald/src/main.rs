//! The only daemon that listens on the network.

fn main() {}
