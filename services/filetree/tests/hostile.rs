//! Whatever entries come, in whatever order, on whatever lies in the target: nothing outside the
//! target changes.

mod as_user;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use filetree::write::{Options, Writer};
use format::entry::{Entry, Kind, Timestamp, Xattr};
use proptest::prelude::*;

/// Names and parts of paths that have led restorers astray.
fn part() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "c"]).prop_map(Vec::from),
        1 => prop::sample::select(vec!["", ".", "..", "out", "link", "a\0", " "]).prop_map(Vec::from),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ]
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => prop::collection::vec(part(), 0..4).prop_map(|parts| parts.join(&b'/')),
        1 => Just(b"/OUTSIDE/victim".to_vec()),
        1 => Just(b"../outside/victim".to_vec()),
        1 => Just(b"a/../../outside/victim".to_vec()),
    ]
}

/// Where links are made to lead; OUTSIDE stands for the absolute path of what must not change.
fn lead() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec![
            "OUTSIDE",
            "OUTSIDE/victim",
            "OUTSIDE/dir",
            "../outside",
            "../../outside",
            "..",
            ".",
            "../outside/victim",
            "/",
            "a",
            "b",
            "a/b",
            "/proc/self/cwd",
            "",
        ])
        .prop_map(Vec::from),
        path(),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::File),
        4 => Just(Kind::Directory),
        4 => lead().prop_map(Kind::Symlink),
        3 => lead().prop_map(Kind::HardLink),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| Kind::CharDevice(major, minor)),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let xattrs = prop::collection::vec(
        (
            prop::sample::select(vec![
                "user.x",
                "trusted.x",
                "security.capability",
                "system.posix_acl_access",
                "",
                "x",
                "user.\0",
            ]),
            prop::collection::vec(any::<u8>(), 0..40),
        ),
        0..2,
    );
    (
        path(),
        kind(),
        any::<(u32, u32, u32)>(),
        any::<(i64, u32)>(),
        xattrs,
        0u64..10,
    )
        .prop_map(
            |(path, kind, (mode, uid, gid), (seconds, nanos), xattrs, size)| Entry {
                path,
                kind,
                mode,
                uid,
                gid,
                user: vec![],
                group: vec![],
                modified: Timestamp { seconds, nanos },
                xattrs: xattrs
                    .into_iter()
                    .map(|(name, value)| Xattr {
                        name: name.into(),
                        value,
                    })
                    .collect(),
                size,
                content: vec![],
            },
        )
}

/// Everything of a tree that a write could change, its change times above all.
fn state(root: &Path, out: &mut Vec<String>) {
    let at = root.symlink_metadata().unwrap();
    out.push(format!(
        "{root:?} {} {} {}:{} {} {}.{} {}.{}",
        at.ino(),
        at.mode(),
        at.uid(),
        at.gid(),
        at.nlink(),
        at.mtime(),
        at.mtime_nsec(),
        at.ctime(),
        at.ctime_nsec(),
    ));
    if at.is_dir() {
        let mut names: Vec<_> = fs::read_dir(root)
            .unwrap()
            .map(|f| f.unwrap().path())
            .collect();
        names.sort();
        names.iter().for_each(|name| state(name, out));
    } else if at.is_file() {
        out.push(format!("{:?}", fs::read(root).unwrap()));
    }
}

fn place(mut lead: Vec<u8>, outside: &Path) -> Vec<u8> {
    if let Some(rest) = lead.strip_prefix(b"OUTSIDE") {
        lead = [outside.as_os_str().as_bytes(), rest].concat();
    } else if let Some(rest) = lead.strip_prefix(b"/OUTSIDE") {
        lead = [outside.as_os_str().as_bytes(), rest].concat();
    }
    lead
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_outside_the_target_changes(
        mut entries in prop::collection::vec(entry(), 1..24),
        sorted in prop::bool::weighted(0.8),
        overwrite in any::<bool>(),
        planted in prop::collection::vec((part(), lead(), any::<bool>()), 0..4),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let (outside, target) = (temp.path().join("outside"), temp.path().join("target"));
        fs::create_dir_all(outside.join("dir")).unwrap();
        fs::write(outside.join("victim"), "precious").unwrap();
        fs::write(outside.join("dir/victim"), "precious").unwrap();
        fs::create_dir(&target).unwrap();
        if overwrite {
            // what someone else left in the target
            fs::create_dir(target.join("a")).unwrap();
            for (name, to, into_a) in planted {
                if name.contains(&b'/') {
                    continue;
                }
                let dir = if into_a { target.join("a") } else { target.clone() };
                let (name, to) = (std::ffi::OsStr::from_bytes(&name), place(to, &outside));
                // some names cannot be, or are there already
                let _ = symlink(std::ffi::OsStr::from_bytes(&to), dir.join(name));
            }
        }
        for entry in &mut entries {
            entry.path = place(std::mem::take(&mut entry.path), &outside);
            match &mut entry.kind {
                Kind::Symlink(to) | Kind::HardLink(to) => *to = place(std::mem::take(to), &outside),
                _ => {}
            }
        }
        if sorted {
            entries.sort_by(|a, b| Entry::cmp_path(&a.path, &b.path));
        }
        let mut before = Vec::new();
        state(&outside, &mut before);
        let mut writer = Writer::new(&target, Options { overwrite }).unwrap();
        for entry in &entries {
            writer.begin(entry).unwrap();
            writer.data(&vec![b'!'; entry.size as usize]).unwrap();
            writer.end().unwrap();
        }
        writer.finish().unwrap();
        let mut after = Vec::new();
        state(&outside, &mut after);
        prop_assert_eq!(before, after);
        let mut beside: Vec<_> = fs::read_dir(temp.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        beside.sort();
        prop_assert_eq!(beside, ["outside", "target"]);
    }
}

#[test]
fn all_of_this_as_a_user() {
    as_user::again("all_of_this_as_a_user");
}
