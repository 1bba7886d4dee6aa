//! The user of each of our units, which no other has, and its sandbox, as `systemd-analyze security`
//! scores it (0 best, 10 none).

use anyhow::{Context, Result};

/// Daemons that need a device or a mount, and the agent that has to read all of a protected server;
/// 3.0 for them, below 2.0 for the others.
const OPENER: &[&str] = &["keyd", "poold", AGENT];
/// Runs as root, and not on an appliance.
const AGENT: &str = "agent";

/// One line for each unit that is too open, or is not its own user's alone.
pub(crate) fn check() -> Result<Vec<String>> {
    let directory = crate::workspace().join("image/common/systemd");
    let mut wrong = Vec::new();
    let mut found: Vec<_> = std::fs::read_dir(&directory)
        .with_context(|| directory.display().to_string())?
        .collect::<Result<Vec<_>, _>>()?;
    found.sort_by_key(|f| f.file_name());
    for file in found {
        let name = file.file_name().to_string_lossy().into_owned();
        let Some(daemon) = name
            .strip_prefix("strongroom-")
            .and_then(|n| n.strip_suffix(".service"))
        else {
            continue;
        };
        if daemon != AGENT {
            let user = format!("User=strongroom-{daemon}");
            if !std::fs::read_to_string(file.path())?
                .lines()
                .any(|line| line == user)
            {
                wrong.push(format!("{name}: has no {user}"));
            }
            let users = format!("image/common/sysusers.d/strongroom-{daemon}.conf");
            let made = std::fs::read_to_string(crate::workspace().join(&users));
            if !made.is_ok_and(|text| text.starts_with(&format!("u strongroom-{daemon} "))) {
                wrong.push(format!("{name}: its user is not made by {users}"));
            }
        }
        // tenths of a point, of which 19 is the last below 2.0
        let threshold = if OPENER.contains(&daemon) { 30 } else { 19 };
        let output = std::process::Command::new("systemd-analyze")
            .args([
                "security",
                "--offline=true",
                "--no-pager",
                &format!("--threshold={threshold}"),
            ])
            .arg(file.path())
            .output()
            .context("systemd-analyze, of the Debian package systemd")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let score = text
            .lines()
            .rfind(|l| l.contains("exposure level"))
            .unwrap_or("no score")
            .trim();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            wrong.push(format!(
                "{name}: allowed {}.{}; {score} {errors}",
                threshold / 10,
                threshold % 10
            ));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_unit_is_sandboxed_to_what_it_needs() {
        assert_eq!(super::check().unwrap(), Vec::<String>::new());
    }
}
