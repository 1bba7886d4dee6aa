//! From the first generation to the second, in place.

use super::generated::{self, Log, PAGE};
use super::{ADDED, Corpus, LINUX, copy, image, linux_sources, packages, remove};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes inserted into the tar at each place; no cutter of fixed sizes likes them.
const INSERTED: u64 = 137;

impl Corpus {
    /// Makes the second generation out of a copy of the first. `scratch` is used and removed.
    ///
    /// # Errors
    /// A program failed, or the disk is full.
    pub(crate) fn advance(&self, copy_of_first: &Path, scratch: &Path) -> Result<()> {
        let data = copy_of_first.join("data");
        remove(scratch)?;
        fs::create_dir_all(scratch)?;
        if let Some(linux) = self.find(LINUX).filter(|p| p.is_upgraded()) {
            remove(&data.join("sources"))?;
            linux_sources(
                &linux.second,
                self.scale.sources,
                scratch,
                &data.join("sources"),
            )?;
        }
        self.change_packages(&data)?;
        let tar = data.join("tar/linux.tar");
        if tar.exists() {
            insert(&tar, 8, |number, to| {
                to.write_all(&filetree::specimen::random::Random::new(number).bytes(INSERTED))
            })?;
        }
        change_logs(&data.join("logs"), self.scale.log)?;
        let heap = File::options().write(true).open(data.join("heap/heap"))?;
        let pages = (0..self.scale.heap / PAGE as u64).map(|n| n * PAGE as u64);
        generated::rewrite_pages(&heap, &pages.collect::<Vec<_>>())?;
        for number in 0..2 {
            let (image, scratch) = (image::path(&data, number), scratch.join(number.to_string()));
            fs::create_dir(&scratch)?;
            image::upgrade(&image, self.image(number), number, self.scale, &scratch)?;
        }
        remove(scratch)
    }

    fn change_packages(&self, data: &Path) -> Result<()> {
        let trees = data.join("packages");
        let archives = data.join("archives");
        let mut renamed = false;
        for package in self.find_all(self.scale.packages) {
            let tree = trees.join(&package.name);
            if package.is_upgraded() {
                // as dpkg does: every file is a new one, changed or not
                remove(&tree)?;
                packages::unpack(&package.second, &tree)?;
                let old = package.first.file_name().context("a package has no name")?;
                fs::remove_file(archives.join(old))?;
                copy(&package.second, &archives)?;
            } else if !renamed {
                fs::rename(&tree, trees.join("renamed"))?;
                renamed = true;
            }
        }
        let Some(added) = self.find(ADDED) else {
            return Ok(());
        };
        packages::unpack(&added.second, &trees.join(&added.name))?;
        copy(&added.second, &archives)
    }
}

/// One is appended to, one inserted into, one rotated.
fn change_logs(logs: &Path, length: u64) -> Result<()> {
    let web = File::options().append(true).open(logs.join("web.log"))?;
    let mut web = BufWriter::new(web);
    generated::write_lines(&mut web, Log::Web, 11, length / 16)?;
    web.flush()?;
    insert(&logs.join("system.log"), 4, |number, to| {
        generated::write_lines(to, Log::System, 20 + number, 10_000)
    })?;
    let of = |name: &str| logs.join(name);
    fs::rename(of("application.log.1"), of("application.log.2"))?;
    fs::rename(of("application.log"), of("application.log.1"))?;
    generated::write_log(&of("application.log"), Log::Application, 13, length / 8)
}

/// Rewrites a file with something inserted at some places, evenly spread.
fn insert(
    path: &Path,
    places: u64,
    mut write: impl FnMut(u64, &mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let beside = path.with_extension("new");
    let mut from = BufReader::new(File::open(path)?);
    let length = from.seek(SeekFrom::End(0))?;
    from.rewind()?;
    let mut to = BufWriter::new(File::create_new(&beside)?);
    for number in 1..=places {
        io::copy(&mut from.by_ref().take(length / (places + 1)), &mut to)?;
        write(number, &mut to)?;
    }
    io::copy(&mut from, &mut to)?;
    to.flush()?;
    Ok(fs::rename(&beside, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insertions_keep_what_is_around_them() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.tar");
        fs::write(&path, "0123456789").unwrap();
        insert(&path, 2, |number, to| write!(to, "<{number}>")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "012<1>345<2>6789");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn logs_that_do_not_change_stay_the_same_files() {
        use std::os::unix::fs::MetadataExt;
        let temp = tempfile::tempdir().unwrap();
        generated::logs(temp.path(), 20_000).unwrap();
        let inode = |name: &str| fs::metadata(temp.path().join(name)).unwrap().ino();
        let before = [
            "application.log",
            "application.log.1",
            "web.log",
            "web.log.1.xz",
        ]
        .map(inode);
        change_logs(temp.path(), 20_000).unwrap();
        let after = [
            "application.log.1",
            "application.log.2",
            "web.log",
            "web.log.1.xz",
        ]
        .map(inode);
        assert_eq!(before, after);
    }
}
