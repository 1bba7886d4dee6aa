use zbus::DBusError;

/// Errors on our bus: the name tells a program which, the text tells the operator the object and
/// the next step.
#[derive(Debug, Clone, DBusError)]
#[zbus(prefix = "org.strongroom.Error")]
pub enum Error {
    /// The bus itself failed, or a daemon answered with an error that is not ours.
    #[zbus(error)]
    ZBus(zbus::Error),
    /// What was named does not exist.
    NotFound(String),
    /// An argument is not of the form the XML says.
    InvalidArgument(String),
    /// The caller may not ask this, or the peer is not who it says.
    NotAuthorised(String),
    /// Something it needs is not there yet; the text says what.
    NotReady(String),
    /// It exists already, and otherwise than asked.
    AlreadyExists(String),
    /// A site was asked what only a centre does, or the other way round.
    WrongRole(String),
    /// The machine has no TPM 2.0.
    NoTpm(String),
    /// The TPM would not release the root key.
    Sealed(String),
    /// The enrolment token is mistyped or unknown.
    TokenInvalid(String),
    /// The enrolment token has been used.
    TokenUsed(String),
    /// The enrolment token has expired.
    TokenExpired(String),
    /// No pairing is open, or it ended after five wrong codes.
    PairingClosed(String),
    /// The pairing code was wrong.
    CodeWrong(String),
    /// The pool has no room.
    PoolFull(String),
    /// A disk holds data.
    DiskInUse(String),
    /// The centre cannot be reached.
    CentreUnreachable(String),
    /// The uplink is down.
    UplinkDown(String),
    /// The agent is not connected.
    AgentAway(String),
    /// The clock is wrong and could not be set.
    ClockWrong(String),
    /// The tenant is under client custody and no share was given.
    CustodyShareRequired(String),
    /// The share does not fit.
    ShareInvalid(String),
    /// Stored data is damaged.
    Damaged(String),
    /// It was cancelled.
    Cancelled(String),
    /// Anything else; the text is complete.
    Failed(String),
}

/// An error with its causes, for the log and where a caller gets one sentence.
pub fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

impl Error {
    /// The text for the operator, without the error's name.
    pub fn text(&self) -> String {
        use zbus::DBusError as _;
        match self {
            Error::ZBus(zbus::Error::MethodError(name, text, _)) => match text {
                Some(text) => text.clone(),
                None => name.to_string(),
            },
            Error::ZBus(error) => error.to_string(),
            own => own.description().unwrap_or_default().to_owned(),
        }
    }

    /// The error of this full name with this text, as a job's completion carries them.
    pub fn from_name(name: &str, text: String) -> Error {
        let make: fn(String) -> Error = match name.strip_prefix("org.strongroom.Error.") {
            Some("NotFound") => Error::NotFound,
            Some("InvalidArgument") => Error::InvalidArgument,
            Some("NotAuthorised") => Error::NotAuthorised,
            Some("NotReady") => Error::NotReady,
            Some("AlreadyExists") => Error::AlreadyExists,
            Some("WrongRole") => Error::WrongRole,
            Some("NoTpm") => Error::NoTpm,
            Some("Sealed") => Error::Sealed,
            Some("TokenInvalid") => Error::TokenInvalid,
            Some("TokenUsed") => Error::TokenUsed,
            Some("TokenExpired") => Error::TokenExpired,
            Some("PairingClosed") => Error::PairingClosed,
            Some("CodeWrong") => Error::CodeWrong,
            Some("PoolFull") => Error::PoolFull,
            Some("DiskInUse") => Error::DiskInUse,
            Some("CentreUnreachable") => Error::CentreUnreachable,
            Some("UplinkDown") => Error::UplinkDown,
            Some("AgentAway") => Error::AgentAway,
            Some("ClockWrong") => Error::ClockWrong,
            Some("CustodyShareRequired") => Error::CustodyShareRequired,
            Some("ShareInvalid") => Error::ShareInvalid,
            Some("Damaged") => Error::Damaged,
            Some("Cancelled") => Error::Cancelled,
            _ => Error::Failed,
        };
        make(text)
    }
}
