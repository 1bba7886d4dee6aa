//! What jobd remembers: definitions and runs, each in a ledger of its own.

use contract::{Error, Fields, field};
use ledger::Ledger;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// Runs kept; the oldest go first.
const KEPT_RUNS: usize = 1000;
/// Problems of a run that are kept as sentences; all are counted.
const KEPT_PROBLEMS: usize = 50;

/// What to protect, and the copies that follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) agent: String,
    pub(crate) paths: Vec<Vec<u8>>,
    pub(crate) excludes: Vec<Vec<u8>>,
    pub(crate) offsite: bool,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Running,
    Succeeded,
    /// Done, but some files were not backed up as they should.
    Warnings,
    Failed,
    /// jobd stopped while it ran.
    Interrupted,
}

impl Outcome {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Outcome::Running => "running",
            Outcome::Succeeded => "succeeded",
            Outcome::Warnings => "warnings",
            Outcome::Failed => "failed",
            Outcome::Interrupted => "interrupted",
        }
    }
}

/// One stage of a run. The counters that a stage does not have are absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) state: Outcome,
    pub(crate) message: String,
    pub(crate) seconds: f64,
    /// Bytes and counts by the contract's member names.
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) problems: Vec<String>,
}

impl Stage {
    pub(crate) fn begin(name: &str) -> Stage {
        Stage {
            name: name.into(),
            state: Outcome::Running,
            message: String::new(),
            seconds: 0.0,
            counters: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    pub(crate) fn add_problems(&mut self, problems: impl Iterator<Item = String>) {
        self.problems.extend(problems.take(KEPT_PROBLEMS));
    }
}

/// One execution of a definition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) id: String,
    /// Empty for paths asked for at the protected server.
    pub(crate) definition: String,
    pub(crate) agent: String,
    pub(crate) started: i64,
    pub(crate) ended: i64,
    pub(crate) state: Outcome,
    pub(crate) snapshot: String,
    pub(crate) stages: Vec<Stage>,
}

impl Run {
    /// As the contract's History has it.
    pub(crate) fn fields(&self) -> Fields {
        let stages: Vec<Fields> = self
            .stages
            .iter()
            .map(|stage| {
                let mut fields = Fields::from([
                    ("name".to_owned(), field(stage.name.as_str())),
                    ("state".to_owned(), field(stage.state.word())),
                    ("message".to_owned(), field(stage.message.as_str())),
                    ("seconds".to_owned(), field(stage.seconds)),
                    ("problems".to_owned(), field(stage.problems.clone())),
                ]);
                fields.extend(stage.counters.iter().map(|(k, v)| (k.clone(), field(*v))));
                fields
            })
            .collect();
        Fields::from([
            ("run".to_owned(), field(self.id.as_str())),
            ("definition".to_owned(), field(self.definition.as_str())),
            ("agent".to_owned(), field(self.agent.as_str())),
            ("started".to_owned(), field(self.started)),
            ("ended".to_owned(), field(self.ended)),
            ("state".to_owned(), field(self.state.word())),
            ("snapshot".to_owned(), field(self.snapshot.as_str())),
            ("stages".to_owned(), field(stages)),
        ])
    }
}

type Definitions = BTreeMap<String, Definition>;

/// Both ledgers. Lock order: definitions before runs; no lock is held across an await.
pub(crate) struct State {
    definitions: Mutex<(Ledger<Definitions>, Definitions)>,
    runs: Mutex<(Ledger<Vec<Run>>, Vec<Run>)>,
}

impl State {
    /// Reads both; a run that was going on when jobd stopped becomes interrupted.
    pub(crate) fn open(directory: &Path) -> Result<State, ledger::Error> {
        let definitions = Ledger::<Definitions>::open(directory.join("definitions"))?;
        let runs = Ledger::<Vec<Run>>::open(directory.join("runs"))?;
        for sentence in [&definitions.recovered, &runs.recovered]
            .into_iter()
            .flatten()
        {
            tracing::warn!("{sentence}");
        }
        let mut history = runs.state.unwrap_or_default();
        for run in history.iter_mut().filter(|r| r.state == Outcome::Running) {
            run.state = Outcome::Interrupted;
            for stage in run
                .stages
                .iter_mut()
                .filter(|s| s.state == Outcome::Running)
            {
                stage.state = Outcome::Interrupted;
                stage.message = "jobd stopped before it ended; run the definition again".into();
            }
        }
        Ok(State {
            definitions: Mutex::new((definitions.ledger, definitions.state.unwrap_or_default())),
            runs: Mutex::new((runs.ledger, history)),
        })
    }

    pub(crate) fn definitions(&self) -> Definitions {
        self.definitions
            .lock()
            .expect("no panic holds it")
            .1
            .clone()
    }

    /// Makes, replaces or (None) removes one; whether that changed anything.
    pub(crate) fn set_definition(&self, name: &str, to: Option<Definition>) -> Result<bool, Error> {
        let mut locked = self.definitions.lock().expect("no panic holds it");
        let (ledger, definitions) = &mut *locked;
        if definitions.get(name) == to.as_ref() {
            return Ok(false);
        }
        let mut changed = definitions.clone();
        match to {
            Some(definition) => drop(changed.insert(name.to_owned(), definition)),
            None => drop(changed.remove(name)),
        }
        ledger
            .save(&changed)
            .map_err(|e| Error::Failed(format!("the definition cannot be kept: {e}")))?;
        *definitions = changed;
        Ok(true)
    }

    /// Newest first.
    pub(crate) fn runs(&self, limit: usize) -> Vec<Run> {
        self.runs
            .lock()
            .expect("no panic holds it")
            .1
            .iter()
            .rev()
            .take(limit)
            .cloned()
            .collect()
    }

    /// Keeps a run as it now stands. A history that cannot be written must not stop a backup: that
    /// is logged, and memory has it still.
    pub(crate) fn keep(&self, run: &Run) {
        let mut locked = self.runs.lock().expect("no panic holds it");
        let (ledger, runs) = &mut *locked;
        match runs.iter_mut().find(|r| r.id == run.id) {
            Some(kept) => *kept = run.clone(),
            None => runs.push(run.clone()),
        }
        let surplus = runs.len().saturating_sub(KEPT_RUNS);
        runs.drain(..surplus);
        if let Err(error) = ledger.save(runs) {
            tracing::error!("the history of runs cannot be kept: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: usize, state: Outcome) -> Run {
        Run {
            id: id.to_string(),
            definition: "d".into(),
            agent: "a".into(),
            started: 0,
            ended: 0,
            state,
            snapshot: String::new(),
            stages: vec![Stage::begin("backup")],
        }
    }

    #[test]
    fn a_run_cut_off_by_a_restart_is_interrupted() {
        let directory = tempfile::tempdir().unwrap();
        State::open(directory.path())
            .unwrap()
            .keep(&run(1, Outcome::Running));
        let runs = State::open(directory.path()).unwrap().runs(10);
        assert_eq!(
            (runs[0].state, runs[0].stages[0].state),
            (Outcome::Interrupted, Outcome::Interrupted)
        );
    }

    #[test]
    fn history_is_newest_first_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        (0..KEPT_RUNS + 5).for_each(|id| state.keep(&run(id, Outcome::Succeeded)));
        let runs = state.runs(usize::MAX);
        assert_eq!((runs.len(), runs[0].id.as_str()), (KEPT_RUNS, "1004"));
    }

    #[test]
    fn a_definition_set_twice_changes_once() {
        let directory = tempfile::tempdir().unwrap();
        let definition = Definition {
            agent: "a".into(),
            paths: vec![b"/".to_vec()],
            excludes: vec![],
            offsite: true,
        };
        let state = State::open(directory.path()).unwrap();
        assert!(state.set_definition("n", Some(definition.clone())).unwrap());
        assert!(!state.set_definition("n", Some(definition.clone())).unwrap());
        let again = State::open(directory.path()).unwrap();
        assert_eq!(again.definitions().get("n"), Some(&definition));
        assert!(again.set_definition("n", None).unwrap());
        assert!(!again.set_definition("n", None).unwrap());
    }
}
