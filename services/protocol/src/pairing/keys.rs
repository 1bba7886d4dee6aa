//! From the code and the TLS session to keys that both ends have, or neither.

use super::{Code, EXPORTER};
use crate::inbox::Malformed;
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::Zeroizing;

/// A SPAKE2 message: its side and a compressed point.
pub(super) const ELEMENT: usize = 33;

pub(super) struct Start {
    state: Spake2<Ed25519Group>,
    exporter: [u8; EXPORTER],
    pub(super) element: Vec<u8>,
    agent: bool,
}

impl Start {
    pub(super) fn new(code: &Code, exporter: &[u8; EXPORTER], agent: bool) -> Start {
        let password = Password::new(code.to_string());
        let (a, b) = (
            Identity::new(b"strongroom agent"),
            Identity::new(b"strongroom site"),
        );
        let (state, element) = if agent {
            Spake2::start_a(&password, &a, &b)
        } else {
            Spake2::start_b(&password, &a, &b)
        };
        Start {
            state,
            exporter: *exporter,
            element,
            agent,
        }
    }

    pub(super) fn finish(self, other: &[u8]) -> Result<Keys, Malformed> {
        let shared = Zeroizing::new(self.state.finish(other).map_err(|_| Malformed)?);
        let (from_agent, from_site) = match self.agent {
            true => (&self.element[..], other),
            false => (other, &self.element[..]),
        };
        // each part has one length, so their sequence has one reading
        let all = Zeroizing::new([&shared[..], &self.exporter, from_agent, from_site].concat());
        let key = |context| Zeroizing::new(blake3::derive_key(context, &all));
        Ok(Keys {
            agent_confirms: *blake3::keyed_hash(&key("strongroom pair v1 agent confirms"), &[])
                .as_bytes(),
            site_confirms: *blake3::keyed_hash(&key("strongroom pair v1 site confirms"), &[])
                .as_bytes(),
            request: key("strongroom pair v1 request"),
            answer: key("strongroom pair v1 answer"),
        })
    }
}

pub(super) struct Keys {
    pub(super) agent_confirms: [u8; 32],
    pub(super) site_confirms: [u8; 32],
    pub(super) request: Zeroizing<[u8; 32]>,
    pub(super) answer: Zeroizing<[u8; 32]>,
}

/// Equal, in a time that does not tell where they differ.
pub(super) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    blake3::Hash::from_bytes(*a) == blake3::Hash::from_bytes(*b)
}

/// A body behind its MAC.
pub(super) fn seal(key: &[u8; 32], body: &[u8]) -> Vec<u8> {
    [blake3::keyed_hash(key, body).as_bytes(), body].concat()
}

/// The body, when its MAC fits.
pub(super) fn open<'a>(key: &[u8; 32], sealed: &'a [u8]) -> Result<&'a [u8], Malformed> {
    let (mac, body) = sealed.split_first_chunk::<32>().ok_or(Malformed)?;
    if blake3::keyed_hash(key, body) == *mac {
        Ok(body)
    } else {
        Err(Malformed)
    }
}
