//! `strongroom store repair`.

use super::meter::Meter;
use super::{Outcome, answer, at, keyfile, open, options, outcome, show, tell, texts};
use anyhow::{Result, bail};
use clap::Args;
use engine::{Error, Progress, Repaired, Store};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// What to repair, and from what.
#[derive(Args)]
pub(crate) struct Repair {
    /// The datastore's directory
    dir: PathBuf,
    /// Another copy of the datastore, which has what is damaged here
    #[arg(long, value_name = "DIR2")]
    from: Option<PathBuf>,
    /// The key file: chunks are then opened too, here and before they are taken from the copy
    #[arg(long)]
    key_file: Option<PathBuf>,
}

impl Repair {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let began = Instant::now();
        let keyset = self.key_file.as_deref().map(keyfile::read).transpose()?;
        let from = self.from.as_deref().map(open).transpose()?;
        let (mut store, mended) = self.open(from.as_ref())?;
        let mut index_made = false;
        let repaired = loop {
            if let Some(keyset) = &keyset {
                store.unlock(keyset)?;
            }
            let progress = Arc::new(Progress::default());
            let total = store.stats()?.totals.stored;
            let _meter = Meter::start(progress.clone(), Arc::new(AtomicU64::new(total)));
            match store.repair(from.as_ref(), &progress) {
                Err(Error::Index { .. }) if !index_made => {
                    drop(store);
                    // what could not be read is found again
                    (store, _) = Store::recover(at(&self.dir)?, options())?;
                    index_made = true;
                }
                repaired => break repaired?,
            }
        };
        let Repaired {
            report,
            frames,
            bytes,
            healed,
            left,
            damaged,
            elsewhere,
        } = repaired;
        let mut problems: Vec<String> = left
            .into_iter()
            .map(|(id, error)| format!("snapshot {id}: {:#}", anyhow::Error::from(error)))
            .collect();
        let stays = |pack| {
            format!(
                "packs/{pack}.pack is damaged and stays: a chunk of it is needed and could not be had"
            )
        };
        problems.extend(damaged.iter().map(stays));
        let count = problems.len() as u64;
        let seconds = began.elapsed().as_secs_f64();
        answer(
            json,
            json!({
                "findings": report.findings, "finding_count": report.finding_count,
                "datastore_file_mended": mended, "index_made": index_made,
                "frames": frames, "bytes": bytes, "healed": texts(&healed),
                "elsewhere": texts(&elsewhere), "seconds": seconds,
                "problem_count": count, "problems": problems,
            }),
            || {
                if mended {
                    println!("The datastore file was written anew.");
                }
                if index_made {
                    println!("The index was made anew.");
                }
                println!(
                    "{} things found; {frames} frames, {} stored anew, {} snapshots whole again, in {seconds:.1} s",
                    report.finding_count,
                    show::size(bytes),
                    healed.len()
                );
                if let (false, Some(from)) = (elsewhere.is_empty(), &self.from) {
                    println!(
                        "{} snapshots are only in {from}; if they were lost here, `strongroom store copy {from} {}` brings them.",
                        elsewhere.len(),
                        self.dir.display(),
                        from = from.display(),
                    );
                }
                if count > 0 {
                    eprintln!("{count} things are not healed:");
                    tell(&problems, count);
                }
            },
        )?;
        Ok(outcome(count))
    }

    /// Opens the datastore; with a copy at hand its datastore file is written anew if need be.
    fn open(&self, from: Option<&Store>) -> Result<(Store, bool)> {
        let directory = at(&self.dir)?;
        let opened = Store::open(directory.clone(), options());
        let Some(from) = from else {
            return Ok((opened?, false));
        };
        let store = match opened {
            Err(
                Error::Format { .. }
                | Error::Newer { .. }
                | Error::NoDatastore { .. }
                | Error::Io { .. },
            ) => {
                let mended = Store::mend_superblock(&*directory, from.superblock())?;
                (Store::open(directory, options())?, mended)
            }
            opened => (opened?, false),
        };
        let (own, others) = (store.0.datastore(), from.datastore());
        if own != others {
            bail!("the datastore {own} cannot be healed from {others}; bring a copy of it");
        }
        Ok(store)
    }
}
