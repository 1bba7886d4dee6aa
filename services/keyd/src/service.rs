//! org.strongroom.Keys1 on the bus: checks the caller, reads arguments, hands keys out by pipe.
//! The TPM and the disk block, so all else happens off the async threads, one call at a time.

use crate::authority::{self, Leaf, Which};
use crate::centre::{self, Held, HeldKey};
use crate::harden::wiped;
use crate::keys::{self, Role};
use crate::releases::Release;
use crate::site::{self, Custody};
use crate::store::Store;
use crate::vault::{RETRY, Vault};
use crate::wrap::Secret;
use crate::{callers, custody, releases};
use contract::{Error, Fields, FieldsExt, field, fields};
use std::sync::Arc;
use tokio::sync::Mutex;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedFd;
use zeroize::Zeroizing;

const PATH: &str = "/org/strongroom/Keys1";

/// The interface.
pub(crate) struct Keys {
    vault: Arc<Mutex<Vault>>,
}

impl Keys {
    pub(crate) fn new(vault: Vault) -> Keys {
        Keys {
            vault: Arc::new(Mutex::new(vault)),
        }
    }

    /// Runs `work` on the vault, for a caller who may ask that.
    async fn vault<T: Send + 'static>(
        &self,
        bus: &zbus::Connection,
        header: &Header<'_>,
        emitter: &SignalEmitter<'_>,
        work: impl FnOnce(&mut Vault) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        callers::require(bus, header).await?;
        // waiting for the vault holds no thread
        let mut vault = self.vault.clone().lock_owned().await;
        let (result, changed) = tokio::task::spawn_blocking(move || {
            let before = vault.state();
            let result = wiped(|| work(&mut vault));
            (result, vault.state() != before)
        })
        .await
        .map_err(|panic| {
            Error::Failed(format!(
                "a fault of ours stopped it: {panic}; see keyd's journal"
            ))
        })?;
        if changed {
            self.changed(emitter).await?;
        }
        result
    }

    /// Looks for a TPM until there is one, and tells when it came. Its driver, or the right to open
    /// it, may be later at boot than we are, and no event is common to all TCTIs.
    pub(crate) async fn await_tpm(bus: &zbus::Connection) -> zbus::Result<()> {
        let object = bus.object_server().interface::<_, Keys>(PATH).await?;
        let mut ticks = tokio::time::interval(RETRY);
        while object.get().await.vault.lock().await.state() == "no-tpm" {
            ticks.tick().await;
            let mut vault = object.get().await.vault.clone().lock_owned().await;
            let found = tokio::task::spawn_blocking(move || {
                // why not is in the property Reason
                wiped(|| _ = vault.ready());
                vault.state() != "no-tpm"
            });
            if found.await.unwrap_or(true) {
                object.get().await.changed(object.signal_emitter()).await?;
            }
        }
        Ok(())
    }

    async fn changed(&self, emitter: &SignalEmitter<'_>) -> zbus::Result<()> {
        self.state_changed(emitter).await?;
        self.reason_changed(emitter).await?;
        self.tpm_changed(emitter).await
    }

    /// Runs `work` on the open store.
    async fn store<T: Send + 'static>(
        &self,
        bus: &zbus::Connection,
        header: &Header<'_>,
        emitter: &SignalEmitter<'_>,
        work: impl FnOnce(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.vault(bus, header, emitter, |vault| work(vault.ready()?))
            .await
    }
}

fn pipe(key: &[u8]) -> Result<OwnedFd, Error> {
    runtime::pipe::give_key(key).map(OwnedFd::from)
}

#[zbus::interface(name = "org.strongroom.Keys1")]
impl Keys {
    #[zbus(property)]
    async fn state(&self) -> String {
        self.vault.lock().await.state().to_owned()
    }

    #[zbus(property)]
    async fn reason(&self) -> String {
        self.vault.lock().await.reason()
    }

    #[zbus(property)]
    async fn tpm(&self) -> String {
        self.vault.lock().await.tpm().to_owned()
    }

    async fn pool_key(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        pool: String,
        options: Fields,
    ) -> Result<OwnedFd, Error> {
        let create = options.optional::<bool>("create")?.unwrap_or(false);
        self.store(bus, &header, &emitter, move |store| {
            pipe(&keys::pool(store, &pool, create)?[..])
        })
        .await
    }

    async fn uplink_key(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedFd, Error> {
        self.store(bus, &header, &emitter, |store| {
            pipe(&keys::uplink(store)?[..])
        })
        .await
    }

    async fn uplink_public_key(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<Vec<u8>, Error> {
        self.store(bus, &header, &emitter, |store| {
            custody::x25519_public(&keys::uplink(store)?).map(Vec::from)
        })
        .await
    }

    async fn identity_public_key(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<Vec<u8>, Error> {
        self.store(bus, &header, &emitter, keys::identity_public)
            .await
    }

    async fn datastore_keyset(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        datastore: String,
    ) -> Result<OwnedFd, Error> {
        self.store(bus, &header, &emitter, move |store| {
            pipe(&site::datastore_keyset(store, &datastore)?)
        })
        .await
    }

    async fn sign(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        purpose: String,
        message: Vec<u8>,
    ) -> Result<Vec<u8>, Error> {
        // each daemon signs for its own purposes only
        let signer = if purpose == "custody" {
            "enrold"
        } else {
            "engined"
        };
        runtime::caller::require(bus, &header, &[signer]).await?;
        self.store(bus, &header, &emitter, move |store| {
            keys::sign(store, &purpose, &message)
        })
        .await
    }

    async fn authority(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        which: String,
    ) -> Result<Vec<u8>, Error> {
        self.store(bus, &header, &emitter, move |store| {
            match Which::parse(&which)? {
                Which::Agents => authority::make(store, Which::Agents, "Strongroom agents"),
                Which::Fleet => authority::certificate(store, Which::Fleet)?.ok_or_else(|| {
                    Error::NotReady(
                        "this appliance is neither enrolled nor a centre; use strongroom enrol"
                            .into(),
                    )
                }),
            }
        })
        .await
    }

    #[zbus(out_args("chain"))]
    async fn server_certificate(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        which: String,
        csr: Vec<u8>,
    ) -> Result<Vec<Vec<u8>>, Error> {
        self.store(bus, &header, &emitter, move |store| {
            let which = Which::parse(&which)?;
            let centre = keys::role(store)? == Role::Centre;
            match which {
                Which::Agents => {
                    authority::make(store, which, "Strongroom agents")?;
                }
                Which::Fleet if !centre => {
                    return Err(Error::WrongRole(
                        "only a centre serves sites; this appliance is none".into(),
                    ));
                }
                Which::Fleet => {}
            }
            let name = if centre {
                "centre.strongroom"
            } else {
                "site.strongroom"
            };
            authority::issue(store, which, &csr, &Leaf::Server { name }).map(|(chain, _)| chain)
        })
        .await
    }

    #[zbus(out_args("chain", "key"))]
    async fn site_identity(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<(Vec<Vec<u8>>, OwnedFd), Error> {
        self.store(bus, &header, &emitter, |store| {
            let (chain, key) = site::identity(store)?;
            Ok((chain, pipe(&key)?))
        })
        .await
    }

    #[zbus(out_args("agent", "chain"))]
    #[allow(clippy::too_many_arguments)] // three are zbus's
    async fn issue_agent(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        name: String,
        csr: Vec<u8>,
        scope: String,
    ) -> Result<(String, Vec<Vec<u8>>), Error> {
        self.store(bus, &header, &emitter, move |store| {
            keys::issue_agent(store, &name, &csr, &scope)
        })
        .await
    }

    async fn agents(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<Vec<Fields>, Error> {
        let agents = self
            .store(bus, &header, &emitter, |store| keys::agents(store))
            .await?;
        let shown = agents.into_iter().map(|(id, agent)| {
            fields([
                ("id", field(id)),
                ("name", field(agent.name)),
                ("scope", field(agent.scope)),
                ("public", field(agent.public)),
                ("paired", field(agent.paired)),
            ])
        });
        Ok(shown.collect())
    }

    async fn prepare_enrolment(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        _options: Fields,
    ) -> Result<Fields, Error> {
        let request = self.store(bus, &header, &emitter, site::prepare).await?;
        Ok(fields([
            ("csr", field(request.csr)),
            ("identity", field(request.identity)),
            ("uplink", field(request.uplink)),
        ]))
    }

    #[allow(clippy::too_many_arguments)] // three are zbus's
    async fn make_tenant_key(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        tenant: String,
        custody: String,
        options: Fields,
    ) -> Result<Fields, Error> {
        let wrap = options.optional::<Vec<u8>>("wrap")?;
        let renew = options.optional::<bool>("renew")?.unwrap_or(false);
        let made = self
            .store(bus, &header, &emitter, move |store| {
                site::make_tenant_key(store, &tenant, &custody, wrap.as_deref(), renew)
            })
            .await?;
        let mut result = fields([
            ("datastore", field(made.datastore)),
            ("keyset", field(made.keyset)),
        ]);
        match made.custody {
            Custody::Msp { wrapped } => result.extend(fields([("wrapped", field(wrapped))])),
            Custody::Client { shares } => {
                let [centre, client, envelope] = &shares;
                result.extend(fields([
                    ("centre_share", field(centre.bytes().to_vec())),
                    ("client_share", field(client.to_text().as_str())),
                    ("envelope_share", field(envelope.to_text().as_str())),
                ]));
            }
        }
        Ok(result)
    }

    async fn complete_enrolment(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        chain: Vec<Vec<u8>>,
        fleet: Vec<u8>,
    ) -> Result<(), Error> {
        self.store(bus, &header, &emitter, move |store| {
            site::complete(store, chain, &fleet)
        })
        .await
    }

    async fn init_centre(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        name: String,
    ) -> Result<Fields, Error> {
        let (fleet, wrap) = self
            .store(bus, &header, &emitter, move |store| {
                centre::init(store, &name)
            })
            .await?;
        Ok(fields([("fleet", field(fleet)), ("wrap", field(wrap))]))
    }

    #[zbus(out_args("chain"))]
    #[allow(clippy::too_many_arguments)] // three are zbus's
    async fn issue_site(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        tenant: String,
        site: String,
        csr: Vec<u8>,
    ) -> Result<Vec<Vec<u8>>, Error> {
        self.store(bus, &header, &emitter, move |store| {
            centre::issue_site(store, &tenant, &site, &csr)
        })
        .await
    }

    async fn hold_custody(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        tenant: String,
        held: Fields,
    ) -> Result<(), Error> {
        let datastore: String = held.required("datastore")?;
        let custody: String = held.required("custody")?;
        let held = Held {
            tenant,
            keyset: held.required("keyset")?,
            custody: match custody.as_str() {
                "msp" => HeldKey::Msp(held.required("wrapped")?),
                "client" => HeldKey::Client(held.required("share")?),
                _ => {
                    return Err(Error::InvalidArgument(format!(
                        "there is no custody \"{custody}\"; it is \"msp\" or \"client\""
                    )));
                }
            },
        };
        self.store(bus, &header, &emitter, move |store| {
            centre::hold(store, &datastore, &held)
        })
        .await
    }

    async fn release_keyset(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        datastore: String,
        options: Fields,
    ) -> Result<OwnedFd, Error> {
        let asked = Asked::read(datastore, &options)?;
        self.vault(bus, &header, &emitter, move |vault| {
            let (release, keyset) = asked.answer(vault)?;
            asked.log(vault, &release)?;
            pipe(&keyset?)
        })
        .await
    }

    async fn try_release(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        datastore: String,
        options: Fields,
    ) -> Result<(), Error> {
        let asked = Asked::read(datastore, &options)?;
        self.vault(bus, &header, &emitter, move |vault| {
            let (release, keyset) = asked.answer(vault)?;
            if keyset.is_err() {
                asked.log(vault, &release)?;
            }
            keyset.map(drop)
        })
        .await
    }

    async fn releases(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<Vec<Fields>, Error> {
        let releases = self
            .vault(bus, &header, &emitter, |vault| {
                vault.ready()?;
                releases::read(vault.directory())
            })
            .await?;
        let shown = releases.into_iter().map(|release| {
            fields([
                ("time", field(release.time)),
                ("datastore", field(release.datastore)),
                ("tenant", field(release.tenant)),
                ("custody", field(release.custody)),
                ("reason", field(release.reason)),
                ("released", field(release.released)),
            ])
        });
        Ok(shown.collect())
    }
}

/// What a release of a keyset is asked with.
struct Asked {
    datastore: String,
    share: Option<Zeroizing<String>>,
    reason: String,
}

impl Asked {
    fn read(datastore: String, options: &Fields) -> Result<Asked, Error> {
        Ok(Asked {
            datastore,
            share: options.optional::<String>("share")?.map(Zeroizing::new),
            reason: options.optional::<String>("reason")?.unwrap_or_default(),
        })
    }

    fn answer(&self, vault: &mut Vault) -> Result<(Release, Result<Secret, Error>), Error> {
        let share = self.share.as_ref().map(|s| s.as_str());
        centre::release(vault.ready()?, &self.datastore, share, &self.reason)
    }

    fn log(&self, vault: &Vault, release: &Release) -> Result<(), Error> {
        releases::append(vault.directory(), release)?;
        tracing::warn!(
            datastore = self.datastore,
            tenant = release.tenant,
            released = release.released,
            reason = ?self.reason,
            "a keyset was asked for"
        );
        Ok(())
    }
}
