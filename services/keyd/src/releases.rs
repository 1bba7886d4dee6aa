//! The log of keysets released for a restore: one line of JSON each, synced before the key leaves.

use contract::Error;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// As much of the log's end is answered, bytes.
const SHOWN: u64 = 1 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Release {
    /// Seconds since 1970.
    pub(crate) time: i64,
    pub(crate) datastore: String,
    pub(crate) tenant: String,
    pub(crate) custody: String,
    pub(crate) reason: String,
    /// False: it was asked for and refused.
    pub(crate) released: bool,
}

/// Appends durably.
pub(crate) fn append(directory: &Path, release: &Release) -> Result<(), Error> {
    let path = directory.join("releases");
    let write = || -> std::io::Result<()> {
        let new = !path.exists();
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        let mut line = Vec::new();
        if !ends_a_line(&mut file)? {
            line.push(b'\n'); // a power cut tore the last one
        }
        serde_json::to_writer(&mut line, release)?;
        line.push(b'\n');
        file.write_all(&line)?;
        file.sync_all()?;
        if new {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|error| {
        Error::Failed(format!(
            "the release could not be logged ({error}), so the key stays; make room on the state volume"
        ))
    })
}

fn ends_a_line(file: &mut File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == [b'\n'])
}

/// The log, oldest first; of a long one its end.
pub(crate) fn read(directory: &Path) -> Result<Vec<Release>, Error> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = match File::open(directory.join("releases")) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let start = file.metadata()?.len().saturating_sub(SHOWN);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(SHOWN).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| {
        Error::Failed(format!(
            "the log of releases cannot be read ({error}); look at the disk of the state volume"
        ))
    })?;
    // torn lines, at a power cut or where the end of a long log begins, are no releases
    Ok(bytes
        .split(|b| *b == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(reason: &str) -> Release {
        Release {
            time: 1,
            datastore: "d".into(),
            tenant: "t".into(),
            custody: "msp".into(),
            reason: reason.into(),
            released: true,
        }
    }

    #[test]
    fn a_torn_line_costs_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        append(dir.path(), &release("one")).unwrap();
        let path = dir.path().join("releases");
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(br#"{"time":2,"data"#);
        std::fs::write(&path, torn).unwrap();
        append(dir.path(), &release("two\nlines")).unwrap();
        let found = read(dir.path()).unwrap();
        assert_eq!(found, [release("one"), release("two\nlines")]);
    }
}
