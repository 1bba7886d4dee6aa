//! The MSP's control plane: tenants, sites, tokens.

fn main() {}
