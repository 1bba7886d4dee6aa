//! What happens to a tree between two backups.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use super::random::Random;

/// Changes a tree that [`create`](super::create) made, each way once or a few times, and says what
/// it did. Times of changed objects are those of now.
///
/// # Errors
/// What the system refuses, or a tree that is not as it was made.
pub fn mutate(root: &Path, seed: u64) -> io::Result<Vec<String>> {
    let mut random = Random::new(seed ^ 0x6d75_7461_7465);
    let at = |path: &str| root.join(path);
    let mut done = Vec::new();
    let mut did = |what: String| done.push(what);

    let lines = random.text(10_000);
    OpenOptions::new()
        .append(true)
        .open(at("data/log.txt"))?
        .write_all(&lines)?;
    did("appended 10000 bytes to data/log.txt".into());

    let mut database = fs::read(at("data/database"))?;
    let middle = database.len() / 2;
    database.splice(middle..middle, random.bytes(777));
    fs::write(at("data/database"), &database)?;
    did("inserted 777 bytes in the middle of data/database".into());

    OpenOptions::new()
        .write(true)
        .open(at("data/database.bak"))?
        .write_all_at(&random.bytes(4096), 65_536)?;
    did("overwrote 4096 bytes of data/database.bak".into());

    File::options()
        .write(true)
        .open(at("data/database.part"))?
        .set_len(100_000)?;
    did("cut data/database.part to 100000 bytes".into());

    OpenOptions::new()
        .write(true)
        .open(at("sparse/middle"))?
        .write_all_at(&random.bytes(50_000), 1 << 20)?;
    did("filled a part of the hole of sparse/middle".into());

    fs::rename(at("sizes/0004096-at-12"), at("sizes/renamed"))?;
    did("renamed sizes/0004096-at-12 to sizes/renamed".into());
    fs::rename(at("empty/holds-empty"), at("moved"))?;
    did("moved empty/holds-empty to moved".into());

    let small = fs::read_dir(at("many"))?.count() as u64;
    for _ in 0..small.min(4) {
        let path = format!(
            "many/{:04}/file-{:02}",
            random.below(small),
            random.below(100)
        );
        match fs::remove_file(at(&path)) {
            Ok(()) => did(format!("deleted {path}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    fs::remove_dir_all(at("names/a0"))?;
    did("deleted names/a0 and what it held".into());

    fs::set_permissions(at("modes/file-0644"), Permissions::from_mode(0o4640))?;
    did("made modes/file-0644 set-user-id".into());
    File::options()
        .write(true)
        .open(at("times/2001"))?
        .set_modified(std::time::SystemTime::now())?;
    did("touched times/2001".into());

    fs::remove_file(at("links/dangling"))?;
    symlink("another/place", at("links/dangling"))?;
    did("made links/dangling lead elsewhere".into());
    fs::remove_file(at("links/a-second"))?;
    fs::write(at("links/a-second"), "no longer a link\n")?;
    did("made links/a-second a file of its own".into());

    fs::remove_file(at("empty/file"))?;
    fs::create_dir(at("empty/file"))?;
    fs::write(at("empty/file/now-below"), "")?;
    did("made empty/file a directory".into());

    fs::create_dir(at("new"))?;
    for index in 0..5 {
        let length = random.below(40_000);
        fs::write(at(&format!("new/file-{index}")), random.bytes(length))?;
    }
    did("made new with 5 files".into());

    match rustix::fs::setxattr(
        at("xattrs/file"),
        "user.comment",
        b"other words",
        rustix::fs::XattrFlags::empty(),
    ) {
        Ok(()) => did("changed the attribute user.comment of xattrs/file".into()),
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(done)
}
