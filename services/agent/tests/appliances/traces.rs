//! Everything of a machine's that outlives a call or that others can read: what its daemons keep
//! and log, their environment and their arguments.

use crate::rig::Machine;
use format::Keyset;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// All of it, each with its place.
pub(crate) struct Traces(Vec<(PathBuf, Vec<u8>)>);

impl Traces {
    pub(crate) async fn of(machine: &Machine) -> Traces {
        let mut traces = Traces(Vec::new());
        traces.add(machine.appliance.root.path());
        let bus = zbus::fdo::DBusProxy::new(&machine.bus).await.unwrap();
        for name in bus.list_names().await.unwrap() {
            if !name.starts_with("org.strongroom.") {
                continue;
            }
            let process = bus.get_connection_unix_process_id(name.inner().clone());
            let process = PathBuf::from(format!("/proc/{}", process.await.unwrap()));
            traces.add(&process.join("cmdline"));
            match fs::read(process.join("environ")) {
                Ok(bytes) => traces.0.push((process.join("environ"), bytes)),
                // keyd has made itself nobody's to look into, which is as it should be
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    println!("skipped: the environment of {name}, which only root may read");
                }
                Err(error) => panic!("the environment of {name}: {error}"),
            }
        }
        traces
    }

    /// A file, or all below a directory.
    pub(crate) fn add(&mut self, path: &Path) {
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() || kind.is_file() {
                    self.add(&entry.path());
                }
            }
        } else {
            self.0.push((path.into(), fs::read(path).unwrap()));
        }
    }

    /// Where it is, as it is or in hexadecimal digits.
    fn find(&self, wanted: &[u8]) -> Vec<&Path> {
        let digits = data_encoding::HEXLOWER.encode(wanted);
        let has = |bytes: &[u8], wanted: &[u8]| bytes.windows(wanted.len()).any(|w| w == wanted);
        let found = self
            .0
            .iter()
            .filter(|(_, bytes)| has(bytes, wanted) || has(bytes, digits.as_bytes()));
        found.map(|(path, _)| path.as_path()).collect()
    }

    /// Panics where one of the secrets is, each with its name; and where nothing of what must be
    /// there is found, since then the search is at fault.
    pub(crate) fn hold_none_of(&self, machine: &Machine, secrets: &[(&str, Vec<u8>)]) {
        let root = machine.appliance.root.path().as_os_str();
        let known = self.find(root.as_encoded_bytes());
        assert!(known.iter().any(|p| p.ends_with("environ")), "{known:?}");
        let known = self.find(b"Acme");
        assert!(!known.is_empty(), "no file names the tenant");
        for (name, secret) in secrets {
            let found = self.find(secret);
            assert!(found.is_empty(), "{name} is in {found:?}");
        }
    }
}

/// The secrets of a site that a test can know: `code` is that of a pairing.
pub(crate) async fn secrets(site: &Machine, code: &str) -> Vec<(&'static str, Vec<u8>)> {
    let keys = contract::KeysProxy::new(&site.bus).await.unwrap();
    let keyset = keys.datastore_keyset(&site.datastore).await.unwrap();
    let keyset = Keyset::decode(&runtime::pipe::take_key(keyset).unwrap()).unwrap();
    let token = protocol::token::Token::from_str(&site.token).unwrap();
    let mut secrets = vec![
        ("the key of digests", keyset.dedup.to_vec()),
        ("the key of frames", keyset.newest().unwrap().1.to_vec()),
        ("the token", site.token.clone().into_bytes()),
        ("the token's secret", token.secret.to_vec()),
        ("the pairing code", code.as_bytes().to_vec()),
    ];
    // the words alone, as whoever keeps them may leave out what stands before
    if let Some((_, words)) = site.share.split_once(": ") {
        secrets.push(("the client's share", words.as_bytes().to_vec()));
        secrets.push(("its letters", words.replace('-', "").into_bytes()));
    }
    secrets
}
