//! How much the world may ask of us at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections whose peer is not known yet, together.
pub(crate) const STRANGERS: usize = 128;
/// The same from one address (IPv6: one /64, as one machine may have all of it).
pub(crate) const STRANGERS_EACH: usize = 16;
/// Sessions of agents and sites.
pub(crate) const SESSIONS: usize = 1024;

pub(crate) struct Limits {
    strangers: Arc<Mutex<HashMap<u128, usize>>>,
    sessions: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            strangers: Arc::default(),
            sessions: Arc::new(Semaphore::new(SESSIONS)),
        }
    }
}

/// The right to be unknown for a while; given back when dropped.
pub(crate) struct Stranger {
    strangers: Arc<Mutex<HashMap<u128, usize>>>,
    place: u128,
}

impl Limits {
    /// None when there are too many already.
    pub(crate) fn stranger(&self, from: IpAddr) -> Option<Stranger> {
        let place = place(from);
        let mut strangers = self.strangers.lock().expect("no panic holds it");
        if strangers.values().sum::<usize>() >= STRANGERS {
            return None;
        }
        let here = strangers.entry(place).or_default();
        if *here >= STRANGERS_EACH {
            return None;
        }
        *here += 1;
        Some(Stranger {
            strangers: self.strangers.clone(),
            place,
        })
    }

    /// None when there are too many already.
    pub(crate) fn session(&self) -> Option<OwnedSemaphorePermit> {
        self.sessions.clone().try_acquire_owned().ok()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut strangers = self.strangers.lock().expect("no panic holds it");
        if let Some(here) = strangers.get_mut(&self.place) {
            *here -= 1;
            if *here == 0 {
                strangers.remove(&self.place);
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
        assert!(limits.strangers.lock().unwrap().is_empty());
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
