//! Why the agent refused or failed, in words for the operator.

use protocol::WireError;
use std::error::Error as _;
use std::path::PathBuf;

/// Why a command ended without doing its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This server is not paired.
    #[error(
        "this server is not paired with an appliance; run `strongroom pair` there and `strongroom-agent pair HOST` here"
    )]
    NotPaired,
    /// The state directory does not work.
    #[error("{} cannot be {doing}; {}", path.display(), what_next(source))]
    State {
        /// What was tried, `read` or `written`.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What the state directory holds is not what this program writes.
    #[error("{} is damaged; pair this server again", .0.display())]
    Damaged(PathBuf),
    /// No connection.
    #[error(
        "{endpoint} cannot be reached ({reason}); check the address, the network, and that the appliance runs"
    )]
    Connect {
        /// Where to.
        endpoint: String,
        /// Why, in the system's words.
        reason: String,
    },
    /// The appliance is not the paired one.
    #[error(
        "{endpoint} is not the appliance this server is paired with ({reason}); check the address, and pair again if the appliance was replaced"
    )]
    Untrusted {
        /// Where to.
        endpoint: String,
        /// Why, in the TLS library's words.
        reason: String,
    },
    /// By the clock here the appliance's certificate is not yet, or no longer valid.
    #[error(
        "the clock of this server says {now}, and the certificate of {endpoint} is valid {valid}; set the clock that is wrong, here or at the appliance, and try again"
    )]
    Clock {
        /// Where to.
        endpoint: String,
        /// The time here.
        now: String,
        /// From or until when.
        valid: String,
    },
    /// The appliance does not take the certificate of this agent.
    #[error(
        "the appliance refused the certificate of this server, so this server is not paired with it; run `strongroom pair` there and `strongroom-agent pair HOST` here"
    )]
    NotAccepted,
    /// The connection ended where the appliance would speak first.
    #[error(
        "the appliance ended the connection without a word; see there whether it is ready (`strongroom status`) and has this server on its list (`strongroom agents`), and that it has not too many sessions open"
    )]
    Silent,
    /// Pairing ended otherwise.
    #[error(transparent)]
    Pairing(#[from] protocol::pairing::Error),
    /// The other end said no, in this sentence.
    #[error("{0}")]
    Refused(String),
    /// The connection or the peer failed.
    #[error(transparent)]
    Wire(WireError),
    /// The paths to protect.
    #[error(transparent)]
    Root(#[from] filetree::walk::RootError),
    /// A pattern of what to leave out.
    #[error(transparent)]
    Pattern(#[from] filetree::PatternError),
    /// The restore's target.
    #[error(transparent)]
    Write(#[from] filetree::write::WriteError),
    /// The operator or jobd stopped it.
    #[error("the backup was cancelled; nothing of it is kept as a snapshot")]
    Cancelled,
    /// A thread of ours ended by a fault.
    #[error("the agent stopped by a fault of its own; please report it with this text: {0}")]
    Fault(String),
}

impl Error {
    /// Its text and those of all that led to it, as an operator is to read it.
    pub fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        text
    }
}

/// What mends a state directory that does not work.
fn what_next(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::PermissionDenied => "run the agent as root, or give its user the right to it",
        K::StorageFull | K::QuotaExceeded => "make room on its file system",
        K::AlreadyExists | K::NotADirectory | K::IsADirectory => {
            "move away what is in its place, or name another directory (--state)"
        }
        K::ReadOnlyFilesystem => {
            "its file system is read-only: if it should not be, see the kernel log (dmesg)"
        }
        _ => "see the kernel log (dmesg) for what its disk has",
    }
}

/// Of a stream to the appliance; nothing else's errors may come this way.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        WireError::from(error).into()
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Io(error) if is_refusal(&error) => Error::NotAccepted,
            error => Error::Wire(error),
        }
    }
}

/// Whether the appliance refused our certificate: TLS 1.3 tells a client that when it first reads.
fn is_refusal(error: &std::io::Error) -> bool {
    use rustls::AlertDescription as A;
    matches!(
        error.get_ref().and_then(|inner| inner.downcast_ref()),
        Some(rustls::Error::AlertReceived(
            A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateRevoked
                | A::CertificateUnknown
                | A::UnknownCA
                | A::AccessDenied
                | A::DecryptError
                | A::CertificateRequired
        ))
    )
}

/// Result of the agent's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_what_led_to_it_and_the_step_that_fits() {
        let of = |errno: i32| Error::State {
            doing: "written",
            path: "/state/identity.json".into(),
            source: std::io::Error::from_raw_os_error(errno),
        };
        for (errno, told) in [
            (
                nix::libc::ENOSPC,
                "/state/identity.json cannot be written; make room on its file system: \
                 No space left on device (os error 28)",
            ),
            (
                nix::libc::EACCES,
                "/state/identity.json cannot be written; run the agent as root, or give its user \
                 the right to it: Permission denied (os error 13)",
            ),
            (
                nix::libc::EIO,
                "/state/identity.json cannot be written; see the kernel log (dmesg) for what its \
                 disk has: Input/output error (os error 5)",
            ),
        ] {
            assert_eq!(of(errno).in_full(), told);
        }
        let full = filetree::write::WriteError::Full {
            path: "/restored/f".into(),
            source: std::io::Error::from_raw_os_error(nix::libc::EDQUOT),
        };
        assert_eq!(
            Error::from(full).in_full(),
            "the disk of /restored/f is full; make room there and restore again: \
             Disk quota exceeded (os error 122)"
        );
    }
}
