//! Figures and the table that the benches print: Markdown rows on stdout, all else on stderr.

use std::io::{self, Write};
use std::sync::Mutex;
use std::time::Duration;

use super::turns;

/// Things of one kind, in the order they were taken: in our turns, and in the other program's.
#[derive(Clone, Debug)]
pub struct Turns<T>(pub Vec<T>, pub Vec<T>);

/// Measurements of one thing.
pub type Samples = Turns<f64>;

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Turns(vec![], vec![])
    }
}

impl<T> Turns<T> {
    /// Adds one to those of the program whose turn it is.
    pub fn push(&mut self, value: T) {
        if turns::is_other() { &mut self.1 } else { &mut self.0 }.push(value);
    }

    /// A figure of each.
    pub fn map(&self, figure: impl Fn(&T) -> f64) -> Samples {
        Turns(self.0.iter().map(&figure).collect(), self.1.iter().map(&figure).collect())
    }
}

impl Samples {
    /// One measurement of ours.
    pub fn one(value: f64) -> Self {
        Turns(vec![value], vec![])
    }

    /// Adds a time, in seconds.
    pub fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64());
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

    /// Each measurement by the one of `base` taken in the same round; of a base that is the same
    /// for both programs, the other's are left out.
    pub fn by(&self, base: &Samples) -> Samples {
        let by = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a / b).collect();
        Turns(by(&self.0, &base.0), by(&self.1, &base.1))
    }

    /// `median (least to most)` in `unit`, each divided by the unit's size.
    pub fn show(&self, unit: &str) -> String {
        let scale = match unit {
            "ms" => 1e-3,
            "µs" => 1e-6,
            "MB" | "MB/s" => 1e6,
            "MiB" => (1 << 20) as f64,
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
    let (head, line) = if turns::two() { (" by the other |", "---|") } else { ("", "") };
    print(&format!(
        "\n**{title}**\n\n| what | ours | baseline | ratio | required |{head}\n|---|---|---|---|---|{line}"
    ));
}

/// Prints a row: `ratio` is what `bound` is about, and stands in its column.
pub fn row(what: &str, ours: &str, baseline: &str, ratio: f64, bound: Bound) {
    print_row(what, ours, baseline, ratio, bound, "");
}

/// The same of measurements, which stand beside the other program's if there is one.
pub fn measured(what: &str, ours: &Samples, unit: &str, baseline: &str, ratio: f64, bound: Bound) {
    let by_other = Turns(ours.0.clone(), vec![]).by(&Turns(ours.1.clone(), vec![])).median();
    // of what is done in a second, more is better
    let cost = if unit.ends_with("/s") { by_other.recip() } else { by_other };
    let mut other = String::new();
    if cost.is_finite() {
        other = format!(" {by_other:.3}{} |", if cost > 1.03 { " **worse**" } else { "" });
        let mut worst = WORST.lock().expect("no holder panics");
        if worst.as_ref().is_none_or(|(most, _)| cost > *most) {
            *worst = Some((cost, what.to_string()));
        }
    }
    print_row(what, &ours.show(unit), baseline, ratio, bound, &other);
}

/// The row that costs us most by the other program, and how much.
static WORST: Mutex<Option<(f64, String)>> = Mutex::new(None);

/// Prints the row in which we are worst beside the other program, if there is one.
pub fn worst() {
    if let Some((cost, what)) = WORST.lock().expect("no holder panics").take() {
        print(&format!("\nworst by the other: {cost:.3}, {what}"));
    }
}

fn print_row(what: &str, ours: &str, baseline: &str, ratio: f64, bound: Bound, other: &str) {
    let figure = if ratio.is_nan() { String::new() } else { format!("{ratio:.2}") };
    let (bound, met) = match bound {
        Bound::Most(m) => (format!("≤ {m}"), ratio <= m),
        Bound::Least(m) => (format!("≥ {m}"), ratio >= m),
        Bound::Free => (String::new(), true),
    };
    let missed = if met { "" } else { " **missed**" };
    let other = if other.is_empty() && turns::two() { " |" } else { other };
    print(&format!("| {what} | {ours} | {baseline} | {figure} | {bound}{missed} |{other}"));
}

/// Prints a row of paired times: the ratio is the median of the rounds' ratios.
pub fn paired(what: &str, ours: &Samples, baseline: &Samples, bound: Bound) {
    measured(what, ours, "s", &baseline.show("s"), ours.by(baseline).median(), bound);
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
