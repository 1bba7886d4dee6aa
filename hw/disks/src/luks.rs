//! LUKS2 volumes (cryptsetup). Keys go in by standard input.

use crate::machine::{Error, Machine, attempt, failure, run};

/// Bytes of a volume's key.
pub const KEY_LEN: usize = 64;

/// An open volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its name below /dev/mapper.
    pub name: String,
    /// The volume's UUID, without dashes.
    pub uuid: String,
    /// The kernel's name of the device below it (`md0`); empty when that is gone.
    pub below: String,
}

/// Makes a volume, over whatever `device` holds, in sectors of 4096 bytes where its size allows.
/// The key is random, so one round of stretching would do and 1000 are the least cryptsetup takes;
/// the volume's own key is made by cryptsetup.
pub fn format(
    machine: &dyn Machine,
    device: &str,
    label: &str,
    key: &[u8; KEY_LEN],
) -> Result<(), Error> {
    let block = device.rsplit('/').next().unwrap_or_default();
    let sectors = machine.read(&format!("/sys/block/{block}/size"));
    let sectors: Option<u64> = sectors.ok().and_then(|text| text.trim().parse().ok());
    let sector = if sectors.is_some_and(|s| s % 8 == 0) {
        "4096"
    } else {
        "512"
    };
    let arguments = [
        "luksFormat",
        "--batch-mode",
        "--type",
        "luks2",
        "--cipher",
        "aes-xts-plain64",
        "--key-size",
        "512",
        "--hash",
        "sha256",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
        "--sector-size",
        sector,
        "--label",
        label,
        "--subsystem",
        "strongroom",
        "--key-file=-",
        "--keyfile-size=64",
        device,
    ];
    let doing = format!("encrypting {device}");
    run(machine, &doing, "cryptsetup", &arguments, key).map(|_| ())
}

/// Why a volume did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The key is of another volume.
    #[error("the key kept for {0} does not open it; it belongs to another machine")]
    WrongKey(String),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] Error),
}

/// Opens a volume as /dev/mapper/`name`. Of a volume that is open this way already, nothing.
pub fn open(
    machine: &dyn Machine,
    device: &str,
    name: &str,
    key: &[u8; KEY_LEN],
) -> Result<(), OpenError> {
    let arguments = [
        "open",
        "--type",
        "luks2",
        "--key-file=-",
        "--keyfile-size=64",
        device,
        name,
    ];
    let doing = format!("opening {device}");
    let output = attempt(machine, &doing, "cryptsetup", &arguments, key)?;
    match output.code {
        0 => Ok(()),
        2 => Err(OpenError::WrongKey(device.to_owned())),
        5 if mapping(machine, name)?.is_some() => Ok(()),
        _ => Err(failure(&doing, &output).into()),
    }
}

/// Closes the volume open as `name`.
pub fn close(machine: &dyn Machine, name: &str) -> Result<(), Error> {
    let doing = format!("closing {name}");
    run(machine, &doing, "cryptsetup", &["close", name], b"").map(|_| ())
}

/// Gives a volume another label.
pub fn set_label(machine: &dyn Machine, device: &str, label: &str) -> Result<(), Error> {
    let arguments = [
        "config",
        "--label",
        label,
        "--subsystem",
        "strongroom",
        device,
    ];
    let doing = format!("labelling {device}");
    run(machine, &doing, "cryptsetup", &arguments, b"").map(|_| ())
}

/// The volume open as `name`.
pub fn mapping(machine: &dyn Machine, name: &str) -> Result<Option<Mapping>, Error> {
    let failed = |path: &str, source| Error::Start {
        doing: "looking for open volumes".into(),
        needs: path.to_owned(),
        source,
    };
    let blocks = machine
        .list("/sys/block")
        .map_err(|source| failed("/sys/block", source))?;
    for block in blocks.iter().filter(|b| b.starts_with("dm-")) {
        let read = |file: &str| machine.read(&format!("/sys/block/{block}/dm/{file}"));
        // what went between listing and reading is not open
        let (Ok(found), Ok(uuid)) = (read("name"), read("uuid")) else {
            continue;
        };
        if found.trim() != name {
            continue;
        }
        let below = machine.list(&format!("/sys/block/{block}/slaves"));
        return Ok(Some(Mapping {
            name: name.to_owned(),
            uuid: uuid.split('-').nth(2).unwrap_or_default().to_owned(),
            below: below
                .unwrap_or_default()
                .into_iter()
                .next()
                .unwrap_or_default(),
        }));
    }
    Ok(None)
}
