//! What `go env` says to who looks for what is wrong.

use std::fs;

use super::super::goenv::GoEnv;
use super::super::status::Mark;
use super::Findings;

/// The first minor version of Go 1 that knows GOCACHEPROG.
const OLDEST: u32 = 24;
/// What is asked for.
const NAMES: [&str; 7] = ["GOCACHEPROG", "GOFLAGS", "GOVERSION", "GOPROXY", "GOENV", "CGO_ENABLED", "CC"];
/// What jobs have to agree on, so that each notices where a variable hides what was set for good.
const SHADOWED: [&str; 3] = ["GOCACHEPROG", "GOFLAGS", "GOPROXY"];

/// Asks `go`, and says how old it is.
pub fn look(found: &mut Findings) -> Option<GoEnv> {
    let answer = GoEnv::ask(&NAMES, true);
    let version = answer.as_ref().map_err(String::clone).and_then(|env| check(env.get("GOVERSION")));
    found.outcome("go", version);
    let env = answer.ok()?;
    let file = fs::read_to_string(env.get("GOENV")).unwrap_or_default();
    for name in SHADOWED {
        let set = file.lines().filter_map(|line| line.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v);
        if let Some(set) = set.filter(|set| *set != env.get(name)) {
            let text = format!(
                "the variable says {:?} and hides what go env -w has set, {set:?}: who builds \
                without the variable builds otherwise",
                env.get(name)
            );
            found.add(Mark::Note, name, text);
        }
    }
    Some(env)
}

fn check(version: &str) -> Result<String, String> {
    match minor(version) {
        Some(minor) if minor < OLDEST => Err(format!("{version} is too old, GOCACHEPROG needs go1.{OLDEST}")),
        // a development version has no number and is new
        Some(_) => Ok(version.to_string()),
        None if version.starts_with("devel") => Ok(version.to_string()),
        None => Err(format!("\"go env GOVERSION\" says {version:?}")),
    }
}

/// The 24 of `go1.24.3`.
fn minor(version: &str) -> Option<u32> {
    let digits: String = version.strip_prefix("go1.")?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Splits as `go` splits GOCACHEPROG and CC: at blanks, where a word may stand in quotes, without escapes.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let blank = [' ', '\t', '\n', '\r'];
    let (mut words, mut rest) = (Vec::new(), text.trim_start_matches(blank));
    while let Some(first) = rest.chars().next() {
        let (word, after) = if matches!(first, '"' | '\'') {
            rest[1..].split_once(first).ok_or_else(|| format!("{text:?}: no second {first}"))?
        } else {
            rest.split_at(rest.find(blank).unwrap_or(rest.len()))
        };
        words.push(word.to_string());
        rest = after.trim_start_matches(blank);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go() {
        assert_eq!(minor("go1.24.3"), Some(24));
        assert_eq!(minor("go1.27rc1"), Some(27));
        assert_eq!(minor("devel go1.28-abc"), None);
        assert_eq!(minor(""), None);
    }

    #[test]
    fn words_are_split_as_go_splits_them() {
        let of = |text: &str| split(text).unwrap();
        assert_eq!(of(" a  '--b c'\t\"d'\" e'f' "), ["a", "--b c", "d'", "e'f'"]);
        assert!(of("").is_empty());
        assert!(split("a 'b").is_err());
    }
}
