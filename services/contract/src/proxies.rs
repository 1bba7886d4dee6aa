//! Proxies: one per interface, each member as in the XML beside it.
#![allow(missing_docs)] // the XML documents every member; a second copy would drift

use std::collections::HashMap;
use zbus::proxy;
use zbus::zvariant::{OwnedFd, OwnedObjectPath, OwnedValue, Value};

/// What a method is given as `a{sv}`.
pub type Options<'a> = HashMap<&'a str, Value<'a>>;
/// What a method answers as `a{sv}`.
pub type Fields = HashMap<String, OwnedValue>;

#[proxy(interface = "org.strongroom.Job1", assume_defaults = false)]
pub trait Job {
    #[zbus(property)]
    fn kind(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn detail(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn progress(&self) -> zbus::Result<f64>;
    #[zbus(property)]
    fn bytes_done(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn bytes_total(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn rate(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn eta(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn started(&self) -> zbus::Result<i64>;
    #[zbus(property)]
    fn result(&self) -> zbus::Result<Fields>;
    fn cancel(&self) -> Result<(), crate::Error>;
    #[zbus(signal)]
    fn completed(
        &self,
        success: bool,
        error: String,
        message: String,
        result: Fields,
    ) -> zbus::Result<()>;
}

#[proxy(
    interface = "org.strongroom.Keys1",
    default_service = "org.strongroom.Keys1",
    default_path = "/org/strongroom/Keys1"
)]
pub trait Keys {
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn reason(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn tpm(&self) -> zbus::Result<String>;
    fn pool_key(&self, pool: &str, options: Options<'_>) -> Result<OwnedFd, crate::Error>;
    fn uplink_key(&self) -> Result<OwnedFd, crate::Error>;
    fn uplink_public_key(&self) -> Result<Vec<u8>, crate::Error>;
    fn identity_public_key(&self) -> Result<Vec<u8>, crate::Error>;
    fn datastore_keyset(&self, datastore: &str) -> Result<OwnedFd, crate::Error>;
    fn sign(&self, purpose: &str, message: &[u8]) -> Result<Vec<u8>, crate::Error>;
    fn authority(&self, which: &str) -> Result<Vec<u8>, crate::Error>;
    fn server_certificate(&self, which: &str, csr: &[u8]) -> Result<Vec<Vec<u8>>, crate::Error>;
    fn site_identity(&self) -> Result<(Vec<Vec<u8>>, OwnedFd), crate::Error>;
    fn issue_agent(
        &self,
        name: &str,
        csr: &[u8],
        scope: &str,
    ) -> Result<(String, Vec<Vec<u8>>), crate::Error>;
    fn agents(&self) -> Result<Vec<Fields>, crate::Error>;
    fn prepare_enrolment(&self, options: Options<'_>) -> Result<Fields, crate::Error>;
    fn make_tenant_key(
        &self,
        tenant: &str,
        custody: &str,
        options: Options<'_>,
    ) -> Result<Fields, crate::Error>;
    fn complete_enrolment(&self, chain: &[&[u8]], fleet: &[u8]) -> Result<(), crate::Error>;
    fn init_centre(&self, name: &str) -> Result<Fields, crate::Error>;
    fn issue_site(
        &self,
        tenant: &str,
        site: &str,
        csr: &[u8],
    ) -> Result<Vec<Vec<u8>>, crate::Error>;
    fn hold_custody(&self, tenant: &str, held: Options<'_>) -> Result<(), crate::Error>;
    fn release_keyset(
        &self,
        datastore: &str,
        options: Options<'_>,
    ) -> Result<OwnedFd, crate::Error>;
    fn try_release(&self, datastore: &str, options: Options<'_>) -> Result<(), crate::Error>;
    fn releases(&self) -> Result<Vec<Fields>, crate::Error>;
}

#[proxy(
    interface = "org.strongroom.Pool1",
    default_service = "org.strongroom.Pool1",
    default_path = "/org/strongroom/Pool1"
)]
pub trait Pool {
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn reason(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn pool(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn mount_point(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn level(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn size(&self) -> zbus::Result<u64>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn free(&self) -> zbus::Result<u64>;
    fn disks(&self) -> Result<Vec<Fields>, crate::Error>;
    fn create(
        &self,
        serials: &[&str],
        options: Options<'_>,
    ) -> Result<OwnedObjectPath, crate::Error>;
}

#[proxy(
    interface = "org.strongroom.Engine1",
    default_service = "org.strongroom.Engine1",
    default_path = "/org/strongroom/Engine1"
)]
pub trait Engine {
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn reason(&self) -> zbus::Result<String>;
    fn datastores(&self) -> Result<Vec<Fields>, crate::Error>;
    fn snapshots(&self, filter: Options<'_>) -> Result<Vec<Fields>, crate::Error>;
    fn accept_session(
        &self,
        kind: &str,
        stream: zbus::zvariant::Fd<'_>,
        options: Options<'_>,
    ) -> Result<(), crate::Error>;
    fn replicate(
        &self,
        datastore: &str,
        options: Options<'_>,
    ) -> Result<OwnedObjectPath, crate::Error>;
    fn open_restore(&self, snapshot: &str, options: Options<'_>) -> Result<OwnedFd, crate::Error>;
    fn grant(&self, datastore: &str, options: Options<'_>) -> Result<(), crate::Error>;
    fn verify(
        &self,
        datastore: &str,
        options: Options<'_>,
    ) -> Result<OwnedObjectPath, crate::Error>;
    #[zbus(signal)]
    fn snapshot_added(&self, snapshot: Fields) -> zbus::Result<()>;
}

#[proxy(
    interface = "org.strongroom.Jobs1",
    default_service = "org.strongroom.Jobs1",
    default_path = "/org/strongroom/Jobs1"
)]
pub trait Jobs {
    #[zbus(property)]
    fn connected(&self) -> zbus::Result<Vec<String>>;
    fn definitions(&self) -> Result<Vec<Fields>, crate::Error>;
    fn define(&self, name: &str, definition: Options<'_>) -> Result<bool, crate::Error>;
    fn remove(&self, name: &str) -> Result<bool, crate::Error>;
    fn run(&self, name: &str, options: Options<'_>) -> Result<OwnedObjectPath, crate::Error>;
    fn history(&self, limit: u32) -> Result<Vec<Fields>, crate::Error>;
    fn log(&self, options: Options<'_>) -> Result<Vec<Fields>, crate::Error>;
    fn attach_agent(
        &self,
        stream: zbus::zvariant::Fd<'_>,
        options: Options<'_>,
    ) -> Result<(), crate::Error>;
}

#[proxy(
    interface = "org.strongroom.Uplink1",
    default_service = "org.strongroom.Uplink1",
    default_path = "/org/strongroom/Uplink1"
)]
pub trait Uplink {
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn reason(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn address(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn centre(&self) -> zbus::Result<String>;
    fn peers(&self) -> Result<Vec<Fields>, crate::Error>;
    fn configure(&self, configuration: Options<'_>) -> Result<bool, crate::Error>;
    fn set_peers(&self, peers: &[Options<'_>]) -> Result<bool, crate::Error>;
    fn sync_clock(&self, endpoint: &str, fingerprint: &[u8]) -> Result<i64, crate::Error>;
}

#[proxy(
    interface = "org.strongroom.Enrol1",
    default_service = "org.strongroom.Enrol1",
    default_path = "/org/strongroom/Enrol1"
)]
pub trait Enrol {
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn membership(&self) -> zbus::Result<Fields>;
    fn enrol(&self, token: &str, options: Options<'_>) -> Result<OwnedObjectPath, crate::Error>;
    fn init_centre(
        &self,
        name: &str,
        endpoint: &str,
        options: Options<'_>,
    ) -> Result<OwnedObjectPath, crate::Error>;
    fn set_custody(
        &self,
        custody: &str,
        options: Options<'_>,
    ) -> Result<OwnedObjectPath, crate::Error>;
}

#[proxy(
    interface = "org.strongroom.Portal1",
    default_service = "org.strongroom.Portal1",
    default_path = "/org/strongroom/Portal1"
)]
pub trait Portal {
    #[zbus(property)]
    fn listening(&self) -> zbus::Result<Vec<String>>;
    fn open_pairing(&self, options: Options<'_>) -> Result<(String, i64), crate::Error>;
    fn dial(&self, purpose: &str, options: Options<'_>) -> Result<OwnedFd, crate::Error>;
}

#[proxy(
    interface = "org.strongroom.Centre1",
    default_service = "org.strongroom.Centre1",
    default_path = "/org/strongroom/Centre1"
)]
pub trait Centre {
    fn create_tenant(&self, name: &str, options: Options<'_>) -> Result<String, crate::Error>;
    fn tenants(&self) -> Result<Vec<Fields>, crate::Error>;
    fn create_token(
        &self,
        tenant: &str,
        site: &str,
        options: Options<'_>,
    ) -> Result<(String, i64), crate::Error>;
    fn sites(&self) -> Result<Vec<Fields>, crate::Error>;
    fn accept_enrolment(
        &self,
        stream: zbus::zvariant::Fd<'_>,
        options: Options<'_>,
    ) -> Result<(), crate::Error>;
    fn accept_control(
        &self,
        stream: zbus::zvariant::Fd<'_>,
        options: Options<'_>,
    ) -> Result<(), crate::Error>;
}
