//! All steps by all tools, several times over, the tools taking turns at each step.

use crate::corpus::{Corpus, remove};
use crate::fresh::{Fresh, Medium};
use crate::measure::{self, Sample, size, visit};
use crate::tools::{Step, Tool};
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// What was measured, by name of the tool.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) samples: BTreeMap<(&'static str, Step), Vec<Sample>>,
    /// Bytes allocated for the repository after a step.
    pub(crate) stored: BTreeMap<(&'static str, Step), Vec<f64>>,
    /// Attributes that a restore did not bring back.
    pub(crate) unlike: BTreeMap<&'static str, u64>,
    /// Bytes of each generation.
    pub(crate) logical: [u64; 2],
}

/// Measures everything. All is below `work`, whose contents it replaces.
///
/// # Errors
/// A tool failed, or restored something else than what it had backed up.
pub(crate) fn run(
    corpus: &Corpus,
    tools: &[Tool],
    work: &Path,
    runs: u8,
    may_mount: bool,
) -> Result<Results> {
    let mut results = Results::default();
    let source = work.join("source");
    for run in 0..runs {
        corpus.copy_first(&source)?;
        results.logical[0] = size(&source)?.logical;
        for tool in tools {
            remove(&tool.state(work))?;
            fs::create_dir(tool.state(work))?;
            measure::quietly(&mut tool.setup(work))?;
        }
        // who comes first at a step changes, lest someone always gains by it
        let mut turns: Vec<&Tool> = tools.iter().collect();
        turns.rotate_left(usize::from(run) % tools.len());
        for step in Step::ALL {
            if step == Step::Second {
                corpus.advance(&source, &work.join("scratch"))?;
                results.logical[1] = size(&source)?.logical;
            }
            for tool in &turns {
                let Some(script) = tool.script(step) else {
                    continue;
                };
                let medium = step.target();
                if medium == Some(Medium::Memory) && !may_mount {
                    continue;
                }
                if medium.is_some() {
                    fs::create_dir_all(tool.target(work))?;
                }
                let _fresh = medium
                    .filter(|_| may_mount)
                    .map(|medium| Fresh::make(&tool.target(work), medium))
                    .transpose()?;
                let sample = one(tool, step, script, work)?;
                if medium.is_some() {
                    let unlike = compare(tool, work)?;
                    results.unlike.insert(tool.name, unlike);
                }
                eprintln!(
                    "run {} of {runs}, {:>9}, {:>10}: {:7.2} s, {:7.2} s of CPU, {:5} MiB, others {:2.0} %",
                    run + 1,
                    step.name(),
                    tool.name,
                    sample.wall,
                    sample.cpu,
                    sample.peak >> 20,
                    sample.others * 100.0,
                );
                results
                    .samples
                    .entry((tool.name, step))
                    .or_default()
                    .push(sample);
                if matches!(step, Step::First | Step::Second | Step::Prune) {
                    let bytes = size(&tool.repository(work))?.allocated;
                    results
                        .stored
                        .entry((tool.name, step))
                        .or_default()
                        .push(bytes as f64);
                }
            }
            // not before all have restored: where nothing can be mounted they do so to one file system
            remove(&work.join("targets"))?;
        }
    }
    Ok(results)
}

/// One step of one tool, from the page cache, with nothing left to write from before, until all it wrote
/// is on the disk: not every tool waits for that itself, and until then nothing is done.
///
/// # Errors
/// As [`run`].
pub(crate) fn one(tool: &Tool, step: Step, script: &str, work: &Path) -> Result<Sample> {
    let restores = step.target().is_some();
    if !restores {
        warm(&work.join("source"))?;
    }
    warm(&tool.state(work))?;
    nix::unistd::syncfs(File::open(work)?)?;
    let written = if restores { "$TARGET" } else { "$STATE" };
    let mut command = tool.command(work, &format!("{script}\nsync -f \"{written}\""));
    command.env("NAME", step.name());
    measure::run(&mut command, &work.join("output"))
}

/// Reads all of a tree, so that it is in the page cache.
pub(crate) fn warm(tree: &Path) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    visit(tree, &mut |path, meta| {
        if meta.is_file() && meta.blocks() > 0 {
            let mut file = File::open(path)?;
            while file.read(&mut buffer)? > 0 {}
        }
        Ok(())
    })
}

/// Refuses a restore that has another content; answers how many attributes differ.
fn compare(tool: &Tool, work: &Path) -> Result<u64> {
    let (source, restored) = (work.join("source/data"), tool.target(work).join("data"));
    let mut diff = Command::new("diff");
    diff.args(["-r", "--no-dereference"])
        .args([&source, &restored]);
    if let Err(error) = measure::quietly(&mut diff) {
        bail!(
            "{} {} restored something else: {error:#}",
            tool.name,
            tool.version
        );
    }
    let found = filetree::compare::compare(&source, &restored)?;
    for difference in found.differences.iter().take(3) {
        eprintln!("{}: {difference}", tool.name);
    }
    Ok(found.differences.len() as u64 + found.more)
}
