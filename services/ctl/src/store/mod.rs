//! `strongroom store`: a datastore in a plain directory, for rescue, tests and benchmarks.

mod backup;
mod copy;
mod forget;
mod keyfile;
mod list;
pub(crate) mod meter;
mod mount;
mod repair;
mod reread;
mod restore;
mod stats;
mod work;

use crate::appliance::show;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use engine::storage::Storage;
use engine::storage::directory::Directory;
use engine::storage::read_only::ReadOnly;
use engine::{Options, Progress, SnapshotInfo, Store, Unreadable};
use format::superblock::Profile;
use format::{GroupId, SnapshotId};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// What can be done with a datastore's directory. Exit status: 0 done; 1 done, but something was
/// skipped or found damaged, and is listed; 2 refused or failed.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a datastore, and its key file unless there is one
    Init {
        /// The datastore's directory, empty or not there yet
        dir: PathBuf,
        /// The key file. Without it nothing can be restored: keep a copy elsewhere
        #[arg(long)]
        key_file: PathBuf,
        /// Which end of an offsite copy it is
        #[arg(long, default_value = "site")]
        profile: End,
    },
    /// Back up files and directories as a new snapshot
    Backup(backup::Backup),
    /// Snapshots, newest first
    Snapshots(list::Snapshots),
    /// Restore a snapshot into a directory
    Restore(restore::Restore),
    /// Show all snapshots as read-only directories: GROUP/TIME, GROUP/latest, .ids/ID. Stays until it is
    /// unmounted, and has the datastore to itself until then: snapshots made later are in the next mount
    Mount(mount::Mount),
    /// Read every byte and find what is damaged; with the key, also what opens to something else
    Verify(list::Verify),
    /// Verify, and heal what is damaged or missing, from another copy if there is one; needs no key
    Repair(repair::Repair),
    /// Copy the snapshots that another copy of the datastore lacks; needs no key
    Copy(copy::Copy),
    /// Remove snapshots
    Forget(forget::Forget),
    /// Remove the snapshots that no rule keeps
    Prune(forget::Prune),
    /// Free what no snapshot needs any more; needs no key
    Gc {
        /// The datastore's directory
        dir: PathBuf,
        /// Say what would be freed, and free nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Keep a snapshot from being removed before a time
    Lock(forget::Lock),
    /// Sums over all snapshots and chunks, and for each group
    Stats(stats::Stats),
    /// Make the index anew from the packs; needs no key
    Recover {
        /// The datastore's directory
        dir: PathBuf,
    },
}

/// The two ends of an offsite copy.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum End {
    /// Takes backups
    Site,
    /// Holds copies
    Centre,
}

/// A datastore and the key that opens it.
#[derive(Args)]
pub(crate) struct Unlocked {
    /// The datastore's directory
    dir: PathBuf,
    /// Its key file
    #[arg(long)]
    key_file: PathBuf,
}

/// How far a command that did not fail came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is done and well.
    Done,
    /// Something was skipped or found damaged; it was listed.
    Incomplete,
}

/// Lets each thread have the files open that it works with; a shell's usual 1024 are for programs that
/// `select`. Without it large machines with many packs would do with what they have.
fn open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
}

/// Runs one command; the error's text is for the operator.
pub(crate) fn run(command: Command, json: bool) -> Result<Outcome> {
    open_many_files();
    match command {
        Command::Init {
            dir,
            key_file,
            profile,
        } => init(&dir, &key_file, profile, json),
        Command::Backup(backup) => backup.run(json),
        Command::Snapshots(snapshots) => snapshots.run(json),
        Command::Restore(restore) => restore.run(json),
        Command::Mount(mount) => mount.run(json),
        Command::Verify(verify) => verify.run(json),
        Command::Repair(repair) => repair.run(json),
        Command::Forget(forget) => forget.run(json),
        Command::Prune(prune) => prune.run(json),
        Command::Gc { dir, dry_run } => forget::gc(&dir, dry_run, json),
        Command::Lock(lock) => lock.run(json),
        Command::Copy(copy) => copy.run(json),
        Command::Stats(stats) => stats.run(json),
        Command::Recover { dir } => list::recover(&dir, json),
    }
}

fn init(dir: &Path, key_file: &Path, profile: End, json: bool) -> Result<Outcome> {
    let profile = match profile {
        End::Site => Profile::Site,
        End::Centre => Profile::Centre,
    };
    let fresh = !key_file.exists();
    let keyset = if fresh {
        let keyset = Store::new_keyset()?;
        // before the datastore: one without its key would be of no use
        keyfile::create(key_file, &keyset)?;
        keyset
    } else {
        keyfile::read(key_file)?
    };
    let made = Directory::create(dir)
        .with_context(|| format!("{} cannot be made", dir.display()))
        .and_then(|directory| {
            let superblock = Store::superblock_for(&keyset, profile);
            let store = Store::init(Arc::new(directory), superblock, options())?;
            Ok(store.datastore())
        });
    let datastore = match made {
        Ok(datastore) => datastore,
        Err(error) => {
            if fresh {
                // nothing was ever encrypted with it
                let _ = std::fs::remove_file(key_file);
            }
            return Err(error);
        }
    };
    answer(
        json,
        json!({ "datastore": datastore.to_string(), "key_file_made": fresh }),
        || {
            println!("Datastore {datastore} is ready in {}.", dir.display());
            if fresh {
                println!(
                    "Its key is in {}. Without that file nothing can be restored: keep a copy elsewhere.",
                    key_file.display()
                );
            } else {
                println!(
                    "Its key in {} was there already, so it is another copy of that key's datastore: `strongroom store copy` \
                     fills it. For a datastore of its own name a key file that is not there yet.",
                    key_file.display()
                );
            }
        },
    )?;
    Ok(Outcome::Done)
}

/// A datastore's directory that exists.
fn at(dir: &Path) -> Result<Arc<Directory>> {
    Ok(Arc::new(
        Directory::open(dir).with_context(|| unusable(dir))?,
    ))
}

/// Refuses a path within the datastore, where nothing of others belongs.
fn refuse_within(dir: &Path, path: &Path) -> Result<()> {
    let own = std::fs::canonicalize(dir).ok();
    let path = std::path::absolute(path)?;
    // it need not be there yet
    let there = path.ancestors().find_map(|p| std::fs::canonicalize(p).ok());
    if own
        .zip(there)
        .is_some_and(|(own, there)| there.starts_with(own))
    {
        bail!(
            "{} is in the datastore; choose a place outside of it",
            path.display()
        );
    }
    Ok(())
}

fn unusable(dir: &Path) -> String {
    format!("{} cannot be opened as a datastore", dir.display())
}

/// How datastores are opened: all of this process share the memory for their indexes.
fn options() -> Options {
    static SHARED: LazyLock<Options> = LazyLock::new(Options::default);
    SHARED.clone()
}

fn open(dir: &Path) -> Result<Store> {
    open_at(dir, at(dir)?)
}

fn open_at(dir: &Path, storage: Arc<dyn Storage>) -> Result<Store> {
    let (store, anew) = opening(dir, |options| Store::open(storage, options))?;
    if anew {
        eprintln!("strongroom: the index of {} was made anew", dir.display());
    }
    Ok(store)
}

/// Opens a datastore, and shows how far its index is where that is made anew; also whether it was.
fn opening<T>(dir: &Path, open: impl FnOnce(Options) -> engine::Result<T>) -> Result<(T, bool)> {
    let progress = Arc::new(Progress::default());
    let options = Options {
        opening: progress.clone(),
        ..options()
    };
    let kept = format!(
        "{} was being opened, and nothing else was done",
        dir.display()
    );
    let opened = work::run(&progress, &Arc::default(), &kept, || {
        let opened = open(options)?;
        progress.check()?;
        Ok::<_, engine::Error>(opened)
    })?;
    Ok((opened, progress.counts().expected > 0))
}

/// Opens a datastore of which nothing is to be changed: as it is, where nothing can be written.
fn open_to_read(dir: &Path) -> Result<Store> {
    let is_read_only = |error: &anyhow::Error| {
        let error = error.downcast_ref();
        error.is_some_and(engine::Error::is_read_only)
    };
    let error = match open(dir) {
        Err(error) if is_read_only(&error) => error,
        opened => return opened,
    };
    eprintln!(
        "strongroom: {} is read as it is, since nothing can be written there: {}",
        dir.display(),
        error.root_cause()
    );
    let directory = Directory::open_to_read(dir).with_context(|| unusable(dir))?;
    open_at(dir, Arc::new(ReadOnly::new(directory)))
}

fn open_with_key(
    dir: &Path,
    key_file: Option<&Path>,
    open: fn(&Path) -> Result<Store>,
) -> Result<Store> {
    // the key first: a datastore is taken for as short as possible
    let keyset = key_file.map(keyfile::read).transpose()?;
    let store = open(dir)?;
    if let Some(keyset) = &keyset {
        store.unlock(keyset)?;
    }
    Ok(store)
}

impl Unlocked {
    fn open(&self) -> Result<Store> {
        open_with_key(&self.dir, Some(&self.key_file), open)
    }

    fn open_to_read(&self) -> Result<Store> {
        open_with_key(&self.dir, Some(&self.key_file), open_to_read)
    }
}

/// What a table calls a snapshot's group: its name needs the key, the beginning of its id tells it
/// from others without.
fn group(snapshot: &SnapshotInfo) -> String {
    let name = snapshot.details.as_ref().map(|details| &*details.group);
    group_of(name, &snapshot.clear.group)
}

fn group_of(name: Option<&str>, id: &GroupId) -> String {
    name.map_or_else(|| id.to_string()[..8].to_owned(), str::to_owned)
}

/// The snapshot of this id, of the only id that begins so, or the newest one for `latest`.
fn resolve(store: &Store, name: &str) -> Result<SnapshotInfo> {
    Ok(store.snapshot(resolve_id(store, name)?)?)
}

/// As [`resolve`]; it may be one that cannot be read.
fn resolve_id(store: &Store, name: &str) -> Result<SnapshotId> {
    if name == "latest" {
        let (snapshots, _) = store.snapshots()?;
        let newest = snapshots.first().map(|s| s.clear.id);
        return newest
            .context("the datastore has no snapshot that can be read; make one by a backup");
    }
    if name.is_empty() {
        bail!("a snapshot is named by its id; `strongroom store snapshots` lists them");
    }
    let wanted = name.to_ascii_lowercase();
    let mut matching = store.snapshot_ids()?;
    matching.retain(|id| id.to_string().starts_with(&wanted));
    match matching[..] {
        [only] => Ok(only),
        [] => bail!("there is no snapshot {name}; `strongroom store snapshots` lists them"),
        _ => bail!("several snapshots begin with \"{name}\"; write more of the id"),
    }
}

/// One JSON document, or what `human` prints.
fn answer(json: bool, document: Value, human: impl FnOnce()) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        human();
    }
    Ok(())
}

/// A path in JSON: text where it is UTF-8, else its bytes.
fn path_json(path: &[u8]) -> Value {
    match std::str::from_utf8(path) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": data_encoding::HEXLOWER.encode(path) }),
    }
}

/// Ids in JSON.
fn texts(ids: &[impl ToString]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// How many times as large the first is, `3.4:1`, where it is larger.
fn ratio(whole: u64, part: u64) -> Option<String> {
    let times = whole as f64 / part as f64;
    (part > 0 && times >= 1.05).then(|| format!("{times:.1}:1"))
}

/// A ratio after what was stored, if there is any.
fn in_parentheses(whole: u64, part: u64) -> String {
    ratio(whole, part).map_or_else(String::new, |ratio| format!(" ({ratio})"))
}

/// A sentence for each snapshot that cannot be read.
fn unread(snapshots: Unreadable) -> Vec<String> {
    let sentence = |(id, error)| format!("snapshot {id}: {:#}", anyhow::Error::from(error));
    snapshots.into_iter().map(sentence).collect()
}

fn tell_unread(sentences: &[String]) {
    let count = sentences.len() as u64;
    if count > 0 {
        eprintln!("{} cannot be read:", show::count(count, "snapshot"));
        tell(sentences, count);
    }
}

/// What was left out or found, one a line; there may be more than are listed.
pub(crate) fn tell(problems: &[String], count: u64) {
    for problem in problems {
        eprintln!("  {problem}");
    }
    let more = count.saturating_sub(problems.len() as u64);
    if more > 0 {
        eprintln!("  and {more} more");
    }
}

fn outcome(problems: u64) -> Outcome {
    if problems == 0 {
        Outcome::Done
    } else {
        Outcome::Incomplete
    }
}
