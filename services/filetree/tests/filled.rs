//! Files that other threads fill while the next entries are made.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use filetree::write::{Filling, Options, WriteError, Writer};
use format::entry::{Entry, Kind, Timestamp};

fn entry(path: &str, kind: Kind, size: u64) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o750,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: vec![],
        group: vec![],
        modified: Timestamp {
            seconds: 5,
            nanos: 6,
        },
        xattrs: vec![],
        size,
        content: vec![],
    }
}

const OVERWRITE: Options = Options { overwrite: true };

/// A number of each file, and how many bytes it has.
type Work = (Filling, usize, usize);

/// Fills files, the newest of those that wait first.
fn fill(work: &Receiver<Work>) {
    let mut waiting = Vec::new();
    loop {
        waiting.extend(work.try_iter());
        if waiting.is_empty() {
            match work.recv() {
                Ok(more) => waiting.push(more),
                Err(_) => return,
            }
        }
        let (file, number, size) = waiting.pop().unwrap();
        let (file, bytes) = (Arc::new(file), vec![number as u8; size]);
        // the end before the beginning, and a hole before both
        std::thread::scope(|scope| {
            let (half, other) = (size / 2, file.clone());
            let bytes = &bytes;
            scope.spawn(move || other.write(&bytes[half..], 4096 + half as u64));
            file.write(&bytes[..half], 4096);
        });
        Arc::into_inner(file).unwrap().complete(4096 + size as u64);
    }
}

#[test]
fn all_is_as_the_entries_say_in_whatever_order_files_are_filled() {
    let temp = tempfile::tempdir().unwrap();
    for options in [Options::default(), OVERWRITE] {
        let report = std::thread::scope(|scope| {
            let fillers = [(); 3].map(|()| {
                let (sender, receiver) = channel();
                scope.spawn(move || fill(&receiver));
                sender
            });
            let mut writer = Writer::new(temp.path(), options).unwrap();
            writer.begin(&entry("", Kind::Directory, 0)).unwrap();
            for number in 0..600 {
                // each third in a directory of its own, with a second name
                let dir = format!("d{:04}", number / 3);
                if number % 3 == 0 {
                    writer.begin(&entry(&dir, Kind::Directory, 0)).unwrap();
                }
                let (path, size) = (format!("{dir}/{number:04}"), number * 7);
                let file = entry(&path, Kind::File, 4096 + size as u64);
                writer.begin(&file).unwrap();
                let work = (writer.hand_out().unwrap(), number, size);
                fillers[number % 3].send(work).unwrap();
                if number % 3 == 2 {
                    let link = Kind::HardLink(path.into_bytes());
                    writer.begin(&entry(&format!("{dir}/x"), link, 0)).unwrap();
                }
            }
            assert!(writer.hand_out().is_none(), "a link has no bytes");
            drop(fillers);
            writer.finish().unwrap()
        });
        assert_eq!(report.problems, []);
        assert_eq!(
            (report.entries, report.bytes),
            (1 + 200 + 800, 7 * 600 * 599 / 2)
        );
        for number in 0..600usize {
            let dir = temp.path().join(format!("d{:04}", number / 3));
            let path = dir.join(format!("{number:04}"));
            let bytes = fs::read(&path).unwrap();
            let (hole, data) = bytes.split_at(4096);
            assert!(hole.iter().all(|b| *b == 0) && data == vec![number as u8; number * 7]);
            for path in [&dir, &path] {
                let found = path.metadata().unwrap();
                assert_eq!((found.mtime(), found.mtime_nsec()), (5, 6), "{path:?}");
                assert_eq!(found.mode() & 0o7777, 0o750, "{path:?}");
            }
            let names = path.metadata().unwrap().nlink();
            assert_eq!(names, if number % 3 == 2 { 2 } else { 1 });
        }
        let top = temp.path().metadata().unwrap();
        assert_eq!((top.mtime(), top.mtime_nsec()), (5, 6));
    }
}

fn names(dir: &Path) -> Vec<String> {
    let found = fs::read_dir(dir).unwrap();
    let names = found.map(|f| f.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn of_a_file_that_is_given_up_nothing_stays_under_any_name() {
    let temp = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(temp.path(), Options::default()).unwrap();
    let mut begun = |path: &str| {
        writer.begin(&entry(path, Kind::File, 4)).unwrap();
        writer.hand_out().unwrap()
    };
    let (whole, abandoned, dropped) = (begun("a"), begun("b"), begun("c"));
    whole.write(b"here", 0);
    whole.complete(4);
    drop(dropped);
    abandoned.write(b"ha", 0);
    let second = temp.path().join("d");
    std::thread::scope(|scope| {
        // the link is made when its first name is complete: it has its chance to come too early
        scope.spawn(|| {
            for _ in 0..10_000 {
                assert!(!second.exists(), "a second name of a part");
                std::thread::yield_now();
            }
            abandoned.abandon("its chunk is damaged; repair the store");
            drop(abandoned);
        });
        let link = entry("d", Kind::HardLink(b"b".to_vec()), 0);
        writer.begin(&link).unwrap();
    });
    let report = writer.finish().unwrap();
    let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "b: its chunk is damaged; repair the store",
            "d: is another name of b, which could not be restored"
        ]
    );
    assert_eq!(names(temp.path()), ["a"]);
}

#[test]
fn a_full_disk_that_another_thread_meets_stops_the_writer() {
    use nix::mount::{MsFlags, mount};
    let temp = tempfile::tempdir().unwrap();
    // a small tmpfs, in a mount namespace of this thread's own
    if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) {
        println!("skipped: only root may have a small file system to fill ({error})");
        return;
    }
    let (none, quiet) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, quiet, none).unwrap();
    let small = Some("size=64k");
    mount(
        Some("tmpfs"),
        temp.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        small,
    )
    .unwrap();
    let mut writer = Writer::new(temp.path(), Options::default()).unwrap();
    writer.begin(&entry("big", Kind::File, 200_000)).unwrap();
    let big = writer.hand_out().unwrap();
    big.write(&[1; 200_000], 0);
    big.complete(200_000);
    let told = writer.begin(&entry("next", Kind::Fifo, 0)).unwrap_err();
    assert!(matches!(told, WriteError::Full { .. }), "{told}");
    assert!(!temp.path().join("big").exists());
    drop(writer);
    nix::mount::umount(temp.path()).unwrap();
}
