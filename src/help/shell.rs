//! Completions for bash, zsh and fish, from the tables of commands, flags and topics.

use std::fmt::Write as _;

use super::names;
use crate::cli::{FLAGS, Flag, Mode, PROGRAM};

/// What a shell offers after a flag.
enum Offer {
    /// Nothing: the flag takes no value.
    Flag,
    Directories,
    Files,
    Words(String),
    /// A value that no shell knows.
    Text,
}

fn offer(flag: &Flag) -> Offer {
    match flag.value.map(|value| value.trim_end_matches("...")) {
        None => Offer::Flag,
        Some("DIR") => Offer::Directories,
        Some("FILE" | "PORT|PATH") => Offer::Files,
        Some(value) if value.contains('|') => Offer::Words(value.replace('|', " ")),
        Some(_) => Offer::Text,
    }
}

/// What a shell offers after a command.
fn words(mode: Mode) -> String {
    match mode {
        Mode::Direct => commands(),
        Mode::Help => names(true).chain(names(false)).collect::<Vec<_>>().join(" "),
        Mode::Mod => Mode::Mod.word().unwrap_or_default().replace(',', "").replace(" or ", " "),
        _ => String::new(),
    }
}

fn commands() -> String {
    Mode::COMMANDS.map(|(name, _)| name).join(" ")
}

fn flags(mode: Mode) -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().filter(move |flag| flag.applies(mode))
}

/// Direct mode and every command, by name.
fn modes() -> impl Iterator<Item = (&'static str, Mode)> {
    std::iter::once(("", Mode::Direct)).chain(Mode::COMMANDS)
}

fn spellings(these: impl Iterator<Item = &'static Flag>, between: &str) -> String {
    these.map(Flag::spelling).collect::<Vec<_>>().join(between)
}

/// For bash: words and values, each flag of the command that stands before the cursor.
pub(super) fn bash() -> String {
    let mut values = String::new();
    let of = |wanted: fn(&Offer) -> bool| spellings(FLAGS.iter().filter(|flag| wanted(&offer(flag))), " | ");
    let mut arm =
        |flags: &str, what: &str| writeln!(values, "    {flags}) {what}return ;;").expect("a String takes all");
    arm(&of(|o| matches!(o, Offer::Directories)), "mapfile -t COMPREPLY < <(compgen -d -- \"$cur\"); ");
    arm(&of(|o| matches!(o, Offer::Files)), "mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); ");
    for flag in FLAGS {
        if let Offer::Words(words) = offer(flag) {
            arm(&flag.spelling(), &format!("mapfile -t COMPREPLY < <(compgen -W '{words}' -- \"$cur\"); "));
        }
    }
    arm(&of(|o| matches!(o, Offer::Text)), "");
    let mut lists = String::new();
    for (name, mode) in modes() {
        let words = format!("{} {}", words(mode), spellings(flags(mode), " "));
        writeln!(lists, "    '{name}') words='{}' ;;", words.trim_start()).expect("a String takes all");
    }
    let valued = spellings(FLAGS.iter().filter(|flag| flag.value.is_some()), " | ");
    include_str!("completion.bash")
        .replace("@COMMANDS@", &commands().replace(' ', " | "))
        .replace("@VALUED@", &valued)
        .replace("    @VALUES@\n", &values)
        .replace("    @LISTS@\n", &lists)
}

/// For zsh: the same with what each flag means.
pub(super) fn zsh() -> String {
    let mut lists = String::new();
    for (name, mode) in modes() {
        writeln!(lists, "  '{name}')\n    specs=(").expect("a String takes all");
        for flag in flags(mode) {
            let help = flag.help.replace(']', "\\]").replace('\'', "'\\''");
            let (many, spelling) = (if flag.repeats() { "*" } else { "" }, flag.spelling());
            // a letter's value is the next word, a word's may follow =
            let joint = match flag.value {
                None => "",
                Some(_) if flag.name.len() == 1 => "+",
                Some(_) => "=",
            };
            let value = flag.value.unwrap_or_default();
            let action = match offer(flag) {
                Offer::Flag => String::new(),
                Offer::Directories => format!(":{value}:_files -/"),
                Offer::Files => format!(":{value}:_files"),
                Offer::Words(words) => format!(":{value}:({words})"),
                Offer::Text => format!(":{value}: "),
            };
            writeln!(lists, "      '{many}{spelling}{joint}[{help}]{action}'").expect("a String takes all");
        }
        let rest = match (mode, words(mode)) {
            (Mode::Run, _) => "'*:::command:_normal'".to_string(),
            (Mode::Keygen, _) => "'1:file:_files'".to_string(),
            (Mode::Settle, _) => "'1:directory:_files -/'".to_string(),
            (_, words) if words.is_empty() => String::new(),
            (_, words) => format!("'1:word:({words})' '*:file:_files'"),
        };
        writeln!(lists, "      {rest})\n    ;;").expect("a String takes all");
    }
    include_str!("completion.zsh").replace("@COMMANDS@", &commands().replace(' ', "|")).replace("  @LISTS@\n", &lists)
}

/// For fish: a line for each flag.
pub(super) fn fish() -> String {
    let mut script = format!("# completions for fish: {PROGRAM} help fish | source\ncomplete -c {PROGRAM} -f\n");
    let mut line = |when: &str, what: &str| {
        writeln!(script, "complete -c {PROGRAM}{when} {what}").expect("a String takes all");
    };
    let seen = |names: &[&str]| format!(" -n '__fish_seen_subcommand_from {}'", names.join(" "));
    for (name, mode) in modes() {
        let when = if name.is_empty() { " -n __fish_use_subcommand".to_string() } else { seen(&[name]) };
        match (mode, words(mode)) {
            (Mode::Run, _) => line(&when, "-a '(__fish_complete_subcommand --fcs-skip=2)'"),
            (Mode::Keygen, _) => line(&when, "-F"),
            (Mode::Settle, _) => line(&when, "-a '(__fish_complete_directories)'"),
            (_, words) if words.is_empty() => {}
            (_, words) => line(&when, &format!("-a '{words}'")),
        }
    }
    for flag in FLAGS {
        let homes: Vec<&str> = flag.modes.iter().filter_map(|mode| mode.name()).collect();
        let when = if homes.is_empty() { String::new() } else { seen(&homes) };
        let dash = if flag.name.len() == 1 { "-s" } else { "-l" };
        let value = match offer(flag) {
            Offer::Flag => String::new(),
            Offer::Directories => " -x -a '(__fish_complete_directories)'".to_string(),
            Offer::Files => " -r -F".to_string(),
            Offer::Words(words) => format!(" -x -a '{words}'"),
            Offer::Text => " -x".to_string(),
        };
        let help = flag.help.replace('\\', "\\\\").replace('\'', "\\'");
        line(&when, &format!("{dash} {}{value} -d '{help}'", flag.name));
    }
    script
}
