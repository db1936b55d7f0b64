//! What the tables make for other programs: completions, tried in their shells, and the manual page.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::env::{Output, Plugin, TempDir, run, scrubbed};

fn page(dir: &TempDir, name: &str) -> String {
    Plugin::new(dir).args(["help", name]).output().ok().quiet().stdout
}

/// A script, run by a shell that has the completions in a file called `made`.
fn shell(dir: &TempDir, shell: &str, script: &str) -> Output {
    dir.write("made", &page(dir, shell));
    let mut command = scrubbed(shell, dir.path());
    command.args(["-c", script]).env("TERM", "dumb");
    run(command)
}

#[test]
fn bash_completes_words_flags_and_values() {
    let dir = TempDir::new();
    dir.dir("folder");
    dir.write("file", "");
    let complete = |words: &str| {
        let script = format!(
            ". ./made; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _go_cache_plugin; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        shell(&dir, "bash", &script).ok().quiet().stdout
    };
    assert_eq!(complete("go-cache-plugin ser"), "serve\n");
    assert_eq!(complete("go-cache-plugin --bucket serve ser"), "serve\n", "a value is no command");
    assert_eq!(complete("go-cache-plugin serve --http-tls-c"), "--http-tls-cert\n");
    assert_eq!(complete("go-cache-plugin run --http-tls-c").trim(), "", "a flag of serve alone");
    assert_eq!(complete("go-cache-plugin --cache-dir f"), "folder\n");
    assert_eq!(complete("go-cache-plugin --cache-dir = f"), "folder\n");
    assert_eq!(complete("go-cache-plugin serve --mod-verify =").trim(), "on\noff");
    assert_eq!(complete("go-cache-plugin help module-"), "module-proxy\n");
    assert_eq!(complete("go-cache-plugin mod im"), "import\n");
}

#[test]
fn fish_completes_words_flags_and_values() {
    let dir = TempDir::new();
    let complete = |line: &str| {
        let out = shell(&dir, "fish", &format!("source ./made; complete -C '{line}'")).ok().quiet();
        out.stdout.lines().map(|line| line.split('\t').next().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(complete("go-cache-plugin ser"), ["serve"]);
    assert_eq!(complete("go-cache-plugin serve --http-tls-c"), ["--http-tls-cert"]);
    assert!(complete("go-cache-plugin run --http-tls-c").is_empty());
    assert_eq!(complete("go-cache-plugin serve --mod-verify=o"), ["--mod-verify=off", "--mod-verify=on"]);
    assert_eq!(complete("go-cache-plugin help module-"), ["module-proxy"]);
}

#[test]
fn zsh_takes_every_flag_specification() {
    let dir = TempDir::new();
    // the specifications are read only where something is completed: by a zsh with a terminal of its own
    let script = r#"
        zmodload zsh/zpty
        zpty it zsh -f -i
        zpty -w it "PS1='>'; autoload -Uz compinit; compinit -u -D; . ./made; zstyle ':completion:*' list-colors ''"
        zpty -w it "_test() { words=(go-cache-plugin serve --http-tls-); CURRENT=3; _go_cache_plugin }"
        zpty -w it "compdef _test try; compadd() { builtin compadd -O got \"\$@\"; print -l -- \$got >> said; builtin compadd \"\$@\" }"
        zpty -w it $'bindkey "^I" complete-word'
        zpty -n -w it 'try '
        for ((i = 0; i < 600 && ! ${+said}; i++)); do
            # one may come before it is awaited
            ((i % 40)) || zpty -n -w it $'\t'
            [[ -s said ]] && grep -q tls said && said=1 || sleep 0.05
        done
        zpty -d it
        cat said
    "#;
    let out = shell(&dir, "zsh", script).ok();
    assert!(out.stdout.contains("--http-tls-cert"), "{}", out.describe());
}

#[test]
fn the_manual_page_has_every_flag_and_formats_without_a_complaint() {
    let dir = TempDir::new();
    let source = page(&dir, "man");
    let mut groff = Command::new("groff")
        .args(["-man", "-Tutf8", "-ww", "-P-cbou"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("groff is there");
    groff.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    let out = groff.wait_with_output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let configure = page(&dir, "configure");
    let flags: Vec<&str> = configure.lines().filter_map(|line| line.strip_prefix("  -")?.split(' ').next()).collect();
    assert!(flags.len() > 40, "{flags:?}");
    for flag in flags {
        assert!(text.contains(&format!("-{flag}")), "{flag}");
    }
    for section in ["NAME", "OVERVIEW", "OPTIONS", "READAHEAD", "CLEAR"] {
        assert!(text.lines().any(|line| line == section), "{section}");
    }
}
