//! The tree with everything, made, compared, copied, changed and copied again.

mod as_user;
mod copying;

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use copying::copy;
use filetree::compare::{Comparison, Difference, compare};
use filetree::specimen::{Scale, create, mutate};
use filetree::write::Options;

const SCALE: Scale = Scale {
    small_files: 120,
    large_file: 300_000,
    sparse_file: 4 << 20,
};

fn made(root: &Path) -> u64 {
    let made = create(root, 7, SCALE).unwrap();
    for skipped in &made.skipped {
        println!("skipped: {skipped}");
    }
    made.entries
}

#[test]
fn the_same_seed_makes_the_same_tree() {
    let (a, b, c) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let entries = made(a.path());
    made(b.path());
    let compared = compare(a.path(), b.path()).unwrap();
    // what a user may not read is a difference, as nobody can say it is the same
    let told: Vec<_> = compared
        .differences
        .iter()
        .map(ToString::to_string)
        .filter(|d| !d.contains("Permission denied"))
        .collect();
    assert_eq!(told, [] as [String; 0]);
    assert_eq!(compared.entries, entries + 1);
    create(c.path(), 8, SCALE).unwrap();
    assert!(compare(a.path(), c.path()).unwrap().differences.len() > 100);
}

#[test]
fn everything_survives_a_copy_in_both_generations() {
    let source = tempfile::tempdir().unwrap();
    made(source.path());
    for generation in 1..=2 {
        let target = tempfile::tempdir().unwrap();
        let (report, unread) = copy(source.path(), target.path(), Options::default());
        assert_eq!(report.problems, []);
        let compared = compare(source.path(), target.path()).unwrap();
        let unexpected: Vec<_> = compared
            .differences
            .iter()
            .filter(|d| !unread.contains(&d.path))
            .map(ToString::to_string)
            .collect();
        assert_eq!(unexpected, [] as [String; 0], "generation {generation}");
        assert_eq!(compared.information, [], "holes are kept");
        assert_eq!(compared.entries, report.entries);
        if rustix::process::geteuid().is_root() {
            assert!(unread.is_empty());
        }
        if generation == 1 {
            assert!(mutate(source.path(), 7).unwrap().len() > 15);
            let again = compare(source.path(), target.path()).unwrap();
            assert!(again.differences.len() > 25, "{:#?}", again.differences);
        }
    }
}

#[test]
fn a_copy_over_an_older_copy_is_the_newer_one() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    made(source.path());
    copy(source.path(), target.path(), Options::default());
    mutate(source.path(), 7).unwrap();
    let overwrite = Options { overwrite: true };
    let (report, unread) = copy(source.path(), target.path(), overwrite);
    assert_eq!(report.problems, []);
    let compared = compare(source.path(), target.path()).unwrap();
    // what the newer generation does not have stays
    let stays = |d: &&Difference| d.sentence == "is missing in the first tree";
    let told: Vec<_> = compared
        .differences
        .iter()
        .filter(|d| !stays(d) && !unread.contains(&d.path))
        .collect();
    assert_eq!(told, [] as [&Difference; 0]);
    assert!(compared.differences.iter().any(|d| stays(&d)));
}

fn one_difference(change: impl Fn(&Path)) -> Comparison {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for root in [a.path(), b.path()] {
        create(root, 3, SCALE).unwrap();
    }
    change(b.path());
    compare(a.path(), b.path()).unwrap()
}

#[test]
fn each_difference_is_told() {
    let touch = |path: &Path, from: &fs::Metadata| {
        fs::File::open(path)
            .unwrap()
            .set_modified(from.modified().unwrap())
            .unwrap();
    };
    let keep = |root: &Path, path: &str, change: &dyn Fn(&Path)| {
        let parent = root.join(path).parent().unwrap().to_path_buf();
        let times = (
            fs::metadata(root.join(path)).unwrap(),
            fs::metadata(&parent).unwrap(),
        );
        change(&root.join(path));
        touch(&parent, &times.1);
        if root.join(path).exists() {
            touch(&root.join(path), &times.0);
        }
    };
    type Change<'a> = &'a dyn Fn(&Path);
    let flip: Change = &|file| {
        fs::OpenOptions::new()
            .write(true)
            .open(file)
            .unwrap()
            .write_all_at(b"#", 150_000)
            .unwrap();
    };
    let cases: [(&str, Change, &str); 7] = [
        (
            "data/database",
            flip,
            "data/database: differs from byte 150000 on",
        ),
        (
            "sparse/many",
            &|file| {
                let file = fs::OpenOptions::new().write(true).open(file).unwrap();
                file.write_all_at(b"\0", 900_000).unwrap();
            },
            "sparse/many: has 15728640 bytes of holes, and 15724544",
        ),
        (
            "sizes/0000001-at-00",
            &|file| fs::write(file, "xx").unwrap(),
            "sizes/0000001-at-00: has 1 bytes, and 2",
        ),
        (
            "modes/file-0644",
            &|file| {
                fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
            },
            "modes/file-0644: has mode 0644, and 0600",
        ),
        (
            "xattrs/file",
            &|file| {
                rustix::fs::removexattr(file, "user.empty").unwrap();
            },
            "xattrs/file: has attribute user.empty, and none",
        ),
        (
            "empty/directory",
            &|dir| fs::remove_dir(dir).unwrap(),
            "empty/directory: is missing in the second tree",
        ),
        (
            "links/a-second",
            &|file| {
                let content = fs::read(file).unwrap();
                fs::remove_file(file).unwrap();
                fs::write(file, content).unwrap();
            },
            "links/below/third: is another name of links/a-second, and a file",
        ),
    ];
    for (path, change, expected) in cases {
        let compared = one_difference(|root| keep(root, path, change));
        let all = compared.differences.iter().chain(&compared.information);
        let told: Vec<String> = all
            .map(ToString::to_string)
            .filter(|d| !d.contains("Permission denied"))
            .collect();
        assert!(
            told.contains(&expected.to_string()),
            "{expected}: {told:#?}"
        );
        assert!(told.len() <= 4, "{told:#?}");
    }
    let compared = one_difference(|root| {
        let name = std::ffi::OsString::from_vec(b"names/\xff\xfe".to_vec());
        fs::File::open(root.join(name))
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
    });
    let told = compared
        .differences
        .iter()
        .map(ToString::to_string)
        .find(|d| d.starts_with("names/"));
    assert!(
        told.unwrap()
            .starts_with("names/\\xff\\xfe: was modified at ")
    );
}

#[test]
fn the_tree_holds_what_it_promises() {
    let root = tempfile::tempdir().unwrap();
    made(root.path());
    let at = |path: &str| root.path().join(path).symlink_metadata().unwrap();
    assert_eq!(at("links/first").nlink(), 4);
    assert_eq!(at("modes/file-6711").mode() & 0o7777, 0o6711);
    assert_eq!(at("times/1969").mtime(), -1);
    assert_eq!(at("times/1969").mtime_nsec(), 999_999_999);
    assert_eq!(
        fs::read_link(root.path().join("links/long"))
            .unwrap()
            .as_os_str()
            .len(),
        4095
    );
    assert!(at("sparse/huge").blocks() < 1000);
    assert_eq!(at("names").nlink(), 2 + 5);
    // all bytes but / and NUL
    let bytes = fs::read_dir(root.path().join("names/bytes")).unwrap();
    assert_eq!(bytes.count(), 254);
    if rustix::process::geteuid().is_root() {
        assert_eq!(at("modes/file-0000").mode() & 0o7777, 0);
        assert_eq!(
            (at("modes/other-user").uid(), at("modes/other-user").gid()),
            (12_345, 54_321)
        );
        assert_eq!(at("modes/other-user").mode() & 0o7777, 0o6755);
    } else {
        println!("skipped: owners, which only root can give, and what nobody may read");
    }
}

#[test]
fn all_of_this_as_a_user() {
    as_user::again("all_of_this_as_a_user");
}
