//! What all of portald shares.

use crate::desk::Desk;
use crate::identity::{Configs, ServerKey};
use crate::limits::Limits;
use crate::settings::Settings;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// What this appliance is, as far as listeners are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Not enrolled, or enrold does not answer: nothing is served.
    None,
    Site,
    Centre,
}

pub(crate) struct Portal {
    pub(crate) daemon: runtime::Daemon,
    pub(crate) settings: Settings,
    pub(crate) key: ServerKey,
    /// enrold's State.
    pub(crate) enrolment: watch::Receiver<Option<String>>,
    /// uplinkd's Address.
    pub(crate) address: watch::Receiver<Option<String>>,
    /// Set while there are certificates to serve with.
    pub(crate) configs: watch::Sender<Option<Arc<Configs>>>,
    pub(crate) desk: Desk,
    pub(crate) limits: Limits,
    /// By what was asked for, what is bound.
    pub(crate) listening: Mutex<BTreeMap<SocketAddr, SocketAddr>>,
}

impl Portal {
    pub(crate) fn new(daemon: runtime::Daemon, settings: Settings) -> anyhow::Result<Arc<Portal>> {
        Ok(Arc::new(Portal {
            key: ServerKey::make()?,
            enrolment: runtime::follow::property(&daemon.bus, "org.strongroom.Enrol1", "State"),
            address: runtime::follow::property(&daemon.bus, "org.strongroom.Uplink1", "Address"),
            configs: watch::Sender::new(None),
            desk: Desk::default(),
            limits: Limits::default(),
            listening: Mutex::default(),
            daemon,
            settings,
        }))
    }

    pub(crate) fn role(&self) -> Role {
        match self.enrolment.borrow().as_deref() {
            Some("site") => Role::Site,
            Some("centre") => Role::Centre,
            _ => Role::None,
        }
    }

    pub(crate) async fn keys(&self) -> zbus::Result<contract::KeysProxy<'static>> {
        contract::KeysProxy::builder(&self.daemon.bus)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
    }

    pub(crate) async fn engine(&self) -> zbus::Result<contract::EngineProxy<'static>> {
        contract::EngineProxy::builder(&self.daemon.bus)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
    }
}
