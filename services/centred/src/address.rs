//! Addresses inside the tunnel: the centre's /48, itself at 1, sites from 2 on.

use std::net::Ipv6Addr;

/// Bits of the network that all of one centre's appliances share.
pub(crate) const PREFIX: u8 = 48;
/// The first site's number.
pub(crate) const FIRST: u32 = 2;

/// The centre's address out of uplinkd's property, with or without its prefix length.
pub(crate) fn centre(property: &str) -> Option<Ipv6Addr> {
    property.split('/').next()?.parse().ok()
}

/// The address of the site of this number.
pub(crate) fn site(centre: Ipv6Addr, number: u32) -> Ipv6Addr {
    let network = centre.to_bits() >> (128 - PREFIX) << (128 - PREFIX);
    Ipv6Addr::from_bits(network | u128::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_in_the_centres_network() {
        let here = centre("fd12:3456:789a::1/48").unwrap();
        assert_eq!(centre("fd12:3456:789a::1"), Some(here));
        assert_eq!(site(here, 2).to_string(), "fd12:3456:789a::2");
        assert_eq!(site(here, 0x1_0003).to_string(), "fd12:3456:789a::1:3");
        assert_eq!(centre(""), None);
    }
}
