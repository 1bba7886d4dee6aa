//! Who this agent is, in its state directory: `identity.json` (mode 0600). The key is in the same
//! file as its certificate, so that one rename replaces both and a cut leaves the pairing before.

use crate::{Error, Result};
use data_encoding::BASE64;
use ring::signature::Ed25519KeyPair;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

const NAME: &str = "identity.json";
/// More than a pairing can bring: a message, in base64.
const MAX: usize = 2 * protocol::frame::MAX;

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
    key: Zeroizing<String>,
}

impl Identity {
    /// The key in the form that signs; `None` when it is none.
    pub fn signer(&self) -> Option<Ed25519KeyPair> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&self.key).ok()
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

    /// Hears of each pairing that is kept from now on.
    pub fn pairings(&self) -> mpsc::Receiver<()> {
        let (tell, told) = mpsc::channel(1);
        let watch = move || {
            let events = inotify::init(CreateFlags::CLOEXEC)?;
            // nothing but an identity is renamed into place here
            inotify::add_watch(&events, &self.0, WatchFlags::MOVED_TO)?;
            // it ends with the process, which a task that blocks would hold up
            std::thread::Builder::new().spawn(move || {
                let mut buffer = [0; 4096];
                while rustix::io::read(&events, &mut buffer).is_ok()
                    && tell.blocking_send(()).is_ok()
                {}
            })
        };
        if let Err(error) = watch() {
            let path = self.0.display();
            tracing::warn!(
                "{path} cannot be watched ({error}); restart the agent when it is paired anew"
            );
        }
        told
    }

    /// What to say of an identity that is none.
    pub fn damaged(&self) -> Error {
        Error::Damaged(self.0.join(NAME))
    }

    fn read(&self) -> Result<Zeroizing<Vec<u8>>> {
        let path = self.0.join(NAME);
        // in one piece from the start: a buffer that grows leaves copies of the key behind
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX + 1));
        let read = fs::File::open(&path)
            .and_then(|file| file.take(MAX as u64 + 1).read_to_end(&mut bytes));
        match read {
            Ok(length) if length > MAX => Err(self.damaged()),
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::NotPaired),
            Err(source) => Err(Error::State {
                doing: "read",
                path,
                source,
            }),
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(NAME);
        let temporary = self.0.join(format!("{NAME}.new"));
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
        let damaged = |_| self.damaged();
        let decode = |text: &String| BASE64.decode(text.as_bytes()).map_err(damaged);
        let stored: Stored = serde_json::from_slice(&self.read()?).map_err(|_| self.damaged())?;
        Ok(Identity {
            chain: stored.chain.iter().map(decode).collect::<Result<_>>()?,
            authority: decode(&stored.authority)?,
            agent: stored.agent,
            endpoint: stored.endpoint,
            server_name: stored.server_name,
            scope: stored.scope,
            key: Zeroizing::new(decode(&stored.key)?),
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
            key: Zeroizing::new(encode(&identity.key)),
        };
        let mut json = Zeroizing::new(Vec::with_capacity(MAX));
        serde_json::to_writer_pretty(&mut *json, &stored)
            .map_err(|e| Error::Fault(e.to_string()))?;
        self.write(&json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(agent: &str) -> Identity {
        let random = ring::rand::SystemRandom::new();
        let key = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Identity {
            agent: agent.into(),
            endpoint: "site:7443".into(),
            server_name: "site.strongroom".into(),
            scope: "backup".into(),
            chain: vec![vec![1, 2], vec![3]],
            authority: vec![4],
            key: Zeroizing::new(key.as_ref().to_vec()),
        }
    }

    #[test]
    fn an_identity_is_kept_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        assert!(matches!(state.load(), Err(Error::NotPaired)));
        let identity = identity("a1");
        state.save(&identity).unwrap();
        let back = state.load().unwrap();
        assert_eq!(
            (&back.chain, &back.authority, &back.key),
            (&identity.chain, &identity.authority, &identity.key)
        );
        assert!(back.signer().is_some());
        let mode = |name: &str| {
            fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode("state"), mode("state/identity.json")), (0o700, 0o600));
    }

    #[test]
    fn a_pairing_that_cannot_be_kept_leaves_the_one_before_whole() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let (old, new) = (identity("old"), identity("new"));
        state.save(&old).unwrap();
        // as on a full disk: nothing can be made under that name
        let temporary = dir.path().join("identity.json.new");
        fs::create_dir(&temporary).unwrap();
        let refused = state.save(&new).unwrap_err();
        assert!(matches!(
            refused,
            Error::State {
                doing: "written",
                ..
            }
        ));
        let kept = state.load().unwrap();
        assert_eq!((kept.agent, kept.key), (old.agent, old.key));
        // what a cut left of an attempt is in nobody's way
        fs::remove_dir(&temporary).unwrap();
        fs::write(&temporary, "{").unwrap();
        assert_eq!(state.load().unwrap().agent, "old");
        state.save(&new).unwrap();
        let kept = state.load().unwrap();
        assert_eq!((kept.agent, kept.key), (new.agent, new.key));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_longer_than_any_identity_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let file = fs::File::create(dir.path().join(NAME)).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(matches!(state.load(), Err(Error::Damaged(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_identity_or_damaged(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let state = StateDir::open(dir.path()).unwrap();
            let path = dir.path().join(NAME);
            fs::write(&path, &bytes).unwrap();
            let damaged = matches!(state.load(), Err(Error::Damaged(named)) if named == path);
            prop_assert!(damaged);
            state.save(&identity("a1")).unwrap();
            let mut good = fs::read(&path).unwrap();
            let at = at.index(good.len());
            good[at] ^= flip;
            fs::write(&path, &good).unwrap();
            match state.load() {
                Ok(identity) => {
                    identity.signer();
                    crate::connect::Dialer::new(&identity);
                }
                Err(Error::Damaged(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
}
