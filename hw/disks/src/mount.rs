//! Mounts by systemd unit: the mount is the host's, outside the sandbox of who asks.

use crate::machine::{Error, Machine, run};

/// Starts a mount unit and waits until it stands.
pub fn start(machine: &dyn Machine, unit: &str) -> Result<(), Error> {
    let doing = format!("mounting by {unit}");
    run(machine, &doing, "systemctl", &["start", unit], b"").map(|_| ())
}

/// Whether something is mounted at `place`, an absolute path.
pub fn is_mounted(machine: &dyn Machine, place: &str) -> Result<bool, Error> {
    let path = "/proc/self/mountinfo";
    let text = machine.read(path).map_err(|source| Error::Start {
        doing: "looking for the mount".into(),
        needs: path.into(),
        source,
    })?;
    Ok(text
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(place)))
}
