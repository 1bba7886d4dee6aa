//! Keeps the WireGuard uplink and the clock it needs.

fn main() {}
