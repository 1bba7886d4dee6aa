//! Where frames are taken from when they are copied or healed.

use crate::core::{Core, Keys, open_frame};
use crate::error::{Error, Result};
use crate::index::Location;
use format::Digest;
use format::frame::Kind;
use std::collections::HashMap;
use std::sync::Arc;

/// Datastores of one id, the first one tried first, and places that no index has.
pub(crate) struct Sources<'a> {
    stores: Vec<&'a Core>,
    /// In the first store, beside where its index finds them.
    spare: HashMap<Digest, Vec<Location>>,
    /// With these, frames are opened before they are taken.
    keys: Option<Arc<Keys>>,
}

impl<'a> Sources<'a> {
    pub(crate) fn of(store: &'a Core) -> Self {
        Self {
            stores: vec![store],
            spare: HashMap::new(),
            keys: None,
        }
    }

    /// For healing a store, from itself and another one.
    pub(crate) fn healing(
        store: &'a Core,
        other: Option<&'a Core>,
        spare: HashMap<Digest, Vec<Location>>,
    ) -> Self {
        Self {
            stores: [store].into_iter().chain(other).collect(),
            spare,
            keys: store.keys().ok(),
        }
    }

    /// What a frame is; the first that is asked knows, even if its frame is damaged.
    pub(crate) fn kind(&self, digest: &Digest) -> Result<Kind> {
        let (_, first) = self.places(digest)?.swap_remove(0);
        Ok(first.kind)
    }

    /// A frame from the first place where it is sound; the first failure if it is nowhere.
    pub(crate) fn fetch(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut failed = None;
        for (store, place) in self.places(digest)? {
            let sound = store.read_sound(digest, &place).and_then(|raw| {
                let opened = self
                    .keys
                    .as_ref()
                    .map(|keys| open_frame(keys, &raw, digest));
                opened.transpose().map(|_| raw)
            });
            match sound {
                Ok(raw) => return Ok(raw),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        Err(failed.unwrap_or(Error::NoChunk { digest: *digest }))
    }

    /// At least one.
    fn places(&self, digest: &Digest) -> Result<Vec<(&'a Core, Location)>> {
        let mut places = Vec::new();
        for (at, store) in self.stores.iter().copied().enumerate() {
            places.extend(store.index.find(digest)?.map(|place| (store, place)));
            if at == 0 {
                let spare = self.spare.get(digest).into_iter().flatten();
                places.extend(spare.map(|place| (store, *place)));
            }
        }
        if places.is_empty() {
            return Err(Error::NoChunk { digest: *digest });
        }
        Ok(places)
    }
}
