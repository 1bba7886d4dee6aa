//! The agent's half.

use super::keys::{self, Keys, Start};
use super::{Answer, Code, EXPORTER, Error, Paired, Reply, Request, TRIES};
use crate::inbox::{Inbox, decode, encode, frame};
use std::io::{Read, Write};

/// Sans I/O: send what [`Agent::output`] gives, feed what arrives to [`Agent::receive`], until
/// that answers. Or let [`Agent::run`] do it over a blocking stream.
pub struct Agent {
    state: State,
    request: Request,
    inbox: Inbox,
    output: Vec<u8>,
}

enum State {
    /// Our element is sent.
    Started(Start),
    /// Our confirmation is sent.
    Confirming(Keys),
    /// Our request is sent.
    Asked(Keys),
    /// Over, with a result or an error.
    Over,
}

impl Agent {
    /// Starts with the code as typed and [`EXPORTER`] bytes of the TLS session under
    /// [`super::EXPORTER_LABEL`].
    pub fn new(code: &Code, exporter: &[u8; EXPORTER], request: Request) -> Agent {
        let start = Start::new(code, exporter, true);
        Agent {
            output: frame(&start.element),
            state: State::Started(start),
            request,
            inbox: Inbox::default(),
        }
    }

    /// What is to be sent now.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes bytes from the site; the result, when they complete it.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Option<Paired>, Error> {
        while let Some(body) = self.inbox.take(&mut bytes)? {
            if let Some(paired) = self.message(&body)? {
                return Ok(Some(paired));
            }
        }
        Ok(None)
    }

    /// What it means that the site closed the connection now.
    pub fn closed(&self) -> Error {
        match self.state {
            State::Started(_) => Error::Closed,
            _ => Error::Interrupted,
        }
    }

    /// The whole exchange over a stream whose reads block; the caller sets its time-outs.
    pub fn run(mut self, stream: &mut (impl Read + Write)) -> Result<Paired, Error> {
        let mut buffer = [0; 4096];
        loop {
            stream.write_all(&self.output())?;
            stream.flush()?;
            let count = match stream.read(&mut buffer) {
                Ok(count) => count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => 0, // no close_notify
                Err(e) => return Err(e.into()),
            };
            if count == 0 {
                return Err(self.closed());
            }
            if let Some(paired) = self.receive(&buffer[..count])? {
                return Ok(paired);
            }
        }
    }

    fn message(&mut self, body: &[u8]) -> Result<Option<Paired>, Error> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Started(start) => match decode(body)? {
                Reply::Element(element) => {
                    let keys = start.finish(&element)?;
                    self.output.extend(frame(&keys.agent_confirms));
                    self.state = State::Confirming(keys);
                    Ok(None)
                }
                reply => Err(refusal(reply)),
            },
            State::Confirming(keys) => match decode(body)? {
                Reply::Confirmed(theirs) => {
                    if !keys::same(&theirs, &keys.site_confirms) {
                        return Err(Error::Impostor);
                    }
                    let request = keys::seal(&keys.request, &encode(&self.request));
                    self.output.extend(frame(&request));
                    self.state = State::Asked(keys);
                    Ok(None)
                }
                reply => Err(refusal(reply)),
            },
            State::Asked(keys) => match decode(keys::open(&keys.answer, body)?)? {
                Answer::Paired(paired) => Ok(Some(paired)),
                Answer::Refused(text) => Err(Error::Refused(text)),
            },
            State::Over => Err(crate::inbox::Malformed.into()),
        }
    }
}

fn refusal(reply: Reply) -> Error {
    match reply {
        Reply::Closed => Error::Closed,
        Reply::Wrong(0) => Error::Ended,
        Reply::Wrong(left) => Error::CodeWrong {
            left: left.min(TRIES),
        },
        Reply::Element(_) | Reply::Confirmed(_) => crate::inbox::Malformed.into(),
    }
}
