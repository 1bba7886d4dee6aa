//! Snapshots made by somebody who has the keys and wants harm: restored by the real command they
//! change nothing outside the target, take no memory without bound, come to an end, and panic never.

use super::forge::*;
use super::*;
use format::Digest;
use format::frame::Kind;

const FILE: u8 = 0;
const DIRECTORY: u8 = 1;
const SYMLINK: u8 = 2;
const HARD_LINK: u8 = 3;

/// Most memory of any command so far, bytes.
fn peak() -> u64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN);
    usage.unwrap().max_rss().cast_unsigned() * 1024
}

/// Everything beside the targets, which nothing may change.
fn outside(bench: &Bench) -> Vec<String> {
    let paths = [
        "outside",
        "outside/victim",
        "outside/dir",
        "outside/dir/victim",
    ];
    let state = paths.map(|path| {
        let at = bench.at(path);
        let stat = at.symlink_metadata().unwrap();
        let changed = (stat.ino(), stat.ctime(), stat.ctime_nsec());
        let links = (stat.mode(), stat.nlink());
        format!("{path} {changed:?} {links:?} {:?}", fs::read(&at).ok())
    });
    state.into()
}

struct Attack {
    bench: Bench,
    forge: Option<Forge>,
    /// Digest of some content, two bytes.
    content: Digest,
}

/// How a restore must end: with what it could not do told, or before it began.
const TOLD: i32 = 1;
const REFUSED: i32 = 2;

impl Attack {
    fn new() -> Self {
        let bench = Bench::new();
        fs::create_dir_all(bench.at("outside/dir")).unwrap();
        for victim in ["outside/victim", "outside/dir/victim"] {
            fs::write(bench.at(victim), "precious").unwrap();
        }
        let mut forge = Forge::of(&bench);
        let content = forge.data(b"!!");
        Self {
            bench,
            forge: Some(forge),
            content,
        }
    }

    fn forge(&mut self) -> &mut Forge {
        self.forge.get_or_insert_with(|| Forge::of(&self.bench))
    }

    /// Restores a snapshot of these entries after the root's, which may refer to the content.
    fn entries(&mut self, entries: &[Forged], status: i32) -> String {
        let content = self.content;
        let root = Forged::new("", DIRECTORY);
        let entries = [&[root], entries].concat();
        let leaf = self.forge().leaf(&entries, &[content]);
        self.restore(leaf, status)
    }

    /// Restores a snapshot of this tree; answers what was told.
    fn restore(&mut self, root: Digest, status: i32) -> String {
        let id = self.forge().snapshot(root, |_, _| {});
        self.forge = None;
        let before = outside(&self.bench);
        let target = format!("targets/{id}");
        let restore = ["restore", "s", "--key-file", "k", &id, &target, "--verify"];
        let (_, error) = self.bench.ends(&restore, status);
        assert_eq!(outside(&self.bench), before);
        assert!(!error.contains("panicked"), "{error}");
        let beside = fs::read_dir(self.bench.at(".")).unwrap();
        let mut beside: Vec<_> = beside.map(|f| f.unwrap().file_name()).collect();
        beside.sort();
        assert_eq!(beside[..3], ["k", "outside", "s"], "{beside:?}");
        assert!(peak() < 256 << 20, "{} bytes of memory", peak());
        // an own way to remove it: trees may be deeper than Rust's removal goes
        let removed = Command::new("rm")
            .arg("-rf")
            .arg(self.bench.at("targets"))
            .status();
        assert!(removed.unwrap().success());
        error
    }
}

#[test]
fn paths_that_lead_elsewhere_are_in_no_snapshot() {
    let mut attack = Attack::new();
    let victim = attack.bench.at("outside/victim");
    for path in [
        b"../outside/victim",
        victim.to_str().unwrap().as_bytes(),
        b"a/../../outside/victim",
        b"..",
        b".",
        b"./a",
        b"a/.",
        b"a//b",
        b"a/",
        b"/",
        b"a\0b",
    ] {
        for kind in [FILE, DIRECTORY] {
            let told = attack.entries(&[Forged::new(path, kind)], REFUSED);
            assert!(told.contains("this entry leaf has a wrong path"), "{told}");
        }
        let told = attack.entries(&[Forged::link("z", HARD_LINK, path)], REFUSED);
        assert!(told.contains("has a wrong link's target"), "{told}");
    }
    for (first, second) in [("b", "a"), ("a", "a"), ("a/b", "a")] {
        let told = attack.entries(
            &[Forged::new(first, FILE), Forged::new(second, FILE)],
            REFUSED,
        );
        assert!(
            told.contains("has a wrong order of paths") | told.contains("a wrong path"),
            "{told}"
        );
    }
}

#[test]
fn nothing_is_written_through_a_link() {
    let mut attack = Attack::new();
    let outside = attack.bench.at("outside");
    let outside = outside.to_str().unwrap();
    let write = |path: &str| Forged::file(path, &[2, 1, 0, 2]);
    for to in [
        "../../outside",
        outside,
        "../../outside/dir/..",
        "/proc/self/cwd/outside",
    ] {
        let told = attack.entries(
            &[
                Forged::link("link", SYMLINK, to),
                write("link/dir/victim"),
                write("link/new"),
                write("link/victim"),
                Forged::link("m", HARD_LINK, "link/victim"),
                // another name of the link, and on through that
                Forged::link("n", HARD_LINK, "link"),
                write("n/victim"),
                Forged::link("o", HARD_LINK, "link/dir"),
                write("o/victim"),
            ],
            TOLD,
        );
        // each once by the restore, and the files once more by reading again
        let count = |what: &str| told.matches(what).count();
        assert_eq!(
            count("\n  link: cannot be made a directory (Not a directory); "),
            3
        );
        assert_eq!(
            count("\n  n: cannot be made a directory (Not a directory); "),
            1
        );
        assert_eq!(count(", which was not restored; restore that with it\n"), 1);
        assert_eq!(count(", which could not be restored\n"), 1);
        assert_eq!(
            count("victim: cannot be read again (Not a directory"),
            3,
            "{told}"
        );
    }
    // a link to a file under the name that a file is to have, and another name of such a link
    let link = Forged::link("a", SYMLINK, format!("{outside}/victim"));
    attack.entries(&[link.clone(), write("a")], REFUSED);
    attack.entries(&[link, Forged::link("b", HARD_LINK, "a")], 0);
}

#[test]
fn sizes_that_cannot_be_are_refused_or_told() {
    let mut attack = Attack::new();
    // holes of a length no disk has: the file is left out
    for length in [1 << 62, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
        let told = attack.entries(&[Forged::file("f", &[length, 1, 1, length])], TOLD);
        assert!(told.contains("f: cannot be"), "{told}");
    }
    let in_leaf: [&[u64]; 9] = [
        // sums that wrap around, or are others than said
        &[0, 2, 1, u64::MAX, 1, 1],
        &[1, 2, 1, u64::MAX, 1, 2],
        &[3, 1, 0, 2],
        &[u64::MAX, 1, 0, 2],
        // chunks that are not there, too long, or of a kind to come
        &[2, 1, 2, 2],
        &[2, 1, u64::MAX - 1, 2],
        &[1 << 30, 1, 0, 1 << 30],
        &[2, 1, 3, 2],
        // more extents than an entry has
        &[2, 65, 0, 2],
    ];
    for stream in in_leaf {
        let told = attack.entries(&[Forged::file("f", stream)], REFUSED);
        assert!(told.contains("this entry leaf"), "{told}");
    }
    // a chunk of another length than the entry says
    for length in [1, 3, 4 << 20] {
        let told = attack.entries(&[Forged::file("f", &[length, 1, 0, length])], TOLD);
        assert!(
            told.contains("holds other content than its name says"),
            "{told}"
        );
    }
}

/// Content of an extent list.
fn list(level: u8, items: &[(u64, u64)]) -> Vec<u8> {
    let pairs: Vec<u64> = items
        .iter()
        .flat_map(|(head, length)| [*head, *length])
        .collect();
    [
        &[level][..],
        &numbers(&[items.len() as u64]),
        &numbers(&pairs),
    ]
    .concat()
}

#[test]
fn lists_of_extents_that_lie_or_name_each_other_end() {
    let mut attack = Attack::new();
    let content = attack.content;
    let file_of = |attack: &mut Attack, size: u64, lists: &[(u8, Vec<(u64, u64)>)]| {
        let mut below = content;
        for (level, items) in lists {
            below = attack
                .forge()
                .frame(Kind::Extents, &list(*level, items), &[below]);
        }
        let root = Forged::new("", DIRECTORY);
        let file = Forged::file("f", &[size, 0, 0]);
        let leaf = attack.forge().leaf(&[root, file], &[below]);
        attack.restore(leaf, TOLD)
    };
    let many = |length: u64| vec![(0, length); 65_536];
    // 65,536 to the 6th lists that stand for nothing
    let told = file_of(
        &mut attack,
        2,
        &[
            (0, vec![]),
            (1, many(0)),
            (2, many(0)),
            (3, many(0)),
            (4, many(0)),
            (5, many(0)),
            (6, many(0)),
        ],
    );
    assert!(
        told.contains("this extent list has a wrong length of a list"),
        "{told}"
    );
    for (size, lists) in [
        (3, vec![(0, vec![(0, 2)])]),
        (2, vec![(0, vec![])]),
        (2, vec![(0, vec![(0, 2)]), (1, vec![(0, 3)])]),
        (
            4,
            vec![(0, vec![(0, 2)]), (1, vec![(0, 2)]), (1, vec![(0, 4)])],
        ),
        (
            0u64.wrapping_sub(2),
            vec![(0, vec![(1, u64::MAX), (1, u64::MAX)])],
        ),
        (4, vec![(0, vec![(0, 2)]), (1, vec![(0, u64::MAX), (0, 5)])]),
        (2, vec![(7, vec![(0, 2)])]),
    ] {
        let told = file_of(&mut attack, size, &lists);
        assert!(
            told.contains("f: chunk") && told.contains("extent list"),
            "{told}"
        );
    }
}

#[test]
fn trees_that_lie_or_name_the_same_again_and_again_end() {
    let mut attack = Attack::new();
    let (content, root) = (attack.content, Forged::new("", DIRECTORY));
    let first = attack.forge().leaf(&[root], &[]);
    let leaf = |attack: &mut Attack, name: &str| {
        let file = Forged::file(name, &[2, 1, 0, 2]);
        attack.forge().leaf(&[file], &[content])
    };
    let (a, b) = (leaf(&mut attack, "a"), leaf(&mut attack, "b"));
    // leaves out of order, and one again and again under other names
    for children in [
        &[("", first), ("a", b), ("b", a)][..],
        &[("", first), ("a", a), ("b", a), ("c", a)],
    ] {
        let node = attack.forge().node(1, children);
        let told = attack.restore(node, TOLD);
        assert!(
            told.contains("the rest of the snapshot is not restored"),
            "{told}"
        );
        assert!(
            told.contains("this tree has a wrong order of leaves"),
            "{told}"
        );
    }
    // 65,536 to the 12th empty leaves, with the 65,536 references that a frame can have
    let names: Vec<String> = (0..65_536).map(|i| format!("{i:05}")).collect();
    let mut below = attack.forge().leaf(&[], &[]);
    for level in 1..=12 {
        let children: Vec<_> = names.iter().map(|name| (&name[..], below)).collect();
        below = attack.forge().node(level, &children);
    }
    let told = attack.restore(below, REFUSED);
    assert!(told.contains("this tree has a wrong empty leaf"), "{told}");
    // the same with a leaf that is not empty
    let mut below = a;
    for level in 1..=12 {
        let children: Vec<_> = names.iter().map(|name| (&name[..], below)).collect();
        below = attack.forge().node(level, &children);
    }
    let told = attack.restore(below, TOLD);
    assert!(
        told.contains("this tree has a wrong order of leaves"),
        "{told}"
    );
    // levels that do not fall, and what is no part of a tree in the place of one
    let node = attack.forge().node(1, &[("a", a)]);
    let extents = attack
        .forge()
        .frame(Kind::Extents, &list(0, &[(0, 2)]), &[content]);
    for (level, child) in [(1, node), (2, extents), (1, content)] {
        let root = attack.forge().node(level, &[("a", child)]);
        let told = attack.restore(root, REFUSED);
        assert!(told.contains("this tree has a wrong"), "{told}");
    }
    for root in [extents, content] {
        attack.restore(root, REFUSED);
    }
    // first paths that are lies: what is asked for by path may not be found, and that is all
    let lying = attack.forge().node(1, &[("", first), ("x", a), ("y", b)]);
    attack.restore(lying, 0);
    let id = attack.forge().snapshot(lying, |_, _| {});
    attack.forge = None;
    let part = [
        "restore",
        "s",
        "--key-file",
        "k",
        &id,
        "targets/part",
        "--path",
        "a",
    ];
    let (_, error) = attack.bench.ends(&part, 2);
    assert!(error.contains("the snapshot holds no a"), "{error}");
}

#[test]
fn a_path_as_deep_as_it_may_be_is_restored() {
    let mut attack = Attack::new();
    let deep = vec!["d".repeat(63); 1024].join("/");
    attack.entries(&[Forged::file(&deep, &[2, 1, 0, 2])], 0);
}

#[test]
fn attributes_in_many_directories_below_each_other_are_kept_within_bounds() {
    let mut attack = Attack::new();
    // 2 MiB of them, as many as an entry may have, in each of 300 levels
    let xattrs = |count: u32| {
        let each = (0..count).map(|i| (format!("user.{i:02}").into(), vec![0; 65_536]));
        each.collect::<Vec<_>>()
    };
    let root = Forged::new("", DIRECTORY);
    let mut leaves = vec![(String::new(), attack.forge().leaf(&[root], &[]))];
    for level in 1..300 {
        let path = vec!["d"; level].join("/");
        let mut directory = Forged::new(&path, DIRECTORY);
        directory.xattrs = xattrs(31);
        let leaf = attack.forge().leaf(&[directory], &[]);
        leaves.push((path, leaf));
    }
    let leaves: Vec<_> = leaves
        .iter()
        .map(|(path, leaf)| (&path[..], *leaf))
        .collect();
    let node = attack.forge().node(1, &leaves);
    let told = attack.restore(node, TOLD);
    assert!(
        told.contains("is below so many directories with so many attributes"),
        "{told}"
    );
    let mut long = Forged::new("f", FILE);
    long.xattrs = xattrs(40);
    let told = attack.entries(&[long], REFUSED);
    assert!(
        told.contains("this entry leaf has a wrong size of an entry"),
        "{told}"
    );
}

#[test]
fn problems_of_long_paths_are_kept_within_bounds() {
    let mut attack = Attack::new();
    let mut leaves = Vec::new();
    for first in 0..200 {
        // links to what is not there: 60,000 bytes each for path and target
        let links = (0..30).map(|second| {
            let mut path = format!("{first:03}{second:02}").into_bytes();
            path.resize(60_000, b'x');
            Forged::link(path, HARD_LINK, vec![b'0'; 60_000])
        });
        let links: Vec<_> = links.collect();
        leaves.push((format!("{first:03}"), attack.forge().leaf(&links, &[])));
    }
    let children: Vec<_> = leaves
        .iter()
        .map(|(path, leaf)| (&path[..], *leaf))
        .collect();
    let node = attack.forge().node(1, &children);
    let told = attack.restore(node, TOLD);
    let start = told.lines().next().unwrap();
    assert_eq!(start, "6000 problems:");
    assert!(told.ends_with(" more\n"));
}

#[test]
fn what_a_snapshot_says_of_itself_is_shown_and_not_believed() {
    let mut attack = Attack::new();
    let root = attack.forge().leaf(&[Forged::new("", DIRECTORY)], &[]);
    for seconds in [i64::MIN, i64::MAX, 0] {
        attack.forge().snapshot(root, |clear, details| {
            clear.time.seconds = seconds;
            (clear.logical, clear.entries) = (u64::MAX, u64::MAX);
            (clear.unique, clear.stored) = (u64::MAX, u64::MAX);
            clear.lock_until = i64::MAX;
            clear.parent = Some(clear.id);
            details.group = "\u{1b}[2J\u{1b}]0;owned\u{7}".into();
            details.host = "a\nb".into();
            // as many as may be
            details.paths = vec![b"\x1b[31m".to_vec(); 10_000];
            details.problem_count = u64::MAX;
        });
    }
    attack.forge = None;
    let bench = &attack.bench;
    for command in [
        &["snapshots", "s", "--key-file", "k"][..],
        &["snapshots", "s", "--key-file", "k", "--json"],
        &["stats", "s"],
        &["verify", "s", "--key-file", "k"],
        &["restore", "s", "--key-file", "k", "latest", "back"],
    ] {
        let (out, error) = bench.ends(command, 0);
        let escapes = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
        assert!(!escapes(&out) && !escapes(&error), "{command:?}");
    }
    assert_eq!(bench.json(&["stats", "s"])["logical"], u64::MAX);
}
