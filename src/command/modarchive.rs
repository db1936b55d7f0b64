//! Modules as one file: a zstd tar of `cache/download` as in GOMODCACHE, with the sum database's answers.
//!
//! Invariants: the file appears whole, unless it is a pipe or a device, which is never replaced; of one that is
//! read, only names of the module proxy protocol are unpacked, and each module is checked as if it came from an
//! upstream, which the unpacked folder is.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Take, Write};
use std::path::Path;

use tar::{Archive, Builder, Header};

use super::modules::{Failures, obtain};
use super::stack::Stack;
use super::web;
use crate::atomic::{TempFile, at};
use crate::config::{ListEnd, ModProxyConfig, UpstreamEntry, UpstreamList, UpstreamUrl};
use crate::error::Error;
use crate::http::modproxy::path::{ModFile, ModPath, check_element, escape};
use crate::http::modproxy::{MAX_ZIP, ModProxy, list};
use crate::private_dir::PrivateDir;
use crate::text;

/// What all names in the file begin with.
const PREFIX: &str = "cache/download/";
/// Bytes that tell an entry's name: these are read into memory.
const MAX_NAME: u64 = 1 << 20;
/// An honest archive unpacks to no more than so many times its length, and so much beside: zips are compressed already.
const RATIO: u64 = 100;
const BESIDE: u64 = 64 << 20;
/// How hard it is compressed: zips are already.
const LEVEL: i32 = 3;

/// Writes all that is kept to `file`.
pub(super) fn export(proxy: &ModProxy, file: &Path) -> Result<String, Error> {
    let failed = |e: io::Error| Error::failed(format!("mod export {}: {e}", file.display()));
    let mut files = BTreeSet::new();
    let walked = proxy.store().each(|kept| files.extend(ModPath::parse(&kept.name).ok().filter(|p| !p.is_mutable())));
    walked.map_err(failed)?;
    if files.is_empty() {
        return Err(failed(io::Error::other("no module is kept here: is it the --cache-dir that was filled?")));
    }
    let write = |to: &mut File| -> io::Result<u64> {
        let (mut lists, mut zips, mut gone) = (BTreeMap::<_, Vec<_>>::new(), 0, 0);
        let mut out = Builder::new(zstd::Encoder::new(BufWriter::new(to), LEVEL)?);
        proxy.sums(&files, &mut |name, bytes| put(&mut out, name, bytes.len() as u64, bytes))?;
        for ModPath { name, module, file, version } in &files {
            let Some(blob) = proxy.store().reopen(name) else {
                gone += 1;
                continue;
            };
            put(&mut out, name, blob.len, blob.file)?;
            match file {
                ModFile::Info => lists.entry(escape(module)).or_default().push(version),
                ModFile::Zip => zips += 1,
                _ => {}
            }
        }
        for (module, versions) in &lists {
            let list = list(versions.iter().copied(), "");
            put(&mut out, &format!("{module}/@v/list"), list.len() as u64, list.as_bytes())?;
        }
        out.into_inner()?.finish()?.flush()?;
        if gone > 0 {
            let files = text::things(gone, "file");
            log::warn!("mod export: it lacks {files}, removed meanwhile or damaged: fetch them again");
        }
        Ok(zips)
    };
    // /dev/stdout is a link to what it is
    let path = fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
    if path.exists() && !path.is_file() {
        OpenOptions::new().write(true).open(&path).and_then(|mut to| write(&mut to)).map_err(failed)?;
        // what is said on stdout would be the end of what is written there
        return Ok(String::new());
    }
    let mut temp = TempFile::create(path.parent().expect("it is absolute")).map_err(failed)?;
    let zips = write(temp.file()).map_err(failed)?;
    let len = temp.file().metadata().map_err(failed)?.len();
    temp.persist(&path).map_err(failed)?;
    Ok(format!("{}: {}, {}\n", file.display(), text::things(zips, "module"), text::bytes(len)))
}

/// Writes one file.
fn put(out: &mut Builder<impl Write>, name: &str, len: u64, bytes: impl Read) -> io::Result<()> {
    let mut head = Header::new_gnu();
    head.set_size(len);
    head.set_mode(0o644);
    out.append_data(&mut head, format!("{PREFIX}{name}"), bytes.take(len))
}

/// Takes what is in `file` into the cache.
pub(super) fn import(config: &ModProxyConfig, stack: &Stack, file: &Path) -> Result<String, Error> {
    let failed = |e: io::Error| Error::failed(format!("mod import {}: {e}", file.display()));
    let dir = PrivateDir::new(&stack.config().cache_dir, |_| true)?;
    let files = File::open(file).and_then(|file| unpack(file, &dir.path)).map_err(failed)?;
    let files = Vec::from_iter(files);
    let folder = UpstreamEntry { url: UpstreamUrl::Dir(dir.path.clone()), on_any_error: false, private: true };
    // offline, a sum database whose answers are not in it is not asked either
    let end = if config.offline { ListEnd::Off } else { ListEnd::List };
    let upstream = UpstreamList { entries: vec![folder], end };
    let proxy = web::modules(&ModProxyConfig { upstream, netrc: None, offline: false, ..config.clone() }, stack)?;
    if files.is_empty() {
        return Err(Error::failed(format!("mod import {}: no module in it: is it of mod export?", file.display())));
    }
    let mut failures = Failures::default();
    let unsure = obtain(&proxy, &files, &mut failures);
    failures.0.values_mut().for_each(|why| *why = why.replace(&format!("file://{}/", dir.path.display()), ""));
    let zips = files.iter().filter(|path| path.file == ModFile::Zip).count() as u64;
    failures.sum_up(format!("{}: {}{unsure}\n", file.display(), text::things(zips, "module")))
}

/// Unpacks what the module proxy protocol has names for; those that can be checked.
fn unpack(file: File, dir: &Path) -> io::Result<BTreeSet<ModPath>> {
    let broken = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not a whole zstd tar: {why}"));
    let packed = BufReader::new(file.take(u64::MAX));
    let (mut files, most) = (BTreeSet::new(), Cell::new(MAX_NAME));
    let mut archive = Archive::new(Unpacked(zstd::Decoder::with_buffer(packed)?.take(u64::MAX), &most));
    for entry in archive.entries()? {
        let mut entry = entry.map_err(|e| broken(&e.to_string()))?;
        most.set(u64::MAX);
        let (kind, len) = (entry.header().entry_type(), entry.size());
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name);
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        let parsed = ModPath::parse(name).ok().filter(|path| !path.is_mutable());
        if kind.is_file() && len <= MAX_ZIP && (parsed.is_some() || is_sum(name)) {
            let path = dir.join(name);
            let made = fs::create_dir_all(path.parent().expect("it is joined")).and_then(|()| File::create(&path));
            if io::copy(&mut entry, &mut made.map_err(at(Path::new(name)))?)? != len {
                return Err(broken("it ends early"));
            }
            files.extend(parsed);
        }
        // what is left of it is passed over, and then there are names alone
        let here = if kind.is_gnu_sparse() { entry.header().entry_size()? } else { len };
        most.set(entry.raw_file_position().saturating_add(here).saturating_add(MAX_NAME));
    }
    Ok(files)
}

/// What an archive unpacks to, as long as that can be modules, and so far as is told beside. What may still be read
/// tells what was.
struct Unpacked<'a>(Take<zstd::Decoder<'static, BufReader<Take<File>>>>, &'a Cell<u64>);

impl Read for Unpacked<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        let packed = u64::MAX - self.0.get_ref().get_ref().get_ref().limit();
        let unpacked = u64::MAX - self.0.limit();
        if unpacked > self.1.get() {
            return Err(io::Error::other("a name without end"));
        }
        if unpacked > BESIDE + RATIO * packed {
            let all = text::bytes(unpacked);
            return Err(io::Error::other(format!("{} unpack to {all} and more", text::bytes(packed))));
        }
        Ok(n)
    }
}

/// Whether it may be the name of a sum database's answer, which no other directory can hide in.
fn is_sum(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!@+:".contains(&b);
    name.starts_with("sumdb/") && name.split('/').all(|element| check_element(element, plain).is_ok())
}
