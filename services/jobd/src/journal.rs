//! What our daemons have told the journal, by `journalctl`.

use contract::{Error, Fields, field, fields};
use serde_json::Value as Json;

/// Most entries answered at once.
pub(crate) const MOST: u32 = 5000;

/// The last `lines` entries of our units, oldest first.
pub(crate) async fn read(
    lines: u32,
    since: Option<i64>,
    daemon: Option<&str>,
) -> Result<Vec<Fields>, Error> {
    let unit = match daemon {
        Some(daemon) if !daemon.is_empty() && daemon.bytes().all(|b| b.is_ascii_lowercase()) => {
            format!("strongroom-{daemon}.service")
        }
        Some(other) => {
            return Err(Error::InvalidArgument(format!(
                "{other} is no daemon's name; for example: keyd"
            )));
        }
        None => "strongroom-*".into(),
    };
    let mut command = tokio::process::Command::new("journalctl");
    command.args(["--output=json", "--all", "--no-pager", "--quiet"]);
    command
        .arg(format!("--lines={}", lines.clamp(1, MOST)))
        .arg(format!("--unit={unit}"));
    if let Some(since) = since {
        command.arg(format!("--since=@{since}"));
    }
    let output = command
        .output()
        .await
        .map_err(|e| unreadable(format!("journalctl cannot be run: {e}")))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(unreadable(format!("journalctl says: {}", told.trim())));
    }
    Ok(output
        .stdout
        .split(|b| *b == b'\n')
        .filter_map(entry)
        .collect())
}

fn unreadable(why: String) -> Error {
    Error::Failed(format!(
        "the journal cannot be read ({why}); restart strongroom-jobd or the appliance, then ask again"
    ))
}

/// One line of journalctl's JSON (systemd's "Journal JSON Format"); None for what is not ours.
fn entry(line: &[u8]) -> Option<Fields> {
    let line: Json = serde_json::from_slice(line).ok()?;
    let text = |name: &str| line[name].as_str();
    let unit = text("_SYSTEMD_UNIT")?;
    let daemon = unit.strip_prefix("strongroom-")?.strip_suffix(".service")?;
    let message = match &line["MESSAGE"] {
        Json::String(message) => message.clone(),
        // not UTF-8, or with control characters: an array of bytes
        Json::Array(bytes) => {
            let bytes: Vec<u8> = bytes
                .iter()
                .filter_map(|b| u8::try_from(b.as_u64()?).ok())
                .collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => return None,
    };
    // our daemons write "LEVEL target: message" to standard error
    let (level, message) = match message.trim_start().split_once(' ') {
        Some(("ERROR", rest)) => ("error", rest.to_owned()),
        Some(("WARN", rest)) => ("warning", rest.trim_start().to_owned()),
        Some(("INFO", rest)) => ("info", rest.trim_start().to_owned()),
        Some(("DEBUG", rest)) => ("debug", rest.to_owned()),
        _ => ("info", message),
    };
    let time: i64 = text("__REALTIME_TIMESTAMP")?.parse().ok()?;
    Some(fields([
        ("time", field(time)),
        ("daemon", field(daemon)),
        ("level", field(level)),
        ("message", field(message)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::FieldsExt;

    #[test]
    fn a_line_of_journalctl_is_understood() {
        let line = br#"{"__REALTIME_TIMESTAMP":"1700000000000001","_SYSTEMD_UNIT":"strongroom-keyd.service","MESSAGE":" WARN keyd: refused a caller uid=7"}"#;
        let entry = entry(line).unwrap();
        assert_eq!(
            entry.required::<i64>("time").unwrap(),
            1_700_000_000_000_001
        );
        assert_eq!(entry.required::<String>("daemon").unwrap(), "keyd");
        assert_eq!(entry.required::<String>("level").unwrap(), "warning");
        assert_eq!(
            entry.required::<String>("message").unwrap(),
            "keyd: refused a caller uid=7"
        );
    }

    #[test]
    fn odd_bytes_and_other_units() {
        let line = br#"{"__REALTIME_TIMESTAMP":"1","_SYSTEMD_UNIT":"strongroom-poold.service","MESSAGE":[104,255]}"#;
        assert_eq!(
            entry(line).unwrap().required::<String>("message").unwrap(),
            "h\u{fffd}"
        );
        assert!(
            entry(br#"{"__REALTIME_TIMESTAMP":"1","_SYSTEMD_UNIT":"ssh.service","MESSAGE":"x"}"#)
                .is_none()
        );
        assert!(entry(b"not json").is_none());
    }

    /// Agents and sites have a say in what daemons log, so in `MESSAGE`.
    #[test]
    fn no_line_makes_the_reading_panic() {
        bolero::check!()
            .with_type::<(String, Vec<u8>, Vec<u8>)>()
            .for_each(|(message, bytes, line)| {
                let _ = entry(line);
                for message in [serde_json::json!(message), serde_json::json!(bytes)] {
                    let line = serde_json::json!({
                        "__REALTIME_TIMESTAMP": "1",
                        "_SYSTEMD_UNIT": "strongroom-keyd.service",
                        "MESSAGE": message,
                    });
                    let fields = entry(line.to_string().as_bytes()).expect("a line of ours");
                    assert_eq!(fields.required::<String>("daemon").unwrap(), "keyd");
                }
            });
    }
}
