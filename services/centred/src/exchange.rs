//! Driving a sans-I/O exchange over a stream portald gave us.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// For a whole exchange; the site's keyd and ours work inside it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A machine of `protocol::enrol`, the centre's half.
pub(crate) trait Machine {
    type Event;
    fn output(&mut self) -> Vec<u8>;
    fn receive(&mut self, bytes: &[u8]) -> Result<Option<Self::Event>, protocol::Malformed>;
}

impl Machine for protocol::enrol::Centre {
    type Event = protocol::enrol::CentreEvent;
    fn output(&mut self) -> Vec<u8> {
        self.output()
    }
    fn receive(&mut self, bytes: &[u8]) -> Result<Option<Self::Event>, protocol::Malformed> {
        self.receive(bytes)
    }
}

impl Machine for protocol::enrol::custody::Centre {
    type Event = protocol::enrol::custody::CentreEvent;
    fn output(&mut self) -> Vec<u8> {
        self.output()
    }
    fn receive(&mut self, bytes: &[u8]) -> Result<Option<Self::Event>, protocol::Malformed> {
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

    /// Sends what the machine has to say, then waits for the peer's next event; None when the
    /// peer has ended.
    pub(crate) async fn next(&mut self) -> Result<Option<M::Event>, String> {
        let output = self.machine.output();
        let sent = self.stream.write_all(&output).await;
        sent.map_err(|e| e.to_string())?;
        let mut buffer = [0; 4096];
        loop {
            let count = self.stream.read(&mut buffer).await;
            let count = count.map_err(|e| e.to_string())?;
            if count == 0 {
                return Ok(None);
            }
            let event = self.machine.receive(&buffer[..count]);
            if let Some(event) = event.map_err(|e| e.to_string())? {
                return Ok(Some(event));
            }
        }
    }
}

/// Gives an exchange its time.
pub(crate) async fn within(
    exchange: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("not done within {} seconds", PATIENCE.as_secs())))
}
