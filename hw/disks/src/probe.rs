//! What is on a device now (blkid), not what udev saw last.

use crate::machine::{Error, Machine, attempt, failure, pairs};

/// A signature found on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// As blkid names it (`crypto_LUKS`), or the kind of partition table.
    pub kind: String,
    /// Its label; may be empty.
    pub label: String,
    /// Its UUID; may be empty.
    pub uuid: String,
}

/// The signature on a device; None when there is none. Several at once are an error.
pub fn probe(machine: &dyn Machine, device: &str) -> Result<Option<Signature>, Error> {
    let doing = format!("looking at what is on {device}");
    let arguments = ["-p", "-o", "export", device];
    let output = attempt(machine, &doing, "blkid", &arguments, b"")?;
    match output.code {
        0 => {
            let mut found = Signature::default();
            for (name, value) in pairs(&output.stdout) {
                match name {
                    "TYPE" => found.kind = value.to_owned(),
                    "PTTYPE" if found.kind.is_empty() => found.kind = value.to_owned(),
                    "LABEL" => found.label = value.to_owned(),
                    "UUID" => found.uuid = value.to_owned(),
                    _ => {}
                }
            }
            Ok(Some(found))
        }
        // "nothing found", and also "no such device": the caller knows the device is there
        2 if output.stderr.trim().is_empty() => Ok(None),
        8 => Err(Error::Failed {
            doing,
            code: 8,
            said: "it carries several signatures at once; clear it with wipefs if it is to be used"
                .into(),
        }),
        _ => Err(failure(&doing, &output)),
    }
}
