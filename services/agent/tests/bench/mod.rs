//! A site, a centre and an agent in one process: everything real but the bus and TLS, for which
//! stand a list of peers in memory and socket pairs.
#![allow(dead_code, reason = "each test file uses its part")]

use agent::backup::{Counters, Job, Outcome, Prepared};
use agent::session;
use engined::house::{Added, House, Part};
use engined::peers::{Agent, Peers, Site};
use format::{DatastoreId, Keyset};
use protocol::session::Kind;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).unwrap();
    bytes
}

pub(crate) fn key_pair() -> Arc<Ed25519KeyPair> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Arc::new(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
}

fn public(key: &Ed25519KeyPair) -> [u8; 32] {
    key.public_key().as_ref().try_into().unwrap()
}

pub(crate) fn keyset() -> Keyset {
    Keyset {
        datastore_id: DatastoreId(random()),
        dedup: Zeroizing::new(random()),
        epochs: BTreeMap::from([(1, Zeroizing::new(random()))]),
    }
}

/// keyd's and centred's lists, and keyd's signature.
pub(crate) struct List {
    identity: Arc<Ed25519KeyPair>,
    pub(crate) agents: Mutex<HashMap<String, Agent>>,
    pub(crate) sites: Mutex<HashMap<String, Site>>,
}

impl Peers for List {
    fn agent(&self, id: &str) -> Result<Option<Agent>, contract::Error> {
        Ok(self.agents.lock().unwrap().get(id).cloned())
    }

    fn site(&self, id: &str) -> Result<Option<Site>, contract::Error> {
        Ok(self.sites.lock().unwrap().get(id).cloned())
    }

    fn sign(&self, purpose: &str, message: &[u8]) -> Result<[u8; 64], contract::Error> {
        let text = [b"strongroom ", purpose.as_bytes(), b" v1\0", message].concat();
        Ok(self.identity.sign(&text).as_ref().try_into().unwrap())
    }

    fn identity(&self) -> Result<[u8; 32], contract::Error> {
        Ok(public(&self.identity))
    }
}

/// An appliance.
pub(crate) struct Appliance {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) list: Arc<List>,
    pub(crate) house: Arc<House>,
    pub(crate) keyset: Option<Keyset>,
    pub(crate) added: mpsc::UnboundedReceiver<Added>,
    part: Part,
}

impl Appliance {
    pub(crate) fn site() -> Appliance {
        let keyset = keyset();
        Self::new(Part::Site(keyset.datastore_id), Some(keyset), None)
    }

    /// A site whose pool is this directory.
    pub(crate) fn site_on(pool: &Path) -> Appliance {
        let keyset = keyset();
        Self::new(Part::Site(keyset.datastore_id), Some(keyset), Some(pool))
    }

    pub(crate) fn centre() -> Appliance {
        Self::new(Part::Centre, None, None)
    }

    /// A centre whose pool is this directory.
    pub(crate) fn centre_on(pool: &Path) -> Appliance {
        Self::new(Part::Centre, None, Some(pool))
    }

    fn new(part: Part, keyset: Option<Keyset>, pool: Option<&Path>) -> Appliance {
        let list = Arc::new(List {
            identity: key_pair(),
            agents: Mutex::default(),
            sites: Mutex::default(),
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("pool")).unwrap();
        std::fs::create_dir_all(dir.path().join("state")).unwrap();
        let (house, added) = Self::house(dir.path(), &list);
        let pool = pool.map_or_else(|| dir.path().join("pool"), Path::to_path_buf);
        house.open(pool, part.clone(), keyset.clone()).unwrap();
        Appliance {
            dir,
            list,
            house,
            keyset,
            added,
            part,
        }
    }

    fn house(dir: &Path, list: &Arc<List>) -> (Arc<House>, mpsc::UnboundedReceiver<Added>) {
        let (send, added) = mpsc::unbounded_channel();
        let state = dir.join("state");
        let house = House::new(list.clone(), state, send, CancellationToken::new()).unwrap();
        (house, added)
    }

    /// As after a restart of the daemon.
    pub(crate) async fn restart(&mut self) {
        self.house
            .close(engined::house::Status::Waiting("restart".into()));
        self.house.idle().await;
        (self.house, self.added) = Self::house(self.dir.path(), &self.list);
        let pool = self.dir.path().join("pool");
        self.house
            .open(pool, self.part.clone(), self.keyset.clone())
            .unwrap();
    }

    pub(crate) fn pool(&self) -> PathBuf {
        self.dir.path().join("pool")
    }

    pub(crate) fn datastore(&self) -> DatastoreId {
        self.keyset.as_ref().unwrap().datastore_id
    }

    /// Pairs an agent.
    pub(crate) fn pair(&self, id: &str, scope: &str) -> Server {
        let key = key_pair();
        let agent = Agent {
            scope: scope.into(),
            public: public(&key),
        };
        self.list.agents.lock().unwrap().insert(id.into(), agent);
        Server {
            id: id.into(),
            key,
            house: self.house.clone(),
        }
    }

    /// Enrols a site.
    pub(crate) fn enrol(&self, id: &str, site: &Appliance) {
        let record = Site {
            datastore: site.datastore(),
            public: public(&site.list.identity),
        };
        self.list.sites.lock().unwrap().insert(id.into(), record);
    }

    /// A connection of a site's, as portald hands it on; the site's end.
    pub(crate) fn dialled_by(&self, site: &str) -> StdStream {
        let (ours, theirs) = StdStream::pair().unwrap();
        engined::accept(&self.house, engined::Peer::Site(site.into()), theirs).unwrap();
        ours
    }
}

/// A protected server that is paired.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) id: String,
    pub(crate) key: Arc<Ed25519KeyPair>,
    pub(crate) house: Arc<House>,
}

impl Server {
    /// A connection, as portald hands it on; the agent's end.
    pub(crate) fn dial(&self) -> UnixStream {
        let (ours, theirs) = StdStream::pair().unwrap();
        engined::accept(&self.house, engined::Peer::Agent(self.id.clone()), theirs).unwrap();
        ours.set_nonblocking(true).unwrap();
        UnixStream::from_std(ours).unwrap()
    }

    /// An open session.
    pub(crate) async fn session(&self, kind: Kind) -> agent::Result<UnixStream> {
        let mut stream = self.dial();
        session::open(&mut stream, kind, &self.id, &self.key).await?;
        Ok(stream)
    }

    pub(crate) async fn back_up(&self, job: Job) -> agent::Result<Outcome> {
        let prepared = Prepared::new(job)?;
        let stream = self.session(Kind::Intake).await?;
        prepared
            .run(
                stream,
                Arc::new(Counters::default()),
                CancellationToken::new(),
            )
            .await
    }

    pub(crate) async fn restore(
        &self,
        snapshot: [u8; 16],
        path: &str,
        target: &Path,
    ) -> agent::Result<filetree::write::Report> {
        let stream = self.session(Kind::Restore).await?;
        let counters = Arc::default();
        let (path, target) = (path.as_bytes().to_vec(), target.to_path_buf());
        agent::restore::restore(stream, snapshot, path, target, Default::default(), counters).await
    }

    pub(crate) async fn list(&self) -> agent::Result<Vec<protocol::restore::Listed>> {
        agent::restore::list(&mut self.session(Kind::List).await?).await
    }
}

pub(crate) fn job(tree: &Path, cache: Option<PathBuf>) -> Job {
    Job {
        run: "run-1".into(),
        host: "server".into(),
        source: "Debian".into(),
        paths: vec![tree.into()],
        excludes: vec![],
        cache,
    }
}

/// Bytes that look random, the same for the same seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    })
    .take(length)
    .collect()
}

/// A file system of 24 MiB in memory.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with the reason printed, where nothing can be mounted.
    pub(crate) fn new() -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        if disk.mount("size=24m") {
            return Some(disk);
        }
        println!("skipped: a tmpfs cannot be mounted here (needs root)");
        None
    }

    /// Makes it larger under whoever uses it.
    pub(crate) fn enlarge(&self) {
        assert!(self.mount("remount,size=200m"));
    }

    fn mount(&self, options: &str) -> bool {
        std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(self.path())
            .status()
            .is_ok_and(|s| s.success())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.path())
            .status();
    }
}

pub(crate) fn assert_same(a: &Path, b: &Path) {
    let comparison = filetree::compare::compare(a, b).unwrap();
    assert!(comparison.is_same(), "{:#?}", comparison.differences);
    assert!(comparison.entries > 1);
}
