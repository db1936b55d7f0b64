//! `mod`: the modules that are kept, and how they get to machines without a network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use jiff::Timestamp;

use super::modgraph::{self, Module, Wants};
use super::stack::Stack;
use super::{Progress, modarchive, web};
use crate::config::{ModAction, ModConfig};
use crate::error::{Error, ExitCode};
use crate::http::modproxy::path::{self, ModPath, escape, is_canonical, name};
use crate::http::modproxy::{self, ModProxy, UNVERIFIED, version_in};
use crate::pool;
use crate::text;

/// Files that are fetched at a time.
const AT_A_TIME: usize = 8;
/// Modules and versions that may be required, and how many one by way of the other: far more than honest graphs
/// have.
const MOST: usize = 50_000;
const DEEPEST: usize = 500;

/// Does what is asked for.
pub(super) fn execute(config: &ModConfig) -> Result<ExitCode, Error> {
    let dir = &config.cache.cache_dir;
    // what is asked of a directory whose name is mistyped is not to make it
    if !matches!(config.action, ModAction::Fetch(..) | ModAction::Import(_)) {
        super::of_cache_dir(dir, dir.metadata())?;
    }
    let stack = Stack::open(&config.cache)?;
    let proxy = web::modules(&config.proxy, &stack)?;
    let done = match &config.action {
        ModAction::Fetch(words, recursive) => fetch(&proxy, words, *recursive),
        ModAction::Export(file) => modarchive::export(&proxy, file),
        ModAction::Import(file) => modarchive::import(&config.proxy, &stack, file),
        ModAction::List => list(&proxy),
        ModAction::Remove(word) => remove(&proxy, word),
    };
    let deadline = stack.close_deadline();
    stack.drain(deadline);
    stack.last_words();
    stack.close();
    super::print(&done?)
}

fn fetch(proxy: &Arc<ModProxy>, words: &[String], recursive: bool) -> Result<String, Error> {
    let mut failures = Failures::default();
    let (mut mods, mut whole) = (BTreeSet::new(), BTreeSet::new());
    for mut wants in Wants::of(words).map_err(|why| Error::usage(format!("mod fetch: {why}")))? {
        complete(proxy, &mut wants, recursive, &mut failures)?;
        mods.append(&mut wants.mods);
        whole.append(&mut wants.whole);
    }
    mods.extend(whole.iter().cloned());
    let small = mods.iter().flat_map(|m| ["info", "mod"].map(|kind| (m, kind)));
    let mut files = Vec::new();
    for (module, kind) in small.chain(whole.iter().map(|m| (m, "zip"))) {
        match ModPath::parse(&name(&module.0, &module.1, kind)) {
            Ok(path) => files.push(path),
            Err((_, why)) => failures.note(module, why),
        }
    }
    let unsure = obtain(proxy, &files, &mut failures);
    let [mods, whole] = [&mods, &whole].map(|all| all.iter().filter(|m| !failures.0.contains_key(*m)).count());
    let many = text::things(whole as u64, "module");
    failures.sum_up(format!("{many} and {} more go.mod are kept{unsure}\n", mods - whole))
}

/// Adds the versions that `wants` queries, and with `recursive` what all those require.
fn complete(proxy: &Arc<ModProxy>, wants: &mut Wants, recursive: bool, failures: &mut Failures) -> Result<(), Error> {
    for query in std::mem::take(&mut wants.queries) {
        let version = match query.1.as_str() {
            "latest" => latest(proxy, &escape(&query.0)),
            _ => text_of(proxy, &name(&query.0, &query.1, "info")).and_then(|info| version_in(&info)),
        };
        match version {
            Ok(version) => drop(wants.whole.insert((query.0, version))),
            Err(why) => failures.note(&query, why),
        }
    }
    if recursive {
        let (mut all, mut next, mut depth) = (BTreeSet::new(), wants.whole.clone(), 0);
        while let Some((module, version)) = next.first() {
            depth += 1;
            if depth > DEEPEST || all.len() + next.len() > MOST {
                return Err(Error::failed(format!(
                    "mod fetch: more than {MOST} modules are required, or {DEEPEST} one by way of the other, as \
                     {module}@{version} is: an upstream makes them up; without -r, what is named is fetched"
                )));
            }
            let mods: Vec<Module> = next.iter().cloned().collect();
            let required = each(&mods, "go.mod", |module| {
                text_of(proxy, &name(&module.0, &module.1, "mod")).map(|text| modgraph::required(&text))
            });
            all.append(&mut next);
            for (module, required) in mods.iter().zip(required) {
                match required {
                    Ok(required) => {
                        let required = required.into_iter().filter_map(|m| wants.stand_in(m));
                        next.extend(required.filter(|module| !all.contains(module)));
                    }
                    Err(why) => failures.note(module, why),
                }
            }
        }
        wants.whole.append(&mut modgraph::selected(&all));
        wants.mods.append(&mut all);
    }
    Ok(())
}

/// The version that a module's upstream calls the latest, or else the largest in its list.
fn latest(proxy: &Arc<ModProxy>, escaped: &str) -> Result<String, String> {
    text_of(proxy, &format!("{escaped}/@latest")).and_then(|info| version_in(&info)).or_else(|why| {
        let list = text_of(proxy, &format!("{escaped}/@v/list"))?;
        let best = path::latest(list.lines().filter(|version| is_canonical(version)));
        best.map(str::to_string).ok_or(why)
    })
}

/// Has `files` kept, and says of how many of them nobody has vouched for.
pub(super) fn obtain(proxy: &Arc<ModProxy>, files: &[ModPath], failures: &mut Failures) -> String {
    let mut unverified = 0;
    for (path, outcome) in files.iter().zip(each(files, "file", |path| proxy.get(path))) {
        let why = match outcome {
            // a disk that takes nothing is no trouble for who is served, but there is nothing to be had of it later
            Ok(_) if proxy.store().reopen(&path.name).is_none() => "it came, but could not be kept".to_string(),
            Ok(blob) => {
                unverified += u64::from(blob.note == UNVERIFIED);
                continue;
            }
            Err(e) => e.to_string(),
        };
        failures.note(&(path.module.clone(), path.version.clone()), why);
    }
    match unverified {
        0 => String::new(),
        n => format!("; {} unverified: --mod-verify=off, or the sum database gave no answer", text::things(n, "file")),
    }
}

fn text_of(proxy: &Arc<ModProxy>, name: &str) -> Result<String, String> {
    let path = ModPath::parse(name).map_err(|(_, why)| why)?;
    modproxy::text(&proxy.get(&path).map_err(|e| e.to_string())?.file)
}

/// What could not be had, by module: the first reason of each.
#[derive(Default)]
pub(super) struct Failures(pub(super) BTreeMap<Module, String>);

impl Failures {
    /// Notes one.
    pub(super) fn note(&mut self, module: &Module, why: String) {
        self.0.entry(module.clone()).or_insert(why);
    }

    /// Says each; else all is well, and `text` is the outcome.
    pub(super) fn sum_up(self, text: String) -> Result<String, Error> {
        for ((module, version), why) in &self.0 {
            super::say(format_args!("{module}@{version}: {}", why.lines().collect::<Vec<_>>().join("; ")));
        }
        match self.0.len() as u64 {
            0 => Ok(text),
            n => Err(Error::failed(format!("mod: {} failed; {}", text::things(n, "module"), text.trim_end()))),
        }
    }
}

/// Does `work` for each of `items`, several at a time, and says on a terminal how far it is.
fn each<T: Sync, R: Send>(items: &[T], what: &'static str, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (progress, done) = (Progress::new(what), AtomicUsize::new(0));
    pool::each("mod", AT_A_TIME, items.iter().collect(), |item| {
        let outcome = work(item);
        progress.tell(done.fetch_add(1, Ordering::Relaxed) + 1, items.len());
        outcome
    })
}

fn list(proxy: &ModProxy) -> Result<String, Error> {
    let mut modules: BTreeMap<Module, (u64, SystemTime, bool)> = BTreeMap::new();
    let (mut all, mut sums) = (0, 0);
    let walked = proxy.store().each(|kept| {
        all += kept.len;
        match ModPath::parse(&kept.name) {
            Ok(path) if !path.is_mutable() => {
                let new = (0, SystemTime::UNIX_EPOCH, false);
                let (bytes, used, unverified) = modules.entry((path.module, path.version)).or_insert(new);
                *bytes += kept.len;
                *used = kept.used.max(*used);
                *unverified |= kept.note == UNVERIFIED;
            }
            Ok(_) => {}
            Err(_) => sums += kept.len,
        }
    });
    walked.map_err(|e| Error::failed(format!("mod list: {e}")))?;
    let mut page = String::new();
    for ((module, version), (bytes, used, unverified)) in &modules {
        let day = Timestamp::try_from(*used).map(|t| t.strftime("%Y-%m-%d").to_string()).unwrap_or_default();
        let note = if *unverified { "  unverified" } else { "" };
        page += &format!("{module}@{version}  {}  {day}{note}\n", text::bytes(*bytes));
    }
    let count = text::things(modules.len() as u64, "module");
    Ok(format!("{page}{count}, {} in all; {} of them the sum databases'\n", text::bytes(all), text::bytes(sums)))
}

fn remove(proxy: &ModProxy, word: &str) -> Result<String, Error> {
    let module = modgraph::split(word).map_err(|why| Error::usage(format!("mod rm: {why}")))?;
    let names = ["info", "mod", "zip"].map(|kind| name(&module.0, &module.1, kind));
    let removed = names.iter().filter(|name| proxy.store().remove(name)).count();
    match removed as u64 {
        _ if names.iter().any(|name| proxy.store().reopen(name).is_some()) => {
            Err(Error::failed(format!("mod rm: {word} cannot be removed: may this user write to the cache directory?")))
        }
        0 => Err(Error::failed(format!("mod rm: {word} is not kept here"))),
        n => Ok(format!("{word}: removed {}\n", text::things(n, "file"))),
    }
}
