//! A change of custody over a site's control session: the peer is known by its certificate.
//!
//! The site asks, the centre answers its wrap key, the site sends what is to be held from now on,
//! the centre confirms once its keyd has it and the earlier holding is erased.

use super::{Error, Held, Reason, Refusal};
use crate::Malformed;
use crate::inbox::{Inbox, decode, encode, frame};
use serde::{Deserialize, Serialize};

/// The ALPN protocol of control sessions.
pub const ALPN: &[u8] = b"strongroom-control/1";

#[derive(Serialize, Deserialize)]
enum FromSite {
    Change,
    Held(Held),
}

#[derive(Serialize, Deserialize)]
enum FromCentre {
    Wrap(Vec<u8>),
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
    /// The centre's HPKE public key; answer by [`Site::hold`].
    Wrap(Vec<u8>),
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
            (true, FromCentre::Wrap(wrap)) => Ok(Some(SiteEvent::Wrap(wrap))),
            (false, FromCentre::Kept) => Ok(Some(SiteEvent::Kept)),
            _ => Err(Malformed.into()),
        }
    }

    /// Sends what the centre is to hold.
    pub fn hold(&mut self, held: Held) {
        self.asked = false;
        self.output.extend(frame(&encode(&FromSite::Held(held))));
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
    /// Answer by [`Centre::wrap`] or [`Centre::refuse`].
    Asked,
    /// Answer by [`Centre::kept`] or [`Centre::refuse`].
    Held(Held),
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
            (true, FromSite::Held(held)) => Ok(Some(CentreEvent::Held(held))),
            _ => Err(Malformed),
        }
    }

    /// Tells the wrap key.
    pub fn wrap(&mut self, wrap: Vec<u8>) {
        self.told = true;
        self.say(&FromCentre::Wrap(wrap));
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
