//! Small texts: names from outside.

use contract::Error;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Identifiers become names of entries and stand in certificates; names stand on terminals.
    #[test]
    fn only_what_is_harmless_is_an_identifier_or_a_name() {
        bolero::check!().with_type::<String>().for_each(|text| {
            if require_id(text, "pool").is_ok() {
                assert!(text.is_ascii() && (1..=64).contains(&text.len()));
                assert!(!text.contains(|c: char| c == '/' || c.is_control() || c == ' '));
            }
            if require_name(text, "agent").is_ok() {
                assert!(!text.is_empty() && text.chars().count() <= 64);
                assert!(!text.contains(char::is_control));
            }
        });
        for (text, id, name) in [
            ("main", true, true),
            ("mail server", false, true),
            ("../x", false, true),
            ("a\u{9b}b", false, false),
            ("", false, false),
        ] {
            assert_eq!(require_id(text, "pool").is_ok(), id, "{text:?}");
            assert_eq!(require_name(text, "agent").is_ok(), name, "{text:?}");
        }
    }
}
