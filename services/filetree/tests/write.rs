//! Trees written to a temporary directory.

mod as_user;
mod copying;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use copying::copy;
use filetree::ProblemKind;
use filetree::compare::compare;
use filetree::write::{Options, Report, WriteError, Writer};
use format::entry::{Entry, Kind, Timestamp, Xattr};

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o750,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: vec![],
        group: vec![],
        modified: Timestamp {
            seconds: -5,
            nanos: 123_456_789,
        },
        xattrs: vec![],
        size: 0,
        content: vec![],
    }
}

fn write(target: &Path, options: Options, entries: &[Entry]) -> Report {
    let mut writer = Writer::new(target, options).unwrap();
    for entry in entries {
        writer.begin(entry).unwrap();
        writer.data(&vec![7; entry.size as usize]).unwrap();
        writer.end().unwrap();
    }
    writer.finish().unwrap()
}

const OVERWRITE: Options = Options { overwrite: true };

#[test]
fn what_is_written_is_what_the_entries_say() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("new/target");
    let mut file = entry("d/f", Kind::File);
    file.size = 3;
    file.mode = 0o4711;
    file.xattrs = vec![Xattr {
        name: b"user.note".to_vec(),
        value: b"\0\xff".to_vec(),
    }];
    let report = write(
        &target,
        Options::default(),
        &[
            entry("", Kind::Directory),
            entry("d", Kind::Directory),
            file,
            entry("d/g", Kind::HardLink(b"d/f".to_vec())),
            entry("d/s", Kind::Symlink(b"/etc/\xff".to_vec())),
            entry("p", Kind::Fifo),
            entry("q", Kind::Socket),
        ],
    );
    assert_eq!(report.problems, []);
    assert_eq!((report.entries, report.bytes), (7, 3));
    for (name, mode) in [
        ("", 0o40750),
        ("d", 0o40750),
        ("d/f", 0o104711),
        ("d/s", 0o120777),
        ("p", 0o10750),
        ("q", 0o140750),
    ] {
        let found = target.join(name).symlink_metadata().unwrap();
        assert_eq!(found.mode(), mode, "{name}");
        assert_eq!(
            (found.mtime(), found.mtime_nsec()),
            (-5, 123_456_789),
            "{name}"
        );
    }
    assert_eq!(fs::read(target.join("d/f")).unwrap(), [7, 7, 7]);
    assert_eq!(fs::metadata(target.join("d/f")).unwrap().nlink(), 2);
    let mut value = [0; 9];
    let length = rustix::fs::getxattr(target.join("d/f"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"\0\xff");
    let link = fs::read_link(target.join("d/s")).unwrap();
    assert_eq!(
        std::os::unix::ffi::OsStrExt::as_bytes(link.as_os_str()),
        b"/etc/\xff"
    );
}

#[test]
fn a_target_that_holds_something_is_left_alone_unless_asked() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("lost+found")).unwrap();
    drop(Writer::new(temp.path(), Options::default()).unwrap());
    fs::write(temp.path().join("x"), "").unwrap();
    let error = Writer::new(temp.path(), Options::default()).err().unwrap();
    assert!(matches!(error, WriteError::NotEmpty(_)));
    assert!(
        error
            .to_string()
            .contains("is not empty; choose an empty or new directory")
    );
    let error = Writer::new(&temp.path().join("x"), OVERWRITE)
        .err()
        .unwrap();
    assert!(matches!(error, WriteError::Target { .. }));
}

#[test]
fn overwriting_replaces_what_is_there_and_merges_directories() {
    let (temp, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (source.path(), temp.path());
    fs::create_dir(from.join("d")).unwrap();
    for name in ["d/f", "was-link", "was-fifo", "zz"] {
        fs::write(from.join(name), name).unwrap();
    }
    fs::hard_link(from.join("zz"), from.join("zzz")).unwrap();
    symlink("x", from.join("link")).unwrap();
    fs::create_dir(from.join("was-a-link-too")).unwrap();
    // what lies there already
    let outside = to.join("outside");
    fs::write(&outside, "untouched").unwrap();
    fs::create_dir(to.join("t")).unwrap();
    let to = &to.join("t");
    fs::create_dir(to.join("d")).unwrap();
    fs::set_permissions(to.join("d"), fs::Permissions::from_mode(0o500)).unwrap();
    for name in ["link", "zzz"] {
        fs::write(to.join(name), "old").unwrap();
    }
    symlink("../outside", to.join("was-link")).unwrap();
    symlink("..", to.join("was-a-link-too")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        to.join("was-fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    for round in 0..2 {
        let (report, _) = copy(from, to, OVERWRITE);
        assert_eq!(report.problems, [], "round {round}");
        let compared = compare(from, to).unwrap();
        assert_eq!(compared.differences, [], "round {round}");
        assert_eq!(compared.entries, 9);
    }
    assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
    // a directory in the place of a file is not removed with all it holds
    fs::remove_file(from.join("zz")).unwrap();
    fs::remove_file(from.join("zzz")).unwrap();
    fs::remove_dir(from.join("d/").join("f")).unwrap_err();
    fs::remove_dir_all(from.join("d")).unwrap();
    fs::write(from.join("d"), "now a file").unwrap();
    let (report, _) = copy(from, to, OVERWRITE);
    assert_eq!(report.problems.len(), 1);
    assert!(
        report.problems[0]
            .to_string()
            .starts_with("d: cannot be made (File exists)")
    );
    assert!(to.join("d/f").exists());
}

#[test]
fn hostile_entries_are_refused_by_a_sentence() {
    let temp = tempfile::tempdir().unwrap();
    for (entries, words) in [
        (vec![entry("/etc/x", Kind::File)], "is an absolute path"),
        (
            vec![entry("a/../../x", Kind::File)],
            "would lead out of the target",
        ),
        (
            vec![entry("..", Kind::Directory)],
            "would lead out of the target",
        ),
        (vec![entry("a//b", Kind::File)], "has an empty or `.` part"),
        (vec![entry("a/", Kind::File)], "has an empty or `.` part"),
        (vec![entry("./a", Kind::File)], "has an empty or `.` part"),
        (vec![entry("a\0b", Kind::File)], "holds a NUL byte"),
        (
            vec![entry(&"a/".repeat(40_000), Kind::File)],
            "is longer than a snapshot's paths",
        ),
        (
            vec![entry("", Kind::File)],
            "is the snapshot's root but no directory",
        ),
        (
            vec![entry("b", Kind::File), entry("a", Kind::File)],
            "comes out of order",
        ),
        (
            vec![entry("b", Kind::File), entry("b", Kind::Fifo)],
            "comes out of order or twice",
        ),
        (
            vec![entry("b", Kind::HardLink(b"../x".to_vec()))],
            "links to a path that would lead out",
        ),
        (
            vec![entry("b", Kind::HardLink(b"b".to_vec()))],
            "does not come before it",
        ),
        (
            vec![entry("b", Kind::HardLink(b"".to_vec()))],
            "does not come before it",
        ),
        (
            vec![entry("b", Kind::HardLink(b"a".to_vec()))],
            "another name of a, which was not restored",
        ),
        (
            vec![entry("b", Kind::CharDevice(4096, 0))],
            "which Linux does not have",
        ),
        (
            vec![
                entry("s", Kind::Symlink(b"/tmp".to_vec())),
                entry("s/x", Kind::File),
            ],
            "cannot be made a directory (Not a directory)",
        ),
        (
            vec![
                entry("s", Kind::Symlink(b"/etc".to_vec())),
                entry("t", Kind::HardLink(b"s/passwd".to_vec())),
            ],
            "another name of s/passwd, which was not restored",
        ),
    ] {
        let target = temp.path().join(words.replace('/', ""));
        let report = write(&target, Options::default(), &entries);
        assert_eq!(report.problems.len(), 1, "{words}: {:?}", report.problems);
        let told = report.problems[0].to_string();
        assert!(told.contains(words), "{words}: {told}");
        assert_eq!(report.entries, entries.len() as u64 - 1, "{words}");
    }
}

#[test]
fn a_part_of_a_tree_gets_plain_directories_above_it() {
    let temp = tempfile::tempdir().unwrap();
    let report = write(
        temp.path(),
        Options::default(),
        &[entry("a/b/c", Kind::Directory), entry("a/d/e", Kind::File)],
    );
    assert_eq!((report.entries, report.problems), (2, vec![]));
    assert!(temp.path().join("a/b/c").is_dir() && temp.path().join("a/d/e").is_file());
}

#[test]
fn a_restore_that_ends_inside_a_file_leaves_no_part_of_it() {
    let temp = tempfile::tempdir().unwrap();
    for options in [Options::default(), OVERWRITE] {
        let mut writer = Writer::new(temp.path(), options).unwrap();
        for path in ["a", "b"] {
            let mut file = entry(path, Kind::File);
            file.size = 4;
            writer.begin(&file).unwrap();
            writer.data(b"half").unwrap();
        }
        drop(writer);
        let left = fs::read_dir(temp.path()).unwrap();
        let left: Vec<_> = left.map(|found| found.unwrap().file_name()).collect();
        assert_eq!(left, ["a"]);
    }
}

#[test]
fn content_that_cannot_be_had_leaves_nothing_behind() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("kept"), "old").unwrap();
    let mut writer = Writer::new(temp.path(), OVERWRITE).unwrap();
    for name in ["kept", "new"] {
        writer.begin(&entry(name, Kind::File)).unwrap();
        writer.data(b"half of").unwrap();
        writer.abandon("its chunk is damaged; repair the store");
        writer.end().unwrap();
    }
    writer.begin(&entry("too-long", Kind::File)).unwrap();
    writer.hole(u64::MAX).unwrap();
    writer.data(b"dropped").unwrap();
    let mut short = entry("too-short", Kind::File);
    short.size = 2;
    writer.begin(&short).unwrap();
    let report = writer.finish().unwrap();
    let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[0], "kept: its chunk is damaged; repair the store");
    assert!(
        told[2].contains("too-long: cannot be written (File too large)"),
        "{told:?}"
    );
    assert!(
        told[3].contains("has 0 bytes where its entry says 2"),
        "{told:?}"
    );
    assert!(
        report
            .problems
            .iter()
            .all(|p| p.kind == ProblemKind::Unwritten)
    );
    assert_eq!(report.entries, 1);
    assert_eq!(fs::read_to_string(temp.path().join("kept")).unwrap(), "old");
    let left: Vec<_> = fs::read_dir(temp.path())
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_second_name_is_not_made_of_what_was_there_when_the_first_could_not_be_had() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(temp.path().join(name), format!("old {name}")).unwrap();
    }
    fs::create_dir(temp.path().join("d")).unwrap();
    let mut writer = Writer::new(temp.path(), OVERWRITE).unwrap();
    writer.begin(&entry("a", Kind::File)).unwrap();
    writer.abandon("its chunk is damaged; repair the store");
    writer
        .begin(&entry("b", Kind::HardLink(b"a".to_vec())))
        .unwrap();
    // a directory is where it should be
    writer.begin(&entry("d", Kind::File)).unwrap();
    writer
        .begin(&entry("e", Kind::HardLink(b"d".to_vec())))
        .unwrap();
    let report = writer.finish().unwrap();
    let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert!(
        told[1].starts_with("b: is another name of a, which could not be restored"),
        "{told:?}"
    );
    assert!(
        told[3].starts_with("e: is another name of d, which could not be restored"),
        "{told:?}"
    );
    for name in ["a", "b", "c"] {
        let content = fs::read_to_string(temp.path().join(name)).unwrap();
        assert_eq!(content, format!("old {name}"));
    }
}

#[test]
fn a_full_disk_stops_the_restore_with_one_sentence() {
    use nix::mount::{MsFlags, mount};
    let temp = tempfile::tempdir().unwrap();
    // a small tmpfs, in a mount namespace of this thread's own
    if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) {
        println!("skipped: only root may have a small file system to fill ({error})");
        return;
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    mount(
        Some("tmpfs"),
        temp.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=64k"),
    )
    .unwrap();
    let mut writer = Writer::new(temp.path(), Options::default()).unwrap();
    writer.begin(&entry("big", Kind::File)).unwrap();
    let error = writer.data(&[1; 200_000]).unwrap_err();
    let path = temp.path().join("big");
    assert_eq!(
        error.to_string(),
        format!(
            "the disk of {} is full; make room there and restore again",
            path.display()
        )
    );
    assert!(!path.exists());
    drop(writer);
    nix::mount::umount(temp.path()).unwrap();
}

#[test]
fn all_of_this_as_a_user() {
    as_user::again("all_of_this_as_a_user");
}
