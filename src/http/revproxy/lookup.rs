//! What is kept, wherever it is: found, and dropped.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use url::Url;

use super::reply::{self, Found};
use super::rules::{self, Terms};
use super::stored;
use super::{RevProxy, hosts};
use crate::headers::{self, HeaderMap};
use crate::store::Blob;

impl RevProxy {
    /// The kept answer that suits a request, fresh or stale.
    pub(super) fn look_up(&self, url: &str, terms: &Terms) -> Option<Found> {
        if let Some(answer) = self.memory.get(url, &terms.headers) {
            let Some((name, _)) = &answer.blob else {
                return Some(Found { answer, file: None, outcome: reply::MEMORY });
            };
            let found = self.store.reopen(name).and_then(|blob| self.open(name, blob, terms));
            match found.filter(|found| found.answer.blob == answer.blob) {
                // what lies there has older headers
                Some(found) => return Some(Found { answer, ..found }),
                None => self.memory.remove(url, Some(&answer.variant)),
            }
        }
        let shared = self.store.local(url);
        let nothing = shared.is_none();
        if let Some(found) = shared.and_then(|blob| self.open(url, blob, terms)) {
            return Some(found);
        }
        let kept = |name: String| self.open(&name, self.store.reopen(&name)?, terms);
        if let Some(found) = stored::slots(url).find_map(kept) {
            return Some(found);
        }
        // what was not to be kept last time is hardly in the bucket
        let check = |mut file: &File| stored::decode_head(url, &mut file).map(|_| "").map_err(|e| e.to_string());
        let outdated = || self.store.reopen(&stored::outdated(url)).is_some();
        let ask_bucket = nothing && self.unkept.get(url).is_none() && !outdated();
        let blob = ask_bucket.then(|| self.store.from_bucket(url, false, &check)).flatten()?;
        self.open(url, blob, terms).map(|found| Found { outcome: reply::REMOTE, ..found })
    }

    /// The answer in a blob, if it is whole and suits.
    fn open(&self, name: &str, mut blob: Blob, terms: &Terms) -> Option<Found> {
        let (answer, head) = stored::decode_head(name, &mut blob.file)
            .inspect_err(|e| log::warn!("{}: {e}; fetching it anew", hosts::shown(name)))
            .ok()?;
        let suits = rules::same_variant(&answer.variant, &terms.headers);
        let file = Some((blob.file, head, blob.len));
        suits.then(|| Found { answer: Arc::new(answer), file, outcome: reply::LOCAL })
    }

    /// Drops one answer.
    pub(super) fn forget_one(&self, url: &str, found: &Found) {
        self.memory.remove(url, Some(&found.answer.variant));
        found.blob().into_iter().for_each(|name| {
            self.store.remove(name);
        });
    }

    /// Drops all answers to `url`, and to those of its host that an unsafe request's answer names
    /// (RFC 9111, 4.4).
    pub(super) fn invalidate(&self, url: &str, answer: &HeaderMap) {
        let base = Url::parse(url).ok();
        let named = ["location", "content-location"].into_iter().filter_map(|name| {
            let (base, mut named) = (base.as_ref()?, base.as_ref()?.join(headers::first(answer, name)?).ok()?);
            named.set_fragment(None);
            (named.origin() == base.origin()).then(|| named.to_string())
        });
        for url in named.chain([url.to_string()]) {
            self.latest.insert(url.clone(), Instant::now());
            self.memory.remove(&url, None);
            // the bucket may have it still, until it has the next one; other machines are on their own
            if self.store.is_shared() {
                let _ = self.own_store.writer(&stored::outdated(&url)).and_then(|writer| writer.commit());
            }
            self.unkept.insert(url.clone(), ());
            for name in stored::slots(&url).chain([url.clone()]) {
                self.store.remove(&name);
            }
        }
    }

    /// Whether what was `asked` for then is older than what is known of `url`.
    pub(super) fn is_late(&self, url: &str, asked: Instant) -> bool {
        self.latest.get(url).is_some_and(|latest| latest > asked)
    }

    /// The slot on disk for another answer to `url`, in the place of `old` or of the oldest.
    pub(super) fn free_slot(&self, url: &str, old: Option<&Found>) -> String {
        if let Some(name) = old.and_then(Found::blob).filter(|name| *name != url) {
            return name.to_string();
        }
        let ages = stored::slots(url).map(|name| (self.store.reopen(&name).map(|b| b.modified), name));
        ages.min().expect("there are some").1
    }
}
