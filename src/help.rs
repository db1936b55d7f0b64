//! The help texts. The tables of flags and variables come from the table that drives parsing.

mod man;
mod shell;

use std::fmt::Write as _;

use crate::cli::{FLAGS, Flag, Mode, Section};

/// A page of help.
struct Topic {
    name: &'static str,
    summary: &'static str,
    text: &'static str,
    /// The flags listed below the text.
    sections: &'static [Section],
}

const fn topic(name: &'static str, summary: &'static str, text: &'static str, sections: &'static [Section]) -> Topic {
    Topic { name, summary, text, sections }
}

const TOPICS: &[Topic] = &[
    topic("configure", "flags, how they are written, and all of them", CONFIGURE, ALL_SECTIONS),
    topic("environment", "variables that stand in for flags", ENVIRONMENT, &[]),
    topic("direct-mode", "the cache as a child of each go command", DIRECT, &[]),
    topic("serve-mode", "one cache process for many go commands", SERVE, &[Section::Listen]),
    topic("http", "who may ask the HTTP server: names, tokens, TLS", HTTP, &[Section::Access, Section::Keygen]),
    topic("run", "the cache for one command and its children", RUN, &[Section::ModProxy]),
    topic("settle", "cached tests on a fresh checkout", SETTLE, &[Section::Settle]),
    topic("bucket", "sharing through S3 or a directory; trust; layouts", BUCKET, &[Section::Bucket]),
    topic("readahead", "how a far bucket is made fast", READAHEAD, &[]),
    topic("module-proxy", "a caching Go module proxy", MODULE_PROXY, &[Section::ModProxy]),
    topic("mod", "modules for machines without a network", MOD, &[Section::Mod]),
    topic("reverse-proxy", "a caching proxy for chosen hosts", REVERSE_PROXY, &[Section::RevProxy]),
    topic("debug", "logs, metrics and the status pages", DEBUG, &[Section::Log]),
    topic(
        "maintenance",
        "status, prune, push, clear and doctor",
        MAINTENANCE,
        &[Section::Prune, Section::Push, Section::Clear],
    ),
];

/// A page's name, its summary, and what writes it.
type Made = (&'static str, &'static str, fn() -> String);

/// Pages that are written by the tables alone, for other programs to read.
const MADE: &[Made] = &[
    ("man", "all of this as a manual page", man::man),
    ("bash", "completions for bash", shell::bash),
    ("zsh", "completions for zsh", shell::zsh),
    ("fish", "completions for fish", shell::fish),
];

/// What there are pages on.
fn names() -> impl Iterator<Item = &'static str> {
    TOPICS.iter().map(|topic| topic.name).chain(MADE.iter().map(|made| made.0))
}

const ALL_SECTIONS: &[Section] = &[
    Section::Cache,
    Section::Bucket,
    Section::Log,
    Section::Listen,
    Section::Access,
    Section::ModProxy,
    Section::Mod,
    Section::RevProxy,
    Section::Prune,
    Section::Push,
    Section::Settle,
    Section::Clear,
    Section::Keygen,
    Section::Version,
];

/// The page on `word`, a topic or a command, or the overview. The error names the topics.
pub fn page(word: Option<&str>) -> Result<String, String> {
    let name = match word {
        None | Some("help" | "version") => return Ok(overview()),
        Some("summary") => "run",
        Some("serve" | "connect") => "serve-mode",
        Some("keygen") => "bucket",
        Some("pull") => "readahead",
        Some("status" | "prune" | "push" | "clear" | "doctor") => "maintenance",
        Some(word) => word,
    };
    if let Some((_, _, make)) = MADE.iter().find(|made| made.0 == name) {
        return Ok(make());
    }
    let Some(topic) = TOPICS.iter().find(|topic| topic.name == name) else {
        let names: Vec<&str> = names().collect();
        return Err(format!("no help on {name:?}: the topics are {}", names.join(", ")));
    };
    let mut page = topic.text.to_string();
    if topic.name == "environment" {
        variables(&mut page);
    }
    for section in topic.sections {
        flags(&mut page, *section);
    }
    Ok(page)
}

fn overview() -> String {
    let mut page = OVERVIEW.to_string();
    page.push_str("\nTopics (go-cache-plugin help TOPIC):\n");
    let made = MADE.iter().map(|(name, summary, _)| (*name, *summary));
    for (name, summary) in TOPICS.iter().map(|topic| (topic.name, topic.summary)).chain(made) {
        writeln!(page, "  {name:<14} {summary}").expect("a String takes all");
    }
    page
}

fn title(section: Section) -> &'static str {
    match section {
        Section::Cache => "Local cache",
        Section::Bucket => "Bucket",
        Section::Log => "Logs and metrics",
        Section::Listen => "Listening",
        Section::ModProxy => "Module proxy",
        Section::Mod => "Modules",
        Section::RevProxy => "Reverse proxy",
        Section::Prune => "Prune a bucket",
        Section::Push => "Push",
        Section::Settle => "Settle",
        Section::Clear => "Clear",
        Section::Access => "Who may ask over HTTP",
        Section::Keygen => "Tokens",
        Section::Version => "Version",
    }
}

fn flags(page: &mut String, section: Section) {
    write!(page, "\n{}", title(section)).expect("a String takes all");
    let of_section: Vec<&Flag> = FLAGS.iter().filter(|f| f.section == section).collect();
    let names = |modes: &[Mode]| modes.iter().filter_map(|m| m.name()).collect::<Vec<_>>().join(", ");
    let homes = of_section.first().map_or(&[][..], |first| first.modes);
    if !homes.is_empty() {
        write!(page, " ({})", names(homes)).expect("a String takes all");
    }
    page.push_str(":\n");
    for flag in of_section {
        let value = flag.value.map(|v| format!(" {v}")).unwrap_or_default();
        writeln!(page, "  {}{value}", flag.spelling()).expect("a String takes all");
        write!(page, "      {}", flag.help).expect("a String takes all");
        if !flag.default.is_empty() {
            write!(page, "; default: {}", flag.default).expect("a String takes all");
        }
        if flag.modes != homes {
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

const CONFIGURE: &str = include_str!("help/configure.txt");

const ENVIRONMENT: &str = include_str!("help/environment.txt");

const DIRECT: &str = include_str!("help/direct.txt");

const SERVE: &str = include_str!("help/serve.txt");

const HTTP: &str = include_str!("help/http.txt");

const RUN: &str = include_str!("help/run.txt");

const SETTLE: &str = include_str!("help/settle.txt");

const BUCKET: &str = include_str!("help/bucket.txt");

const READAHEAD: &str = include_str!("help/readahead.txt");

const MODULE_PROXY: &str = include_str!("help/module-proxy.txt");

const MOD: &str = include_str!("help/mod.txt");

const REVERSE_PROXY: &str = include_str!("help/reverse-proxy.txt");

const DEBUG: &str = include_str!("help/debug.txt");

const MAINTENANCE: &str = include_str!("help/maintenance.txt");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_a_page_and_every_flag_is_on_one() {
        for topic in TOPICS {
            assert!(page(Some(topic.name)).unwrap().ends_with('\n'), "{}", topic.name);
            assert!(overview().contains(topic.name), "{}", topic.name);
        }
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
        }
    }

    #[test]
    fn each_command_leads_to_a_page() {
        for (name, mode) in Mode::COMMANDS {
            let page = page(Some(name)).unwrap();
            assert_eq!(page == overview(), matches!(mode, Mode::Help | Mode::Version), "{name}");
        }
        assert!(page(Some("nonsense")).unwrap_err().contains("the topics are configure, "));
    }
}
