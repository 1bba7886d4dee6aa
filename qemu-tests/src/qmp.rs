//! QEMU's machine protocol: commands, and events that can be waited for.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::pace::Deadline;
use crate::{Error, Result};

#[derive(Debug, Default)]
struct State {
    events: Vec<Value>,
    answers: HashMap<u64, Value>,
    next: u64,
    closed: bool,
}

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    machine: String,
    port: Mutex<UnixStream>,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Qmp {
    /// Waits for QEMU to call and agrees on capabilities.
    pub(crate) fn accept(machine: &str, listener: &UnixListener, by: Deadline) -> Result<Qmp> {
        let late = || Error::Late {
            machine: machine.into(),
            what: "QEMU to call".into(),
            after: by.length(),
        };
        let left = by.left().ok_or_else(late)?;
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, timeout).map_err(|e| Error::io("poll")(e.into()))? == 0 {
            return Err(late());
        }
        let (port, _) = listener.accept().map_err(Error::io("QMP socket"))?;
        let reader = BufReader::new(port.try_clone().map_err(Error::io("QMP socket"))?);
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let theirs = Arc::clone(&state);
        std::thread::spawn(move || {
            for line in reader.lines().map_while(|l| l.ok()) {
                let Ok(value) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                let mut state = theirs.0.lock().expect("no panic while held");
                if let Some(id) = value["id"].as_u64() {
                    state.answers.insert(id, value);
                } else if value.get("event").is_some() {
                    state.events.push(value);
                }
                theirs.1.notify_all();
            }
            theirs.0.lock().expect("no panic while held").closed = true;
            theirs.1.notify_all();
        });
        let qmp = Qmp {
            machine: machine.into(),
            port: Mutex::new(port),
            state,
        };
        qmp.command("qmp_capabilities", json!({}), by)?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    ///
    /// # Errors
    /// QEMU's refusal, its end, or the deadline.
    pub fn command(&self, name: &str, arguments: Value, by: Deadline) -> Result<Value> {
        let id = {
            let mut state = self.lock();
            state.next += 1;
            state.next
        };
        let mut line = json!({"execute": name, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        self.port
            .lock()
            .expect("no panic while held")
            .write_all(line.as_bytes())
            .map_err(|_| self.off())?;
        let answer = self.wait(&format!("QEMU's answer to {name}"), by, |s| {
            s.answers.remove(&id)
        })?;
        if let Some(error) = answer.get("error") {
            return Err(Error::Qmp {
                machine: self.machine.clone(),
                command: name.into(),
                why: error["desc"].as_str().unwrap_or_default().into(),
            });
        }
        Ok(answer["return"].clone())
    }

    /// Waits for an event that fits, and takes it with those before it off the list.
    ///
    /// # Errors
    /// QEMU's end, or the deadline.
    pub fn event(&self, name: &str, by: Deadline, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait(&format!("QEMU's event {name}"), by, |s| {
            let at = s
                .events
                .iter()
                .position(|e| e["event"] == name && fits(&e["data"]))?;
            s.events.drain(..=at).next_back()
        })
    }

    /// Waits for QEMU's end.
    ///
    /// # Errors
    /// The deadline.
    pub fn ended(&self, by: Deadline) -> Result<()> {
        self.wait("QEMU to end", by, |s| s.closed.then_some(()))
    }

    fn wait<T>(
        &self,
        what: &str,
        by: Deadline,
        mut find: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T> {
        let mut state = self.lock();
        loop {
            if let Some(found) = find(&mut state) {
                return Ok(found);
            }
            if state.closed {
                return Err(self.off());
            }
            let Some(left) = by.left() else {
                return Err(Error::Late {
                    machine: self.machine.clone(),
                    what: what.into(),
                    after: by.length(),
                });
            };
            state = self
                .state
                .1
                .wait_timeout(state, left)
                .expect("no panic while held")
                .0;
        }
    }

    fn off(&self) -> Error {
        Error::Off {
            machine: self.machine.clone(),
            why: "QEMU has ended".into(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().expect("no panic while held")
    }
}
