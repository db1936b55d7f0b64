//! A program that answers `go` from memory and does nothing else: what the protocol itself costs,
//! and so the least that any program can be measured at.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::Path;

use super::Result;
use super::client::base64;

/// The hidden argument that makes a bench this program; the index file follows.
pub const MEMORY: &str = "--answer-from-memory";

/// Writes what the cache directory `dir` has as the index that [`serve`] reads.
pub fn index(dir: &Path, to: &Path) -> Result<()> {
    let mut lines = String::new();
    for shard in fs::read_dir(dir.join("action"))? {
        for file in fs::read_dir(shard?.path())? {
            let file = file?;
            let (action, text) =
                (file.file_name().into_string().map_err(|_| "no name")?, fs::read_to_string(file.path())?);
            let (output, size) = text.trim_end().split_once(' ').ok_or("no action")?;
            let path = dir.join("output").join(&output[..2]).join(output);
            let (action, sum) = (base64(&unhex(&action)?), base64(&unhex(output)?));
            writeln!(
                lines,
                r#"{action} "OutputID":"{sum}","Size":{size},"Time":"2026-01-01T00:00:00.000000001Z","DiskPath":"{}""#,
                path.display()
            )?;
        }
    }
    Ok(fs::write(to, lines)?)
}

/// Answers gets on standard input and output, one after the other.
pub fn serve(index: &str) -> Result<()> {
    let text = fs::read_to_string(index)?;
    let answers: HashMap<&str, &str> = text.lines().filter_map(|l| l.split_once(' ')).collect();
    let (mut input, mut out) = (io::stdin().lock(), io::stdout());
    out.write_all(b"{\"ID\":0,\"KnownCommands\":[\"get\",\"close\"]}\n")?;
    let (mut line, mut answer) = (String::new(), String::new());
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let Some(id) = field(&line, "\"ID\":") else { continue };
        answer.clear();
        write!(answer, "{{\"ID\":{id}")?;
        if line.contains("\"get\"") {
            let action = field(&line, "\"ActionID\":").ok_or("no action id")?.trim_matches('"');
            write!(answer, ",{}", answers.get(action).unwrap_or(&"\"Miss\":true"))?;
        }
        answer.push_str("}\n");
        out.write_all(answer.as_bytes())?;
    }
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = &line[line.find(name)? + name.len()..];
    rest.split([',', '}']).next()
}

fn unhex(hex: &str) -> Result<Vec<u8>> {
    (0..hex.len() / 2).map(|i| Ok(u8::from_str_radix(&hex[2 * i..2 * i + 2], 16)?)).collect()
}
