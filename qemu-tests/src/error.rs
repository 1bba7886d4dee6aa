//! What can go wrong with a machine, in sentences for whoever reads the test's output.

use std::time::Duration;

/// Anything of this crate that can fail, fails so.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a machine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("{what}")]
    Io {
        /// What was being done, and to which file.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something that should have happened did not.
    #[error("{machine}: waited {} s for {what}", after.as_secs())]
    Late {
        /// The machine that was waited for.
        machine: String,
        /// The event.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// The machine is off, or QEMU ended by itself.
    #[error("{machine}: is not running ({why})")]
    Off {
        /// The machine.
        machine: String,
        /// The last lines of QEMU, or what switched it off.
        why: String,
    },
    /// QEMU refused a command.
    #[error("{machine}: QEMU refused {command}: {why}")]
    Qmp {
        /// The machine.
        machine: String,
        /// The QMP command.
        command: String,
        /// QEMU's own words.
        why: String,
    },
    /// The hand is gone or could not start the command.
    #[error("{machine}: {why}")]
    Hand {
        /// The machine.
        machine: String,
        /// What happened, and to which command.
        why: String,
    },
    /// A command in the machine ended other than with 0.
    #[error("{machine}: `{command}` ended with {code}\n{output}")]
    Command {
        /// The machine.
        machine: String,
        /// The command line.
        command: String,
        /// Exit code, or 128 + signal.
        code: i32,
        /// The end of its standard error and output.
        output: String,
    },
    /// Something this crate needs has not been built.
    #[error("{what} is missing; {next}")]
    Missing {
        /// File or program.
        what: String,
        /// The command that makes it.
        next: String,
    },
    /// Two ends do not speak the same language, or a state file is damaged.
    #[error("{what}: {why}")]
    Garbled {
        /// Whose words.
        what: String,
        /// What is wrong with them.
        why: String,
    },
}

impl Error {
    /// For `map_err` on calls of the standard library.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}
