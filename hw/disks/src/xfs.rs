//! XFS.

use crate::machine::{Error, Machine, run};

/// Makes a file system over whatever `device` holds. The label has at most 12 bytes.
pub fn make(machine: &dyn Machine, device: &str, label: &str) -> Result<(), Error> {
    let doing = format!("making a file system on {device}");
    let arguments = ["-q", "-f", "-L", label, device];
    run(machine, &doing, "mkfs.xfs", &arguments, b"").map(|_| ())
}
