//! Modules as one file: a zstd tar of `cache/download` as in GOMODCACHE, with the sum database's answers.
//!
//! Invariants: the file appears whole; of one that is read, only names of the module proxy protocol are
//! unpacked, and each module is checked as if it came from an upstream, which the unpacked folder is.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use super::modules::{Failures, each, unsure};
use super::stack::Stack;
use super::web;
use crate::atomic::TempFile;
use crate::config::{ListEnd, ModProxyConfig, UpstreamEntry, UpstreamList, UpstreamUrl};
use crate::error::Error;
use crate::http::modproxy::ModProxy;
use crate::http::modproxy::path::{ModFile, ModPath, compare, is_pseudo};
use crate::private_dir::PrivateDir;
use crate::text;

/// What all names in the file begin with.
const PREFIX: &str = "cache/download/";
/// Bytes of a block.
const BLOCK: usize = 512;
/// Bytes of a name.
const MAX_NAME: u64 = 16 << 10;
/// Bytes of a file that is unpacked: of a module zip.
const MAX_FILE: u64 = 500 << 20;
/// How hard it is compressed: zips are already.
const LEVEL: i32 = 3;

/// Writes all that is kept to `file`.
pub(super) fn export(proxy: &ModProxy, file: &Path) -> Result<String, Error> {
    let failed = |e: io::Error| Error::failed(format!("mod export {}: {e}", file.display()));
    let mut names = BTreeSet::new();
    proxy
        .store()
        .each(|kept| {
            if ModPath::parse(&kept.name).is_ok_and(|path| !path.is_mutable()) {
                names.insert(kept.name);
            }
        })
        .map_err(failed)?;
    let dir = file.parent().expect("the path is absolute");
    let mut temp = TempFile::create(dir).map_err(failed)?;
    let mut write = || -> io::Result<()> {
        let mut out = zstd::Encoder::new(BufWriter::new(temp.file()), LEVEL)?;
        proxy.sums(&names, &mut |name, bytes| put(&mut out, name, bytes.len() as u64, bytes))?;
        for name in &names {
            // one that went meanwhile is no more
            if let Some(blob) = proxy.store().reopen(name) {
                put(&mut out, name, blob.len, blob.file)?;
            }
        }
        for (name, list) in lists(&names) {
            put(&mut out, &name, list.len() as u64, list.as_bytes())?;
        }
        out.write_all(&[0; 2 * BLOCK])?;
        out.finish()?.flush()
    };
    write().map_err(failed)?;
    let len = temp.file().metadata().map_err(failed)?.len();
    temp.persist(file).map_err(failed)?;
    let zips = names.iter().filter(|name| name.ends_with(".zip")).count() as u64;
    Ok(format!("{}: {}, {}\n", file.display(), text::things(zips, "module"), text::bytes(len)))
}

/// The list of each module's versions.
fn lists(names: &BTreeSet<String>) -> Vec<(String, String)> {
    let mut versions = std::collections::BTreeMap::<String, Vec<String>>::new();
    for path in names.iter().filter_map(|name| ModPath::parse(name).ok()) {
        if let ModFile::Info(version) = &path.file {
            versions.entry(path.escaped.clone()).or_default().extend((!is_pseudo(version)).then(|| version.clone()));
        }
    }
    let list = |(module, mut versions): (String, Vec<String>)| {
        versions.sort_by(|a, b| compare(a, b));
        (format!("{module}/@v/list"), versions.iter().map(|version| format!("{version}\n")).collect())
    };
    versions.into_iter().map(list).collect()
}

/// Writes one file; names beyond 100 bytes as GNU's tar does it.
fn put(out: &mut impl Write, name: &str, len: u64, bytes: impl Read) -> io::Result<()> {
    let name = format!("{PREFIX}{name}");
    if name.len() >= 100 {
        put_entry(out, "././@LongLink", b'L', name.len() as u64 + 1, [name.as_bytes(), &[0]].concat().as_slice())?;
    }
    let short = name.char_indices().take_while(|(at, c)| at + c.len_utf8() < 100).map(|(_, c)| c).collect::<String>();
    put_entry(out, &short, b'0', len, bytes)
}

fn put_entry(out: &mut impl Write, name: &str, kind: u8, len: u64, bytes: impl Read) -> io::Result<()> {
    let mut head = [0; BLOCK];
    let mut set = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    set(0, name);
    set(100, "0000644\x000000000\x000000000\0");
    set(124, &format!("{len:011o}\x00{:011o}\x00        ", 0));
    set(257, "ustar  \0");
    head[156] = kind;
    let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&head)?;
    if io::copy(&mut bytes.take(len), out)? != len {
        return Err(io::Error::other(format!("{name}: changed while it was read")));
    }
    out.write_all(&[0; BLOCK][..(BLOCK - len as usize % BLOCK) % BLOCK])
}

/// Takes what is in `file` into the cache.
pub(super) fn import(config: &ModProxyConfig, stack: &Stack, file: &Path) -> Result<String, Error> {
    let failed = |e: io::Error| Error::failed(format!("mod import {}: {e}", file.display()));
    let dir = PrivateDir::new(&stack.config().cache_dir, |_| true)?;
    let names = File::open(file).and_then(|file| unpack(file, &dir.path)).map_err(failed)?;
    let folder = UpstreamEntry { url: UpstreamUrl::Dir(dir.path.clone()), on_any_error: false, private: true };
    let upstream = UpstreamList { entries: vec![folder], end: ListEnd::List };
    let proxy = web::modules(&ModProxyConfig { upstream, netrc: None, offline: false, ..config.clone() }, stack)?;
    let names: Vec<(String, ModPath)> = names.into_iter().collect();
    let outcomes = each(&names, "file", |(name, _)| proxy.obtain(name).map(|found| found.is_unverified()));
    let (mut failures, mut unverified) = (Failures::default(), 0);
    for ((_, path), outcome) in names.iter().zip(outcomes) {
        match outcome {
            Ok(unsure) => unverified += u64::from(unsure),
            Err(why) => {
                let why = why.replace(&format!("file://{}/", dir.path.display()), "");
                failures.note(&(path.module.clone(), path.version().unwrap_or_default().to_string()), why);
            }
        }
    }
    let zips = names.iter().filter(|(name, _)| name.ends_with(".zip")).count() as u64;
    failures.sum_up(format!("{}: {}{}\n", file.display(), text::things(zips, "module"), unsure(unverified)))
}

/// Unpacks what the module proxy protocol has names for; these names, of what can be checked.
fn unpack(file: File, dir: &Path) -> io::Result<Vec<(String, ModPath)>> {
    let broken = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not a whole zstd tar: {why}"));
    let mut from = zstd::Decoder::new(BufReader::new(file))?;
    let (mut names, mut long) = (Vec::new(), None);
    loop {
        let mut head = [0; BLOCK];
        from.read_exact(&mut head).map_err(|e| broken(&e.to_string()))?;
        if head == [0; BLOCK] {
            return Ok(names);
        }
        let field = |at: usize, len: usize| {
            let field = &head[at..at + len];
            String::from_utf8_lossy(field.split(|b| *b == 0).next().unwrap_or_default()).trim().to_string()
        };
        let octal = |at, len| u64::from_str_radix(&field(at, len), 8).map_err(|_| broken("a number that is none"));
        let sum = head.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { u64::from(*b) });
        if sum.sum::<u64>() != octal(148, 8)? {
            return Err(broken("a wrong checksum"));
        }
        let (len, kind) = (octal(124, 12)?, head[156]);
        let padded = len.next_multiple_of(BLOCK as u64);
        let mut body = (&mut from).take(padded);
        if matches!(kind, b'L' | b'x') {
            let mut bytes = Vec::new();
            if padded > MAX_NAME || body.read_to_end(&mut bytes)? as u64 != padded {
                return Err(broken("a name without end"));
            }
            long = long_name(kind, &String::from_utf8_lossy(&bytes[..len as usize])).or(long);
            continue;
        }
        let prefix = if &head[257..263] == b"ustar\0" { field(345, 155) } else { String::new() };
        let name = long
            .take()
            .unwrap_or_else(|| if prefix.is_empty() { field(0, 100) } else { prefix + "/" + &field(0, 100) });
        let name = name.strip_prefix("./").unwrap_or(&name);
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        let parsed = ModPath::parse(name).ok().filter(|path| !path.is_mutable());
        if matches!(kind, b'0' | 0) && len <= MAX_FILE && (parsed.is_some() || is_sum(name)) {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().expect("it is joined"))?;
            io::copy(&mut (&mut body).take(len), &mut File::create(path)?)?;
            names.extend(parsed.map(|path| (name.to_string(), path)));
        }
        io::copy(&mut body, &mut io::sink())?;
        if body.limit() > 0 {
            return Err(broken("it ends early"));
        }
    }
}

/// The name in a GNU or POSIX header that holds one.
fn long_name(kind: u8, text: &str) -> Option<String> {
    if kind == b'L' {
        return Some(text.trim_end_matches('\0').to_string());
    }
    let record = |line: &str| line.split_once(' ')?.1.strip_prefix("path=").map(str::to_string);
    text.lines().find_map(record)
}

/// Whether it may be the name of a sum database's answer, which no other directory can hide in.
fn is_sum(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!@+/:".contains(&b);
    name.starts_with("sumdb/")
        && name.bytes().all(plain)
        && name.split('/').all(|element| !element.is_empty() && element != "." && element != "..")
}
