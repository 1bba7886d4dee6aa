//! `strongroom store forget`, `prune`, `lock` and `gc`.

use super::{
    Outcome, answer, group, open, open_to_read, open_with_key, outcome, resolve_id, show, tell,
    tell_unread, texts, unread, work,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use engine::{Keep, Progress};
use format::SnapshotId;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Said after snapshots were removed.
const NEXT: &str = "`strongroom store gc` gives back the space that only they took";

/// Which snapshots.
#[derive(Args)]
pub(crate) struct Forget {
    /// The datastore's directory
    dir: PathBuf,
    /// Ids, or the beginnings of them
    #[arg(required = true)]
    snapshots: Vec<String>,
}

impl Forget {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let store = open(&self.dir)?;
        let mut ids = Vec::new();
        for name in &self.snapshots {
            let id = resolve_id(&store, name)?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        store.forget(&ids)?;
        answer(json, json!({ "forgotten": texts(&ids) }), || {
            println!(
                "{} forgotten; {NEXT}.",
                show::count(ids.len() as u64, "snapshot")
            );
        })?;
        Ok(Outcome::Done)
    }
}

/// Which snapshots to keep of each group; what no rule keeps is forgotten.
#[derive(Args)]
pub(crate) struct Prune {
    /// The datastore's directory
    dir: PathBuf,
    /// Its key file, to see names
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// The newest
    #[arg(long, value_name = "N", default_value_t)]
    keep_last: usize,
    /// The newest of an hour, for the last N hours that have one
    #[arg(long, value_name = "N", default_value_t)]
    keep_hourly: usize,
    /// The newest of a day, for the last N days that have one
    #[arg(long, value_name = "N", default_value_t)]
    keep_daily: usize,
    /// The newest of a week, from Monday on
    #[arg(long, value_name = "N", default_value_t)]
    keep_weekly: usize,
    /// The newest of a month
    #[arg(long, value_name = "N", default_value_t)]
    keep_monthly: usize,
    /// The newest of a year
    #[arg(long, value_name = "N", default_value_t)]
    keep_yearly: usize,
    /// Say what would be forgotten, and forget nothing
    #[arg(long)]
    dry_run: bool,
}

impl Prune {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let keep = Keep {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
        };
        if keep.is_empty() {
            bail!("no rule keeps anything; say what to keep, such as --keep-daily 7");
        }
        let store = open_with_key(&self.dir, self.key_file.as_deref(), open)?;
        let bad = unread(store.snapshots()?.1);
        let judged = store.retention(&keep, &TimeZone::system())?;
        let goes = judged.iter().filter(|(_, verdict)| verdict.is_empty());
        let ids: Vec<SnapshotId> = goes.map(|(info, _)| info.clear.id).collect();
        if !self.dry_run {
            store.forget(&ids)?;
        }
        let kept = judged.iter().filter(|(_, verdict)| !verdict.is_empty());
        let kept: Vec<_> = kept
            .map(|(info, verdict)| json!({ "id": info.clear.id.to_string(), "rules": verdict }))
            .collect();
        answer(
            json,
            json!({
                "kept": kept, "forgotten": texts(&ids), "dry_run": self.dry_run, "unreadable": bad,
            }),
            || {
                let row = |(info, verdict): &(engine::SnapshotInfo, engine::Verdict)| {
                    let clear = &info.clear;
                    let verdict = match &verdict[..] {
                        [] => "-".into(),
                        rules => rules.join(", "),
                    };
                    vec![
                        clear.id.to_string(),
                        show::time(clear.time.seconds),
                        group(info),
                        verdict,
                    ]
                };
                let header = ["SNAPSHOT", "TIME", "GROUP", "KEPT BY"];
                show::table(&header, &judged.iter().map(row).collect::<Vec<_>>());
                let (count, kept) = (show::count(ids.len() as u64, "snapshot"), kept.len());
                if self.dry_run {
                    println!("{count} would be forgotten, {kept} kept.");
                } else if ids.is_empty() {
                    println!("{count} forgotten, {kept} kept.");
                } else {
                    println!("{count} forgotten, {kept} kept; {NEXT}.");
                }
                tell_unread(&bad);
            },
        )?;
        Ok(outcome(bad.len() as u64))
    }
}

/// What to lock, and until when.
#[derive(Args)]
pub(crate) struct Lock {
    /// The datastore's directory
    dir: PathBuf,
    /// The snapshot's id or the beginning of it, or `latest`
    snapshot: String,
    /// A day, as 2027-01-31, or a time, as 2027-01-31T18:00; later than any it had before
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Timestamp,
}

/// A day's beginning or a time, by the machine's time zone unless it names one.
fn time(text: &str) -> Result<Timestamp> {
    let by_zone = |time: DateTime| {
        let zoned = time.to_zoned(TimeZone::system());
        zoned.map(|zoned| zoned.timestamp())
    };
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    if let Ok(zoned) = text.parse::<Zoned>() {
        return Ok(zoned.timestamp());
    }
    let time = text.parse::<DateTime>();
    let time = time.or_else(|_| text.parse::<Date>().map(|day| day.at(0, 0, 0, 0)));
    let time = time.context("it is neither a day nor a time; write it as 2027-01-31")?;
    Ok(by_zone(time)?)
}

impl Lock {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let store = open(&self.dir)?;
        let id = resolve_id(&store, &self.snapshot)?;
        let until = self.until.as_second();
        store.lock_snapshot(id, until)?;
        answer(
            json,
            json!({ "snapshot": id.to_string(), "locked_until": until }),
            || {
                println!(
                    "Snapshot {id} is locked until {}: nothing removes it before that, and the time can only be moved later.",
                    show::time(until)
                );
            },
        )?;
        Ok(Outcome::Done)
    }
}

pub(super) fn gc(dir: &Path, dry_run: bool, json: bool) -> Result<Outcome> {
    let store = if dry_run {
        open_to_read(dir)?
    } else {
        open(dir)?
    };
    let progress = Arc::new(Progress::default());
    let unknown = Arc::new(AtomicU64::new(0));
    let done = if dry_run {
        let kept = "nothing was changed; run it again to know";
        work::run(&progress, &unknown, kept, || store.garbage(&progress))?
    } else {
        let kept = "what was freed by then is free; run it again for the rest";
        work::run(&progress, &unknown, kept, || store.collect(&progress))?
    };
    answer(
        json,
        json!({
            "dry_run": dry_run, "chunks": done.chunks, "bytes": done.bytes, "packs": done.packs,
            "copied": done.copied, "freed": done.freed, "left": done.left,
            "more": done.more, "findings": done.findings,
        }),
        || {
            let (would, least) = (
                if dry_run { "would be " } else { "" },
                if done.more { "at least " } else { "" },
            );
            if (done.chunks, done.packs, done.left) == (0, 0, 0) {
                println!("There is no garbage.");
            } else {
                println!(
                    "{least}{} ({}) needed by no snapshot; {least}{} {would}freed, {} {would}copied out of {}; {} of garbage left in packs that are mostly needed",
                    show::count(done.chunks, "chunk"),
                    show::size(done.bytes),
                    show::size(done.freed),
                    show::size(done.copied),
                    show::count(done.packs, "pack"),
                    show::size(done.left),
                );
            }
            tell(&done.findings, done.findings.len() as u64);
        },
    )?;
    Ok(outcome(done.findings.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_day_or_a_moment() {
        let second = |text: &str| time(text).unwrap().as_second();
        assert_eq!(second("2027-01-31T18:00:00Z"), 1_801_418_400);
        assert_eq!(second("2027-01-31T18:00:00+02:00"), 1_801_411_200);
        let day = second("2027-01-31");
        assert_eq!(second("2027-01-31T18:00"), day + 18 * 3600);
        assert!(time("tomorrow").is_err());
    }
}
