//! Re-reading everything: without keys every byte's integrity, with keys every chunk's content.

use crate::Store;
use crate::core::{Keys, frame_error, open_frame, pack_name};
use crate::error::Result;
use crate::index::Location;
use crate::progress::Progress;
use crate::recover::records;
use format::frame::Frame;
use format::pack::Record;
use format::{Digest, PackId, SnapshotId};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Frames looked at.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Chunks whose frame is damaged, sorted.
    pub damaged: Vec<Digest>,
    /// Snapshots that need one of them or that need a chunk that is nowhere, and snapshots that
    /// cannot be read themselves.
    pub snapshots: Vec<SnapshotId>,
    /// A sentence for each thing found.
    pub findings: Vec<String>,
}

impl Report {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Most frames below each other: nodes, a leaf, and lists of extents.
const DEEPEST: u8 = format::node::MAX_LEVEL + 1 + format::extents::MAX_LEVEL + 1;

impl Store {
    /// Reads every frame of every pack. `progress` counts bytes, and packs as files. Damaged chunks
    /// are kept from being deduplicated against, so that the next backup stores them anew.
    ///
    /// # Errors
    /// Cancelled, or the index or a directory cannot be read; never for damage, which the report
    /// has.
    pub fn verify(&self, progress: &Progress) -> Result<Report> {
        let keys = self.core.keys().ok();
        let packs: Vec<PackId> = self.core.index.packs()?;
        let next = AtomicUsize::new(0);
        let report = Mutex::new(Report::default());
        let workers = self.core.options.threads.max(1);
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    progress.check()?;
                    let found = self.verify_pack(*pack, keys.as_ref(), progress)?;
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    report.frames += found.frames;
                    report.bytes += found.bytes;
                    report.damaged.extend(found.damaged);
                    report.findings.extend(found.findings);
                }
                Ok(())
            };
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            // all are waited for before the first failure is told
            let ends: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
            ends.into_iter()
                .try_for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.damaged.sort_unstable();
        report.damaged.dedup();
        let affected = self.affected(&mut report)?;
        if !affected.is_empty() {
            let index = &self.core.index;
            // that the index failed before may only show when it is written to
            index.mark_broken(&affected).or_else(|_| {
                self.reopen_index()?;
                index.mark_broken(&affected)
            })?;
        }
        report.snapshots.sort_unstable();
        report.findings.sort_unstable();
        Ok(report)
    }

    fn verify_pack(
        &self,
        pack: PackId,
        keys: Option<&Arc<Keys>>,
        progress: &Progress,
    ) -> Result<Report> {
        let mut report = Report::default();
        let name = pack_name(pack);
        for (digest, location) in self.frames_of(pack, &name, &mut report)? {
            progress.check()?;
            report.frames += 1;
            report.bytes += u64::from(location.length);
            let sound = self.core.read_at(&location).and_then(|raw| {
                let frame = Frame::parse(&raw, self.core.datastore).map_err(frame_error(digest))?;
                let header = &frame.header;
                if (header.digest, header.kind) != (digest, location.kind) {
                    return Err(crate::Error::Content { digest });
                }
                keys.map_or(Ok(()), |keys| open_frame(keys, &raw, &digest).map(drop))
            });
            if let Err(error) = sound {
                let why = std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), |s| s.to_string());
                report
                    .findings
                    .push(format!("{name}: chunk {digest}: {why}"));
                report.damaged.push(digest);
            }
            progress.add_bytes(location.length.into());
        }
        progress.add_file();
        Ok(report)
    }

    /// The frames of a pack as its footer lists them; where that is damaged, as the index has them.
    fn frames_of(
        &self,
        pack: PackId,
        name: &str,
        report: &mut Report,
    ) -> Result<Vec<(Digest, Location)>> {
        let storage = &self.core.storage;
        let listed = storage
            .open(name)
            .map_err(self.core.io("open", name))
            .and_then(|file| records(&*file, name, &storage.place(), self.core.datastore));
        match listed {
            Ok(Some((records, true))) => {
                let place = |r: &Record| Location {
                    pack,
                    offset: r.offset,
                    length: r.length,
                    plain_len: r.plain_len,
                    kind: r.kind,
                    broken: false,
                };
                Ok(records.iter().map(|r| (r.digest, place(r))).collect())
            }
            other => {
                let why = other
                    .err()
                    .map_or("its header or footer is damaged".into(), |e| e.to_string());
                report.findings.push(format!("{name}: {why}"));
                self.core.index.frames_of(pack)
            }
        }
    }

    /// Notes the snapshots that cannot be restored whole; answers every chunk that is damaged or
    /// leads to what is.
    fn affected(&self, report: &mut Report) -> Result<Vec<Digest>> {
        let damaged: HashSet<Digest> = report.damaged.iter().copied().collect();
        let mut sound: HashMap<Digest, bool> = HashMap::new();
        for id in self.core.snapshot_ids()? {
            match self.core.snapshot(id) {
                Err(error) => {
                    report.findings.push(format!("snapshot {id}: {error}"));
                    report.snapshots.push(id);
                }
                Ok(snapshot) => {
                    let root = snapshot.clear.root;
                    self.walk(root, &damaged, &mut sound)?;
                    if !sound[&root] {
                        report
                            .findings
                            .push(format!("snapshot {id}: not all of it can be restored"));
                        report.snapshots.push(id);
                    }
                }
            }
        }
        let unsound = sound
            .iter()
            .filter(|(_, sound)| !**sound)
            .map(|(digest, _)| *digest);
        Ok(unsound.chain(damaged.iter().copied()).collect())
    }

    /// Decides for everything below `root` whether it is whole. References that lead deeper than any
    /// tree are no tree's, and would be held in memory all at once.
    fn walk(
        &self,
        root: Digest,
        damaged: &HashSet<Digest>,
        sound: &mut HashMap<Digest, bool>,
    ) -> Result<()> {
        let mut stack = vec![(root, None::<Vec<Digest>>)];
        let mut depth = 0;
        while let Some((digest, refs)) = stack.pop() {
            match refs {
                Some(refs) => {
                    depth -= 1;
                    let whole = refs.iter().all(|r| sound.get(r) == Some(&true));
                    sound.insert(digest, whole);
                }
                None if sound.contains_key(&digest) => {}
                None => match self.core.index.find(&digest)? {
                    Some(location) if !damaged.contains(&digest) => {
                        if !location.kind.has_refs() {
                            sound.insert(digest, true);
                            continue;
                        }
                        match self.core.read_refs(&digest) {
                            Ok(_) if depth == DEEPEST => {
                                // nothing is decided of what leads here but that the root does
                                for (digest, refs) in &stack {
                                    if refs.is_some() {
                                        sound.remove(digest);
                                    }
                                }
                                sound.insert(root, false);
                                return Ok(());
                            }
                            Ok((_, refs)) => {
                                depth += 1;
                                // a frame that leads back to itself is not whole
                                sound.insert(digest, false);
                                let open: Vec<_> = refs
                                    .iter()
                                    .filter(|r| !sound.contains_key(r))
                                    .copied()
                                    .collect();
                                stack.push((digest, Some(refs)));
                                stack.extend(open.into_iter().map(|d| (d, None)));
                            }
                            Err(_) => drop(sound.insert(digest, false)),
                        }
                    }
                    _ => drop(sound.insert(digest, false)),
                },
            }
        }
        Ok(())
    }
}
