//! What [`crate::collect`] asks and tells the index.

use super::row::State;
use super::{Index, Pack, Place};
use crate::core::locked;
use crate::error::Result;
use format::pack::Record;
use format::{Digest, PackId, SnapshotId};
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

/// What is found to be of no use; all of it becomes so at once.
pub(crate) struct Burial<'a> {
    /// Nothing refers to these.
    pub(crate) dead: &'a [(Digest, Place)],
    /// By how many references less there are to these.
    pub(crate) released: &'a [(Digest, u32)],
    /// Snapshots that are gone.
    pub(crate) snapshots: &'a [SnapshotId],
    /// To be looked at next, instead of those of before.
    pub(crate) candidates: Vec<Digest>,
    /// Packs in which all to which nothing ever referred was found.
    pub(crate) settled: &'a [u32],
    /// How often something was rescued when this was found out.
    pub(crate) rescues: u64,
}

/// Frames that were copied from packs to a new one.
pub(crate) struct Move<'a> {
    pub(crate) from: &'a [u32],
    /// The new pack, durable; none where nothing was worth copying.
    pub(crate) to: Option<(PackId, &'a [Record])>,
}

impl Index {
    /// The place of a chunk, and how many frames and snapshots refer to it.
    pub(crate) fn references(&self, digest: &Digest) -> Result<(Option<Place>, i64)> {
        let shared = &self.shared;
        shared.with(|opened| {
            let place = opened.find(digest).map_err(|e| shared.io(e))?;
            let references = opened.references(digest).map_err(|e| shared.io(e))?;
            Ok((place.map(|(place, _)| place), references))
        })
    }

    /// Whether this chunk is there, so that what is stored now may refer to it.
    pub(crate) fn lean_on(&self, digest: &Digest) -> Result<bool> {
        let found = self.look_up_and(digest, |found| {
            if found.condemned {
                self.shared.rescues.fetch_add(1, Relaxed);
            }
        })?;
        Ok(found.is_some_and(|found| !found.location.broken))
    }

    /// Nothing that begins now is to lean on these.
    pub(crate) fn condemn(&self, digests: impl Iterator<Item = Digest>) -> Result<()> {
        self.shared.change(|opened| {
            opened.condemned.extend(digests);
            Ok(())
        })
    }

    /// Whether this chunk still is.
    pub(crate) fn is_condemned(&self, digest: &Digest) -> Result<bool> {
        self.shared
            .with(|opened| Ok(opened.condemned.contains(digest)))
    }

    /// They stay for now.
    pub(crate) fn pardon(&self) {
        // an index that failed has none
        let _ = self.shared.change(|opened| {
            opened.condemned = Default::default();
            Ok(())
        });
    }

    /// How often something came to lean on what is condemned, or one of it was stored anew.
    pub(crate) fn rescues(&self) -> u64 {
        self.shared.rescues.load(Relaxed)
    }

    /// Snapshots whose references to their roots are counted.
    pub(crate) fn roots(&self) -> Result<HashMap<SnapshotId, Digest>> {
        self.shared.with(|opened| Ok(opened.roots.clone()))
    }

    /// Counts the references of snapshots that came to be.
    pub(crate) fn add_roots(&self, roots: &[(SnapshotId, Digest)]) -> Result<()> {
        let _writing = locked(&self.shared.writing);
        self.shared.change(|opened| {
            for (id, root) in roots {
                if opened.roots.insert(*id, *root).is_none() {
                    opened.recent.roots.insert(*id);
                    opened.recent.note(*root, State::Older, 1);
                }
            }
            Ok(())
        })
    }

    /// What lost its last reference and was not looked at yet.
    pub(crate) fn candidates(&self) -> Result<Vec<Digest>> {
        self.shared.with(|opened| Ok(opened.candidates.clone()))
    }

    /// The number of the next pack.
    pub(crate) fn next_pack(&self) -> Result<u32> {
        self.shared.with(|opened| Ok(opened.next_pack))
    }

    /// All packs that fit, by number.
    pub(crate) fn packs_that(&self, fit: impl Fn(u32, &Pack) -> bool) -> Result<Vec<(u32, Pack)>> {
        self.shared.with(|opened| {
            let packs = opened.packs.iter();
            let packs = packs.filter(|(number, pack)| fit(**number, pack));
            Ok(packs.map(|(number, pack)| (*number, *pack)).collect())
        })
    }

    /// Buries, unless something was rescued meanwhile; says in which opening if it did. Durable with the next
    /// [`Index::flush`], and lost if it is opened again before.
    pub(crate) fn bury(&self, burial: Burial<'_>) -> Result<Option<u64>> {
        let _writing = locked(&self.shared.writing);
        self.shared.change(|opened| {
            if self.rescues() != burial.rescues {
                return Ok(None);
            }
            for (digest, count) in burial.released {
                let count = i32::try_from(*count).unwrap_or(i32::MAX);
                opened.recent.note(*digest, State::Older, -count);
            }
            for (digest, place) in burial.dead {
                // a data pack may just have brought it anew
                if !opened.condemned.remove(digest) {
                    continue;
                }
                opened.recent.note(*digest, State::Dead, 0);
                if opened.broken.remove(digest) {
                    opened.recent.broken.insert(*digest);
                }
                opened.totals.subtract(place);
                opened.waste(place.pack, place.length);
            }
            for id in burial.snapshots {
                opened.roots.remove(id);
                opened.recent.roots.insert(*id);
            }
            if opened.candidates != burial.candidates {
                opened.candidates = burial.candidates;
                opened.recent.candidates = true;
            }
            for number in burial.settled {
                if let Some(pack) = opened.packs.get_mut(number) {
                    pack.settled = true;
                    opened.recent.packs.insert(*number);
                }
            }
            Ok(Some(self.opening()))
        })
    }

    /// Has frames found in the pack they were copied to, and the packs they were in forgotten;
    /// durable on return.
    pub(crate) fn relocate(&self, moved: &Move<'_>) -> Result<()> {
        let shared = &self.shared;
        let writing = locked(&shared.writing);
        // one that was stored anew elsewhere meanwhile stays there
        let mut rows = Vec::new();
        for record in moved.to.iter().flat_map(|(_, records)| *records) {
            let found = self.look_up(&record.digest)?;
            if found.is_some_and(|found| moved.from.contains(&found.place.pack)) {
                rows.push(record);
            }
        }
        shared.change(|opened| {
            if let Some((id, records)) = moved.to {
                if opened.ids.contains(&id) {
                    return Err(shared.damaged("a pack would be in it twice"));
                }
                let bytes: u32 = records.iter().map(|r| r.length).sum();
                let number = opened
                    .take_number()
                    .ok_or_else(|| shared.damaged(super::NO_NUMBER))?;
                let needed: u32 = rows.iter().map(|r| r.length).sum();
                let settled = |number| opened.packs.get(number).is_some_and(|p| p.settled);
                let pack = Pack {
                    id,
                    bytes,
                    dead: bytes - needed,
                    settled: moved.from.iter().all(settled),
                };
                opened.enter(number, pack);
                for record in rows {
                    let place = Place::of(number, record);
                    opened.recent.note(record.digest, State::At(place), 0);
                }
            }
            for number in moved.from {
                opened.leave(*number);
            }
            Ok(())
        })?;
        shared.flush()?;
        drop(writing);
        self.mergers.start(shared);
        Ok(())
    }
}
