//! An index that is open: what is in memory, and lookups.

use super::catalogue::{Catalogue, Contents};
use super::near::Near;
use super::row::{Row, State};
use super::run::Run;
use super::{Location, Pack, Place, Totals};
use crate::error::Error;
use format::{Digest, PackId, SnapshotId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;

pub(super) struct Opened {
    /// The failure to write, after which nothing is known of what it says; until it is opened again
    /// the index can only be read.
    pub(super) catalogue: Result<Catalogue, Arc<Error>>,
    /// By number.
    pub(super) packs: BTreeMap<u32, Pack>,
    /// Of these packs.
    pub(super) ids: HashSet<PackId>,
    pub(super) next_pack: u32,
    /// Newest first.
    pub(super) runs: Vec<(u64, Arc<Run>)>,
    pub(super) next_run: u64,
    /// Of `runs`, those that are being merged.
    pub(super) merging: Vec<u64>,
    pub(super) broken: HashSet<Digest>,
    /// Snapshots whose references to their roots are counted.
    pub(super) roots: HashMap<SnapshotId, Digest>,
    /// What lost its last reference and was not looked at yet.
    pub(super) candidates: Vec<Digest>,
    pub(super) totals: Totals,
    pub(super) recent: Recent,
    /// Some of it may lead nowhere yet, and nothing may be written.
    pub(super) incomplete: bool,
    /// About to be buried: nothing new is to lean on these.
    pub(super) condemned: HashSet<Digest>,
    pub(super) near: Arc<Near>,
}

/// What no run has yet, and what the catalogue does not say yet.
#[derive(Default)]
pub(super) struct Recent {
    pub(super) rows: HashMap<Digest, Row>,
    pub(super) packs: BTreeSet<u32>,
    pub(super) roots: BTreeSet<SnapshotId>,
    pub(super) broken: BTreeSet<Digest>,
    pub(super) candidates: bool,
}

impl Recent {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            rows,
            packs,
            roots,
            broken,
            candidates,
        } = self;
        rows.is_empty() && packs.is_empty() && roots.is_empty() && broken.is_empty() && !candidates
    }

    pub(super) fn note(&mut self, digest: Digest, state: State, references: i32) {
        let row = self.rows.entry(digest).or_insert(Row {
            digest,
            state: State::Older,
            references: 0,
        });
        if state != State::Older {
            row.state = state;
        }
        row.references = row.references.saturating_add(references);
    }
}

impl Opened {
    pub(super) fn new(
        catalogue: Catalogue,
        contents: Contents,
        runs: Vec<(u64, Arc<Run>)>,
        near: Near,
    ) -> Self {
        Self {
            catalogue: Ok(catalogue),
            ids: contents.packs.iter().map(|(_, pack)| pack.id).collect(),
            packs: contents.packs.into_iter().collect(),
            next_pack: contents.next_pack,
            next_run: runs.first().map_or(0, |(newest, _)| newest + 1),
            runs,
            merging: Vec::new(),
            broken: contents.broken,
            roots: contents.roots,
            candidates: contents.candidates,
            totals: contents.totals,
            recent: Recent::default(),
            incomplete: false,
            condemned: HashSet::new(),
            near: Arc::new(near),
        }
    }

    /// Notes a pack that is there.
    pub(super) fn enter(&mut self, number: u32, pack: Pack) {
        self.packs.insert(number, pack);
        self.ids.insert(pack.id);
        self.recent.packs.insert(number);
    }

    /// Notes a pack that is gone.
    pub(super) fn leave(&mut self, number: u32) {
        if let Some(pack) = self.packs.remove(&number) {
            self.ids.remove(&pack.id);
        }
        self.recent.packs.insert(number);
    }

    /// Whether it is time to write what is in memory.
    pub(super) fn is_full(&self, batch: usize) -> bool {
        self.recent.rows.len() >= batch && !self.incomplete
    }

    pub(super) fn counts(&self, pack: u32) -> bool {
        self.packs.contains_key(&pack)
    }

    pub(super) fn location(&self, digest: &Digest, place: Place) -> Option<Location> {
        Some(Location {
            pack: self.packs.get(&place.pack)?.id,
            offset: place.offset,
            length: place.length,
            plain_len: place.plain_len,
            kind: place.kind,
            broken: self.broken.contains(digest),
        })
    }

    /// The place of a digest; and whether the disk was asked, or might have been.
    pub(super) fn find(&self, digest: &Digest) -> io::Result<Option<(Place, bool)>> {
        match self.recent.rows.get(digest).map(|row| row.state) {
            Some(State::Dead) => return Ok(None),
            Some(State::At(place)) if self.counts(place.pack) => return Ok(Some((place, false))),
            _ => {}
        }
        let mut asked = false;
        for (_, run) in &self.runs {
            if !run.may_hold(digest)? {
                continue;
            }
            if !asked {
                // a pack's footer does not tell what of it is dead or was stored anew elsewhere
                let whole =
                    |place: &Place| self.packs.get(&place.pack).is_some_and(|p| p.dead == 0);
                if let Some(place) = self.near.find(digest).filter(whole) {
                    return Ok(Some((place, false)));
                }
                asked = true;
            }
            match run.find(digest)?.map(|row| row.state) {
                Some(State::Dead) => return Ok(None),
                Some(State::At(place)) if self.counts(place.pack) => {
                    return Ok(Some((place, true)));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// About how many bytes it is, the shared pages left out.
    pub(super) fn memory(&self) -> usize {
        self.recent.rows.capacity() * (size_of::<(Digest, Row)>() + 1)
            + self.packs.len() * size_of::<(u32, Pack)>()
            + self.ids.capacity() * (size_of::<PackId>() + 1)
            + self.roots.capacity() * (size_of::<(SnapshotId, Digest)>() + 1)
            + (self.broken.capacity() + self.condemned.capacity()) * (size_of::<Digest>() + 1)
    }

    /// How many frames and snapshots refer to a digest.
    pub(super) fn references(&self, digest: &Digest) -> io::Result<i64> {
        let recent = self.recent.rows.get(digest);
        let mut sum = recent.map_or(0, |row| i64::from(row.references));
        for (_, run) in &self.runs {
            if run.may_hold(digest)? {
                sum += run.find(digest)?.map_or(0, |row| i64::from(row.references));
            }
        }
        Ok(sum)
    }

    /// The number of the next pack. None is given twice: rows of a pack that is gone may still be there.
    pub(super) fn take_number(&mut self) -> Option<u32> {
        let number = self.next_pack;
        self.next_pack = number.checked_add(1)?;
        Some(number)
    }

    /// So many more bytes of a pack are of no use.
    pub(super) fn waste(&mut self, pack: u32, bytes: u32) {
        if let Some(found) = self.packs.get_mut(&pack) {
            found.dead = found.dead.saturating_add(bytes).min(found.bytes);
            self.recent.packs.insert(pack);
        }
    }
}
