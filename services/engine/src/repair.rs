//! Healing what a verification finds: from frames that lie elsewhere in the datastore, and from another
//! copy of it.
//!
//! What is damaged, and all that leads to it, is marked broken, so that a copy of a snapshot's tree
//! finds all of it lacking and stores it anew from the bottom, each frame from the first place where
//! its check holds. A frame that is sound itself comes from its own place. Then the packs that are
//! damaged give way to ones with what is needed of them.

use crate::Store;
use crate::copy::{Copier, Stop};
use crate::core::{PACKS, SNAPSHOTS, locked, write_whole};
use crate::error::{Error, Result, format_error, io_error};
use crate::index::{Location, Pack};
use crate::progress::Progress;
use crate::read::snapshot_name;
use crate::recover::{all_read, check_all_read};
use crate::sources::Sources;
use crate::storage::{Storage, read_exact};
use crate::store::{SUPERBLOCK, lock};
use crate::verify::Report;
use format::pack::{HEADER_LEN, PackHeader};
use format::superblock::{Profile, SUPERBLOCK_LEN, Superblock};
use format::{Digest, FormatError, PackId, SnapshotId};
use std::collections::{HashMap, HashSet};

/// What a repair did.
#[derive(Debug, Default)]
pub struct Repaired {
    /// What was found before.
    pub report: Report,
    /// Frames that were stored anew.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Snapshots that are whole again.
    pub healed: Vec<SnapshotId>,
    /// Snapshots that are not, and why.
    pub left: Vec<(SnapshotId, Error)>,
    /// Packs that are damaged and stay: of each a chunk is needed that could not be had.
    pub damaged: Vec<PackId>,
    /// Snapshots that only the other copy has. Whether they were lost or forgotten here nobody knows,
    /// so they are not brought.
    pub elsewhere: Vec<SnapshotId>,
}

impl Store {
    /// Verifies, and heals what it can, if need be from another copy of this datastore. No key is
    /// needed; with it chunks are opened too. `progress` counts bytes, of the verification and of what
    /// is healed.
    ///
    /// # Errors
    /// [`Error::Foreign`]; as [`Store::verify`]; nothing can be written.
    pub fn repair(&self, from: Option<&Store>, progress: &Progress) -> Result<Repaired> {
        if let Some(other) = from.filter(|other| other.datastore() != self.datastore()) {
            return Err(Error::Foreign {
                name: format!("the datastore at {}", other.core.storage.place()),
                found: other.datastore(),
                datastore: self.datastore(),
            });
        }
        let holds = (self.hold()?, from.map(Store::hold).transpose()?);
        let mut repaired = Repaired {
            // names of lost files would be those from before it heals
            report: self.examine(100.0, progress)?.0,
            ..Repaired::default()
        };
        let spare = self.spare(&repaired.report)?;
        let other = from.map(|other| &*other.core);
        let sources = Sources::healing(&self.core, other, spare);
        let copier = Copier::new(sources, self, progress)?;
        let mut files = Vec::new();
        let mut own = self.core.snapshot_ids()?;
        // one that is locked was lost, not forgotten
        let locks = self.core.locks()?;
        own.extend(locks.pending().map(|(id, _)| id));
        own.sort_unstable();
        own.dedup();
        for id in &own {
            let (snapshot, damaged) = match self.core.snapshot(*id) {
                Ok(snapshot) => (snapshot, false),
                // forgotten since
                Err(Error::NoSnapshot { .. }) if locks.of(*id).is_none() => continue,
                Err(error) => match other.map(|other| other.snapshot(*id)) {
                    Some(Ok(snapshot)) => (snapshot, true),
                    _ => {
                        repaired.left.push((*id, error));
                        continue;
                    }
                },
            };
            let root = snapshot.clear.root;
            if !damaged && self.core.index.usable(&root)? {
                continue;
            }
            match copier.tree(root) {
                Ok(()) => {
                    files.extend(damaged.then_some(snapshot));
                    repaired.healed.push(*id);
                }
                Err(Stop::Snapshot(error)) => repaired.left.push((*id, error)),
                Err(Stop::Copy(error)) => return Err(error),
            }
        }
        // what no snapshot needs, as far as it can be had
        for digest in &repaired.report.damaged {
            if self.core.index.usable(digest)? {
                continue;
            }
            match copier.fetch(digest).and_then(|raw| copier.put(&raw)) {
                Err(Stop::Copy(error)) if !matches!(error, Error::Incomplete { .. }) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        // of the pipeline that has it all: after a failure there is another one, which knows nothing of it
        copier.into.flush()?;
        for file in files {
            let id = file.clear.id;
            // nobody forgets it between the look and the writing
            let _alone = locked(&self.core.locking);
            if locks.of(id).is_some() || self.core.snapshot_ids()?.contains(&id) {
                let name = snapshot_name(id);
                self.core.write_whole(SNAPSHOTS, &name, file.bytes())?;
            }
        }
        // a collection that runs waits for all who hold
        drop(holds);
        let _alone = locked(&self.collecting);
        let damaged = |_, pack: &Pack| repaired.report.packs.contains(&pack.id);
        let opening = self.core.index.opening();
        let packs = self.core.index.packs_that(damaged)?;
        let storage = &*self.core.storage;
        if repaired.left.is_empty() || check_all_read(storage).is_ok() {
            let stay = self.renew(&packs, opening, progress)?;
            repaired.damaged = stay.into_iter().map(|(pack, _)| pack).collect();
        } else {
            // they may hold what is lacking, and the disk may read it the next time
            repaired.damaged = packs.into_iter().map(|(_, pack)| pack.id).collect();
        }
        if repaired.left.is_empty() {
            all_read(storage)?;
        }
        (repaired.frames, repaired.bytes) = (copier.frames.into_inner(), copier.bytes.into_inner());
        if let Some(other) = other {
            let ids = other.snapshot_ids()?.into_iter();
            repaired.elsewhere = ids.filter(|id| own.binary_search(id).is_err()).collect();
        }
        Ok(repaired)
    }

    /// Frames of what is damaged or missing that lie where no index finds them.
    fn spare(&self, report: &Report) -> Result<HashMap<Digest, Vec<Location>>> {
        let wanted = report.damaged.iter().chain(&report.missing);
        let wanted: HashSet<&Digest> = wanted.collect();
        let mut spare: HashMap<Digest, Vec<Location>> = HashMap::new();
        if wanted.is_empty() {
            return Ok(spare);
        }
        for pack in self.core.index.packs()? {
            let (frames, _) = self.frames_of(pack)?;
            for (digest, place) in frames.into_iter().filter(|(d, _)| wanted.contains(d)) {
                spare.entry(digest).or_default().push(place);
            }
        }
        Ok(spare)
    }

    /// Writes the datastore file anew where it is lost or damaged, by that of another copy; answers
    /// whether it was. The profile is the one that what is left of the file looks like.
    ///
    /// # Errors
    /// There is no datastore, or one of another id; the file is of a newer format; it cannot be written.
    pub fn mend_superblock(storage: &dyn Storage, like: &Superblock) -> Result<bool> {
        let place = storage.place();
        let _guard = lock(storage)?;
        let (mut ours, mut others, mut other) = (0, 0, None);
        for name in storage
            .list(PACKS)
            .map_err(io_error(&place, "list", PACKS))?
        {
            let name = format!("{PACKS}/{name}");
            let head = storage
                .open(&name)
                .and_then(|file| read_exact(&*file, 0, HEADER_LEN));
            // one that is damaged says nothing
            let Some(header) = head.ok().and_then(|head| PackHeader::parse(&head).ok()) else {
                continue;
            };
            match header.datastore {
                found if found == like.datastore => ours += 1,
                found => {
                    others += 1;
                    other = Some((name.escape_debug().to_string(), found));
                }
            }
        }
        // one that strayed here makes no datastore another's
        if ours <= others {
            return Err(match other {
                Some((name, found)) => Error::Foreign {
                    name,
                    found,
                    datastore: like.datastore,
                },
                None => Error::NoDatastore { place },
            });
        }
        let mut left = vec![0; SUPERBLOCK_LEN];
        if let Ok(file) = storage.open(SUPERBLOCK) {
            file.read_at(&mut left, 0)
                .map_err(io_error(&place, "read", SUPERBLOCK))?;
        }
        let other = match like.profile {
            Profile::Site => Profile::Centre,
            Profile::Centre => Profile::Site,
        };
        let copies = [other, like.profile].map(|profile| Superblock { profile, ..*like }.encode());
        let differs =
            |copy: &[u8; SUPERBLOCK_LEN]| left.iter().zip(copy).filter(|(a, b)| a != b).count();
        let mended = if differs(&copies[1]) < differs(&copies[0]) {
            copies[1]
        } else {
            copies[0]
        };
        match Superblock::parse(&left) {
            Ok(_) => Ok(false),
            // a later release's has another check, and more; a flipped bit has not
            Err(source @ FormatError::Version { .. }) if differs(&mended) > 8 => {
                Err(format_error(format!("{place}/{SUPERBLOCK}"))(source))
            }
            Err(_) => write_whole(storage, "", SUPERBLOCK, &mended).map(|()| true),
        }
    }
}
