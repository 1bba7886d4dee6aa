//! A tree of very many entries: `./dev bench entries [COUNT]`.

use super::*;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Entries of one directory, and what a directory of the level above holds.
const WIDE: u64 = 1000;

/// Most memory that a command may take, bytes.
const LIMIT: u64 = 512 << 20;

/// Makes so many entries: one file in ten has content, one in a hundred is a link, one in a hundred
/// another name of the file before. Answers how many there are.
fn make(root: &Path, count: u64) -> u64 {
    let mut made = 0;
    for dir in 0.. {
        let path = root.join(format!("{:03}/{:03}", dir / WIDE, dir % WIDE));
        fs::create_dir_all(&path).unwrap();
        made += 1 + u64::from(dir % WIDE == 0);
        for file in 0..WIDE {
            if made >= count {
                return made;
            }
            made += 1;
            let name = path.join(format!("entry-of-the-tree-{file:04}"));
            match file % 100 {
                7 => std::os::unix::fs::symlink("entry-of-the-tree-0000", name).unwrap(),
                8 => fs::hard_link(
                    path.join(format!("entry-of-the-tree-{:04}", file - 2)),
                    name,
                )
                .unwrap(),
                n if n % 10 == 0 => fs::write(name, format!("content of {dir} {file}")).unwrap(),
                _ => drop(fs::File::create(name).unwrap()),
            }
        }
    }
    made
}

/// Runs a command; answers how long it took and the most memory that it was seen to take.
fn measured(mut command: Command) -> (Duration, u64) {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(now.unwrap_or(0) * 1024);
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        // a look now and then: the kernel keeps the peak
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.success(), "{ended}");
    (began.elapsed(), peak)
}

#[test]
#[ignore = "measures, for minutes and gigabytes: ./dev bench entries"]
fn measure() {
    let count = std::env::var("COUNT").map_or(1_000_000, |count| count.parse().unwrap());
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    let count = make(&source, count);
    println!("{count} entries");
    let backup = ["backup", "s", "--key-file", "k", "--group", "g", "source"];
    for (what, arguments) in [
        ("first backup", &backup[..]),
        ("unchanged backup", &backup),
        (
            "restore",
            &["restore", "s", "--key-file", "k", "latest", "back"],
        ),
        ("verify", &["verify", "s", "--key-file", "k"]),
        ("recover", &["recover", "s"]),
    ] {
        let (time, peak) = measured(bench.command(arguments));
        let rate = count as f64 / time.as_secs_f64();
        println!(
            "{what:<17} {:6.1} s, {rate:7.0} entries/s, {} MiB at most",
            time.as_secs_f64(),
            peak >> 20
        );
        assert!(peak < LIMIT, "more than {LIMIT} bytes");
    }
    let listed = bench.json(&["snapshots", "s"]);
    assert_eq!(listed["snapshots"][0]["entries"].as_u64(), Some(count + 1));
    let compared = compare(&source, &bench.at("back")).unwrap();
    assert_eq!(compared.differences, []);
}
