//! Driving a sans-I/O exchange with the centre over a stream portald dialled.

use contract::Error;
use protocol::enrol::{self, Reason};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// For each answer: the centre's keyd works meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine of `protocol::enrol`, the site's half.
pub(crate) trait Machine {
    type Event;
    fn output(&mut self) -> Vec<u8>;
    fn receive(&mut self, bytes: &[u8]) -> Result<Option<Self::Event>, enrol::Error>;
}

impl Machine for enrol::Site {
    type Event = enrol::SiteEvent;
    fn output(&mut self) -> Vec<u8> {
        self.output()
    }
    fn receive(&mut self, bytes: &[u8]) -> Result<Option<Self::Event>, enrol::Error> {
        self.receive(bytes)
    }
}

impl Machine for enrol::custody::Site {
    type Event = enrol::custody::SiteEvent;
    fn output(&mut self) -> Vec<u8> {
        self.output()
    }
    fn receive(&mut self, bytes: &[u8]) -> Result<Option<Self::Event>, enrol::Error> {
        self.receive(bytes)
    }
}

/// A machine and its stream.
pub(crate) struct Exchange<M> {
    stream: UnixStream,
    pub(crate) machine: M,
}

impl<M: Machine> Exchange<M> {
    pub(crate) fn new(stream: UnixStream, machine: M) -> Exchange<M> {
        Exchange { stream, machine }
    }

    /// Sends what the machine has to say.
    pub(crate) async fn send(&mut self) -> Result<(), Error> {
        let output = self.machine.output();
        self.stream.write_all(&output).await.map_err(broken)
    }

    /// Sends, then waits for the centre's answer.
    pub(crate) async fn answer(&mut self) -> Result<M::Event, Error> {
        self.send().await?;
        let mut buffer = [0; 4096];
        loop {
            let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await;
            let count = read
                .map_err(|_| {
                    Error::CentreUnreachable(format!(
                        "the centre gave no answer within {} seconds; look at its centred's \
                         journal, then try again",
                        PATIENCE.as_secs()
                    ))
                })?
                .map_err(broken)?;
            if count == 0 {
                return Err(Error::CentreUnreachable(
                    "the centre closed the connection without an answer; look at its centred's \
                     journal, then try again"
                        .into(),
                ));
            }
            let event = self.machine.receive(&buffer[..count]).map_err(refused)?;
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    /// Ends our direction and waits until the centre has ended its own.
    pub(crate) async fn finish(mut self) -> std::io::Result<()> {
        self.stream.shutdown().await?;
        let mut buffer = [0; 256];
        while self.stream.read(&mut buffer).await? > 0 {}
        Ok(())
    }
}

fn broken(error: std::io::Error) -> Error {
    Error::CentreUnreachable(format!(
        "the connection to the centre broke ({error}); try again"
    ))
}

fn refused(error: enrol::Error) -> Error {
    match error {
        enrol::Error::Refused(refusal) => match refusal.reason {
            Reason::Unknown => Error::TokenInvalid(refusal.sentence),
            Reason::Used => Error::TokenUsed(refusal.sentence),
            Reason::Expired => Error::TokenExpired(refusal.sentence),
            Reason::Other => Error::Failed(format!("the centre refused: {}", refusal.sentence)),
        },
        enrol::Error::Malformed(error) => Error::Failed(error.to_string()),
    }
}
