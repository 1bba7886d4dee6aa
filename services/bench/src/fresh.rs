//! A file system that is made for one restore. On one that is used, a tool pays for the others: ext4 makes
//! files slowly for five minutes after others were removed, and a disk is slow while it still works on
//! what came before.

use crate::measure::quietly;
use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an empty ext4 lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// The disk on which the repositories are.
    Disk,
    /// A tmpfs, so that nobody waits for a disk.
    Memory,
}

/// Bytes of one: the corpus has three gigabytes, and ext4 its own.
const ROOM: u64 = 6 << 30;

/// An empty ext4, until it is dropped.
pub(crate) struct Fresh {
    /// Outermost first.
    mounted: Vec<PathBuf>,
    image: PathBuf,
}

/// Keeps what is mounted from now on to this process, so that nothing of it stays when it is interrupted;
/// says whether one can be made, and prints why not. Root may lack loop devices or ext4, so one is made in `work`.
pub(crate) fn may_mount(work: &Path) -> bool {
    let tried = (|| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        quietly(Command::new("mount").args(["--make-rprivate", "/"]))?;
        Fresh::make(&work.join("trial"), Medium::Disk)
    })();
    match tried {
        Ok(_) => true,
        Err(error) => {
            eprintln!("no file system of its own for each restore: {error:#}");
            false
        }
    }
}

impl Fresh {
    /// Makes one at `target`, its image beside that.
    ///
    /// # Errors
    /// A program is missing, or the kernel lacks ext4 or loop devices.
    pub(crate) fn make(target: &Path, medium: Medium) -> Result<Self> {
        let beside = target.with_extension("image");
        fs::create_dir_all(target)?;
        fs::create_dir_all(&beside)?;
        let image = beside.join("ext4");
        let mut this = Self {
            mounted: Vec::new(),
            image: image.clone(),
        };
        let mut mount = |options: &[&str], what: &Path, place: &Path| {
            quietly(Command::new("mount").args(options).args([what, place]))?;
            this.mounted.push(place.to_owned());
            anyhow::Ok(())
        };
        if medium == Medium::Memory {
            let size = format!("size={ROOM}");
            mount(&["-t", "tmpfs", "-o", &size], Path::new("none"), &beside)?;
        }
        File::create_new(&image)
            .and_then(|file| file.set_len(ROOM))
            .with_context(|| image.display().to_string())?;
        // all of it now: else the kernel goes on with it during the restore
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        let make = ["-q", "-E", options];
        quietly(Command::new("mkfs.ext4").args(make).arg(&image))?;
        mount(&["-o", "loop"], &image, target)?;
        Ok(this)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        while let Some(place) = self.mounted.pop() {
            if let Err(error) = quietly(Command::new("umount").arg(&place)) {
                eprintln!(
                    "{} stays mounted until this ends: {error:#}",
                    place.display()
                );
            }
        }
        // gone already with a tmpfs
        let _ = fs::remove_file(&self.image);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_none_can_be_made_that_is_known_at_the_start() {
        // root gets as far as the directory
        assert!(!may_mount(Path::new("/proc")));
    }
}
