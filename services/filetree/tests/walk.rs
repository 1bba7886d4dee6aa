//! Walks of real trees in a temporary directory.

mod as_user;

use std::cmp::Ordering;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use filetree::walk::{Content, Found, Options, RootError, Segment, Walk};
use filetree::{Pattern, Problem, ProblemKind};
use format::entry::{Entry, Kind};

fn walk(roots: &[&Path], options: Options) -> (Vec<Found>, Vec<Problem>) {
    let roots: Vec<PathBuf> = roots.iter().map(|p| p.to_path_buf()).collect();
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for step in Walk::new(&roots, options).unwrap() {
        match step {
            Ok(step) => found.push(step),
            Err(problem) => problems.push(problem),
        }
    }
    (found, problems)
}

fn all(root: &Path) -> Vec<Found> {
    let (found, problems) = walk(&[root], Options::default());
    assert_eq!(problems, []);
    found
}

fn paths(found: &[Found]) -> Vec<String> {
    let shown = |f: &Found| filetree::shown(&f.entry.path);
    found.iter().map(shown).collect()
}

fn segments(found: &Found) -> Vec<(bool, u64, Vec<u8>)> {
    let mut content = found.open().unwrap();
    let out = read(&mut content);
    assert_eq!(content.finish(), None);
    out
}

fn read(content: &mut Content) -> Vec<(bool, u64, Vec<u8>)> {
    let mut out = Vec::new();
    let mut buffer = [0; 777];
    while let Some(segment) = content.segment().unwrap() {
        match segment {
            Segment::Hole { length } => out.push((false, length, vec![])),
            Segment::Data { length } => {
                let mut bytes = Vec::new();
                loop {
                    let read = content.read(&mut buffer).unwrap();
                    if read == 0 {
                        break;
                    }
                    bytes.extend_from_slice(&buffer[..read]);
                }
                out.push((true, length, bytes));
            }
        }
    }
    out
}

#[test]
fn names_come_in_snapshot_order_with_what_is_below_them() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    for dir in ["a", "a/b", "a-b", "a/b/c", "z"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    for file in ["a/x", "a.txt", "a-b/y", "a/b/c/d", "A", " ", "-n", "*"] {
        fs::write(root.join(file), file).unwrap();
    }
    fs::write(
        root.join(std::ffi::OsString::from_vec(b"\xff\n".to_vec())),
        "",
    )
    .unwrap();
    let found = all(root);
    let names = [
        ".", " ", "*", "-n", "A", "a", "a/b", "a/b/c", "a/b/c/d", "a/x", "a-b", "a-b/y", "a.txt",
        "z", "\\xff\\n",
    ];
    assert_eq!(paths(&found), names);
    for pair in found.windows(2) {
        assert_eq!(
            Entry::cmp_path(&pair[0].entry.path, &pair[1].entry.path),
            Ordering::Less
        );
    }
    let data = &found[8];
    assert_eq!(segments(data), [(true, 7, b"a/b/c/d".to_vec())]);
    let source = root.join("a/b/c/d").canonicalize().unwrap();
    assert_eq!(data.source(), source.as_os_str().as_bytes());
    let real = source.metadata().unwrap();
    assert_eq!(data.entry.size, 7);
    assert_eq!(data.entry.mode, real.mode() & 0o7777);
    assert_eq!((data.entry.uid, data.entry.gid), (real.uid(), real.gid()));
    let time = data.entry.modified;
    assert_eq!(
        (time.seconds, i64::from(time.nanos)),
        (real.mtime(), real.mtime_nsec())
    );
}

#[test]
fn links_are_kept_as_links() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/first"), "one").unwrap();
    fs::hard_link(root.join("d/first"), root.join("again")).unwrap();
    fs::hard_link(root.join("d/first"), root.join("z")).unwrap();
    symlink("nowhere/at all", root.join("dangling")).unwrap();
    symlink(".", root.join("loop")).unwrap();
    symlink("/etc", root.join("out")).unwrap();
    let kinds: Vec<_> = all(root)
        .into_iter()
        .map(|f| (f.entry.path, f.entry.kind))
        .collect();
    let expected = [
        (&b""[..], Kind::Directory),
        (b"again", Kind::File),
        (b"d", Kind::Directory),
        (b"d/first", Kind::HardLink(b"again".to_vec())),
        (b"dangling", Kind::Symlink(b"nowhere/at all".to_vec())),
        (b"loop", Kind::Symlink(b".".to_vec())),
        (b"out", Kind::Symlink(b"/etc".to_vec())),
        (b"z", Kind::HardLink(b"again".to_vec())),
    ];
    assert_eq!(kinds, expected.map(|(path, kind)| (path.to_vec(), kind)));
}

#[test]
fn a_name_that_was_not_kept_is_linked_to_by_none() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("a"), "").unwrap();
    fs::hard_link(temp.path().join("a"), temp.path().join("b")).unwrap();
    fs::hard_link(temp.path().join("a"), temp.path().join("c")).unwrap();
    let mut walk = Walk::new(&[temp.path().to_path_buf()], Options::default()).unwrap();
    walk.next();
    let first = walk.next().unwrap().unwrap();
    walk.forget(&first);
    let rest: Vec<_> = walk.map(|f| f.unwrap().entry.kind).collect();
    assert_eq!(rest, [Kind::File, Kind::HardLink(b"b".to_vec())]);
}

#[test]
fn holes_are_told_from_data() {
    let temp = tempfile::tempdir().unwrap();
    let mib = 1 << 20;
    for (name, data, size) in [
        ("start", Some(3 * mib), 4 * mib),
        ("middle", None, 4 * mib),
        ("end", Some(0), 4 * mib),
        ("all", None, 4 * mib),
    ] {
        let file = fs::File::create(temp.path().join(name)).unwrap();
        file.set_len(size).unwrap();
        if let Some(at) = data {
            file.write_all_at(&vec![7; mib as usize], at).unwrap();
        }
        if name == "middle" {
            file.write_all_at(&vec![7; mib as usize], 0).unwrap();
            file.write_all_at(&vec![7; mib as usize], 3 * mib).unwrap();
        }
    }
    fs::write(temp.path().join("none"), "").unwrap();
    let shape = |f: &Found| -> Vec<(bool, u64)> {
        segments(f)
            .into_iter()
            .map(|(data, length, bytes)| {
                assert!(!data || bytes == vec![7; length as usize]);
                (data, length)
            })
            .collect()
    };
    let found = all(temp.path());
    let shapes: Vec<_> = found[1..].iter().map(shape).collect();
    if shapes[0] == [(true, 4 * mib)] {
        println!("skipped: the temporary directory's file system does not tell holes");
        return;
    }
    assert_eq!(
        shapes,
        [
            vec![(false, 4 * mib)],
            vec![(true, mib), (false, 3 * mib)],
            vec![(true, mib), (false, 2 * mib), (true, mib)],
            vec![],
            vec![(false, 3 * mib), (true, mib)],
        ]
    );
}

#[test]
fn parts_make_up_the_file_and_a_hole_is_one() {
    let temp = tempfile::tempdir().unwrap();
    let mib: u64 = 1 << 20;
    let file = fs::File::create(temp.path().join("f")).unwrap();
    file.set_len(100 * mib).unwrap();
    for (at, length) in [(mib / 2, 2 * mib + 5), (40 * mib + 4096, 3 * mib)] {
        let bytes: Vec<u8> = (0..length).map(|i| (at + i) as u8 | 1).collect();
        file.write_all_at(&bytes, at).unwrap();
    }
    let found = &all(temp.path())[1];
    let whole = bytes_of(segments(found));
    let mut content = found.open().unwrap();
    let (mut at, mut ends, mut bytes) = (0, Vec::new(), Vec::new());
    while let Some(mut part) = content.part(mib) {
        at += part.left();
        ends.push(at / mib);
        bytes.extend(bytes_of(read(&mut part)));
        assert_eq!((part.left(), bytes.len() as u64), (0, at));
    }
    assert_eq!(content.finish(), None);
    assert!(bytes == whole);
    assert_eq!(ends.last(), Some(&100));
    assert!(ends.is_sorted_by(|a, b| a < b));
    if ends.len() < 100 {
        assert_eq!(ends, [1, 2, 3, 40, 41, 42, 43, 44, 100]);
    } else {
        println!("skipped: the temporary directory's file system does not tell holes");
    }
    // parts of a file that was cut end where it does
    let mut content = found.open().unwrap();
    file.set_len(mib + 7).unwrap();
    let mut parts: Vec<_> = std::iter::from_fn(|| content.part(mib)).collect();
    let bytes = parts.iter_mut().flat_map(|p| bytes_of(read(p)));
    assert!(bytes.eq(whole[..(mib + 7) as usize].iter().copied()));
    assert_eq!(content.finish().unwrap().kind, ProblemKind::Changed);
}

fn bytes_of(segments: Vec<(bool, u64, Vec<u8>)>) -> Vec<u8> {
    let bytes = |(data, length, bytes)| match data {
        true => bytes,
        false => vec![0; length as usize],
    };
    segments.into_iter().flat_map(bytes).collect()
}

#[test]
fn several_roots_and_single_files_lie_under_their_absolute_paths() {
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().canonicalize().unwrap();
    fs::create_dir_all(base.join("x/deep")).unwrap();
    fs::create_dir_all(base.join("y")).unwrap();
    for file in ["x/deep/f", "y/g", "y/h", "other"] {
        fs::write(base.join(file), "").unwrap();
    }
    let below = |found: &[Found]| -> Vec<String> {
        let prefix = format!("{}/", &base.to_str().unwrap()[1..]);
        paths(found)
            .iter()
            .filter_map(|p| p.strip_prefix(&prefix).map(String::from))
            .collect()
    };
    let (x, deep, g) = (base.join("x"), base.join("x/deep"), base.join("y/g"));
    let (found, problems) = walk(&[&g, &x, &deep], Options::default());
    assert_eq!(problems, []);
    assert_eq!(below(&found), ["x", "x/deep", "x/deep/f", "y", "y/g"]);
    let ways = base.components().count();
    assert_eq!(
        found.len(),
        ways + 5,
        "each directory on the way once: {:?}",
        paths(&found)
    );
    assert!(
        found[..ways]
            .iter()
            .all(|f| f.entry.kind == Kind::Directory)
    );

    let (found, _) = walk(&[&g], Options::default());
    assert_eq!(below(&found), ["y", "y/g"]);
    assert_eq!(paths(&found)[0], ".");

    // a root that is a symbolic link is followed
    symlink(&x, base.join("link")).unwrap();
    let (found, _) = walk(&[&base.join("link")], Options::default());
    assert_eq!(paths(&found), [".", "deep", "deep/f"]);
}

#[test]
fn a_root_that_cannot_be_walked_says_why() {
    let error = |roots: &[PathBuf]| Walk::new(roots, Options::default()).err().unwrap();
    let missing = error(&["/no/such/path".into()]);
    assert!(matches!(missing, RootError::Missing(_)));
    assert_eq!(
        missing.to_string(),
        "/no/such/path does not exist; check the path to protect"
    );
    assert!(matches!(error(&[]), RootError::None));
    assert!(matches!(error(&["/dev/null".into()]), RootError::Kind(_)));
    assert!(matches!(
        error(&["/etc".into(), "/no/such".into()]),
        RootError::Missing(_)
    ));
}

#[test]
fn excluded_and_pseudo_trees_are_left_out() {
    let temp = tempfile::tempdir().unwrap();
    for dir in ["keep", "keep/cache", "keep/cache/x"] {
        fs::create_dir(temp.path().join(dir)).unwrap();
    }
    fs::write(temp.path().join("keep/a.tmp"), "").unwrap();
    let excludes = [&b"*.tmp"[..], b"cache"]
        .map(|p| Pattern::new(p).unwrap())
        .to_vec();
    let options = Options {
        excludes,
        ..Options::default()
    };
    let (found, problems) = walk(&[temp.path()], options);
    assert_eq!(
        (paths(&found), problems),
        (vec![".".into(), "keep".into()], vec![])
    );

    // of the machine's root, only the mount points of its windows into the kernel
    let excludes = [
        "bin", "boot", "etc", "home", "lib", "lib64", "media", "mnt", "opt", "root", "run", "sbin",
        "srv", "tmp", "usr", "var", "work",
    ];
    let excludes = excludes
        .map(|d| Pattern::new(format!("/{d}").as_bytes()).unwrap())
        .to_vec();
    let mut below = 0;
    let mut points = 0;
    let options = Options {
        excludes,
        ..Options::default()
    };
    for found in Walk::new(&["/".into()], options).unwrap().flatten() {
        let path = String::from_utf8_lossy(&found.entry.path).into_owned();
        points += usize::from(["proc", "sys"].contains(&path.as_str()));
        below += usize::from(["proc/", "sys/"].iter().any(|p| path.starts_with(p)));
    }
    assert_eq!((points, below), (2, 0));
}

#[test]
fn what_changes_or_vanishes_is_told() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c", "d"] {
        fs::write(temp.path().join(name), vec![1; 5000]).unwrap();
    }
    let mut walk = Walk::new(&[temp.path().to_path_buf()], Options::default()).unwrap();
    walk.next();
    fs::remove_file(temp.path().join("a")).unwrap();
    let problem = walk.next().unwrap().err().unwrap();
    assert_eq!(problem.kind, ProblemKind::Vanished);
    let mut drain = |change: &dyn Fn(&Path)| {
        let found = walk.next().unwrap().unwrap();
        let path = PathBuf::from(std::ffi::OsString::from_vec(found.source().to_vec()));
        let mut content = found.open().unwrap();
        change(&path);
        let mut read = 0;
        let mut buffer = [0; 4096];
        while content.segment().unwrap().is_some() {
            loop {
                match content.read(&mut buffer).unwrap() {
                    0 => break,
                    n => read += n,
                }
            }
        }
        (read, content.finish().unwrap().kind)
    };
    let append = |path: &Path| {
        let file = fs::OpenOptions::new().append(true).open(path).unwrap();
        std::io::Write::write_all(&mut &file, &[2; 100]).unwrap();
    };
    assert_eq!(
        drain(&append),
        (5000, ProblemKind::Changed),
        "read to the size found"
    );
    let cut = |path: &Path| {
        fs::OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(1000)
            .unwrap()
    };
    assert_eq!(drain(&cut), (1000, ProblemKind::Changed));
    let found = walk.next().unwrap().unwrap();
    fs::remove_file(temp.path().join("d")).unwrap();
    symlink("/etc/passwd", temp.path().join("d")).unwrap();
    assert_eq!(
        found.open().err().unwrap().kind,
        ProblemKind::Unreadable,
        "no link is followed"
    );
    assert!(walk.next().is_none());
}

#[test]
fn what_may_not_be_read_is_told_and_the_rest_is_kept() {
    if nix::unistd::geteuid().is_root() {
        println!("skipped: root may read everything; all_of_this_as_a_user does this");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("closed")).unwrap();
    fs::write(temp.path().join("secret"), "x").unwrap();
    fs::write(temp.path().join("z"), "x").unwrap();
    for name in ["closed", "secret"] {
        fs::set_permissions(temp.path().join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let (found, problems) = walk(&[temp.path()], Options::default());
    assert_eq!(paths(&found), [".", "closed", "secret", "z"]);
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0]
            .to_string()
            .contains("closed: cannot be opened, what it holds")
    );
    assert_eq!(found[2].open().err().unwrap().kind, ProblemKind::Unreadable);
    fs::set_permissions(
        temp.path().join("closed"),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
}

#[test]
fn a_tree_deeper_than_paths_may_be_is_walked() {
    let temp = tempfile::tempdir().unwrap();
    let mut dir = fs::File::open(temp.path())
        .map(std::os::fd::OwnedFd::from)
        .unwrap();
    let name = "d".repeat(100);
    for _ in 0..300 {
        rustix::fs::mkdirat(&dir, name.as_str(), rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        dir = rustix::fs::openat(&dir, name.as_str(), flags, rustix::fs::Mode::empty()).unwrap();
    }
    let found = all(temp.path());
    assert_eq!(found.len(), 301);
    assert_eq!(found[300].entry.path.len(), 300 * 101 - 1);
}

#[test]
fn all_of_this_as_a_user() {
    as_user::again("all_of_this_as_a_user");
}
