//! Who this agent is, in its state directory: `identity.key` (PKCS#8, mode 0600) and
//! `identity.json`, each replaced as a whole.

use crate::{Error, Result};
use data_encoding::BASE64;
use ring::signature::Ed25519KeyPair;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The directory with all the agent keeps.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

/// A paired agent.
pub struct Identity {
    /// Its id, given at pairing.
    pub agent: String,
    /// The appliance, `host:port`.
    pub endpoint: String,
    /// What the appliance's certificate is held against, whatever address is dialled.
    pub server_name: String,
    /// `backup`, or `restore:DATASTORE`.
    pub scope: String,
    /// Its certificates, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The appliance's authority, DER.
    pub authority: Vec<u8>,
    /// Its key, PKCS#8 DER.
    pub key: Zeroizing<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    agent: String,
    endpoint: String,
    server_name: String,
    scope: String,
    chain: Vec<String>,
    authority: String,
}

impl Identity {
    /// The key in the form that signs.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn signer(&self) -> Result<Ed25519KeyPair> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&self.key)
            .map_err(|_| Error::Damaged("identity.key".into()))
    }
}

impl StateDir {
    /// Opens the directory, and makes it (mode 0700) when it is not there.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn open(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
            .map_err(|source| Error::State {
                doing: "written",
                path: path.into(),
                source,
            })?;
        Ok(Self(path.into()))
    }

    /// Where the caches of what was backed up are.
    pub fn caches(&self) -> PathBuf {
        self.0.join("cache")
    }

    fn read(&self, name: &str) -> Result<Zeroizing<Vec<u8>>> {
        let path = self.0.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Zeroizing::new(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::NotPaired),
            Err(source) => Err(Error::State {
                doing: "read",
                path,
                source,
            }),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        let temporary = self.0.join(format!("{name}.new"));
        let write = || {
            let _ = fs::remove_file(&temporary);
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(&self.0)?.sync_all()
        };
        write().map_err(|source| Error::State {
            doing: "written",
            path: path.clone(),
            source,
        })
    }

    /// The identity.
    ///
    /// # Errors
    /// [`Error::NotPaired`], [`Error::State`] or [`Error::Damaged`].
    pub fn load(&self) -> Result<Identity> {
        let json = self.read("identity.json")?;
        let damaged = || Error::Damaged(self.0.join("identity.json"));
        let decode = |text: &String| BASE64.decode(text.as_bytes()).map_err(|_| damaged());
        let stored: Stored = serde_json::from_slice(&json).map_err(|_| damaged())?;
        Ok(Identity {
            chain: stored.chain.iter().map(decode).collect::<Result<_>>()?,
            authority: decode(&stored.authority)?,
            agent: stored.agent,
            endpoint: stored.endpoint,
            server_name: stored.server_name,
            scope: stored.scope,
            key: self.read("identity.key")?,
        })
    }

    /// Keeps an identity, in place of the one before.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn save(&self, identity: &Identity) -> Result<()> {
        let encode = |bytes: &Vec<u8>| BASE64.encode(bytes);
        let stored = Stored {
            agent: identity.agent.clone(),
            endpoint: identity.endpoint.clone(),
            server_name: identity.server_name.clone(),
            scope: identity.scope.clone(),
            chain: identity.chain.iter().map(encode).collect(),
            authority: encode(&identity.authority),
        };
        let json = serde_json::to_vec_pretty(&stored)
            .map_err(|_| Error::Damaged(self.0.join("identity.json")))?;
        self.write("identity.key", &identity.key)?;
        self.write("identity.json", &json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_kept_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        assert!(matches!(state.load(), Err(Error::NotPaired)));
        let random = ring::rand::SystemRandom::new();
        let key = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let identity = Identity {
            agent: "a1".into(),
            endpoint: "site:7443".into(),
            server_name: "site.strongroom".into(),
            scope: "backup".into(),
            chain: vec![vec![1, 2], vec![3]],
            authority: vec![4],
            key: Zeroizing::new(key.as_ref().to_vec()),
        };
        state.save(&identity).unwrap();
        let back = state.load().unwrap();
        assert_eq!(
            (&back.chain, &back.authority),
            (&identity.chain, &identity.authority)
        );
        assert!(back.signer().is_ok());
        let mode = |name: &str| {
            fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode("state"), mode("state/identity.key")), (0o700, 0o600));
        fs::write(dir.path().join("state/identity.json"), b"{}").unwrap();
        assert!(matches!(state.load(), Err(Error::Damaged(_))));
    }
}
