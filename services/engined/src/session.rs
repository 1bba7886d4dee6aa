//! Sessions that portald handed over: each in a thread of its own, over a blocking socket, until
//! it ends or the daemon stops.

mod intake;
mod replica;
mod restore;

pub(crate) use intake::full;
pub(crate) use restore::{Place, send_all};

use crate::house::House;
use crate::peers::{Agent, Peers, Site, is_signed};
use contract::Error;
use format::DatastoreId;
use protocol::WireError;
use protocol::frame;
use protocol::session::{Challenge, Kind, Open, Proof, Verdict, agent_message, site_signed};
use ring::rand::{SecureRandom, SystemRandom};
use std::io::{BufReader, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a peer may take to prove who it is.
const PROOF: Duration = Duration::from_secs(30);
/// How long a peer may keep silent or take nothing; agents say each half minute that they are there.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long is listened, after a refusal, to what the peer had still on its way.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// Why a session ended before its work was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The connection failed or the peer broke the protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It is told to the peer in this sentence.
    #[error("{}", .0.text())]
    Told(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Ended::Told(error)
    }
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Ended::Wire(error.into())
    }
}

impl Ended {
    /// The sentence for the peer; none when it could not be told or is its own doing.
    pub(crate) fn sentence(&self) -> Option<String> {
        match self {
            Ended::Told(error) => Some(error.text()),
            Ended::Wire(WireError::Ended | WireError::Io(_)) => None,
            Ended::Wire(error) => Some(error.to_string()),
        }
    }
}

/// A stream that counts what was read of it.
pub(crate) struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

impl<R> Counted<R> {
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

/// A session's two directions.
pub(crate) struct Line {
    pub(crate) read: Counted<BufReader<UnixStream>>,
    pub(crate) write: UnixStream,
}

impl Line {
    pub(crate) fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let inner = BufReader::with_capacity(BUFFER, stream.try_clone()?);
        Ok(Self {
            read: Counted { inner, count: 0 },
            write: stream,
        })
    }

    /// A message that must come.
    pub(crate) fn expect<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, WireError> {
        frame::read(&mut self.read)?.ok_or(WireError::Ended)
    }

    pub(crate) fn send<T: serde::Serialize>(&mut self, message: &T) -> Result<(), WireError> {
        frame::write(&mut self.write, message)
    }

    /// Ends our direction and hears the peer out for a moment, so that our last words reach it
    /// although it may still be talking.
    fn linger(&mut self) {
        let _ = self.write.shutdown(Shutdown::Write);
        let _ = self.write.set_read_timeout(Some(LINGER));
        let deadline = std::time::Instant::now() + LINGER;
        let mut sink = vec![0; BUFFER];
        while std::time::Instant::now() < deadline
            && self.read.read(&mut sink).is_ok_and(|count| count > 0)
        {}
    }
}

/// Which TLS session portald says it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Of the agent of this id.
    Agent(String),
    /// Of the site of this id.
    Site(String),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Agent(id) => write!(f, "agent {id}"),
            Peer::Site(id) => write!(f, "site {id}"),
        }
    }
}

/// Begins a session. Answers at once; the session goes on in its thread.
///
/// # Errors
/// There are so many sessions that not even a refusal is to be had, or no thread.
pub fn accept(house: &Arc<House>, peer: Peer, stream: UnixStream) -> Result<(), Error> {
    let (seat, refusal) = house.seats.peer(&peer)?;
    let failed = not_begun(format!("a session of {peer}"));
    let ending = stream.try_clone().map_err(&failed)?;
    let thread_house = house.clone();
    let ended = house.daemon_ends(ending);
    std::thread::Builder::new()
        .name("session".into())
        .spawn(move || {
            let (_seat, _ended) = (seat, ended);
            match serve(&thread_house, &peer, refusal, stream) {
                Ok(kind) => tracing::info!(?peer, ?kind, "session done"),
                Err(error) => tracing::warn!(?peer, "session ended: {error}"),
            }
        })
        .map(|_| ())
        .map_err(failed)
}

/// A session that the system has no descriptor or thread for.
pub(crate) fn not_begun(what: String) -> impl Fn(std::io::Error) -> Error {
    move |error| {
        Error::Failed(format!(
            "{what} cannot begin ({error}); try again when others have ended, and if it stays, \
             restart the appliance"
        ))
    }
}

fn serve(
    house: &Arc<House>,
    peer: &Peer,
    refusal: Option<String>,
    stream: UnixStream,
) -> Result<Kind, Ended> {
    let mut line = Line::new(stream)?;
    line.write.set_read_timeout(Some(PROOF))?;
    let open: Open = line.expect()?;
    let proved = match (peer, open.kind) {
        (Peer::Agent(id), Kind::Intake | Kind::Restore | Kind::List) => {
            agent(&*house.peers, id, open.kind, &mut line).map(Proved::Agent)
        }
        (Peer::Site(id), Kind::Replicate) => site(&*house.peers, id, &mut line).map(Proved::Site),
        _ => Err(WireError::Unexpected("a session of another kind than its connection").into()),
    };
    let proved = proved.and_then(|proved| match refusal {
        Some(why) => Err(Error::Failed(why).into()),
        None => Ok(proved),
    });
    let proved = match proved {
        Ok(proved) => proved,
        Err(error) => {
            if let Some(sentence) = error.sentence() {
                line.send(&Verdict::refused(sentence))?;
                line.linger();
            }
            return Err(error);
        }
    };
    line.write.set_read_timeout(Some(PATIENCE))?;
    tracing::info!(?peer, kind = ?open.kind, version = open.version, "session begins");
    match proved {
        Proved::Agent(agent) => match open.kind {
            Kind::Intake => intake::serve(house, &agent, &mut line)?,
            Kind::Restore => restore::serve(house, &agent, &mut line)?,
            _ => restore::list(house, &agent, &mut line)?,
        },
        Proved::Site(site) => replica::serve(house, &site, &mut line)?,
    }
    Ok(open.kind)
}

enum Proved {
    Agent(Who),
    Site(Site),
}

/// An agent that has proved who it is.
pub(crate) struct Who {
    pub(crate) id: String,
    pub(crate) scope: Scope,
}

/// What an agent may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Back up to this site, and restore its own.
    Backup,
    /// Restore from this datastore, while that is granted to it.
    Restore(DatastoreId),
}

impl Scope {
    fn parse(scope: &str) -> Option<Self> {
        match scope.strip_prefix("restore:") {
            Some(datastore) => datastore.parse().ok().map(Self::Restore),
            None => (scope == "backup").then_some(Self::Backup),
        }
    }
}

fn challenge(line: &mut Line) -> Result<Challenge, Ended> {
    let mut nonce = [0; 32];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| Error::Failed("the system gave no random numbers; try again".into()))?;
    let challenge = Challenge { nonce };
    line.send(&challenge)?;
    Ok(challenge)
}

/// The same for every way not to be somebody: a stranger learns nothing by trying.
fn stranger() -> Ended {
    Error::NotAuthorised(
        "this appliance does not know the peer by the key it has; pair or enrol it again".into(),
    )
    .into()
}

fn agent(peers: &dyn Peers, id: &str, kind: Kind, line: &mut Line) -> Result<Who, Ended> {
    let challenge = challenge(line)?;
    let proof: Proof = line.expect()?;
    let agent: Agent = match peers.agent(id)? {
        Some(agent) if proof.id == id => agent,
        _ => return Err(stranger()),
    };
    if !is_signed(
        &agent.public,
        &agent_message(&challenge, kind),
        &proof.signature,
    ) {
        return Err(stranger());
    }
    let scope = Scope::parse(&agent.scope).ok_or_else(stranger)?;
    match (kind, &scope) {
        (Kind::Intake, Scope::Restore(_)) => Err(Error::NotAuthorised(
            "this agent was paired for a restore; it cannot back up here".into(),
        )
        .into()),
        _ => Ok(Who {
            id: id.to_owned(),
            scope,
        }),
    }
}

fn site(peers: &dyn Peers, id: &str, line: &mut Line) -> Result<Site, Ended> {
    let challenge = challenge(line)?;
    let proof: Proof = line.expect()?;
    let site = match peers.site(id)? {
        Some(site) if proof.id == id => site,
        _ => return Err(stranger()),
    };
    let message = site_signed(&challenge, Kind::Replicate);
    if !is_signed(&site.public, &message, &proof.signature) {
        return Err(stranger());
    }
    Ok(site)
}

/// Shuts a session's socket down when the daemon stops, so that its thread ends; forgets it when
/// the session has ended.
pub(crate) struct DaemonEnds(#[allow(dead_code, reason = "held for its drop")] Arc<UnixStream>);

impl DaemonEnds {
    pub(crate) fn new(stream: UnixStream) -> (Self, Weak<UnixStream>) {
        let stream = Arc::new(stream);
        let weak = Arc::downgrade(&stream);
        (Self(stream), weak)
    }
}

#[cfg(test)]
mod tests;
