//! `strongroom store snapshots`, `verify` and `recover`.

use super::{
    Outcome, answer, at, group, open_to_read, open_with_key, opening, outcome, path_json, show,
    tell, tell_unread, texts, unread, work,
};
use anyhow::Result;
use clap::Args;
use engine::{Lost, Progress, SnapshotInfo, Store};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Which datastore.
#[derive(Args)]
pub(crate) struct Snapshots {
    /// The datastore's directory
    dir: PathBuf,
    /// Its key file, to see names and paths
    #[arg(long)]
    key_file: Option<PathBuf>,
}

impl Snapshots {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let store = open_with_key(&self.dir, self.key_file.as_deref(), open_to_read)?;
        let (snapshots, unreadable) = store.snapshots()?;
        let locks = store.locks()?;
        let until = |s: &SnapshotInfo| locks.get(&s.clear.id).copied();
        let bad = unread(unreadable);
        answer(
            json,
            json!({ "snapshots": snapshots.iter().map(|s| document(s, until(s))).collect::<Vec<_>>(), "unreadable": bad }),
            || {
                let header = [
                    "SNAPSHOT",
                    "TIME",
                    "GROUP",
                    "PATHS",
                    "ENTRIES",
                    "LOGICAL",
                    "NEW",
                    "STORED",
                    "SKIPPED",
                    "LOCKED UNTIL",
                ];
                show::table(
                    &header,
                    &snapshots
                        .iter()
                        .map(|s| row(s, until(s)))
                        .collect::<Vec<_>>(),
                );
                tell_unread(&bad);
            },
        )?;
        Ok(outcome(bad.len() as u64))
    }
}

fn document(snapshot: &SnapshotInfo, locked_until: Option<i64>) -> serde_json::Value {
    let clear = &snapshot.clear;
    let details = snapshot.details.as_ref();
    json!({
        "id": clear.id.to_string(), "time": clear.time.seconds, "nanos": clear.time.nanos,
        "group_id": clear.group.to_string(), "parent": clear.parent.map(|p| p.to_string()),
        "entries": clear.entries, "logical": clear.logical,
        "unique": clear.unique, "stored": clear.stored, "signed": clear.signer.is_some(),
        "locked_until": locked_until,
        "group": details.map(|d| &d.group), "host": details.map(|d| &d.host),
        "source": details.map(|d| &d.source),
        "paths": details.map(|d| d.paths.iter().map(|p| path_json(p)).collect::<Vec<_>>()),
        "problem_count": details.map(|d| d.problem_count),
    })
}

fn row(snapshot: &SnapshotInfo, locked_until: Option<i64>) -> Vec<String> {
    let clear = &snapshot.clear;
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let details = snapshot.details.as_ref();
    let paths = details.map(|d| {
        let shown: Vec<_> = d.paths.iter().map(|p| filetree::shown(p)).collect();
        shown.join(", ")
    });
    vec![
        clear.id.to_string(),
        show::time(clear.time.seconds),
        group(snapshot),
        known(paths),
        clear.entries.to_string(),
        show::size(clear.logical),
        show::size(clear.unique),
        show::size(clear.stored),
        known(details.map(|d| d.problem_count.to_string())),
        known(locked_until.map(show::time)),
    ]
}

/// Said when a verification is.
const INTERRUPTED: &str =
    "nothing was changed, and nothing is known; verify again, or with --sample, which reads less";

/// What to verify.
#[derive(Args)]
pub(crate) struct Verify {
    /// The datastore's directory
    dir: PathBuf,
    /// Its key file: chunks are then opened and their digests computed again
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Of the data, read only so many percent, chosen by chance anew each time; what chunks refer to is
    /// checked of all
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0, value_parser = percent)]
    sample: f64,
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|p| (0.0..=100.0).contains(p));
    percent.ok_or_else(|| "it is a number from 0 to 100".into())
}

impl Verify {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let store = open_with_key(&self.dir, self.key_file.as_deref(), open_to_read)?;
        let progress = Arc::new(Progress::default());
        let total = store.stats()?.packed;
        let total = Arc::new(AtomicU64::new(total));
        let report = work::run(&progress, &total, INTERRUPTED, || {
            store.verify_sample(self.sample, &progress)
        })?;
        let packs = progress.counts().files;
        let lost: Vec<_> = report.lost.iter().map(lost_document).collect();
        let lost = store.is_unlocked().then_some(lost);
        answer(
            json,
            json!({
                "packs": packs, "frames": report.frames, "bytes": report.bytes,
                "stored": report.stored, "damaged": texts(&report.damaged),
                "missing": texts(&report.missing), "snapshots": texts(&report.snapshots),
                "lost": lost, "finding_count": report.finding_count, "findings": report.findings,
            }),
            || {
                let read = match report.stored {
                    0 => 100.0,
                    stored => report.bytes as f64 / stored as f64 * 100.0,
                };
                println!(
                    "{} in {}, {} ({read:.1} %) read{}",
                    show::count(report.frames, "frame"),
                    show::count(packs, "pack"),
                    show::size(report.bytes),
                    if store.is_unlocked() {
                        " and opened"
                    } else {
                        ""
                    },
                );
                println!(
                    "{} damaged, {} missing, {} affected",
                    show::count(report.damaged.len() as u64, "chunk"),
                    report.missing.len(),
                    show::count(report.snapshots.len() as u64, "snapshot")
                );
                tell(&report.findings, report.finding_count);
                report.lost.iter().for_each(tell_lost);
                if report.finding_count > 0 {
                    eprintln!(
                        "`strongroom store repair {} --from DIR2` brings what is damaged from a copy; without a \
                         copy back up again, which stores anew what is still there",
                        self.dir.display()
                    );
                }
            },
        )?;
        Ok(outcome(report.finding_count))
    }
}

fn lost_document(lost: &Lost) -> serde_json::Value {
    json!({
        "snapshot": lost.snapshot.to_string(), "file_count": lost.file_count,
        "files": lost.files.iter().map(|p| path_json(p)).collect::<Vec<_>>(),
        "nameless": lost.nameless,
    })
}

/// Lists what is lost of a snapshot.
fn tell_lost(lost: &Lost) {
    let files = match lost.file_count {
        // nothing but parts of the tree
        0 => String::new(),
        count => format!(", {} damaged", show::count(count, "file")),
    };
    eprintln!("snapshot {}{files}:", lost.snapshot);
    let names: Vec<String> = lost.files.iter().map(|p| filetree::shown(p)).collect();
    tell(&names, lost.file_count);
    if lost.nameless > 0 {
        let entries = show::count(lost.nameless, "entry");
        eprintln!("  {entries} whose names cannot be read either");
    }
}

/// Opens a datastore with an index that is made anew; answers also what could not be read for it.
pub(super) fn remake(dir: &Path) -> Result<(Store, Vec<String>)> {
    let directory = at(dir)?;
    Ok(opening(dir, |options| Store::recover(directory, options))?.0)
}

pub(super) fn recover(dir: &Path, json: bool) -> Result<Outcome> {
    let (store, findings) = remake(dir)?;
    let totals = store.stats()?.totals;
    let count = findings.len() as u64;
    answer(
        json,
        json!({
            "chunks": totals.chunks, "unique": totals.unique, "stored": totals.stored, "findings": findings,
        }),
        || {
            println!(
                "The index is made anew: {}, {} stored. `strongroom store verify` reads all of it.",
                show::count(totals.chunks, "chunk"),
                show::size(totals.stored)
            );
            tell(&findings, count);
        },
    )?;
    Ok(outcome(count))
}
