//! What each operation of `strongroom store` takes on a datastore of very many chunks: seconds, and the
//! most memory. The chunks are of eight bytes, so that a hundred million of them fit on a disk; what is
//! kept about a chunk does not depend on its length.

use crate::corpus::remove;
use crate::measure::{self, quietly};
use anyhow::{Result, bail, ensure};
use engine::storage::directory::Directory;
use engine::{Chunks, LongContent, Memory, Options, SnapshotMeta, SnapshotWriter, Store};
use filetree::specimen::random::Random;
use format::entry::{Entry, Extent, Kind, Timestamp};
use format::snapshot::Details;
use format::superblock::Profile;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Entries of a directory.
const WIDE: u64 = 50_000;
/// Chunks that are put at a time.
const BATCH: u64 = 1 << 16;

/// Makes the datastore, works on it and prints a table; removes everything.
///
/// # Errors
/// The disk is full; an operation failed.
pub(crate) fn run(work: &Path, chunks: u64, pack_size: u32, without: &[String]) -> Result<()> {
    // what an interruption left
    remove(work)?;
    fs::create_dir_all(work.join("small"))?;
    fs::create_dir(work.join("other"))?;
    let measured = work_through(work, chunks, pack_size, without);
    remove(work)?;
    measured
}

fn work_through(work: &Path, chunks: u64, pack_size: u32, without: &[String]) -> Result<()> {
    let began = Instant::now();
    let mut make = Command::new(std::env::current_exe()?);
    make.args(["scale", "--make", &chunks.to_string()]);
    let made = quietly(make.args(["--pack-size", &pack_size.to_string()]))?;
    let ids: Vec<&str> = made.lines().collect();
    let [gone, tree, disks, _] = ids[..] else {
        bail!("four snapshots were to be made, not {made}");
    };
    let made = began.elapsed().as_secs_f64();
    println!("{chunks} chunks in packs of {pack_size} bytes, made in {made:.0} s");
    for file in 0..500 {
        for (dir, seed) in [("small", file), ("other", 500 + file)] {
            let noise = Random::new(seed).bytes(20_000);
            fs::write(work.join(format!("{dir}/{file}")), noise)?;
        }
    }
    let before = stats(work)?;
    println!("\n| operation | seconds | CPU seconds | MiB at most |\n|---|---|---|---|");
    let backup = "backup s --key-file k --group small small";
    let restore = |snapshot: &str, path: &str| {
        let target = path.replace('/', "-");
        format!("restore s --key-file k {snapshot} {target} --path {path}")
    };
    for (what, words) in [
        ("stats", "stats s"),
        ("snapshots", "snapshots s --key-file k"),
        ("backup, 500 new files", backup),
        ("backup, unchanged", backup),
        (
            "restore of a small file",
            &restore(tree, "tree/00000000/00000007"),
        ),
        (
            "restore of a wide directory",
            &restore(tree, "tree/00000000"),
        ),
        ("restore of a long file", &restore(disks, "disk-0")),
        ("verify", "verify s"),
        ("verify, with the key", "verify s --key-file k"),
        ("verify --sample 1", "verify s --sample 1"),
        ("repair", "repair s"),
        ("gc, all packs new", "gc s"),
        (
            "backup, 500 others",
            "backup s --key-file k --group other other",
        ),
        ("forget of these", "forget s latest"),
        ("gc, 500 files are garbage", "gc s"),
        ("forget", &format!("forget s {gone}")),
        ("gc --dry-run", "gc s --dry-run"),
        ("gc, a fourth is garbage", "gc s"),
        ("prune", "prune s --keep-last 1"),
        ("gc after prune", "gc s"),
        ("copy", "copy s c"),
        ("recover", "recover s"),
    ] {
        if without.iter().any(|word| what.contains(word.as_str())) {
            continue;
        }
        // what is to be recovered is what was found before
        let expected = (what == "recover").then(|| stats(work)).transpose()?;
        let sample = measure::run(&mut ours(work, words), &work.join("output"))?;
        println!(
            "| {what} | {:.1} | {:.1} | {} |",
            sample.wall,
            sample.cpu,
            sample.peak >> 20
        );
        if let Some(expected) = expected {
            ensure!(
                stats(work)?["chunks"] == expected["chunks"],
                "chunks got lost"
            );
        }
    }
    let number = |name: &str| before[name].as_u64().unwrap_or(0) >> 20;
    println!(
        "\nstats of {} chunks: index memory {} MiB, index disk {} MiB",
        before["chunks"],
        number("index_memory"),
        number("index_disk")
    );
    Ok(())
}

fn ours(work: &Path, words: &str) -> Command {
    let mut command = Command::new("strongroom");
    command
        .arg("store")
        .args(words.split(' '))
        .current_dir(work);
    command.env("XDG_CACHE_HOME", work.join("caches"));
    command
}

fn stats(work: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&quietly(&mut ours(
        work,
        "stats s --json",
    ))?)?)
}

/// Half of the chunks are of disks, an eighth of what the second backup of the disks has more, an eighth
/// of files of one chunk, a fourth of what will be garbage. Prints the ids of the snapshots.
///
/// # Errors
/// The disk is full.
pub(crate) fn make(work: &Path, chunks: u64, pack_size: u32) -> Result<()> {
    let keys = Store::new_keyset()?;
    let mut file = fs::OpenOptions::new();
    let mut file = file
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(work.join("k"))?;
    file.write_all(keys.to_text().as_bytes())?;
    let directory = Directory::create(&work.join("s"))?;
    let superblock = Store::superblock_for(&keys, Profile::Site);
    // with room to be fast: this is not what is measured
    let options = Options {
        pack_size,
        memory: Memory::new(1 << 30),
        index_batch: 1 << 20,
        ..Options::default()
    };
    let store = Store::init(Arc::new(directory), superblock, options)?;
    store.unlock(&keys)?;
    let eighth = chunks / 8;
    let part = |number: u64| number * eighth..(number + 1) * eighth;
    let mut gone = Maker::begin(&store, "gone")?;
    gone.file("disk", 6 * eighth..8 * eighth)?;
    gone.commit()?;
    let mut tree = Maker::begin(&store, "tree")?;
    tree.directory("tree")?;
    for (number, from) in (0..eighth).step_by(WIDE as usize).enumerate() {
        let name = format!("tree/{number:08}");
        tree.directory(&name)?;
        let to = (from + WIDE).min(eighth);
        let extents = tree.put(5 * eighth + from..5 * eighth + to)?;
        for (file, extent) in extents.into_iter().enumerate() {
            tree.entry(&format!("{name}/{file:08}"), Kind::File, vec![extent])?;
        }
    }
    tree.commit()?;
    for changed in [0, 4] {
        let mut generation = Maker::begin(&store, "disks")?;
        for disk in [changed, 1, 2, 3].into_iter().enumerate() {
            generation.file(&format!("disk-{}", disk.0), part(disk.1))?;
        }
        generation.commit()?;
    }
    Ok(())
}

/// A backup of what nobody has.
struct Maker {
    writer: SnapshotWriter,
    /// Of each thread.
    chunks: Vec<Chunks>,
}

impl Maker {
    fn begin(store: &Store, group: &str) -> Result<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let meta = SnapshotMeta {
            time: Timestamp {
                seconds: now.as_secs().cast_signed(),
                nanos: now.subsec_nanos(),
            },
            parent: None,
            details: Details {
                group: group.to_owned(),
                ..Details::default()
            },
        };
        let writer = store.begin(meta, Arc::default())?;
        let chunks = (0..measure::cores()).map(|_| writer.chunks()).collect();
        let mut this = Self { writer, chunks };
        this.directory("")?;
        Ok(this)
    }

    /// Stores chunks of these numbers.
    fn put(&mut self, numbers: Range<u64>) -> Result<Vec<Extent>> {
        let share = (numbers.end - numbers.start)
            .div_ceil(self.chunks.len() as u64)
            .max(1);
        let starts = numbers.clone().step_by(share as usize);
        let work = |chunks: &mut Chunks, start: u64| {
            let put = |number: u64| -> engine::Result<Extent> {
                let digest = chunks.put(&number.to_le_bytes())?;
                Ok(Extent::Data { digest, length: 8 })
            };
            let end = (start + share).min(numbers.end);
            (start..end).map(put).collect::<engine::Result<Vec<_>>>()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (self.chunks.iter_mut().zip(starts))
                .map(|(chunks, start)| scope.spawn(move || work(chunks, start)))
                .collect();
            let mut extents = Vec::new();
            for thread in threads {
                let put = thread
                    .join()
                    .unwrap_or_else(|p| std::panic::resume_unwind(p));
                extents.extend(put?);
            }
            Ok(extents)
        })
    }

    /// Adds a file of very many chunks.
    fn file(&mut self, path: &str, numbers: Range<u64>) -> Result<()> {
        let mut content = LongContent::default();
        for from in numbers.clone().step_by(BATCH as usize) {
            let extents = self.put(from..(from + BATCH).min(numbers.end))?;
            self.writer.extend(&mut content, extents)?;
        }
        let mut entry = entry(path, Kind::File);
        self.writer.add_long(&mut entry, content)?;
        Ok(())
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, Kind::Directory, Vec::new())
    }

    fn entry(&mut self, path: &str, kind: Kind, content: Vec<Extent>) -> Result<()> {
        let mut entry = entry(path, kind);
        entry.size = 8 * content.len() as u64;
        entry.content = content;
        self.writer.add_entry(&entry)?;
        Ok(())
    }

    fn commit(self) -> Result<()> {
        let snapshot = self.writer.commit(None)?;
        println!("{}", snapshot.clear.id);
        Ok(())
    }
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        mode: if kind == Kind::Directory {
            0o755
        } else {
            0o644
        },
        kind,
        uid: 0,
        gid: 0,
        user: Vec::new(),
        group: Vec::new(),
        modified: Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        },
        xattrs: Vec::new(),
        size: 0,
        content: Vec::new(),
    }
}
