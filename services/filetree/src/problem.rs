//! What went wrong with one object, told to an operator.

use rustix::io::Errno;

/// What a problem means for the object it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// It is there and could not be read; it, its content or what is below it is missing.
    Unreadable,
    /// It was listed and gone when its turn came; ordinary on a live system.
    Vanished,
    /// Its content changed while it was read: what was read may mix old and new.
    Changed,
    /// It was read or written, without some of its attributes (owner, xattr, time).
    Attributes,
    /// Its path or its shape is not one a snapshot may hold; nothing was written.
    Refused,
    /// It could not be written.
    Unwritten,
    /// It was written with zeros where its content is lost.
    Damaged,
}

/// Something that kept one object from being read or written in full. The work went on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {sentence}", shown(path))]
pub struct Problem {
    /// Reading: the object's absolute path at the source. Writing: its path below the target.
    /// Comparing: its path below both roots.
    pub path: Vec<u8>,
    /// What it means.
    pub kind: ProblemKind,
    /// What happened and what to do, without the path.
    pub sentence: String,
}

impl Problem {
    pub(crate) fn new(path: &[u8], kind: ProblemKind, sentence: impl Into<String>) -> Self {
        Self {
            path: path.to_vec(),
            kind,
            sentence: sentence.into(),
        }
    }

    /// A failed call on an object that was to be read.
    pub(crate) fn reading(path: &[u8], what: &str, errno: Errno) -> Self {
        let (kind, next) = match errno {
            Errno::NOENT | Errno::STALE => {
                let sentence = "vanished before it was read; if it should be kept, back up again";
                return Self::new(path, ProblemKind::Vanished, sentence);
            }
            Errno::ACCESS | Errno::PERM => (
                ProblemKind::Unreadable,
                "run the backup as root, or give its user the right to read it",
            ),
            Errno::LOOP | Errno::NOTDIR => (
                ProblemKind::Unreadable,
                "it was replaced while the tree was read; back up again",
            ),
            Errno::IO => (
                ProblemKind::Unreadable,
                "check the disk (kernel log, SMART) and back up again",
            ),
            _ => (ProblemKind::Unreadable, "solve that and back up again"),
        };
        Self::new(
            path,
            kind,
            format!("{what} ({}); {next}", errno_text(errno)),
        )
    }
}

/// The system's words for an error, without the number std adds.
pub(crate) fn errno_text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    match text.rfind(" (os error") {
        Some(at) => text[..at].to_string(),
        None => text,
    }
}

/// A path for people: UTF-8 as it is, control characters, backslashes and other bytes escaped; the
/// empty path, a snapshot's root, is `.`.
pub fn shown(path: &[u8]) -> String {
    if path.is_empty() {
        return ".".to_string();
    }
    let mut out = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_one_line() {
        let problem = Problem::reading(b"/srv/a\nb\xff\xc3\xbc", "cannot be opened", Errno::ACCESS);
        assert_eq!(
            problem.to_string(),
            "/srv/a\\nb\\xff\u{fc}: cannot be opened (Permission denied); \
             run the backup as root, or give its user the right to read it"
        );
        assert_eq!(shown(b""), ".");
    }
}
