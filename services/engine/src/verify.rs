//! Re-reading everything: without keys every byte's integrity, with keys every chunk's content.
//!
//! Each frame is read where its pack has it, and each reference of a metadata frame is looked up in the
//! index. Where every frame is sound and every reference leads somewhere, all that a root leads to is
//! whole, so the trees are not walked. Only where something is damaged or missing they are, from below
//! ([`affected`]), and then the memory that takes is in proportion to what is.

mod affected;
mod lost;

pub use lost::Lost;

use crate::Store;
use crate::core::{Keys, frame_error, open_frame, pack_name, random};
use crate::error::{Result, unless_full};
use crate::index::Location;
use crate::progress::Progress;
use format::frame::Frame;
use format::pack::Record;
use format::{Digest, PackId, SnapshotId};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Most findings that get a sentence; the others are counted.
const MAX_FINDINGS: usize = 10_000;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Frames looked at.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of all frames that are there.
    pub stored: u64,
    /// Chunks whose frame is damaged, sorted.
    pub damaged: Vec<Digest>,
    /// Packs whose header or footer is damaged.
    pub torn: Vec<PackId>,
    /// Packs of which anything is damaged, be it needed or not.
    pub packs: Vec<PackId>,
    /// Chunks that a sound frame refers to and that are nowhere, sorted.
    pub missing: Vec<Digest>,
    /// Snapshots that need one of these, and snapshots that cannot be read themselves.
    pub snapshots: Vec<SnapshotId>,
    /// Of those that can be read, which files are lost; with the key only, and not by a repair.
    pub lost: Vec<Lost>,
    /// A sentence for each thing found, at most 10,000.
    pub findings: Vec<String>,
    /// How many things were found.
    pub finding_count: u64,
}

impl Report {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.finding_count == 0
    }

    fn find(&mut self, sentence: String) {
        self.finding_count += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(sentence);
        }
    }

    fn add(&mut self, other: Report) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.stored += other.stored;
        self.damaged.extend(other.damaged);
        self.missing.extend(other.missing);
        self.torn.extend(other.torn);
        self.packs.extend(other.packs);
        let listed = other.findings.len() as u64;
        other.findings.into_iter().for_each(|f| self.find(f));
        self.finding_count += other.finding_count - listed;
    }
}

pub(crate) type Frames = Vec<(Digest, Location)>;

/// What is read of packs.
struct Scan<'a> {
    store: &'a Store,
    keys: Option<Arc<Keys>>,
    /// Of data, this part.
    share: f64,
    progress: &'a Progress,
}

/// Chooses each frame with the same chance, and evenly: damage that is longer than the gaps between
/// those that are read is found for certain.
struct Sample {
    share: f64,
    due: f64,
}

impl Sample {
    fn new(share: f64) -> Result<Self> {
        let start = u64::from_le_bytes(random()?) as f64 / 2f64.powi(64);
        // one that is chosen for certain needs no chance, and no rounding
        let due = if share < 1.0 { start } else { 0.0 };
        Ok(Self { share, due })
    }

    /// Whether the next one is read.
    fn takes(&mut self) -> bool {
        self.due += self.share;
        let takes = self.due >= 1.0;
        self.due -= f64::from(u8::from(takes));
        takes
    }
}

impl Store {
    /// Reads every frame of every pack. `progress` counts bytes, and packs as files. Damaged chunks
    /// are kept from being deduplicated against, so that the next backup stores them anew.
    ///
    /// # Errors
    /// Cancelled; the index is damaged, or a directory cannot be read. Damage of what cannot be made
    /// anew is none, but in the report.
    pub fn verify(&self, progress: &Progress) -> Result<Report> {
        self.verify_sample(100.0, progress)
    }

    /// As [`Store::verify`], but of data only so many percent of the frames, chosen by chance anew
    /// each time. All metadata is read: everything hangs on it, and there is little of it.
    ///
    /// # Errors
    /// As there.
    pub fn verify_sample(&self, percent: f64, progress: &Progress) -> Result<Report> {
        let _hold = self.core.hold()?;
        let (mut report, bad) = self.examine(percent, progress)?;
        if let Ok(keys) = self.core.keys() {
            report.lost = self.lost(&bad, &report.snapshots, &keys, progress)?;
        }
        Ok(report)
    }

    /// Verifies but for the names of what is lost, and marks what is damaged or leads to it; which that
    /// is, too.
    pub(crate) fn examine(
        &self,
        percent: f64,
        progress: &Progress,
    ) -> Result<(Report, HashSet<Digest>)> {
        let _hold = self.core.hold()?;
        self.core.index.check()?;
        let scan = Scan {
            store: self,
            keys: self.core.keys().ok(),
            share: (percent / 100.0).clamp(0.0, 1.0),
            progress,
        };
        let packs: Vec<PackId> = self.core.index.packs()?;
        let next = AtomicUsize::new(0);
        let sum = Mutex::new((Report::default(), Vec::new()));
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(pack) = packs.get(at) else {
                        return Ok(());
                    };
                    progress.check()?;
                    let (found, refers) = scan.pack(*pack)?;
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.0.add(found);
                    sum.1.extend(refers.then_some(at));
                }
            };
            let workers = self.core.options.threads.max(1);
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            // all are waited for before the first failure is told
            let ends: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
            ends.into_iter()
                .try_for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let (mut report, mut metadata) = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
        for list in [&mut report.damaged, &mut report.missing] {
            list.sort_unstable();
            list.dedup();
        }
        if let Some(first) = report.missing.first() {
            report.find(match report.missing.len() {
                1 => format!("chunk {first} is nowhere, but something refers to it"),
                count => format!(
                    "{count} chunks are nowhere, but something refers to them; the first is {first}"
                ),
            });
        }
        // in the order they were written, so that what refers comes after what it refers to
        metadata.sort_unstable();
        let metadata: Vec<PackId> = metadata.into_iter().map(|at| packs[at]).collect();
        let bad = report.damaged.iter().chain(&report.missing).copied();
        let bad = self.leading_to(bad.collect(), &metadata, progress)?;
        self.affected(&bad, &mut report)?;
        report.snapshots.sort_unstable();
        if !bad.is_empty() {
            let (index, bad) = (&self.core.index, Vec::from_iter(bad.iter().copied()));
            // that the index failed before may only show when it is written to
            let marked = index.mark_broken(&bad).or_else(|_| {
                self.reopen_index()?;
                index.mark_broken(&bad)
            });
            if unless_full(marked)?.is_none() || !self.core.storage.keeps() {
                report.find(
                    "what is damaged cannot be noted where nothing can be written: verify again once it can, \
                     before the next backup, lest that lean on it"
                        .into(),
                );
            }
        }
        for found in self.core.damaged_locks()? {
            report.find(found);
        }
        for found in self.core.foreign()? {
            report.find(found);
        }
        report.missing.sort_unstable();
        report.missing.dedup();
        report.findings.sort_unstable();
        Ok((report, bad))
    }

    /// The frames of a pack as its footer lists them; where that is damaged, as the index has them,
    /// with what is wrong.
    pub(crate) fn frames_of(&self, pack: PackId) -> Result<(Frames, Option<String>)> {
        match self.listed(pack) {
            Ok(Some(records)) => {
                let place = |r: &Record| Location {
                    pack,
                    offset: r.offset,
                    length: r.length,
                    plain_len: r.plain_len,
                    kind: r.kind,
                    broken: false,
                };
                let frames = records.iter().map(|r| (r.digest, place(r)));
                Ok((frames.collect(), None))
            }
            // gone since: a collection moved what was needed of it
            _ if !self.core.index.packs()?.contains(&pack) => Ok((Vec::new(), None)),
            other => {
                let why = other
                    .err()
                    .map_or("its header or footer is damaged".into(), |e| e.to_string());
                Ok((self.core.index.frames_of(pack)?, Some(why)))
            }
        }
    }

    /// What the footer of a pack lists; `None` where that or the header is damaged.
    pub(crate) fn listed(&self, pack: PackId) -> Result<Option<Vec<Record>>> {
        let found = self.core.records_of(pack)?;
        Ok(found.and_then(|(records, whole)| whole.then_some(records)))
    }
}

impl Scan<'_> {
    /// Reads a pack; also says whether frames of it refer to others.
    fn pack(&self, pack: PackId) -> Result<(Report, bool)> {
        let mut report = Report::default();
        let name = pack_name(pack);
        let (frames, problem) = self.store.frames_of(pack)?;
        let mut whole = problem.is_none();
        if let Some(problem) = problem {
            report.find(format!("{name}: {problem}"));
            report.torn.push(pack);
        }
        let mut sample = Sample::new(self.share)?;
        let (mut refers, mut first) = (false, None);
        for (digest, location) in frames {
            self.progress.check()?;
            report.stored += u64::from(location.length);
            refers |= location.kind.has_refs();
            if location.kind.has_refs() || sample.takes() {
                report.frames += 1;
                report.bytes += u64::from(location.length);
                let (sound, problem) = self.frame(&digest, &location, &mut report.missing)?;
                whole &= sound;
                if let Some(problem) = problem {
                    first.get_or_insert((digest, problem));
                    report.damaged.push(digest);
                }
            }
            self.progress.add_bytes(location.length.into());
        }
        if let Some((digest, why)) = first {
            report.find(match report.damaged.len() {
                1 => format!("{name}: chunk {digest}: {why}"),
                count => {
                    format!("{name}: {count} chunks are damaged; the first is {digest}: {why}")
                }
            });
        }
        self.progress.add_file();
        report.packs.extend((!whole).then_some(pack));
        Ok((report, refers))
    }

    /// Reads a frame; whether it is sound, what is wrong with it, and what it refers to in vain. Of a
    /// frame that nothing finds, for it is garbage or was stored anew elsewhere, nothing is wrong.
    fn frame(
        &self,
        digest: &Digest,
        location: &Location,
        missing: &mut Vec<Digest>,
    ) -> Result<(bool, Option<String>)> {
        let core = &self.store.core;
        let here = |l: &Location| l.pack == location.pack && l.offset == location.offset;
        let used = || Ok::<_, crate::Error>(core.index.find(digest)?.as_ref().is_some_and(here));
        let sound = core.read_sound(digest, location).and_then(|raw| {
            let opened = self
                .keys
                .as_ref()
                .map(|keys| open_frame(keys, &raw, digest));
            opened.transpose().map(|_| raw)
        });
        let raw = match sound {
            Ok(raw) => raw,
            Err(error) if used()? => {
                let why = std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), |s| s.to_string());
                return Ok((false, Some(why)));
            }
            Err(_) => return Ok((false, None)),
        };
        if location.kind.has_refs() && used()? {
            let frame = Frame::parse_unchecked(&raw).map_err(frame_error(*digest))?;
            let mut nowhere = Vec::new();
            for needed in frame.refs() {
                if core.index.find(&needed)?.is_none() {
                    nowhere.push(needed);
                }
            }
            // what it refers to may go when it does
            if !nowhere.is_empty() && used()? {
                missing.extend(nowhere);
            }
        }
        Ok((true, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::SNAPSHOTS;
    use crate::storage::simulated::Simulated;
    use format::frame::{Compression, Draft, Kind};
    use format::pack::{PackHeader, encode_footer};
    use format::snapshot::{Clear, Details, Unsigned};
    use format::superblock::Profile;

    /// Stores frames that refer to what they like; the index takes them as they are.
    fn put(store: &Store, id: u8, frames: &[(Digest, &[Digest])]) {
        let keys = store.core.keys().unwrap();
        let header = PackHeader {
            datastore: store.datastore(),
            pack: PackId([id; 16]),
        };
        let (mut pack, mut records) = (header.encode().to_vec(), Vec::new());
        for (digest, refs) in frames {
            let (offset, nonce) = (pack.len() as u32, random().unwrap());
            let mut draft = Draft::begin(&mut pack, Kind::Node, *digest, 1, refs, 1, nonce);
            draft.payload().push(0);
            let sealed = draft.seal(Compression::None, &keys.frames).unwrap();
            records.push(Record::of(&sealed, offset));
        }
        pack.extend(encode_footer(&header, &records));
        let file = store.core.storage.create(&pack_name(header.pack)).unwrap();
        file.write_at(&pack, 0).unwrap();
        store.core.index.add_pack(header.pack, &records, 0).unwrap();
    }

    fn snapshot(store: &Store, like: &Clear, id: u8, root: Digest) -> SnapshotId {
        let clear = Clear {
            id: SnapshotId([id; 16]),
            root,
            ..like.clone()
        };
        let keys = store.core.keys().unwrap();
        let made = Unsigned::new(&clear, &Details::default(), &keys.frames, [0; 24]).unwrap();
        let name = crate::read::snapshot_name(clear.id);
        store
            .core
            .write_whole(SNAPSHOTS, &name, &made.finish(None))
            .unwrap();
        clear.id
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_found_and_traced_upwards() {
        let keys = Store::new_keyset().unwrap();
        let disk = Simulated::new();
        let superblock = Store::superblock_for(&keys, Profile::Site);
        let store = Store::init(Arc::new(disk), superblock, crate::Options::default()).unwrap();
        store.unlock(&keys).unwrap();
        let [leaf, node, root, gone, sound, other] = [1, 2, 3, 4, 5, 6].map(|n| Digest([n; 32]));
        // what refers lies before what it refers to
        put(&store, 1, &[(root, &[sound, node])]);
        put(&store, 2, &[(node, &[leaf, leaf]), (sound, &[])]);
        put(&store, 3, &[(leaf, &[sound, gone]), (other, &[sound])]);
        let begun = store.begin(Default::default(), Arc::default()).unwrap();
        let like = begun.commit(None).unwrap().clear;
        let affected = snapshot(&store, &like, 1, root);
        snapshot(&store, &like, 2, other);
        let nowhere = Digest([9; 32]);
        let rootless = snapshot(&store, &like, 3, nowhere);
        // whoever has the key sees that their digests are made up
        store.lock();
        let report = store.verify(&Progress::default()).unwrap();
        assert_eq!(
            (report.damaged, report.missing),
            (vec![], vec![gone, nowhere])
        );
        assert_eq!(report.snapshots, [affected, rootless]);
        assert_eq!(report.finding_count, 3, "{:?}", report.findings);
        assert_eq!(report.findings.len(), 3);
        let usable = store.has(&[leaf, node, root, sound, other]).unwrap();
        assert_eq!(usable, [false, false, false, true, true]);
    }

    #[test]
    fn findings_beyond_the_most_are_counted() {
        let mut report = Report::default();
        for part in 0..3u64 {
            let mut found = Report::default();
            (0..5000).for_each(|n| found.find(format!("{part} {n}")));
            report.add(found);
        }
        assert_eq!(
            (report.findings.len(), report.finding_count),
            (10_000, 15_000)
        );
    }

    #[test]
    fn a_sample_is_as_large_as_it_says_and_leaves_no_long_gap() {
        for (share, count) in [(0.0, 0), (0.05, 50), (0.5, 500), (1.0, 1000)] {
            for _ in 0..50 {
                let mut sample = Sample::new(share).unwrap();
                let taken: Vec<usize> = (0..1000).filter(|_| sample.takes()).collect();
                assert!(taken.len().abs_diff(count) <= 1, "{share}: {}", taken.len());
                let longest = taken.windows(2).map(|w| w[1] - w[0]).max();
                assert!(longest.unwrap_or(0) as f64 * share <= 1.0 + share);
            }
        }
    }

    #[test]
    fn every_frame_is_chosen_as_often() {
        let mut counts = [0; 30];
        for _ in 0..30_000 {
            let mut sample = Sample::new(0.1).unwrap();
            for count in &mut counts {
                *count += u32::from(sample.takes());
            }
        }
        // 3000 each; off by 400 once in 10^13
        assert!(
            counts.iter().all(|c| (2600..3400).contains(c)),
            "{counts:?}"
        );
    }
}
