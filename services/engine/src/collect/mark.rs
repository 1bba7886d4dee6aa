//! Finding what is dead.

use crate::core::Core;
use crate::error::{Error, Result};
use crate::index::Place;
use crate::progress::Progress;
use format::{Digest, SnapshotId};
use std::collections::HashMap;
use std::sync::Arc;

/// A digest that was touched.
#[derive(Clone, Copy)]
struct Touched {
    place: Option<Place>,
    /// References that it has left.
    left: i64,
    /// References that it lost.
    released: u32,
    dead: bool,
}

/// What a round found.
#[derive(Default)]
pub(super) struct Marks {
    touched: HashMap<Digest, Touched>,
    /// What nothing needs, and where it is.
    pub(super) dead: Vec<(Digest, Place)>,
    /// What may be dead too and was not gone into yet.
    pub(super) candidates: Vec<Digest>,
    /// Packs that were looked through for what nothing ever referred to.
    pub(super) settled: Vec<u32>,
    /// Whether another round is needed.
    pub(super) more: bool,
    /// What nothing needs, but cannot be read, so that what it refers to is not known.
    damaged: Vec<Digest>,
}

/// A mark in the making.
struct Marking<'a> {
    core: &'a Core,
    touched: HashMap<Digest, Touched>,
    /// Dead frames that refer to others, to be gone into.
    open: Vec<Digest>,
    /// Whether only what is condemned may be found dead.
    again: bool,
    /// Digests that it touches at the most.
    most: usize,
    candidates: Vec<Digest>,
    damaged: Vec<Digest>,
}

impl Marks {
    /// Follows the references of snapshots that are gone, of what an earlier round left, and of what
    /// nothing refers to in packs that are new. When it looks `again`, at what it found before and what
    /// was condemned since, nothing else is found dead. It touches about so many digests at the `most`.
    pub(super) fn find(
        core: &Arc<Core>,
        gone: &[(SnapshotId, Digest)],
        again: Option<&Marks>,
        most: usize,
        progress: &Progress,
    ) -> Result<Self> {
        let mut marking = Marking {
            core,
            touched: HashMap::new(),
            open: Vec::new(),
            again: again.is_some(),
            most,
            candidates: Vec::new(),
            damaged: Vec::new(),
        };
        for (_, root) in gone {
            marking.release(root)?;
        }
        // room is left to go into some of them
        let mut candidates = core.index.candidates()?;
        let later = candidates.split_off(candidates.len().min(most / 2));
        let mut more = !later.is_empty();
        marking.candidates.extend(later);
        for digest in candidates {
            marking.look_at(&digest)?;
        }
        marking.go_in(progress)?;
        let before = core.holds.first_pack().unwrap_or(u32::MAX);
        let mut settled = Vec::new();
        more |= !marking.open.is_empty();
        let new = core.index.packs_that(|number, pack| match again {
            Some(earlier) => earlier.settled.contains(&number),
            None => !pack.settled && number < before,
        })?;
        for (number, pack) in new {
            progress.check()?;
            if marking.touched.len() >= most {
                more = true;
                break;
            }
            let listed = core.records_of(pack.id)?;
            for record in listed.into_iter().flat_map(|(records, _)| records) {
                marking.look_at_in(&record.digest, number)?;
            }
            settled.push(number);
            marking.go_in(progress)?;
            more |= !marking.open.is_empty();
        }
        Ok(marking.end(settled, more))
    }

    /// What keeps garbage from being found.
    pub(super) fn finding(&self) -> Option<String> {
        let first = self.damaged.first()?;
        Some(format!(
            "chunk {first}, which no snapshot needs, is damaged, as are {} more, so what only they lead to stays; \
             `strongroom store recover` makes the index without them, and the next collection frees the rest",
            self.damaged.len() - 1
        ))
    }

    /// Bytes of what is dead.
    pub(super) fn bytes(&self) -> u64 {
        self.dead
            .iter()
            .map(|(_, place)| u64::from(place.length))
            .sum()
    }

    /// By how many references less there are to each.
    pub(super) fn released(&self) -> Vec<(Digest, u32)> {
        let touched = self.touched.iter().filter(|(_, t)| t.released > 0);
        touched.map(|(digest, t)| (*digest, t.released)).collect()
    }
}

impl Marking<'_> {
    /// What is known of a digest, asked of the index at its first touch.
    fn touch(&mut self, digest: &Digest) -> Result<Touched> {
        if let Some(touched) = self.touched.get(digest) {
            return Ok(*touched);
        }
        let (place, left) = self.core.index.references(digest)?;
        let touched = Touched {
            place,
            left,
            released: 0,
            dead: false,
        };
        self.touched.insert(*digest, touched);
        Ok(touched)
    }

    /// One reference less.
    fn release(&mut self, digest: &Digest) -> Result<()> {
        let mut touched = self.touch(digest)?;
        touched.released += 1;
        touched.left -= 1;
        self.touched.insert(*digest, touched);
        self.settle(digest, touched)
    }

    fn look_at(&mut self, digest: &Digest) -> Result<()> {
        let touched = self.touch(digest)?;
        self.settle(digest, touched)
    }

    /// Looks at what a pack lists, if it is found there and not elsewhere.
    fn look_at_in(&mut self, digest: &Digest, pack: u32) -> Result<()> {
        if self.touched.contains_key(digest) {
            return Ok(());
        }
        let (place, left) = self.core.index.references(digest)?;
        if left > 0 || place.is_none_or(|place| place.pack != pack) {
            return Ok(());
        }
        self.look_at(digest)
    }

    /// Says of a digest that it is dead, if it is.
    fn settle(&mut self, digest: &Digest, touched: Touched) -> Result<()> {
        let Some(place) = touched.place.filter(|_| !touched.dead && touched.left <= 0) else {
            return Ok(());
        };
        if self.again && !self.core.index.is_condemned(digest)? {
            self.candidates.push(*digest);
            return Ok(());
        }
        let dead = Touched {
            dead: true,
            ..touched
        };
        self.touched.insert(*digest, dead);
        if place.kind.has_refs() {
            self.open.push(*digest);
        }
        Ok(())
    }

    /// Goes into what is dead, as far as there is room.
    fn go_in(&mut self, progress: &Progress) -> Result<()> {
        while self.touched.len() < self.most {
            let Some(digest) = self.open.pop() else {
                return Ok(());
            };
            progress.check()?;
            progress.add_file();
            match self.core.read_refs(&digest) {
                Ok((_, refs)) => refs.iter().try_for_each(|r| self.release(r))?,
                // what it refers to cannot be told; repair may bring it back
                Err(Error::Format { .. } | Error::Content { .. } | Error::Io { .. }) => {
                    self.damaged.push(digest);
                    self.leave(digest);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Leaves a dead frame for a later round.
    fn leave(&mut self, digest: Digest) {
        if let Some(touched) = self.touched.get_mut(&digest) {
            touched.dead = false;
        }
        self.candidates.push(digest);
    }

    fn end(mut self, settled: Vec<u32>, more: bool) -> Marks {
        for digest in std::mem::take(&mut self.open) {
            self.leave(digest);
        }
        let dead = self.touched.iter().filter(|(_, t)| t.dead);
        let dead = dead.filter_map(|(digest, t)| Some((*digest, t.place?)));
        self.candidates.sort_unstable();
        self.candidates.dedup();
        Marks {
            dead: dead.collect(),
            touched: self.touched,
            candidates: self.candidates,
            settled,
            more,
            damaged: self.damaged,
        }
    }
}
