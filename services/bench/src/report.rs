//! docs/benchmarks.md, out of what was measured.

use crate::corpus::Corpus;
use crate::figures::{Spread, TARGETS, Wanted, row, target};
use crate::limits::{Limits, Part};
use crate::machine::Machine;
use crate::measure::Sample;
use crate::rounds::Results;
use crate::tools::{OURS, Step, Tool};
use anyhow::Result;
use std::fmt::Write;

/// All there is to tell but the comparison itself.
pub(crate) struct Report<'a> {
    pub(crate) machine: Machine,
    pub(crate) corpus: &'a Corpus,
    pub(crate) tools: &'a [Tool],
    pub(crate) absent: &'a [String],
    pub(crate) limits: Limits,
    pub(crate) runs: u8,
    /// Whether restores had a file system of their own.
    pub(crate) may_mount: bool,
}

impl Report<'_> {
    /// The whole document.
    ///
    /// # Errors
    /// The corpus cannot be read.
    pub(crate) fn all(&self, results: &Results) -> Result<String> {
        let mut out = String::from(
            "# Benchmarks\n\nWritten by `./dev bench`; what is not said here was not measured.\n",
        );
        out += "\n## Targets\n\nRatios of medians. The targets are of issue 3. Wall seconds are as good as the machine was\nquiet (\"others\" below); CPU seconds vary by a tenth or so, bytes hardly.\n\n";
        out += &self.targets(results);
        out += &self.conditions(results)?;
        for step in Step::ALL {
            out += &self.step(results, step);
        }
        out += &self.stored(results);
        out += &self.limits();
        out += &self.not_measured(results);
        Ok(out)
    }

    fn targets(&self, results: &Results) -> String {
        let of = |step, figure: fn(&Sample) -> f64| self.medians(results, step, figure);
        let wall = |s: &Sample| s.wall;
        let mut out = TARGETS.to_owned();
        out += &target(
            "first backup, wall",
            &of(Step::First, wall),
            "s",
            Wanted::AtLeast(2.0),
        );
        out += &target(
            "first backup, CPU",
            &of(Step::First, |s| s.cpu),
            "s",
            Wanted::AtMost(0.7),
        );
        out += &target(
            "unchanged backup, wall",
            &of(Step::Unchanged, wall),
            "s",
            Wanted::AtLeast(2.0),
        );
        out += &target(
            "second generation, bytes added",
            &self.added(results),
            "MB",
            Wanted::AtMost(0.95),
        );
        out += &target(
            "both generations, bytes stored",
            &self.bytes(results, Step::Second),
            "MB",
            Wanted::AtMost(0.95),
        );
        out += &target(
            "restore, wall",
            &of(Step::Restore, wall),
            "s",
            Wanted::AtLeast(2.0),
        );
        out += &target(
            "verify with data, wall",
            &of(Step::Verify, wall),
            "s",
            Wanted::AtLeast(2.0),
        );
        out + &self.machine_targets()
    }

    fn machine_targets(&self) -> String {
        let Some((sum, cpu, wall)) = self.sums() else {
            return String::new();
        };
        let row = |what, ours: f64, sum: f64| {
            target(
                what,
                &[(OURS, ours), ("the parts", sum)],
                "s",
                Wanted::AtMost(1.3),
            )
        };
        row("first backup against its parts, CPU", cpu, sum)
            + &row(
                "first backup against its parts, wall",
                wall,
                sum / self.machine.cores as f64,
            )
    }

    /// Seconds of CPU of all parts; CPU and wall seconds of our first backup.
    fn sums(&self) -> Option<(f64, f64, f64)> {
        let sums = self
            .limits
            .parts
            .iter()
            .map(|parts| parts.iter().map(|c| c.seconds).sum());
        let median =
            |figure: fn(&Sample) -> f64| Spread::of(self.limits.backups.iter().map(figure));
        Some((
            Spread::of(sums)?.median,
            median(|s| s.cpu)?.median,
            median(|s| s.wall)?.median,
        ))
    }

    fn medians(
        &self,
        results: &Results,
        step: Step,
        figure: fn(&Sample) -> f64,
    ) -> Vec<(&str, f64)> {
        let of = |tool: &Tool| {
            let samples = results.samples.get(&(tool.name, step))?;
            Some((tool.name, Spread::of(samples.iter().map(figure))?.median))
        };
        self.tools.iter().filter_map(of).collect()
    }

    fn bytes(&self, results: &Results, after: Step) -> Vec<(&str, f64)> {
        let of = |tool: &Tool| {
            let bytes = results.stored.get(&(tool.name, after))?;
            Some((tool.name, Spread::of(bytes.iter().copied())?.median / 1e6))
        };
        self.tools.iter().filter_map(of).collect()
    }

    fn added(&self, results: &Results) -> Vec<(&str, f64)> {
        let [first, both] = [Step::First, Step::Second].map(|step| self.bytes(results, step));
        let added = |((name, first), (_, both)): (&(_, f64), &(_, f64))| (*name, both - first);
        first.iter().zip(&both).map(added).collect()
    }

    fn conditions(&self, results: &Results) -> Result<String> {
        let (m, size) = (&self.machine, self.corpus.size()?);
        let unlike: Vec<_> = results
            .unlike
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(name, count)| format!("{count} of {name}'s"))
            .collect();
        let unlike = match &unlike[..] {
            [] => "none".to_owned(),
            some => some.join(", "),
        };
        let mut out = format!(
            "\n## Conditions\n\n{}, commit {}: {} cores of {}, {:.1} GB of memory, {}, Linux {}, {}. \
             Runs: {}, the tools taking turns at each step, another first in each run; source and repository \
             in the page cache, everything written out beforehand; each step ends when all it wrote is on the disk \
             (`sync -f`), which not every tool waits for itself; all cores; encryption on. Restores go to {}. Each had the \
             content of its source by `diff -r`; owners, modes, times and attributes that differed: {}.\n\nThe corpus: {} files, {:.2} GB, of which {:.2} GB are no holes; \
             rates are of the former. What it is made of and how it changes: services/bench/src/corpus/mod.rs. Packages: ",
            m.date,
            m.commit,
            m.cores,
            m.processor,
            m.memory as f64 / 1e9,
            m.system,
            m.kernel,
            m.filesystem,
            self.runs,
            match self.may_mount {
                true =>
                    "an ext4 that is made for each of them, its image on the disk or in a tmpfs",
                false => "the file system of the repositories, for no other could be made",
            },
            unlike,
            size.files,
            size.logical as f64 / 1e9,
            size.allocated as f64 / 1e9,
        );
        out += &self.corpus.packages().collect::<Vec<_>>().join(", ");
        out += ".\n\nEach tool, and what it was run as (`$NAME` is `first`, `unchanged` or `second`):\n";
        for tool in self.tools {
            writeln!(out, "\n{} {}:\n", tool.name, tool.version)?;
            for script in tool.settings() {
                writeln!(out, "    {script}")?;
            }
        }
        for absent in self.absent {
            writeln!(
                out,
                "\nLeft out: {}",
                absent.lines().next().unwrap_or_default()
            )?;
        }
        Ok(out)
    }

    fn step(&self, results: &Results, step: Step) -> String {
        let (title, generation) = match step {
            Step::First => ("First backup", Some(0)),
            Step::Unchanged => ("Unchanged backup", None),
            Step::Second => ("Backup of the second generation", Some(1)),
            Step::Restore => ("Restore of the second generation, to the disk", Some(1)),
            Step::RestoreInMemory => ("Restore of the second generation, to memory", Some(1)),
            Step::Verify => ("Verify, reading all data", None),
            Step::Prune => (
                "Forget the first generation, and free what only it had",
                None,
            ),
        };
        let mut out = format!(
            "\n## {title}\n\n| | wall s, median (least to most) | MB/s | CPU s | CPU s/GB | peak MiB | others |\n|---|---|---|---|---|---|---|\n"
        );
        for tool in self.tools {
            out += &match results.samples.get(&(tool.name, step)) {
                Some(samples) => row(
                    tool.name,
                    samples,
                    generation.map(|g: usize| results.logical[g]),
                ),
                None => format!("| {} | not measured | | | | | |\n", tool.name),
            };
        }
        if step == Step::RestoreInMemory {
            out += "\nThere nobody waits for a disk, and the kernel's own work for the file system and its image counts most.\n";
        }
        if step == Step::First {
            out += "\n\"Peak\" is the largest process; \"others\" the share of the processors that something else had meanwhile,\nthe kernel's own writing included (medians).\n";
        }
        out
    }

    fn stored(&self, results: &Results) -> String {
        let mut out = String::from(
            "\n## Bytes stored\n\nAllocated for the repository, MB (medians).\n\n| | first generation | both | added by the second | after the first is forgotten |\n|---|---|---|---|---|\n",
        );
        let figure = |figures: Vec<(&str, f64)>, name| {
            let found = figures.into_iter().find(|(n, _)| *n == name);
            found.map_or("not measured".to_owned(), |(_, f)| format!("{f:.0}"))
        };
        for tool in self.tools {
            let after = |step| figure(self.bytes(results, step), tool.name);
            let added = figure(self.added(results), tool.name);
            let (first, both, pruned) =
                (after(Step::First), after(Step::Second), after(Step::Prune));
            out += &format!(
                "| {} | {first} | {both} | {added} | {pruned} |\n",
                tool.name
            );
        }
        out
    }

    /// The section on the machine's own limits.
    pub(crate) fn limits(&self) -> String {
        let mut out = String::from(
            "\n## The machine's limits\n\nThe parts of a first backup, one after the other in one thread on the same data (`./dev bench limits`).\n\n| part | MB | MB/s of CPU | CPU s |\n|---|---|---|---|\n",
        );
        for part in Part::ALL {
            let costs = self.limits.parts.iter().map(|parts| parts[part as usize]);
            let megabytes = costs
                .clone()
                .next()
                .map_or(0.0, |cost| cost.bytes as f64 / 1e6);
            let seconds = Spread::of(costs.map(|c| c.seconds)).map_or(0.0, |s| s.median);
            out += &format!(
                "| {} | {megabytes:.0} | {:.0} | {seconds:.2} |\n",
                part.name(),
                megabytes / seconds
            );
        }
        let Some((sum, cpu, wall)) = self.sums() else {
            return out;
        };
        let cores = self.machine.cores;
        out += &format!("| **sum** | | | **{sum:.2}** |\n| our first backup | | | {cpu:.2} |\n");
        out += &format!(
            "\nOur first backup took {wall:.2} s on the clock; the sum spread over {cores} cores is {:.2} s.\n\n",
            sum / cores as f64
        );
        out + TARGETS + &self.machine_targets()
    }

    fn not_measured(&self, results: &Results) -> String {
        let mut out = String::from("\n## Not measured\n\n");
        for tool in self.tools {
            for step in Step::ALL
                .into_iter()
                .filter(|step| !results.samples.contains_key(&(tool.name, *step)))
            {
                let why = match step {
                    Step::RestoreInMemory => "no file system could be made for it",
                    _ => "it has no command for it",
                };
                out += &format!("- {} of {}: {why}.\n", step.name(), tool.name);
            }
        }
        out + "- Other releases of restic and borg than Debian's. Kopia, and Proxmox Backup Server: no registry used here has them.\n\
               - Copies between repositories, and anything over a network.\n\
               - Collection while backups go on, and how its cost grows with the store.\n\
               - Data that is not in the page cache; other disks, more cores, larger stores.\n\
               - Fragmented images, VHDX and VMDK by the tools (decisions/0011 has them for the cutter).\n"
    }
}
