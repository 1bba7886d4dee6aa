//! What a centre's keyd does: the fleet authority, and custody of tenants' keys.

use crate::authority::{self, Chain, Leaf, Which};
use crate::keys::{self, Role};
use crate::releases::Release;
use crate::share::{self, Share};
use crate::store::{Changes, Store, damaged};
use crate::wrap::{Key, Secret};
use crate::{custody, require_id, require_name};
use contract::Error;
use serde::{Deserialize, Serialize};

const CENTRE: &str = "centre";
const WRAP: &str = "wrap";
/// Longest wrapped keyset taken, bytes.
const MAX_KEYSET: usize = 4096;

/// A datastore's keys as the centre holds them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Held {
    pub(crate) tenant: String,
    pub(crate) keyset: Vec<u8>,
    pub(crate) custody: HeldKey,
}

/// What there is of the tenant key.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HeldKey {
    /// Sealed to our wrap key.
    Msp(Vec<u8>),
    /// One share of two that are needed.
    Client(Vec<u8>),
}

impl HeldKey {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            HeldKey::Msp(_) => "msp",
            HeldKey::Client(_) => "client",
        }
    }
}

pub(crate) fn is_one(store: &Store) -> Result<bool, Error> {
    Ok(store.get(CENTRE)?.is_some())
}

fn require_centre(store: &Store) -> Result<(), Error> {
    if is_one(store)? {
        return Ok(());
    }
    Err(Error::WrongRole(
        "this appliance is no centre; ask the centre, or make one with strongroom centre init"
            .into(),
    ))
}

/// Makes this appliance a centre: answers the fleet authority's certificate and the public wrap
/// key, the same at every call.
pub(crate) fn init(store: &mut Store, name: &str) -> Result<(Vec<u8>, Vec<u8>), Error> {
    require_name(name, "centre")?;
    if keys::role(store)? == Role::Site {
        return Err(Error::WrongRole(
            "this appliance is a site; a centre is made of another one".into(),
        ));
    }
    let wrap = store.get_or_make::<32>(WRAP)?;
    let public = custody::x25519_public(&wrap)?;
    let fleet = authority::make_fleet(store, &format!("Strongroom fleet {name}"), &public)?;
    if !is_one(store)? {
        store.apply(Changes::default().put(CENTRE, name.as_bytes()))?;
    }
    Ok((fleet, public.to_vec()))
}

/// Signs a site's identity.
pub(crate) fn issue_site(
    store: &Store,
    tenant: &str,
    site: &str,
    csr: &[u8],
) -> Result<Chain, Error> {
    require_centre(store)?;
    require_id(tenant, "tenant")?;
    require_id(site, "site")?;
    let leaf = Leaf::Site { tenant, site };
    authority::issue(store, Which::Fleet, csr, &leaf).map(|(chain, _)| chain)
}

/// Keeps what a site sent, when it is good for a restore; under msp custody that is tried.
pub(crate) fn hold(store: &mut Store, datastore: &str, held: &Held) -> Result<(), Error> {
    require_centre(store)?;
    require_id(&held.tenant, "tenant")?;
    require_datastore(datastore)?;
    if held.keyset.len() > MAX_KEYSET {
        return Err(Error::InvalidArgument(
            "the keyset is too long; update the site".into(),
        ));
    }
    match &held.custody {
        HeldKey::Msp(wrapped) => {
            open_msp(store, datastore, held, wrapped)?;
        }
        HeldKey::Client(share) => {
            Share::from_bytes(share)?;
        }
    }
    let name = entry(datastore);
    let before: Option<Held> = store.get_json(&name)?;
    if before.is_some_and(|before| before.tenant != held.tenant) {
        return Err(Error::NotAuthorised(format!(
            "the datastore {datastore} belongs to another tenant; set the site up anew, which gives \
             it one of its own"
        )));
    }
    store.apply(Changes::default().put_json(name, held))
}

/// Passes when the centre holds something of this datastore's keys.
pub(crate) fn require_held(store: &Store, datastore: &str) -> Result<(), Error> {
    held(store, datastore).map(drop)
}

/// The encoding of a datastore's keyset, and what is to be logged before it leaves. The log entry
/// comes also when it is refused, if it got as far as a key.
pub(crate) fn release(
    store: &Store,
    datastore: &str,
    share: Option<&str>,
    reason: &str,
) -> Result<(Release, Result<Secret, Error>), Error> {
    require_centre(store)?;
    if reason.len() > 1000 {
        return Err(Error::InvalidArgument(
            "the reason is longer than 1000 bytes; shorten it".into(),
        ));
    }
    let held = held(store, datastore)?;
    let keyset = match &held.custody {
        HeldKey::Msp(wrapped) => open_msp(store, datastore, &held, wrapped),
        HeldKey::Client(ours) => open_client(datastore, &held, ours, share),
    };
    let release = Release {
        time: runtime::now(),
        datastore: datastore.to_owned(),
        tenant: held.tenant.clone(),
        custody: held.custody.name().to_owned(),
        reason: reason.to_owned(),
        released: keyset.is_ok(),
    };
    Ok((release, keyset))
}

fn held(store: &Store, datastore: &str) -> Result<Held, Error> {
    require_datastore(datastore)?;
    store.get_json(&entry(datastore))?.ok_or_else(|| {
        Error::NotFound(format!(
            "the centre holds no keys of the datastore {datastore}; see strongroom centre sites"
        ))
    })
}

fn open_msp(store: &Store, datastore: &str, held: &Held, wrapped: &[u8]) -> Result<Secret, Error> {
    let wrap: Key = store.get_key(WRAP)?.ok_or_else(|| damaged(WRAP))?;
    custody::open(wrapped, &held.tenant, &wrap)
        .and_then(|key| custody::unwrap_keyset(&key, datastore, &held.keyset))
        .ok_or_else(|| {
            Error::InvalidArgument(format!(
                "what the site sent of the datastore {datastore} does not open with this centre's \
                 wrap key; enrol the site anew"
            ))
        })
}

fn open_client(
    datastore: &str,
    held: &Held,
    ours: &[u8],
    share: Option<&str>,
) -> Result<Secret, Error> {
    let Some(theirs) = share else {
        return Err(Error::CustodyShareRequired(format!(
            "the tenant {} holds its own keys: type the client's share, from the page printed at \
             enrolment",
            held.tenant
        )));
    };
    let key = share::combine(&Share::from_bytes(ours)?, &Share::from_text(theirs)?)?;
    custody::unwrap_keyset(&key, datastore, &held.keyset).ok_or_else(|| {
        Error::ShareInvalid(
            "this share belongs to another tenant; look for the page printed at this site's \
             enrolment"
                .into(),
        )
    })
}

fn require_datastore(datastore: &str) -> Result<(), Error> {
    datastore
        .parse::<format::DatastoreId>()
        .ok()
        .filter(|id| id.to_string() == datastore)
        .map(drop)
        .ok_or_else(|| {
            Error::InvalidArgument("a datastore is named by 32 small hexadecimal digits".into())
        })
}

fn entry(datastore: &str) -> String {
    format!("held/{datastore}")
}
