//! Figures of several runs, and what they are held against.

use crate::measure::Sample;
use crate::tools::OURS;

/// The middle of some figures, and their ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// `None` of none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (least, most) = (*figures.first()?, *figures.last()?);
        let (low, high) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
        Some(Self {
            median: f64::midpoint(low, high),
            least,
            most,
        })
    }
}

/// What a ratio is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

impl Wanted {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
        }
    }
}

/// A row of the targets: our figure against the peers' best, smaller being better.
pub(crate) fn target(what: &str, figures: &[(&str, f64)], unit: &str, wanted: Wanted) -> String {
    let ours = figures.iter().find(|(name, _)| *name == OURS);
    let best = figures
        .iter()
        .filter(|(name, _)| *name != OURS)
        .min_by(|a, b| a.1.total_cmp(&b.1));
    let (Some((_, ours)), Some((peer, best))) = (ours, best) else {
        return format!("| {what} | | | | | not measured |\n");
    };
    let (ratio, sign, bound) = match wanted {
        Wanted::AtLeast(bound) => (best / ours, "at least", bound),
        Wanted::AtMost(bound) => (ours / best, "at most", bound),
    };
    let verdict = if wanted.is_met(ratio) {
        "met"
    } else {
        "**not met**"
    };
    format!(
        "| {what} | {ours:.2} {unit} | {best:.2} {unit} ({peer}) | {ratio:.2} | {sign} {bound} | {verdict} |\n"
    )
}

/// The head of a table of [`target`]s.
pub(crate) const TARGETS: &str =
    "| target | ours | the best peer | ratio | wanted | |\n|---|---|---|---|---|---|\n";

/// A row of one tool at one step; with rates, where it is known of how many bytes.
pub(crate) fn row(name: &str, samples: &[Sample], logical: Option<u64>) -> String {
    let spread = |figure: fn(&Sample) -> f64| Spread::of(samples.iter().map(figure));
    let (Some(wall), Some(cpu)) = (spread(|s| s.wall), spread(|s| s.cpu)) else {
        return String::new();
    };
    let peak = spread(|s| s.peak as f64).map_or(0.0, |s| s.median / f64::from(1 << 20));
    let others = spread(|s| s.others).map_or(0.0, |s| s.median * 100.0);
    let rates = logical.map_or((String::new(), String::new()), |bytes| {
        let gigabytes = bytes as f64 / 1e9;
        (
            format!("{:.0}", gigabytes * 1e3 / wall.median),
            format!("{:.1}", cpu.median / gigabytes),
        )
    });
    format!(
        "| {name} | {:.2} ({:.2} to {:.2}) | {} | {:.2} | {} | {peak:.0} | {others:.0} % |\n",
        wall.median, wall.least, wall.most, rates.0, cpu.median, rates.1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn half_of_all_is_on_either_side_of_the_median(figures in prop::collection::vec(0.0..1e6, 1..9)) {
            let spread = Spread::of(figures.clone()).unwrap();
            let below = figures.iter().filter(|f| **f <= spread.median).count();
            let above = figures.iter().filter(|f| **f >= spread.median).count();
            prop_assert!(2 * below >= figures.len() && 2 * above >= figures.len());
            prop_assert!(figures.iter().all(|f| (spread.least..=spread.most).contains(f)));
        }
    }

    #[test]
    fn a_target_is_held_against_the_best_peer() {
        let figures = [("slow", 30.0), (OURS, 5.0), ("fast", 10.0)];
        let met = target("wall", &figures, "s", Wanted::AtLeast(2.0));
        assert_eq!(
            met,
            "| wall | 5.00 s | 10.00 s (fast) | 2.00 | at least 2 | met |\n"
        );
        let missed = target("CPU", &figures, "s", Wanted::AtMost(0.4));
        assert_eq!(
            missed,
            "| CPU | 5.00 s | 10.00 s (fast) | 0.50 | at most 0.4 | **not met** |\n"
        );
        for lacking in [&figures[..1], &figures[1..2]] {
            assert!(target("wall", lacking, "s", Wanted::AtLeast(2.0)).contains("not measured"));
        }
    }

    #[test]
    fn a_row_has_medians_and_rates() {
        let sample = |wall| Sample {
            wall,
            cpu: 2.0 * wall,
            peak: 3 << 20,
            others: 0.25,
        };
        let told = row(
            "x",
            &[sample(4.0), sample(1.0), sample(2.0)],
            Some(4_000_000_000),
        );
        assert_eq!(
            told,
            "| x | 2.00 (1.00 to 4.00) | 2000 | 4.00 | 1.0 | 3 | 25 % |\n"
        );
        assert!(row("x", &[sample(1.0)], None).contains("|  | 2.00 |  |"));
    }
}
