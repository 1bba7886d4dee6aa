//! Sole owner of datastores: intake, restore, replication.

fn main() -> std::process::ExitCode {
    runtime::main("engined", engined::run)
}
