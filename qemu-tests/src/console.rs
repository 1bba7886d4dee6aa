//! The serial console, as a stream that can be waited on.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use crate::pace::Deadline;
use crate::{Error, Result};

/// What a machine wrote to its first serial port since we listen. QEMU also keeps all of it in
/// `console.log` of the machine's directory.
#[derive(Debug)]
pub struct Console {
    machine: String,
    seen: Arc<(Mutex<Vec<u8>>, Condvar)>,
    log: PathBuf,
    socket: PathBuf,
}

impl Console {
    pub(crate) fn listen(machine: &str, socket: &Path, log: PathBuf) -> Result<Console> {
        let listener = bind(socket)?;
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let theirs = Arc::downgrade(&seen);
        // Ends with the process or, at the machine's next word, with the console.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(|s| s.ok()) {
                let mut piece = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut piece) {
                    let Some(seen) = theirs.upgrade() else { return };
                    seen.0
                        .lock()
                        .expect("no panic while held")
                        .extend(&piece[..n]);
                    seen.1.notify_all();
                }
            }
        });
        Ok(Console {
            machine: machine.into(),
            seen,
            log,
            socket: socket.into(),
        })
    }

    /// Where QEMU connects to: who listens there next has the port, both ways.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until the console has shown this text, from the beginning or again after `from` bytes.
    /// Returns the position behind it.
    ///
    /// # Errors
    /// When the deadline passes.
    pub fn wait_for(&self, text: &str, from: usize, deadline: Deadline) -> Result<usize> {
        let (lock, changed) = &*self.seen;
        let mut seen = lock.lock().expect("no panic while held");
        let mut start = from;
        loop {
            let found = seen
                .get(start..)
                .and_then(|tail| tail.windows(text.len()).position(|w| w == text.as_bytes()));
            if let Some(at) = found {
                return Ok(start + at + text.len());
            }
            start = from.max((seen.len() + 1).saturating_sub(text.len()));
            let Some(left) = deadline.left() else {
                return Err(Error::Late {
                    machine: self.machine.clone(),
                    what: format!("\"{text}\" on the console"),
                    after: deadline.length(),
                });
            };
            seen = changed
                .wait_timeout(seen, left)
                .expect("no panic while held")
                .0;
        }
    }

    /// How much has been shown, in bytes.
    pub fn len(&self) -> usize {
        self.seen.0.lock().expect("no panic while held").len()
    }

    /// Whether nothing has been shown.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last lines, without colours, for a report.
    pub fn tail(&self, lines: usize) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = plain(&String::from_utf8_lossy(&bytes));
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Takes a socket's place, whoever had it before.
pub(crate) fn bind(socket: &Path) -> Result<UnixListener> {
    let _ = std::fs::remove_file(socket);
    UnixListener::bind(socket).map_err(Error::io(socket.display().to_string()))
}

/// Text without escape sequences.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' if chars.peek() == Some(&'[') => {
                chars.next();
                // a control sequence ends with a byte from @ to ~
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            '\x1b' => {
                chars.next();
            }
            '\r' => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn colours_go_and_text_stays() {
        assert_eq!(plain("\x1b[0;1;31mred\x1b[0m\r\n\x1bMup"), "red\nup");
    }
}
