//! Where things lie in the checkout, and how programs of the tools tree are run.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Result};

/// The root of the checkout.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
}

/// Where machines that were left up keep their disks and state.
pub fn runs() -> PathBuf {
    workspace().join(".cache/run")
}

/// A program of the tools tree, run with the tree's loader and libraries: the same QEMU on every
/// host.
pub(crate) fn tool(name: &str) -> Result<Command> {
    let tree = workspace().join(".cache/tools");
    let lib = tree.join("usr/lib/x86_64-linux-gnu");
    let loader = tree.join("usr/lib64/ld-linux-x86-64.so.2");
    let program = ["usr/bin", "usr/sbin"]
        .iter()
        .map(|dir| tree.join(dir).join(name))
        .find(|p| p.exists())
        .filter(|_| loader.exists())
        .ok_or_else(|| Error::Missing {
            what: format!("{name} of the tools tree"),
            next: "run ./dev tools".into(),
        })?;
    let mut command = Command::new(loader);
    command
        .args(["--inhibit-cache", "--library-path"])
        .arg(format!(
            "{0}:{0}/swtpm",
            lib.to_str().expect("the checkout's path is UTF-8")
        ))
        .args(["--argv0", name])
        .arg(program);
    Ok(command)
}

/// A file of the tools tree.
pub(crate) fn tool_file(path: &str) -> Result<PathBuf> {
    present(workspace().join(".cache/tools").join(path), "./dev tools")
}

/// A product of `./dev image`.
pub(crate) fn image(name: &str) -> Result<PathBuf> {
    present(workspace().join("out").join(name), "./dev image")
}

/// A binary of this crate, beside the running test or program.
pub(crate) fn own_binary(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().map_err(Error::io("own path"))?;
    exe.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|p| p.exists())
        .ok_or_else(|| Error::Missing {
            what: format!("the binary {name}"),
            next: "run cargo build -p qemu-tests --bins".into(),
        })
}

fn present(path: PathBuf, command: &str) -> Result<PathBuf> {
    if path.exists() {
        Ok(path)
    } else {
        Err(Error::Missing {
            what: path.display().to_string(),
            next: format!("run {command}"),
        })
    }
}
