//! Which snapshots of a group are kept: the newest of each of the last so many hours, days, and so
//! on, that have one.

use format::SnapshotId;
use format::entry::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;

/// How many of each to keep; what no rule keeps goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest.
    pub last: usize,
    /// The newest of an hour, for so many hours that have any; and so on.
    pub hourly: usize,
    /// Days.
    pub daily: usize,
    /// Weeks, from Monday on.
    pub weekly: usize,
    /// Months.
    pub monthly: usize,
    /// Years.
    pub yearly: usize,
}

impl Keep {
    /// Whether it keeps nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// By which rules a snapshot is kept; none for one that goes.
pub type Verdict = Vec<&'static str>;

/// Decides for the snapshots of one group, by the calendar of a time zone.
pub(crate) fn decide(
    snapshots: &[(SnapshotId, Timestamp)],
    keep: &Keep,
    zone: &TimeZone,
) -> BTreeMap<SnapshotId, Verdict> {
    let mut newest_first = snapshots.to_vec();
    newest_first.sort_unstable_by_key(|(id, time)| std::cmp::Reverse((*time, *id)));
    let mut verdicts: BTreeMap<_, _> = snapshots.iter().map(|(id, _)| (*id, Vec::new())).collect();
    type Period = fn(&jiff::Zoned) -> (i16, i16, i8);
    let rules: [(&str, usize, Option<Period>); 6] = [
        ("last", keep.last, None),
        (
            "hourly",
            keep.hourly,
            Some(|t| (t.year(), t.day_of_year(), t.hour())),
        ),
        (
            "daily",
            keep.daily,
            Some(|t| (t.year(), t.day_of_year(), 0)),
        ),
        (
            "weekly",
            keep.weekly,
            Some(|t| {
                let week = t.date().iso_week_date();
                (
                    week.year(),
                    week.week().into(),
                    Weekday::Monday.to_monday_zero_offset(),
                )
            }),
        ),
        (
            "monthly",
            keep.monthly,
            Some(|t| (t.year(), t.month().into(), 0)),
        ),
        ("yearly", keep.yearly, Some(|t| (t.year(), 0, 0))),
    ];
    for (name, count, period) in rules {
        let mut last = None;
        let mut left = count;
        for (id, time) in &newest_first {
            if left == 0 {
                break;
            }
            // what lies outside of the calendar is of one period
            let time = jiff::Timestamp::from_second(time.seconds).unwrap_or_default();
            let now = period.map(|period| period(&time.to_zoned(zone.clone())));
            if now.is_some() && now == last {
                continue;
            }
            last = now;
            left -= 1;
            if let Some(verdict) = verdicts.get_mut(id) {
                verdict.push(name);
            }
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn id(number: usize) -> SnapshotId {
        SnapshotId((number as u128).to_le_bytes())
    }

    fn snapshots(times: &[i64]) -> Vec<(SnapshotId, Timestamp)> {
        let time = |seconds| Timestamp { seconds, nanos: 0 };
        let times = times.iter().enumerate();
        times.map(|(i, t)| (id(i), time(*t))).collect()
    }

    #[test]
    fn two_years_of_nightly_backups_thin_out() {
        let zone = TimeZone::UTC;
        let night = |n: i64| {
            date(2025, 1, 1)
                .at(2, 0, 0, 0)
                .to_zoned(zone.clone())
                .unwrap()
                .timestamp()
                .as_second()
                + n * 86_400
        };
        let all = snapshots(&(0..730).map(night).collect::<Vec<_>>());
        let keep = Keep {
            daily: 7,
            weekly: 4,
            monthly: 12,
            yearly: 2,
            ..Keep::default()
        };
        let verdicts = decide(&all, &keep, &zone);
        let kept: Vec<String> = all
            .iter()
            .rev()
            .filter(|(id, _)| !verdicts[id].is_empty())
            .map(|(id, time)| {
                let day = jiff::Timestamp::from_second(time.seconds)
                    .unwrap()
                    .strftime("%F")
                    .to_string();
                format!("{day} {}", verdicts[id].join(" "))
            })
            .collect();
        insta::assert_snapshot!(kept.join("\n"));
    }

    #[test]
    fn of_one_second_the_later_one_is_newer() {
        let at = |number, nanos| (id(number), Timestamp { seconds: 7, nanos });
        let keep = Keep {
            last: 1,
            ..Keep::default()
        };
        let verdicts = decide(&[at(1, 3), at(2, 2), at(3, 1)], &keep, &TimeZone::UTC);
        assert_eq!(verdicts[&id(1)], ["last"]);
    }

    #[test]
    fn a_day_is_one_of_the_time_zone() {
        let zone = TimeZone::fixed(jiff::tz::offset(-8));
        // 23:00 and 01:00 there are of two days, and of one in UTC
        let at = |day, hour| {
            date(2026, 3, day)
                .at(hour, 0, 0, 0)
                .to_zoned(zone.clone())
                .unwrap()
                .timestamp()
                .as_second()
        };
        let all = snapshots(&[at(4, 23), at(5, 1)]);
        let keep = Keep {
            daily: 2,
            ..Keep::default()
        };
        assert!(decide(&all, &keep, &zone).values().all(|v| v == &["daily"]));
        assert_eq!(
            decide(&all, &keep, &TimeZone::UTC)[&id(0)],
            Vec::<&str>::new()
        );
    }

    proptest! {
        /// However many there are, as many are kept as a rule says and there are periods, and the
        /// newest always is.
        #[test]
        fn a_rule_keeps_as_many_as_it_says(times in vec(0i64..2_000_000_000, 1..200), hourly in 1usize..30) {
            let all = snapshots(&times);
            let keep = Keep { hourly, ..Keep::default() };
            let verdicts = decide(&all, &keep, &TimeZone::UTC);
            let hours: std::collections::BTreeSet<i64> = times.iter().map(|t| t / 3600).collect();
            let kept = verdicts.values().filter(|v| !v.is_empty()).count();
            prop_assert_eq!(kept, hours.len().min(hourly));
            let newest = all.iter().max_by_key(|(id, time)| (*time, *id)).unwrap().0;
            prop_assert!(!verdicts[&newest].is_empty());
        }
    }
}
