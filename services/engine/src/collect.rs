//! Collecting garbage, without a key: what no snapshot needs any more makes room.
//!
//! The index counts how many frames and snapshots refer to each frame. A collection begins at the
//! snapshots that are gone and at the packs that are new since the last one, follows the references
//! of what nothing refers to any more, and looks at nothing else: it costs what changed.
//!
//! Backups, copies and restores go on meanwhile. What is found dead is first condemned, so that
//! nothing that begins now leans on it. When those have ended that may have leaned on it before, it is
//! counted once more, and what is still dead is buried, at once and durably: while no metadata is on
//! its way, and only if nothing came to lean on it since it was counted. Then packs with enough garbage
//! give way to new ones that hold the rest of their frames, and so do short packs when there are many;
//! what they had is removed when the new ones are durable and in the index.
//!
//! A power cut at any time leaves what was: what was only condemned is not, what was buried comes to
//! light with its old pack at the worst, and the next collection finds it.
//!
//! A full disk has no room for a burial. Then packs that hold garbage alone are removed first, and the index
//! says so afterwards; if that fails, or the power does, the next opening makes it anew.

mod mark;
mod rewrite;

use crate::core::locked;
use crate::error::{Error, Result, unless_full};
use crate::index::Burial;
use crate::progress::Progress;
use crate::recover::check_all_read;
use crate::store::Store;
use format::{Digest, SnapshotId};
use mark::Marks;
use rewrite::Plan;
use std::collections::BTreeMap;

/// Digests that a round touches, and those that a look beforehand does: some 600 bytes of memory each
/// where they are buried, 150 where not.
const ROUND: usize = 200_000;
const LOOK: usize = 500_000;

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Chunks that nothing needs any more, metadata included.
    pub chunks: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Packs removed, those included whose remaining frames were copied.
    pub packs: u64,
    /// Bytes of frames copied out of them.
    pub copied: u64,
    /// Bytes given back to the file system, less what was written.
    pub freed: u64,
    /// Bytes of garbage in packs that are too full of what is needed to be written anew.
    pub left: u64,
    /// Whether there is more than was looked at; never after a collection.
    pub more: bool,
    /// What was left alone, and why.
    pub findings: Vec<String>,
}

/// Snapshots that came and went since their roots were last counted.
struct Changes {
    gone: Vec<(SnapshotId, Digest)>,
    came: bool,
    /// Locked ones whose file is gone.
    missing: Vec<SnapshotId>,
}

impl Changes {
    fn findings(&self) -> Vec<String> {
        let sentence = |id: &SnapshotId| {
            format!(
                "snapshot {id} is locked, but its file is gone; its chunks are kept, and repair brings \
                 the file back from another copy"
            )
        };
        self.missing.iter().map(sentence).collect()
    }
}

impl Store {
    /// Frees what no snapshot needs. One at a time; a second one waits.
    ///
    /// # Errors
    /// Cancelled, a full disk, an I/O failure; a snapshot whose file cannot be read, for nobody knows
    /// what it needs; [`Error::Unread`]. What was freed by then is.
    pub fn collect(&self, progress: &Progress) -> Result<Collected> {
        let _alone = locked(&self.collecting);
        check_all_read(&*self.core.storage)?;
        let (index, mut sum) = (&self.core.index, Collected::default());
        loop {
            let (marks, changes, opening) = self.bury(progress)?;
            let is_full = unless_full(index.flush())?.is_none();
            if is_full && !self.make_room(opening, &mut sum)? {
                continue;
            }
            sum.chunks += marks.dead.len() as u64;
            sum.bytes += marks.bytes();
            sum.findings = changes.findings();
            sum.findings.extend(marks.finding());
            if !marks.more {
                break;
            }
        }
        self.rewrite(progress, &mut sum)?;
        Ok(sum)
    }

    /// What [`Store::collect`] would do now, nothing of which is done. Of very much garbage only the
    /// first part is looked at ([`Collected::more`]).
    ///
    /// # Errors
    /// As there.
    pub fn garbage(&self, progress: &Progress) -> Result<Collected> {
        let _alone = locked(&self.collecting);
        check_all_read(&*self.core.storage)?;
        self.ingest()?.flush()?;
        let changes = self.changes()?;
        let marks = Marks::find(&self.core, &changes.gone, None, LOOK, progress)?;
        let mut dead: BTreeMap<u32, u32> = BTreeMap::new();
        for (_, place) in &marks.dead {
            *dead.entry(place.pack).or_default() += place.length;
        }
        let mut sum = Collected {
            chunks: marks.dead.len() as u64,
            bytes: marks.bytes(),
            more: marks.more,
            findings: changes.findings(),
            ..Collected::default()
        };
        sum.findings.extend(marks.finding());
        let mut packs = self.core.index.packs_that(|_, _| true)?;
        for (number, pack) in &mut packs {
            pack.dead += dead.get(number).copied().unwrap_or_default();
            pack.settled |= marks.settled.contains(number);
        }
        sum.left = packs.iter().map(|(_, pack)| u64::from(pack.dead)).sum();
        let Plan {
            going,
            copied,
            short,
        } = self.plan(packs);
        [going, copied, short]
            .iter()
            .for_each(|packs| sum.add(packs));
        Ok(sum)
    }

    /// One round: as much as one may hold in memory. Also in which opening of the index it was buried.
    fn bury(&self, progress: &Progress) -> Result<(Marks, Changes, u64)> {
        let core = &self.core;
        let ingest = self.ingest()?;
        let taken = ingest.taken();
        ingest.flush()?;
        let mut changes = self.changes()?;
        let mut marks = Marks::find(core, &changes.gone, None, ROUND, progress)?;
        core.index.condemn(marks.dead.iter().map(|(d, _)| *d))?;
        let _pardon = Pardon(self);
        let mut rescues = core.index.rescues();
        core.holds.wait_for_present(progress)?;
        let mut sure = ingest.taken() == taken && !self.changes()?.came;
        loop {
            progress.check()?;
            if !sure {
                rescues = core.index.rescues();
                ingest.flush()?;
                changes = self.changes()?;
                marks = Marks::find(core, &changes.gone, Some(&marks), ROUND, progress)?;
            }
            let buried = ingest.at_rest(|| {
                let now = self.changes()?;
                if now.came || now.gone != changes.gone {
                    return Ok(None);
                }
                let snapshots: Vec<SnapshotId> = now.gone.iter().map(|(id, _)| *id).collect();
                core.index.bury(Burial {
                    dead: &marks.dead,
                    released: &marks.released(),
                    snapshots: &snapshots,
                    candidates: marks.candidates.clone(),
                    settled: &marks.settled,
                    rescues,
                })
            })?;
            if let Some(opening) = buried {
                return Ok((marks, changes, opening));
            }
            sure = false;
        }
    }

    /// Counts the roots of snapshots that came to be, and tells which are gone.
    fn changes(&self) -> Result<Changes> {
        let index = &self.core.index;
        let mut roots = index.roots()?;
        let mut came = Vec::new();
        let there = self.core.snapshot_ids()?;
        for id in &there {
            if roots.remove(id).is_none() {
                match self.core.snapshot(*id) {
                    Ok(snapshot) => came.push((*id, snapshot.clear.root)),
                    // forgotten since
                    Err(Error::NoSnapshot { .. }) => {}
                    Err(error) => {
                        let (id, source) = (*id, Box::new(error));
                        return Err(Error::Unknown { id, source });
                    }
                }
            }
        }
        let mut missing = Vec::new();
        // whoever removed the file of one that is locked did not ask us
        for (id, root) in self.core.locks()?.pending() {
            if there.contains(&id) {
                continue;
            }
            missing.push(id);
            if roots.remove(&id).is_none() {
                came.push((id, root.ok_or(Error::DamagedLock { id })?));
            }
        }
        index.add_roots(&came)?;
        // what only such a one leads to cannot be told from garbage
        for (id, root) in index.roots()? {
            if index.find(&root)?.is_none() && (there.contains(&id) || missing.contains(&id)) {
                return Err(Error::Rootless { id, root });
            }
        }
        let mut gone: Vec<_> = roots.into_iter().collect();
        gone.sort_unstable();
        Ok(Changes {
            gone,
            came: !came.is_empty(),
            missing,
        })
    }
}

/// However a round ends, nothing stays condemned.
struct Pardon<'a>(&'a Store);

impl Drop for Pardon<'_> {
    fn drop(&mut self) {
        self.0.core.index.pardon();
    }
}
