//! Keys of this machine: pools, uplink, identity, and who it is so far.

use crate::authority::Chain;
use crate::signer::{Kind, Signer, generate};
use crate::store::{Changes, Store, damaged};
use crate::wrap::{self, Key, Secret};
use contract::Error;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const IDENTITY: &str = "identity";
const UPLINK: &str = "uplink";
/// Bytes of a pool's LUKS key.
const POOL_KEY: usize = 64;
/// A captured portald shall not fill the state volume.
const MAX_AGENTS: usize = 10_000;

/// What this appliance is, as far as its keys tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Unenrolled,
    Site,
    Centre,
}

pub(crate) fn role(store: &Store) -> Result<Role, Error> {
    if crate::centre::is_one(store)? {
        return Ok(Role::Centre);
    }
    let enrolled = crate::site::enrolment(store)?.is_some_and(|e| !e.chain.is_empty());
    Ok(if enrolled {
        Role::Site
    } else {
        Role::Unenrolled
    })
}

/// A pool's LUKS key; made when absent and `create`.
pub(crate) fn pool(
    store: &mut Store,
    pool: &str,
    create: bool,
) -> Result<Zeroizing<[u8; POOL_KEY]>, Error> {
    crate::require_id(pool, "pool")?;
    let name = format!("pool/{pool}");
    if create {
        return store.get_or_make(&name);
    }
    store.get_key(&name)?.ok_or_else(|| {
        Error::NotFound(format!(
            "keyd has no key of the pool {pool}; its disks belong to another appliance, or it was never made"
        ))
    })
}

/// The WireGuard private key, made at the first call; clamped as `wg genkey` clamps.
pub(crate) fn uplink(store: &mut Store) -> Result<Key, Error> {
    if let Some(key) = store.get_key(UPLINK)? {
        return Ok(key);
    }
    let mut key = runtime::random::<32>()?;
    key[0] &= 248;
    key[31] = (key[31] & 127) | 64;
    store.apply(Changes::default().put(UPLINK, &key[..]))?;
    Ok(key)
}

/// PKCS#8 DER of the identity (Ed25519), made at the first call.
pub(crate) fn identity(store: &mut Store) -> Result<Secret, Error> {
    if let Some(pkcs8) = store.get(IDENTITY)? {
        return Ok(pkcs8);
    }
    let pkcs8 = generate(Kind::Ed25519)?;
    store.apply(Changes::default().put(IDENTITY, &pkcs8))?;
    Ok(pkcs8)
}

/// The identity's public half, 32 bytes.
pub(crate) fn identity_public(store: &mut Store) -> Result<Vec<u8>, Error> {
    let signer = Signer::new(Kind::Ed25519, &identity(store)?)?;
    Ok(signer.public().to_vec())
}

/// Signs as this machine's identity; see the XML for what exactly.
pub(crate) fn sign(store: &mut Store, purpose: &str, message: &[u8]) -> Result<Vec<u8>, Error> {
    if !["manifest", "session", "custody"].contains(&purpose) {
        return Err(Error::InvalidArgument(format!(
            "nothing is signed for the purpose \"{purpose}\"; it is \"manifest\", \"session\" \
             or \"custody\""
        )));
    }
    let signer = Signer::new(Kind::Ed25519, &identity(store)?)?;
    let text = [b"strongroom ", purpose.as_bytes(), b" v1\0", message].concat();
    signer.sign(&text)
}

/// A protected server that was paired.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) scope: String,
    /// SubjectPublicKeyInfo DER.
    pub(crate) public: Vec<u8>,
    /// Seconds since 1970.
    pub(crate) paired: i64,
}

/// Adds an agent; answers its fresh id and its certificate's chain.
pub(crate) fn issue_agent(
    store: &mut Store,
    name: &str,
    csr: &[u8],
    scope: &str,
) -> Result<(String, Chain), Error> {
    crate::require_name(name, "agent")?;
    match (role(store)?, scope.strip_prefix("restore:")) {
        (Role::Centre, Some(datastore)) => crate::centre::require_held(store, datastore)?,
        (Role::Centre, None) => {
            return Err(Error::WrongRole(
                "servers are backed up to a site, not to a centre; pair the agent with a site"
                    .into(),
            ));
        }
        (_, Some(_)) => {
            return Err(Error::WrongRole(
                "recovery agents are paired at a centre; this is a site".into(),
            ));
        }
        (_, None) if scope == "backup" => {}
        (_, None) => {
            return Err(Error::InvalidArgument(format!(
                "no agent has the scope \"{scope}\"; it is \"backup\" or \"restore:DATASTORE\""
            )));
        }
    }
    if store.names("agent/").count() >= MAX_AGENTS {
        return Err(Error::Failed(format!(
            "{MAX_AGENTS} agents are paired already; an appliance takes no more"
        )));
    }
    let which = crate::authority::Which::Agents;
    crate::authority::make(store, which, "Strongroom agents")?;
    let id = wrap::random_id()?;
    let leaf = crate::authority::Leaf::Agent { id: &id };
    let (chain, public) = crate::authority::issue(store, which, csr, &leaf)?;
    let agent = Agent {
        name: name.to_owned(),
        scope: scope.to_owned(),
        public,
        paired: runtime::now(),
    };
    store.apply(Changes::default().put_json(format!("agent/{id}"), &agent))?;
    Ok((id, chain))
}

/// All agents, by id.
pub(crate) fn agents(store: &Store) -> Result<Vec<(String, Agent)>, Error> {
    store
        .names("agent/")
        .map(|id| {
            let name = format!("agent/{id}");
            let agent = store.get_json(&name)?;
            Ok((id.to_owned(), agent.ok_or_else(|| damaged(&name))?))
        })
        .collect()
}
