//! Why the agent refused or failed, in words for the operator.

use protocol::WireError;
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
    #[error("{} cannot be {doing}; check its permissions, and run the agent as root", path.display())]
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
    /// The appliance is not the paired one, or does not accept this agent.
    #[error(
        "{endpoint} and this agent do not trust each other ({reason}); if the appliance was replaced or this agent removed there, pair again; check both clocks"
    )]
    Untrusted {
        /// Where to.
        endpoint: String,
        /// Why, in the TLS library's words.
        reason: String,
    },
    /// Pairing ended otherwise.
    #[error(transparent)]
    Pairing(#[from] protocol::pairing::Error),
    /// The other end said no, in this sentence.
    #[error("{0}")]
    Refused(String),
    /// The connection or the peer failed.
    #[error(transparent)]
    Wire(#[from] WireError),
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

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Wire(error.into())
    }
}

/// Result of the agent's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;
