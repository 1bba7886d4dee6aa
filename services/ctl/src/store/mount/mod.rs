//! `strongroom store mount`: snapshots as directories, by FUSE.
//!
//! `tree` is what is seen, `attr` and `list` how, `serve` hands it to the kernel. All answers come from
//! the snapshot at the moment they are asked for, with what was read of late kept in bounded memory: a
//! mount of five million files holds no more than one of five.

mod attr;
mod list;
mod names;
mod serve;
#[cfg(test)]
mod tests;
mod tree;

use super::{Outcome, Unlocked, answer, outcome, path_json, show, tell_unread, unread, work};
use anyhow::{Context, Result, bail};
use clap::Args;
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::mount::{UnmountFlags, unmount};
use serde_json::json;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tree::Tree;

const DEVICE: &str = "/dev/fuse";

/// What to mount, and where.
#[derive(Args)]
pub(crate) struct Mount {
    #[command(flatten)]
    store: Unlocked,
    /// An empty directory
    mountpoint: PathBuf,
    /// Let other users in too, as far as the files' modes and owners let them
    #[arg(long)]
    allow_other: bool,
}

impl Mount {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        if !Path::new(DEVICE).exists() {
            bail!("{DEVICE} is not there; run `modprobe fuse`, or use a kernel that has FUSE");
        }
        let mountpoint = self.mountpoint()?;
        let store = self.store.open_to_read()?;
        let (snapshots, unreadable) = store.snapshots()?;
        let bad = unread(unreadable);
        let count = snapshots.len();
        let place = self.mountpoint.as_os_str().as_bytes();
        let tree = Arc::new(Tree::new(&store, snapshots)?);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            // before the mount, which is not to outlive us
            let mut signals = Signals::new()?;
            work::leave_signals();
            let session = Session::new(serve::Served(tree.clone()), &mountpoint, &self.options())
                .map_err(|error| refused(error, &mountpoint))?;
            // as long as the session is ours: it is unmounted where this cannot be printed
            answer(
                json,
                json!({ "mountpoint": path_json(place), "snapshots": count, "unreadable": bad }),
                || {
                    println!(
                        "{} in {} at {}; Ctrl-C or `umount` ends it.",
                        show::count(count as u64, "snapshot"),
                        show::count(tree.groups() as u64, "group"),
                        self.mountpoint.display()
                    );
                    tell_unread(&bad);
                },
            )?;
            let (tell_end, mut ended) = oneshot::channel();
            std::thread::Builder::new()
                .name("mount".into())
                .spawn(move || tell_end.send(session.run()))?;
            let mut asked = false;
            loop {
                tokio::select! {
                    end = &mut ended => {
                        return end.context("the mount ended by a fault of ours")?.context("FUSE failed");
                    }
                    only_once = signals.next() => {
                        // what is still open of it ends with us
                        if asked {
                            return Ok(());
                        }
                        asked = true;
                        if end(&mountpoint, false).is_err() {
                            end(&mountpoint, true).with_context(|| {
                                format!("{} cannot be unmounted", self.mountpoint.display())
                            })?;
                            if only_once {
                                return Ok(());
                            }
                            eprintln!(
                                "{} is in use: others no longer see it, and it ends when its last user leaves, or \
                                 at once by another Ctrl-C",
                                self.mountpoint.display()
                            );
                        }
                    }
                }
            }
        })?;
        Ok(outcome(bad.len() as u64 + tree.told()))
    }

    /// The directory to mount on, looked at.
    fn mountpoint(&self) -> Result<PathBuf> {
        let shown = self.mountpoint.display();
        let found = statx(
            CWD,
            &self.mountpoint,
            AtFlags::empty(),
            StatxFlags::BASIC_STATS,
        );
        let found = match found.map_err(io::Error::from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("{shown} does not exist; make an empty directory to mount on")
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                bail!("{shown} is what a mount that was killed left; run `umount {shown}`")
            }
            found => found.with_context(|| format!("{shown} cannot be looked at"))?,
        };
        if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            bail!(
                "something is mounted on {shown} already; unmount it, or choose another directory"
            );
        }
        let mut names = std::fs::read_dir(&self.mountpoint)
            .with_context(|| format!("{shown} cannot be mounted on"))?;
        if names.next().is_some() {
            bail!("{shown} is not empty; choose an empty directory to mount on");
        }
        let whole = std::fs::canonicalize(&self.mountpoint)?;
        if std::fs::canonicalize(&self.store.dir).is_ok_and(|dir| whole.starts_with(dir)) {
            bail!("{shown} is in the datastore; choose a directory elsewhere");
        }
        Ok(whole)
    }

    fn options(&self) -> Config {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("strongroom".into()),
            MountOption::RO,
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            MountOption::NoAtime,
        ];
        if self.allow_other {
            config.acl = SessionACL::All;
            config.mount_options.push(MountOption::DefaultPermissions);
        }
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        config.n_threads = Some(threads.clamp(2, 8));
        config
    }
}

fn refused(error: io::Error, mountpoint: &Path) -> anyhow::Error {
    let shown = mountpoint.display();
    let step = match error.kind() {
        io::ErrorKind::NotFound => {
            "; for users other than root fusermount3 is needed: install fuse3"
        }
        _ => "",
    };
    anyhow::anyhow!("nothing can be mounted on {shown}: {error}{step}")
}

/// What ends a mount from outside.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one; whether nobody is there to ask again.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.interrupt.recv() => false,
            _ = self.terminate.recv() => true,
            _ = self.hang_up.recv() => true,
        }
    }
}

/// Unmounts, even if something of it is in use when it is to be detached. Who is not root needs the
/// help that he mounted by.
fn end(mountpoint: &Path, detach: bool) -> io::Result<()> {
    let flags = if detach {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    match unmount(mountpoint, flags) {
        Err(rustix::io::Errno::PERM) => {}
        ended => return Ok(ended?),
    }
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(detach.then_some("-z"));
    let output = command.arg("--").arg(mountpoint).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}
