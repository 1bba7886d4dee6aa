use crate::port::{Error, Line, Ports, Protocol};
use crate::{KEY_LEN, generic, route};
use generic::Change;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What an interface is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its one address.
    pub address: Ipv6Addr,
    /// Bits of the network that address is in; the kernel routes that network here.
    pub prefix: u8,
    /// The UDP port to listen on; 0 lets the kernel choose.
    pub listen_port: u16,
    /// Bytes of the largest packet inside.
    pub mtu: u32,
}

/// The other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its public key.
    pub public: [u8; KEY_LEN],
    /// Where to send to; None leaves it as the kernel learned it.
    pub endpoint: Option<SocketAddr>,
    /// The networks whose packets it may send and is sent.
    pub allowed: Vec<(IpAddr, u8)>,
    /// Seconds between packets that keep address translators open; 0 for none.
    pub keepalive: u16,
}

/// A peer and what has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// As the kernel has it now.
    pub peer: Peer,
    /// Unix seconds of the last handshake by this machine's clock; None for never.
    pub handshake: Option<i64>,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

/// One WireGuard interface. Every call is idempotent and takes the kernel's state as the truth,
/// so that a restarted service goes on with a tunnel that stood all the while.
pub struct Tunnel {
    route: Line,
    generic: Line,
    index: u32,
    family: u16,
}

impl Tunnel {
    /// The interface of this name (at most 15 bytes), made when there is none.
    pub fn open(ports: &dyn Ports, name: &str) -> Result<Tunnel, Error> {
        let mut route = Line::open(ports, Protocol::Route)?;
        let link = match route::get_link(&mut route, name)? {
            Some(link) => link,
            None => {
                route::make_link(&mut route, name)?;
                route::get_link(&mut route, name)?.ok_or(Error::Foreign(name.to_owned()))?
            }
        };
        if !link.wireguard {
            return Err(Error::Foreign(name.to_owned()));
        }
        let mut generic = Line::open(ports, Protocol::Generic)?;
        let family = generic::family(&mut generic)?;
        Ok(Tunnel {
            route,
            generic,
            index: link.index,
            family,
        })
    }

    /// Gives it its key, port and address, takes other addresses away, and raises it.
    pub fn configure(&mut self, key: &[u8; KEY_LEN], wanted: &Interface) -> Result<(), Error> {
        let index = self.index;
        generic::set_key(
            &mut self.generic,
            self.family,
            index,
            key,
            wanted.listen_port,
        )?;
        let (address, prefix) = (wanted.address, wanted.prefix);
        for (old, bits) in route::addresses(&mut self.route, index)? {
            if (old, bits) != (address, prefix) {
                route::remove_address(&mut self.route, index, old, bits)?;
            }
        }
        route::add_address(&mut self.route, index, address, prefix)?;
        route::raise_link(&mut self.route, index, wanted.mtu)
    }

    /// Makes `wanted` the peers, all of them, touching only those that differ: sessions of the
    /// others go on. Answers whether any differed.
    pub fn set_peers(&mut self, wanted: &[Peer]) -> Result<bool, Error> {
        let now = self.peers()?;
        let removals = now
            .iter()
            .filter(|old| wanted.iter().all(|new| new.public != old.peer.public))
            .map(|old| Change::Remove(old.peer.public));
        let changes: Vec<_> = removals
            .chain(
                wanted
                    .iter()
                    .filter(|new| !now.iter().any(|old| fits(&old.peer, new)))
                    .map(Change::Set),
            )
            .collect();
        generic::change_peers(&mut self.generic, self.family, self.index, &changes)?;
        Ok(!changes.is_empty())
    }

    /// The peers as the kernel has them.
    pub fn peers(&mut self) -> Result<Vec<PeerState>, Error> {
        generic::peers(&mut self.generic, self.family, self.index)
    }

    /// Removes the interface.
    pub fn remove(mut self) -> Result<(), Error> {
        route::remove_link(&mut self.route, self.index)
    }
}

fn fits(old: &Peer, new: &Peer) -> bool {
    let sorted = |peer: &Peer| {
        let mut allowed = peer.allowed.clone();
        allowed.sort();
        allowed
    };
    old.public == new.public
        && old.keepalive == new.keepalive
        && (new.endpoint.is_none() || new.endpoint == old.endpoint)
        && sorted(old) == sorted(new)
}
