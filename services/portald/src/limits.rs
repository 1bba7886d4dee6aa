//! How much the world may ask of us at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// Connections whose peer is not known yet, together.
pub(crate) const STRANGERS: usize = 128;
/// The same from one address (IPv6: one /64, as one machine may have all of it).
pub(crate) const STRANGERS_EACH: usize = 16;
/// Sessions of agents and sites, together.
pub(crate) const SESSIONS: usize = 1024;
/// The same of one certificate: an agent has two in a backup, a site two, and each a few more while
/// old ones end.
pub(crate) const SESSIONS_EACH: usize = 16;

pub(crate) struct Limits {
    strangers: Room<u128>,
    sessions: Room<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            strangers: Room::new(STRANGERS, STRANGERS_EACH),
            sessions: Room::new(SESSIONS, SESSIONS_EACH),
        }
    }
}

/// The right to be unknown for a while; given back when dropped.
pub(crate) type Stranger = Seat<u128>;
/// The right to a session; given back when dropped.
pub(crate) type Session = Seat<String>;

impl Limits {
    /// None when there are too many already.
    pub(crate) fn stranger(&self, from: IpAddr) -> Option<Stranger> {
        self.strangers.seat(place(from))
    }

    /// None when there are too many already, of this peer or of all.
    pub(crate) fn session(&self, peer: &str) -> Option<Session> {
        self.sessions.seat(peer.to_owned())
    }
}

/// Seats, of which nobody may have more than some.
struct Room<K: Eq + Hash> {
    all: usize,
    each: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// One of them.
pub(crate) struct Seat<K: Eq + Hash> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    who: K,
}

impl<K: Eq + Hash + Clone> Room<K> {
    fn new(all: usize, each: usize) -> Self {
        let taken = Arc::default();
        Room { all, each, taken }
    }

    fn seat(&self, who: K) -> Option<Seat<K>> {
        let mut taken = self.taken.lock().expect("no panic holds it");
        if taken.values().sum::<usize>() >= self.all {
            return None;
        }
        let own = taken.get(&who).copied().unwrap_or_default();
        if own >= self.each {
            return None;
        }
        taken.insert(who.clone(), own + 1);
        let taken = self.taken.clone();
        Some(Seat { taken, who })
    }
}

impl<K: Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().expect("no panic holds it");
        if let Some(own) = taken.get_mut(&self.who) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.who);
            }
        }
    }
}

fn place(from: IpAddr) -> u128 {
    match from.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_and_all_cannot_take_more() {
        let limits = Limits::default();
        let at = |n: usize| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        let one: Vec<_> = (0..STRANGERS_EACH)
            .map(|_| limits.stranger(at(1)).unwrap())
            .collect();
        assert!(limits.stranger(at(1)).is_none());
        let rest: Vec<_> = (STRANGERS_EACH..STRANGERS)
            .map(|n| limits.stranger(at(n + 2)).unwrap())
            .collect();
        assert!(limits.stranger(at(4000)).is_none());
        drop(one);
        assert!(limits.stranger(at(1)).is_some());
        drop(rest);
        drop(limits.stranger(at(1)));
        assert!(limits.strangers.taken.lock().unwrap().is_empty());
    }

    #[test]
    fn one_peer_cannot_take_the_sessions_of_the_others() {
        let limits = Limits::default();
        let captured: Vec<_> = std::iter::from_fn(|| limits.session("agent a1")).collect();
        assert_eq!(captured.len(), SESSIONS_EACH);
        let other = limits.session("agent a2");
        assert!(other.is_some());
        drop(captured);
        assert!(limits.session("agent a1").is_some());
        let others: Vec<_> = (0..SESSIONS)
            .map_while(|n| limits.session(&format!("agent b{n}")))
            .collect();
        assert_eq!(others.len(), SESSIONS - 1);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let limits = Limits::default();
        let at = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
        let kept: Vec<_> = (0..STRANGERS_EACH as u16)
            .map(|n| limits.stranger(at(n)).unwrap())
            .collect();
        assert!(limits.stranger(at(999)).is_none());
        assert!(
            limits
                .stranger(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, 1]))
                .is_some()
        );
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(place(mapped), place(IpAddr::from([10, 0, 0, 1])));
        drop(kept);
    }
}
