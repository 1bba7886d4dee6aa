//! A folder on a fresh file system, for the user that works in it.

use crate::machine::{Error, Machine, run};

/// Makes the folder, readable by `owner` only, or gives it to `owner` when it is there.
pub fn make(machine: &dyn Machine, path: &str, owner: &str) -> Result<(), Error> {
    let doing = format!("giving {path} to {owner}");
    let arguments = ["-d", "-o", owner, "-g", owner, "-m", "0700", path];
    run(machine, &doing, "install", &arguments, b"").map(|_| ())
}
