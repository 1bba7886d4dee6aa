//! What the figures were measured on.

use crate::measure::{cores, quietly};
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine, in the words of its kernel.
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory: u64,
    pub(crate) kernel: String,
    pub(crate) system: String,
    pub(crate) filesystem: String,
    pub(crate) date: String,
    pub(crate) commit: String,
}

impl Machine {
    /// Looks at this one; the file system is that of `workspace`.
    ///
    /// # Errors
    /// /proc is not mounted, or a program is missing.
    pub(crate) fn look(workspace: &Path) -> Result<Self> {
        let field = |file: &str, name: &str, separator| {
            let text = fs::read_to_string(file)?;
            Ok::<_, std::io::Error>(
                value(&text, name, separator)
                    .unwrap_or("unknown")
                    .to_owned(),
            )
        };
        let kibibytes = field("/proc/meminfo", "MemTotal", ':')?;
        let git = quietly(
            Command::new("git")
                .args(["describe", "--always", "--dirty"])
                .current_dir(workspace),
        );
        Ok(Self {
            processor: field("/proc/cpuinfo", "model name", ':')?,
            cores: cores(),
            memory: kibibytes
                .split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0)
                * 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            system: field("/etc/os-release", "PRETTY_NAME", '=')?,
            filesystem: quietly(
                Command::new("findmnt")
                    .args(["-no", "FSTYPE", "-T"])
                    .arg(workspace),
            )?
            .trim()
            .to_owned(),
            date: jiff::Zoned::now().strftime("%Y-%m-%d").to_string(),
            commit: git
                .unwrap_or_else(|_| "unknown".to_owned())
                .trim()
                .to_owned(),
        })
    }
}

/// The value of the first line of this name.
fn value<'a>(text: &'a str, name: &str, separator: char) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(separator)?;
        (found.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Other\n";
        assert_eq!(value(text, "model name", ':'), Some("Some CPU @ 2 GHz"));
        assert_eq!(
            value("PRETTY_NAME=\"Debian\"\n", "PRETTY_NAME", '='),
            Some("Debian")
        );
        assert_eq!(value(text, "model", ':'), None);
    }
}
