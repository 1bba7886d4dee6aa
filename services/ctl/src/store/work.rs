//! What takes a while: a meter shows how far it is, and Ctrl-C or SIGTERM ends it in order. A second
//! one ends the process, as does one that comes while nothing runs: a datastore bears that at any time.

use super::meter::Meter;
use anyhow::{Error, Result, anyhow};
use engine::Progress;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Two within this time are one: `timeout` and others send one to a process and one to its group.
const ONE: Duration = Duration::from_millis(300);

/// What the next signal cancels.
static RUNNING: Mutex<Option<Arc<Progress>>> = Mutex::new(None);

/// Puts what the next signal cancels; answers what it was.
fn cancels(next: Option<Arc<Progress>>) -> Option<Arc<Progress>> {
    std::mem::replace(
        &mut *RUNNING.lock().unwrap_or_else(PoisonError::into_inner),
        next,
    )
}

/// Whether signals are somebody else's while nothing runs here.
static LEFT: AtomicBool = AtomicBool::new(false);

/// For a command that has its own way with signals, once it has begun.
pub(super) fn leave_signals() {
    LEFT.store(true, Relaxed);
}

/// Catches signals from now on.
fn catch() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    drop(entered);
    let watch = move || {
        runtime.block_on(async {
            let mut first: Option<Instant> = None;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                match cancels(None) {
                    Some(progress) => {
                        progress.cancel();
                        first = Some(Instant::now());
                    }
                    None if first.is_some_and(|first| first.elapsed() < ONE) => {}
                    None if LEFT.load(Relaxed) => {}
                    None => std::process::exit(2),
                }
            }
        });
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(watch).map(drop)
}

/// Does work that counts `total` bytes in `progress`; `kept` is said when it is interrupted: what stays
/// of it, and what to do next.
pub(super) fn run<T, E: Into<Error>>(
    progress: &Arc<Progress>,
    total: &Arc<AtomicU64>,
    kept: &str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T> {
    static CAUGHT: LazyLock<Option<io::Error>> = LazyLock::new(|| catch().err());
    if let Some(error) = &*CAUGHT {
        return Err(anyhow!("signals cannot be caught ({error}); try again"));
    }
    cancels(Some(progress.clone()));
    let meter = Meter::start(progress.clone(), total.clone());
    let done = work();
    drop(meter);
    cancels(None);
    done.map_err(|error| {
        let error = error.into();
        match is_cancelled(error.downcast_ref()) && progress.check().is_err() {
            true => anyhow!("interrupted: {kept}"),
            false => error,
        }
    })
}

/// Whether an operation ended for that it was told to.
pub(super) fn is_cancelled(error: Option<&engine::Error>) -> bool {
    match error {
        Some(engine::Error::Stopped(first)) => is_cancelled(Some(first)),
        error => matches!(error, Some(engine::Error::Cancelled)),
    }
}
