//! The manual page in roff: the overview, every page, every flag.

use std::fmt::Write as _;

use super::{OVERVIEW, PAGES};
use crate::cli::{FLAGS, PROGRAM};

/// The page, for section 1.
pub(super) fn man() -> String {
    let mut page = format!(".TH GO-CACHE-PLUGIN 1 \"\" \"{PROGRAM} {}\"\n", env!("CARGO_PKG_VERSION"));
    let name = format!(".SH NAME\n{PROGRAM} \\- a build cache for Go, shared through local disk and S3\n");
    page.push_str(&name.replace("go-cache", "go\\-cache").replace("cache-p", "cache\\-p"));
    as_it_is(&mut page, "Overview", OVERVIEW);
    page.push_str(".SH OPTIONS\n");
    // the page of all flags
    for section in PAGES.iter().filter(|page| page.name == "configure").flat_map(|page| page.sections) {
        writeln!(page, ".SS {}", section.0).expect("a String takes all");
        for flag in FLAGS.iter().filter(|flag| flag.section == *section) {
            let value = flag.value.map(|value| format!(" \\fI{}\\fR", escaped(value))).unwrap_or_default();
            let homes: Vec<&str> = flag.modes.iter().filter_map(|mode| mode.name()).collect();
            let of = if homes.is_empty() { String::new() } else { format!("{}: ", homes.join(", ")) };
            writeln!(
                page,
                ".TP\n\\fB{}\\fR{value}\n{}",
                escaped(&flag.spelling()),
                escaped(&format!("{of}{}", flag.help))
            )
            .expect("a String takes all");
            if !flag.default.is_empty() {
                writeln!(page, "Default: {}.", escaped(flag.default)).expect("a String takes all");
            }
            if !flag.variable.is_empty() {
                writeln!(page, "Variable: \\fB{}\\fR.", flag.variable).expect("a String takes all");
            }
        }
    }
    for of in PAGES {
        let usage = of.usage.map_or_else(String::new, |usage| format!("{PROGRAM} {usage}\n\n"));
        as_it_is(&mut page, of.name, &format!("{usage}{}", of.text));
    }
    page
}

/// A section whose lines stay as they are.
fn as_it_is(page: &mut String, name: &str, text: &str) {
    write!(page, ".SH {}\n.nf\n", escaped(&name.to_uppercase())).expect("a String takes all");
    for line in text.trim_end().lines() {
        writeln!(page, "{}", escaped(line)).expect("a String takes all");
    }
    page.push_str(".fi\n");
}

/// A line in which nothing is an order to the formatter.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}
