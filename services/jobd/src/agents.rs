//! Which agents are attached now, and a handle to the session of each.

use protocol::control::{Backup, Progress, Stats};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// What a run tells the session of its agent.
pub(crate) enum Order {
    Start {
        backup: Backup,
        news: mpsc::Sender<News>,
    },
    Cancel,
    Update {
        stage: &'static str,
        detail: String,
        done: u64,
        total: u64,
    },
    Ended {
        succeeded: bool,
        message: String,
    },
}

/// What the session tells the run. The channel's end means that the agent is gone.
pub(crate) enum News {
    Progress(Progress),
    Finished(Result<Box<Stats>, String>),
    /// The operator at the protected server stops the run.
    Cancel,
}

/// One attached agent that takes orders, or a command there that asked for its own run.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) orders: mpsc::Sender<Order>,
}

/// The serving agents by id; the newest session of an agent wins.
#[derive(Clone, Default)]
pub(crate) struct Agents(Arc<Mutex<HashMap<String, Agent>>>);

impl Agents {
    pub(crate) fn attach(&self, agent: Agent) {
        self.0
            .lock()
            .expect("no panic holds it")
            .insert(agent.id.clone(), agent);
    }

    /// Forgets this session, not a newer one of the same agent.
    pub(crate) fn detach(&self, agent: &Agent) {
        let mut agents = self.0.lock().expect("no panic holds it");
        if agents
            .get(&agent.id)
            .is_some_and(|a| a.orders.same_channel(&agent.orders))
        {
            agents.remove(&agent.id);
        }
    }

    /// The ids.
    pub(crate) fn attached(&self) -> Vec<String> {
        let agents = self.0.lock().expect("no panic holds it");
        agents.keys().cloned().collect()
    }

    pub(crate) fn get(&self, id: &str) -> Option<Agent> {
        self.0.lock().expect("no panic holds it").get(id).cloned()
    }
}
