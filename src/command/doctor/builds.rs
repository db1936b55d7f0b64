//! What `go` starts as its cache, and what that goes by.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::super::goenv::GoEnv;
use super::super::scope;
use super::super::status::Mark;
use super::Findings;
use super::goenv::split;
use crate::cli::{self, Flag, Mode, PROGRAM};
use crate::config::{Config, DoctorConfig, Invocation};
use crate::platform;

/// How long a program may take to greet.
const PATIENCE: Duration = Duration::from_secs(10);

/// What GOCACHEPROG starts.
pub enum Started {
    /// Nothing: it is not set.
    Nothing,
    /// This program in direct mode, with these flags.
    Ours(Vec<String>),
    /// This program as a client of a server, whose settings count.
    Client,
    /// Another program, or what is wrong with it was said.
    Other,
}

/// Starts what GOCACHEPROG says as `go` would.
pub fn look(config: &DoctorConfig, go: &GoEnv, found: &mut Findings) -> Started {
    let text = go.get("GOCACHEPROG");
    let words = match split(text) {
        Ok(words) if words.is_empty() => {
            found.add(Mark::Note, "builds", "GOCACHEPROG is not set: go uses its own cache alone, and not this one");
            return Started::Nothing;
        }
        Ok(words) => words,
        Err(why) => {
            found.add(Mark::Fail, "builds", format!("GOCACHEPROG {why}"));
            return Started::Other;
        }
    };
    let fail = |found: &mut Findings, why: String| {
        found.add(Mark::Fail, "builds", format!("GOCACHEPROG {text:?}: {why}"));
        Started::Other
    };
    let ours = is_ours(&words[0]);
    // what it goes by comes first: it says more than that the program ends at once
    let mut started = Started::Other;
    if ours {
        let args: Vec<OsString> = words[1..].iter().map(OsString::from).collect();
        match cli::parse(&args, &config.env, &config.cwd) {
            Ok(Invocation::Direct(_)) => started = Started::Ours(words[1..].to_vec()),
            Ok(Invocation::Connect(_)) => started = Started::Client,
            Ok(_) => return fail(found, format!("that does not speak with go; write {PROGRAM} [flags]")),
            Err(e) => return fail(found, e.to_string()),
        }
    }
    match greeting(&words) {
        Err(why) => return fail(found, why),
        Ok(said) if !said.is_empty() => {
            found.add(Mark::Note, "builds", format!("go starts {text:?}, which says: {said}"));
        }
        Ok(_) if !ours => {
            let what = "by its name not this program: what follows is of the flags and variables given here";
            found.add(Mark::Note, "builds", format!("go starts {text:?}, {what}"));
        }
        Ok(_) if matches!(started, Started::Client) => {
            found.add(Mark::Ok, "builds", format!("go starts {text:?}; what counts are the server's settings"));
        }
        Ok(_) => found.add(Mark::Ok, "builds", format!("go starts {text:?}")),
    }
    started
}

/// Whether a word names this program's file.
fn is_ours(word: &str) -> bool {
    let path = Path::new(word);
    let same = || Some(path.canonicalize().ok()? == env::current_exe().ok()?.canonicalize().ok()?);
    path.file_name().is_some_and(|name| name == PROGRAM) || path.components().count() > 1 && same() == Some(true)
}

/// Starts the program and waits for its greeting; what it wrote to stderr.
fn greeting(words: &[String]) -> Result<String, String> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        platform::in_own_group(&mut command).spawn().map_err(|e| format!("{}: {e}; is it on PATH?", words[0]))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (send, line) = mpsc::channel();
    // it ends with the child, or is left behind by one that has handed its stdout on
    let reader = thread::Builder::new().name("greeting".into()).spawn(move || {
        let mut text = String::new();
        let read = stdout.map(|out| BufReader::new(out.take(1 << 16)).read_line(&mut text));
        let _ = send.send(read.map(|_| text));
    });
    let text = reader.ok().and_then(|_| line.recv_timeout(PATIENCE).ok()).flatten();
    // an upload that it would finish first waits for the next
    platform::kill_group(child.id());
    let _ = child.wait();
    let mut said = String::new();
    if let Some(stderr) = stderr {
        let _ = stderr.take(1 << 16).read_to_string(&mut said);
    }
    let said = said.lines().next().unwrap_or_default().to_string();
    match text {
        Some(text) if text.contains("KnownCommands") => Ok(said),
        None => Err(format!("no greeting within {} s", PATIENCE.as_secs())),
        Some(_) if said.is_empty() => Err("it does not speak with go".into()),
        Some(_) => Err(said),
    }
}

/// Makes `effective` what builds with these flags go by, under doctor's own.
pub fn apply(flags: &[String], config: &DoctorConfig, effective: &mut DoctorConfig, found: &mut Findings) {
    let mut args = vec![OsString::from("doctor")];
    args.extend(flags.iter().map(OsString::from));
    args.extend(config.flags.iter().cloned());
    match cli::parse(&args, &config.env, &config.cwd) {
        Ok(Invocation::Doctor(parsed)) => *effective = parsed,
        Ok(_) => {}
        Err(e) => found.add(Mark::Fail, "settings", format!("GOCACHEPROG's flags with those given here: {e}")),
    }
}

/// What to type so that builds use the cache as configured here.
pub fn how_to_start(config: &DoctorConfig) -> String {
    let of_builds = |flag: &&OsString| {
        let name = flag.to_str().and_then(|flag| flag.trim_start_matches('-').split('=').next());
        name.and_then(Flag::named).is_some_and(|flag| flag.applies(Mode::Direct))
    };
    // as go and a shell both take a word with blanks
    let word = |flag: &OsString| match flag.display().to_string() {
        word if word.contains([' ', '\t', '\n']) => format!(" '{word}'"),
        word => format!(" {word}"),
    };
    let flags: String = config.flags.iter().filter(of_builds).map(word).collect();
    let quote = if flags.is_empty() { "" } else { "\"" };
    format!("export GOCACHEPROG={quote}{PROGRAM}{flags}{quote}, or {PROGRAM} run{flags} CMD for one command")
}

/// What builds go by, in one line.
pub fn settings(config: &Config) -> String {
    let scope = scope::resolve(config.scope.as_deref(), &env::current_dir().unwrap_or_default());
    let mut text = format!("scope {scope}");
    if let Some(bucket) = &config.bucket {
        let below = bucket.prefix.as_str();
        text += &format!(", layout {}", bucket.layout.name());
        text += &match (&bucket.write_prefix, bucket.read_only) {
            (Some(prefix), _) => format!(", read below {below:?}, written below {:?}", prefix.as_str()),
            (None, true) => format!(", read below {below:?}, not written"),
            (None, false) => format!(", read and written below {below:?}"),
        };
        if bucket.signer.signs() {
            text += ", signed";
        } else if bucket.signer.demands(false) {
            text += ", signatures demanded";
        }
    }
    text
}
