//! For tests (feature `testing`): a software TPM (Debian package swtpm) as a process of ours, on
//! two loopback ports, its state in a directory. It ends when it is dropped.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running software TPM.
pub struct Swtpm {
    child: Child,
    port: u16,
    state: PathBuf,
    _own: Option<tempfile::TempDir>,
}

impl Swtpm {
    /// A new TPM, as from the factory; PCR 7 is measured as firmware would.
    pub fn new() -> Swtpm {
        let own = tempfile::tempdir().expect("a temporary directory");
        let mut swtpm = Swtpm::start(own.path());
        swtpm._own = Some(own);
        swtpm.extend(7, 1);
        swtpm
    }

    /// The TPM whose state is in `directory`, just switched on: all PCRs are zero.
    pub fn start(directory: &Path) -> Swtpm {
        let (child, port) = start(directory);
        Swtpm {
            child,
            port,
            state: directory.to_owned(),
            _own: None,
        }
    }

    /// As [`Swtpm::start`], at the port that a TCTI string names already; None when it is taken.
    pub fn start_at(directory: &Path, port: u16) -> Option<Swtpm> {
        let (child, port) = try_start(directory, port.checked_add(1)?)?;
        Some(Swtpm {
            child,
            port,
            state: directory.to_owned(),
            _own: None,
        })
    }

    /// Power off and on: PCRs are zero again, the rest stays. The TCTI string changes.
    pub fn power_cycle(&mut self) {
        self.end();
        (self.child, self.port) = start(&self.state);
    }

    /// Its TCTI string.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Extends a PCR of the SHA-256 bank with 32 bytes of `value` (Debian package tpm2-tools).
    pub fn extend(&self, pcr: u8, value: u8) {
        let digest = format!("{value:02x}").repeat(32);
        self.tool("pcrextend", &[&format!("{pcr}:sha256={digest}")]);
    }

    /// Runs `tpm2_<tool>` against it, in its state directory, and answers its output.
    pub fn tool(&self, tool: &str, args: &[&str]) -> Vec<u8> {
        let output = Command::new("timeout")
            .args(["60", &format!("tpm2_{tool}")])
            .args(args)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .current_dir(&self.state)
            .output()
            .expect("tpm2-tools, of the Debian package tpm2-tools");
        assert!(
            output.status.success(),
            "tpm2_{tool}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    /// The directory of its state, where [`Swtpm::tool`] runs.
    pub fn state(&self) -> &Path {
        &self.state
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Default for Swtpm {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.end();
    }
}

fn start(directory: &Path) -> (Child, u16) {
    for _ in 0..50 {
        if let Some(running) = try_start(directory, 0) {
            return running;
        }
    }
    panic!("swtpm found no two neighbouring free ports, or cannot run");
}

/// With the control channel at that port, or at any for 0; the TCTI wants the other one below.
fn try_start(directory: &Path, control: u16) -> Option<(Child, u16)> {
    let control = TcpListener::bind(("127.0.0.1", control)).ok()?;
    let address = control.local_addr().ok()?;
    let port = address.port().checked_sub(1)?;
    fcntl(&control, FcntlArg::F_SETFD(FdFlag::empty())).ok()?;
    let mut child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--server")
        .arg(format!("type=tcp,port={port},bindaddr=127.0.0.1"))
        .arg("--ctrl")
        .arg(format!("type=tcp,fd={}", control.as_raw_fd()))
        .arg("--tpmstate")
        .arg(format!("dir={}", directory.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm, of the Debian package swtpm");
    drop(control);
    if answers(address).is_none() {
        let _ = child.kill();
        let _ = child.wait();
        return None;
    }
    Some((child, port))
}

/// Asks for its capabilities (CMD_GET_CAPABILITY of its control protocol): it answers once it
/// serves, and the connection breaks when it dies instead.
fn answers(control: SocketAddr) -> Option<()> {
    let mut stream = TcpStream::connect(control).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    stream.write_all(&1u32.to_be_bytes()).ok()?;
    stream.read_exact(&mut [0; 4]).ok()
}
