//! What `strongroom store` prints with `--json` is what docs/store.schema.json says of each command,
//! no more and no less.

use crate::bench::Bench;
use crate::mounted::Mounted;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// Definitions that are parts of others.
const PARTS: &[&str] = &[
    "id",
    "digest",
    "count",
    "bytes",
    "seconds",
    "time",
    "sentences",
    "path",
];

struct Schema {
    document: Value,
    /// Commands whose output was held against it.
    seen: BTreeSet<String>,
}

/// Lets no object have members that are not named.
fn close(value: &mut Value) {
    if let Some(object) = value.as_object_mut() {
        object.values_mut().for_each(close);
        if object.get("type") == Some(&json!("object")) {
            let named: BTreeSet<&String> =
                object["properties"].as_object().unwrap().keys().collect();
            let required = object["required"].as_array().unwrap().iter();
            let required: BTreeSet<&str> = required.map(|name| name.as_str().unwrap()).collect();
            assert!(
                named.iter().all(|name| required.contains(name.as_str())),
                "{named:?}"
            );
            object.insert("additionalProperties".into(), json!(false));
        }
    } else if let Some(list) = value.as_array_mut() {
        list.iter_mut().for_each(close);
    }
}

impl Schema {
    fn new() -> Self {
        let text = include_str!("../../../../docs/store.schema.json");
        let mut document: Value = serde_json::from_str(text).unwrap();
        assert!(jsonschema::meta::is_valid(&document));
        close(&mut document["$defs"]);
        Self {
            document,
            seen: BTreeSet::new(),
        }
    }

    fn holds(&mut self, command: &str, output: &Value) {
        let mut schema = self.document.clone();
        schema["$ref"] = json!(format!("#/$defs/{command}"));
        let validator = jsonschema::validator_for(&schema).unwrap();
        let wrong: Vec<String> = validator
            .iter_errors(output)
            .map(|e| format!("{} at {}", e, e.instance_path()))
            .collect();
        assert!(wrong.is_empty(), "{command}: {wrong:#?}\n{output:#}");
        self.seen.insert(command.to_owned());
    }

    /// Runs a command and holds what it prints against its definition.
    fn run(&mut self, bench: &Bench, status: i32, arguments: &[&str]) -> Value {
        let all = [arguments, &["--json"]].concat();
        let output = serde_json::from_str(&bench.ends(&all, status).0).unwrap();
        self.holds(arguments[0], &output);
        output
    }
}

/// The subcommands that the help lists.
fn commands(bench: &Bench) -> BTreeSet<String> {
    let help = bench.good(&["help"]);
    let (_, listed) = help.split_once("Commands:\n").unwrap();
    let listed = listed.split_once("\n\n").unwrap().0.lines();
    let command = |line: &str| {
        line.strip_prefix("  ")?
            .split_whitespace()
            .next()
            .map(str::to_owned)
    };
    // what goes on of a line before is further to the right
    let first = |line: &&str| !line.starts_with("   ");
    let mut commands: BTreeSet<String> = listed.filter(first).filter_map(command).collect();
    assert!(commands.remove("help"));
    commands
}

#[test]
fn what_each_command_prints_is_as_its_schema_says() {
    let bench = Bench::new();
    let mut schema = Schema::new();
    schema.run(&bench, 0, &["init", "other", "--key-file", "k2"]);
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let odd = source.join(OsStr::from_bytes(b"odd\xff"));
    fs::write(&odd, "odd").unwrap();
    let backup = |path| ["backup", "s", "--key-file", "k", "--group", "g", path];
    schema.run(&bench, 0, &backup("source"));
    // a path that is no text
    let mut command = bench.command(&backup("source/file"));
    let output = command.arg(&odd).arg("--json").output().unwrap();
    let output = serde_json::from_slice(&output.stdout).unwrap();
    schema.holds("backup", &output);
    schema.run(&bench, 0, &["snapshots", "s"]);
    let listed = schema.run(&bench, 0, &["snapshots", "s", "--key-file", "k"]);
    assert!(listed.to_string().contains(r#"{"hex":""#), "{listed}");
    let restore = ["restore", "s", "--key-file", "k", "latest"];
    schema.run(&bench, 0, &[&restore[..], &["back"]].concat());
    schema.run(&bench, 0, &[&restore[..], &["again", "--verify"]].concat());
    schema.run(&bench, 0, &["copy", "s", "far"]);
    schema.run(&bench, 0, &["stats", "s"]);
    let stats = schema.run(&bench, 0, &["stats", "s", "--key-file", "k"]);
    let groups = stats["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!(
        (&groups[0]["group"], &groups[0]["snapshots"]),
        (&json!("g"), &json!(2))
    );
    assert_eq!(groups[0]["stored"], stats["stored"]);
    assert!(stats["index_disk"].as_u64() > Some(0), "{stats}");
    schema.run(&bench, 0, &["recover", "s"]);
    match Mounted::new(&bench, &[]) {
        Some(mounted) => schema.holds("mount", &mounted.said),
        None => drop(schema.seen.insert("mount".into())),
    }
    let all = schema.run(&bench, 0, &["verify", "s"]);
    let metadata = schema.run(&bench, 0, &["verify", "s", "--sample", "0"]);
    assert_eq!(
        (&all["bytes"], &all["stored"]),
        (&stats["stored"], &stats["stored"])
    );
    assert!(
        metadata["bytes"].as_u64() < all["bytes"].as_u64(),
        "{metadata}"
    );
    let (_, error) = bench.ends(&["verify", "s", "--sample", "101"], 2);
    assert!(error.contains("it is a number from 0 to 100"), "{error}");
    let newest = listed["snapshots"][0]["id"].as_str().unwrap();
    schema.run(&bench, 0, &["lock", "s", newest, "--until", "2099-01-01"]);
    schema.run(&bench, 0, &["prune", "s", "--keep-last", "2", "--dry-run"]);
    schema.run(&bench, 0, &["snapshots", "s"]);
    schema.run(&bench, 0, &backup("source/file"));
    schema.run(&bench, 0, &["forget", "s", "latest"]);
    schema.run(&bench, 0, &["gc", "s", "--dry-run"]);
    schema.run(&bench, 0, &["gc", "s"]);
    // and where there is something to tell
    for pack in bench.packs() {
        let mut bytes = fs::read(&pack).unwrap();
        bytes[100] ^= 1;
        fs::write(&pack, &bytes).unwrap();
    }
    schema.run(&bench, 1, &["verify", "s"]);
    schema.run(&bench, 1, &["verify", "s", "--key-file", "k"]);
    schema.run(&bench, 1, &["copy", "s", "further"]);
    schema.run(&bench, 1, &["repair", "s"]);
    let repaired = schema.run(&bench, 0, &["repair", "s", "--from", "far"]);
    assert_eq!(
        repaired["healed"].as_array().map(Vec::len),
        Some(2),
        "{repaired}"
    );
    bench.good(&["verify", "s"]);
    for snapshot in fs::read_dir(bench.at("s/snapshots")).unwrap() {
        fs::write(snapshot.unwrap().path(), "damaged").unwrap();
    }
    schema.run(&bench, 1, &["snapshots", "s"]);
    schema.run(&bench, 1, &["stats", "s"]);
    // nobody knows whether a rule would keep it
    schema.run(&bench, 1, &["prune", "s", "--keep-last", "1"]);

    let commands = commands(&bench);
    assert_eq!(schema.seen, commands);
    let defined = schema.document["$defs"].as_object().unwrap().keys();
    let defined = defined.filter(|name| !PARTS.contains(&name.as_str()));
    assert_eq!(defined.cloned().collect::<BTreeSet<_>>(), commands);
}
