//! What groups and snapshots are called as directories.

use engine::SnapshotInfo;
use format::GroupId;
use format::entry::Timestamp;
use std::collections::HashMap;

/// Longest name of a directory, bytes.
const LONGEST: usize = 255;

/// A group's name as a file system takes it: a slash, what is not printed, a percent sign and a dot at
/// the beginning are `%` and two hexadecimal digits. Groups of different names stay different.
pub(super) fn of_group(name: &str, id: GroupId) -> String {
    let mut safe = String::new();
    for (at, letter) in name.chars().enumerate() {
        let hidden = at == 0 && letter == '.';
        if hidden || letter == '/' || letter == '%' || letter.is_control() {
            let mut bytes = [0; 4];
            for byte in letter.encode_utf8(&mut bytes).bytes() {
                safe.push_str(&format!("%{byte:02x}"));
            }
        } else {
            safe.push(letter);
        }
    }
    if safe.is_empty() {
        return "%".into();
    }
    if safe.len() > LONGEST {
        let id = format!("%{id}");
        safe.truncate(safe.floor_char_boundary(LONGEST - id.len()));
        safe.push_str(&id);
    }
    safe
}

/// When a snapshot was begun, as `2026-11-27T02-00-00Z`.
fn of_time(time: Timestamp) -> String {
    match jiff::Timestamp::from_second(time.seconds) {
        Ok(time) => time.strftime("%Y-%m-%dT%H-%M-%SZ").to_string(),
        Err(_) => format!("{}s", time.seconds),
    }
}

/// Names of snapshots, all of one group: their time, and where several have the same, also their id.
pub(super) fn of_snapshots<'a>(
    snapshots: impl Iterator<Item = &'a SnapshotInfo> + Clone,
) -> Vec<String> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for snapshot in snapshots.clone() {
        *counts.entry(of_time(snapshot.clear.time)).or_default() += 1;
    }
    let name = |snapshot: &SnapshotInfo| {
        let time = of_time(snapshot.clear.time);
        match counts[&time] {
            1 => time,
            _ => format!("{time}-{}", snapshot.clear.id),
        }
    };
    snapshots.map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_groups_are_names_of_files_and_stay_different() {
        let name = |text: &str| of_group(text, GroupId([7; 16]));
        for (text, expected) in [
            ("server 1", "server 1"),
            ("Zürich", "Zürich"),
            ("a/b", "a%2fb"),
            ("a%2fb", "a%252fb"),
            (".ids", "%2eids"),
            ("..", "%2e."),
            ("a\n\0\u{85}", "a%0a%00%c2%85"),
            ("", "%"),
        ] {
            assert_eq!(name(text), expected);
        }
        let long = name(&"ü".repeat(300));
        assert_eq!(long.len(), 255);
        assert!(long.ends_with(&format!("ü%{}", GroupId([7; 16]))));
    }

    #[test]
    fn times_that_no_calendar_has_have_a_name_too() {
        let at = |seconds| of_time(Timestamp { seconds, nanos: 5 });
        assert_eq!(at(1_795_744_800), "2026-11-27T02-00-00Z");
        assert_eq!(at(-1), "1969-12-31T23-59-59Z");
        assert_eq!(at(i64::MAX), "9223372036854775807s");
    }
}
