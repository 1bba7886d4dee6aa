//! Runs into one, in the background.

use super::catalogue::Change;
use super::row::{Row, State};
use super::run::Run;
use super::{Shared, run_name};
use crate::core::locked;
use format::Digest;
use std::collections::BTreeSet;
use std::io;
use std::iter::Peekable;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A run stays out of a merge when it is so many times as long as all newer ones together.
const RATIO: u64 = 4;

/// Most merges at a time. A long one must not let short runs pile up meanwhile.
const THREADS: usize = 4;

/// The threads that merge, while there is something to merge.
#[derive(Default)]
pub(super) struct Mergers {
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: Arc<AtomicBool>,
}

impl Mergers {
    /// Has what there is to merge merged.
    pub(super) fn start(&self, shared: &Arc<Shared>) {
        let mut threads = locked(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        if threads.len() == THREADS {
            return;
        }
        let Ok(Some(merge)) = Merge::next(shared) else {
            return;
        };
        let (shared, stop) = (shared.clone(), self.stop.clone());
        let work = move || {
            let mut merge = Some(merge);
            while let Some(next) = merge {
                // without it lookups are slower; the next run asks again
                merge = match next.carry_out(&shared, &stop) {
                    Ok(()) => Merge::next(&shared).ok().flatten(),
                    Err(_) => None,
                };
            }
        };
        let thread = std::thread::Builder::new().name("engine-merge".into());
        threads.extend(thread.spawn(work));
    }

    /// Ends what goes on, unfinished.
    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
        let mut threads = locked(&self.threads);
        for thread in threads.drain(..) {
            // its panic leaves more runs than need be, and is in the log
            let _ = thread.join();
        }
        self.stop.store(false, Relaxed);
    }
}

/// How many of the newest runs become one, by the lengths of all, newest first.
fn count(lengths: &[u64]) -> usize {
    let (mut sum, mut count) = (0, 0);
    for length in lengths {
        if count > 0 && *length >= RATIO * sum {
            break;
        }
        sum += length;
        count += 1;
    }
    count
}

/// Runs that are to become one.
struct Merge {
    /// Of the run that is made.
    number: u64,
    /// Newest first.
    runs: Vec<(u64, Arc<Run>)>,
    /// Whether nothing is older than these.
    last: bool,
    /// Those that are there.
    packs: BTreeSet<u32>,
}

impl Merge {
    /// Takes on what is to be merged next, if anything is.
    fn next(shared: &Shared) -> crate::Result<Option<Merge>> {
        // numbered between two flushes: what is merged is older than what the next one adds
        let _writing = locked(&shared.writing);
        shared.change(|opened| {
            // it is about to be opened again, which takes what is made meanwhile for left over
            if opened.catalogue.is_err() {
                return Ok(None);
            }
            let free = opened
                .runs
                .iter()
                .take_while(|(number, _)| !opened.merging.contains(number));
            let lengths: Vec<u64> = free.map(|(_, run)| run.len()).collect();
            let count = count(&lengths);
            if count < 2 {
                return Ok(None);
            }
            let runs = opened.runs[..count].to_vec();
            opened
                .merging
                .extend(runs.iter().map(|(number, _)| *number));
            let number = opened.next_run;
            opened.next_run += 1;
            Ok(Some(Merge {
                number,
                runs,
                last: count == opened.runs.len(),
                packs: opened.packs.keys().copied().collect(),
            }))
        })
    }

    fn carry_out(self, shared: &Shared, stop: &AtomicBool) -> crate::Result<()> {
        let gone: Vec<u64> = self.runs.iter().map(|(number, _)| *number).collect();
        let made = self.make(shared, stop);
        let _writing = locked(&shared.writing);
        let made = made.map_err(|e| shared.io(e)).and_then(|run| {
            shared.write(|_| Change {
                run: Some(self.number),
                runs_gone: gone.clone(),
                ..Change::default()
            })?;
            Ok(run)
        });
        shared.change(|opened| {
            opened.merging.retain(|number| !gone.contains(number));
            let run = made?;
            let at = opened.runs.iter().position(|(n, _)| *n == gone[0]);
            opened.runs.retain(|(n, _)| !gone.contains(n));
            opened.runs.insert(at.unwrap_or(0), (self.number, run));
            Ok(())
        })?;
        for number in gone {
            // best effort: what stays is removed when the index is next opened
            let _ = shared.setting.storage.remove(&run_name(number));
        }
        Ok(())
    }

    fn make(&self, shared: &Shared, stop: &AtomicBool) -> io::Result<Arc<Run>> {
        let most = self.runs.iter().map(|(_, run)| run.len()).sum();
        let rows = Merged {
            runs: self
                .runs
                .iter()
                .map(|(_, run)| run.rows().peekable())
                .collect(),
            packs: &self.packs,
        };
        let rows = rows.filter_map(|row| match row {
            _ if stop.load(Relaxed) => Some(Err(io::ErrorKind::Interrupted.into())),
            Ok(row) => self.kept(row).map(Ok),
            failed => Some(failed),
        });
        shared.write_run(self.number, most, rows)
    }

    /// What must still be said of a digest.
    fn kept(&self, row: Row) -> Option<Row> {
        let state = match row.state {
            State::At(place) if !self.packs.contains(&place.pack) => State::Older,
            State::Dead if self.last => State::Older,
            state => state,
        };
        let says = state != State::Older || row.references != 0;
        says.then_some(Row { state, ..row })
    }
}

/// The rows of several runs, newest first, in order of digest, those of one digest as one.
struct Merged<'a, I: Iterator<Item = io::Result<Row>>> {
    runs: Vec<Peekable<I>>,
    packs: &'a BTreeSet<u32>,
}

impl<I: Iterator<Item = io::Result<Row>>> Iterator for Merged<'_, I> {
    type Item = io::Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        // there are few: a heap would save nothing
        let mut first: Option<Digest> = None;
        for rows in &mut self.runs {
            match rows.peek() {
                Some(Ok(row)) if first.is_none_or(|first| row.digest < first) => {
                    first = Some(row.digest);
                }
                Some(Err(_)) => return rows.next(),
                _ => {}
            }
        }
        let digest = first?;
        let counts = |pack| self.packs.contains(&pack);
        let of_it = |row: &io::Result<Row>| matches!(row, Ok(row) if row.digest == digest);
        let rows = self.runs.iter_mut();
        let mut rows = rows.filter_map(|rows| rows.next_if(of_it)?.ok());
        let newest = rows.next()?;
        Some(Ok(rows.fold(newest, |sum, older| sum.over(&older, counts))))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_run_stays_several_times_as_long_as_the_newer_ones() {
        let mut lengths: Vec<u64> = Vec::new();
        let mut written = 0;
        for _ in 0..10_000 {
            lengths.insert(0, 1);
            let count = super::count(&lengths);
            if count > 1 {
                let sum = lengths.drain(..count).sum();
                written += sum;
                lengths.insert(0, sum);
            }
            assert!(lengths.len() <= 8, "{lengths:?}");
        }
        assert_eq!(lengths.iter().sum::<u64>(), 10_000);
        assert!(written < 10_000 * 30, "{written}");
    }
}
