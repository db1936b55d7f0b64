//! Builds from a bucket at a distance, with what they cost on both sides.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::golang::{Build, Cache, Go};
use super::plugin::{Report, Watch};
use super::s3::{Counters, S3};
use super::{Result, table, turns};

/// What all such builds share.
pub struct Setup<'a> {
    /// Go.
    pub go: Go,
    /// The bucket.
    pub s3: S3,
    /// What is built.
    pub build: Vec<&'a str>,
    /// Go's own cache, warm after the cold build.
    pub native: PathBuf,
}

/// A watched build, and what the server counted meanwhile.
pub struct Outcome {
    /// From start to exit of `go`.
    pub wall: Duration,
    /// What `go` printed.
    pub stderr: String,
    /// What our process did.
    pub report: Report,
    /// What the server counted.
    pub server: Counters,
    /// CPU seconds of the server.
    pub server_cpu: f64,
}

impl Outcome {
    /// Gets that `go` sent.
    pub fn gets(&self) -> f64 {
        self.report.metric("gocache_server", "get_requests")
    }

    /// Seconds that gets waited for the bucket, added up.
    pub fn waited(&self) -> f64 {
        self.report.metric("bucket", "wait_nanos") / 1e9
    }
}

impl Setup<'_> {
    /// Our local cache directory, warm after the cold build.
    pub fn local(&self) -> PathBuf {
        self.go.scratch.join(turns::own("local"))
    }

    /// Builds with Go's own cache.
    pub fn native(&self) -> Result<Build> {
        self.go.build(&self.build, &Cache::Native(&self.native))
    }

    /// Builds in cache directory `dir` with the bucket `rtt` ms away.
    pub fn ours(&mut self, dir: &Path, rtt: u64, flags: &[&str], watch: Watch) -> Result<Outcome> {
        let packages = self.build.clone();
        self.ours_of(&packages, dir, rtt, flags, watch)
    }

    /// The same of other packages, or with flags for `go` before them.
    pub fn ours_of(
        &mut self,
        packages: &[&str],
        dir: &Path,
        rtt: u64,
        flags: &[&str],
        watch: Watch,
    ) -> Result<Outcome> {
        self.s3.round_trip(Duration::from_millis(rtt))?;
        let mut all = vec![format!("--cache-dir={}", dir.display())];
        all.extend(self.s3.flags());
        all.extend(flags.iter().map(|f| f.to_string()));
        all.extend_from_slice(turns::flags());
        let cpu = self.s3.cpu()?;
        let build = self.go.build(packages, &Cache::Watched(&all, watch))?;
        let report = build.report.ok_or("no report")?;
        let outcome = Outcome {
            wall: build.wall,
            stderr: build.stderr,
            report,
            server: self.s3.counters()?,
            server_cpu: self.s3.cpu()? - cpu,
        };
        table::progress(&format!(
            "  {}{rtt} ms {}: {:.2} s, {} gets, {} requests, {} connections, {:.1} MB down, {:.2} s waited",
            if turns::is_other() { "the other, " } else { "" },
            flags.join(" "),
            outcome.wall.as_secs_f64(),
            outcome.gets(),
            outcome.server.requests(),
            outcome.server.get("connections"),
            outcome.server.get("sent") as f64 / 1e6,
            outcome.waited(),
        ));
        Ok(outcome)
    }

    /// From the full bucket as the cold build left it into an empty cache directory.
    pub fn fresh(&mut self, rtt: u64, flags: &[&str], watch: Watch) -> Result<Outcome> {
        self.s3.restore()?;
        let dir = self.go.scratch.fresh(turns::own("fresh"))?;
        self.ours(&dir, rtt, flags, watch)
    }
}
