//! Other programs at work on the same tree at the same time.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use filetree::walk::{self, Walk};
use filetree::write::{Options, Writer};
use format::entry::{Entry, Kind, Timestamp};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Stops the other thread also when this one fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Exchanges two names as fast as it can while `work` runs; says how often.
fn exchanging(a: &Path, b: &Path, work: impl FnOnce()) -> u64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let exchanger = scope.spawn(|| {
            let mut times = 0;
            while !stop.load(Ordering::Relaxed) {
                times += u64::from(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok());
            }
            times
        });
        let stopping = Stop(&stop);
        work();
        drop(stopping);
        exchanger.join().unwrap()
    })
}

#[test]
fn a_walk_is_not_led_out_of_its_root() {
    let temp = tempfile::tempdir().unwrap();
    let (root, outside) = (temp.path().join("root"), temp.path().join("outside"));
    for dir in [root.join("a/deep"), outside.join("deep")] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(root.join("a/deep/f"), "inside").unwrap();
    fs::write(outside.join("deep/f"), "secret").unwrap();
    fs::write(outside.join("s"), "secret").unwrap();
    symlink(&outside, root.join("b")).unwrap();
    let mut read = 0;
    let exchanged = exchanging(&root.join("a"), &root.join("b"), || {
        for _ in 0..3000 {
            let walk = Walk::new(std::slice::from_ref(&root), walk::Options::default()).unwrap();
            for found in walk.flatten() {
                let path = filetree::shown(&found.entry.path);
                assert!(!path.contains("/s"), "a name from outside: {path}");
                let mut buffer = [0; 100];
                if let Ok(mut content) = found.open()
                    && matches!(content.segment(), Ok(Some(_)))
                    && let Ok(length) = content.read(&mut buffer)
                {
                    assert_eq!(&buffer[..length], b"inside", "content from outside: {path}");
                    read += 1;
                }
            }
        }
    });
    assert!(
        read > 1000 && exchanged > 100,
        "read {read}, exchanged {exchanged}"
    );
}

#[test]
fn a_writer_is_not_led_out_of_its_target() {
    let temp = tempfile::tempdir().unwrap();
    let (target, outside) = (temp.path().join("target"), temp.path().join("outside"));
    fs::create_dir_all(target.join("a/deep")).unwrap();
    fs::create_dir_all(outside.join("deep")).unwrap();
    let entry = |path: String, kind| Entry {
        path: path.into_bytes(),
        kind,
        mode: 0o700,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: vec![],
        group: vec![],
        modified: Timestamp::default(),
        xattrs: vec![],
        size: 0,
        content: vec![],
    };
    let names: Vec<String> = (0..10).map(|index| format!("a/deep/f{index}")).collect();
    let mut written = 0;
    let exchanged = exchanging(&target.join("a"), &target.join("b"), || {
        for _ in 0..300 {
            // the writer may have replaced the link by a directory
            let _ = fs::remove_file(target.join("b"));
            let _ = fs::remove_dir_all(target.join("b"));
            let _ = symlink(&outside, target.join("b"));
            let mut writer = Writer::new(&target, Options { overwrite: true }).unwrap();
            writer.begin(&entry("a".into(), Kind::Directory)).unwrap();
            for name in &names {
                // the directory `deep` is gone to anew for its second half, as it has no entry
                writer.begin(&entry(name.clone(), Kind::File)).unwrap();
                writer.data(b"restored").unwrap();
                writer.end().unwrap();
            }
            let link = Kind::HardLink(names[0].clone().into_bytes());
            writer.begin(&entry("a/link".into(), link)).unwrap();
            written += writer.finish().unwrap().entries;
        }
    });
    assert!(
        written > 1000 && exchanged > 100,
        "wrote {written}, exchanged {exchanged}"
    );
    let left: Vec<_> = fs::read_dir(outside.join("deep")).unwrap().collect();
    assert!(left.is_empty(), "written outside: {left:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

/// Takes a write lease on a file, as a file server does for its client, and gives it back when
/// the kernel asks.
const HOLDER: &str = "
import fcntl, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDWR)
signal.signal(signal.SIGIO, lambda *_: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK))
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
sys.stdin.read()
";

#[test]
fn a_file_under_a_lease_is_read_when_its_holder_gives_way() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("leased");
    fs::write(&path, "shared").unwrap();
    let holder = Command::new("python3")
        .args(["-c", HOLDER])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut holder = match holder {
        Ok(holder) => holder,
        Err(error) => {
            println!("skipped: python3, which holds the lease, does not start ({error})");
            return;
        }
    };
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "held\n");
    let walk = Walk::new(&[temp.path().to_path_buf()], walk::Options::default()).unwrap();
    let found = walk.flatten().find(|found| found.is_file()).unwrap();
    let mut content = found.open().unwrap();
    content.segment().unwrap();
    let mut buffer = [0; 10];
    assert_eq!(content.read(&mut buffer).unwrap(), 6);
    assert_eq!(content.finish(), None);
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
}
