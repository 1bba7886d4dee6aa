//! The agent's control session with jobd: orders down, progress up (docs/protocol.md, "Control").
//!
//! [`Agent`] and [`Site`] are the two ends without any I/O: they take and make messages, and hold
//! both peers to the order of things. Whoever moves the bytes sends a ping after [`KEEPALIVE`] of
//! silence of its own, and gives the session up after [`SILENCE`] of the peer's.

use crate::bounded::{bytes, cut, list, text};
use crate::frame::WireError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// After so long without a message of one's own, a ping is sent.
pub const KEEPALIVE: Duration = Duration::from_secs(30);
/// After so long without a message of the peer's, it is gone.
pub const SILENCE: Duration = Duration::from_secs(100);
/// Most paths or patterns of a definition.
pub const MAX_PATHS: usize = 1024;
/// Longest path or pattern, bytes.
pub const MAX_PATH: usize = 4096;
/// Most problems a result lists; it counts all.
pub const MAX_PROBLEMS: usize = 200;
/// Longest sentence, bytes.
pub const MAX_TEXT: usize = 4096;

/// A path or pattern as the source's operating system has it, absolute.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path(
    #[serde(
        serialize_with = "bytes::serialize",
        deserialize_with = "bytes::deserialize::<MAX_PATH, _>"
    )]
    pub Vec<u8>,
);

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// An order to back up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The run, as jobd names it.
    #[serde(deserialize_with = "text::<128, _>")]
    pub run: String,
    /// The definition's name; empty for paths asked for by hand.
    #[serde(deserialize_with = "text::<256, _>")]
    pub definition: String,
    /// What to protect.
    #[serde(deserialize_with = "list::<MAX_PATHS, _, _>")]
    pub paths: Vec<Path>,
    /// Patterns of what to leave out.
    #[serde(deserialize_with = "list::<MAX_PATHS, _, _>")]
    pub excludes: Vec<Path>,
}

/// How far a backup has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Entries seen.
    pub entries: u64,
    /// Bytes of files looked at or passed over as unchanged.
    pub done: u64,
    /// Bytes in the whole as the last backup or a first look has it, 0 while unknown.
    pub total: u64,
    /// Bytes of chunks sent.
    pub sent: u64,
    /// Problems met.
    pub problems: u64,
}

/// What a backup came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The snapshot's id.
    pub snapshot: [u8; 16],
    /// Number of entries.
    pub entries: u64,
    /// Bytes of all files' content.
    pub logical: u64,
    /// Bytes of content the datastore did not have.
    pub unique: u64,
    /// Bytes on the datastore's disks for them.
    pub stored: u64,
    /// Bytes the agent sent.
    pub wire: u64,
    /// Number of problems.
    pub problem_count: u64,
    /// The first of them, one sentence each.
    #[serde(deserialize_with = "list::<MAX_PROBLEMS, _, _>")]
    pub problems: Vec<Sentence>,
}

/// A sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sentence(#[serde(deserialize_with = "text::<MAX_TEXT, _>")] pub String);

impl Sentence {
    /// A sentence, cut to what a message carries.
    pub fn new(text: impl Into<String>) -> Self {
        Self(cut(text.into(), MAX_TEXT))
    }
}

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromAgent {
    /// First: who it is. `serves`: it stays and takes orders; else it is one command that brings
    /// its own request, and is given no other order.
    Hello {
        /// Host name of the protected server.
        #[serde(deserialize_with = "text::<256, _>")]
        hostname: String,
        /// Version of the agent.
        #[serde(deserialize_with = "text::<64, _>")]
        version: String,
        /// It stays and takes orders.
        serves: bool,
    },
    /// How far the run it was ordered has come; about once a second.
    Progress {
        /// The run.
        #[serde(deserialize_with = "text::<128, _>")]
        run: String,
        /// So far.
        progress: Progress,
    },
    /// The run it was ordered has ended at the agent.
    Finished {
        /// The run.
        #[serde(deserialize_with = "text::<128, _>")]
        run: String,
        /// What it came to, or why it failed.
        result: Result<Box<Stats>, Sentence>,
    },
    /// The agent's operator asks for a run: of a definition, or of paths. It is answered by
    /// [`FromSite::Start`] or [`FromSite::Refused`].
    RequestRun {
        /// Name of a definition of this agent's; empty for the paths below.
        #[serde(deserialize_with = "text::<256, _>")]
        definition: String,
        /// What to protect; none with a definition, and none and no definition for the only
        /// definition this agent has.
        #[serde(deserialize_with = "list::<MAX_PATHS, _, _>")]
        paths: Vec<Path>,
        /// What to leave out.
        #[serde(deserialize_with = "list::<MAX_PATHS, _, _>")]
        excludes: Vec<Path>,
    },
    /// The agent's operator stops the run: its later stages do not begin.
    Cancel {
        /// The run.
        #[serde(deserialize_with = "text::<128, _>")]
        run: String,
    },
    /// I am here.
    Ping,
}

/// From jobd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSite {
    /// Back up, by an intake session of your own.
    Start(Backup),
    /// Stop that run; answered by [`FromAgent::Finished`] with an error.
    Cancel {
        /// The run.
        #[serde(deserialize_with = "text::<128, _>")]
        run: String,
    },
    /// How the run goes in a stage that is not the agent's.
    RunUpdate {
        /// The run.
        #[serde(deserialize_with = "text::<128, _>")]
        run: String,
        /// The stage's name, `offsite`.
        #[serde(deserialize_with = "text::<64, _>")]
        stage: String,
        /// What it does now.
        detail: Sentence,
        /// Bytes done.
        done: u64,
        /// Bytes in the whole, 0 while unknown.
        total: u64,
    },
    /// All stages of the run have ended.
    RunEnded {
        /// The run.
        #[serde(deserialize_with = "text::<128, _>")]
        run: String,
        /// Whether all succeeded.
        succeeded: bool,
        /// One sentence.
        message: Sentence,
    },
    /// What was asked is not done, for this reason.
    Refused(Sentence),
    /// I am here.
    Ping,
}

/// What a message from jobd means to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// Back up now.
    Start(Backup),
    /// Stop the backup that runs.
    Cancel,
    /// A later stage goes on.
    Update {
        /// Its name.
        stage: String,
        /// What it does now.
        detail: String,
        /// Bytes done.
        done: u64,
        /// Bytes in the whole, 0 while unknown.
        total: u64,
    },
    /// The run is over.
    Ended {
        /// Whether all stages succeeded.
        succeeded: bool,
        /// One sentence.
        message: String,
    },
    /// The request is refused.
    Refused(String),
    /// The peer is there.
    Alive,
}

/// The agent's end.
#[derive(Debug, Default)]
pub struct Agent {
    /// The run ordered, and whether the agent has yet to finish it.
    run: Option<(String, bool)>,
    asked: bool,
}

impl Agent {
    /// The end before anything was said, and the message it says first.
    pub fn begin(hostname: &str, version: &str, serves: bool) -> (Self, FromAgent) {
        let hello = FromAgent::Hello {
            hostname: cut(hostname.to_owned(), 256),
            version: cut(version.to_owned(), 64),
            serves,
        };
        (Self::default(), hello)
    }

    /// Takes a message.
    ///
    /// # Errors
    /// An order while another runs, or news of a run that is none of ours.
    pub fn receive(&mut self, message: FromSite) -> Result<AgentEvent, WireError> {
        let unexpected = |what| Err(WireError::Unexpected(what));
        let ours = |run: &Option<(String, bool)>, named: &str| {
            run.as_ref().is_some_and(|(ours, _)| ours == named)
        };
        match message {
            FromSite::Start(backup) => {
                if self.run.as_ref().is_some_and(|(_, running)| *running) {
                    return unexpected("a second order while the first runs");
                }
                self.run = Some((backup.run.clone(), true));
                self.asked = false;
                Ok(AgentEvent::Start(backup))
            }
            // it may have finished while the order to stop was on its way
            FromSite::Cancel { run } => match &self.run {
                Some((ours, true)) if *ours == run => Ok(AgentEvent::Cancel),
                _ => Ok(AgentEvent::Alive),
            },
            FromSite::RunUpdate {
                run,
                stage,
                detail,
                done,
                total,
            } => {
                if !ours(&self.run, &run) {
                    return unexpected("news of another run");
                }
                Ok(AgentEvent::Update {
                    stage,
                    detail: detail.0,
                    done,
                    total,
                })
            }
            FromSite::RunEnded {
                run,
                succeeded,
                message,
            } => {
                if !ours(&self.run, &run) {
                    return unexpected("the end of another run");
                }
                self.run = None;
                Ok(AgentEvent::Ended {
                    succeeded,
                    message: message.0,
                })
            }
            FromSite::Refused(sentence) => {
                if !std::mem::take(&mut self.asked) {
                    return unexpected("a refusal of nothing");
                }
                Ok(AgentEvent::Refused(sentence.0))
            }
            FromSite::Ping => Ok(AgentEvent::Alive),
        }
    }

    /// Asks for a run.
    pub fn request(
        &mut self,
        definition: &str,
        paths: Vec<Path>,
        excludes: Vec<Path>,
    ) -> FromAgent {
        self.asked = true;
        FromAgent::RequestRun {
            definition: cut(definition.to_owned(), 256),
            paths,
            excludes,
        }
    }

    /// How far the run has come; `None` when none runs.
    pub fn progress(&self, progress: Progress) -> Option<FromAgent> {
        match &self.run {
            Some((run, true)) => Some(FromAgent::Progress {
                run: run.clone(),
                progress,
            }),
            _ => None,
        }
    }

    /// The end of the run's backup; `None` when none runs.
    pub fn finished(&mut self, result: Result<Stats, String>) -> Option<FromAgent> {
        match &mut self.run {
            Some((run, running @ true)) => {
                *running = false;
                let result = result.map(Box::new).map_err(Sentence::new);
                Some(FromAgent::Finished {
                    run: run.clone(),
                    result,
                })
            }
            _ => None,
        }
    }

    /// Stops the run; `None` when there is none.
    pub fn cancel(&self) -> Option<FromAgent> {
        self.run
            .as_ref()
            .map(|(run, _)| FromAgent::Cancel { run: run.clone() })
    }
}

/// What a message from the agent means to jobd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteEvent {
    /// The agent is there.
    Attached {
        /// Its host name.
        hostname: String,
        /// Its version.
        version: String,
        /// It takes orders.
        serves: bool,
    },
    /// The backup goes on.
    Progress(Progress),
    /// The backup has ended at the agent.
    Finished(Result<Box<Stats>, String>),
    /// The agent's operator asks for a run; answer by [`Site::start`] or [`Site::refuse`].
    Request {
        /// Name of a definition, or empty.
        definition: String,
        /// Paths, if no definition.
        paths: Vec<Path>,
        /// Patterns.
        excludes: Vec<Path>,
    },
    /// The agent's operator stops the run.
    Cancel,
    /// The peer is there.
    Alive,
}

/// jobd's end of the session with one agent.
#[derive(Debug, Default)]
pub struct Site {
    attached: bool,
    serves: bool,
    asked: bool,
    run: Option<(String, bool)>,
}

impl Site {
    /// Whether an order may be given that the agent has not asked for.
    pub fn is_free(&self) -> bool {
        self.attached && self.serves && !self.asked && self.run.is_none()
    }

    /// Takes a message.
    ///
    /// # Errors
    /// Anything before the first, a second first, news of a run not ordered here, or a request
    /// while another runs.
    pub fn receive(&mut self, message: FromAgent) -> Result<SiteEvent, WireError> {
        let unexpected = |what| Err(WireError::Unexpected(what));
        if let FromAgent::Hello {
            hostname,
            version,
            serves,
        } = message
        {
            if std::mem::replace(&mut self.attached, true) {
                return unexpected("a second hello");
            }
            self.serves = serves;
            return Ok(SiteEvent::Attached {
                hostname,
                version,
                serves,
            });
        }
        if !self.attached {
            return unexpected("no hello first");
        }
        let running = |run: &Option<(String, bool)>, named: &str| {
            run.as_ref()
                .is_some_and(|(ours, running)| ours == named && *running)
        };
        match message {
            FromAgent::Progress { run, progress } if running(&self.run, &run) => {
                Ok(SiteEvent::Progress(progress))
            }
            FromAgent::Finished { run, result } if running(&self.run, &run) => {
                self.run = Some((run, false));
                Ok(SiteEvent::Finished(result.map_err(|s| s.0)))
            }
            FromAgent::Progress { .. } | FromAgent::Finished { .. } => {
                unexpected("news of a run that was not ordered")
            }
            FromAgent::RequestRun {
                definition,
                paths,
                excludes,
            } => {
                if self.run.is_some() || std::mem::replace(&mut self.asked, true) {
                    return unexpected("a request while a run goes on");
                }
                Ok(SiteEvent::Request {
                    definition,
                    paths,
                    excludes,
                })
            }
            // the run may have ended while this was on its way
            FromAgent::Cancel { run } => match &self.run {
                Some((ours, _)) if *ours == run => Ok(SiteEvent::Cancel),
                _ => Ok(SiteEvent::Alive),
            },
            FromAgent::Ping => Ok(SiteEvent::Alive),
            FromAgent::Hello { .. } => unexpected("a second hello"),
        }
    }

    /// Orders a backup; `None` while a run goes on or before the agent is there.
    pub fn start(&mut self, backup: Backup) -> Option<FromSite> {
        if !self.attached || self.run.is_some() {
            return None;
        }
        self.asked = false;
        self.run = Some((backup.run.clone(), true));
        Some(FromSite::Start(backup))
    }

    /// Refuses a request; `None` when there is none.
    pub fn refuse(&mut self, sentence: impl Into<String>) -> Option<FromSite> {
        let asked = std::mem::take(&mut self.asked);
        asked.then(|| FromSite::Refused(Sentence::new(sentence)))
    }

    /// Stops the backup; `None` when none runs at the agent.
    pub fn cancel(&self) -> Option<FromSite> {
        match &self.run {
            Some((run, true)) => Some(FromSite::Cancel { run: run.clone() }),
            _ => None,
        }
    }

    /// Tells the agent how a later stage goes; `None` when there is no run.
    pub fn update(&self, stage: &str, detail: &str, done: u64, total: u64) -> Option<FromSite> {
        self.run.as_ref().map(|(run, _)| FromSite::RunUpdate {
            run: run.clone(),
            stage: cut(stage.to_owned(), 64),
            detail: Sentence::new(detail),
            done,
            total,
        })
    }

    /// Tells the agent that all stages have ended, which frees it; `None` when there is no run.
    pub fn ended(&mut self, succeeded: bool, message: &str) -> Option<FromSite> {
        let (run, _) = self.run.take()?;
        Some(FromSite::RunEnded {
            run,
            succeeded,
            message: Sentence::new(message),
        })
    }
}

#[cfg(test)]
mod tests;
