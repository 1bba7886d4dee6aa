use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// Most bytes taken of what a program says.
const MAX_SAID: u64 = 1 << 20;

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be run, or a file not be read.
    #[error("{doing} needs {needs}, which cannot be had; see whether it is installed and allowed")]
    Start {
        /// What was being done.
        doing: String,
        /// The program or file.
        needs: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{doing} failed: {said}")]
    Failed {
        /// What was being done.
        doing: String,
        /// Its exit status; negative when a signal ended it.
        code: i32,
        /// The last line it said.
        said: String,
    },
}

/// How a program ended and what it said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; the negative number of the signal that ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// What commands run on and sysfs is read from.
pub trait Machine: Send + Sync {
    /// Runs a program to its end. `input` is its whole standard input; a key may be in it, never
    /// in an argument.
    fn run(&self, program: &str, arguments: &[&str], input: &[u8]) -> std::io::Result<Output>;
    /// The text of a file of /sys or /proc.
    fn read(&self, path: &str) -> std::io::Result<String>;
    /// The names in a directory of /sys, sorted.
    fn list(&self, path: &str) -> std::io::Result<Vec<String>>;
    /// Bytes of the file system mounted at `path`, and bytes free to us.
    fn space(&self, path: &Path) -> std::io::Result<(u64, u64)>;
}

/// The running system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    /// Run programs as root though we are not: mdadm asks for that user and not for capabilities.
    /// Needs CAP_SETUID and CAP_SETGID.
    pub as_root: bool,
}

impl Machine for Host {
    fn run(&self, program: &str, arguments: &[&str], input: &[u8]) -> std::io::Result<Output> {
        let mut command = Command::new(program);
        if self.as_root {
            command.uid(0).gid(0);
        }
        let mut child = command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input) {
                // a program need not read what it was given; its status says the rest
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        let errors = child.stderr.take().map(|e| std::thread::spawn(|| said(e)));
        let stdout = child.stdout.take().map(said).transpose()?;
        let stderr = match errors.map(std::thread::JoinHandle::join) {
            Some(Ok(text)) => Some(text?),
            _ => None,
        };
        let status = child.wait()?;
        Ok(Output {
            code: status.code().unwrap_or(-status.signal().unwrap_or(1)),
            stdout: stdout.unwrap_or_default(),
            stderr: stderr.unwrap_or_default(),
        })
    }

    fn read(&self, path: &str) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn list(&self, path: &str) -> std::io::Result<Vec<String>> {
        let mut names = std::fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn space(&self, path: &Path) -> std::io::Result<(u64, u64)> {
        let space = nix::sys::statvfs::statvfs(path)?;
        let unit = space.fragment_size();
        Ok((space.blocks() * unit, space.blocks_available() * unit))
    }
}

/// What a program says, to its end; what is beyond [`MAX_SAID`] is read and dropped.
fn said(mut from: impl Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    from.by_ref().take(MAX_SAID).read_to_end(&mut bytes)?;
    std::io::copy(&mut from, &mut std::io::sink())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs a program and takes any status but 0 as a failure.
pub(crate) fn run(
    machine: &dyn Machine,
    doing: &str,
    program: &str,
    arguments: &[&str],
    input: &[u8],
) -> Result<Output, Error> {
    let output = attempt(machine, doing, program, arguments, input)?;
    if output.code == 0 {
        return Ok(output);
    }
    Err(failure(doing, &output))
}

/// Runs a program whose status the caller reads.
pub(crate) fn attempt(
    machine: &dyn Machine,
    doing: &str,
    program: &str,
    arguments: &[&str],
    input: &[u8],
) -> Result<Output, Error> {
    machine
        .run(program, arguments, input)
        .map_err(|source| Error::Start {
            doing: doing.to_owned(),
            needs: program.to_owned(),
            source,
        })
}

pub(crate) fn failure(doing: &str, output: &Output) -> Error {
    let last = |text: &str| {
        text.lines()
            .rfind(|line| !line.trim().is_empty())
            .map(|line| line.trim().chars().take(300).collect::<String>())
    };
    Error::Failed {
        doing: doing.to_owned(),
        code: output.code,
        said: last(&output.stderr)
            .or_else(|| last(&output.stdout))
            .unwrap_or_else(|| format!("it ended with status {}", output.code)),
    }
}

/// `NAME=value` lines.
pub(crate) fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host { as_root: false };

    #[test]
    fn a_program_is_given_its_input_and_told_apart_by_status() {
        let output = HOST.run("cat", &[], b"seven bytes").unwrap();
        assert_eq!((output.code, output.stdout.as_str()), (0, "seven bytes"));
        let output = HOST.run("sh", &["-c", "echo no >&2; exit 3"], b"").unwrap();
        assert_eq!((output.code, output.stderr.as_str()), (3, "no\n"));
        let output = HOST.run("sh", &["-c", "kill -9 $$"], b"").unwrap();
        assert_eq!(output.code, -9);
    }

    #[test]
    fn a_program_may_ignore_much_input_and_say_too_much() {
        let output = HOST.run("true", &[], &[0; 1 << 20]).unwrap();
        assert_eq!(output.code, 0);
        let output = HOST
            .run("head", &["-c", "3000000", "/dev/zero"], b"")
            .unwrap();
        assert_eq!((output.code, output.stdout.len() as u64), (0, MAX_SAID));
    }

    #[test]
    fn what_is_missing_is_told() {
        let error = run(&HOST, "taking a bath", "no-such-program", &[], b"").unwrap_err();
        assert_eq!(
            error.to_string(),
            "taking a bath needs no-such-program, which cannot be had; see whether it is installed and allowed"
        );
    }
}
