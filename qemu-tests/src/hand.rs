//! Our end of the hand in a machine: commands with their streams and exit codes.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};

use crate::console::bind;
use crate::pace::Deadline;
use crate::wire::{Ask, PIECE, Tell, Unpacker, WINDOW, pack};
use crate::{Error, Result};

/// The hand of one machine, on one port. Stays over the machine's restarts.
#[derive(Debug)]
pub struct Hand {
    shared: Arc<Shared>,
    socket: PathBuf,
}

#[derive(Debug)]
struct Shared {
    machine: String,
    /// Apart from the state, and never waited for by the thread that reads while it holds that:
    /// a machine that is slow to read must not keep us from hearing it.
    port: Mutex<Option<UnixStream>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the hello we wait for, or have the answer to.
    number: u64,
    awake: bool,
    /// How often a hand has answered.
    sessions: u64,
    last_id: u32,
    running: HashMap<u32, Entry>,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    news: Sender<Tell>,
    /// Bytes of input that may still be sent.
    window: usize,
}

/// What a command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A command that runs in the machine; dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    id: u32,
    command: String,
    news: Receiver<Tell>,
    ended: bool,
}

impl Hand {
    pub(crate) fn listen(machine: &str, socket: &Path) -> Result<Hand> {
        let listener = bind(socket)?;
        let shared = Arc::new(Shared {
            machine: machine.into(),
            port: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let theirs = Arc::downgrade(&shared);
        std::thread::spawn(move || {
            for port in listener.incoming().map_while(|p| p.ok()) {
                if !attend(&theirs, port) {
                    return;
                }
            }
        });
        Ok(Hand {
            shared,
            socket: socket.into(),
        })
    }

    /// How often a hand has answered: one more after each start of the machine.
    pub fn sessions(&self) -> u64 {
        self.shared.lock().sessions
    }

    /// Whether the hand answers now.
    pub fn awake(&self) -> bool {
        self.shared.lock().awake
    }

    /// Waits until a hand answers that is younger than `sessions` (0: any).
    ///
    /// # Errors
    /// When the deadline passes.
    pub fn wait(&self, sessions: u64, by: Deadline) -> Result<()> {
        self.shared
            .until("the hand in the machine to answer", by, |s| {
                (s.awake && s.sessions > sessions).then_some(Ok(()))
            })
    }

    /// Starts a program in the machine, as root, with no terminal.
    ///
    /// # Errors
    /// When no hand answers, or it refuses (seen at the first [`Running::next`]).
    pub fn start<S: AsRef<[u8]>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Running> {
        let argv: Vec<Vec<u8>> = argv.into_iter().map(|a| a.as_ref().to_vec()).collect();
        let command = argv
            .iter()
            .map(|a| String::from_utf8_lossy(a))
            .collect::<Vec<_>>()
            .join(" ");
        let (news, ours) = channel();
        let mut state = self.shared.lock();
        if !state.awake {
            return Err(self.shared.gone(&command));
        }
        state.last_id += 1;
        let id = state.last_id;
        let window = WINDOW;
        state.running.insert(id, Entry { news, window });
        let running = Running {
            shared: Arc::clone(&self.shared),
            id,
            command,
            news: ours,
            ended: false,
        };
        drop(state);
        self.shared.say(&Ask::Run { id, argv });
        Ok(running)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        if let Some(port) = self.shared.port.lock().expect("no panic while held").take() {
            let _ = port.shutdown(Shutdown::Both);
        }
        // Wakes the thread where it waits for a caller.
        let _ = UnixStream::connect(&self.socket);
    }
}

/// One connection of the machine, to its end; false when nobody is interested any more.
fn attend(shared: &Weak<Shared>, mut port: UnixStream) -> bool {
    {
        let Some(shared) = shared.upgrade() else {
            return false;
        };
        if shared.lock().closed {
            return false;
        }
        let Ok(write) = port.try_clone() else {
            return true;
        };
        *shared.port.lock().expect("no panic while held") = Some(write);
        shared.greet();
    }
    let mut unpacker = Unpacker::default();
    let mut piece = vec![0; 2 * PIECE];
    while let Ok(n @ 1..) = port.read(&mut piece) {
        let Some(shared) = shared.upgrade() else {
            return false;
        };
        for tell in unpacker.push(&piece[..n]) {
            shared.hear(tell);
        }
        shared.changed.notify_all();
    }
    let Some(shared) = shared.upgrade() else {
        return false;
    };
    *shared.port.lock().expect("no panic while held") = None;
    let mut state = shared.lock();
    state.awake = false;
    state.running.clear();
    shared.changed.notify_all();
    !state.closed
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn greet(&self) {
        let number = {
            let mut state = self.lock();
            state.awake = false;
            state.running.clear();
            state.number += 1;
            state.number
        };
        self.say(&Ask::Hello(number));
    }

    /// A port that no longer takes anything is noticed by its reader.
    fn say(&self, ask: &Ask) {
        if let Some(port) = &mut *self.port.lock().expect("no panic while held") {
            let _ = port.write_all(&pack(ask));
        }
    }

    fn hear(&self, tell: Tell) {
        if tell == Tell::Hello(0) {
            return self.greet();
        }
        let mut state = self.lock();
        let id = match &tell {
            Tell::Hello(number) => {
                if *number == state.number {
                    state.awake = true;
                    state.sessions += 1;
                }
                return;
            }
            Tell::Took(id, bytes) => {
                if let Some(entry) = state.running.get_mut(id) {
                    entry.window += *bytes as usize;
                }
                return;
            }
            Tell::Out(id, _) | Tell::Err(id, _) => *id,
            Tell::Ended(id, _) | Tell::Refused(id, _) => *id,
        };
        let over = matches!(tell, Tell::Ended(..) | Tell::Refused(..));
        if let Some(entry) = state.running.get(&id) {
            // A receiver that is gone no longer wants to know.
            let _ = entry.news.send(tell);
        }
        if over {
            state.running.remove(&id);
        }
    }

    fn until<T>(
        &self,
        what: &str,
        by: Deadline,
        mut find: impl FnMut(&mut State) -> Option<Result<T>>,
    ) -> Result<T> {
        let mut state = self.lock();
        loop {
            if let Some(found) = find(&mut state) {
                return found;
            }
            let Some(left) = by.left() else {
                return Err(self.late(what, by));
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .expect("no panic while held")
                .0;
        }
    }

    fn late(&self, what: &str, by: Deadline) -> Error {
        Error::Late {
            machine: self.machine.clone(),
            what: what.into(),
            after: by.length(),
        }
    }

    fn gone(&self, command: &str) -> Error {
        Error::Hand {
            machine: self.machine.clone(),
            why: format!("no hand answers in the machine, which was to run `{command}`"),
        }
    }
}

impl Running {
    /// What comes next: a piece of output or error, or the end.
    ///
    /// # Errors
    /// The deadline, a refusal, or a machine that went away.
    pub fn next(&mut self, by: Deadline) -> Result<Tell> {
        match self.news.recv_timeout(by.left().unwrap_or_default()) {
            Ok(Tell::Refused(_, why)) => {
                self.ended = true;
                Err(Error::Hand {
                    machine: self.shared.machine.clone(),
                    why: format!("`{}` could not be started: {why}", self.command),
                })
            }
            Ok(tell) => {
                self.ended = matches!(tell, Tell::Ended(..));
                Ok(tell)
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(self.shared.late(&format!("`{}`", self.command), by))
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                Err(self.shared.gone(&self.command))
            }
        }
    }

    /// Waits for the end and gathers what it wrote.
    ///
    /// # Errors
    /// As [`Running::next`].
    pub fn finish(mut self, by: Deadline) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.next(by)? {
                Tell::Out(_, bytes) => stdout.extend(bytes),
                Tell::Err(_, bytes) => stderr.extend(bytes),
                Tell::Ended(_, code) => {
                    return Ok(Output {
                        code,
                        stdout,
                        stderr,
                    });
                }
                _ => {}
            }
        }
    }

    /// Its standard input, which may be fed from another thread.
    pub fn input(&self) -> Input {
        Input {
            shared: Arc::clone(&self.shared),
            id: self.id,
            command: self.command.clone(),
        }
    }

    /// Sends a signal, by number, to it and all it started.
    pub fn signal(&self, number: i32) {
        self.shared.say(&Ask::Signal(self.id, number));
    }
}

/// The standard input of a command in the machine.
#[derive(Debug)]
pub struct Input {
    shared: Arc<Shared>,
    id: u32,
    command: String,
}

impl Input {
    /// Sends bytes, as fast as it reads.
    ///
    /// # Errors
    /// The deadline, or a command that has ended.
    pub fn write(&self, mut bytes: &[u8], by: Deadline) -> Result<()> {
        while !bytes.is_empty() {
            let what = format!("`{}` to read", self.command);
            let n = self
                .shared
                .until(&what, by, |s| match s.running.get_mut(&self.id) {
                    None => Some(Err(self.shared.gone(&self.command))),
                    Some(entry) if entry.window == 0 => None,
                    Some(entry) => {
                        let n = bytes.len().min(entry.window).min(PIECE);
                        entry.window -= n;
                        Some(Ok(n))
                    }
                })?;
            self.shared.say(&Ask::Input(self.id, bytes[..n].to_vec()));
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Ends it.
    pub fn close(&self) {
        self.shared.say(&Ask::InputEnd(self.id));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(9);
        }
    }
}
