//! The rest of the house over the bus.

use crate::exchange::Exchange;
use crate::fleet;
use crate::world::{Joined, Shares, Uplink, World};
use contract::{Error, Fields, FieldsExt, Options};
use protocol::enrol::{self, Custody, Grant, Held, HeldKey, Hello, custody};
use protocol::token::{FINGERPRINT, Token};
use runtime::job::Progress;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use zbus::proxy::CacheProperties;
use zbus::zvariant::Value;
use zeroize::Zeroizing;

pub(crate) struct House {
    daemon: runtime::Daemon,
    pool: bool,
    /// Of the job that runs now.
    progress: Mutex<Progress>,
}

/// How long the centre has to hear our last word.
const FAREWELL: Duration = Duration::from_secs(10);

impl House {
    pub(crate) fn new(daemon: runtime::Daemon, pool: bool) -> House {
        House {
            daemon,
            pool,
            progress: Mutex::default(),
        }
    }

    /// Who watches from now on.
    pub(crate) fn watched(&self, progress: Progress) {
        *self.progress.lock().expect("no panic holds it") = progress;
    }

    fn progress(&self) -> Progress {
        self.progress.lock().expect("no panic holds it").clone()
    }

    async fn keys(&self) -> zbus::Result<contract::KeysProxy<'static>> {
        contract::KeysProxy::builder(&self.daemon.bus)
            .cache_properties(CacheProperties::No)
            .build()
            .await
    }

    async fn uplinkd(&self) -> zbus::Result<contract::UplinkProxy<'static>> {
        contract::UplinkProxy::builder(&self.daemon.bus)
            .cache_properties(CacheProperties::No)
            .build()
            .await
    }

    async fn dial(&self, purpose: &str, options: Options<'_>) -> Result<UnixStream, Error> {
        let portal = contract::PortalProxy::builder(&self.daemon.bus)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let stream = portal.dial(purpose, options).await;
        runtime::pipe::adopt_stream(stream.map_err(|e| running("portald", e))?)
    }

    /// What the centre is to hold under this custody, and what the client is.
    async fn tenant_key(
        &self,
        tenant: &str,
        custody: Custody,
        wrap: &[u8],
        renew: bool,
    ) -> Result<(Held, Option<Shares>), Error> {
        let options = Options::from([("wrap", Value::from(wrap)), ("renew", Value::from(renew))]);
        let keys = self.keys().await?;
        let made = keys
            .make_tenant_key(tenant, custody.as_str(), options)
            .await;
        let made = made.map_err(|e| running("keyd", e))?;
        let (key, shares) = match custody {
            Custody::Msp => (HeldKey::Msp(made.required("wrapped")?), None),
            Custody::Client => {
                let words = |name| made.required::<String>(name).map(Zeroizing::new);
                let shares = Shares {
                    client: words("client_share")?,
                    envelope: words("envelope_share")?,
                };
                let ours: Vec<u8> = made.required("centre_share")?;
                (HeldKey::Client(Zeroizing::new(ours)), Some(shares))
            }
        };
        let held = Held {
            datastore: made.required("datastore")?,
            keyset: made.required("keyset")?,
            key,
        };
        Ok((held, shares))
    }
}

/// A daemon that is not there is told as such, not by its bus name.
fn running(daemon: &str, error: Error) -> Error {
    match &error {
        Error::ZBus(zbus::Error::MethodError(name, _, _))
            if name
                .as_str()
                .starts_with("org.freedesktop.DBus.Error.ServiceUnknown")
                || name
                    .as_str()
                    .starts_with("org.freedesktop.DBus.Error.NameHasNoOwner") =>
        {
            Error::NotReady(format!(
                "{daemon} is not running; look at its journal (strongroom log)"
            ))
        }
        _ => error,
    }
}

fn key32(fields: &Fields, name: &str) -> Result<[u8; 32], Error> {
    let bytes: Vec<u8> = fields.required(name)?;
    bytes
        .try_into()
        .map_err(|_| Error::Failed(format!("keyd's {name} is not 32 bytes; see its journal")))
}

fn unexpected() -> Error {
    Error::Failed("the centre answered out of turn; compare the releases of both".into())
}

impl World for House {
    type Waiting = Exchange<enrol::Site>;

    async fn check_keys(&self) -> Result<(), Error> {
        let keys = self.keys().await?;
        let state = keys.state().await.map_err(|e| running("keyd", e.into()))?;
        match state.as_str() {
            "ready" => Ok(()),
            "no-tpm" => Err(Error::NoTpm(keys.reason().await?)),
            _ => Err(Error::Sealed(keys.reason().await?)),
        }
    }

    async fn sync_clock(&self, token: &Token) -> Result<(), Error> {
        let uplinkd = self.uplinkd().await?;
        let moved = uplinkd
            .sync_clock(&token.endpoint.to_string(), &token.fingerprint)
            .await
            .map_err(|e| running("uplinkd", e))?;
        if moved != 0 {
            tracing::warn!("the clock was wrong by {moved} seconds and is set");
        }
        Ok(())
    }

    async fn join(&self, token: &Token) -> Result<(Joined, Self::Waiting), Error> {
        let keys = self.keys().await?;
        let prepared = keys.prepare_enrolment(Options::new()).await;
        let prepared = prepared.map_err(|e| running("keyd", e))?;
        let hello = Hello {
            secret: token.secret.clone(),
            csr: prepared.required("csr")?,
            identity: key32(&prepared, "identity")?,
            uplink: key32(&prepared, "uplink")?,
        };
        let options = Options::from([
            ("endpoint", Value::from(token.endpoint.to_string())),
            ("fingerprint", Value::from(token.fingerprint.to_vec())),
        ]);
        let stream = self.dial("enrol", options).await?;
        let mut exchange = Exchange::new(stream, enrol::Site::new(hello));
        let enrol::SiteEvent::Offered(offer) = exchange.answer().await? else {
            return Err(unexpected());
        };
        let wrap = fleet::wrap_key(&offer.fleet, &token.fingerprint)?;
        self.tell("making the tenant's keys");
        let (held, shares) = self
            .tenant_key(&offer.tenant, offer.custody, &wrap, false)
            .await?;
        let datastore = held.datastore.clone();
        exchange.machine.hold(held);
        let enrol::SiteEvent::Granted(grant) = exchange.answer().await? else {
            return Err(unexpected());
        };
        let joined = Joined {
            offer,
            datastore,
            grant,
            shares,
        };
        Ok((joined, exchange))
    }

    async fn confirm(&self, mut waiting: Self::Waiting) {
        waiting.machine.done();
        let said = async {
            waiting.send().await?;
            waiting
                .finish()
                .await
                .map_err(|e| Error::Failed(e.to_string()))
        };
        match tokio::time::timeout(FAREWELL, said).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::info!("the centre did not hear our last word: {}", error.text())
            }
            Err(_) => tracing::info!("the centre did not end the enrolment in time"),
        }
    }

    async fn complete(&self, grant: &Grant, fleet: &[u8]) -> Result<(), Error> {
        let chain: Vec<&[u8]> = grant.chain.iter().map(Vec::as_slice).collect();
        let keys = self.keys().await?;
        let completed = keys.complete_enrolment(&chain, fleet).await;
        completed.map_err(|e| running("keyd", e))
    }

    async fn uplink(&self, uplink: &Uplink) -> Result<(), Error> {
        let configuration = match uplink {
            Uplink::Site {
                address,
                peer,
                endpoint,
                centre,
                time,
                fingerprint,
            } => Options::from([
                ("role", Value::from("site")),
                ("address", Value::from(address.as_str())),
                ("peer", Value::from(peer.to_vec())),
                ("endpoint", Value::from(endpoint.as_str())),
                ("centre", Value::from(centre.as_str())),
                ("time", Value::from(time.as_str())),
                ("fingerprint", Value::from(fingerprint.as_slice())),
            ]),
            Uplink::Centre { address, port } => Options::from([
                ("role", Value::from("centre")),
                ("address", Value::from(address.as_str())),
                ("port", Value::from(*port)),
            ]),
        };
        let configured = self.uplinkd().await?.configure(configuration).await;
        configured.map(drop).map_err(|e| running("uplinkd", e))
    }

    async fn pool(&self) -> Result<(), Error> {
        if !self.pool {
            return Ok(());
        }
        let poold = contract::PoolProxy::builder(&self.daemon.bus)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let job = poold.create(&[], Options::new()).await;
        let job = job.map_err(|e| running("poold", e))?;
        let progress = self.progress();
        let bus = &self.daemon.bus;
        // a pool half made is of no use to anyone: it is never asked to stop
        let never = CancellationToken::new();
        runtime::job::wait(bus, "org.strongroom.Pool1", &job, &never, |seen| {
            progress.set_detail(seen.detail);
            progress.set_total(seen.total);
            progress.set_done(seen.done);
        })
        .await
        .map(drop)
    }

    async fn found(&self, name: &str) -> Result<Vec<u8>, Error> {
        let made = self.keys().await?.init_centre(name).await;
        let made = made.map_err(|e| running("keyd", e))?;
        made.required("fleet")
    }

    async fn change_custody(
        &self,
        tenant: &str,
        custody: Custody,
        fingerprint: &[u8; FINGERPRINT],
    ) -> Result<Option<Shares>, Error> {
        let keys = self.keys().await?;
        let fleet = keys
            .authority("fleet")
            .await
            .map_err(|e| running("keyd", e))?;
        let wrap = fleet::wrap_key(&fleet, fingerprint)?;
        let stream = self.dial("control", Options::new()).await?;
        let mut exchange = Exchange::new(stream, custody::Site::default());
        let custody::SiteEvent::Challenge(nonce) = exchange.answer().await? else {
            return Err(unexpected());
        };
        // always a new key: what the centre, or an earlier client, had of the old one opens nothing
        // that is held from now on
        let (held, shares) = self.tenant_key(tenant, custody, &wrap, true).await?;
        let signature = keys
            .sign("custody", &custody::message(&nonce, &held))
            .await?;
        exchange.machine.hold(custody::Signed { held, signature });
        match exchange.answer().await? {
            custody::SiteEvent::Kept => Ok(shares),
            custody::SiteEvent::Challenge(_) => Err(unexpected()),
        }
    }

    fn tell(&self, what: &str) {
        tracing::info!("{what}");
        self.progress().set_detail(what);
    }
}
