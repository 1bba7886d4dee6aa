//! Machines for one test, and what is told when it fails.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::{Error, Machine, Result, Setup, workspace};

/// The machines of one test.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    cables: tempfile::TempDir,
    machines: Mutex<Vec<Arc<Machine>>>,
}

impl Lab {
    /// A machine, not yet switched on.
    ///
    /// # Errors
    /// As [`Machine::create`].
    pub fn machine(&self, setup: Setup) -> Result<Arc<Machine>> {
        let dir = self.dir.join(&setup.name);
        let machine = Arc::new(Machine::create(&dir, setup)?);
        self.machines
            .lock()
            .expect("no panic while held")
            .push(Arc::clone(&machine));
        Ok(machine)
    }

    /// A cable for [`Setup::cable`].
    pub fn cable(&self, name: &str) -> PathBuf {
        self.cables.path().join(name)
    }

    /// Where files of this test can be put.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Runs a test with machines. When it fails or panics, tells what is wrong in each of them, with
/// the end of its journal, and keeps their files in `.cache/tests/`.
///
/// # Panics
/// When the test fails.
pub fn scenario(name: &str, test: impl FnOnce(&Lab) -> Result<()>) {
    let dir = workspace().join(".cache/tests").join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).expect("the last run's files can be removed");
    }
    let cables = tempfile::Builder::new().prefix("strongroom-").tempdir();
    let lab = Lab {
        dir,
        cables: cables.expect("a directory for cables"),
        machines: Mutex::default(),
    };
    let verdict = catch_unwind(AssertUnwindSafe(|| test(&lab)));
    if !matches!(verdict, Ok(Ok(()))) {
        for machine in lab.machines.lock().expect("no panic while held").iter() {
            eprintln!("{}", machine.report());
        }
        eprintln!("files of the machines: {}", lab.dir.display());
    }
    let dir = lab.dir.clone();
    // Power off before anything is removed.
    drop(lab);
    match verdict {
        Ok(Ok(())) => {
            if dir.exists() {
                std::fs::remove_dir_all(&dir).expect("this run's files can be removed");
            }
        }
        Ok(Err(error)) => panic!("{}", told(&error)),
        Err(panic) => resume_unwind(panic),
    }
}

fn told(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
