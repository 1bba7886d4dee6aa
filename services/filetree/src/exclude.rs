//! Which paths of the source a backup leaves out.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A pattern over absolute source paths, bytewise.
///
/// `*` is any run of bytes but `/`, `?` one byte but `/`, `[a-z]` and `[!a-z]` one byte in or out
/// of a set, `**` any run of bytes, `\` takes the next byte as it is. A pattern that begins with
/// `/` is held against the whole path; any other matches at any depth: `*.tmp` leaves out every
/// name that ends so, `cache/old` every `old` in a `cache`. What is below an excluded directory is
/// not visited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The bytes it begins with, which most paths do not.
    literal: Vec<u8>,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    One,
    Set(bool, Vec<(u8, u8)>),
    Run,
    AnyRun,
}

/// A pattern that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the exclude pattern {pattern:?} {reason}")]
pub struct PatternError {
    pattern: String,
    reason: &'static str,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// An empty pattern, a `[` without its `]`, or a last `\`.
    pub fn new(pattern: &[u8]) -> Result<Self, PatternError> {
        let fail = |reason| PatternError {
            pattern: String::from_utf8_lossy(pattern).into_owned(),
            reason,
        };
        let pattern_end = pattern.len() - usize::from(pattern.len() > 1 && pattern.ends_with(b"/"));
        let mut rest = &pattern[..pattern_end];
        if rest.is_empty() {
            return Err(fail("is empty; leave it out or name a path"));
        }
        let mut parts = Vec::new();
        if rest[0] != b'/' {
            parts.extend([Part::AnyRun, Part::Byte(b'/')]);
        }
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            parts.push(match byte {
                b'*' if rest.first() == Some(&b'*') => {
                    rest = &rest[1..];
                    Part::AnyRun
                }
                b'*' => Part::Run,
                b'?' => Part::One,
                b'\\' => {
                    let (&literal, after) = rest
                        .split_first()
                        .ok_or_else(|| fail("ends in a backslash; write two for a literal one"))?;
                    rest = after;
                    Part::Byte(literal)
                }
                b'[' => {
                    let (set, after) = set(rest).ok_or_else(|| {
                        fail("has a [ without its ]; write \\[ for a literal one")
                    })?;
                    rest = after;
                    set
                }
                byte => Part::Byte(byte),
            });
        }
        let bytes = parts.iter().map_while(|part| match part {
            Part::Byte(byte) => Some(*byte),
            _ => None,
        });
        let literal: Vec<u8> = bytes.collect();
        let parts = parts.split_off(literal.len());
        Ok(Self { literal, parts })
    }

    /// The pattern that matches this one absolute path.
    pub fn exactly(path: &Path) -> Self {
        Self {
            literal: path.as_os_str().as_bytes().to_vec(),
            parts: Vec::new(),
        }
    }

    /// Whether an absolute path matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        let Some(path) = path.strip_prefix(&self.literal[..]) else {
            return false;
        };
        // positions in the pattern reachable after each byte: linear in path times pattern
        let mut here = vec![false; self.parts.len() + 1];
        let mut next = here.clone();
        here[0] = true;
        self.pass_runs(&mut here);
        for &byte in path {
            if !here.contains(&true) {
                return false;
            }
            next.fill(false);
            for (at, part) in self.parts.iter().enumerate().filter(|(at, _)| here[*at]) {
                match part {
                    Part::Byte(b) => next[at + 1] |= *b == byte,
                    Part::One => next[at + 1] |= byte != b'/',
                    Part::Set(wanted, ranges) => {
                        let inside = ranges.iter().any(|(a, z)| (*a..=*z).contains(&byte));
                        next[at + 1] |= byte != b'/' && inside == *wanted;
                    }
                    Part::Run => next[at] |= byte != b'/',
                    Part::AnyRun => next[at] = true,
                }
            }
            std::mem::swap(&mut here, &mut next);
            self.pass_runs(&mut here);
        }
        here[self.parts.len()]
    }

    /// A run may be empty.
    fn pass_runs(&self, here: &mut [bool]) {
        for (at, part) in self.parts.iter().enumerate() {
            if matches!(part, Part::Run | Part::AnyRun) && here[at] {
                here[at + 1] = true;
            }
        }
    }
}

/// The set after a `[`, and what follows its `]`; a `]` that comes first is part of the set.
fn set(pattern: &[u8]) -> Option<(Part, &[u8])> {
    let wanted = pattern.first() != Some(&b'!');
    let body = &pattern[usize::from(!wanted)..];
    let end = 1 + body.get(1..)?.iter().position(|b| *b == b']')?;
    let mut ranges = Vec::new();
    let mut members = &body[..end];
    while let Some((&first, after)) = members.split_first() {
        match after {
            [b'-', last, after @ ..] => {
                ranges.push((first, *last));
                members = after;
            }
            _ => {
                ranges.push((first, first));
                members = after;
            }
        }
    }
    Some((Part::Set(wanted, ranges), &body[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Pattern::new(pattern.as_bytes())
            .unwrap()
            .matches(path.as_bytes())
    }

    #[test]
    fn patterns_match_what_their_text_says() {
        for (pattern, yes, no) in [
            ("/var/tmp", "/var/tmp", "/var/tmp/x"),
            ("/var/tmp/", "/var/tmp", "/var/tmpx"),
            ("*.tmp", "/a/b/c.tmp", "/a/b.tmp/c"),
            ("cache/old", "/x/cache/old", "/x/cache/older"),
            ("/home/*/.cache", "/home/eva/.cache", "/home/eva/x/.cache"),
            ("/srv/**/logs", "/srv/a/b/logs", "/srv/logs2"),
            ("core.[0-9]*", "/x/core.7", "/x/core.x"),
            ("[!a]b", "/cb", "/ab"),
            ("[]]", "/]", "/["),
            ("a\\*", "/a*", "/ab"),
            ("?", "/\u{1}", "/ab"),
        ] {
            assert!(matches(pattern, yes), "{pattern} {yes}");
            assert!(!matches(pattern, no), "{pattern} {no}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (pattern, words) in [
            ("", "is empty"),
            ("a[b", "without its ]"),
            ("a\\", "backslash"),
        ] {
            let error = Pattern::new(pattern.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_and_a_literal_matches_itself(
            pattern in proptest::collection::vec(any::<u8>(), 0..40),
            path in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Ok(pattern) = Pattern::new(&pattern) {
                pattern.matches(&path);
            }
            let path = std::path::PathBuf::from(std::ffi::OsStr::from_bytes(&path));
            prop_assert!(Pattern::exactly(&path).matches(path.as_os_str().as_bytes()));
        }
    }
}
