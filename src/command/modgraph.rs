//! Which modules are meant: by name, by a go.mod or go.sum, and, where that is asked for, by what these
//! require in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::http::modproxy::directives;
use crate::http::modproxy::path::{compare, is_canonical};

/// A module path and a version.
pub(super) type Module = (String, String);

/// What is to be fetched for one main module: what a go.mod replaces and excludes is of no matter to another's.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// All of these.
    pub(super) whole: BTreeSet<Module>,
    /// The `.mod` of these.
    pub(super) mods: BTreeSet<Module>,
    /// Versions yet to be found out: branches, or `latest`.
    pub(super) queries: Vec<Module>,
    /// What stands for what; an empty version is any, and an empty path is a directory, or nothing.
    replaced: BTreeMap<Module, Module>,
}

impl Wants {
    /// What these words say, which are names of files or `MODULE@VERSION`: for each go.mod, with the go.sum of its
    /// name, and for all names of modules together.
    pub(super) fn of(words: &[String]) -> Result<Vec<Self>, String> {
        let mut all = BTreeMap::<_, Wants>::new();
        for word in words {
            let read = || fs::read_to_string(word).map_err(|e| format!("{word}: {e}"));
            let kind = Path::new(word).extension().and_then(|e| e.to_str()).filter(|_| !word.contains('@'));
            let wants = all.entry(kind.map(|_| Path::new(word).with_extension(""))).or_default();
            match kind {
                Some("mod") => {
                    let text = read()?;
                    wants.replaced.extend(replaced(&text));
                    // what is excluded is as if nobody required it
                    wants.replaced.extend(listed(&text, "exclude").map(|module| (module, Module::default())));
                    let required: Vec<_> = required(&text).into_iter().filter_map(|m| wants.stand_in(m)).collect();
                    wants.whole.extend(required);
                }
                Some("sum") => {
                    for line in read()?.lines() {
                        let mut words = line.split_whitespace().map(str::to_string);
                        let (Some(module), Some(version)) = (words.next(), words.next()) else { continue };
                        match version.strip_suffix("/go.mod") {
                            Some(version) => wants.mods.insert((module, version.to_string())),
                            None => wants.whole.insert((module, version)),
                        };
                    }
                }
                _ => {
                    let (module, version) = split(word)?;
                    if is_canonical(&version) {
                        wants.whole.insert((module, version));
                    } else {
                        wants.queries.push((module, version));
                    }
                }
            }
        }
        Ok(all.into_values().collect())
    }

    /// What is used for a module; `None` where that is a directory.
    pub(super) fn stand_in(&self, module: Module) -> Option<Module> {
        let any = (module.0.clone(), String::new());
        match self.replaced.get(&module).or_else(|| self.replaced.get(&any)) {
            Some((path, _)) if path.is_empty() => None,
            Some(other) => Some(other.clone()),
            None => Some(module),
        }
    }
}

/// The largest version of each module.
pub(super) fn selected(all: &BTreeSet<Module>) -> BTreeSet<Module> {
    let mut sorted: Vec<Module> = all.iter().cloned().collect();
    sorted.sort_by(|a, b| compare(&a.1, &b.1));
    // of each, the last stays
    sorted.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// Takes `MODULE@VERSION` apart.
pub(super) fn split(word: &str) -> Result<Module, String> {
    let (module, version) = word.split_once('@').ok_or_else(|| format!("{word:?}: write MODULE@VERSION"))?;
    Ok((module.to_string(), version.to_string()))
}

/// What a go.mod requires.
pub(super) fn required(text: &str) -> Vec<Module> {
    listed(text, "require").filter(|(_, version)| is_canonical(version)).collect()
}

/// The modules that each `name` directive is of.
fn listed(text: &str, name: &str) -> impl Iterator<Item = Module> {
    directives(text, name).into_iter().filter_map(|words| Some((words.first()?.clone(), words.get(1)?.clone())))
}

fn replaced(text: &str) -> Vec<(Module, Module)> {
    let of = |words: Vec<String>| {
        let at = words.iter().position(|word| word == "=>")?;
        let version = |at: usize| words.get(at).filter(|word| *word != "=>").cloned().unwrap_or_default();
        let new = match version(at + 2) {
            version if is_canonical(&version) => (words.get(at + 1)?.clone(), version),
            // a directory, the name of which may hold spaces
            _ => Module::default(),
        };
        Some(((words.first()?.clone(), version(1)), new))
    };
    directives(text, "replace").into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_mods_say_what_they_require_and_replace() {
        let text = "module m\n\nrequire a.b/c v1.0.0 // x\nrequire (\n\ta.b/d v2.0.0+incompatible // indirect\n\t\"a.b/e\" v0.1.0\n)\n\
                    require(\n\ta.b/g v1.0.0\n) // )\nretract (\n\tv1.0.0\n)\n\
                    replace (\n\ta.b/c v1.0.0 => a.b/f v1.2.0\n\ta.b/e => \"../e (1)\"\n)\nexclude a.b/c v1.1.0\n";
        let module = |m: &str, v: &str| (m.to_string(), v.to_string());
        assert_eq!(
            required(text),
            [
                module("a.b/c", "v1.0.0"),
                module("a.b/d", "v2.0.0+incompatible"),
                module("a.b/e", "v0.1.0"),
                module("a.b/g", "v1.0.0")
            ]
        );
        let wants = Wants { replaced: replaced(text).into_iter().collect(), ..Wants::default() };
        assert_eq!(wants.stand_in(module("a.b/c", "v1.0.0")), Some(module("a.b/f", "v1.2.0")));
        assert_eq!(wants.stand_in(module("a.b/c", "v1.3.0")), Some(module("a.b/c", "v1.3.0")));
        assert_eq!(wants.stand_in(module("a.b/e", "v0.1.0")), None);
        let all = [module("a.b/c", "v1.9.0"), module("a.b/c", "v1.10.0"), module("a.b/d", "v1.0.0")];
        assert_eq!(selected(&all.clone().into()), BTreeSet::from([all[1].clone(), all[2].clone()]));
    }
}
