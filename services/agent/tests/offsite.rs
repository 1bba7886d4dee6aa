//! Copies from a site's engined to a centre's, cut and resumed, and restores at the centre.

mod bench;

use bench::{Appliance, Server, assert_same, job, noise};
use engined::Copied;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

struct Fleet {
    site: Appliance,
    centre: Appliance,
    server: Server,
    dir: tempfile::TempDir,
}

fn fleet() -> Fleet {
    fleet_with(Appliance::centre())
}

fn fleet_with(centre: Appliance) -> Fleet {
    let site = Appliance::site();
    centre.enrol("s1", &site);
    let server = site.pair("a1", "backup");
    Fleet {
        site,
        centre,
        server,
        dir: tempfile::tempdir().unwrap(),
    }
}

impl Fleet {
    fn tree(&self, seed: u64) -> PathBuf {
        let tree = self.dir.path().join(format!("tree {seed}"));
        fs::create_dir(&tree).unwrap();
        for n in 0..40 {
            fs::write(tree.join(format!("{n}")), noise(2000 * n, seed + n as u64)).unwrap();
        }
        fs::write(tree.join("large"), noise(8 << 20, seed)).unwrap();
        tree
    }

    async fn back_up(&self, tree: &Path) -> [u8; 16] {
        self.server
            .back_up(job(tree, None))
            .await
            .unwrap()
            .committed
            .snapshot
    }

    fn copy_over(&self, stream: UnixStream) -> Result<Copied, contract::Error> {
        engined::replicate(&self.site.house, "s1", stream, &|| false, &mut |_, _, _| {})
    }

    fn copy(&self) -> Copied {
        self.copy_over(self.centre.dialled_by("s1")).unwrap()
    }

    /// A copy whose connection is cut after so many bytes from the site; how many went over.
    fn copy_cut_after(&self, limit: usize) -> (Result<Copied, contract::Error>, usize) {
        let centre = self.centre.dialled_by("s1");
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut up, mut to_centre) = (theirs.try_clone().unwrap(), centre.try_clone().unwrap());
        let (mut down, mut to_site) = (centre, theirs);
        std::thread::scope(|scope| {
            let pump = scope.spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                let mut sent = 0;
                while sent < limit {
                    let room = (limit - sent).min(buffer.len());
                    let Ok(count @ 1..) = up.read(&mut buffer[..room]) else {
                        break;
                    };
                    if to_centre.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                    sent += count;
                }
                let _ = to_centre.shutdown(Shutdown::Both);
                let _ = up.shutdown(Shutdown::Both);
                sent
            });
            scope.spawn(move || {
                let _ = std::io::copy(&mut down, &mut to_site);
                let _ = to_site.shutdown(Shutdown::Both);
            });
            let copied = self.copy_over(ours);
            (copied, pump.join().unwrap())
        })
    }

    /// An agent paired at the centre for this site's datastore, and the keys released for it.
    async fn recovery(&self) -> Server {
        self.recovery_of("r1", std::time::Duration::from_secs(600))
    }

    /// The same, with this id, and granted for so long.
    fn recovery_of(&self, id: &str, granted: std::time::Duration) -> Server {
        let scope = format!("restore:{}", self.site.datastore());
        let server = self.centre.pair(id, &scope);
        let keyset = self.site.keyset.as_ref().unwrap();
        let until = std::time::SystemTime::now() + granted;
        self.centre.house.grant(keyset, id, until).unwrap();
        server
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_new_travels_and_all_comes_back_from_the_centre() {
    let mut fleet = fleet();
    let first_tree = fleet.tree(1);
    let first = fleet.back_up(&first_tree).await;
    let copied = fleet.copy();
    assert_eq!(copied.totals.snapshots, 1);
    assert!(copied.wire > 8 << 20, "{copied:?}");
    assert!(fleet.centre.added.recv().await.unwrap().details.is_none());

    fs::write(first_tree.join("new"), noise(100_000, 9)).unwrap();
    let second = fleet.back_up(&first_tree).await;
    let copied = fleet.copy();
    assert_eq!(copied.totals.snapshots, 1);
    assert!(copied.wire < 300_000, "{copied:?}");
    let nothing = fleet.copy();
    assert_eq!((nothing.totals.snapshots, nothing.totals.frames), (0, 0));
    assert!(nothing.wire < 1000, "{nothing:?}");

    let recovery = fleet.recovery().await;
    assert_eq!(recovery.list().await.unwrap().len(), 2);
    let target = fleet.dir.path().join("restored");
    recovery.restore(second, "", &target).await.unwrap();
    assert_same(&first_tree, &target);
    fs::remove_file(first_tree.join("new")).unwrap();
    let target = fleet.dir.path().join("restored first");
    recovery.restore(first, "large", &target).await.unwrap();
    assert_eq!(
        fs::read(target.join("large")).unwrap(),
        fs::read(first_tree.join("large")).unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_anywhere_goes_on_with_what_is_missing() {
    let mut fleet = fleet();
    let tree = fleet.tree(2);
    let snapshot = fleet.back_up(&tree).await;
    let mut total = 0;
    for limit in [0, 3, 60, 130, 5_000, 70_000, 1 << 20, 3 << 20, 4_000_001] {
        let (copied, sent) = fleet.copy_cut_after(limit);
        match copied {
            Err(contract::Error::CentreUnreachable(sentence)) => {
                assert!(sentence.contains("what arrived stays"), "{sentence}");
            }
            other => panic!("cut after {limit}: {other:?}"),
        }
        total += sent;
        // whatever had arrived is kept over a restart of the centre too
        if limit == 1 << 20 {
            fleet.centre.restart().await;
        }
    }
    let rest = fleet.copy();
    assert_eq!(rest.totals.snapshots, 1);
    total += rest.wire as usize;
    assert!(total < (10 << 20), "{total} bytes for 9.6 MB and nine cuts");
    let recovery = fleet.recovery().await;
    let target = fleet.dir.path().join("restored");
    recovery.restore(snapshot, "", &target).await.unwrap();
    assert_same(&tree, &target);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_reaches_its_own_datastore_only() {
    let fleet = fleet();
    let tree = fleet.tree(3);
    fleet.back_up(&tree).await;
    fleet.copy();
    // another site of the centre's, with a good key, that names the first one's datastore
    let thief = Appliance::site();
    fleet.centre.enrol("s2", &thief);
    let as_thief = Fleet {
        site: thief,
        ..fleet
    };
    let record = as_thief.centre.list.sites.lock().unwrap()["s1"].clone();
    let stolen = engined::peers::Site {
        public: as_thief.centre.list.sites.lock().unwrap()["s2"].public,
        ..record
    };
    // the list says s2 has its own; the thief's engined sends the id of its own datastore
    let copied = engined::replicate(
        &as_thief.site.house,
        "s1",
        as_thief.centre.dialled_by("s1"),
        &|| false,
        &mut |_, _, _| {},
    );
    assert!(
        matches!(copied, Err(contract::Error::NotAuthorised(_))),
        "{copied:?}"
    );
    // a good signature of s2, whose record is made to name the first's datastore: its datastore
    // is still another
    as_thief
        .centre
        .list
        .sites
        .lock()
        .unwrap()
        .insert("s2".into(), stolen);
    let copied = engined::replicate(
        &as_thief.site.house,
        "s2",
        as_thief.centre.dialled_by("s2"),
        &|| false,
        &mut |_, _, _| {},
    );
    match copied {
        Err(contract::Error::Failed(sentence)) => {
            assert!(sentence.contains("is not this site's"), "{sentence}")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_grant_a_recovery_agent_gets_nothing() {
    let fleet = fleet();
    let tree = fleet.tree(4);
    let snapshot = fleet.back_up(&tree).await;
    fleet.copy();
    let scope = format!("restore:{}", fleet.site.datastore());
    let agent = fleet.centre.pair("r1", &scope);
    for refused in [
        agent.list().await.map(drop),
        agent
            .restore(snapshot, "", &fleet.dir.path().join("x"))
            .await
            .map(drop),
    ] {
        let sentence = refused.unwrap_err().to_string();
        assert!(sentence.contains("no restore"), "{sentence}");
    }
    let backup = fleet
        .centre
        .pair("b1", "backup")
        .back_up(job(&tree, None))
        .await;
    assert!(backup.unwrap_err().to_string().contains("is a centre"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_recovery_agent_is_refused_while_a_new_ones_grant_runs() {
    use std::time::Duration;
    let fleet = fleet();
    let snapshot = fleet.back_up(&fleet.tree(8)).await;
    fleet.copy();
    let earlier = fleet.recovery_of("r0", Duration::ZERO);
    let new = fleet.recovery_of("r1", Duration::from_secs(600));
    assert_eq!(new.list().await.unwrap().len(), 1);
    let target = fleet.dir.path().join("x");
    for refused in [
        earlier.list().await.map(drop),
        earlier.restore(snapshot, "", &target).await.map(drop),
    ] {
        let sentence = refused.unwrap_err().to_string();
        assert!(sentence.contains("granted to this agent"), "{sentence}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_centre_says_so_and_the_copy_goes_on_when_it_has_room() {
    let Some(disk) = bench::SmallDisk::new() else {
        return;
    };
    let fleet = fleet_with(Appliance::centre_on(disk.path()));
    let small = fleet.tree(5);
    let kept = fleet.back_up(&small).await;
    fleet.copy();
    let tree = fleet.tree(6);
    fs::write(tree.join("huge"), noise(40 << 20, 7)).unwrap();
    let snapshot = fleet.back_up(&tree).await;
    for _ in 0..2 {
        let copied = fleet.copy_over(fleet.centre.dialled_by("s1"));
        let Err(contract::Error::Failed(sentence)) = copied else {
            panic!("{copied:?}");
        };
        assert_eq!(
            sentence,
            "the centre stopped the copy: the centre's pool is full; every snapshot is whole at \
             the site, and what earlier copies brought stays at the centre: give the centre a \
             larger pool, then copy again (this release neither adds disks to a pool nor removes snapshots)"
        );
    }
    // both ends of what it says: whole at the site, and the earlier copy at the centre
    let target = fleet.dir.path().join("from the site");
    fleet.server.restore(snapshot, "", &target).await.unwrap();
    assert_same(&tree, &target);
    let recovery = fleet.recovery().await;
    let target = fleet.dir.path().join("earlier");
    recovery.restore(kept, "", &target).await.unwrap();
    assert_same(&small, &target);

    disk.enlarge();
    let copied = fleet.copy();
    assert_eq!(copied.totals.snapshots, 1);
    let target = fleet.dir.path().join("from the centre");
    recovery.restore(snapshot, "", &target).await.unwrap();
    assert_same(&tree, &target);
}
