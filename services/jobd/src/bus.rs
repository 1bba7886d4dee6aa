//! org.strongroom.Jobs1.

use crate::run::Core;
use crate::state::Definition;
use crate::{journal, session};
use contract::{Error, Fields, FieldsExt, KeysProxy, field, fields};
use std::sync::Arc;
use zbus::message::Header;
use zbus::zvariant::{OwnedFd, OwnedObjectPath};

/// The interface's object.
pub(crate) struct Jobs {
    core: Arc<Core>,
}

impl Jobs {
    pub(crate) fn new(core: Arc<Core>) -> Jobs {
        Jobs { core }
    }

    /// The paired agents: id and name.
    async fn agents(&self) -> Result<Vec<(String, String)>, Error> {
        let agents = KeysProxy::new(&self.core.daemon.bus)
            .await?
            .agents()
            .await?;
        agents
            .iter()
            .map(|a| Ok((a.required("id")?, a.required("name")?)))
            .collect()
    }
}

fn valid_name(name: &str) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::InvalidArgument(why));
    if name.chars().any(char::is_control) {
        return refuse("a definition's name has no control characters; leave them out".into());
    }
    match name.len() {
        1..=64 => Ok(()),
        length => refuse(format!(
            "a definition's name has 1 to 64 bytes, and this one {length}; give another"
        )),
    }
}

/// Tells who watches that an agent has come or gone.
pub(crate) async fn connected_changed(bus: &zbus::Connection) -> zbus::Result<()> {
    let object = bus
        .object_server()
        .interface::<_, Jobs>("/org/strongroom/Jobs1")
        .await?;
    let jobs = object.get().await;
    jobs.connected_changed(object.signal_emitter()).await
}

#[zbus::interface(name = "org.strongroom.Jobs1")]
impl Jobs {
    #[zbus(property)]
    fn connected(&self) -> Vec<String> {
        self.core.agents.attached()
    }

    async fn definitions(&self) -> Result<Vec<Fields>, Error> {
        // names are a courtesy: without keyd the ids do
        let names = self.agents().await.unwrap_or_default();
        let definitions = self.core.state.definitions();
        Ok(definitions
            .into_iter()
            .map(|(name, definition)| {
                let agent_name = names.iter().find(|(id, _)| *id == definition.agent);
                let stages = if definition.offsite {
                    vec!["backup", "offsite"]
                } else {
                    vec!["backup"]
                };
                let connected = self.core.agents.get(&definition.agent).is_some();
                fields([
                    ("name", field(name)),
                    ("connected", field(connected)),
                    ("agent_name", field(agent_name.map_or("", |(_, name)| name))),
                    ("agent", field(definition.agent)),
                    ("paths", field(definition.paths)),
                    ("excludes", field(definition.excludes)),
                    ("stages", field(stages)),
                ])
            })
            .collect())
    }

    async fn define(&self, name: &str, definition: Fields) -> Result<bool, Error> {
        valid_name(name)?;
        let wanted: String = definition.required("agent")?;
        let agents = self.agents().await?;
        let named: Vec<_> = agents
            .iter()
            .filter(|(id, name)| *id == wanted || *name == wanted)
            .collect();
        let agent = match named[..] {
            [(id, _)] => id.clone(),
            [] => {
                return Err(Error::NotFound(format!(
                    "no protected server is called {wanted}; `strongroom agents` lists them, \
                     `strongroom pair` adds one"
                )));
            }
            _ => {
                return Err(Error::InvalidArgument(format!(
                    "several protected servers are called {wanted}; give the id"
                )));
            }
        };
        let paths: Vec<Vec<u8>> = definition.required("paths")?;
        if paths.is_empty() || paths.iter().any(|p| p.first() != Some(&b'/')) {
            return Err(Error::InvalidArgument(
                "a definition needs at least one path, each beginning with /".into(),
            ));
        }
        let definition = Definition {
            agent,
            paths,
            excludes: definition.optional("excludes")?.unwrap_or_default(),
            offsite: definition.optional("offsite")?.unwrap_or(true),
        };
        self.core.state.set_definition(name, Some(definition))
    }

    fn remove(&self, name: &str) -> Result<bool, Error> {
        self.core.state.set_definition(name, None)
    }

    async fn run(&self, name: &str, options: Fields) -> Result<OwnedObjectPath, Error> {
        let _ = options; // none is known yet
        let definitions = self.core.state.definitions();
        let definition = definitions.get(name).ok_or_else(|| {
            Error::NotFound(format!(
                "there is no backup definition {name}; `strongroom jobs` lists them"
            ))
        })?;
        self.core.ordered(name, definition.clone()).await
    }

    fn history(&self, limit: u32) -> Vec<Fields> {
        let limit = if limit == 0 {
            usize::MAX
        } else {
            limit as usize
        };
        self.core
            .state
            .runs(limit)
            .iter()
            .map(|run| run.fields())
            .collect()
    }

    async fn log(&self, options: Fields) -> Result<Vec<Fields>, Error> {
        let daemon: Option<String> = options.optional("daemon")?;
        let lines = options.optional("lines")?.unwrap_or(100);
        journal::read(lines, options.optional("since")?, daemon.as_deref()).await
    }

    async fn attach_agent(
        &self,
        stream: OwnedFd,
        options: Fields,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &zbus::Connection,
    ) -> Result<(), Error> {
        runtime::caller::require(bus, &header, &["portald"]).await?;
        let agent: String = options.required("agent")?;
        let stream = runtime::pipe::adopt_stream(stream)?;
        tokio::spawn(session::serve(self.core.clone(), agent, stream));
        Ok(())
    }
}
