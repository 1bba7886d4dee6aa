//! Backups and restores through both ends, over socket pairs.

mod bench;

use bench::{Appliance, assert_same, job, noise};
use std::fs;
use std::os::unix::fs::FileExt;
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
    // the first in order: what comes later may not be taken for unchanged any more
    many_runs(&tree.join("\u{1}"), 4100);
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
    assert_eq!(
        error.to_string(),
        format!(
            "{} does not exist; check the path to protect",
            dir.path().join("none").display()
        )
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

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_no_progress_but_comes_back() {
    let site = Appliance::site();
    let server = site.pair("a", "backup");
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    fs::write(tree.join("data"), noise(100_000, 1)).unwrap();
    let counters = std::sync::Arc::new(agent::backup::Counters::default());
    let prepared = agent::backup::Prepared::new(job(&tree, None)).unwrap();
    let stream = server
        .session(protocol::session::Kind::Intake)
        .await
        .unwrap();
    let outcome = prepared
        .run(stream, counters.clone(), Default::default())
        .await
        .unwrap();
    assert_eq!(counters.progress().done, 100_000);
    let restored = std::sync::Arc::new(agent::restore::Counters::default());
    let target = dir.path().join("restored");
    let stream = server
        .session(protocol::session::Kind::Restore)
        .await
        .unwrap();
    agent::restore::restore(
        stream,
        outcome.committed.snapshot,
        vec![],
        target.clone(),
        Default::default(),
        restored.clone(),
    )
    .await
    .unwrap();
    let bytes = restored.bytes.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(bytes, 100_000);
    let length = fs::metadata(target.join("sparse")).unwrap().len();
    assert_eq!(length, 1 << 40);
}

/// Makes a file of this many runs of data, with holes between them.
fn many_runs(path: &std::path::Path, stretches: u64) {
    let file = fs::File::create(path).unwrap();
    for number in 0..stretches {
        let at = number * (8 << 10);
        file.write_all_at(&noise(4 << 10, number), at).unwrap();
    }
}

/// Its runs go over as it is read, in more than one message.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_very_many_runs_comes_back_and_is_remembered() {
    const STRETCHES: u64 = 6000;
    let site = Appliance::site();
    let server = site.pair("a", "backup");
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    many_runs(&tree.join("file"), STRETCHES);
    age(&tree);
    let cache = Some(dir.path().join("cache/x"));
    let first = server.back_up(job(&tree, cache.clone())).await.unwrap();
    let c = &first.committed;
    assert!(c.unique >= STRETCHES * (4 << 10), "{c:?}");
    let target = dir.path().join("restored");
    server.restore(c.snapshot, "", &target).await.unwrap();
    assert_same(&tree, &target);
    let second = server.back_up(job(&tree, cache)).await.unwrap();
    let again = &second.committed;
    assert_eq!(again.logical, c.logical);
    // questions and runs, but no chunk
    assert!(again.wire < 1 << 20 && again.unique < 10_000, "{again:?}");
}

/// What happens to a file between its first byte read and its last.
async fn changed_while_read(change: impl Fn(&fs::File)) {
    // more than all that is held on the way to a site that takes nothing
    const SIZE: usize = 96 << 20;
    let site = Appliance::site();
    let server = site.pair("a", "backup");
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let path = tree.join("busy");
    let before = noise(1 << 20, 1).repeat(SIZE >> 20);
    fs::write(&path, &before).unwrap();
    let cache = Some(dir.path().join("cache/x"));
    let prepared = agent::backup::Prepared::new(job(&tree, cache.clone())).unwrap();
    let counters = std::sync::Arc::new(agent::backup::Counters::default());

    // what the agent says is passed on only when the file has changed
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let session = server
        .session(protocol::session::Kind::Intake)
        .await
        .unwrap();
    let (mut down, mut up) = session.into_split();
    let (mut said, mut heard) = theirs.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut down, &mut heard).await });
    let running = tokio::spawn(prepared.run(ours, counters.clone(), Default::default()));
    while counters.progress().done == 0 {
        tokio::task::yield_now().await;
    }
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    change(&file);
    // so that only the kernel's own time of change can tell
    file.set_modified(modified).unwrap();
    assert!(
        counters.progress().done < SIZE as u64,
        "it was read already"
    );
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut said, &mut up).await;
    });
    let outcome = running.await.unwrap().unwrap();
    assert_eq!(
        outcome.problems,
        [format!(
            "{}: changed while it was read, so what was kept may mix old and new; it is read \
             again in the next backup",
            path.display()
        )]
    );
    let target = dir.path().join("first");
    server
        .restore(outcome.committed.snapshot, "", &target)
        .await
        .unwrap();
    let kept = fs::read(target.join("busy")).unwrap();
    assert!(!kept.is_empty() && kept.len() <= before.len());

    let again = server.back_up(job(&tree, cache)).await.unwrap();
    assert_eq!(again.problem_count, 0, "{:?}", again.problems);
    let target = dir.path().join("second");
    server
        .restore(again.committed.snapshot, "", &target)
        .await
        .unwrap();
    assert_same(&tree, &target);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_while_it_is_read_is_told_kept_and_read_again() {
    use std::os::unix::fs::FileExt;
    changed_while_read(|file| file.write_all_at(b"more", 96 << 20).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_while_it_is_read_is_told_kept_and_read_again() {
    changed_while_read(|file| file.set_len(70_000).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_rewritten_while_it_is_read_is_told_kept_and_read_again() {
    use std::os::unix::fs::FileExt;
    // size and time of modification are as before
    changed_while_read(|file| file.write_all_at(b"other", 0).unwrap()).await;
}
