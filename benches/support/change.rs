//! A change to the Go tree after which a given share of the packages has to be rebuilt.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::golang::Go;
use super::{Result, table};

/// Files to change, and how many packages that rebuilds.
pub struct Change {
    files: Vec<Source>,
    /// Packages rebuilt.
    pub rebuilt: usize,
    /// Packages in all.
    pub of: usize,
}

struct Source {
    path: PathBuf,
    text: Vec<u8>,
    modified: SystemTime,
}

impl Change {
    /// Picks packages such that they and all that import them are `share` of `packages`.
    pub fn plan(go: &Go, gocache: &Path, packages: &[&str], share: f64) -> Result<Self> {
        let format = "{{.ImportPath}}\t{{.Dir}}\t{{join .GoFiles \",\"}}\t{{join .Deps \",\"}}";
        let out = go.command(gocache).args(["list", "-f", format]).args(packages).output()?;
        if !out.status.success() {
            return Err(format!("go list: {}", String::from_utf8_lossy(&out.stderr)).into());
        }
        let text = String::from_utf8(out.stdout)?;
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
        let mut importers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for line in &lines {
            importers.entry(line[0]).or_default().insert(line[0]);
            for dep in line[3].split(',') {
                importers.entry(dep).or_default().insert(line[0]);
            }
        }
        let (of, wanted) = (lines.len(), (lines.len() as f64 * share).max(1.0));
        let mut rebuilt = BTreeSet::new();
        let mut files = Vec::new();
        // every third package, so that they are not all of one corner of the tree
        for line in (0..3).flat_map(|i| lines.iter().skip(i).step_by(3)) {
            let more: BTreeSet<&str> = rebuilt.union(&importers[line[0]]).copied().collect();
            if more.len() as f64 > wanted || more.len() == rebuilt.len() || line[2].is_empty() {
                continue;
            }
            rebuilt = more;
            let file = line[2].split(',').next().unwrap_or_default();
            let path = Path::new(line[1]).join(file);
            files.push(Source { text: fs::read(&path)?, modified: fs::metadata(&path)?.modified()?, path });
        }
        let rebuilt = rebuilt.len();
        table::progress(&format!("change: {} files, which rebuilds {rebuilt} of {of} packages", files.len()));
        Ok(Change { files, rebuilt, of })
    }

    /// Makes the change, a different one for each `number`.
    pub fn apply(&self, number: usize) -> Result<()> {
        for f in &self.files {
            let mut text = f.text.clone();
            text.extend(format!("\nfunc benchChange{number}() int {{ return {number} }}\n").bytes());
            // an age that go's package index trusts
            write(&f.path, &text, f.modified + Duration::from_secs(number as u64 + 1))?;
        }
        Ok(())
    }

    /// Takes the change back.
    pub fn revert(&self) -> Result<()> {
        self.files.iter().try_for_each(|f| write(&f.path, &f.text, f.modified))
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if let Err(e) = self.revert() {
            table::progress(&format!("change: cannot be taken back: {e}"));
        }
    }
}

fn write(path: &Path, text: &[u8], modified: SystemTime) -> Result<()> {
    fs::write(path, text)?;
    File::options().append(true).open(path)?.set_modified(modified)?;
    Ok(())
}
