//! What enrold and centred tell us, checked.

use contract::{Error, Fields, FieldsExt};
use serde::{Deserialize, Serialize};
use std::net::Ipv6Addr;
use wireguard::KEY_LEN;

/// Our address and the length of the network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The address.
    pub address: Ipv6Addr,
    /// Bits of its network.
    pub prefix: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Network> {
        let (address, prefix) = text.split_once('/')?;
        let network = Network {
            address: address.parse().ok()?,
            prefix: prefix.parse().ok()?,
        };
        let fits = (1..=128).contains(&network.prefix) && !network.address.is_unspecified();
        (fits && !network.address.is_multicast()).then_some(network)
    }

    /// Whether an address is in the network, and not ours.
    pub fn holds(&self, other: Ipv6Addr) -> bool {
        let differs = u128::from(self.address) ^ u128::from(other);
        differs.leading_zeros() >= u32::from(self.prefix) && differs != 0
    }
}

/// The lasting configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Configuration {
    /// A site.
    Site(Site),
    /// A centre.
    Centre {
        /// Our end.
        network: Network,
        /// The UDP port we listen on.
        port: u16,
    },
}

/// A site's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Our end.
    pub network: Network,
    /// The centre's public key.
    pub peer: [u8; KEY_LEN],
    /// Where the centre's WireGuard listens, host:port.
    pub endpoint: String,
    /// The centre's address inside the tunnel.
    pub centre: Ipv6Addr,
    /// The centre's portal, host:port, for the time.
    pub time: String,
    /// The fingerprint of the centre's authority.
    pub fingerprint: Vec<u8>,
}

/// A site, as the centre's end knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SitePeer {
    /// Its address inside the tunnel.
    pub address: Ipv6Addr,
    /// Its public key.
    pub public: [u8; KEY_LEN],
}

fn invalid(what: &str) -> Error {
    Error::InvalidArgument(what.to_owned())
}

/// host and port of "host:port" or "\[v6\]:port".
pub fn split_endpoint(endpoint: &str) -> Option<(&str, u16)> {
    let (host, port) = endpoint.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None => host,
    };
    let port: u16 = port.parse().ok()?;
    let plain = (1..=253).contains(&host.len()) && host.bytes().all(|b| b.is_ascii_graphic());
    (plain && port != 0).then_some((host, port))
}

fn key(bytes: Vec<u8>) -> Result<[u8; KEY_LEN], Error> {
    bytes
        .try_into()
        .map_err(|_| invalid("a WireGuard public key has 32 bytes"))
}

fn endpoint(fields: &Fields, name: &str) -> Result<String, Error> {
    let text: String = fields.required(name)?;
    if split_endpoint(&text).is_none() {
        return Err(Error::InvalidArgument(format!(
            "{name} is of the form host:port"
        )));
    }
    Ok(text)
}

/// Refuses a member that is none of `known`: it would be silently without effect.
fn only(fields: &Fields, known: &[&str]) -> Result<(), Error> {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Error::InvalidArgument(format!(
            "there is no member {name} here"
        ))),
        None => Ok(()),
    }
}

impl Configuration {
    /// From Configure's argument.
    pub fn from_fields(fields: &Fields) -> Result<Configuration, Error> {
        let role: String = fields.required("role")?;
        let address: String = fields.required("address")?;
        let network = Network::parse(&address)
            .ok_or_else(|| invalid("address is an IPv6 address with prefix length"))?;
        match role.as_str() {
            "centre" => {
                only(fields, &["role", "address", "port"])?;
                match fields.required("port")? {
                    0 => Err(invalid("port is from 1 to 65535")),
                    port => Ok(Configuration::Centre { network, port }),
                }
            }
            "site" => {
                let known = [
                    "role",
                    "address",
                    "peer",
                    "endpoint",
                    "centre",
                    "time",
                    "fingerprint",
                ];
                only(fields, &known)?;
                let centre: String = fields.required("centre")?;
                let site = Site {
                    network,
                    peer: key(fields.required("peer")?)?,
                    endpoint: endpoint(fields, "endpoint")?,
                    centre: centre
                        .parse()
                        .map_err(|_| invalid("centre is an IPv6 address"))?,
                    time: endpoint(fields, "time")?,
                    fingerprint: fingerprint(fields.required("fingerprint")?)?,
                };
                if !network.holds(site.centre) {
                    return Err(invalid("centre is another address in our network"));
                }
                Ok(Configuration::Site(site))
            }
            _ => Err(invalid("role is \"site\" or \"centre\"")),
        }
    }

    /// Our end.
    pub fn network(&self) -> Network {
        match self {
            Configuration::Site(site) => site.network,
            Configuration::Centre { network, .. } => *network,
        }
    }
}

/// A fingerprint of 12 to 32 bytes.
pub fn fingerprint(bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    if (12..=32).contains(&bytes.len()) {
        Ok(bytes)
    } else {
        Err(invalid("a fingerprint has 12 to 32 bytes"))
    }
}

/// From SetPeers' argument: sorted, each address and key once, all in our network.
pub fn peers(list: &[Fields], network: Network) -> Result<Vec<SitePeer>, Error> {
    let mut peers = Vec::with_capacity(list.len());
    for fields in list {
        only(fields, &["public", "address"])?;
        let address: String = fields.required("address")?;
        let address: Ipv6Addr = address
            .strip_suffix("/128")
            .unwrap_or(&address)
            .parse()
            .map_err(|_| invalid("a peer's address is one IPv6 address"))?;
        if !network.holds(address) {
            return Err(Error::InvalidArgument(format!(
                "the peer's address {address} is not another one in our network"
            )));
        }
        peers.push(SitePeer {
            address,
            public: key(fields.required("public")?)?,
        });
    }
    peers.sort();
    let twice = |a: &SitePeer, b: &SitePeer| a.address == b.address || a.public == b.public;
    let mut by_key = peers.clone();
    by_key.sort_by_key(|peer| peer.public);
    if peers
        .windows(2)
        .chain(by_key.windows(2))
        .any(|w| twice(&w[0], &w[1]))
    {
        return Err(invalid("an address or a key is listed twice"));
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn endpoints_are_split() {
        assert_eq!(
            split_endpoint("centre.example:51820"),
            Some(("centre.example", 51820))
        );
        assert_eq!(
            split_endpoint("[2001:db8::1]:7443"),
            Some(("2001:db8::1", 7443))
        );
        for wrong in [
            "",
            "host",
            "host:",
            ":1",
            "host:0",
            "host:70000",
            "a b:1",
            "[::1:1",
        ] {
            assert_eq!(split_endpoint(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_network_holds_its_addresses_but_ours() {
        let network = Network::parse("fd00:1:2::2/64").unwrap();
        assert!(network.holds("fd00:1:2::1".parse().unwrap()));
        assert!(!network.holds("fd00:1:2::2".parse().unwrap()));
        assert!(!network.holds("fd00:1:3::1".parse().unwrap()));
        for wrong in [
            "fd00::1",
            "fd00::1/0",
            "fd00::1/129",
            "ff02::1/64",
            "::/64",
            "1.2.3.4/24",
        ] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,40}") {
            split_endpoint(&text);
            Network::parse(&text);
        }
    }
}
