//! Configuration: TOML fragments `<name>.toml` from `/usr/lib/strongroom`, `/etc/strongroom` and
//! `/run/strongroom`, below [`crate::root`]; a later one overrides an earlier one key by key.

use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// Why a configuration could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A fragment is there and could not be read.
    #[error("the configuration {0} cannot be read; look at its permissions")]
    Read(PathBuf, #[source] std::io::Error),
    /// A fragment is not TOML.
    #[error("the configuration {0} is not valid TOML; correct it there")]
    Parse(PathBuf, #[source] Box<toml::de::Error>),
    /// The merged fragments do not fit.
    #[error("the configuration of {0} has a key or value it does not know; correct it in {0}.toml")]
    Settings(String, #[source] Box<toml::de::Error>),
}

/// The merged, validated settings of `name`; what no fragment says is as `T`'s defaults.
pub fn load<T: DeserializeOwned>(name: &str) -> Result<T, ConfigError> {
    let mut merged = toml::Table::new();
    for directory in ["usr/lib/strongroom", "etc/strongroom", "run/strongroom"] {
        let path = crate::root().join(directory).join(format!("{name}.toml"));
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let table = text.parse::<toml::Table>();
                merge(
                    &mut merged,
                    table.map_err(|e| ConfigError::Parse(path, Box::new(e)))?,
                );
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ConfigError::Read(path, error)),
        }
    }
    merged
        .try_into()
        .map_err(|e| ConfigError::Settings(name.to_owned(), Box::new(e)))
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_later_fragment_overrides_key_by_key() {
        let mut merged = "a = 1\n[t]\nx = 1\ny = 2".parse().unwrap();
        super::merge(&mut merged, "[t]\ny = 3".parse().unwrap());
        assert_eq!(merged, "a = 1\n[t]\nx = 1\ny = 3".parse().unwrap());
    }

    /// What an operator writes to /etc: no text makes it panic; what is TOML overrides all of what
    /// was before it.
    #[test]
    fn any_fragment_is_merged_or_refused() {
        #[derive(serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[derive(Default)]
        struct Settings {
            _a: u8,
            _t: Option<toml::Table>,
        }
        const PIECES: [&str; 16] = [
            "a", "_a", "_t", "=", " 1", "300", "\n", "[", "]", ".", "\"", "x", "{", "}", "#", ",",
        ];
        bolero::check!()
            .with_type::<(Vec<u8>, String)>()
            .for_each(|(pieces, text)| {
                // few texts at random are TOML; of its pieces some are
                let pieces = pieces.iter().map(|p| PIECES[usize::from(p % 16)]);
                for text in [pieces.collect::<String>(), text.clone()] {
                    let Ok(table) = text.parse::<toml::Table>() else {
                        continue;
                    };
                    let mut merged = "_a = 1\n_t.x = 1".parse::<toml::Table>().unwrap();
                    super::merge(&mut merged, table.clone());
                    let once = merged.clone();
                    super::merge(&mut merged, table);
                    // compared as text: a NaN is not itself
                    assert_eq!(merged.to_string(), once.to_string());
                    let _ = merged.try_into::<Settings>();
                }
            });
    }
}
