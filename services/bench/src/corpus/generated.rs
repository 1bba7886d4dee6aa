//! Data that no package has: logs and a database's pages, the same for the same seed.

use crate::measure::quietly;
use anyhow::Result;
use filetree::specimen::random::Random;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Bytes of a page.
pub(super) const PAGE: usize = 8192;

/// Who writes the log.
#[derive(Clone, Copy)]
pub(super) enum Log {
    Web,
    Application,
    System,
}

/// Four logs, of which one was rotated twice and one is packed: six files, a length each.
pub(super) fn logs(to: &Path, length: u64) -> Result<()> {
    let write = |name: &str, log, seed| write_log(&to.join(name), log, seed, length);
    write("web.log", Log::Web, 1)?;
    write("system.log", Log::System, 2)?;
    write("application.log", Log::Application, 3)?;
    write("application.log.1", Log::Application, 4)?;
    write("web.log.1", Log::Web, 5)?;
    quietly(Command::new("xz").arg("-1").arg(to.join("web.log.1"))).map(drop)
}

/// Writes a log of this length or a line more.
pub(super) fn write_log(path: &Path, log: Log, seed: u64, length: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    write_lines(&mut file, log, seed, length)?;
    Ok(file.flush()?)
}

/// Writes lines of a log until they are this long together.
pub(super) fn write_lines(to: &mut impl Write, log: Log, seed: u64, length: u64) -> io::Result<()> {
    let random = &mut Random::new(seed);
    // a month for each seed, so that no two logs are of the same seconds
    let mut time =
        jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(500_000 + 720 * seed as i64);
    let (mut line, mut written) = (String::new(), 0);
    while written < length {
        time += jiff::SignedDuration::from_millis(random.below(900) as i64);
        line.clear();
        match log {
            Log::Web => web(&mut line, random, time),
            Log::Application => application(&mut line, random, time),
            Log::System => system(&mut line, random, time),
        }
        .map_err(io::Error::other)?;
        to.write_all(line.as_bytes())?;
        written += line.len() as u64;
    }
    Ok(())
}

/// A number below the limit; small ones are frequent, as visitors and pages are.
fn skewed(random: &mut Random, limit: u64) -> u64 {
    let below = random.below(limit) + 1;
    random.below(below)
}

fn pick<'a>(random: &mut Random, of: &[&'a str]) -> &'a str {
    of[skewed(random, of.len() as u64) as usize]
}

const PATHS: &[&str] = &[
    "/catalogue/item/",
    "/api/v2/orders/",
    "/static/img/",
    "/account/",
    "/search/",
    "/basket/",
    "/api/v2/stock/",
    "/help/article/",
    "/feeds/",
    "/admin/report/",
];
const AGENTS: &[&str] = &[
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_4) AppleWebKit/605.1.15 Version/17.4 Safari/605.1.15",
    "warehouse-sync/3.2",
    "curl/8.7.1",
];

fn web(line: &mut String, random: &mut Random, time: jiff::Timestamp) -> std::fmt::Result {
    use std::fmt::Write;
    let client = skewed(random, 40_000);
    let status = pick(random, &["200", "200", "304", "302", "404", "499", "500"]);
    writeln!(
        line,
        "10.{}.{}.{} - - [{}] \"{} {}{} HTTP/1.1\" {status} {} \"-\" \"{}\" {}.{:03} {:016x}",
        client >> 16 & 255,
        client >> 8 & 255,
        client & 255,
        time.strftime("%d/%b/%Y:%H:%M:%S +0000"),
        pick(random, &["GET", "GET", "POST", "HEAD"]),
        pick(random, PATHS),
        skewed(random, 90_000),
        skewed(random, 60_000),
        AGENTS[client as usize % AGENTS.len()],
        skewed(random, 3),
        random.below(1000),
        random.below(u64::MAX),
    )
}

fn application(line: &mut String, random: &mut Random, time: jiff::Timestamp) -> std::fmt::Result {
    use std::fmt::Write;
    let message = pick(
        random,
        &[
            "order placed",
            "stock reserved",
            "payment accepted",
            "cache miss",
            "retrying request",
            "slow query",
        ],
    );
    writeln!(
        line,
        "{{\"time\":\"{time:.3}\",\"level\":\"{}\",\"service\":\"{}\",\"host\":\"app{:02}\",\"trace\":\"{:016x}{:016x}\",\"user\":{},\"message\":\"{message}\",\"items\":{},\"total\":\"{}.{:02}\",\"ms\":{}}}",
        pick(random, &["info", "info", "debug", "warning", "error"]),
        pick(random, &["orders", "stock", "payments", "mail"]),
        random.below(12),
        random.below(u64::MAX),
        random.below(u64::MAX),
        skewed(random, 400_000),
        skewed(random, 30),
        skewed(random, 900),
        random.below(100),
        skewed(random, 2000),
    )
}

fn system(line: &mut String, random: &mut Random, time: jiff::Timestamp) -> std::fmt::Result {
    use std::fmt::Write;
    let (host, pid, number) = (random.below(20), random.below(60_000), random.below(60_000));
    let client = skewed(random, 5000);
    write!(line, "{} srv{host:02} ", time.strftime("%b %d %H:%M:%S"))?;
    match skewed(random, 5) {
        0 => writeln!(
            line,
            "sshd[{pid}]: Connection closed by 10.2.{}.{} port {number} [preauth]",
            client >> 8,
            client & 255
        ),
        1 => writeln!(
            line,
            "systemd[1]: session-{number}.scope: Deactivated successfully."
        ),
        2 => writeln!(
            line,
            "CRON[{pid}]: (root) CMD (cd / && run-parts --report /etc/cron.hourly)"
        ),
        3 => writeln!(
            line,
            "kernel: [{number:>7}.{pid:06}] audit: type=1400 apparmor=\"ALLOWED\" operation=\"open\" pid={pid}"
        ),
        _ => writeln!(
            line,
            "postfix/smtpd[{pid}]: {:010X}: client=unknown[10.2.{}.{}]",
            random.below(1 << 40),
            client >> 8,
            client & 255
        ),
    }
}

/// Writes a heap of this length.
pub(super) fn heap(path: &Path, length: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for number in 0..length / PAGE as u64 {
        file.write_all(&page(number, 1))?;
    }
    Ok(file.flush()?)
}

/// Writes every 50th page of a heap anew; `places` are where each page lies in the file.
pub(super) fn rewrite_pages(file: &File, places: &[u64]) -> io::Result<()> {
    let mut random = Random::new(places.len() as u64);
    for _ in 0..places.len().div_ceil(50) {
        let number = random.below(places.len() as u64);
        file.write_all_at(&page(number, 2), places[number as usize])?;
    }
    Ok(())
}

/// One page: a header, then rows as tables have them, back to front.
fn page(number: u64, version: u64) -> [u8; PAGE] {
    let random = &mut Random::new(number << 8 | version);
    let mut page = [0; PAGE];
    let (mut end, mut rows) = (PAGE, 0_usize);
    loop {
        let id = number * 100 + rows as u64;
        let mut row = id.to_le_bytes().to_vec();
        row.extend_from_slice(&(1_700_000_000_000 + id * 1000 + random.below(1000)).to_le_bytes());
        row.extend_from_slice(&random.bytes(12));
        row.extend_from_slice(&(skewed(random, 100_000) as u32).to_le_bytes());
        let words = 24 + random.below(48);
        row.extend_from_slice(&random.text(words));
        let slot = 24 + 4 * rows;
        if slot + 4 + row.len() > end {
            break;
        }
        end -= row.len();
        page[end..end + row.len()].copy_from_slice(&row);
        page[slot..slot + 2].copy_from_slice(&(end as u16).to_le_bytes());
        page[slot + 2..slot + 4].copy_from_slice(&(row.len() as u16).to_le_bytes());
        rows += 1;
    }
    page[..8].copy_from_slice(&(number * 131 + version).to_le_bytes());
    page[12..14].copy_from_slice(&(rows as u16).to_le_bytes());
    page[14..16].copy_from_slice(&(end as u16).to_le_bytes());
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_log_and_another_another() {
        for log in [Log::Web, Log::Application, Log::System] {
            let written = |seed| {
                let mut out = Vec::new();
                write_lines(&mut out, log, seed, 10_000).unwrap();
                out
            };
            assert_eq!(written(1), written(1));
            assert_ne!(written(1), written(2));
            assert!(written(1).len() < 10_500 && written(1).ends_with(b"\n"));
            // as real logs: much repeats, and not all
            let packed = zstd::bulk::compress(&written(1), 3).unwrap().len();
            assert!((1000..5000).contains(&packed), "{packed}");
        }
    }

    #[test]
    fn a_fiftieth_of_the_pages_is_rewritten_where_they_lie() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("heap");
        heap(&path, 200 * PAGE as u64).unwrap();
        let before = std::fs::read(&path).unwrap();
        let places: Vec<u64> = (0..200).map(|n| n * PAGE as u64).collect();
        let file = File::options().write(true).open(&path).unwrap();
        rewrite_pages(&file, &places).unwrap();
        let after = std::fs::read(&path).unwrap();
        let pages = |bytes: &[u8]| bytes.chunks(PAGE).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let changed = pages(&before)
            .iter()
            .zip(pages(&after))
            .filter(|(a, b)| *a != b)
            .count();
        assert!((1..=4).contains(&changed), "{changed}");
        assert_eq!(before.len(), after.len());
    }
}
