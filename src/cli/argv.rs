//! The pre-pass over argv: Go's spelling in, argh's out.
//!
//! Go writes `--flag value`, `--flag=value`, `-flag value`, `-flag=value`, and bools `--flag` or
//! `--flag=false`; a flag may stand before or after the subcommand and the last one wins. argh
//! takes `--flag value` once, before the subcommand. Nothing is validated here but the words.

use std::ffi::{OsStr, OsString};

use super::PROGRAM;
use super::flags::{AS_SET, FLAGS, Flag, Mode};
use crate::error::Error;

/// A command line put into order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The subcommand, or direct mode.
    pub mode: Mode,
    /// Whether help was asked for with a flag.
    pub help: bool,
    /// Flags as `--name value`.
    pub argv: Vec<String>,
    /// The word that the subcommand takes; empty without one.
    pub word: String,
    /// What `run` is to run, untouched; the words of `mod` after its first.
    pub command: Vec<OsString>,
}

/// Puts `args` (without the program's name) into order.
pub(super) fn tidy(args: &[OsString]) -> Result<Line, Error> {
    let mut flags: Vec<(&'static Flag, String)> = Vec::new();
    let mut words = Vec::new();
    let mut mode = Mode::Direct;
    let (mut help, mut version) = (false, false);
    let mut command = Vec::new();
    let mut flags_ended = false;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let starts_command = mode == Mode::Run && (flags_ended || !is_flag(arg));
        if starts_command {
            command.push(arg.clone());
            command.extend(rest.by_ref().cloned());
            break;
        }
        let text = utf8(arg)?;
        if !flags_ended && text == "--" {
            flags_ended = true;
        } else if flags_ended || !is_flag(arg) {
            if mode == Mode::Direct {
                mode = Mode::named(text).ok_or_else(|| unknown_command(text, flags.last().map(|f| f.0)))?;
            } else {
                words.push(text.to_string());
            }
        } else {
            let (name, value) = split(text)?;
            if matches!(name, "help" | "h" | "version") {
                *(if name == "version" { &mut version } else { &mut help }) = true;
                continue;
            }
            let flag = Flag::named(name).ok_or_else(|| unknown_flag(name))?;
            let value = match (value, flag.value) {
                (Some(v), _) => v.to_string(),
                (None, None) => "true".to_string(),
                (None, Some(_)) if flag.name == "bucket" && rest.as_slice().first().is_none_or(|a| is_flag(a)) => {
                    AS_SET.to_string()
                }
                (None, Some(what)) => {
                    let Some(next) = rest.next() else {
                        return Err(Error::usage(format!("{} needs a value ({what})", flag.spelling())));
                    };
                    utf8(next)?.to_string()
                }
            };
            let before = flags.iter().position(|(other, _)| other.name == flag.name).map(|at| flags.remove(at).1);
            let before = before.filter(|_| flag.repeats()).map(|before| before + "\0");
            flags.push((flag, before.unwrap_or_default() + &value));
        }
    }
    if version && !help {
        (mode, flags, words) = (Mode::Version, Vec::new(), Vec::new());
    }
    if !help {
        for (flag, value) in &flags {
            check_mode(flag, mode)?;
            if value == AS_SET && !matches!(mode, Mode::Prune | Mode::Push | Mode::Status) {
                return Err(Error::usage("--bucket needs a value (NAME)"));
            }
        }
    }
    let (name, what) = (mode.name().unwrap_or_default(), mode.word());
    if mode == Mode::Mod && !words.is_empty() {
        command = words.split_off(1).into_iter().map(OsString::from).collect();
    }
    if let Some(extra) = words.get(usize::from(what.is_some())) {
        return Err(Error::usage(format!("{name} takes no {extra:?}: see \"go-cache-plugin help\"")));
    }
    let word = words.pop();
    // a token has a name without one, a variable may name the server or the file, and a work tree is found
    let optional = matches!(mode, Mode::Help | Mode::Connect | Mode::Summary | Mode::Settle)
        || flags.iter().any(|(flag, _)| flag.name == "token");
    if let Some(what) = what.filter(|_| word.is_none() && !optional && !help) {
        return Err(Error::usage(format!("{name} needs {what}: see \"go-cache-plugin help {name}\"")));
    }
    let argv = flags.into_iter().flat_map(|(flag, value)| [format!("--{}", flag.name), value]).collect();
    Ok(Line { mode, help, argv, word: word.unwrap_or_default(), command })
}

/// Whether Go would take `arg` for a flag: a lone dash is a word.
fn is_flag(arg: &OsStr) -> bool {
    let bytes = arg.as_encoded_bytes();
    bytes.len() > 1 && bytes[0] == b'-'
}

fn utf8(arg: &OsStr) -> Result<&str, Error> {
    arg.to_str().ok_or_else(|| Error::usage(format!("argument {arg:?}: not valid UTF-8")))
}

/// Splits `-name`, `--name`, `-name=value`, `--name=value`.
fn split(text: &str) -> Result<(&str, Option<&str>), Error> {
    let bare = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).unwrap_or(text);
    let (name, value) = match bare.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (bare, None),
    };
    if name.is_empty() || name.starts_with('-') {
        return Err(Error::usage(format!("argument {text:?}: not a flag")));
    }
    Ok((name, value))
}

fn check_mode(flag: &Flag, mode: Mode) -> Result<(), Error> {
    if flag.applies(mode) {
        return Ok(());
    }
    let spelling = flag.spelling();
    let homes: Vec<String> = flag.modes.iter().filter_map(|m| m.name()).map(|n| format!("{n:?}")).collect();
    let homes = homes.join(" and ");
    Err(Error::usage(match (mode.name(), flag.modes.first().and_then(|m| m.name())) {
        (None, Some(home)) => {
            format!("{spelling} is a flag of {homes}: write \"go-cache-plugin {home} {spelling} …\"")
        }
        (Some(name), Some(_)) => format!("{spelling} is a flag of {homes}, not of {name:?}"),
        (_, None) => format!("{spelling} has no meaning for {:?}", mode.name().unwrap_or(PROGRAM)),
    }))
}

fn unknown_flag(name: &str) -> Error {
    let near = closest(name, FLAGS.iter().map(|f| f.name)).and_then(Flag::named);
    let hint = match near {
        Some(flag) => format!("did you mean {}?", flag.spelling()),
        None => "see \"go-cache-plugin help configure\"".to_string(),
    };
    Error::usage(format!("unknown flag --{}: {hint}", name.escape_debug()))
}

fn unknown_command(word: &str, before: Option<&Flag>) -> Error {
    let bool_before = before.filter(|f| f.value.is_none());
    let hint = match (bool_before, closest(word, Mode::COMMANDS.iter().map(|c| c.0))) {
        (Some(flag), _) if super::value::boolean(word).is_some() => {
            format!("to set {0}, write {0}={word}", flag.spelling())
        }
        (_, Some(near)) => format!("did you mean {near:?}?"),
        _ => "see \"go-cache-plugin help\"".to_string(),
    };
    Error::usage(format!("unknown command {word:?}: {hint}"))
}

/// The candidate at most two edits from `word`, and less than half of it.
fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let best = candidates.map(|c| (edits(word, c), c)).min()?;
    (best.0 <= 2 && best.0 * 2 < word.len()).then_some(best.1)
}

/// Levenshtein distance in bytes; long words are far from everything.
fn edits(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &[&str]) -> Result<Line, Error> {
        tidy(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn argv(args: &[&str]) -> Vec<String> {
        line(args).expect("parses").argv
    }

    #[test]
    fn every_go_spelling_comes_out_the_same() {
        let want = ["--prefix", "x"];
        for args in [&["--prefix", "x"][..], &["--prefix=x"], &["-prefix", "x"], &["-prefix=x"]] {
            assert_eq!(argv(args), want, "{args:?}");
        }
        assert_eq!(argv(&["-c", "4", "--u=2", "-v"]), ["--c", "4", "--u", "2", "--v", "true"]);
        assert_eq!(argv(&["--prefix=a=b"]), ["--prefix", "a=b"]);
        assert_eq!(argv(&["--prefix", "--v"]), ["--prefix", "--v"]);
        assert_eq!(argv(&["--prefix="]), ["--prefix", ""]);
    }

    #[test]
    fn bools_fold_and_do_not_take_the_next_word() {
        assert_eq!(argv(&["--metrics=false"]), ["--metrics", "false"]);
        assert_eq!(argv(&["--modproxy", "serve"]), ["--modproxy", "true"]);
    }

    #[test]
    fn flags_stand_before_or_after_the_command_and_the_last_wins() {
        let want = ["--prefix", "b"];
        assert_eq!(argv(&["--prefix=b", "serve"]), want);
        assert_eq!(argv(&["serve", "--prefix=b"]), want);
        assert_eq!(argv(&["--prefix=a", "serve", "-prefix", "b"]), want);
    }

    #[test]
    fn words_after_two_dashes_are_words() {
        let of = |args| line(args).map(|line| (line.argv.join(" "), line.word)).expect("parses");
        assert_eq!(of(&["connect", "--", "-v"]), (String::new(), "-v".to_string()));
        assert_eq!(of(&["connect", "5930", "-v"]), ("--v true".to_string(), "5930".to_string()));
    }

    #[test]
    fn run_hands_its_command_over_untouched() {
        let want: Vec<OsString> = ["go", "build", "-v", "--prefix=x", "--"].map(OsString::from).into();
        for args in [
            &["run", "-v", "go", "build", "-v", "--prefix=x", "--"][..],
            &["-v", "run", "--", "go", "build", "-v", "--prefix=x", "--"],
        ] {
            let line = line(args).expect("parses");
            assert_eq!(line.command, want);
            assert_eq!(line.argv, ["--v", "true"]);
        }
        use std::os::unix::ffi::OsStringExt;
        let raw = OsString::from_vec(vec![0xff]);
        let line = tidy(&["run".into(), "echo".into(), raw.clone()]).expect("parses");
        assert_eq!(line.command[1], raw);
    }

    #[test]
    fn errors_say_what_to_write() {
        for (args, want) in [
            (&["--bukcet=x"][..], "unknown flag --bukcet: did you mean --bucket?"),
            (&["--zzz"], "unknown flag --zzz: see \"go-cache-plugin help configure\""),
            (&["sevre"], "unknown command \"sevre\": did you mean \"serve\"?"),
            (&["--metrics", "false"], "unknown command \"false\": to set --metrics, write --metrics=false"),
            (&["--bucket"], "--bucket needs a value (NAME)"),
            (&["---bucket=x"], "argument \"---bucket=x\": not a flag"),
            (&["--=x"], "argument \"--=x\": not a flag"),
            (&["--plugin=1"], "--plugin is a flag of \"serve\": write \"go-cache-plugin serve --plugin …\""),
            (&["run", "--revproxy=h", "go"], "--revproxy is a flag of \"serve\", not of \"run\""),
        ] {
            assert_eq!(line(args), Err(Error::usage(want)));
        }
    }

    #[test]
    fn help_is_found_anywhere_but_in_the_command_of_run() {
        assert!(line(&["serve", "-h"]).expect("parses").help);
        assert!(line(&["--help"]).expect("parses").help);
        assert!(!line(&["run", "go", "--help"]).expect("parses").help);
    }
}
