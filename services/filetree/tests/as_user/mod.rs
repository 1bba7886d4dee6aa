//! Runs a test binary again as a user without privileges, where it was started by root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The user that owns nothing.
const NOBODY: u32 = 65_534;

/// Runs all tests of this binary but the one named, which is the caller.
pub(crate) fn again(this: &str) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the tests run as a user already");
        return;
    }
    // the binary may lie where only root may go
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), Permissions::from_mode(0o755)).unwrap();
    let binary = temp.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let space = temp.path().join("space");
    fs::create_dir(&space).unwrap();
    chown(&space, Some(NOBODY), Some(NOBODY)).unwrap();
    let output = Command::new(&binary)
        .args(["--skip", this, "--nocapture"])
        .current_dir("/")
        .env("TMPDIR", &space)
        .env_remove("NEXTEST")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(
        output.status.success(),
        "as a user: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
