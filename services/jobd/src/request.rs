//! Which backup an agent's operator means.

use crate::state::Definition;
use contract::Error;
use std::collections::BTreeMap;

/// What was typed at the protected server.
pub(crate) struct Request {
    pub(crate) definition: String,
    pub(crate) paths: Vec<Vec<u8>>,
    pub(crate) excludes: Vec<Vec<u8>>,
}

/// The definition's name (empty for paths by hand) and what to do.
pub(crate) fn choose(
    request: Request,
    agent: &str,
    definitions: &BTreeMap<String, Definition>,
) -> Result<(String, Definition), Error> {
    if !request.paths.is_empty() {
        let Request {
            paths, excludes, ..
        } = request;
        return Ok((
            String::new(),
            Definition {
                agent: agent.into(),
                paths,
                excludes,
                offsite: true,
            },
        ));
    }
    let mut own = definitions.iter().filter(|(_, d)| d.agent == agent);
    let chosen = if request.definition.is_empty() {
        match (own.next(), own.next()) {
            (Some(only), None) => only,
            (None, _) => {
                return Err(Error::NotFound(
                    "no backup definition names this server; give a PATH, or make one on the \
                     appliance with `strongroom jobs define`"
                        .into(),
                ));
            }
            _ => {
                return Err(Error::InvalidArgument(
                    "several backup definitions name this server; say which with --definition"
                        .into(),
                ));
            }
        }
    } else {
        own.find(|(name, _)| **name == request.definition)
            .ok_or_else(|| {
                Error::NotFound(format!(
                    "there is no backup definition {} for this server; `strongroom jobs` on the \
                     appliance lists them",
                    request.definition
                ))
            })?
    };
    Ok((chosen.0.clone(), chosen.1.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(agent: &str) -> Definition {
        Definition {
            agent: agent.into(),
            paths: vec![b"/srv".to_vec()],
            excludes: vec![],
            offsite: true,
        }
    }

    fn ask(definition: &str, paths: &[&str]) -> Request {
        Request {
            definition: definition.into(),
            paths: paths.iter().map(|p| p.as_bytes().to_vec()).collect(),
            excludes: vec![],
        }
    }

    #[test]
    fn the_only_definition_is_meant_and_no_other_servers() {
        let all = BTreeMap::from([
            ("mine".to_owned(), definition("a")),
            ("theirs".to_owned(), definition("b")),
        ]);
        assert_eq!(choose(ask("", &[]), "a", &all).unwrap().0, "mine");
        assert!(matches!(
            choose(ask("theirs", &[]), "a", &all),
            Err(Error::NotFound(_))
        ));
        assert!(matches!(
            choose(ask("", &[]), "c", &all),
            Err(Error::NotFound(_))
        ));
        let (name, by_hand) = choose(ask("", &["/home"]), "a", &all).unwrap();
        assert_eq!(
            (name.as_str(), by_hand.agent.as_str(), by_hand.paths.len()),
            ("", "a", 1)
        );
    }

    #[test]
    fn of_several_one_must_be_named() {
        let all = BTreeMap::from([
            ("x".to_owned(), definition("a")),
            ("y".to_owned(), definition("a")),
        ]);
        assert!(matches!(
            choose(ask("", &[]), "a", &all),
            Err(Error::InvalidArgument(_))
        ));
        assert_eq!(choose(ask("y", &[]), "a", &all).unwrap().0, "y");
    }
}
