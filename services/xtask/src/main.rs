//! House checks: `cargo xtask deps` (arrows between crates), `cargo xtask house` (sizes, names,
//! unsafe), `cargo xtask units` (the sandbox of each unit). Each prints what is wrong and
//! ends with 1.

mod deps;
mod house;
mod units;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["deps"] => deps::check(),
        ["house"] => house::check(),
        ["units"] => units::check(),
        _ => Err(anyhow::anyhow!("usage: cargo xtask deps | house | units")),
    };
    match result {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            for line in wrong {
                eprintln!("{line}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's directory.
fn workspace() -> std::path::PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("services/xtask lies two below")
        .to_owned()
}
