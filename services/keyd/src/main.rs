//! Seals and unseals keys; holds the certificate authorities and signs requests.

fn main() {}
