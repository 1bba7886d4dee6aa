//! Waiting for a job with progress: a bar on a terminal, plain lines elsewhere.

use super::{Session, show, told};
use anyhow::Result;
use contract::Fields;
use indicatif::{ProgressBar, ProgressStyle};
use runtime::job::Seen;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use zbus::zvariant::OwnedObjectPath;

/// Plain lines come this far apart at least, unless the sentence changes.
const QUIET: Duration = Duration::from_secs(10);

/// Waits for the job's end; Ctrl-C asks it to stop. Progress goes to standard error.
pub(super) async fn wait(session: &Session, daemon: &str, job: &OwnedObjectPath) -> Result<Fields> {
    let service = match daemon {
        "enrold" => "org.strongroom.Enrol1",
        "engined" => "org.strongroom.Engine1",
        _ => "org.strongroom.Jobs1",
    };
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = "{spinner} {bar:30} {percent:>3} %  {msg}";
        ProgressBar::new(1000)
            .with_style(ProgressStyle::with_template(style).expect("a fixed template"))
    });
    let mut last: Option<(Instant, String)> = None;
    let watch = |seen: Seen| {
        let figures = figures(&seen);
        let Seen {
            detail,
            done,
            total,
            ..
        } = seen;
        if let Some(bar) = &bar {
            bar.set_position(done.saturating_mul(1000).checked_div(total).unwrap_or(0));
            bar.set_message(format!("{figures}  {detail}"));
            bar.tick();
        } else if last
            .as_ref()
            .is_none_or(|(at, old)| at.elapsed() > QUIET || *old != detail)
        {
            eprintln!(
                "{detail}{}{figures}",
                if figures.is_empty() { "" } else { "  " }
            );
            last = Some((Instant::now(), detail));
        }
    };
    let cancel = CancellationToken::new();
    let interrupt = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupt.cancel();
        }
    });
    let ended = runtime::job::wait(&session.bus, service, job, &cancel, watch).await;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    told(daemon, ended)
}

fn figures(seen: &Seen) -> String {
    let mut parts = Vec::new();
    match (seen.done, seen.total) {
        (0, 0) => {}
        (done, 0) => parts.push(show::size(done)),
        (done, total) => parts.push(format!("{} of {}", show::size(done), show::size(total))),
    }
    if seen.rate > 0 {
        parts.push(format!("{}/s", show::size(seen.rate)));
    }
    if seen.eta < 100 * 3600 {
        parts.push(format!(
            "{}:{:02}:{:02} left",
            seen.eta / 3600,
            seen.eta / 60 % 60,
            seen.eta % 60
        ));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_leave_out_what_is_unknown() {
        let shown = |done, total, rate, eta| {
            figures(&Seen {
                detail: String::new(),
                done,
                total,
                rate,
                eta,
            })
        };
        assert_eq!(shown(0, 0, 0, u64::MAX), "");
        assert_eq!(shown(5_000_000, 0, 0, u64::MAX), "5.00 MB");
        assert_eq!(
            shown(5_000_000, 10_000_000, 1_000_000, 5),
            "5.00 MB of 10.0 MB, 1.00 MB/s, 0:00:05 left"
        );
    }
}
