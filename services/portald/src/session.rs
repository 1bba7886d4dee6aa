//! One connection: handshake, who it is, whom it is for, and then bytes.

use crate::identity::{Configs, Purpose};
use crate::limits::{self, SESSIONS, SESSIONS_EACH, Stranger};
use crate::listen::Door;
use crate::peer::{self, Peer};
use crate::portal::Portal;
use crate::{admit, pairing, socket};
use contract::{Error, FieldsExt, Options};
use protocol::session::Kind;
use rustls::server::Acceptor;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use zbus::zvariant::{Fd, OwnedFd, Value};

pub(crate) type Tls = tokio_rustls::server::TlsStream<TcpStream>;

/// For the handshake and the first message, together.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// For a whole pairing or enrolment: people do not wait inside them, daemons do.
pub(crate) const EXCHANGE: Duration = Duration::from_secs(120);
const BUFFER: usize = 64 << 10;

/// Why a connection ended early, for the journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("no handshake: {}", admit::refused(.0).map_or_else(|| .0.to_string(), ToString::to_string))]
    Handshake(std::io::Error),
    #[error("no handshake and first message within {} seconds", PATIENCE.as_secs())]
    Slow,
    #[error("not within {} seconds", EXCHANGE.as_secs())]
    TooLong,
    #[error("offered no protocol that is served here")]
    Stranger,
    #[error("its certificate names neither an agent nor a site of ours")]
    Nameless,
    #[error("agent {0} is not on the list of agents (any more)")]
    Revoked(String),
    #[error("agent {0} began with {1}")]
    Unasked(String, String),
    #[error(
        "{0} is refused a session: it has {SESSIONS_EACH} open, or all together {SESSIONS}; if it \
         should have fewer, see what runs there"
    )]
    Crowded(String),
    #[error("{}", .0.text())]
    Daemon(#[from] Error),
    #[error("the bus failed: {0}")]
    Bus(#[from] zbus::Error),
    #[error("the session broke: {0}")]
    Broken(std::io::Error),
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    portal: &Arc<Portal>,
    stream: TcpStream,
    door: Door,
    stranger: Stranger,
) -> Result<(), Ended> {
    socket::prepare(&stream).map_err(Ended::Handshake)?;
    let begun = tokio::time::Instant::now();
    let (tls, purpose, configs) = timeout(PATIENCE, handshake(portal, stream, door))
        .await
        .map_err(|_| Ended::Slow)??;
    match purpose {
        Purpose::Agent => {
            let rest = PATIENCE.saturating_sub(begun.elapsed());
            let session = timeout(rest, agent(portal, tls)).await;
            let session = session.map_err(|_| Ended::Slow)??;
            drop(stranger);
            session.pump().await
        }
        Purpose::Site | Purpose::Control => {
            let session = site(portal, tls, purpose).await?;
            drop(stranger);
            session.pump().await
        }
        // these stay strangers as long as they last
        Purpose::Pair => timeout(EXCHANGE, pairing::serve(portal, &configs, tls))
            .await
            .map_err(|_| Ended::TooLong)?,
        Purpose::Enrol => timeout(EXCHANGE, enrol(portal, tls))
            .await
            .map_err(|_| Ended::TooLong)?,
        Purpose::Time => timeout(PATIENCE, time(tls))
            .await
            .map_err(|_| Ended::Slow)?,
    }
}

async fn handshake(
    portal: &Portal,
    stream: TcpStream,
    door: Door,
) -> Result<(Tls, Purpose, Arc<Configs>), Ended> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream)
        .await
        .map_err(Ended::Handshake)?;
    let configs = portal.configs.borrow().clone().ok_or(Ended::Stranger)?;
    let offered: Vec<Vec<u8>> = start
        .client_hello()
        .alpn()
        .map(|offered| offered.map(<[u8]>::to_vec).collect())
        .unwrap_or_default();
    let served = Purpose::ALL
        .into_iter()
        .filter(|purpose| match door {
            Door::Replication => matches!(purpose, Purpose::Site | Purpose::Control),
            Door::Portal => match purpose {
                Purpose::Site | Purpose::Control => false,
                Purpose::Pair => portal.desk.code().is_some(),
                _ => true,
            },
        })
        .find(|purpose| offered.iter().any(|o| o == purpose.alpn()))
        .and_then(|purpose| Some((purpose, configs.serving(purpose)?)));
    match served {
        Some((purpose, config)) => {
            let tls = start.into_stream(config).await.map_err(Ended::Handshake)?;
            Ok((tls, purpose, configs))
        }
        // a stranger gets what a handshake says anyway, and nothing after it
        None => {
            let _ = start.into_stream(configs.stranger.clone()).await;
            Err(Ended::Stranger)
        }
    }
}

/// A session that a daemon has taken over.
struct Session<S> {
    tls: S,
    ours: tokio::net::UnixStream,
    _seat: Option<limits::Session>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn pump(mut self) -> Result<(), Ended> {
        pump(&mut self.tls, &mut self.ours).await
    }
}

/// Bytes both ways until both ends have ended; the end of one direction is passed on alone.
pub(crate) async fn pump<S>(tls: &mut S, ours: &mut tokio::net::UnixStream) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match copy_bidirectional_with_sizes(tls, ours, BUFFER, BUFFER).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Ended::Broken(error)),
    }
}

async fn agent(portal: &Portal, mut tls: Tls) -> Result<Session<Tls>, Ended> {
    let Some(Peer::Agent { id, public }) = certificate(&tls) else {
        return Err(Ended::Nameless);
    };
    // keyd's list, at each session: who is not on it any more is out
    let known = portal.keys().await?.agents().await?.iter().any(|agent| {
        agent.required::<String>("id").is_ok_and(|i| i == id)
            && agent
                .required::<Vec<u8>>("public")
                .is_ok_and(|p| p == public)
    });
    if !known {
        return Err(Ended::Revoked(id));
    }
    let unasked = |what: String| Ended::Unasked(id.clone(), what);
    let (open, first) = protocol::session::read_first(&mut tls)
        .await
        .map_err(|error| unasked(error.to_string()))?;
    let seat = seat(portal, format!("agent {id}"))?;
    let (mut ours, theirs) = runtime::pipe::stream_pair()?;
    // some hundred bytes: less than a socket's buffer, and nobody reads before the hand-over
    ours.write_all(&first).await.map_err(Ended::Broken)?;
    let theirs = Fd::from(theirs);
    match open.kind {
        Kind::Control => {
            let jobs = contract::JobsProxy::new(&portal.daemon.bus).await?;
            let options = Options::from([("agent", Value::from(id.as_str()))]);
            jobs.attach_agent(theirs, options).await?;
        }
        Kind::Intake | Kind::Restore | Kind::List => {
            let options = Options::from([("peer", Value::from(id.as_str()))]);
            let engine = portal.engine().await?;
            engine.accept_session("agent", theirs, options).await?;
        }
        other => return Err(unasked(format!("a {other:?} session"))),
    }
    tracing::debug!(agent = id, kind = ?open.kind, "session handed over");
    Ok(Session {
        tls,
        ours,
        _seat: Some(seat),
    })
}

fn seat(portal: &Portal, peer: String) -> Result<limits::Session, Ended> {
    let seat = portal.limits.session(&peer);
    seat.ok_or(Ended::Crowded(peer))
}

async fn site(portal: &Portal, tls: Tls, purpose: Purpose) -> Result<Session<Tls>, Ended> {
    let Some(Peer::Site { tenant, site }) = certificate(&tls) else {
        return Err(Ended::Nameless);
    };
    let seat = seat(portal, format!("site {site} of tenant {tenant}"))?;
    let (ours, theirs) = runtime::pipe::stream_pair()?;
    let options = Options::from([
        ("peer", Value::from(site.as_str())),
        ("tenant", Value::from(tenant.as_str())),
    ]);
    if purpose == Purpose::Control {
        centre(portal)
            .await?
            .accept_control(Fd::from(theirs), options)
            .await?;
    } else {
        let engine = portal.engine().await?;
        engine
            .accept_session("site", Fd::from(theirs), options)
            .await?;
    }
    tracing::debug!(site, ?purpose, "session handed over");
    Ok(Session {
        tls,
        ours,
        _seat: Some(seat),
    })
}

async fn enrol(portal: &Portal, tls: Tls) -> Result<(), Ended> {
    let (ours, theirs) = runtime::pipe::stream_pair()?;
    let peer = tls.get_ref().0.peer_addr().map(|a| a.to_string());
    let options = Options::from([("from", Value::from(peer.unwrap_or_default()))]);
    centre(portal)
        .await?
        .accept_enrolment(Fd::from(theirs), options)
        .await?;
    let session = Session {
        tls,
        ours,
        _seat: None,
    };
    session.pump().await
}

async fn time(mut tls: Tls) -> Result<(), Ended> {
    let now = protocol::time::encode(SystemTime::now());
    tls.write_all(&now).await.map_err(Ended::Broken)?;
    tls.shutdown().await.map_err(Ended::Broken)
}

async fn centre(portal: &Portal) -> zbus::Result<contract::CentreProxy<'static>> {
    contract::CentreProxy::new(&portal.daemon.bus).await
}

fn certificate(tls: &Tls) -> Option<Peer> {
    let chain = tls.get_ref().1.peer_certificates()?;
    peer::read(chain.first()?)
}

/// Turns a connected stream into one end of a socket pair, whose other end is answered; bytes are
/// pumped until both ends have ended.
pub(crate) fn detach<S>(
    portal: &Arc<Portal>,
    mut stream: S,
    seat: limits::Session,
) -> Result<OwnedFd, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut ours, theirs) = runtime::pipe::stream_pair()?;
    let shutdown = portal.daemon.shutdown.clone();
    tokio::spawn(async move {
        let _seat = seat;
        tokio::select! {
            ended = pump(&mut stream, &mut ours) => if let Err(why) = ended {
                tracing::info!("a session we dialled: {why}");
            },
            () = shutdown.cancelled() => {}
        }
    });
    Ok(theirs.into())
}
