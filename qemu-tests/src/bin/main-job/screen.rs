//! What is shown while the job runs: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Steps of the whole job, for the bar.
const STEPS: u64 = 20;

pub(crate) struct Screen {
    bar: Option<ProgressBar>,
    begun: Instant,
    step: u64,
}

impl Screen {
    pub(crate) fn new() -> Screen {
        let bar = std::io::stdout().is_terminal().then(|| {
            let style = "{spinner} [{elapsed_precise}] step {pos} of {len} {bar:20} {wide_msg}";
            let style = ProgressStyle::with_template(style).expect("a fixed template");
            let bar = ProgressBar::new(STEPS).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Screen {
            bar,
            begun: Instant::now(),
            step: 0,
        }
    }

    /// Does one step; answers what it gave and the seconds it took.
    pub(crate) fn step<T>(
        &mut self,
        what: &str,
        work: impl FnOnce(&Screen) -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, f64)> {
        self.step += 1;
        if let Some(bar) = &self.bar {
            bar.set_position(self.step);
            bar.set_message(what.to_owned());
        } else {
            self.line(&format!("{what} ..."));
        }
        let begun = Instant::now();
        let given = work(self).map_err(|e| e.context(what.to_owned()))?;
        let seconds = begun.elapsed().as_secs_f64();
        self.line(&format!("{what}: done in {seconds:.1} s"));
        Ok((given, seconds))
    }

    /// What the step does now: shown over the last such line on a terminal.
    pub(crate) fn detail(&self, detail: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(detail.to_owned()),
            None => self.line(&format!("    {detail}")),
        }
    }

    /// A line that stays.
    pub(crate) fn line(&self, line: &str) {
        let seconds = self.begun.elapsed().as_secs();
        let line = format!("[{:3}:{:02}] {line}", seconds / 60, seconds % 60);
        match &self.bar {
            Some(bar) => bar.println(line),
            None => println!("{line}"),
        }
    }

    /// Takes the bar away; `whole` when every step was done.
    pub(crate) fn finish(&self, whole: bool) {
        debug_assert!(!whole || self.step == STEPS, "{} steps", self.step);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
