//! Progress of a running operation on standard error: a bar on a terminal, plain lines elsewhere.

use crate::appliance::show;
use engine::{Counts, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a bar moves, and how often a plain line is written.
const BAR: Duration = Duration::from_millis(150);
const LINE: Duration = Duration::from_secs(10);

/// What of the message does not fit is cut off: a line that wraps is not overwritten by the next one.
const SPINNER: &str = "{spinner} {wide_msg}";
const WHOLE: &str = "{spinner} {bar:10} {percent:>3} %  {wide_msg}";

/// Shows an operation's counters until dropped.
pub(crate) struct Meter {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    /// Shows `progress`, whose end is `total` bytes; 0 as long as that is not known.
    pub(crate) fn start(progress: Arc<Progress>, total: Arc<AtomicU64>) -> Self {
        let (stop, stopped) = channel::<()>();
        let bar = std::io::stderr().is_terminal().then(ProgressBar::no_length);
        let every = if bar.is_some() { BAR } else { LINE };
        let began = Instant::now();
        let watch = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let counts = progress.counts();
                let total = total.load(Relaxed).max(counts.expected);
                // beyond it there is more to do than anybody knows
                let total = Some(total).filter(|total| *total >= counts.bytes);
                let total = total.unwrap_or(0);
                match &bar {
                    Some(bar) => move_bar(bar, counts, total, began.elapsed()),
                    None => eprintln!("{}", line(counts, total, began.elapsed())),
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        };
        // without a thread there is no progress to see, and nothing else is lost
        let thread = std::thread::Builder::new()
            .name("progress".into())
            .spawn(watch)
            .ok();
        Self {
            stop: Some(stop),
            thread,
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn move_bar(bar: &ProgressBar, counts: Counts, total: u64, elapsed: Duration) {
    let style = ProgressStyle::with_template(if total > 0 { WHOLE } else { SPINNER });
    bar.set_style(style.expect("a fixed template"));
    if total > 0 {
        bar.set_length(total);
    }
    bar.set_position(counts.bytes);
    bar.set_message(line(counts, total, elapsed));
    bar.tick();
}

/// What deduplication and compression make of it, where something is stored.
fn dedup(counts: Counts) -> String {
    if counts.stored == 0 {
        return String::new();
    }
    let ratio = super::ratio(counts.bytes, counts.stored);
    let ratio = ratio.map_or_else(String::new, |ratio| format!(", {ratio}"));
    format!("{} new{ratio}", show::size(counts.unique))
}

fn line(counts: Counts, total: u64, elapsed: Duration) -> String {
    let rate = counts.bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let mut parts = vec![if total > 0 {
        format!("{} of {}", show::size(counts.bytes), show::size(total))
    } else {
        show::size(counts.bytes)
    }];
    parts.push(format!("{}/s", show::size(rate as u64)));
    if total > counts.bytes && rate >= 1.0 {
        let left = ((total - counts.bytes) as f64 / rate) as u64;
        parts.push(format!(
            "{}:{:02}:{:02} left",
            left / 3600,
            left / 60 % 60,
            left % 60
        ));
    }
    parts.extend(Some(dedup(counts)).filter(|d| !d.is_empty()));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::io;
    use std::sync::Mutex;

    /// A terminal of 40 columns, and what is in its line.
    #[derive(Clone, Debug, Default)]
    struct Narrow(Arc<Mutex<String>>);

    impl TermLike for Narrow {
        fn width(&self) -> u16 {
            40
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bar_fits_a_narrow_terminal_and_says_what_a_line_does() {
        let counts = Counts {
            bytes: 150_000_000,
            unique: 120_000_000,
            stored: 60_000_000,
            ..Counts::default()
        };
        for (total, words) in [
            (0, "150 MB, 75.0 MB/s"),
            (300_000_000, "50 %  150 MB of 300 MB"),
        ] {
            let terminal = Narrow::default();
            let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
            let bar = ProgressBar::with_draw_target(None, target);
            move_bar(&bar, counts, total, Duration::from_secs(2));
            let shown = terminal.0.lock().unwrap().clone();
            assert!(shown.contains(words), "{shown:?}");
            assert!(shown.chars().count() <= 40, "{shown:?}");
        }
    }

    #[test]
    fn a_line_leaves_out_what_is_unknown() {
        let counts = Counts {
            bytes: 50_000_000,
            ..Counts::default()
        };
        let second = Duration::from_secs(1);
        assert_eq!(line(counts, 0, second), "50.0 MB, 50.0 MB/s");
        let counts = Counts {
            unique: 20_000_000,
            stored: 10_000_000,
            ..counts
        };
        assert_eq!(
            line(counts, 300_000_000, second),
            "50.0 MB of 300 MB, 50.0 MB/s, 0:00:05 left, 20.0 MB new, 5.0:1"
        );
    }
}
