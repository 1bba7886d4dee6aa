//! Backups and restores through both ends, over socket pairs.

mod bench;

use bench::{Appliance, assert_same, job, noise};
use std::fs;
use std::time::SystemTime;

/// Makes everything in the tree old enough for its fingerprints to be trusted.
fn age(tree: &std::path::Path) {
    // change times cannot be set: the clock has to pass two seconds, which no event announces
    let newest = SystemTime::now();
    while newest.elapsed().unwrap().as_millis() < 3100 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(tree.exists());
}

fn tree(dir: &std::path::Path) -> std::path::PathBuf {
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    filetree::specimen::create(&tree, 7, Default::default()).unwrap();
    fs::write(tree.join("large"), noise(5 << 20, 1)).unwrap();
    fs::write(tree.join("copy of large"), noise(5 << 20, 1)).unwrap();
    tree
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_comes_back_byte_for_byte() {
    let site = Appliance::site();
    let server = site.pair("a1", "backup");
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let cache = Some(dir.path().join("cache/x"));

    let first = server.back_up(job(&tree, cache.clone())).await.unwrap();
    let c = &first.committed;
    assert!(
        c.logical >= 10 << 20 && c.unique < c.logical - (4 << 20),
        "{c:?}"
    );
    // the copy was asked about, not sent
    assert!(c.wire < c.logical - (4 << 20), "{c:?}");
    let target = dir.path().join("first");
    server.restore(c.snapshot, "", &target).await.unwrap();
    assert_same(&tree, &target);

    age(&tree);
    fs::write(tree.join("new"), noise(300_000, 2)).unwrap();
    let mut large = noise(5 << 20, 1);
    large.splice(2_000_000..2_000_000, *b"an insertion");
    fs::write(tree.join("large"), large).unwrap();
    let second = server.back_up(job(&tree, cache.clone())).await.unwrap();
    let c = &second.committed;
    assert!(c.unique < 1_200_000 && c.wire < 1_500_000, "{c:?}");
    let target = dir.path().join("second");
    server.restore(c.snapshot, "", &target).await.unwrap();
    assert_same(&tree, &target);

    let third = server.back_up(job(&tree, cache)).await.unwrap();
    assert_eq!(third.committed.logical, c.logical);
    assert!(third.committed.unique < 10_000, "{:?}", third.committed);

    let listed = server.list().await.unwrap();
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|s| s.host == "server"));
    let target = dir.path().join("part");
    let report = server.restore(c.snapshot, "large", &target).await.unwrap();
    assert_eq!(report.bytes, (5 << 20) + 12);
    assert_eq!(
        fs::read(target.join("large")).unwrap(),
        fs::read(tree.join("large")).unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_sees_its_own_and_learns_nothing_of_others() {
    let site = Appliance::site();
    let (a, b) = (site.pair("a", "backup"), site.pair("b", "backup"));
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let first = a.back_up(job(&tree, None)).await.unwrap().committed;
    let second = b.back_up(job(&tree, None)).await.unwrap().committed;
    // stored once, yet sent by both: b is not told that the site has it
    assert_eq!(second.logical, first.logical);
    assert!(second.unique < 100_000, "{second:?}");
    assert!(
        second.wire.abs_diff(first.wire) < 100_000,
        "{first:?} {second:?}"
    );
    assert_eq!(b.list().await.unwrap().len(), 1);
    let target = dir.path().join("stolen");
    let error = b
        .restore(first.snapshot, "", &target)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no snapshot"), "{error}");
    assert!(!target.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_lost_what_it_knew_is_sent_everything_again() {
    let mut site = Appliance::site();
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    age(&tree);
    let cache = Some(dir.path().join("cache/x"));
    let server = site.pair("a", "backup");
    let first = server
        .back_up(job(&tree, cache.clone()))
        .await
        .unwrap()
        .committed;
    drop(server);
    let pool = site.pool();
    site.house
        .close(engined::house::Status::Waiting("test".into()));
    let side: Vec<_> = files_below(&pool)
        .into_iter()
        .filter(|p| p.ends_with(".redb"))
        .collect();
    assert_eq!(side.len(), 1, "{side:?}");
    fs::remove_file(&side[0]).unwrap();
    site.restart().await;
    let server = bench::Server {
        house: site.house.clone(),
        ..site.pair("a", "backup")
    };
    let again = server.back_up(job(&tree, cache)).await.unwrap().committed;
    assert_eq!(again.logical, first.logical);
    assert!(again.wire > 5 << 20, "{again:?}");
    assert!(again.unique < 100_000, "{again:?}");
    let target = dir.path().join("restored");
    server.restore(again.snapshot, "", &target).await.unwrap();
    assert_same(&tree, &target);
}

fn files_below(dir: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path().to_str().unwrap().to_owned());
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_told_and_the_rest_is_kept() {
    let site = Appliance::site();
    let server = site.pair("a", "backup");
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("good"), "good").unwrap();
    let outcome = server.back_up(job(&tree, None)).await.unwrap();
    assert_eq!((outcome.problem_count, outcome.committed.entries), (0, 2));
    let error = server
        .back_up(job(&dir.path().join("none"), None))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("does not exist; check the path to protect"),
        "{error}"
    );
    assert_eq!(server.list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_announced_with_its_run() {
    let mut site = Appliance::site();
    let server = site.pair("a", "backup");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "x").unwrap();
    let outcome = server.back_up(job(dir.path(), None)).await.unwrap();
    let added = site.added.recv().await.unwrap();
    assert_eq!(added.clear.id.0, outcome.committed.snapshot);
    assert_eq!(added.run, "run-1");
    assert_eq!(added.details.unwrap().host, "server");
}
