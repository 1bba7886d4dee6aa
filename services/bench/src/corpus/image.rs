//! The raw ext4 image of a machine, made and changed without mounting it.

use super::generated::{self, Log, PAGE};
use super::{Scale, packages, packages::Package};
use crate::measure::{quietly, visit};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const BLOCK: u64 = 4096;
/// The database's file; the first machine has one.
const HEAP: &str = "var/lib/database/heap";
const LOGS: &str = "var/log";
/// All that ext4 would take from the clock.
const CLOCK: (&str, &str) = ("E2FSPROGS_FAKE_TIME", "1700000000");

/// Where the image lies.
pub(super) fn path(data: &Path, number: usize) -> PathBuf {
    data.join(format!("images/machine{number}.raw"))
}

/// Makes an image of the tree, with a log and maybe a database added.
pub(super) fn make(image: &Path, tree: &Path, number: usize, scale: &Scale) -> Result<()> {
    if number == 0 {
        fs::create_dir_all(tree.join(HEAP).with_file_name(""))?;
        generated::heap(&tree.join(HEAP), scale.heap)?;
    }
    let log = tree.join(LOGS).join("messages");
    fs::create_dir_all(tree.join(LOGS))?;
    let seed = 100 + number as u64;
    generated::write_log(&log, Log::System, seed, scale.log / 4)?;
    File::create_new(image)?.set_len(scale.image)?;
    let id = format!("5772746f-0000-4000-8000-00000000000{number}");
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-m", "0", "-b", "4096", "-U", &id]);
    mkfs.args(["-E", &format!("hash_seed={id}")]);
    mkfs.arg("-d").args([tree, image]).env(CLOCK.0, CLOCK.1);
    quietly(&mut mkfs).map(drop)
}

/// Upgrades the machine: files of packages are replaced, pages rewritten, a log added.
pub(super) fn upgrade<'a>(
    image: &Path,
    packages: impl Iterator<Item = &'a Package>,
    number: usize,
    scale: &Scale,
    scratch: &Path,
) -> Result<()> {
    let [old, new] = ["old", "new"].map(|name| scratch.join(name));
    for package in packages.filter(|p| p.is_upgraded()) {
        packages::unpack(&package.first, &old)?;
        packages::unpack(&package.second, &new)?;
    }
    let log = scratch.join("log");
    generated::write_log(&log, Log::System, 110 + number as u64, scale.log / 16)?;
    let mut script = format!("cd /{LOGS}\nwrite {} messages.1\n", log.display());
    script += &replacements(&old, &new)?;
    let commands = scratch.join("commands");
    fs::write(&commands, script)?;
    let mut debugfs = Command::new("debugfs");
    debugfs.args(["-w", "-f"]).args([&commands, image]);
    quietly(debugfs.env(CLOCK.0, CLOCK.1))?;
    if number == 0 {
        let told = quietly(
            Command::new("debugfs")
                .args(["-R", &format!("blocks /{HEAP}")])
                .arg(image),
        )?;
        let places = places(&told).with_context(|| format!("{} has no {HEAP}", image.display()))?;
        generated::rewrite_pages(&File::options().write(true).open(image)?, &places)?;
    }
    Ok(())
}

/// Commands of debugfs that replace the files which both trees have.
fn replacements(old: &Path, new: &Path) -> Result<String> {
    let mut script = String::new();
    if !new.exists() {
        return Ok(script);
    }
    visit(new, &mut |path, meta| {
        let inside = path.strip_prefix(new)?;
        let both =
            meta.is_file() && fs::symlink_metadata(old.join(inside)).is_ok_and(|m| m.is_file());
        let (Some(directory), Some(name), Some(host)) =
            (inside.parent(), inside.file_name(), path.to_str())
        else {
            return Ok(());
        };
        // debugfs splits its lines at blanks
        if both && !host.contains([' ', '"']) {
            let (directory, name) = (directory.display(), name.display());
            write!(script, "cd /{directory}\nrm {name}\nwrite {host} {name}\n")?;
        }
        Ok(())
    })?;
    Ok(script)
}

/// Where in the image each page of a file lies, by its list of blocks; only pages in one piece.
fn places(blocks: &str) -> Option<Vec<u64>> {
    let blocks: Option<Vec<u64>> = blocks.split_whitespace().map(|b| b.parse().ok()).collect();
    let each = PAGE / BLOCK as usize;
    let pages = blocks?
        .chunks_exact(each)
        .filter(|page| page.windows(2).all(|pair| pair[0] + 1 == pair[1]))
        .map(|page| page[0] * BLOCK)
        .collect::<Vec<_>>();
    (!pages.is_empty()).then_some(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lie_where_their_blocks_do() {
        assert_eq!(places("10 11 20 22 30 31 \n"), Some(vec![40960, 122_880]));
        assert_eq!(places(""), None);
        assert_eq!(places("/no/file: File not found"), None);
    }

    #[test]
    fn only_files_in_both_trees_are_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| temp.path().join(name));
        for (tree, file) in [
            (&old, "usr/a"),
            (&new, "usr/a"),
            (&new, "usr/b"),
            (&new, "usr/a b"),
            (&old, "usr/a b"),
        ] {
            fs::create_dir_all(tree.join("usr")).unwrap();
            fs::write(tree.join(file), "x").unwrap();
        }
        let host = new.join("usr/a");
        let wanted = format!("cd /usr\nrm a\nwrite {} a\n", host.display());
        assert_eq!(replacements(&old, &new).unwrap(), wanted);
        assert_eq!(replacements(&old, &temp.path().join("none")).unwrap(), "");
    }
}
