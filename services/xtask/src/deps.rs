//! The arrows of docs/architecture.md: dependencies point down only.

use anyhow::{Context, Result};
use std::collections::BTreeSet;

/// Layer and crate; a crate may depend on crates of lower layers only.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["format"]),
    (
        1,
        &[
            "devices",
            "disks",
            "tpm",
            "wireguard",
            "ledger",
            "contract",
            "protocol",
            "chunking",
            "filetree",
        ],
    ),
    (2, &["engine", "runtime"]),
    (
        3,
        &[
            "keyd", "poold", "engined", "jobd", "uplinkd", "enrold", "portald",
        ],
    ),
    (
        4,
        &["ctl", "agent", "centred", "bench", "xtask", "qemu-tests"],
    ),
];

/// Nobody is built with a daemon: they meet on the bus only.
const DAEMONS: u8 = 3;

/// What a crate may not reach, directly or through others, and why.
const WALLS: &[(&str, &str, &str)] = &[
    ("agent", "redb", "the agent keeps no store"),
    (
        "agent",
        "zbus",
        "there is no bus of ours on a protected server",
    ),
    (
        "engine",
        "tokio",
        "the engine is threads, so that rescue tools need no runtime",
    ),
    ("engine", "zbus", "the engine is used without a bus"),
    ("format", "tokio", "format does no I/O"),
    ("devices", "zbus", HARDWARE),
    ("disks", "zbus", HARDWARE),
    ("tpm", "zbus", HARDWARE),
    ("wireguard", "zbus", HARDWARE),
];

const HARDWARE: &str = "hardware is spoken to without a bus";

/// Of our crates, all that `engine` may see.
const ENGINE_SEES: &[&str] = &["format", "chunking", "protocol"];

/// One line for each arrow that should not be.
pub(crate) fn check() -> Result<Vec<String>> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(crate::workspace())
        .output()
        .context("cargo metadata")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(judge(&graph(&metadata)?))
}

/// A crate, whether it is ours, and the names of what it is built with (not for its tests).
struct Node {
    name: String,
    ours: bool,
    needs: BTreeSet<String>,
}

fn graph(metadata: &serde_json::Value) -> Result<Vec<Node>> {
    let members: BTreeSet<&str> = metadata["workspace_members"]
        .as_array()
        .context("members")?
        .iter()
        .filter_map(|m| m.as_str())
        .collect();
    let packages = metadata["packages"].as_array().context("packages")?;
    let name_of = |id: &str| {
        packages
            .iter()
            .find(|p| p["id"] == id)
            .and_then(|p| p["name"].as_str())
            .unwrap_or(id)
            .to_owned()
    };
    let nodes = metadata["resolve"]["nodes"].as_array().context("resolve")?;
    Ok(nodes
        .iter()
        .map(|node| {
            let id = node["id"].as_str().unwrap_or_default();
            let built_with = |dep: &&serde_json::Value| {
                dep["dep_kinds"]
                    .as_array()
                    .is_some_and(|kinds| kinds.iter().any(|k| k["kind"] != "dev"))
            };
            let needs = node["deps"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(built_with);
            Node {
                name: name_of(id),
                ours: members.contains(id),
                needs: needs
                    .filter_map(|d| d["pkg"].as_str())
                    .map(name_of)
                    .collect(),
            }
        })
        .collect())
}

fn layer(name: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|(_, crates)| crates.contains(&name))
        .map(|(layer, _)| *layer)
}

fn judge(graph: &[Node]) -> Vec<String> {
    let mut wrong = Vec::new();
    for node in graph.iter().filter(|n| n.ours) {
        let Some(from) = layer(&node.name) else {
            wrong.push(format!("{} has no layer: give it one in services/xtask/src/deps.rs and docs/architecture.md", node.name));
            continue;
        };
        for need in node
            .needs
            .iter()
            .filter(|n| graph.iter().any(|g| g.ours && g.name == **n))
        {
            if layer(need).is_some_and(|to| to >= from || to == DAEMONS) {
                wrong.push(format!(
                    "{} must not depend on {need}: arrows point down only",
                    node.name
                ));
            }
            if node.name == "engine" && !ENGINE_SEES.contains(&need.as_str()) {
                wrong.push(format!(
                    "engine must not depend on {need}: it sees {} only",
                    ENGINE_SEES.join(", ")
                ));
            }
        }
    }
    for (from, to, why) in WALLS {
        if let Some(path) = path(graph, from, to) {
            wrong.push(format!(
                "{} reaches {to} by {}: {why}",
                from,
                path.join(" -> ")
            ));
        }
    }
    wrong
}

/// The chain of crates by which `from` is built with `to`.
fn path(graph: &[Node], from: &str, to: &str) -> Option<Vec<String>> {
    let mut seen = BTreeSet::from([from.to_owned()]);
    let mut paths = vec![vec![from.to_owned()]];
    while let Some(path) = paths.pop() {
        let here = path.last().expect("a path has a start");
        if here == to {
            return Some(path);
        }
        for node in graph.iter().filter(|n| n.name == *here) {
            for need in &node.needs {
                if seen.insert(need.clone()) {
                    paths.push(path.iter().cloned().chain([need.clone()]).collect());
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ours: bool, needs: &[&str]) -> Node {
        Node {
            name: name.into(),
            ours,
            needs: needs.iter().map(|n| n.to_string()).collect(),
        }
    }

    #[test]
    fn an_arrow_up_a_wall_and_a_stranger_are_told() {
        let graph = [
            node("format", true, &["engine"]),
            node("engine", true, &["ledger", "zstd"]),
            node("ledger", true, &[]),
            node("agent", true, &["middle"]),
            node("middle", false, &["zbus"]),
            node("zbus", false, &[]),
            node("cellar", true, &[]),
            node("centred", true, &["jobd"]),
            node("jobd", true, &[]),
        ];
        let told = judge(&graph).join("\n");
        assert!(told.contains("format must not depend on engine"), "{told}");
        assert!(told.contains("engine must not depend on ledger"), "{told}");
        assert!(
            told.contains("agent reaches zbus by agent -> middle -> zbus"),
            "{told}"
        );
        assert!(told.contains("cellar has no layer"), "{told}");
        assert!(told.contains("centred must not depend on jobd"), "{told}");
        assert_eq!(told.lines().count(), 5, "{told}");
    }

    #[test]
    fn the_house_stands() {
        assert_eq!(check().unwrap(), Vec::<String>::new());
    }
}
