//! Key files: the datastore's key set as lines of hexadecimal digits (docs/format.md, "Key sets"),
//! for the owner's eyes only.

use anyhow::{Context, Result, bail};
use format::Keyset;
use format::keyset::MAX_KEYSET_LEN;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// Longest text, bytes: two digits for each byte, and as much again for white space.
const MAX_TEXT: usize = MAX_KEYSET_LEN * 4;

/// Writes a new key file, mode 0600, durable on return.
pub(super) fn create(path: &Path, keyset: &Keyset) -> Result<()> {
    let failed = || format!("the key file {} cannot be written", path.display());
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).with_context(failed)?;
    let mut write = || -> std::io::Result<()> {
        file.write_all(keyset.to_text().as_bytes())?;
        file.sync_all()?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // a part of a key looks like a key file, and opens nothing
        let _ = std::fs::remove_file(path);
    }
    written.with_context(failed)
}

/// Reads a key file; says so when others than its owner may read it.
pub(super) fn read(path: &Path) -> Result<Keyset> {
    let failed = || format!("the key file {} cannot be read", path.display());
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "the key file {} is not there; it is the one that `strongroom store init` wrote, and a copy of it will do",
            path.display()
        ),
        file => file.with_context(failed)?,
    };
    let metadata = file.metadata().with_context(failed)?;
    // room at once, so that no copy is left behind by growing
    let mut bytes = Zeroizing::new(vec![0; MAX_TEXT]);
    let mut length = 0;
    loop {
        match file.read(&mut bytes[length..]).with_context(failed)? {
            0 if length == MAX_TEXT => bail!("{} is too long for a key file", path.display()),
            0 => break,
            count => length += count,
        }
    }
    let keyset = std::str::from_utf8(&bytes[..length])
        .map_err(|_| format::FormatError::Magic { what: "key set" })
        .and_then(Keyset::from_text)
        .with_context(|| format!("the key file {} cannot be used", path.display()))?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        eprintln!(
            "strongroom: others may read the key file {0}; run `chmod 600 {0}`",
            path.display()
        );
    }
    Ok(keyset)
}
