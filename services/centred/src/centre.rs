//! What all of centred shares: the book, and the daemons around it.

use crate::address;
use crate::book::Book;
use contract::{Error, FieldsExt, Options};
use ledger::Ledger;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, watch};
use zbus::zvariant::Value;

const RETRY: Duration = Duration::from_secs(5);

pub(crate) struct Centre {
    pub(crate) daemon: runtime::Daemon,
    pub(crate) book: Mutex<Kept>,
    enrolment: watch::Receiver<Option<String>>,
    /// uplinkd's Address: changes when it restarts, and our peers are to be told anew.
    address: watch::Receiver<Option<String>>,
    peers: Notify,
}

/// The book and the ledger it is kept in.
pub(crate) struct Kept {
    book: Book,
    ledger: Ledger<Book>,
}

impl std::ops::Deref for Kept {
    type Target = Book;
    fn deref(&self) -> &Book {
        &self.book
    }
}

impl Kept {
    /// Changes the book and saves it; on any error the book is as before.
    pub(crate) fn change<T, E: From<Error>>(
        &mut self,
        change: impl FnOnce(&mut Book) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut book = self.book.clone();
        let answer = change(&mut book)?;
        if book != self.book {
            let saved = tokio::task::block_in_place(|| self.ledger.save(&book));
            saved.map_err(|e| Error::Failed(contract::told(&e)))?;
            self.book = book;
        }
        Ok(answer)
    }
}

/// What enrold says of this centre.
pub(crate) struct Membership {
    pub(crate) endpoint: String,
    pub(crate) fingerprint: Vec<u8>,
    pub(crate) uplink_port: u16,
}

impl Centre {
    pub(crate) fn open(daemon: runtime::Daemon) -> anyhow::Result<Arc<Centre>> {
        let opened = Ledger::open(daemon.state_dir()?.join("centre"))?;
        if let Some(recovered) = opened.recovered {
            tracing::error!("{recovered}; compare strongroom centre sites with what you know");
        }
        Ok(Arc::new(Centre {
            enrolment: runtime::follow::property(&daemon.bus, "org.strongroom.Enrol1", "State"),
            address: runtime::follow::property(&daemon.bus, "org.strongroom.Uplink1", "Address"),
            book: Mutex::new(Kept {
                book: opened.state.unwrap_or_default(),
                ledger: opened.ledger,
            }),
            peers: Notify::new(),
            daemon,
        }))
    }

    /// Passes at a centre only.
    pub(crate) async fn require_centre(&self) -> Result<(), Error> {
        let enrol = self.enrol().await?;
        match enrol.state().await?.as_str() {
            "centre" => Ok(()),
            "site" => Err(Error::WrongRole(
                "this appliance is a site; ask its centre".into(),
            )),
            _ => Err(Error::NotReady(
                "this appliance is no centre yet; make it one with strongroom centre init".into(),
            )),
        }
    }

    async fn enrol(&self) -> zbus::Result<contract::EnrolProxy<'static>> {
        contract::EnrolProxy::builder(&self.daemon.bus)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
    }

    pub(crate) async fn keys(&self) -> zbus::Result<contract::KeysProxy<'static>> {
        contract::KeysProxy::builder(&self.daemon.bus)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
    }

    async fn uplink(&self) -> zbus::Result<contract::UplinkProxy<'static>> {
        contract::UplinkProxy::builder(&self.daemon.bus)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
    }

    pub(crate) async fn membership(&self) -> Result<Membership, Error> {
        self.require_centre().await?;
        let fields = self.enrol().await?.membership().await?;
        Ok(Membership {
            endpoint: fields.required("endpoint")?,
            fingerprint: fields.required("fingerprint")?,
            uplink_port: fields.required("uplink_port")?,
        })
    }

    /// Our address inside the tunnel.
    pub(crate) async fn address(&self) -> Result<Ipv6Addr, Error> {
        let address = self.uplink().await?.address().await?;
        address::centre(&address).ok_or_else(|| {
            Error::NotReady(
                "the centre's uplink has no address yet; look at strongroom status there".into(),
            )
        })
    }

    /// Has the tunnel's peers told to uplinkd, soon.
    pub(crate) fn peers_changed(&self) {
        self.peers.notify_one();
    }

    async fn set_peers(&self) -> Result<(), Error> {
        let ours = self.address().await?;
        let peers: Vec<Options<'static>> = {
            let book = self.book.lock().await;
            let sites = book.sites.values();
            sites
                .map(|site| {
                    let address = address::site(ours, site.number).to_string();
                    Options::from([
                        ("public", Value::from(site.uplink.to_vec())),
                        ("address", Value::from(address)),
                    ])
                })
                .collect()
        };
        let count = peers.len();
        if self.uplink().await?.set_peers(&peers).await? {
            tracing::info!("the tunnel has {count} sites as peers");
        }
        Ok(())
    }
}

/// Keeps uplinkd's peers as the book has them, whoever restarts.
pub(crate) fn keep_peers(centre: &Arc<Centre>) {
    let centre = centre.clone();
    tokio::spawn(async move {
        let (mut enrolment, mut address) = (centre.enrolment.clone(), centre.address.clone());
        let mut told = String::new();
        loop {
            let ready = enrolment.borrow_and_update().as_deref() == Some("centre")
                && address
                    .borrow_and_update()
                    .as_deref()
                    .is_some_and(|a| !a.is_empty());
            let mut again = None;
            if ready {
                match centre.set_peers().await {
                    Ok(()) => told.clear(),
                    Err(error) => {
                        let text = error.text();
                        if text != told {
                            tracing::warn!("the tunnel's peers could not be set: {text}");
                            told = text;
                        }
                        again = Some(RETRY);
                    }
                }
            }
            let retry = async {
                match again {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            // cancel-safe: watches keep their newest value, Notify its permit
            tokio::select! {
                () = centre.peers.notified() => {}
                change = enrolment.changed() => if change.is_err() { return },
                change = address.changed() => if change.is_err() { return },
                () = retry => {}
                () = centre.daemon.shutdown.cancelled() => return,
            }
        }
    });
}
