//! Whom sessions may be of, and who signs for us: keyd's and centred's word, asked for anew at
//! each session.

use contract::{Error, Fields, FieldsExt, KeysProxy};
use format::DatastoreId;
use ring::signature::{ED25519, UnparsedPublicKey};
use tokio::runtime::Handle;

/// What stands before the key in the SubjectPublicKeyInfo of an Ed25519 key (RFC 8410).
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A paired agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// What it may do: `backup`, or `restore:DATASTORE`.
    pub scope: String,
    /// Its Ed25519 public key.
    pub public: [u8; 32],
}

/// A site of this centre's.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its datastore, and no other.
    pub datastore: DatastoreId,
    /// Its identity's Ed25519 public key.
    pub public: [u8; 32],
}

/// The lists of peers and the signer. Blocks; asked from threads that are no runtime's.
pub trait Peers: Send + Sync + 'static {
    /// The agent of this id, if it is paired.
    ///
    /// # Errors
    /// The list cannot be had.
    fn agent(&self, id: &str) -> Result<Option<Agent>, Error>;
    /// The site of this id, if it is this centre's.
    ///
    /// # Errors
    /// The list cannot be had.
    fn site(&self, id: &str) -> Result<Option<Site>, Error>;
    /// This machine's signature for `purpose` over `message`, as `Keys1.Sign` makes it.
    ///
    /// # Errors
    /// keyd does not sign.
    fn sign(&self, purpose: &str, message: &[u8]) -> Result<[u8; 64], Error>;
    /// The public key of those signatures.
    ///
    /// # Errors
    /// keyd does not say.
    fn identity(&self) -> Result<[u8; 32], Error>;
}

/// Whether the signature is this key's over these bytes.
pub(crate) fn is_signed(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, public)
        .verify(message, signature)
        .is_ok()
}

/// The daemons on the bus.
pub(crate) struct OnTheBus {
    bus: zbus::Connection,
    runtime: Handle,
}

impl OnTheBus {
    pub(crate) fn new(bus: zbus::Connection, runtime: Handle) -> Self {
        Self { bus, runtime }
    }
}

/// The record whose `id` this is.
fn with_id(records: Vec<Fields>, id: &str) -> Option<Fields> {
    records
        .into_iter()
        .find(|r| r.required::<String>("id").is_ok_and(|i| i == id))
}

fn array<const N: usize>(bytes: Vec<u8>, what: &str) -> Result<[u8; N], Error> {
    bytes
        .try_into()
        .map_err(|_| Error::Failed(format!("{what} is not of {N} bytes")))
}

/// The key in a SubjectPublicKeyInfo; `None` when it is of another kind.
fn ed25519_of(spki: &[u8]) -> Option<[u8; 32]> {
    spki.strip_prefix(&SPKI)?.try_into().ok()
}

impl Peers for OnTheBus {
    fn agent(&self, id: &str) -> Result<Option<Agent>, Error> {
        let agents = self
            .runtime
            .block_on(async { KeysProxy::new(&self.bus).await?.agents().await })?;
        let Some(record) = with_id(agents, id) else {
            return Ok(None);
        };
        let spki: Vec<u8> = record.required("public")?;
        let scope = record.required("scope")?;
        Ok(ed25519_of(&spki).map(|public| Agent { scope, public }))
    }

    fn site(&self, id: &str) -> Result<Option<Site>, Error> {
        let sites = self
            .runtime
            .block_on(async { contract::CentreProxy::new(&self.bus).await?.sites().await })?;
        let Some(record) = with_id(sites, id) else {
            return Ok(None);
        };
        let datastore: String = record.required("datastore")?;
        let datastore = datastore
            .parse()
            .map_err(|e| Error::Failed(format!("{e}")))?;
        let public = array(record.required("identity")?, "a site's identity")?;
        Ok(Some(Site { datastore, public }))
    }

    fn sign(&self, purpose: &str, message: &[u8]) -> Result<[u8; 64], Error> {
        let sign = async {
            KeysProxy::new(&self.bus)
                .await?
                .sign(purpose, message)
                .await
        };
        array(self.runtime.block_on(sign)?, "a signature")
    }

    fn identity(&self) -> Result<[u8; 32], Error> {
        let key = async { KeysProxy::new(&self.bus).await?.identity_public_key().await };
        array(self.runtime.block_on(key)?, "this machine's identity")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ed25519_key_is_taken() {
        let spki = [&SPKI[..], &[7; 32]].concat();
        assert_eq!(ed25519_of(&spki), Some([7; 32]));
        assert_eq!(ed25519_of(&spki[..43]), None);
        assert_eq!(ed25519_of(&[&spki[..], &[0]].concat()), None);
        let mut other = spki;
        other[8] = 0x6e;
        assert_eq!(ed25519_of(&other), None);
    }
}
