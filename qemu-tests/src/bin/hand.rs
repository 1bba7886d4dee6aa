//! The hand: runs in the machine what a test asks for over a virtio serial port.
//!
//! Usage: `hand PORT...`, each port a device file. See `qemu_tests::wire`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qemu_tests::wire::{Ask, PIECE, Tell, Unpacker, pack};

/// To a command's standard input; the sender's end closes it.
type Input = Sender<Vec<u8>>;

#[derive(Clone)]
struct Mouth(Arc<Mutex<File>>);

impl Mouth {
    /// Whoever no longer listens has lost what is said; the next hello finds the beginning.
    fn tell(&self, message: &Tell) {
        let mut port = self.0.lock().expect("no panic while held");
        let _ = port.write_all(&pack(message));
    }
}

struct Running {
    group: Pid,
    /// None once it has been told that no more comes.
    input: Option<Input>,
}

/// What runs; with a command's end goes all that is held for it.
#[derive(Clone, Default)]
struct Commands(Arc<Mutex<HashMap<u32, Running>>>);

fn main() -> Result<()> {
    let ports: Vec<_> = std::env::args_os()
        .skip(1)
        .map(|port| thread::spawn(move || serve(&port)))
        .collect();
    for port in ports {
        port.join().expect("a port's thread does not panic")?;
    }
    Ok(())
}

fn serve(path: &OsString) -> Result<()> {
    let name = || path.to_string_lossy().into_owned();
    let mut port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .with_context(name)?;
    let changed = Epoll::new(EpollCreateFlags::empty())?;
    // Edge-triggered: a port without a host is always "hung up", and only a change is news.
    let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    changed.add(&port, EpollEvent::new(interest, 0))?;
    let mouth = Mouth(Arc::new(Mutex::new(port.try_clone()?)));
    let mut commands = Commands::default();
    let mut unpacker = Unpacker::default();
    let mut piece = [0; PIECE];
    mouth.tell(&Tell::Hello(0));
    loop {
        match port.read(&mut piece).with_context(name)? {
            0 => {
                changed.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE)?;
            }
            n => {
                for ask in unpacker.push(&piece[..n]) {
                    commands.obey(ask, &mouth);
                }
            }
        }
    }
}

impl Commands {
    fn obey(&mut self, ask: Ask, mouth: &Mouth) {
        match ask {
            Ask::Hello(number) => {
                for running in self.all().values() {
                    running.signal(Signal::SIGKILL);
                }
                *self = Commands::default();
                mouth.tell(&Tell::Hello(number));
            }
            Ask::Run { id, argv } => match self.run(id, argv, mouth.clone()) {
                Ok(()) => {}
                Err(e) => mouth.tell(&Tell::Refused(id, format!("{e:#}"))),
            },
            Ask::Input(id, bytes) => {
                // A command that has ended or closed its input takes no more.
                if let Some(Running {
                    input: Some(input), ..
                }) = self.all().get(&id)
                {
                    let _ = input.send(bytes);
                }
            }
            Ask::InputEnd(id) => {
                if let Some(running) = self.all().get_mut(&id) {
                    running.input = None;
                }
            }
            Ask::Signal(id, number) => {
                if let (Ok(signal), Some(running)) = (Signal::try_from(number), self.all().get(&id))
                {
                    running.signal(signal);
                }
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u32, Running>> {
        self.0.lock().expect("no panic while held")
    }

    fn run(&self, id: u32, argv: Vec<Vec<u8>>, mouth: Mouth) -> Result<()> {
        let mut argv = argv.into_iter().map(OsString::from_vec);
        let program = argv.next().context("no program was named")?;
        let mut child = Command::new(&program)
            .args(argv)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| program.to_string_lossy().into_owned())?;
        let group = Pid::from_raw(child.id().cast_signed());
        let (input, pieces) = channel();
        let input = Some(input);
        self.all().insert(id, Running { group, input });
        let commands = self.clone();
        thread::spawn(move || attend(id, &mut child, pieces, &mouth, &commands));
        Ok(())
    }
}

impl Running {
    /// To the command and all it started.
    fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(-self.group.as_raw()), signal);
    }
}

/// Carries a command's streams and tells how it ended, after all it said.
fn attend(
    id: u32,
    child: &mut Child,
    pieces: Receiver<Vec<u8>>,
    mouth: &Mouth,
    commands: &Commands,
) {
    let stdin = child.stdin.take();
    let feeding = mouth.clone();
    thread::spawn(move || {
        let mut stdin = stdin;
        for piece in pieces {
            let took = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            if stdin.as_mut().is_some_and(|s| s.write_all(&piece).is_err()) {
                stdin = None;
            }
            // What nobody reads is taken too, or the host would wait for ever.
            feeding.tell(&Tell::Took(id, took));
        }
    });
    let out = child
        .stdout
        .take()
        .map(|s| carry(s, mouth.clone(), move |b| Tell::Out(id, b)));
    let err = child
        .stderr
        .take()
        .map(|s| carry(s, mouth.clone(), move |b| Tell::Err(id, b)));
    let status = child.wait();
    for stream in [out, err].into_iter().flatten() {
        // It ends with its pipe and does not panic.
        let _ = stream.join();
    }
    commands.all().remove(&id);
    mouth.tell(&match status {
        Ok(s) => Tell::Ended(
            id,
            s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0)),
        ),
        Err(e) => Tell::Refused(id, e.to_string()),
    });
}

fn carry(
    mut stream: impl Read + Send + 'static,
    mouth: Mouth,
    as_message: impl Fn(Vec<u8>) -> Tell + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while let Ok(n @ 1..) = stream.read(&mut piece) {
            mouth.tell(&as_message(piece[..n].to_vec()));
        }
    })
}
