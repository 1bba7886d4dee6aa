//! What keyd keeps: entries by name, each wrapped under the root key, in one ledger file, with a
//! MAC over all of them, so that none can be altered, taken away or moved. The root key lies
//! beside them, sealed by the TPM.

use crate::wrap::{self, Key, Secret};
use contract::{Error, told};
use data_encoding::{BASE64, HEXLOWER};
use ledger::Ledger;
use ring::hmac;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tpm::Sealed;
use zeroize::Zeroizing;

const PURPOSE: &str = "entry";
/// No copy is made of a key store, so that its keys can be nowhere else.
const ANEW: &str = "nothing repairs it, so set this appliance up anew: a site with a new token of its \
                    centre, which has the offsite copies";

/// The file's content.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    /// The root key.
    pub(crate) sealed: Sealed,
    /// MAC over the entries, hexadecimal digits.
    check: String,
    /// Wrapped entries by name, base64.
    entries: BTreeMap<String, String>,
}

/// An open store.
pub(crate) struct Store {
    /// Boxed, so that it stays where it is when the store is moved.
    root: Box<Key>,
    ledger: Ledger<Saved>,
    saved: Saved,
}

/// Changes that are saved together or not at all.
#[derive(Default)]
pub(crate) struct Changes(BTreeMap<String, Option<Secret>>);

impl Changes {
    pub(crate) fn put(mut self, name: impl Into<String>, value: &[u8]) -> Changes {
        let value = Zeroizing::new(value.to_vec());
        self.0.insert(name.into(), Some(value));
        self
    }

    /// For what is no secret.
    pub(crate) fn put_json<T: Serialize>(self, name: impl Into<String>, value: &T) -> Changes {
        let bytes = serde_json::to_vec(value).expect("our saved types are plain");
        self.put(name, &bytes)
    }

    pub(crate) fn remove(mut self, name: impl Into<String>) -> Changes {
        self.0.insert(name.into(), None);
        self
    }
}

impl Store {
    /// A store with no entries, saved.
    pub(crate) fn create(
        root: Box<Key>,
        sealed: Sealed,
        ledger: Ledger<Saved>,
    ) -> Result<Store, Error> {
        let saved = Saved {
            check: HEXLOWER.encode(check(&root, &BTreeMap::new()).as_ref()),
            sealed,
            entries: BTreeMap::new(),
        };
        let mut store = Store {
            root,
            ledger,
            saved,
        };
        store.save()?;
        Ok(store)
    }

    /// The store that was saved, when it is as this root key's owner left it.
    pub(crate) fn open(
        root: Box<Key>,
        saved: Saved,
        ledger: Ledger<Saved>,
    ) -> Result<Store, Error> {
        let found = HEXLOWER.decode(saved.check.as_bytes()).unwrap_or_default();
        hmac::verify(&mac_key(&root), &encoded(&saved.entries), &found).map_err(|_| {
            Error::Damaged(format!(
                "the key store {} was altered by something other than keyd; {ANEW}",
                ledger.path().display()
            ))
        })?;
        Ok(Store {
            root,
            ledger,
            saved,
        })
    }

    /// An entry; None when there is none.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Secret>, Error> {
        let Some(text) = self.saved.entries.get(name) else {
            return Ok(None);
        };
        BASE64
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| wrap::unwrap(&self.root, PURPOSE, name, &bytes))
            .map(Some)
            .ok_or_else(|| damaged(name))
    }

    /// An entry of exactly this many bytes.
    pub(crate) fn get_key<const N: usize>(
        &self,
        name: &str,
    ) -> Result<Option<Zeroizing<[u8; N]>>, Error> {
        self.get(name)?
            .map(|bytes| {
                let bytes: &[u8; N] = bytes[..].try_into().map_err(|_| damaged(name))?;
                Ok(Zeroizing::new(*bytes))
            })
            .transpose()
    }

    /// An entry written by [`Changes::put_json`].
    pub(crate) fn get_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        self.get(name)?
            .map(|bytes| serde_json::from_slice(&bytes).map_err(|_| damaged(name)))
            .transpose()
    }

    /// A key of N random bytes, made and saved at the first call.
    pub(crate) fn get_or_make<const N: usize>(
        &mut self,
        name: &str,
    ) -> Result<Zeroizing<[u8; N]>, Error> {
        if let Some(key) = self.get_key(name)? {
            return Ok(key);
        }
        let key = runtime::random()?;
        self.apply(Changes::default().put(name, &key[..]))?;
        Ok(key)
    }

    /// Names of entries that begin so, without that beginning.
    pub(crate) fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.saved
            .entries
            .range(prefix.to_owned()..)
            .map_while(move |(name, _)| name.strip_prefix(prefix))
    }

    /// Saves the changes. What they replace or remove is in no generation of the file afterwards.
    pub(crate) fn apply(&mut self, changes: Changes) -> Result<(), Error> {
        let mut entries = self.saved.entries.clone();
        for (name, value) in changes.0 {
            match value {
                Some(plain) => {
                    let bytes = wrap::wrap(&self.root, PURPOSE, &name, &plain)?;
                    entries.insert(name, BASE64.encode(&bytes));
                }
                None => {
                    entries.remove(&name);
                }
            }
        }
        let check = HEXLOWER.encode(check(&self.root, &entries).as_ref());
        let saved = Saved {
            sealed: self.saved.sealed.clone(),
            check,
            entries,
        };
        let before = std::mem::replace(&mut self.saved, saved);
        self.save().inspect_err(|_| self.saved = before)
    }

    /// Twice: the generation that the ledger keeps is then the same, so nothing that was replaced
    /// is left in it, and a damaged newest loses nothing.
    fn save(&mut self) -> Result<(), Error> {
        for _ in 0..2 {
            self.ledger
                .save(&self.saved)
                .map_err(|e| Error::Failed(told(&e)))?;
        }
        Ok(())
    }
}

fn mac_key(root: &Key) -> hmac::Key {
    wrap::mac_key(root, "entries")
}

fn encoded(entries: &BTreeMap<String, String>) -> Vec<u8> {
    serde_json::to_vec(entries).expect("text by text")
}

fn check(root: &Key, entries: &BTreeMap<String, String>) -> hmac::Tag {
    hmac::sign(&mac_key(root), &encoded(entries))
}

/// An entry that is missing, or no more what keyd wrote.
pub(crate) fn damaged(name: &str) -> Error {
    Error::Damaged(format!(
        "the entry {name} of the key store is damaged; {ANEW}"
    ))
}
