//! The help pages: one table, from which pages, the overview and what else lists commands are made. The
//! flags on a page come from the table that drives parsing.
//!
//! Invariants: each command has a page of its own; what a page's text indents below a line "Examples:" is
//! command lines, each for a shell, and nothing else is.

mod man;
mod shell;

use std::fmt::Write as _;

use crate::cli::{FLAGS, Flag, Mode, PROGRAM, Section};

/// A page of help.
pub struct Page {
    /// What `help` calls it: a command, or a topic.
    pub name: &'static str,
    /// How a command is written, after the program's name; `None` for a topic.
    pub usage: Option<&'static str>,
    /// One line on what it does, or is about.
    pub summary: &'static str,
    /// The text, with its examples.
    pub text: &'static str,
    /// The flags that are its own.
    pub sections: &'static [Section],
    /// Names of others that matter there.
    pub flags: &'static [&'static str],
}

macro_rules! pages {
    ($( $name:literal, $usage:expr, $summary:literal, [$($section:ident)*], [$($flag:literal)*]; )*) => {
        /// Every page: the commands, then the topics.
        pub static PAGES: &[Page] = &[ $( Page {
            name: $name, usage: $usage, summary: $summary, text: include_str!(concat!("help/", $name, ".txt")),
            sections: &[$(Section::$section),*], flags: &[$($flag),*],
        }, )* ];
    };
}

pages! {
    "direct-mode", Some("[flags]"), "speak GOCACHEPROG on stdin and stdout, as a child of each go command",
        [], ["cache-dir" "bucket" "prefix" "read-only" "expiry" "max-cache-size" "close-timeout" "scope" "v"];
    "run", Some("run [flags] CMD..."), "run CMD with the cache set up for it",
        [], ["settle" "cache-dir" "bucket" "prefix" "read-only" "close-timeout" "http" "modproxy" "upstream" "offline" "v"];
    "serve", Some("serve --plugin=PORT|PATH [flags]"), "keep one cache for many go commands",
        [LISTEN], ["cache-dir" "bucket" "prefix" "read-only" "max-cache-size" "modproxy" "revproxy" "v"];
    "connect", Some("connect [ADDR]"), "let a go command use the cache of serve",
        [], ["strict" "scope" "v"];
    "doctor", Some("doctor [flags]"), "say whether builds will use the cache, and what to set next",
        [], ["cache-dir" "bucket" "region" "s3-endpoint-url" "s3-path-style" "prefix" "write-prefix" "read-only"
         "modproxy" "upstream" "sumdb"];
    "status", Some("status [flags]"), "say what the cache holds, and what is owed to the bucket",
        [], ["cache-dir" "bucket" "prefix" "write-prefix" "read-only"];
    "summary", Some("summary [FILE]"), "add up what a job's go commands came to", [], ["summary"];
    "settle", Some("settle [DIR]"), "give unchanged sources lasting times, so that a fresh checkout has cached tests",
        [], ["dry-run" "modes" "json" "v"];
    "push", Some("push [flags]"), "send what the local cache has to the bucket",
        [PUSH], ["cache-dir" "bucket" "prefix" "signing-key-file" "min-upload-size" "u"];
    "pull", Some("pull [flags]"), "fetch all that a scope's builds use",
        [], ["cache-dir" "bucket" "prefix" "scope" "verify-key-file"];
    "prune", Some("prune [flags]"), "remove what is unused, here or in the bucket",
        [PRUNE], ["cache-dir" "expiry" "max-cache-size" "bucket" "prefix" "refresh-after"];
    "clear", Some("clear --local | --bucket=BUCKET --prefix=PREFIX"), "empty the local cache, or a bucket's prefix",
        [CLEAR], ["cache-dir" "bucket" "prefix" "region" "s3-endpoint-url" "s3-path-style"];
    "mod", Some("mod WHAT..."), "fetch, export, import, list or remove modules",
        [MOD], ["cache-dir" "bucket" "upstream" "mod-private" "sumdb" "mod-verify" "offline"];
    "keygen", Some("keygen FILE | --token NAME"), "make a pair of keys for signatures, or a token for HTTP",
        [KEYGEN], [];
    "help", Some("help [COMMAND | TOPIC]"), "show a page of help", [], [];
    "version", Some("version [--json | --licenses]"), "say what this program is, and of what it is made", [VERSION], [];

    "configure", None, "flags, how they are written, and all of them",
        [CACHE BUCKET LOG LISTEN ACCESS MOD_PROXY MOD REV_PROXY PRUNE PUSH SETTLE CLEAR KEYGEN VERSION], [];
    "environment", None, "variables that stand in for flags", [], [];
    "bucket", None, "sharing through S3 or a directory; trust; layouts", [BUCKET], [];
    "readahead", None, "how a far bucket is made fast", [], ["scope" "no-readahead"];
    "http", None, "who may ask the HTTP server: names, tokens, TLS", [ACCESS KEYGEN], ["http"];
    "module-proxy", None, "a caching Go module proxy", [MOD_PROXY], ["http"];
    "reverse-proxy", None, "a caching proxy for chosen hosts", [REV_PROXY], ["http"];
    "debug", None, "logs, metrics and the status pages", [LOG], ["http"];
}

/// A page's name, its summary, and what writes it.
type Made = (&'static str, &'static str, fn() -> String);

/// Pages that are written by the tables alone, for other programs to read.
const MADE: &[Made] = &[
    ("man", "all of this as a manual page", man::man),
    ("bash", "completions for bash", shell::bash),
    ("zsh", "completions for zsh", shell::zsh),
    ("fish", "completions for fish", shell::fish),
];

/// What there are pages on: commands, or topics.
fn names(commands: bool) -> impl Iterator<Item = &'static str> {
    let pages = PAGES.iter().filter(move |page| page.usage.is_some() == commands).map(|page| page.name);
    pages.chain(MADE.iter().filter(move |_| !commands).map(|made| made.0))
}

/// The page called `word`, or the overview. The error names the pages.
pub fn page(word: Option<&str>) -> Result<String, String> {
    let Some(word) = word else { return Ok(overview()) };
    // as the original program calls it
    let name = if word == "serve-mode" { "serve" } else { word };
    if let Some((_, _, make)) = MADE.iter().find(|made| made.0 == name) {
        return Ok(make());
    }
    let Some(page) = PAGES.iter().find(|page| page.name == name) else {
        let [topics, commands] = [false, true].map(|commands| names(commands).collect::<Vec<_>>().join(", "));
        return Err(format!("no help on {word:?}: the topics are {topics}, and the commands {commands}"));
    };
    let mut out = page.usage.map_or_else(String::new, |usage| format!("Usage: {PROGRAM} {usage}\n\n"));
    out.push_str(page.text);
    if page.name == "environment" {
        variables(&mut out);
    }
    for section in page.sections {
        let of_section = FLAGS.iter().filter(|f| f.section == *section);
        flags(&mut out, section.0, of_section);
    }
    if !page.flags.is_empty() {
        flags(&mut out, "Flags that matter here", page.flags.iter().filter_map(|name| Flag::named(name)));
    }
    if page.usage.is_some() && !page.flags.is_empty() {
        out.push_str("\nAll flags: go-cache-plugin help configure\n");
    }
    Ok(out)
}

fn overview() -> String {
    let (mut commands, mut topics) = (String::new(), String::new());
    for Page { name, usage, summary, .. } in PAGES {
        let (out, name) = match usage {
            Some("[flags]") => (&mut commands, format!("({name})")),
            Some(_) => (&mut commands, name.to_string()),
            None => (&mut topics, name.to_string()),
        };
        writeln!(out, "  {name:<14} {summary}").expect("a String takes all");
    }
    for (name, summary, _) in MADE {
        writeln!(topics, "  {name:<14} {summary}").expect("a String takes all");
    }
    format!(
        "{OVERVIEW}\nCommands ({PROGRAM} [COMMAND] [flags]; without one, direct mode):\n{commands}\n\
         Topics ({PROGRAM} help COMMAND or TOPIC):\n{topics}"
    )
}

/// Lists `flags`; where all belong to the same commands, those stand in the title.
fn flags(page: &mut String, title: &str, flags: impl Iterator<Item = &'static Flag>) {
    let flags: Vec<&Flag> = flags.collect();
    let names = |modes: &[Mode]| modes.iter().filter_map(|m| m.name()).collect::<Vec<_>>().join(", ");
    write!(page, "\n{title}").expect("a String takes all");
    let homes = flags.first().map_or(&[][..], |first| first.modes);
    let all_alike = flags.iter().all(|flag| flag.modes == homes);
    if all_alike && !homes.is_empty() {
        write!(page, " ({})", names(homes)).expect("a String takes all");
    }
    page.push_str(":\n");
    for flag in flags {
        let value = flag.value.map(|v| format!(" {v}")).unwrap_or_default();
        writeln!(page, "  {}{value}", flag.spelling()).expect("a String takes all");
        write!(page, "      {}", flag.help).expect("a String takes all");
        if !flag.default.is_empty() {
            write!(page, "; default: {}", flag.default).expect("a String takes all");
        }
        if !all_alike && !flag.modes.is_empty() {
            write!(page, " ({})", names(flag.modes)).expect("a String takes all");
        }
        if !flag.variable.is_empty() {
            write!(page, " [{}]", flag.variable).expect("a String takes all");
        }
        page.push('\n');
    }
}

fn variables(page: &mut String) {
    page.push('\n');
    for flag in FLAGS.iter().filter(|f| !f.variable.is_empty()) {
        writeln!(page, "  {:<26} {}", flag.variable, flag.spelling()).expect("a String takes all");
    }
}

const OVERVIEW: &str = include_str!("help/overview.txt");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_on_a_page_and_in_the_readme() {
        let all = page(Some("configure")).unwrap();
        let environment = page(Some("environment")).unwrap();
        let readme = include_str!("../README.md");
        for flag in FLAGS {
            assert!(all.contains(&format!("  {}", flag.spelling())), "{}", flag.name);
            assert!(environment.contains(flag.variable), "{}", flag.name);
            // which have none, `environment` and README say
            let builds = |mode: &Mode| matches!(mode, Mode::Serve | Mode::Connect | Mode::Run);
            let task = !flag.modes.is_empty() && !flag.modes.iter().any(builds);
            assert_eq!(flag.variable.is_empty(), task, "{}", flag.name);
            let cell = format!("| `{}", flag.spelling());
            assert!(readme.contains(&cell) && readme.contains(flag.variable), "README: {}", flag.name);
            assert!(readme.contains(flag.help), "README: {}", flag.name);
            // what the pages say: those without a variable say what one call is to do
            assert!(!flag.variable.is_empty() || !flag.modes.is_empty(), "{} needs a variable", flag.name);
        }
    }

    #[test]
    fn each_command_has_a_page_with_two_examples() {
        for (name, _) in Mode::COMMANDS {
            assert!(PAGES.iter().any(|page| page.name == name && page.usage.is_some()), "{name}");
        }
        for p in PAGES {
            let text = page(Some(p.name)).unwrap();
            assert!(overview().contains(&format!("{:<14} {}", p.name, p.summary)) || p.name == "direct-mode");
            assert!(text.ends_with('\n') && p.text.lines().all(|line| line.len() <= 120), "{}", p.name);
            for name in p.flags {
                let takes = |flag: &Flag| Mode::named(p.name).is_none_or(|mode| flag.applies(mode));
                assert!(Flag::named(name).is_some_and(takes), "{}: --{name}", p.name);
            }
            let examples = p.text.split_once("\nExamples:\n").map_or("", |(_, examples)| examples);
            assert!(p.usage.is_none() || examples.lines().count() >= 2, "{}", p.name);
            assert!(examples.lines().all(|line| line.starts_with("  ")), "{}", p.name);
        }
        assert!(page(Some("nonsense")).unwrap_err().contains("the topics are configure, "));
        assert_eq!(page(Some("serve-mode")), page(Some("serve")));
    }
}
