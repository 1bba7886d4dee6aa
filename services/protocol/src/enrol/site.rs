//! The site's half.

use super::{Error, FromCentre, FromSite, Grant, Held, Hello, Offer};
use crate::Malformed;
use crate::inbox::{Inbox, decode, encode, frame};

/// Sans I/O: send [`Site::output`], feed [`Site::receive`], answer its events.
pub struct Site {
    state: State,
    inbox: Inbox,
    output: Vec<u8>,
}

enum State {
    Greeted,
    Offered,
    Holding,
    Over,
}

/// What the centre said.
#[derive(Debug, PartialEq, Eq)]
pub enum SiteEvent {
    /// Answer by [`Site::hold`].
    Offered(Offer),
    /// The last; keep it, then tell so by [`Site::done`].
    Granted(Grant),
}

impl Site {
    /// Starts by asking.
    pub fn new(hello: Hello) -> Site {
        Site {
            state: State::Greeted,
            inbox: Inbox::default(),
            output: frame(&encode(&FromSite::Hello(hello))),
        }
    }

    /// What is to be sent now.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes bytes from the centre.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Option<SiteEvent>, Error> {
        let Some(body) = self.inbox.take(&mut bytes)? else {
            return Ok(None);
        };
        if !bytes.is_empty() {
            return Err(Malformed.into()); // the centre never speaks twice in a row
        }
        match (&self.state, decode(&body)?) {
            (_, FromCentre::Refused(refusal)) => {
                self.state = State::Over;
                Err(refusal.into())
            }
            (State::Greeted, FromCentre::Offer(offer)) => {
                self.state = State::Offered;
                Ok(Some(SiteEvent::Offered(offer)))
            }
            (State::Holding, FromCentre::Grant(grant)) => {
                self.state = State::Over;
                Ok(Some(SiteEvent::Granted(grant)))
            }
            _ => Err(Malformed.into()),
        }
    }

    /// Sends what the centre is to hold.
    pub fn hold(&mut self, held: Held) {
        self.output.extend(frame(&encode(&FromSite::Held(held))));
        self.state = State::Holding;
    }

    /// Tells that the grant is kept, so that the token has done its work.
    pub fn done(&mut self) {
        self.output.extend(frame(&encode(&FromSite::Done)));
    }
}
