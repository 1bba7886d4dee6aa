//! The centre's half.

use super::{FromCentre, FromSite, Grant, Held, Hello, Offer, Refusal};
use crate::Malformed;
use crate::inbox::{Inbox, decode, encode, frame};

/// Sans I/O, as [`super::Site`].
pub struct Centre {
    state: State,
    inbox: Inbox,
    output: Vec<u8>,
}

enum State {
    Waiting,
    Asked,
    Offered,
    Sent,
    Granted,
    Over,
}

/// What the site said.
#[derive(Debug, PartialEq, Eq)]
pub enum CentreEvent {
    /// Answer by [`Centre::offer`] or [`Centre::refuse`].
    Asked(Hello),
    /// Answer by [`Centre::grant`] or [`Centre::refuse`].
    Held(Held),
    /// The site keeps its grant: the token is spent.
    Done,
}

impl Default for Centre {
    fn default() -> Self {
        Centre {
            state: State::Waiting,
            inbox: Inbox::default(),
            output: Vec::new(),
        }
    }
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
        if !bytes.is_empty() {
            return Err(Malformed); // a site waits for each answer
        }
        let (state, event) = match (&self.state, decode(&body)?) {
            (State::Waiting, FromSite::Hello(hello)) => (State::Asked, CentreEvent::Asked(hello)),
            (State::Offered, FromSite::Held(held)) => (State::Sent, CentreEvent::Held(held)),
            (State::Granted, FromSite::Done) => (State::Over, CentreEvent::Done),
            _ => return Err(Malformed),
        };
        self.state = state;
        Ok(Some(event))
    }

    /// Offers; does nothing unless a site has asked.
    pub fn offer(&mut self, offer: Offer) {
        if let State::Asked = self.state {
            self.say(&FromCentre::Offer(offer), State::Offered);
        }
    }

    /// Grants; does nothing unless the site has sent what is to be held.
    pub fn grant(&mut self, grant: Grant) {
        if let State::Sent = self.state {
            self.say(&FromCentre::Grant(grant), State::Granted);
        }
    }

    /// Refuses; the exchange is over.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.say(&FromCentre::Refused(refusal), State::Over);
    }

    fn say(&mut self, message: &FromCentre, next: State) {
        self.output.extend(frame(&encode(message)));
        self.state = next;
    }
}
