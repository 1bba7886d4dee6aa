//! Comparisons, and the table at the end.

use crate::server::Server;
use anyhow::Result;
use serde_json::Value as Json;
use std::path::Path;

/// One comparison of a restore with what was protected.
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Entries the backup said it could not read: they may be missing, and nothing else.
    pub(crate) unreadable: usize,
    pub(crate) differences: Vec<String>,
}

impl Verdict {
    pub(crate) fn holds(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Compares each root of a generation with its place in a restore: kind, bytes, mode, owner, times,
/// extended attributes, links. `problems` are the paths that the backup reported as unreadable.
pub(crate) fn compare(
    what: &str,
    server: &Server,
    generation: u8,
    restored: &Path,
    problems: &[String],
    seconds: f64,
) -> Result<Verdict> {
    let mut verdict = Verdict {
        what: what.into(),
        entries: 0,
        bytes: 0,
        seconds,
        unreadable: 0,
        differences: Vec::new(),
    };
    for (original, place) in server.originals(generation, restored) {
        let found = filetree::compare::compare(&original, &place)?;
        verdict.entries += found.entries;
        verdict.bytes += found.bytes;
        for difference in found.differences {
            let path = String::from_utf8_lossy(&difference.path).into_owned();
            let told = !path.is_empty() && problems.iter().any(|p| p.contains(&path));
            if told {
                verdict.unreadable += 1;
            } else {
                verdict
                    .differences
                    .push(format!("{path}: {}", difference.sentence));
            }
        }
    }
    Ok(verdict)
}

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

/// The problems a run's backup met, as sentences.
pub(crate) fn problems(run: &Json) -> Vec<String> {
    let list = stage(run, "backup")["problems"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    list.iter()
        .filter_map(|p| p.as_str().map(str::to_owned))
        .collect()
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
