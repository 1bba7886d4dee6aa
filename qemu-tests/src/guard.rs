//! The process between us and a machine: it ends QEMU and the TPM emulator when we end, however we
//! end, unless it was told that they stay.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::pace::Deadline;
use crate::{Error, Result, sys, tree};

const STAY: u8 = b'S';

/// What a keeper starts, in `keep.json` of the machine's directory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) tpm: bool,
    pub(crate) qemu: Vec<String>,
}

/// The machine's processes, seen from here.
#[derive(Debug)]
pub(crate) struct Guard {
    life: Option<ChildStdin>,
    ended: Receiver<()>,
    over: bool,
    pid: u32,
}

impl Guard {
    /// Starts what `keep.json` in the directory says.
    pub(crate) fn start(dir: &Path, kept: &Kept) -> Result<Guard> {
        let file = dir.join("keep.json");
        let json = serde_json::to_vec_pretty(kept).expect("strings and booleans serialise");
        std::fs::write(&file, json).map_err(Error::io(file.display().to_string()))?;
        let mut child = Command::new(tree::own_binary("machines")?)
            .arg("keep")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C is for us; we then end the machines in our order.
            .process_group(0)
            .spawn()
            .map_err(Error::io("the keeper of a machine"))?;
        let life = child.stdin.take();
        let pid = child.id();
        let (tell, ended) = channel();
        std::thread::spawn(move || {
            // An error means that nobody is left to wait for.
            let _ = child.wait();
            let _ = tell.send(());
        });
        Ok(Guard {
            life,
            ended,
            over: false,
            pid,
        })
    }

    /// The keeper's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the machine's processes to end by themselves; false when they did not in time.
    pub(crate) fn ended(&mut self, deadline: Deadline) -> bool {
        if !self.over {
            let left = deadline.left().unwrap_or_default();
            self.over = !matches!(
                self.ended.recv_timeout(left),
                Err(RecvTimeoutError::Timeout)
            );
        }
        self.over
    }

    /// Ends them at once, as a power cut does.
    pub(crate) fn end(&mut self) {
        self.life = None;
        if !self.over {
            self.over = self.ended.recv().is_ok() || self.over;
        }
    }

    /// They outlive us from here on.
    pub(crate) fn stay(mut self) -> Result<()> {
        if let Some(mut life) = self.life.take() {
            life.write_all(&[STAY])
                .map_err(Error::io("the keeper of a machine"))?;
        }
        self.over = true;
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.over {
            self.end();
        }
    }
}

/// The keeper itself: starts what `keep.json` in the directory says and returns QEMU's exit code
/// (128 + signal) when it has ended. Standard input is the life line.
///
/// # Errors
/// When the file or one of the programs is missing.
pub fn keep(dir: &Path) -> Result<i32> {
    let file = dir.join("keep.json");
    let json = std::fs::read(&file).map_err(Error::io(file.display().to_string()))?;
    let kept: Kept = serde_json::from_slice(&json).map_err(|e| Error::Garbled {
        what: file.display().to_string(),
        why: e.to_string(),
    })?;
    let mut qemu = tree::tool("qemu-system-x86_64")?;
    qemu.args(&kept.qemu);
    let mut tpm = None;
    if kept.tpm {
        let (ours, theirs) = UnixStream::pair().map_err(Error::io("socket pair"))?;
        qemu.stdin(OwnedFd::from(ours));
        let state = dir.join("tpm");
        std::fs::create_dir_all(&state).map_err(Error::io(state.display().to_string()))?;
        let mut swtpm = tree::tool("swtpm")?;
        swtpm
            .args(["socket", "--tpm2", "--terminate"])
            .args(["--ctrl", "type=unixio,clientfd=0", "--tpmstate"])
            .arg(format!("dir={}", state.display()))
            .stdin(OwnedFd::from(theirs));
        tpm = Some(spawn(swtpm, dir.join("tpm.log"))?);
    } else {
        qemu.stdin(Stdio::null());
    }
    let mut qemu = spawn(qemu, dir.join("qemu.log"))?;
    let pid = Pid::from_raw(qemu.id().cast_signed());
    std::thread::spawn(move || {
        let mut byte = [0];
        if !matches!(std::io::stdin().read(&mut byte), Ok(1) if byte[0] == STAY) {
            // It may have ended just now; then there is nothing to end.
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let status = qemu.wait().map_err(Error::io("waiting for QEMU"))?;
    if let Some(mut tpm) = tpm {
        // It writes its state as it goes, and ends when QEMU does if that had got as far as using it.
        let _ = kill(Pid::from_raw(tpm.id().cast_signed()), Signal::SIGTERM);
        tpm.wait().map_err(Error::io("waiting for swtpm"))?;
    }
    Ok(status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

fn spawn(mut command: Command, log: PathBuf) -> Result<Child> {
    let name = log.display().to_string();
    let out = File::create(&log).map_err(Error::io(&name))?;
    let err = out.try_clone().map_err(Error::io(&name))?;
    command.stdout(out).stderr(err);
    sys::die_with_parent(&mut command);
    command.spawn().map_err(Error::io(name))
}
