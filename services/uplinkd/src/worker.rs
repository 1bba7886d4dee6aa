//! The shell: does what [`site`] decides, over netlink, the clock and the bus.

use crate::bus::{Published, Uplink};
use crate::clock::{self, Clock};
use crate::configuration::{Configuration, Network, Site as SiteSettings, SitePeer};
use crate::resolve::resolve;
use crate::site::{self, Outcome, Seen, Step};
use crate::store::{State, Store};
use contract::{Error, KeysProxy};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use wireguard::{Interface, KEY_LEN, Peer, PeerState, Ports, Tunnel};
use zeroize::Zeroizing;

/// Seconds between packets to the centre, so that address translators keep the way open.
const KEEPALIVE: u16 = 25;

/// `uplinkd.toml`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The interface's name.
    pub interface: String,
    /// Bytes of the largest packet inside: WireGuard's 80 below Ethernet's 1500.
    pub mtu: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            interface: "sr0".into(),
            mtu: 1420,
        }
    }
}

/// What uplinkd works with; tests give their own.
pub struct Parts {
    /// The kernel's netlink.
    pub ports: Box<dyn Ports>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The settings.
    pub settings: Settings,
    /// The folder for what outlives a restart.
    pub state: std::path::PathBuf,
}

/// The tunnel and where it comes from; calls block, for a moment.
pub(crate) struct End {
    ports: Box<dyn Ports>,
    settings: Settings,
    tunnel: Option<Tunnel>,
}

impl End {
    fn raise(
        &mut self,
        key: &[u8; KEY_LEN],
        network: Network,
        listen_port: u16,
        peers: &[Peer],
    ) -> Result<(), wireguard::Error> {
        // opened anew: somebody may have removed the interface
        let mut tunnel = Tunnel::open(&*self.ports, &self.settings.interface)?;
        let interface = Interface {
            address: network.address,
            prefix: network.prefix,
            listen_port,
            mtu: self.settings.mtu,
        };
        tunnel.configure(key, &interface)?;
        tunnel.set_peers(peers)?;
        self.tunnel = Some(tunnel);
        Ok(())
    }

    pub(crate) fn peers(&mut self) -> Result<Vec<PeerState>, wireguard::Error> {
        match &mut self.tunnel {
            Some(tunnel) => tunnel.peers(),
            None => Ok(Vec::new()),
        }
    }
}

/// Does something with the tunnel where blocking is allowed.
pub(crate) async fn with_end<T: Send + 'static>(
    end: &Arc<Mutex<End>>,
    work: impl FnOnce(&mut End) -> Result<T, wireguard::Error> + Send + 'static,
) -> Result<T, Error> {
    let end = end.clone();
    tokio::task::spawn_blocking(move || work(&mut end.lock().expect("no panic holds it")))
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        .map_err(|error| Error::Failed(contract::told(&error)))
}

/// Serves the interface and keeps the uplink until shutdown.
pub async fn run(daemon: runtime::Daemon, parts: Parts) -> anyhow::Result<()> {
    let store = Store::open(&parts.state)?;
    let (change, changes) = watch::channel(store.state().clone());
    let worker = Worker {
        daemon: daemon.clone(),
        end: Arc::new(Mutex::new(End {
            ports: parts.ports,
            settings: parts.settings,
            tunnel: None,
        })),
        clock: parts.clock.clone(),
    };
    let first = published(changes.borrow().configuration.as_ref(), None);
    let uplink = Uplink::new(
        daemon.clone(),
        first,
        store,
        change,
        worker.end.clone(),
        parts.clock,
    );
    daemon.serve(uplink).await?;
    tokio::select! {
        result = worker.keep(changes) => result?,
        () = daemon.until_shutdown() => {}
    }
    Ok(())
}

fn published(configuration: Option<&Configuration>, state: Option<(&str, String)>) -> Published {
    let (state, reason) = state.unwrap_or(match configuration {
        None => ("unconfigured", String::new()),
        Some(_) => ("connecting", String::new()),
    });
    Published {
        state: state.to_owned(),
        reason,
        address: configuration.map_or_else(String::new, |c| c.network().address.to_string()),
        centre: match configuration {
            Some(Configuration::Site(site)) => site.centre.to_string(),
            _ => String::new(),
        },
    }
}

struct Worker {
    daemon: runtime::Daemon,
    end: Arc<Mutex<End>>,
    clock: Arc<dyn Clock>,
}

impl Worker {
    async fn keep(&self, mut changes: watch::Receiver<State>) -> anyhow::Result<()> {
        loop {
            let state = changes.borrow_and_update().clone();
            // dropping either anywhere is fine: every step can be taken again
            tokio::select! {
                result = self.follow(&state) => result?,
                changed = changes.changed() => changed?,
            }
        }
    }

    /// Keeps the uplink as configured; returns only on failure of the bus.
    async fn follow(&self, state: &State) -> zbus::Result<()> {
        match &state.configuration {
            None => {
                self.tell(published(None, None)).await?;
                std::future::pending().await
            }
            Some(Configuration::Centre { network, port }) => {
                self.centre(state, *network, *port).await
            }
            Some(Configuration::Site(site)) => self.site(state, site).await,
        }
    }

    /// Raises a centre's end, and again whenever it is gone.
    async fn centre(&self, state: &State, network: Network, port: u16) -> zbus::Result<()> {
        let peers: Vec<_> = state.peers.iter().map(site_peer).collect();
        loop {
            let told = match self.raise(network, port, peers.clone()).await {
                Ok(()) => ("up", String::new()),
                Err(error) => ("failed", error.text()),
            };
            let stands = told.0 == "up";
            self.tell(published(state.configuration.as_ref(), Some(told)))
                .await?;
            loop {
                tokio::time::sleep(site::LOOK).await;
                if !stands || with_end(&self.end, End::peers).await.is_err() {
                    break;
                }
            }
        }
    }

    async fn site(&self, state: &State, settings: &SiteSettings) -> zbus::Result<()> {
        let mut machine = site::Site::new(&settings.endpoint);
        loop {
            let seen = Seen {
                now: self.clock.steady(),
                wall: self.clock.wall().0,
                handshake: self.handshake(settings).await,
            };
            let step = machine.step(&seen);
            let told = match machine.state() {
                site::State::Up => ("up", String::new()),
                site::State::Connecting(why) => ("connecting", why),
                site::State::Failed(why) => ("failed", why),
            };
            self.tell(published(state.configuration.as_ref(), Some(told)))
                .await?;
            let outcome = match step {
                Step::Wait(time) => {
                    tokio::time::sleep(time).await;
                    continue;
                }
                Step::SyncClock => {
                    let synced = clock::sync(
                        &self.daemon.bus,
                        &*self.clock,
                        &settings.time,
                        &settings.fingerprint,
                    );
                    Outcome::Synced(synced.await.map(|_| ()).map_err(|e| e.text()))
                }
                Step::Resolve => {
                    let found = resolve(&self.daemon.bus, &settings.endpoint);
                    Outcome::Resolved(found.await.map_err(|e| e.text()))
                }
                Step::Raise(address) => {
                    let peer = centre_peer(settings, address);
                    let raised = self.raise(settings.network, 0, vec![peer]);
                    Outcome::Raised(raised.await.map_err(|e| e.text()))
                }
            };
            tracing::debug!(?outcome, "step");
            machine.done(self.clock.steady(), outcome);
        }
    }

    async fn handshake(&self, settings: &SiteSettings) -> Option<i64> {
        let peers = with_end(&self.end, End::peers).await.unwrap_or_default();
        let centre = peers.iter().find(|p| p.peer.public == settings.peer)?;
        centre.handshake
    }

    async fn raise(&self, network: Network, port: u16, peers: Vec<Peer>) -> Result<(), Error> {
        let key = self.key().await?;
        with_end(&self.end, move |end| end.raise(&key, network, port, &peers)).await
    }

    /// The private key, from keyd.
    async fn key(&self) -> Result<Zeroizing<[u8; KEY_LEN]>, Error> {
        let keys = KeysProxy::new(&self.daemon.bus).await?;
        let pipe = match keys.uplink_key().await {
            Err(Error::ZBus(error)) => {
                return Err(Error::NotReady(format!(
                    "keyd does not answer ({error}); the uplink comes up by itself once it does"
                )));
            }
            answer => answer?,
        };
        tokio::task::spawn_blocking(move || {
            let bytes = runtime::pipe::take_key(pipe)?;
            let mut key = Zeroizing::new([0; KEY_LEN]);
            if bytes.len() != key.len() {
                return Err(Error::Damaged(format!(
                    "keyd gave an uplink key of {} bytes, not of {KEY_LEN}; bring keyd and uplinkd \
                     to the same release",
                    bytes.len()
                )));
            }
            key.copy_from_slice(&bytes);
            Ok(key)
        })
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    async fn tell(&self, new: Published) -> zbus::Result<()> {
        crate::bus::tell(&self.daemon.bus, new).await
    }
}

fn centre_peer(settings: &SiteSettings, address: SocketAddr) -> Peer {
    Peer {
        public: settings.peer,
        endpoint: Some(address),
        allowed: vec![(settings.centre.into(), 128)],
        keepalive: KEEPALIVE,
    }
}

fn site_peer(peer: &SitePeer) -> Peer {
    Peer {
        public: peer.public,
        endpoint: None,
        allowed: vec![(peer.address.into(), 128)],
        keepalive: 0,
    }
}
