//! Comparisons, and the table at the end.

use crate::server::{Root, Server};
use anyhow::Result;
use filetree::compare::Difference;
use filetree::shown;
use serde_json::Value as Json;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One comparison of a restore with what was protected.
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Entries the backup said it could not read: they may be missing, and nothing else.
    pub(crate) unreadable: usize,
    /// Entries that are no more what they were when the backup began: what differs proves nothing.
    pub(crate) changed: usize,
    pub(crate) differences: Vec<String>,
}

impl Verdict {
    pub(crate) fn holds(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Compares each root of a generation with its place in a restore: kind, bytes, mode, owner, times,
/// extended attributes, links. `problems` has a line for each that the backup said it could not read, `began` when it
/// was asked for.
pub(crate) fn compare(
    what: &str,
    server: &Server,
    generation: u8,
    restored: &Path,
    problems: &[String],
    began: SystemTime,
    seconds: f64,
) -> Result<Verdict> {
    let mut verdict = Verdict {
        what: what.into(),
        entries: 0,
        bytes: 0,
        seconds,
        unreadable: 0,
        changed: 0,
        differences: Vec::new(),
    };
    for root in server.roots(generation, restored) {
        let found = filetree::compare::compare(&root.original, &root.restored)?;
        verdict.entries += found.entries;
        verdict.bytes += found.bytes;
        for difference in &found.differences {
            if is_told(&root, difference, problems) {
                verdict.unreadable += 1;
            } else if is_changed(&root, difference, began) {
                verdict.changed += 1;
            } else {
                verdict.differences.push(difference.to_string());
            }
        }
        if found.more > 0 {
            verdict
                .differences
                .push(format!("and {} more differences", found.more));
        }
    }
    Ok(verdict)
}

/// Whether the backup said that this would be missing: the entry itself, or a directory above it,
/// could not be read. Nothing but its absence is excused by that.
fn is_told(root: &Root, difference: &Difference, problems: &[String]) -> bool {
    let path = root
        .protected
        .join(Path::new(std::ffi::OsStr::from_bytes(&difference.path)));
    difference.sentence == MISSING
        && path
            .ancestors()
            .take_while(|above| above.starts_with(&root.protected))
            .any(|above| {
                let named = format!(" {}: cannot be ", shown(above.as_os_str().as_bytes()));
                problems.iter().any(|problem| problem.contains(&named))
            })
}

/// Whether the original itself, or what is left above it, was changed since: a PATH of the user's
/// goes on living.
fn is_changed(root: &Root, difference: &Difference, began: SystemTime) -> bool {
    let path = root
        .original
        .join(Path::new(std::ffi::OsStr::from_bytes(&difference.path)));
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    path.ancestors()
        .take_while(|above| above.starts_with(&root.original))
        .find_map(|above| above.symlink_metadata().ok())
        .is_some_and(|now| {
            let nanos = u32::try_from(now.ctime_nsec()).unwrap_or(0);
            let changed = Duration::new(now.ctime().try_into().unwrap_or(0), nanos);
            changed >= seconds(began)
        })
}

/// As [`filetree::compare`] says it of an entry that is only in the first tree.
const MISSING: &str = "is missing in the second tree";

/// One backup with its copy, as jobd's run has it.
pub(crate) struct Figures {
    pub(crate) what: &'static str,
    pub(crate) run: Json,
}

pub(crate) fn stage<'a>(run: &'a Json, name: &str) -> &'a Json {
    let stages = run["stages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    stages
        .iter()
        .find(|s| s["name"] == name)
        .unwrap_or(&Json::Null)
}

pub(crate) fn table(
    figures: &[Figures],
    verdicts: &[Verdict],
    refusals: &[(String, String)],
) -> String {
    let mut text = String::from(
        "\n                         logical     unique     stored  wire (LAN)  wire (offsite)   seconds\n",
    );
    for Figures { what, run } in figures {
        let (backup, offsite) = (stage(run, "backup"), stage(run, "offsite"));
        let number = |of: &Json, name: &str| of[name].as_u64().unwrap_or(0);
        let seconds = |of: &Json| of["seconds"].as_f64().unwrap_or(0.0);
        text += &format!(
            "{what:<20} {:>11} {:>10} {:>10} {:>11} {:>15} {:>5.1}+{:.1}\n",
            number(backup, "logical"),
            number(backup, "unique"),
            number(backup, "stored"),
            number(backup, "wire"),
            number(offsite, "wire"),
            seconds(backup),
            seconds(offsite),
        );
    }
    text +=
        "\nrestored and compared: kind, bytes, mode, owner, times, extended attributes, links\n";
    for v in verdicts {
        let verdict = if v.holds() { "identical" } else { "DIFFERENT" };
        text += &format!(
            "{:<44} {:>6} entries {:>10} bytes {:>7.1} s  {verdict}",
            v.what, v.entries, v.bytes, v.seconds
        );
        if v.unreadable > 0 {
            text += &format!(" ({} reported as unreadable at the backup)", v.unreadable);
        }
        if v.changed > 0 {
            text += &format!(" ({} changed at the source since, not compared)", v.changed);
        }
        text.push('\n');
        for difference in v.differences.iter().take(5) {
            text += &format!("    {difference}\n");
        }
    }
    for (what, sentence) in refusals {
        text += &format!("{what}: refused, \"{sentence}\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, sentence: &str, problem: &str) -> bool {
        let root = Root {
            protected: "/srv/live".into(),
            original: "/srv/first".into(),
            restored: "/srv/restored".into(),
        };
        let difference = Difference {
            path: path.into(),
            sentence: sentence.into(),
        };
        is_told(&root, &difference, &[problem.to_owned()])
    }

    #[test]
    fn only_what_was_told_and_only_its_absence_is_excused() {
        let file =
            " WARN agent: /srv/live/modes/file: cannot be opened (Permission denied); run as root";
        let directory =
            " WARN agent: /srv/live/modes: cannot be opened, what it holds is not in the backup";
        assert!(told("modes/file", MISSING, file));
        assert!(told("modes/file", MISSING, directory));
        assert!(told("modes/below/file", MISSING, directory));
        for (path, sentence) in [
            ("modes/file", "its mode is 600, then 644"),
            ("modes", MISSING),
            ("modes/file2", MISSING),
            ("modes/fil", MISSING),
            ("file", MISSING),
            ("", MISSING),
        ] {
            assert!(!told(path, sentence, file), "{path} {sentence}");
        }
        let changed = " WARN agent: /srv/live/modes/file: changed while it was read";
        assert!(!told("modes/file", MISSING, changed));
        // the comparison's own words are the ones excused
        let (full, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(full.path().join("file"), "x").unwrap();
        let found = filetree::compare::compare(full.path(), empty.path()).unwrap();
        assert!(found.differences.iter().any(|d| d.sentence == MISSING));
    }

    #[test]
    fn only_what_changed_at_the_source_since_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let root = Root {
            protected: dir.path().into(),
            original: dir.path().into(),
            restored: "/nowhere".into(),
        };
        let changed = |path: &str, began| {
            let difference = Difference {
                path: path.into(),
                sentence: "its content differs".into(),
            };
            is_changed(&root, &difference, began)
        };
        let (before, after) = (UNIX_EPOCH, SystemTime::now() + Duration::from_secs(60));
        assert!(changed("file", before) && !changed("file", after));
        assert!(changed("gone/file", before) && !changed("gone/file", after));
    }
}
