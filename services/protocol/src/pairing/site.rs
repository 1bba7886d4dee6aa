//! The appliance's half: a site, or a centre for recovery.

use super::keys::{self, ELEMENT, Keys, Start};
use super::{Answer, Code, EXPORTER, Paired, Reply, Request};
use crate::inbox::{Inbox, Malformed, decode, encode, frame};

/// Sans I/O, as [`super::Agent`]. One connection is one guess; counting guesses over connections
/// is the caller's, at [`Event::Guessed`].
pub struct Site {
    state: State,
    inbox: Inbox,
    output: Vec<u8>,
}

/// What the caller is to decide.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The agent guessed. Under one lock over all connections, call [`Site::confirm`] when the
    /// guess is right and the code is still open, and count it as used; else [`Site::refuse`].
    Guessed {
        /// Whether the agent knows the code, and no one stands between.
        right: bool,
    },
    /// Both know each other; the agent wants this. Answer by [`Site::pair`] or [`Site::fail`].
    Asked(Request),
}

enum State {
    Started(Start),
    Confirming(Keys),
    Guessed(Keys, bool),
    Confirmed(Keys),
    Asked(Keys),
    Over,
}

impl Site {
    /// Starts with the open code and the exporter value of this TLS session.
    pub fn new(code: &Code, exporter: &[u8; EXPORTER]) -> Site {
        Site {
            state: State::Started(Start::new(code, exporter, false)),
            inbox: Inbox::default(),
            output: Vec::new(),
        }
    }

    /// What is to be sent now.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes bytes from the agent. After an event, decide, send the output and go on with
    /// further bytes; an agent never sends ahead, so what comes behind an event is malformed.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Option<Event>, Malformed> {
        while let Some(body) = self.inbox.take(&mut bytes)? {
            if let Some(event) = self.message(&body)? {
                return if bytes.is_empty() {
                    Ok(Some(event))
                } else {
                    Err(Malformed)
                };
            }
        }
        Ok(None)
    }

    /// Proves to the agent that we know the code; does nothing unless its guess was right.
    pub fn confirm(&mut self) {
        if let State::Guessed(keys, true) = std::mem::replace(&mut self.state, State::Over) {
            self.reply(&Reply::Confirmed(keys.site_confirms));
            self.state = State::Confirmed(keys);
        }
    }

    /// Ends it: the guess was wrong, `left` more are allowed; None when no code is open any more.
    pub fn refuse(&mut self, left: Option<u8>) {
        self.reply(&left.map_or(Reply::Closed, Reply::Wrong));
        self.state = State::Over;
    }

    /// The agent is paired.
    pub fn pair(&mut self, paired: Paired) {
        self.answer(&Answer::Paired(paired));
    }

    /// The code was right and something else failed; one sentence for the agent's operator.
    pub fn fail(&mut self, sentence: String) {
        self.answer(&Answer::Refused(sentence));
    }

    fn reply(&mut self, reply: &Reply) {
        self.output.extend(frame(&encode(reply)));
    }

    fn answer(&mut self, answer: &Answer) {
        if let State::Asked(keys) = std::mem::replace(&mut self.state, State::Over) {
            let sealed = keys::seal(&keys.answer, &encode(answer));
            self.output.extend(frame(&sealed));
        }
    }

    fn message(&mut self, body: &[u8]) -> Result<Option<Event>, Malformed> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Started(start) if body.len() == ELEMENT => {
                let element = start.element.clone();
                let keys = start.finish(body)?;
                self.reply(&Reply::Element(element));
                self.state = State::Confirming(keys);
                Ok(None)
            }
            State::Confirming(keys) => {
                let theirs = body.try_into().map_err(|_| Malformed)?;
                let right = keys::same(&theirs, &keys.agent_confirms);
                self.state = State::Guessed(keys, right);
                Ok(Some(Event::Guessed { right }))
            }
            State::Confirmed(keys) => {
                let request = decode(keys::open(&keys.request, body)?)?;
                self.state = State::Asked(keys);
                Ok(Some(Event::Asked(request)))
            }
            _ => Err(Malformed),
        }
    }
}
