//! The tree without FUSE: what is seen, whatever a snapshot holds.

use super::list::LONGEST_NAME;
use super::tree::Tree;
use engine::storage::simulated::Simulated;
use engine::{Options, Progress, SnapshotMeta, Store};
use format::entry::{Entry, Extent, Kind, Timestamp, Xattr};
use format::snapshot::Details;
use format::superblock::Profile;
use fuser::{Errno, FileType};
use std::sync::Arc;

const TOP: u64 = 1;

fn store() -> Store {
    let keys = Store::new_keyset().unwrap();
    let superblock = Store::superblock_for(&keys, Profile::Site);
    let store = Store::init(Arc::new(Simulated::new()), superblock, Options::default()).unwrap();
    store.unlock(&keys).unwrap();
    store
}

fn entry(path: impl Into<Vec<u8>>, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o4751,
        uid: 7,
        gid: 8,
        user: Vec::new(),
        group: Vec::new(),
        modified: Timestamp {
            seconds: -3,
            nanos: 500,
        },
        xattrs: Vec::new(),
        size: 0,
        content: Vec::new(),
    }
}

fn back_up(store: &Store, group: &str, seconds: i64, mut entries: Vec<Entry>) -> String {
    let meta = SnapshotMeta {
        time: Timestamp { seconds, nanos: 0 },
        details: Details {
            group: group.into(),
            ..Details::default()
        },
        ..SnapshotMeta::default()
    };
    let mut writer = store.begin(meta, Arc::new(Progress::default())).unwrap();
    entries.sort_by(|a, b| Entry::cmp_path(&a.path, &b.path));
    for entry in &entries {
        writer.add_entry(entry).unwrap();
    }
    writer.commit(None).unwrap().clear.id.to_string()
}

fn tree(store: &Store) -> Tree {
    Tree::new(store, store.snapshots().unwrap().0).unwrap()
}

/// Names and kinds in a directory but its own two, read in pieces of so many.
fn listed(tree: &Tree, ino: u64, piece: usize) -> Vec<(Vec<u8>, FileType)> {
    let (mut all, mut from, mut more) = (Vec::new(), 0, true);
    while more {
        let (mut left, start) = (piece, from);
        more = false;
        let put = |item: &super::tree::Item, name: &[u8], next| {
            if left == 0 {
                more = true;
                return true;
            }
            left -= 1;
            from = next;
            all.push((name.to_vec(), item.kind()));
            false
        };
        tree.list(ino, start, put).unwrap();
    }
    assert_eq!((&all[0].0[..], &all[1].0[..]), (&b"."[..], &b".."[..]));
    all.split_off(2)
}

fn names(tree: &Tree, ino: u64) -> Vec<String> {
    let listed = listed(tree, ino, 1000);
    listed
        .into_iter()
        .map(|(name, _)| String::from_utf8_lossy(&name).into())
        .collect()
}

/// The inode at a path from the top.
fn at(tree: &Tree, path: &str) -> Result<u64, Errno> {
    path.split('/').try_fold(TOP, |ino, name| {
        Ok(tree.lookup(ino, name.as_bytes())?.ino.0)
    })
}

fn number(error: Errno) -> i32 {
    error.into()
}

#[test]
fn snapshots_are_seen_by_group_and_time_and_by_id() {
    let store = store();
    let root = || vec![entry("", Kind::Directory)];
    let first = back_up(&store, "one", 1_000_000_000, root());
    let second = back_up(&store, "one", 1_100_000_000, root());
    let twins = [(); 2].map(|()| back_up(&store, "a/b", 1_100_000_000, root()));
    let tree = tree(&store);
    assert_eq!(names(&tree, TOP), [".ids", "a%2fb", "one"]);
    let one = at(&tree, "one").unwrap();
    assert_eq!(
        names(&tree, one),
        ["latest", "2004-11-09T11-33-20Z", "2001-09-09T01-46-40Z"]
    );
    let mut same = twins.map(|id| format!("2004-11-09T11-33-20Z-{id}"));
    same.sort();
    let mut listed = names(&tree, at(&tree, "a%2fb").unwrap());
    listed.sort();
    assert_eq!(listed[..2], same);
    let link = |path| tree.link(at(&tree, path).unwrap()).unwrap();
    assert_eq!(link("one/latest"), b"2004-11-09T11-33-20Z");
    let ids = names(&tree, at(&tree, ".ids").unwrap());
    assert!(ids.len() == 4 && ids.contains(&first) && ids.contains(&second));
    assert_eq!(
        link(&format!(".ids/{first}")),
        b"../one/2001-09-09T01-46-40Z"
    );
    for absent in ["two", "one/2001", "one/2001-09-09T01-46-40Z/x", ".ids/00"] {
        assert_eq!(
            number(at(&tree, absent).unwrap_err()),
            number(Errno::ENOENT),
            "{absent}"
        );
    }
    assert_eq!(tree.told(), 0);
}

#[test]
fn attributes_are_those_of_the_entries() {
    let store = store();
    let mut file = entry("f", Kind::File);
    file.xattrs = vec![Xattr {
        name: b"user.a".to_vec(),
        value: b"1".to_vec(),
    }];
    file.size = 5_000_000_000;
    file.content = vec![Extent::Hole { length: file.size }];
    let kinds = [
        ("b", Kind::BlockDevice(259, 70_000)),
        ("c", Kind::CharDevice(4, 64)),
        ("d", Kind::Directory),
        ("l", Kind::Symlink(b"to/where".to_vec())),
        ("p", Kind::Fifo),
        ("s", Kind::Socket),
        ("t", Kind::HardLink(b"f".to_vec())),
        ("u", Kind::HardLink(b"f".to_vec())),
        ("v", Kind::HardLink(b"l".to_vec())),
    ];
    let mut entries: Vec<Entry> = kinds
        .into_iter()
        .map(|(path, kind)| entry(path, kind))
        .collect();
    entries.extend([entry("", Kind::Directory), file]);
    back_up(&store, "g", 0, entries);
    let tree = tree(&store);
    let attr = |name| {
        let path = format!("g/1970-01-01T00-00-00Z/{name}");
        tree.attr(at(&tree, &path).unwrap()).unwrap()
    };
    let of = |name| {
        let attr = attr(name);
        (attr.kind, attr.size, attr.nlink, attr.rdev)
    };
    // as makedev(3) has it
    assert_eq!(of("b"), (FileType::BlockDevice, 0, 1, 0x1111_0370));
    assert_eq!(of("c"), (FileType::CharDevice, 0, 1, 0x440));
    assert_eq!(of("d"), (FileType::Directory, 0, 1, 0));
    assert_eq!(of("l"), (FileType::Symlink, 8, 2, 0));
    assert_eq!(of("p"), (FileType::NamedPipe, 0, 1, 0));
    assert_eq!(of("s"), (FileType::Socket, 0, 1, 0));
    assert_eq!(of("t"), (FileType::RegularFile, 5_000_000_000, 3, 0));
    let file = attr("f");
    assert_eq!(file, attr("u"));
    assert_eq!(
        (file.blocks, file.perm, file.uid, file.gid),
        (0, 0o4751, 7, 8)
    );
    let before = std::time::Duration::from_nanos(2_999_999_500);
    assert_eq!(file.mtime, std::time::SystemTime::UNIX_EPOCH - before);
    let seen = tree.entry(file.ino.0).unwrap().unwrap();
    assert_eq!(seen.entry().xattrs.len(), 1);
    assert_eq!(tree.link(attr("v").ino.0).unwrap(), b"to/where");
    assert_eq!(tree.read(file.ino.0, 4_999_999_998, 10).unwrap(), [0, 0]);
    assert_eq!(tree.seek(file.ino.0, 7, false).unwrap(), 7);
    assert_eq!(
        number(tree.seek(file.ino.0, 7, true).unwrap_err()),
        number(Errno::ENXIO)
    );
    let dir = attr("d").ino.0;
    assert_eq!(
        number(tree.read(dir, 0, 1).unwrap_err()),
        number(Errno::EISDIR)
    );
    assert_eq!(
        number(tree.lookup(file.ino.0, b"x").unwrap_err()),
        number(Errno::ENOTDIR)
    );
    assert_eq!(tree.told(), 0);
}

#[test]
fn a_large_directory_is_read_in_pieces_of_any_size() {
    let store = store();
    let mut entries = vec![entry("", Kind::Directory)];
    for at in 0..3000 {
        entries.push(entry(format!("n{at:04}"), Kind::Directory));
        entries.push(entry(format!("n{at:04}/deep"), Kind::Directory));
        entries.push(entry(format!("n{at:04}/deep/file"), Kind::File));
        entries.push(entry(format!("n{at:04}-"), Kind::File));
    }
    back_up(&store, "g", 0, entries);
    let tree = tree(&store);
    let root = at(&tree, "g/1970-01-01T00-00-00Z").unwrap();
    let all = listed(&tree, root, 100_000);
    assert_eq!(all.len(), 6000);
    assert_eq!(all[0], (b"n0000".to_vec(), FileType::Directory));
    assert_eq!(all[1], (b"n0000-".to_vec(), FileType::RegularFile));
    for piece in [1, 2, 7, 1000] {
        assert_eq!(listed(&tree, root, piece), all, "{piece}");
    }
    let deep = at(&tree, "g/1970-01-01T00-00-00Z/n2999/deep").unwrap();
    assert_eq!(names(&tree, deep), ["file"]);
}

#[test]
fn what_no_walk_would_write_is_shown_or_told_and_ends_nothing() {
    let store = store();
    let long = "x".repeat(LONGEST_NAME + 1);
    let deep = vec!["d"; 1500].join("/");
    let mut huge = entry("huge", Kind::File);
    huge.size = u64::MAX;
    huge.content = vec![Extent::Hole { length: u64::MAX }];
    let mut times = entry("times", Kind::File);
    times.modified.seconds = i64::MIN;
    let entries = vec![
        // directories that have no entry, and one that is a file
        entry("a/b/c", Kind::File),
        entry("a/b+", Kind::File),
        entry("file", Kind::File),
        entry("file/below", Kind::File),
        entry("gone", Kind::HardLink(b"nowhere".to_vec())),
        entry("itself", Kind::HardLink(b"itself".to_vec())),
        entry(b"odd\n\xff", Kind::Symlink(vec![b't'; 5000])),
        entry(long.clone(), Kind::File),
        entry(format!("z/{deep}"), Kind::File),
        huge,
        times,
    ];
    back_up(&store, "g", 0, entries);
    back_up(&store, "nothing", i64::MAX, Vec::new());
    let tree = tree(&store);
    let root = at(&tree, "g/1970-01-01T00-00-00Z").unwrap();
    let all = listed(&tree, root, 3);
    let kinds: Vec<_> = all
        .iter()
        .map(|(name, kind)| (String::from_utf8_lossy(name), *kind))
        .collect();
    let (dir, file) = (FileType::Directory, FileType::RegularFile);
    let expected = [
        ("a", dir),
        ("file", file),
        ("gone", file),
        ("huge", file),
        ("itself", file),
        ("odd\n\u{fffd}", FileType::Symlink),
        ("times", file),
        ("z", dir),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.into(), kind)));
    let below = |path: &str| at(&tree, &format!("g/1970-01-01T00-00-00Z/{path}"));
    assert_eq!(names(&tree, below("a").unwrap()), ["b", "b+"]);
    assert_eq!(tree.attr(below("a/b").unwrap()).unwrap().kind, dir);
    assert_eq!(names(&tree, below("a/b").unwrap()), ["c"]);
    for lost in ["gone", "itself"] {
        assert_eq!(number(below(lost).unwrap_err()), number(Errno::EIO));
    }
    let told = tree.told();
    assert!(told >= 3, "{told}");
    assert_eq!(
        number(below("file/below").unwrap_err()),
        number(Errno::ENOTDIR)
    );
    let odd = tree.lookup(root, b"odd\n\xff").unwrap().ino.0;
    assert_eq!(
        number(tree.link(odd).unwrap_err()),
        number(Errno::ENAMETOOLONG)
    );
    let huge = tree.attr(below("huge").unwrap()).unwrap();
    assert_eq!((huge.size, huge.blocks), (i64::MAX as u64, 0));
    assert_eq!(tree.read(huge.ino.0, u64::MAX - 3, 10).unwrap(), [0; 3]);
    below("times").unwrap();
    // as deep as inode numbers reach
    let steps = |count: usize| below(&format!("z/{}", vec!["d"; count].join("/")));
    assert_eq!(names(&tree, steps(1000).unwrap()), ["d"]);
    assert_eq!(number(steps(1100).unwrap_err()), number(Errno::ENOENT));
    // a tree without entries
    let nothing = names(&tree, at(&tree, "nothing").unwrap());
    assert_eq!(nothing, ["latest", "9223372036854775807s"]);
    assert!(at(&tree, "nothing/9223372036854775807s").is_err());
}

#[test]
fn any_number_may_be_asked_for() {
    let store = store();
    back_up(&store, "g", 0, vec![entry("a/b", Kind::File)]);
    let tree = tree(&store);
    let mut state = 1u64;
    let bits = (0..64).map(|bit| 1 << bit);
    let random = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> (state % 64)
    });
    for ino in bits.chain(random.take(20_000)).chain([0, u64::MAX]) {
        let _ = tree.attr(ino);
        let _ = tree.lookup(ino, b"b");
        let _ = tree.link(ino);
        let _ = tree.entry(ino);
        let _ = tree.read(ino, ino, 100);
        let _ = tree.seek(ino, ino, true);
        let _ = tree.list(ino, ino, |_, _, _| false);
    }
}
