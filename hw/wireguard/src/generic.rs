//! WireGuard's own family (linux/wireguard.h) and how its number is found.

#[cfg(feature = "simulated")]
use crate::message::u32_at;
use crate::message::{F_ACK, F_DUMP, Writer, attributes, find, u16_at, u64_at};
use crate::port::{Error, Line};
use crate::{KEY_LEN, Peer, PeerState};
use nix::errno::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) const CONTROL: u16 = 16;
pub(crate) const GET_FAMILY: u8 = 3;
pub(crate) const FAMILY_ID: u16 = 1;
pub(crate) const FAMILY_NAME: u16 = 2;
pub(crate) const GET_DEVICE: u8 = 0;
pub(crate) const SET_DEVICE: u8 = 1;
pub(crate) const FIXED_LEN: usize = 4;

pub(crate) const INDEX: u16 = 1;
pub(crate) const PRIVATE_KEY: u16 = 3;
pub(crate) const LISTEN_PORT: u16 = 6;
pub(crate) const PEERS: u16 = 8;

pub(crate) const PEER_KEY: u16 = 1;
pub(crate) const PEER_FLAGS: u16 = 3;
pub(crate) const PEER_ENDPOINT: u16 = 4;
pub(crate) const PEER_KEEPALIVE: u16 = 5;
pub(crate) const PEER_HANDSHAKE: u16 = 6;
pub(crate) const PEER_RECEIVED: u16 = 7;
pub(crate) const PEER_SENT: u16 = 8;
pub(crate) const PEER_ALLOWED: u16 = 9;
pub(crate) const REMOVE_PEER: u32 = 1;
pub(crate) const REPLACE_ALLOWED: u32 = 2;

pub(crate) const ALLOWED_FAMILY: u16 = 1;
pub(crate) const ALLOWED_ADDRESS: u16 = 2;
pub(crate) const ALLOWED_PREFIX: u16 = 3;

/// A message stays far below the 64 KiB an attribute can hold.
const PEERS_A_MESSAGE: usize = 64;

/// The number of WireGuard's family; it exists once the module is loaded.
pub(crate) fn family(line: &mut Line) -> Result<u16, Error> {
    const DOING: &str = "asking for WireGuard";
    let request = Writer::new(CONTROL, 0)
        .fixed(&[GET_FAMILY, 1, 0, 0])
        .attribute(FAMILY_NAME, b"wireguard\0");
    let mut id = None;
    let asked = line.ask(DOING, request, |answer| {
        id = answer
            .payload
            .get(FIXED_LEN..)
            .and_then(|attributes| find(attributes, FAMILY_ID))
            .and_then(|value| u16_at(value, 0));
    });
    match asked {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Err(Error::NoWireGuard),
        Err(error) => Err(error),
        Ok(()) => id.ok_or(Error::Answer(DOING)),
    }
}

pub(crate) fn set_key(
    line: &mut Line,
    family: u16,
    index: u32,
    key: &[u8; KEY_LEN],
    port: u16,
) -> Result<(), Error> {
    let request = Writer::new(family, F_ACK)
        .fixed(&[SET_DEVICE, 1, 0, 0])
        .attribute(INDEX, &index.to_ne_bytes())
        .attribute(PRIVATE_KEY, key)
        .attribute(LISTEN_PORT, &port.to_ne_bytes());
    line.ask("giving the uplink its key", request, |_| {})
}

/// What to do to a peer.
pub(crate) enum Change<'a> {
    Set(&'a Peer),
    Remove([u8; KEY_LEN]),
}

pub(crate) fn change_peers(
    line: &mut Line,
    family: u16,
    index: u32,
    changes: &[Change<'_>],
) -> Result<(), Error> {
    for part in changes.chunks(PEERS_A_MESSAGE) {
        let request = Writer::new(family, F_ACK)
            .fixed(&[SET_DEVICE, 1, 0, 0])
            .attribute(INDEX, &index.to_ne_bytes())
            .nest(PEERS, |w| part.iter().fold(w, write_change));
        line.ask("changing the uplink's peers", request, |_| {})?;
    }
    Ok(())
}

fn write_change(writer: Writer, change: &Change<'_>) -> Writer {
    writer.nest(0, |w| match change {
        Change::Remove(key) => w
            .attribute(PEER_KEY, key)
            .attribute(PEER_FLAGS, &REMOVE_PEER.to_ne_bytes()),
        Change::Set(peer) => {
            let mut w = w
                .attribute(PEER_KEY, &peer.public)
                .attribute(PEER_FLAGS, &REPLACE_ALLOWED.to_ne_bytes())
                .attribute(PEER_KEEPALIVE, &peer.keepalive.to_ne_bytes());
            if let Some(endpoint) = peer.endpoint {
                w = w.attribute(PEER_ENDPOINT, &socket_address(endpoint));
            }
            w.nest(PEER_ALLOWED, |w| {
                peer.allowed.iter().fold(w, |w, (address, prefix)| {
                    w.nest(0, |w| write_allowed(w, *address, *prefix))
                })
            })
        }
    })
}

pub(crate) fn write_allowed(writer: Writer, address: IpAddr, prefix: u8) -> Writer {
    let (family, octets) = match address {
        IpAddr::V4(v4) => (2u16, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10u16, v6.octets().to_vec()),
    };
    writer
        .attribute(ALLOWED_FAMILY, &family.to_ne_bytes())
        .attribute(ALLOWED_ADDRESS, &octets)
        .attribute(ALLOWED_PREFIX, &[prefix])
}

/// `struct sockaddr_in` or `sockaddr_in6`.
pub(crate) fn socket_address(address: SocketAddr) -> Vec<u8> {
    match address {
        SocketAddr::V4(v4) => [
            &2u16.to_ne_bytes()[..],
            &v4.port().to_be_bytes(),
            &v4.ip().octets(),
            &[0; 8],
        ]
        .concat(),
        SocketAddr::V6(v6) => [
            &10u16.to_ne_bytes()[..],
            &v6.port().to_be_bytes(),
            &v6.flowinfo().to_be_bytes(),
            &v6.ip().octets(),
            &v6.scope_id().to_ne_bytes(),
        ]
        .concat(),
    }
}

pub(crate) fn read_socket_address(value: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(value.get(2..4)?.try_into().ok()?);
    match u16_at(value, 0)? {
        2 => {
            let octets: [u8; 4] = value.get(4..8)?.try_into().ok()?;
            Some((Ipv4Addr::from(octets), port).into())
        }
        10 => {
            let octets: [u8; 16] = value.get(8..24)?.try_into().ok()?;
            Some((Ipv6Addr::from(octets), port).into())
        }
        _ => None,
    }
}

/// The peers of an interface. The kernel splits long lists over messages, and a peer with many
/// allowed addresses over entries of one public key.
pub(crate) fn peers(line: &mut Line, family: u16, index: u32) -> Result<Vec<PeerState>, Error> {
    let request = Writer::new(family, F_DUMP)
        .fixed(&[GET_DEVICE, 1, 0, 0])
        .attribute(INDEX, &index.to_ne_bytes());
    let mut found: Vec<PeerState> = Vec::new();
    line.ask("reading the uplink's peers", request, |answer| {
        let attributes_of_device = answer.payload.get(FIXED_LEN..).unwrap_or_default();
        let Some(list) = find(attributes_of_device, PEERS) else {
            return;
        };
        for (_, value) in attributes(list) {
            let Some(peer) = read_peer(value) else {
                continue;
            };
            match found.last_mut() {
                Some(last) if last.peer.public == peer.peer.public => {
                    last.peer.allowed.extend(peer.peer.allowed);
                }
                _ => found.push(peer),
            }
        }
    })?;
    Ok(found)
}

fn read_peer(value: &[u8]) -> Option<PeerState> {
    let number = |kind| find(value, kind).and_then(|v| u64_at(v, 0)).unwrap_or(0);
    let handshake = find(value, PEER_HANDSHAKE).and_then(|v| u64_at(v, 0));
    Some(PeerState {
        peer: Peer {
            public: find(value, PEER_KEY)?.try_into().ok()?,
            endpoint: find(value, PEER_ENDPOINT).and_then(read_socket_address),
            allowed: find(value, PEER_ALLOWED)
                .map(|list| {
                    attributes(list)
                        .filter_map(|(_, v)| read_allowed(v))
                        .collect()
                })
                .unwrap_or_default(),
            keepalive: find(value, PEER_KEEPALIVE)
                .and_then(|v| u16_at(v, 0))
                .unwrap_or(0),
        },
        handshake: handshake.map(|seconds| seconds as i64).filter(|s| *s != 0),
        received: number(PEER_RECEIVED),
        sent: number(PEER_SENT),
    })
}

pub(crate) fn read_allowed(value: &[u8]) -> Option<(IpAddr, u8)> {
    let octets = find(value, ALLOWED_ADDRESS)?;
    let address = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
        _ => return None,
    };
    Some((address, *find(value, ALLOWED_PREFIX)?.first()?))
}

/// The flags of a peer in a change; for the simulation.
#[cfg(feature = "simulated")]
pub(crate) fn read_change(value: &[u8]) -> Option<(PeerState, u32)> {
    let flags = find(value, PEER_FLAGS)
        .and_then(|v| u32_at(v, 0))
        .unwrap_or(0);
    Some((read_peer(value)?, flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::HEADER_LEN;

    /// The attributes of the one peer in a change.
    fn written(peer: &Peer) -> Vec<u8> {
        let message = write_change(Writer::new(0, 0), &Change::Set(peer)).finish(1);
        let (_, value) = attributes(&message[HEADER_LEN..]).next().unwrap();
        value.to_vec()
    }

    #[test]
    fn a_peer_reads_back() {
        bolero::check!()
            .with_type::<([u8; KEY_LEN], Option<SocketAddr>, Vec<(IpAddr, u8)>, u16)>()
            .for_each(|(public, endpoint, allowed, keepalive)| {
                let peer = Peer {
                    public: *public,
                    // flow and scope of an IPv6 endpoint are not read
                    endpoint: endpoint.map(|e| (e.ip(), e.port()).into()),
                    allowed: allowed.clone(),
                    keepalive: *keepalive,
                };
                assert_eq!(read_peer(&written(&peer)).unwrap().peer, peer);
            });
    }

    /// A peer as the kernel tells it with bytes changed, and bytes of any kind.
    #[test]
    fn no_answer_makes_the_reading_panic() {
        let whole = written(&Peer {
            public: [7; KEY_LEN],
            endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
            allowed: vec![("fd00::2".parse().unwrap(), 128)],
            keepalive: 25,
        });
        bolero::check!()
            .with_type::<(Vec<(u8, u8)>, Vec<u8>)>()
            .for_each(|(changes, bytes)| {
                let mut like = whole.clone();
                for (at, byte) in changes {
                    let at = usize::from(*at) % like.len();
                    like[at] = *byte;
                }
                for bytes in [&like, bytes] {
                    let _ = read_peer(bytes);
                    let _ = read_allowed(bytes);
                    let _ = read_socket_address(bytes);
                }
            });
    }
}
