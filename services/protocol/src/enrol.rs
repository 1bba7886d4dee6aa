//! How a site joins a centre, docs/protocol.md "Enrolment", and how it changes who holds its
//! tenant's keys later ([`custody`]).
//!
//! The site has pinned the centre by the token's fingerprint before it sends anything; the centre
//! knows the site by the token's secret. The tenant key never travels: under "msp" it is sealed to
//! the centre's wrap key by keyd, under "client" the centre gets one share of three. That key is
//! named by the authority itself, so a portal that was taken over cannot put its own in its place.

mod centre;
pub mod custody;
mod site;
#[cfg(test)]
mod tests;

pub use centre::{Centre, CentreEvent};
pub use site::{Site, SiteEvent};

use crate::token::SECRET;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

/// The ALPN protocol enrolment runs under.
pub const ALPN: &[u8] = b"strongroom-enrol/1";

/// A site's first message.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Of the token.
    pub secret: Zeroizing<[u8; SECRET]>,
    /// PKCS#10 DER over the site's identity.
    pub csr: Vec<u8>,
    /// The identity: Ed25519 public key.
    pub identity: [u8; 32],
    /// WireGuard public key.
    pub uplink: [u8; 32],
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").finish_non_exhaustive()
    }
}

/// Who can read a tenant's copies at the centre.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Custody {
    /// The centre, each release logged.
    Msp,
    /// Nobody there without the client's share.
    Client,
}

/// Neither "msp" nor "client".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no custody {0:?}; it is \"msp\" or \"client\"")]
pub struct CustodyError(pub String);

impl Custody {
    /// "msp" or "client".
    pub fn as_str(self) -> &'static str {
        match self {
            Custody::Msp => "msp",
            Custody::Client => "client",
        }
    }
}

impl std::str::FromStr for Custody {
    type Err = CustodyError;
    fn from_str(text: &str) -> Result<Custody, CustodyError> {
        match text {
            "msp" => Ok(Custody::Msp),
            "client" => Ok(Custody::Client),
            _ => Err(CustodyError(text.to_owned())),
        }
    }
}

/// What the centre offers to one who has a good token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Tenant's id.
    pub tenant: String,
    /// Its name.
    pub tenant_name: String,
    /// The site's id.
    pub site: String,
    /// Its name, as the token was made for.
    pub site_name: String,
    /// What the tenant chose.
    pub custody: Custody,
    /// The fleet authority, DER: it names the centre's HPKE public key, and is the one the token
    /// pins, or the site goes no further.
    pub fleet: Vec<u8>,
}

/// The part of a tenant key that the centre keeps.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeldKey {
    /// The tenant key sealed to the centre's wrap key.
    Msp(Vec<u8>),
    /// One of three shares, two of which make the key.
    Client(Zeroizing<Vec<u8>>),
}

impl HeldKey {
    /// The custody this is of.
    pub fn custody(&self) -> Custody {
        match self {
            HeldKey::Msp(_) => Custody::Msp,
            HeldKey::Client(_) => Custody::Client,
        }
    }
}

impl fmt::Debug for HeldKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.custody().as_str())
    }
}

/// What the centre is to hold for a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The site's datastore.
    pub datastore: String,
    /// Its keyset under the tenant key.
    pub keyset: Vec<u8>,
    /// Of the tenant key.
    pub key: HeldKey,
}

/// What makes a site one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Certificates of the site's identity, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The site's address in the tunnel, IPv6 with prefix length.
    pub address: String,
    /// The centre's address in the tunnel, IPv6.
    pub centre: String,
    /// The centre's WireGuard public key.
    pub peer: [u8; 32],
    /// The centre's WireGuard port (UDP), at the host the token names.
    pub uplink_port: u16,
}

/// Why the centre refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// No token has this secret.
    Unknown,
    /// Another machine used the token, or its enrolment is complete.
    Used,
    /// The token's time is over.
    Expired,
    /// The centre is not ready, or what was sent does not do.
    Other,
}

/// The centre's refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    /// For the program.
    pub reason: Reason,
    /// For the site's operator, complete.
    pub sentence: String,
}

/// How an exchange ends otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The centre says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It does not speak as this release does.
    #[error(transparent)]
    Malformed(#[from] crate::Malformed),
}

#[derive(Serialize, Deserialize)]
enum FromSite {
    Hello(Hello),
    Held(Held),
    Done,
}

#[derive(Serialize, Deserialize)]
enum FromCentre {
    Offer(Offer),
    Grant(Grant),
    Refused(Refusal),
}
