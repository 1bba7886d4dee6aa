//! A change of custody over a site's control session.
//!
//! The site asks, the centre answers a nonce, the site sends what is to be held from now on, signed
//! by its identity, and the centre confirms once its keyd has it and the earlier holding is erased.
//! portald's word on who the peer is does not suffice here: what is replaced cannot be had again.

use super::{Error, Held, Reason, Refusal};
use crate::Malformed;
use crate::inbox::{Inbox, decode, encode, frame};
use serde::{Deserialize, Serialize};

/// The ALPN protocol of control sessions.
pub const ALPN: &[u8] = b"strongroom-control/1";

/// What a site wants held, by its word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// From now on.
    pub held: Held,
    /// Ed25519 signature of the site's identity over [`signed`], 64 bytes.
    pub signature: Vec<u8>,
}

/// What a site has its keyd sign for the purpose "custody": the centre's nonce, and BLAKE3 of the
/// message that says what is to be held.
pub fn message(nonce: &[u8; 32], held: &Held) -> Vec<u8> {
    let hash = blake3::hash(&encode(held));
    [nonce, hash.as_bytes().as_slice()].concat()
}

/// The whole of what that signature is over.
pub fn signed(nonce: &[u8; 32], held: &Held) -> Vec<u8> {
    [b"strongroom custody v1\0", message(nonce, held).as_slice()].concat()
}

#[derive(Serialize, Deserialize)]
enum FromSite {
    Change,
    Held(Signed),
}

#[derive(Serialize, Deserialize)]
enum FromCentre {
    Challenge([u8; 32]),
    Kept,
    Refused(Refusal),
}

/// The site's half.
pub struct Site {
    asked: bool,
    inbox: Inbox,
    output: Vec<u8>,
}

/// What the centre said to the site.
#[derive(Debug, PartialEq, Eq)]
pub enum SiteEvent {
    /// A nonce to sign with what is to be held; answer by [`Site::hold`].
    Challenge([u8; 32]),
    /// It holds the new, and nothing else any more.
    Kept,
}

impl Default for Site {
    fn default() -> Self {
        Site {
            asked: true,
            inbox: Inbox::default(),
            output: frame(&encode(&FromSite::Change)),
        }
    }
}

impl Site {
    /// What is to be sent now.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes bytes from the centre.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Option<SiteEvent>, Error> {
        let Some(body) = self.inbox.take(&mut bytes)? else {
            return Ok(None);
        };
        match (self.asked, decode(&body)?) {
            (_, FromCentre::Refused(refusal)) => Err(refusal.into()),
            (true, FromCentre::Challenge(nonce)) => Ok(Some(SiteEvent::Challenge(nonce))),
            (false, FromCentre::Kept) => Ok(Some(SiteEvent::Kept)),
            _ => Err(Malformed.into()),
        }
    }

    /// Sends what the centre is to hold.
    pub fn hold(&mut self, signed: Signed) {
        self.asked = false;
        self.output.extend(frame(&encode(&FromSite::Held(signed))));
    }
}

/// The centre's half.
#[derive(Default)]
pub struct Centre {
    told: bool,
    inbox: Inbox,
    output: Vec<u8>,
}

/// What the site said to the centre.
#[derive(Debug, PartialEq, Eq)]
pub enum CentreEvent {
    /// Answer by [`Centre::challenge`] or [`Centre::refuse`].
    Asked,
    /// Answer by [`Centre::kept`] or [`Centre::refuse`].
    Held(Signed),
}

impl Centre {
    /// What is to be sent now.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes bytes from the site.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Option<CentreEvent>, Malformed> {
        let Some(body) = self.inbox.take(&mut bytes)? else {
            return Ok(None);
        };
        match (self.told, decode(&body)?) {
            (false, FromSite::Change) => Ok(Some(CentreEvent::Asked)),
            (true, FromSite::Held(signed)) => Ok(Some(CentreEvent::Held(signed))),
            _ => Err(Malformed),
        }
    }

    /// Asks for a signature over this nonce, which is random and new.
    pub fn challenge(&mut self, nonce: [u8; 32]) {
        self.told = true;
        self.say(&FromCentre::Challenge(nonce));
    }

    /// Confirms.
    pub fn kept(&mut self) {
        self.told = false;
        self.say(&FromCentre::Kept);
    }

    /// Refuses with a sentence for the site's operator.
    pub fn refuse(&mut self, sentence: String) {
        self.say(&FromCentre::Refused(Refusal {
            reason: Reason::Other,
            sentence,
        }));
    }

    fn say(&mut self, message: &FromCentre) {
        self.output.extend(frame(&encode(message)));
    }
}
