//! Progress on standard error: bars on a terminal, plain lines elsewhere.

use agent::{backup, restore};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Between two looks at the counters on a terminal, and between two lines elsewhere.
const LOOKS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A time in seconds since the Unix epoch for people, in the local time zone, with how far that is from UTC.
pub(crate) fn when(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| seconds.to_string(),
        |t| {
            t.to_zoned(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S %:z")
                .to_string()
        },
    )
}

/// What is shown while a command works.
pub(crate) struct Display {
    bar: Option<ProgressBar>,
    watching: Option<JoinHandle<()>>,
    last_line: Option<Instant>,
}

impl Display {
    pub(crate) fn new() -> Self {
        Self {
            bar: None,
            watching: None,
            last_line: None,
        }
    }

    pub(crate) fn watch_backup(&mut self, counters: Arc<backup::Counters>) {
        self.watch(move || {
            let p = counters.progress();
            let problems = match p.problems {
                0 => String::new(),
                n => format!(", {n} problems"),
            };
            let text = format!("{} entries, {} sent{problems}", p.entries, size(p.sent));
            (p.done, p.total, text)
        });
    }

    pub(crate) fn watch_restore(&mut self, counters: Arc<restore::Counters>, total: u64) {
        self.watch(move || {
            let text = format!("{} entries", counters.entries.load(Relaxed));
            (counters.bytes.load(Relaxed), total, text)
        });
    }

    /// Shows bytes done, bytes in the whole (0: unknown) and a text, again and again.
    fn watch(&mut self, look: impl Fn() -> (u64, u64, String) + Send + 'static) {
        self.finish();
        let bar = bar();
        let terminal = !bar.is_hidden();
        let (shown, began) = (bar.clone(), Instant::now());
        self.bar = Some(bar);
        self.watching = Some(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(if terminal { LOOKS[0] } else { LOOKS[1] });
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let (done, total, text) = look();
                if terminal {
                    set(&shown, done, total, text);
                } else {
                    eprintln!("{}", line(done, total, &text, began.elapsed()));
                }
            }
        }));
    }

    /// Shows a stage that is not ours.
    pub(crate) fn stage(&mut self, stage: &str, detail: &str, done: u64, total: u64) {
        if let Some(watching) = self.watching.take() {
            watching.abort();
        }
        let bar = self.bar.get_or_insert_with(bar);
        if !bar.is_hidden() {
            set(bar, done, total, format!("{stage}: {detail}"));
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LOOKS[1]) {
            self.last_line = Some(Instant::now());
            match (done, total) {
                (0, 0) => eprintln!("{stage}: {detail}"),
                _ => eprintln!("{stage}: {} of {}; {detail}", size(done), size(total)),
            }
        }
    }

    /// Leaves the terminal to what is printed next.
    pub(crate) fn finish(&mut self) {
        if let Some(watching) = self.watching.take() {
            watching.abort();
        }
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.finish();
    }
}

fn bar() -> ProgressBar {
    let terminal = std::io::stderr().is_terminal();
    let target = if terminal {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    ProgressBar::with_draw_target(None, target)
}

fn set(bar: &ProgressBar, done: u64, total: u64, text: String) {
    let known = total > 0;
    if known && bar.length().is_none() {
        let style = ProgressStyle::with_template(
            "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left; {msg}",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    } else if !known && bar.length().is_none() {
        let style =
            ProgressStyle::with_template("{spinner} {binary_bytes}, {binary_bytes_per_sec}; {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    }
    if known {
        // the last backup's size is a guess, and more may have come
        bar.set_length(total.max(done));
    }
    bar.set_position(done);
    bar.set_message(text);
}

fn line(done: u64, total: u64, text: &str, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let mut line = size(done);
    if total > done {
        line += &format!(" of {}", size(total));
    }
    line += &format!(", {}/s", size(rate as u64));
    if total > done && rate > 0.0 {
        let left = Duration::from_secs_f64(((total - done) as f64 / rate).min(1e9));
        line += &format!(", {} left", HumanDuration(left));
    }
    format!("{line}; {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_rate_and_time_left_when_the_whole_is_known() {
        let line = |done, total| super::line(done, total, "3 entries", Duration::from_secs(2));
        assert_eq!(
            line(4 << 20, 8 << 20),
            "4.00 MiB of 8.00 MiB, 2.00 MiB/s, 2 seconds left; 3 entries"
        );
        assert_eq!(line(4 << 20, 0), "4.00 MiB, 2.00 MiB/s; 3 entries");
        assert_eq!(line(9 << 20, 8 << 20), "9.00 MiB, 4.50 MiB/s; 3 entries");
    }

    #[test]
    fn times_that_are_none_are_shown_as_they_are() {
        assert_eq!(when(i64::MAX), i64::MAX.to_string());
    }
}
