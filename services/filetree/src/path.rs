//! Paths below a root: which may be, and how they are taken apart.

use format::entry::MAX_PATH;

/// Whether an entry's path stays below the target; the sentence says why not.
pub(crate) fn check(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > MAX_PATH {
        return Err(
            "is longer than a snapshot's paths may be; it is left out, verify the snapshot",
        );
    }
    if path[0] == b'/' {
        return Err("is an absolute path; it is left out, verify the snapshot");
    }
    if path.contains(&0) {
        return Err("holds a NUL byte; it is left out, verify the snapshot");
    }
    for part in path.split(|b| *b == b'/') {
        match part {
            b".." => {
                return Err("would lead out of the target; it is left out, verify the snapshot");
            }
            b"" | b"." => {
                return Err("has an empty or `.` part; it is left out, verify the snapshot");
            }
            _ => {}
        }
    }
    Ok(())
}

/// The directory and the name in it.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Whether `path` is `above` or below it.
pub(crate) fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    match path.strip_prefix(above) {
        Some(rest) => above.is_empty() || rest.is_empty() || rest[0] == b'/',
        None => false,
    }
}
