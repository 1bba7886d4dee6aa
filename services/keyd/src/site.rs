//! Enrolment, seen from a site: identity, tenant key, datastore, grant.

use crate::authority::{self, Chain, Which};
use crate::keys::{self, Role};
use crate::share::{self, Share};
use crate::signer::{Kind, Signer};
use crate::store::{Changes, Store, damaged};
use crate::wrap::{Key, Secret};
use crate::{custody, require_id};
use contract::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const ENROLMENT: &str = "enrolment";

/// Where the joining stands.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enrolment {
    tenant: String,
    custody: String,
    datastore: String,
    /// The site identity's certificate chain, DER, leaf first; empty until the grant.
    pub(crate) chain: Chain,
}

/// What the centre needs to know of this site.
pub(crate) struct Request {
    pub(crate) csr: Vec<u8>,
    pub(crate) identity: Vec<u8>,
    pub(crate) uplink: Vec<u8>,
}

/// What the centre (and, under client custody, the client) is to hold.
pub(crate) struct Made {
    pub(crate) datastore: String,
    pub(crate) keyset: Vec<u8>,
    pub(crate) custody: Custody,
}

/// How the tenant key leaves.
pub(crate) enum Custody {
    /// Sealed to the centre.
    Msp { wrapped: Vec<u8> },
    /// Two of three; the centre's comes first.
    Client { shares: [Share; 3] },
}

pub(crate) fn enrolment(store: &Store) -> Result<Option<Enrolment>, Error> {
    store.get_json(ENROLMENT)
}

fn refuse_centre(store: &Store) -> Result<(), Error> {
    if keys::role(store)? == Role::Centre {
        return Err(Error::WrongRole(
            "this appliance is a centre; a site is enrolled on another one".into(),
        ));
    }
    Ok(())
}

/// First step; always the same answer but for the request's signature.
pub(crate) fn prepare(store: &mut Store) -> Result<Request, Error> {
    refuse_centre(store)?;
    let signer = Signer::new(Kind::Ed25519, &keys::identity(store)?)?;
    Ok(Request {
        csr: authority::request(&signer)?,
        identity: signer.public().to_vec(),
        uplink: custody::x25519_public(&keys::uplink(store)?)?.to_vec(),
    })
}

/// Second step. The tenant key stays until the custody changes or `renew` asks for another; the
/// datastore and its keys stay as long as the tenant.
pub(crate) fn make_tenant_key(
    store: &mut Store,
    tenant: &str,
    custody: &str,
    wrap: Option<&[u8]>,
    renew: bool,
) -> Result<Made, Error> {
    refuse_centre(store)?;
    require_id(tenant, "tenant")?;
    let before = enrolment(store)?;
    if let Some(enrolled) = &before
        && !enrolled.chain.is_empty()
        && enrolled.tenant != tenant
    {
        return Err(Error::AlreadyExists(format!(
            "this site belongs to the tenant {} already; an appliance serves one tenant",
            enrolled.tenant
        )));
    }
    let (before, abandoned) = match before {
        Some(enrolment) if enrolment.tenant != tenant => (None, Some(enrolment)),
        other => (other, None),
    };
    let keep = before.as_ref().filter(|e| e.custody == custody && !renew);
    let old_key = store.get_key::<32>(&tenant_entry(tenant))?;
    let key: Key = match (keep, &old_key) {
        (Some(_), Some(key)) => key.clone(),
        _ => runtime::random()?,
    };
    let keyset = match (&before, &old_key) {
        (Some(enrolment), Some(old)) => keyset(store, &enrolment.datastore, old)?,
        _ => new_keyset()?,
    };
    let datastore = keyset.datastore_id.to_string();
    let wrapped = custody::wrap_keyset(&key, &keyset)?;
    // everything that can be refused comes before anything is saved
    let leaving = match custody {
        "msp" => {
            let wrap = wrap.ok_or_else(|| {
                Error::InvalidArgument("custody \"msp\" needs wrap, the centre's public key".into())
            })?;
            Custody::Msp {
                wrapped: custody::seal(&key, tenant, wrap)?,
            }
        }
        "client" => Custody::Client {
            shares: share::split(&key)?,
        },
        _ => {
            return Err(Error::InvalidArgument(format!(
                "there is no custody \"{custody}\"; it is \"msp\" or \"client\""
            )));
        }
    };
    let enrolment = Enrolment {
        tenant: tenant.to_owned(),
        custody: custody.to_owned(),
        datastore: datastore.clone(),
        chain: before.map(|e| e.chain).unwrap_or_default(),
    };
    let mut changes = Changes::default();
    if let Some(abandoned) = abandoned {
        changes = changes
            .remove(tenant_entry(&abandoned.tenant))
            .remove(keyset_entry(&abandoned.datastore));
    }
    store.apply(
        changes
            .put(tenant_entry(tenant), &key[..])
            .put(keyset_entry(&datastore), &wrapped)
            .put_json(ENROLMENT, &enrolment),
    )?;
    Ok(Made {
        datastore,
        keyset: wrapped,
        custody: leaving,
    })
}

/// Last step: keeps the identity's certificate and pins the fleet authority.
pub(crate) fn complete(store: &mut Store, chain: Chain, fleet: &[u8]) -> Result<(), Error> {
    refuse_centre(store)?;
    let mut enrolment = enrolment(store)?
        .ok_or_else(|| Error::NotReady("no enrolment has begun; use strongroom enrol".into()))?;
    let pinned = authority::certificate(store, Which::Fleet)?;
    if pinned.is_some_and(|pinned| pinned != fleet) {
        return Err(Error::AlreadyExists(
            "this site is enrolled with another centre already; set it up anew to enrol it here"
                .into(),
        ));
    }
    let signer = Signer::new(Kind::Ed25519, &keys::identity(store)?)?;
    authority::check_grant(&chain, fleet, signer.public(), &enrolment.tenant)?;
    enrolment.chain = chain;
    store.apply(
        Changes::default()
            .put(Which::Fleet.certificate_entry(), fleet)
            .put_json(ENROLMENT, &enrolment),
    )
}

/// The identity's chain and PKCS#8 key.
pub(crate) fn identity(store: &mut Store) -> Result<(Chain, Secret), Error> {
    refuse_centre(store)?;
    let chain = enrolment(store)?.map(|e| e.chain).unwrap_or_default();
    if chain.is_empty() {
        return Err(Error::NotReady(
            "this appliance is not enrolled; use strongroom enrol".into(),
        ));
    }
    Ok((chain, keys::identity(store)?))
}

/// The encoding of our own datastore's keyset.
pub(crate) fn datastore_keyset(store: &Store, datastore: &str) -> Result<Secret, Error> {
    if keys::role(store)? == Role::Centre {
        return Err(Error::WrongRole(
            "a centre has no keyset at hand; ReleaseKeyset releases one for a restore".into(),
        ));
    }
    let enrolment = enrolment(store)?.ok_or_else(|| {
        Error::NotReady("this appliance has no datastore yet; use strongroom enrol".into())
    })?;
    if enrolment.datastore != datastore {
        return Err(Error::NotFound(format!(
            "keyd has no keys of the datastore {datastore}; this site's is {}",
            enrolment.datastore
        )));
    }
    let entry = tenant_entry(&enrolment.tenant);
    let key = store.get_key::<32>(&entry)?;
    let key = key.ok_or_else(|| damaged(&entry))?;
    Ok(keyset(store, datastore, &key)?.encode())
}

fn keyset(store: &Store, datastore: &str, key: &Key) -> Result<format::Keyset, Error> {
    store
        .get(&keyset_entry(datastore))?
        .and_then(|wrapped| custody::unwrap_keyset(key, datastore, &wrapped))
        .and_then(|bytes| format::Keyset::decode(&bytes).ok())
        .ok_or_else(|| damaged(&keyset_entry(datastore)))
}

fn new_keyset() -> Result<format::Keyset, Error> {
    Ok(format::Keyset {
        datastore_id: format::DatastoreId(*runtime::random()?),
        dedup: runtime::random()?,
        epochs: BTreeMap::from([(1, runtime::random()?)]),
    })
}

fn tenant_entry(tenant: &str) -> String {
    format!("tenant/{tenant}")
}

fn keyset_entry(datastore: &str) -> String {
    format!("keyset/{datastore}")
}
