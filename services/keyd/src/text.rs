//! Small texts: names from outside, errors for people, the time.

use contract::Error;
use std::time::{SystemTime, UNIX_EPOCH};

/// An error with its causes, for the log and where a caller gets one sentence.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |t| t.as_secs() as i64)
}

/// Whether it may name an entry and stand in a certificate: 1 to 64 letters, digits, `.`, `_`, `-`.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Refuses what [`is_id`] does not pass.
pub(crate) fn require_id(text: &str, what: &str) -> Result<(), Error> {
    if is_id(text) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "a {what} is named by 1 to 64 letters, digits, \".\", \"_\" and \"-\""
    )))
}

/// Refuses a name for people that is empty, longer than 64 characters or holds control characters.
pub(crate) fn require_name(text: &str, what: &str) -> Result<(), Error> {
    if (1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "the name of the {what} must have 1 to 64 characters"
    )))
}
