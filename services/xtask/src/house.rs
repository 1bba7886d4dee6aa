//! The limits of docs/HACKING.md that a program can see.

use anyhow::{Context, Result};
use std::path::Path;

const LONGEST: usize = 800;
const LIFTED: &str = concat!("allow(", "unsafe_code)");
const BANNED: &[&str] = &["util", "utils", "common", "manager", "helper", "helpers"];

/// One line for each breach in a tracked Rust file.
pub(crate) fn check() -> Result<Vec<String>> {
    let output = std::process::Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.rs",
        ])
        .current_dir(crate::workspace())
        .output()
        .context("git ls-files")?;
    let output = String::from_utf8(output.stdout)?;
    let mut wrong = untested(&output.lines().collect::<Vec<_>>());
    for file in output.lines() {
        match std::fs::read_to_string(crate::workspace().join(file)) {
            Ok(text) => wrong.extend(judge(file, &text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {} // removed, not yet committed
            Err(error) => return Err(error).context(file.to_owned()),
        }
    }
    Ok(wrong)
}

/// Cargo builds a program for tests only where its own package has an integration test; those of
/// other packages would run an old one.
fn untested(files: &[&str]) -> Vec<String> {
    let packages = files.iter().filter_map(|f| f.strip_suffix("/src/main.rs"));
    let alone = packages.filter(|package| {
        let tests = format!("{package}/tests/");
        package.starts_with("services/")
            && *package != "services/xtask"
            && !files.iter().any(|f| f.starts_with(&tests))
    });
    let told = |p| format!("{p}: no test of its own runs its program; add {p}/tests/contract.rs");
    alone.map(told).collect()
}

fn judge(file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST {
        wrong.push(format!(
            "{file}: {lines} lines; split it by what it is about ({LONGEST} at most)"
        ));
    }
    let path = Path::new(file);
    let stem = path
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or_default();
    if BANNED.contains(&stem) {
        wrong.push(format!(
            "{file}: a module named {stem} says nothing; name it by what it holds"
        ));
    }
    // the workspace denies unsafe code, so who has it must have lifted that
    if text.contains(LIFTED) && stem != "sys" {
        wrong.push(format!("{file}: unsafe belongs in a file named sys.rs"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_breach_is_told_once() {
        let long = "x\n".repeat(801);
        assert_eq!(super::judge("a/b.rs", &long).len(), 1);
        assert_eq!(super::judge("a/util.rs", "").len(), 1);
        assert_eq!(super::judge("a/b.rs", super::LIFTED).len(), 1);
        assert_eq!(super::judge("a/sys.rs", super::LIFTED).len(), 0);
    }

    #[test]
    fn a_program_without_a_test_is_told() {
        let files = ["services/a/src/main.rs", "services/a/src/bus.rs"];
        assert_eq!(super::untested(&files).len(), 1);
        let files = ["services/a/src/main.rs", "services/a/tests/contract.rs"];
        assert_eq!(super::untested(&files).len(), 0);
    }

    #[test]
    fn the_house_is_in_order() {
        assert_eq!(super::check().unwrap(), Vec::<String>::new());
    }
}
