//! The program as `./dev bench` calls it.

use std::process::Command;

#[test]
fn without_our_engine_nothing_is_measured() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["all", "--small"])
        .env("PATH", empty.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("\"strongroom\" cannot be run"), "{told}");
    assert!(told.contains("`./dev bench` builds it"), "{told}");
}
