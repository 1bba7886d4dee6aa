//! `strongroom store repair`.

use super::copy::refuse_itself;
use super::{
    Outcome, answer, at, keyfile, list, open_to_read, opening, outcome, show, tell, texts, unread,
    work,
};
use anyhow::{Result, bail};
use clap::Args;
use engine::{Error, Progress, Repaired, Store};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// Said when one is.
const INTERRUPTED: &str = "what was healed by then is; repair again for the rest";

fn is_of_index(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Index { .. }))
}

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
        if let Some(from) = &self.from {
            refuse_itself(&self.dir, from)?;
        }
        let keyset = self.key_file.as_deref().map(keyfile::read).transpose()?;
        let from = self.from.as_deref().map(open_to_read).transpose()?;
        let (mut store, mended, mut index_made) = self.open(from.as_ref())?;
        let mut made_again = false;
        let repaired = loop {
            if let Some(keyset) = &keyset {
                store.unlock(keyset)?;
            }
            let progress = Arc::new(Progress::default());
            let total = store.stats()?.packed;
            let total = Arc::new(AtomicU64::new(total));
            let repaired = work::run(&progress, &total, INTERRUPTED, || {
                store.repair(from.as_ref(), &progress)
            });
            match repaired {
                Err(error) if !made_again && is_of_index(&error) => {
                    drop(store);
                    // what could not be read is found again
                    (store, _) = list::remake(&self.dir)?;
                    (index_made, made_again) = (true, true);
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
        let mut problems = unread(left);
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
                    "{} found; {}, {} stored anew, {} whole again, in {seconds:.1} s",
                    show::count(report.finding_count, "thing"),
                    show::count(frames, "frame"),
                    show::size(bytes),
                    show::count(healed.len() as u64, "snapshot")
                );
                if let (false, Some(from)) = (elsewhere.is_empty(), &self.from) {
                    println!(
                        "{} only in {from}: what was lost here `strongroom store copy {from} {}` brings.",
                        show::count(elsewhere.len() as u64, "snapshot"),
                        self.dir.display(),
                        from = from.display(),
                    );
                }
                if count > 0 {
                    eprintln!("{} not healed:", show::count(count, "thing"));
                    tell(&problems, count);
                }
            },
        )?;
        Ok(outcome(count))
    }

    /// Opens the datastore; with a copy at hand its datastore file is written anew if need be. Whether it
    /// was, and the index.
    fn open(&self, from: Option<&Store>) -> Result<(Store, bool, bool)> {
        let directory = at(&self.dir)?;
        let open = || {
            let directory = directory.clone();
            opening(&self.dir, |options| Store::open(directory, options))
        };
        let (opened, mut mended) = (open(), false);
        let Some(from) = from else {
            return opened.map(|(store, anew)| (store, mended, anew));
        };
        let may_be_mended = |error: &anyhow::Error| {
            use Error::{Format, Headless, Io, Newer, NoDatastore};
            matches!(
                error.downcast_ref(),
                Some(
                    Format { .. } | Newer { .. } | Headless { .. } | NoDatastore { .. } | Io { .. }
                )
            )
        };
        let (store, anew) = match opened {
            Err(error) if may_be_mended(&error) => {
                mended = Store::mend_superblock(&*directory, from.superblock())?;
                open()?
            }
            opened => opened?,
        };
        let (own, others) = (store.datastore(), from.datastore());
        if own != others {
            bail!("the datastore {own} cannot be healed from {others}; bring a copy of it");
        }
        Ok((store, mended, anew))
    }
}
