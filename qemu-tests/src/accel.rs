//! Whether this host virtualises, found out by doing it once.

use std::process::Stdio;

use crate::pace::{Deadline, Pace};
use crate::{Error, Result, tree};

/// `kvm` where a kernel really boots under it, else `tcg`. A /dev/kvm proves nothing: on some hosts
/// it opens and the guest dies at its first instructions. The answer is kept until the host
/// restarts.
///
/// # Errors
/// When the tools tree or the image is missing.
pub fn accelerator() -> Result<String> {
    if std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok("tcg".into());
    }
    let boot = "/proc/sys/kernel/random/boot_id";
    let boot = std::fs::read_to_string(boot).map_err(Error::io(boot))?;
    let kept = tree::workspace().join(".cache/accelerator");
    if let Ok(text) = std::fs::read_to_string(&kept)
        && let Some(answer) = text.strip_prefix(&boot)
    {
        return Ok(answer.into());
    }
    let answer = if kvm_boots()? { "kvm" } else { "tcg" };
    std::fs::write(&kept, format!("{boot}{answer}"))
        .map_err(Error::io(kept.display().to_string()))?;
    Ok(answer.into())
}

pub(crate) fn argument(accelerator: &str) -> &'static str {
    if accelerator == "kvm" {
        "kvm"
    } else {
        "tcg,thread=multi"
    }
}

/// The pace of machines here.
pub(crate) fn pace() -> Result<Pace> {
    Ok(Pace::of(&accelerator()?))
}

/// Boots our kernel without a root: it has come all the way when it says so and, by `panic=-1`,
/// resets, which ends QEMU.
fn kvm_boots() -> Result<bool> {
    let seconds = 20;
    let mut qemu = tree::tool("qemu-system-x86_64")?;
    qemu.args("-no-user-config -nodefaults -display none -no-reboot -machine q35".split(' '))
        .args("-accel kvm -cpu host -m 512 -serial stdio".split(' '))
        .args(["-append", "console=ttyS0 panic=-1"])
        .arg("-kernel")
        .arg(tree::image("strongroom.vmlinuz")?);
    for data in ["usr/share/qemu", "usr/share/seabios"] {
        qemu.arg("-L").arg(tree::tool_file(data)?);
    }
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::io("QEMU"))?;
    let mut out = child.stdout.take().expect("is piped");
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // What came before an error still counts.
        let _ = std::io::Read::read_to_end(&mut out, &mut text);
        let _ = tell.send(text);
    });
    let by = Deadline::after(std::time::Duration::from_secs(seconds));
    let text = told.recv_timeout(by.left().unwrap_or_default());
    // Has ended, or hangs.
    let _ = child.kill();
    child.wait().map_err(Error::io("QEMU"))?;
    Ok(text.is_ok_and(|t| String::from_utf8_lossy(&t).contains("Unable to mount root fs")))
}
