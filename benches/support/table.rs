//! Figures and the table that the benches print: Markdown rows on stdout, all else on stderr.

use std::io::{self, Write};
use std::time::Duration;

/// Measurements of one thing, in the order they were taken.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// Adds a measurement.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a time, in seconds.
    pub fn push_time(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64());
    }

    /// The value below which `share` (0 to 1) of the measurements lie.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n => sorted[((n - 1) as f64 * share).round() as usize],
        }
    }

    /// The middle one; of an even number, the mean of the two.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
        }
    }

    /// The sum.
    pub fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    /// Each measurement by the one of `base` taken in the same round.
    pub fn by(&self, base: &Samples) -> Samples {
        Samples(self.0.iter().zip(&base.0).map(|(a, b)| a / b).collect())
    }

    /// `median (least to most)` in `unit`, each divided by the unit's size.
    pub fn show(&self, unit: &str) -> String {
        let scale = match unit {
            "ms" => 1e-3,
            "µs" => 1e-6,
            "MB" | "MB/s" => 1e6,
            "%" => 0.01,
            _ => 1.0,
        };
        let number = |v: f64| match v / scale {
            v if v.abs() >= 100.0 || v == v.trunc() => format!("{v:.0}"),
            v if v.abs() >= 10.0 => format!("{v:.1}"),
            v => format!("{v:.2}"),
        };
        match self.0.len() {
            0 => "—".into(),
            1 => format!("{} {unit}", number(self.median())),
            _ => {
                let (least, most) = (number(self.quantile(0.0)), number(self.quantile(1.0)));
                format!("{} {unit} ({least}–{most})", number(self.median()))
            }
        }
    }
}

/// What a figure has to be.
#[derive(Clone, Copy)]
pub enum Bound {
    /// At most this.
    Most(f64),
    /// At least this.
    Least(f64),
    /// Shown for information.
    Free,
}

/// Prints a section's head.
pub fn section(title: &str) {
    print(&format!("\n**{title}**\n\n| what | ours | baseline | ratio | required |\n|---|---|---|---|---|"));
}

/// Prints a row: `ratio` is what `bound` is about, and stands in its column.
pub fn row(what: &str, ours: &str, baseline: &str, ratio: f64, bound: Bound) {
    let figure = if ratio.is_nan() { String::new() } else { format!("{ratio:.2}") };
    let (bound, met) = match bound {
        Bound::Most(m) => (format!("≤ {m}"), ratio <= m),
        Bound::Least(m) => (format!("≥ {m}"), ratio >= m),
        Bound::Free => (String::new(), true),
    };
    let missed = if met { "" } else { " **missed**" };
    print(&format!("| {what} | {ours} | {baseline} | {figure} | {bound}{missed} |"));
}

/// Prints a row of paired times: the ratio is the median of the rounds' ratios.
pub fn paired(what: &str, ours: &Samples, baseline: &Samples, bound: Bound) {
    row(what, &ours.show("s"), &baseline.show("s"), ours.by(baseline).median(), bound);
}

/// Prints a line on stdout.
pub fn print(line: &str) {
    // a closed stdout ends the bench soon enough
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Says on stderr how far the bench is.
pub fn progress(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
