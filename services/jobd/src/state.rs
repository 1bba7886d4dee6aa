//! What jobd remembers: definitions and runs, each in a ledger of its own.

use contract::{Error, Fields, field, fields, told};
use ledger::Ledger;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;

// What agents have a say in is bounded: the history is written whole, at every stage of every run.
/// Runs kept; the oldest go first.
const KEPT_RUNS: usize = 1000;
/// The newest runs, of which problems are kept as sentences.
const TOLD_RUNS: usize = 50;
/// Problems of a run that are kept as sentences; its message counts all.
const KEPT_PROBLEMS: usize = 20;
/// Longest problem kept, bytes.
const PROBLEM: usize = 300;
/// Longest message of a stage kept, bytes.
const MESSAGE: usize = 1000;

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

    /// It has ended so.
    pub(crate) fn end(&mut self, state: Outcome, message: &str) {
        self.state = state;
        self.message = short(message, MESSAGE);
    }

    pub(crate) fn add_problems<'a>(&mut self, problems: impl Iterator<Item = &'a str>) {
        let kept = problems.take(KEPT_PROBLEMS).map(|p| short(p, PROBLEM));
        self.problems.extend(kept);
    }
}

/// The beginning of a text, of at most so many bytes. A control character, which JSON makes six
/// bytes of, becomes a question mark.
fn short(text: &str, most: usize) -> String {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    let beginning = &text[..text.floor_char_boundary(most)];
    beginning.chars().map(shown).collect()
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
                let mut shown = fields([
                    ("name", field(stage.name.as_str())),
                    ("state", field(stage.state.word())),
                    ("message", field(stage.message.as_str())),
                    ("seconds", field(stage.seconds)),
                    ("problems", field(stage.problems.clone())),
                ]);
                shown.extend(stage.counters.iter().map(|(k, v)| (k.clone(), field(*v))));
                shown
            })
            .collect();
        fields([
            ("run", field(self.id.as_str())),
            ("definition", field(self.definition.as_str())),
            ("agent", field(self.agent.as_str())),
            ("started", field(self.started)),
            ("ended", field(self.ended)),
            ("state", field(self.state.word())),
            ("snapshot", field(self.snapshot.as_str())),
            ("stages", field(stages)),
        ])
    }

    /// What ended it was none of its stages. Nothing when it has ended already.
    fn cut_off(&mut self, state: Outcome, why: &str) {
        if self.state == Outcome::Running {
            self.state = state;
            let running = |s: &&mut Stage| s.state == Outcome::Running;
            for stage in self.stages.iter_mut().filter(running) {
                stage.end(state, why);
            }
        }
    }
}

type Definitions = BTreeMap<String, Definition>;

/// Both ledgers. No lock is held across an await.
pub(crate) struct State {
    definitions: Mutex<(Ledger<Definitions>, Definitions)>,
    runs: Arc<Runs>,
}

struct Runs {
    /// Oldest first.
    known: Mutex<Vec<Run>>,
    /// Since the last save began.
    changed: AtomicBool,
    ledger: Arc<tokio::sync::Mutex<Ledger<Vec<Run>>>>,
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
        for run in &mut history {
            let why = "jobd stopped before it ended; run the definition again";
            run.cut_off(Outcome::Interrupted, why);
        }
        Ok(State {
            definitions: Mutex::new((definitions.ledger, definitions.state.unwrap_or_default())),
            runs: Arc::new(Runs {
                known: Mutex::new(history),
                changed: AtomicBool::new(false),
                ledger: Arc::new(tokio::sync::Mutex::new(runs.ledger)),
            }),
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
            .map_err(|e| Error::Failed(format!("the definition cannot be kept: {}", told(&e))))?;
        *definitions = changed;
        Ok(true)
    }

    /// Newest first.
    pub(crate) fn runs(&self, limit: usize) -> Vec<Run> {
        let known = self.runs.known.lock().expect("no panic holds it");
        known.iter().rev().take(limit).cloned().collect()
    }

    /// Keeps a run as it now stands: from now on in memory, on the disk when the answer is ready.
    pub(crate) fn keep(&self, run: &Run) -> JoinHandle<()> {
        let mut known = self.runs.known.lock().expect("no panic holds it");
        match known.iter_mut().find(|r| r.id == run.id) {
            Some(kept) => *kept = run.clone(),
            None => known.push(run.clone()),
        }
        let surplus = known.len().saturating_sub(KEPT_RUNS);
        known.drain(..surplus);
        let older = known.len().saturating_sub(TOLD_RUNS);
        for stage in known[..older].iter_mut().flat_map(|run| &mut run.stages) {
            stage.problems = Vec::new();
        }
        self.save()
    }

    /// Of a run that has told of no end there will be none.
    pub(crate) fn abandon(&self, id: &str) {
        let mut known = self.runs.known.lock().expect("no panic holds it");
        if let Some(run) = known.iter_mut().find(|r| r.id == id) {
            let why = "it stopped by a fault of ours; see the journal (strongroom log), and run \
                       the definition again";
            run.cut_off(Outcome::Failed, why);
            self.save();
        }
    }

    /// A history that cannot be written must not stop a backup: that is logged, and memory has it
    /// still.
    fn save(&self) -> JoinHandle<()> {
        let runs = self.runs.clone();
        runs.changed.store(true, Ordering::Release);
        tokio::spawn(async move {
            // waiting holds no thread, and who comes first saves for all that wait
            let mut ledger = runs.ledger.clone().lock_owned().await;
            if !runs.changed.swap(false, Ordering::Acquire) {
                return;
            }
            let known = runs.known.lock().expect("no panic holds it").clone();
            let saved = tokio::task::spawn_blocking(move || ledger.save(&known)).await;
            if let Ok(Err(error)) = saved {
                tracing::error!("the history of runs cannot be kept: {}", told(&error));
            }
        })
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

    #[tokio::test]
    async fn a_run_cut_off_by_a_restart_is_interrupted() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        state.keep(&run(1, Outcome::Running)).await.unwrap();
        let runs = State::open(directory.path()).unwrap().runs(10);
        assert_eq!(
            (runs[0].state, runs[0].stages[0].state),
            (Outcome::Interrupted, Outcome::Interrupted)
        );
    }

    /// Every run with the longest of everything an agent may send, in what JSON makes longest.
    #[tokio::test]
    async fn history_is_newest_first_and_small_whatever_agents_tell() {
        use protocol::control::{MAX_PROBLEMS, MAX_TEXT};
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let longest = ["\u{1}", "\"", "\u{10ffff}"].map(|c| c.repeat(MAX_TEXT / c.len()));
        for id in 0..KEPT_RUNS + 5 {
            let text = longest[id % longest.len()].as_str();
            let mut run = run(id, Outcome::Failed);
            run.stages[0].end(Outcome::Failed, text);
            run.stages[0].add_problems(std::iter::repeat_n(text, MAX_PROBLEMS));
            drop(state.keep(&run));
        }
        state.save().await.unwrap();
        let runs = state.runs(usize::MAX);
        assert_eq!((runs.len(), runs[0].id.as_str()), (KEPT_RUNS, "1004"));
        assert_eq!(runs[TOLD_RUNS - 1].stages[0].problems.len(), KEPT_PROBLEMS);
        let length = directory.path().join("runs").metadata().unwrap().len();
        assert!(length < 4 << 20, "{length} bytes");
    }

    #[tokio::test]
    async fn an_abandoned_run_has_failed_and_an_ended_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        for (id, outcome) in [(1, Outcome::Running), (2, Outcome::Succeeded)] {
            state.keep(&run(id, outcome)).await.unwrap();
            state.abandon(&id.to_string());
        }
        let states: Vec<_> = state.runs(2).iter().map(|r| r.state).collect();
        assert_eq!(states, [Outcome::Succeeded, Outcome::Failed]);
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
