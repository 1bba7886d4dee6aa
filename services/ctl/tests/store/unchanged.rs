//! `strongroom store backup` of what was backed up before: what is not read, and what is.

use super::bench::Bench;
use filetree::compare::compare;
use filetree::specimen::{self, Scale};
use rustix::fs::inotify;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

/// Until what changed just now would show a further change.
fn age() {
    // change times cannot be set: the clock has to pass two seconds, which no event announces
    let newest = SystemTime::now();
    while newest.elapsed().unwrap().as_millis() < 3100 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Tells which files are opened, whoever does it.
struct Watch(std::os::fd::OwnedFd);

impl Watch {
    fn on(root: &Path) -> Self {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let watch = inotify::init(flags).unwrap();
        let mut dirs = vec![root.to_path_buf()];
        while let Some(dir) = dirs.pop() {
            // one that is too deep for a path is not looked at
            if dir.as_os_str().len() > 4000 {
                continue;
            }
            inotify::add_watch(&watch, &dir, inotify::WatchFlags::OPEN).unwrap();
            for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                dirs.extend(entry.file_type().unwrap().is_dir().then(|| entry.path()));
            }
        }
        let watch = Self(watch);
        // those of the walk just done
        watch.opened();
        watch
    }

    /// Number of files opened since it was last asked.
    fn opened(&self) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 1 << 16];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut count = 0;
        while let Ok(event) = reader.next() {
            let events = event.events();
            assert!(!events.contains(inotify::ReadFlags::QUEUE_OVERFLOW));
            count += usize::from(!events.contains(inotify::ReadFlags::ISDIR));
        }
        count
    }
}

impl Bench {
    fn again(&self, more: &[&str]) -> Value {
        let all = ["backup", "s", "--key-file", "k", "--group", "g", "source"];
        self.json(&[&all[..], more].concat())
    }

    /// The last backup's tree is what one that reads everything makes, and comes back.
    fn holds(&self, source: &Path) {
        let read = self.again(&["--force-read"]);
        assert_eq!(read["unique"], 0, "{read}");
        let back = self.at("back");
        self.good(&["restore", "s", "--key-file", "k", "latest", "back"]);
        assert_eq!(compare(source, &back).unwrap().differences, []);
        fs::remove_dir_all(back).unwrap();
    }

    /// The file in which the backup of `source` is remembered.
    fn memory(&self) -> PathBuf {
        let all = self.caches.path().join("strongroom");
        let only = |dir: &Path| {
            let mut found = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
            let first = found.next().unwrap();
            assert_eq!(found.next(), None);
            first
        };
        only(&only(&all))
    }
}

#[test]
fn a_file_as_it_was_is_not_opened_unless_asked() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    specimen::create(&source, 7, Scale::default()).unwrap();
    age();
    let first = bench.again(&[]);
    let watch = Watch::on(&source);
    let second = bench.again(&[]);
    // what claims to have changed in the future may have changed just now
    let times = fs::read_dir(source.join("times")).unwrap();
    let modified = times.map(|e| e.unwrap().metadata().unwrap().modified().unwrap());
    let future = modified.filter(|at| at.elapsed().is_err()).count();
    assert_eq!(watch.opened(), future);
    assert_eq!(
        (&second["entries"], &second["logical"], &second["unique"]),
        (&first["entries"], &first["logical"], &0.into())
    );
    bench.holds(&source);
    assert!(watch.opened() > 400, "by a backup that was to read");
    drop(watch);
    // of what changed all is noticed, of what is new all is read, and nothing else
    specimen::mutate(&source, 7).unwrap();
    let watch = Watch::on(&source);
    bench.again(&[]);
    let opened = watch.opened();
    assert!((10..60).contains(&opened), "{opened}");
    bench.holds(&source);
}

/// A program that stores into a file it has mapped, as databases do, a byte each time it is told to.
const MAPPED: &str = "
import mmap, sys
file = open(sys.argv[1], 'r+b')
mapped = mmap.mmap(file.fileno(), 0)
for number, line in enumerate(sys.stdin, 1):
    mapped[0] = number
    print(number, flush=True)
";

#[test]
fn a_store_into_mapped_memory_is_noticed() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("mapped"), [0; 4096]).unwrap();
    let mut program = Command::new("python3")
        .args(["-c", MAPPED])
        .arg(source.join("mapped"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut orders = program.stdin.take().unwrap();
    let mut done = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut store = || {
        writeln!(orders).unwrap();
        done.next().unwrap().unwrap();
    };
    store();
    age();
    bench.again(&[]);
    // into a page that was dirty when the last backup began
    store();
    age();
    bench.again(&[]);
    bench.good(&["restore", "s", "--key-file", "k", "latest", "back"]);
    assert_eq!(fs::read(bench.at("back/mapped")).unwrap()[0], 2);
    drop(orders);
    program.wait().unwrap();
}

#[test]
fn leaves_are_kept_around_any_change() {
    let bench = Bench::new();
    let source = bench.at("source");
    let file = |number: usize| source.join(format!("{:02}/{number:06}", number / 100));
    for number in 0..3000 {
        if number % 100 == 0 {
            fs::create_dir_all(file(number).parent().unwrap()).unwrap();
        }
        fs::write(file(number), number.to_string()).unwrap();
    }
    age();
    bench.again(&[]);
    let changes: [(&str, &dyn Fn()); 8] = [
        ("nothing", &|| {}),
        ("content", &|| fs::write(file(1500), "other").unwrap()),
        ("first and last", &|| {
            fs::write(file(0), "other").unwrap();
            fs::remove_file(file(2999)).unwrap();
        }),
        ("many gone", &|| {
            for number in 500..1250 {
                fs::remove_file(file(number)).unwrap();
            }
        }),
        ("some new", &|| {
            for number in (500..1250).step_by(7) {
                fs::write(file(number), "new").unwrap();
            }
            symlink("nowhere", source.join("00/zzz")).unwrap();
        }),
        ("a directory moved", &|| {
            fs::rename(source.join("20"), source.join("20-moved")).unwrap();
        }),
        ("another name before the first", &|| {
            fs::hard_link(file(2250), source.join("00/link")).unwrap();
        }),
        ("all gone but one", &|| {
            for dir in fs::read_dir(&source).unwrap().map(|e| e.unwrap().path()) {
                if !dir.ends_with("29") {
                    fs::remove_dir_all(dir).unwrap();
                }
            }
        }),
    ];
    for (what, change) in changes {
        change();
        bench.again(&[]);
        let read = bench.again(&["--force-read"]);
        assert_eq!(read["unique"], 0, "{what}: {read}");
    }
    bench.holds(&source);
}

#[test]
fn what_was_collected_meanwhile_is_read_again_and_the_rest_is_not() {
    let bench = Bench::new();
    let source = bench.at("source");
    for number in 0..3000 {
        let dir = source.join(format!("{:02}", number / 100));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(number.to_string()), number.to_string()).unwrap();
    }
    age();
    let forget = |backup: &Value| {
        bench.good(&["forget", "s", backup["snapshot"].as_str().unwrap()]);
        bench.good(&["gc", "s"]);
    };
    let first = bench.again(&[]);
    let watch = Watch::on(&source);
    // what the next one needs stays
    fs::write(source.join("07/0700"), "new").unwrap();
    let second = bench.again(&[]);
    forget(&first);
    watch.opened();
    let third = bench.again(&[]);
    assert!(watch.opened() <= 1, "the new one may have changed since");
    // nothing stays, whatever the memory says
    forget(&second);
    forget(&third);
    assert_eq!(bench.sums("s")["chunks"], 0);
    let fourth = bench.again(&[]);
    assert_eq!(watch.opened(), 3001);
    assert_eq!(fourth["entries"], second["entries"]);
    bench.good(&["verify", "s", "--key-file", "k"]);
    bench.holds(&source);
}

#[test]
fn a_memory_that_does_not_fit_costs_a_reading_and_no_more() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    for number in 0..50 {
        fs::write(source.join(number.to_string()), number.to_string()).unwrap();
    }
    age();
    let copy = |from: &str, to: &str| {
        let copied = Command::new("cp")
            .args(["-a", from, to])
            .current_dir(bench.temp.path())
            .status();
        assert!(copied.unwrap().success());
    };
    copy("s", "empty");
    bench.again(&[]);
    let memory = bench.memory();
    let bytes = fs::read(&memory).unwrap();
    let watch = Watch::on(&source);
    // the same datastore as it was before
    copy("s", "full");
    fs::remove_dir_all(bench.at("s")).unwrap();
    copy("empty", "s");
    bench.again(&[]);
    assert_eq!(watch.opened(), 50);
    bench.holds(&source);
    watch.opened();
    // damage
    fs::write(&memory, &bytes[..bytes.len() / 2]).unwrap();
    bench.again(&[]);
    assert_eq!(watch.opened(), 50);
    bench.again(&[]);
    assert_eq!(watch.opened(), 0, "it was written anew");
    // another datastore
    bench.good(&["init", "other", "--key-file", "k2"]);
    let other = [
        "backup",
        "other",
        "--key-file",
        "k2",
        "--group",
        "g",
        "source",
    ];
    bench.good(&other);
    assert_eq!(watch.opened(), 50);
    bench.again(&[]);
    bench.good(&other);
    assert_eq!(watch.opened(), 0, "each has its own");
    // a leaf that is damaged, and needed because one of its objects changed
    for pack in bench.packs() {
        let mut bytes = fs::read(&pack).unwrap();
        bytes[300..400].fill(7);
        fs::write(&pack, bytes).unwrap();
    }
    fs::write(source.join("7"), "changed").unwrap();
    let all = ["backup", "s", "--key-file", "k", "--group", "g", "source"];
    let (_, told) = bench.ends(&all, 0);
    let words = "what the last backup remembered is of no use, all is read: chunk ";
    assert!(told.starts_with(words), "{told}");
    // the changed one perhaps twice, and by us
    assert!((50..=52).contains(&watch.opened()));
    let unusable = bench.caches.path().join("strongroom");
    fs::remove_dir_all(&unusable).unwrap();
    fs::write(&unusable, "").unwrap();
    let (_, told) = bench.ends(&all, 0);
    assert_eq!(told, "");
    assert_eq!(watch.opened(), 50);
}
