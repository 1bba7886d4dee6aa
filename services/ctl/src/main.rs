//! The command line: an appliance over D-Bus; strongroom store on a datastore directory.

fn main() {}
