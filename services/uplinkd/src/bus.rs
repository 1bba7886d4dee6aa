//! org.strongroom.Uplink1.

use crate::clock::{self, Clock};
use crate::configuration::{self, Configuration};
use crate::store::{State, Store};
use crate::worker::{End, with_end};
use contract::{Error, Fields, field};
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::watch;

/// What the properties say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) address: String,
    pub(crate) centre: String,
}

/// The interface's object. Who may call what is the bus policy's, member by member
/// (image/common/dbus-1/org.strongroom.Uplink1.conf).
pub(crate) struct Uplink {
    daemon: runtime::Daemon,
    // every method takes &self and these their own locks: one that waits for the centre must not
    // keep the properties from being read
    published: RwLock<Published>,
    store: tokio::sync::Mutex<Store>,
    change: watch::Sender<State>,
    end: Arc<Mutex<End>>,
    clock: Arc<dyn Clock>,
}

impl Uplink {
    pub(crate) fn new(
        daemon: runtime::Daemon,
        published: Published,
        store: Store,
        change: watch::Sender<State>,
        end: Arc<Mutex<End>>,
        clock: Arc<dyn Clock>,
    ) -> Uplink {
        Uplink {
            daemon,
            published: RwLock::new(published),
            store: tokio::sync::Mutex::new(store),
            change,
            end,
            clock,
        }
    }

    fn published(&self) -> Published {
        self.published.read().expect("no panic holds it").clone()
    }

    fn save(&self, store: &mut Store, state: State) -> Result<bool, Error> {
        let changed = store.set(state)?;
        if changed {
            self.change.send_replace(store.state().clone());
        }
        Ok(changed)
    }
}

/// Takes new values, and tells what changed to who listens.
pub(crate) async fn tell(bus: &zbus::Connection, new: Published) -> zbus::Result<()> {
    let object = bus
        .object_server()
        .interface::<_, Uplink>("/org/strongroom/Uplink1")
        .await?;
    let (uplink, emitter) = (object.get().await, object.signal_emitter());
    let old = {
        let mut published = uplink.published.write().expect("no panic holds it");
        std::mem::replace(&mut *published, new.clone())
    };
    if old.reason != new.reason {
        uplink.reason_changed(emitter).await?;
    }
    if old.address != new.address {
        uplink.address_changed(emitter).await?;
    }
    if old.centre != new.centre {
        uplink.centre_changed(emitter).await?;
    }
    // last, so that who waits for a state finds the rest in step with it
    if old.state != new.state {
        tracing::info!(state = new.state, reason = new.reason, "uplink");
        uplink.state_changed(emitter).await?;
    }
    Ok(())
}

#[zbus::interface(name = "org.strongroom.Uplink1")]
impl Uplink {
    #[zbus(property)]
    fn state(&self) -> String {
        self.published().state
    }
    #[zbus(property)]
    fn reason(&self) -> String {
        self.published().reason
    }
    #[zbus(property)]
    fn address(&self) -> String {
        self.published().address
    }
    #[zbus(property)]
    fn centre(&self) -> String {
        self.published().centre
    }

    async fn peers(&self) -> Result<Vec<Fields>, Error> {
        let peers = with_end(&self.end, End::peers).await?;
        let describe = |state: &wireguard::PeerState| {
            let address = state.peer.allowed.first();
            let endpoint = state.peer.endpoint;
            Fields::from([
                ("public".to_owned(), field(&state.peer.public[..])),
                (
                    "address".to_owned(),
                    field(address.map_or_else(String::new, |(a, _)| a.to_string())),
                ),
                (
                    "endpoint".to_owned(),
                    field(endpoint.map_or_else(String::new, |e| e.to_string())),
                ),
                ("handshake".to_owned(), field(state.handshake.unwrap_or(0))),
                ("received".to_owned(), field(state.received)),
                ("sent".to_owned(), field(state.sent)),
            ])
        };
        Ok(peers.iter().map(describe).collect())
    }

    async fn configure(&self, configuration: Fields) -> Result<bool, Error> {
        let configuration = Configuration::from_fields(&configuration)?;
        let mut store = self.store.lock().await;
        let old = store.state();
        // the peers of another network are not this one's
        let same =
            old.configuration.as_ref().map(Configuration::network) == Some(configuration.network());
        let peers = if same { old.peers.clone() } else { Vec::new() };
        let state = State {
            configuration: Some(configuration),
            peers,
        };
        self.save(&mut store, state)
    }

    async fn set_peers(&self, peers: Vec<Fields>) -> Result<bool, Error> {
        let mut store = self.store.lock().await;
        let state = store.state().clone();
        match state.configuration {
            None => Err(Error::NotReady(
                "the uplink is not configured yet; make this appliance a centre first".into(),
            )),
            Some(Configuration::Site(_)) => Err(Error::WrongRole(
                "this appliance is a site, whose one peer is its centre; peers are set at the centre"
                    .into(),
            )),
            Some(Configuration::Centre { network, .. }) => {
                let peers = configuration::peers(&peers, network)?;
                self.save(&mut store, State { peers, ..state })
            }
        }
    }

    async fn sync_clock(&self, endpoint: &str, fingerprint: Vec<u8>) -> Result<i64, Error> {
        if configuration::split_endpoint(endpoint).is_none() {
            return Err(Error::InvalidArgument(
                "endpoint is of the form host:port".into(),
            ));
        }
        let fingerprint = configuration::fingerprint(fingerprint)?;
        clock::sync(&self.daemon.bus, &*self.clock, endpoint, &fingerprint).await
    }
}
