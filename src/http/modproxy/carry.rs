//! What `mod` asks of the module proxy: files by the names that they have below /mod/.

use std::collections::BTreeSet;
use std::io;

use super::path::{ModFile, ModPath};
use super::verify::UNVERIFIED;
use super::{FetchError, ModProxy};
use crate::store::{Blob, Kept};

/// Names of files and what is in them, on their way out.
pub type Put<'a> = &'a mut dyn FnMut(&str, &[u8]) -> io::Result<()>;

impl ModProxy {
    /// Has the file `name` kept, checked as always, and tells whether it is verified as far as it can
    /// be. The error is one line.
    pub fn obtain(&self, name: &str) -> Result<bool, String> {
        self.found(name).map(|found| found.blob.note != UNVERIFIED)
    }

    /// The text of the file `name`, kept.
    pub fn text(&self, name: &str) -> Result<String, String> {
        self.found(name)?.text()
    }

    fn found(&self, name: &str) -> Result<super::Found, String> {
        let wanted = ModPath::parse(name).map_err(|(_, why)| why)?;
        self.0.get(name, &wanted).map_err(|e: FetchError| e.to_string())
    }

    /// Calls `each` for every file that is kept, of the sum databases too.
    pub fn each(&self, each: impl FnMut(Kept)) -> io::Result<()> {
        self.0.depot.each(each)
    }

    /// Whether what was kept so is still to be verified.
    pub fn is_unverified(kept: &Kept) -> bool {
        kept.note == UNVERIFIED
    }

    /// Opens what is kept as `name`.
    pub fn open(&self, name: &str) -> Option<Blob> {
        self.0.depot.reopen(name)
    }

    /// Removes what is kept as `name`; tells whether there was something.
    pub fn remove(&self, name: &str) -> bool {
        self.0.depot.forget(name)
    }

    /// Gives `put` what the sum database says of the modules whose files have these names, with all that
    /// it takes to verify that.
    pub fn sums(&self, names: &BTreeSet<String>, put: Put<'_>) -> io::Result<()> {
        let paths = names.iter().filter_map(|name| ModPath::parse(name).ok());
        let summed = paths.filter(|path| matches!(path.file, ModFile::Mod(_) | ModFile::Zip(_)));
        let modules = summed.filter(|path| self.0.judge(&path.module).is_some());
        let modules: BTreeSet<_> =
            modules.filter_map(|p| p.version().map(|v| (p.module.clone(), v.to_string()))).collect();
        self.0.sumdb.first().map_or(Ok(()), |database| database.export(&self.0.depot, &modules, put))
    }
}
