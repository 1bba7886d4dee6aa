//! What one command costs: all of its processes, to the last.

use crate::sys;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What one run of a command cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Seconds on the clock.
    pub(crate) wall: f64,
    /// Seconds of processors, user and system, of all processes.
    pub(crate) cpu: f64,
    /// Bytes resident at the peak of the largest process.
    pub(crate) peak: u64,
    /// Share of the machine's processors that something else had meanwhile.
    pub(crate) others: f64,
}

/// Runs a command, in a process group of its own, until the last process it began has ended; its output goes into a file.
///
/// # Errors
/// It could not be run, or did not end with 0; the error has the end of its output.
pub(crate) fn run(command: &mut Command, output: &Path) -> Result<Sample> {
    // what its processes leave behind comes to us, and is waited for and counted as well
    nix::sys::prctl::set_child_subreaper(true)?;
    let file = File::create(output).with_context(|| output.display().to_string())?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0);
    let busy = busy()?;
    let began = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("{:?} cannot be run", command.get_program()))?;
    let (mut cpu, mut peak, mut status) = (Duration::ZERO, 0, None);
    while let Some(ended) = sys::wait_for_group(child.id())? {
        cpu += ended.cpu;
        peak = peak.max(ended.peak);
        if ended.pid == child.id() {
            status = Some(ExitStatus::from_raw(ended.status));
        }
    }
    let wall = began.elapsed().as_secs_f64();
    let status = status.context("a command ended unseen")?;
    if !status.success() {
        let told = fs::read_to_string(output).unwrap_or_default();
        let lines: Vec<&str> = told.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n");
        bail!("{command:?} ended with {status}:\n{last}");
    }
    let cpu = cpu.as_secs_f64();
    let others = (self::busy()? - busy - cpu).max(0.0) / (wall * cores() as f64);
    Ok(Sample {
        wall,
        cpu,
        peak,
        others: others.min(1.0),
    })
}

/// Runs what is not measured; answers its standard output.
///
/// # Errors
/// As [`run`].
pub(crate) fn quietly(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{:?} cannot be run", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Processors this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Seconds that the machine's processors have been busy since it started, with what its host took.
fn busy() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let ticks = busy_ticks(&text).context("/proc/stat has no line of all processors")?;
    let each = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(ticks as f64 / each as f64)
}

fn busy_ticks(stat: &str) -> Option<u64> {
    let numbers = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice already
    let fields: Vec<u64> = numbers
        .split_whitespace()
        .take(8)
        .map_while(|n| n.parse().ok())
        .collect();
    match fields[..] {
        [user, nice, system, _, _, irq, soft, steal] => {
            Some(user + nice + system + irq + soft + steal)
        }
        _ => None,
    }
}

/// What a tree of files takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) files: u64,
    /// Lengths of files.
    pub(crate) logical: u64,
    /// What is allocated for files and directories.
    pub(crate) allocated: u64,
}

/// Sums up a tree, hard links once.
///
/// # Errors
/// Something of it cannot be read.
pub(crate) fn size(root: &Path) -> Result<Size> {
    let (mut sum, mut seen) = (Size::default(), HashSet::new());
    visit(root, &mut |_, meta| {
        if seen.insert(meta.ino()) {
            sum.allocated += meta.blocks() * 512;
            if meta.is_file() {
                sum.files += 1;
                sum.logical += meta.len();
            }
        }
        Ok(())
    })?;
    Ok(sum)
}

/// Calls `each` for a tree's objects, by name.
///
/// # Errors
/// Something of it cannot be read, or `each` failed.
pub(crate) fn visit(
    path: &Path,
    each: &mut dyn FnMut(&Path, &fs::Metadata) -> Result<()>,
) -> Result<()> {
    let named = || path.display().to_string();
    let meta = fs::symlink_metadata(path).with_context(named)?;
    each(path, &meta)?;
    if meta.is_dir() {
        let mut names = fs::read_dir(path)
            .with_context(named)?
            .collect::<Result<Vec<_>, _>>()?;
        names.sort_by_key(fs::DirEntry::file_name);
        for name in names {
            visit(&name.path(), each)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, output: &Path) -> Result<Sample> {
        run(Command::new("sh").args(["-c", script]), output)
    }

    #[test]
    fn what_a_command_leaves_behind_is_counted_too() {
        let temp = tempfile::tempdir().unwrap();
        let output = temp.path().join("output");
        // the shell ends at once; what it began is an orphan that works on
        let work = "(dd if=/dev/zero bs=64M count=20 of=/dev/null; echo worked) & echo left";
        let orphan = shell(work, &output).unwrap();
        let told = fs::read_to_string(&output).unwrap();
        assert!(told.contains("left") && told.contains("worked"), "{told}");
        assert!(orphan.cpu > 0.01, "{orphan:?}");
        assert!(orphan.peak > 64 << 20, "{orphan:?}");
    }

    #[test]
    fn a_failure_has_the_end_of_its_output() {
        let temp = tempfile::tempdir().unwrap();
        let told = shell("echo no such thing >&2; exit 3", &temp.path().join("o")).unwrap_err();
        let told = told.to_string();
        assert!(
            told.contains("exit status: 3") && told.contains("no such thing"),
            "{told}"
        );
    }

    #[test]
    fn busy_is_all_but_idle_and_waiting() {
        let stat = "cpu  1 20 300 4000 50000 600000 7000000 80000000 900000000 0\ncpu0 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(87_600_321));
        assert_eq!(busy_ticks("cpu  1 2\n"), None);
        assert!(busy().unwrap() > 0.0);
    }

    #[test]
    fn holes_take_nothing_and_links_count_once() {
        let temp = tempfile::tempdir().unwrap();
        let (a, b) = (temp.path().join("a"), temp.path().join("b"));
        File::create(&a).unwrap().set_len(1 << 30).unwrap();
        fs::hard_link(&a, &b).unwrap();
        let size = size(temp.path()).unwrap();
        assert_eq!((size.files, size.logical), (1, 1 << 30));
        assert!(size.allocated < 1 << 20, "{size:?}");
    }
}
