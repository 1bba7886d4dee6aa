//! `strongroom store` run in a scratch directory.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A scratch directory with a datastore `s` and its key file `k`.
pub(crate) struct Bench {
    pub(crate) temp: TempDir,
    pub(crate) caches: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let this = Self {
            temp: TempDir::new().unwrap(),
            caches: TempDir::new().unwrap(),
        };
        this.good(&["init", "s", "--key-file", "k"]);
        this
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.arg("store").args(arguments);
        command.current_dir(self.temp.path());
        command.env("XDG_CACHE_HOME", self.caches.path());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs what succeeds in full; answers its standard output.
    pub(crate) fn good(&self, arguments: &[&str]) -> String {
        self.ends(arguments, 0).0
    }

    /// Runs what ends with this status; answers standard output and error.
    pub(crate) fn ends(&self, arguments: &[&str], status: i32) -> (String, String) {
        told(&self.run(arguments), status)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let all = [arguments, &["--json"]].concat();
        serde_json::from_str(&self.good(&all)).unwrap()
    }

    pub(crate) fn backup(&self, path: &Path) -> Value {
        let path = path.to_str().unwrap();
        self.json(&["backup", "s", "--key-file", "k", "--group", "g", path])
    }

    /// Restores the newest snapshot of `s`, and has it read again.
    pub(crate) fn restore_latest(&self, target: &str) -> String {
        let all = [
            "restore",
            "s",
            "--key-file",
            "k",
            "latest",
            target,
            "--verify",
        ];
        self.good(&all)
    }

    /// What `stats` says of a datastore but for its end and how its index lies.
    pub(crate) fn sums(&self, dir: &str) -> Value {
        let mut stats = self.json(&["stats", dir]);
        for own in ["profile", "index_memory", "index_disk"] {
            stats.as_object_mut().unwrap().remove(own).unwrap();
        }
        stats
    }

    /// Bytes of all packs.
    pub(crate) fn taken(&self) -> u64 {
        let length = |pack: &PathBuf| fs::metadata(pack).unwrap().len();
        self.packs().iter().map(length).sum()
    }

    pub(crate) fn packs(&self) -> Vec<PathBuf> {
        let packs = fs::read_dir(self.at("s/packs")).unwrap();
        packs.map(|p| p.unwrap().path()).collect()
    }
}

pub(crate) fn told(output: &Output, status: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{out}{error}");
    (out, error)
}
