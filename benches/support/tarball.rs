//! What is fetched before a build: without a cache program the tarball of GOCACHE, and otherwise the program.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::golang::Cache;
use super::setup::Setup;
use super::{Result, table, turns};

/// Packs Go's own cache, and lets the server serve it. Returns its address.
pub fn pack(at: &mut Setup) -> Result<String> {
    let file = at.go.scratch.join("tarball.tar.zst");
    shell(&format!("tar -I zstd -cf '{}' -C '{}' .", file.display(), at.native.display()))?;
    table::progress(&format!("tarball: {:.1} MB", fs::metadata(&file)?.len() as f64 / 1e6));
    Ok(format!("{}/tarball.tar.zst", at.s3.share(&file)?))
}

/// Packs the program as a release does. Returns where releases are.
pub fn release(at: &mut Setup) -> Result<String> {
    let (dir, name) = (at.go.scratch.fresh("release")?, format!("go-cache-plugin-{TARGET}"));
    shell(&format!(
        "set -e; cd '{}'; mkdir {name}; strip -o {name}/go-cache-plugin '{}'; tar -c {name} | gzip -9 >{name}.tar.gz
         sha256sum {name}.tar.gz >SHA256SUMS",
        dir.display(),
        turns::program()
    ))?;
    at.s3.share(&dir.join("SHA256SUMS"))?;
    at.s3.share(&dir.join(format!("{name}.tar.gz")))
}

/// What a release is for here; any name does.
const TARGET: &str = "x86_64-unknown-linux-musl";

/// Installs the program by the script from `rtt` ms away.
pub fn install(at: &mut Setup, releases: &str, rtt: u64) -> Result<Duration> {
    at.s3.round_trip(Duration::from_millis(rtt))?;
    let (dir, script) = (at.go.scratch.fresh("installed")?, concat!(env!("CARGO_MANIFEST_DIR"), "/.github/install.sh"));
    rustix::fs::sync();
    let start = Instant::now();
    shell(&format!(
        "GO_CACHE_PLUGIN_URL='{releases}' GO_CACHE_PLUGIN_TARGET={TARGET} GO_CACHE_PLUGIN_DIR='{0}' PATH=\"{0}:$PATH\" \
         sh '{script}' >/dev/null",
        dir.display()
    ))?;
    Ok(start.elapsed())
}

/// Fetches the tarball from `rtt` ms away, unpacks it while it arrives, and builds.
pub fn build(at: &mut Setup, url: &str, rtt: u64) -> Result<Duration> {
    at.s3.round_trip(Duration::from_millis(rtt))?;
    let dir = at.go.scratch.fresh("unpacked")?;
    rustix::fs::sync();
    let start = Instant::now();
    shell(&format!("set -o pipefail; curl -sSf '{url}' | tar -I zstd -x -C '{}'", dir.display()))?;
    let unpacked = start.elapsed();
    let built = at.go.build(&at.build, &Cache::Native(&dir))?.wall;
    table::progress(&format!("  {rtt} ms, tarball: unpacked after {unpacked:.2?}, built in {built:.2?}"));
    Ok(unpacked + built)
}

fn shell(command: &str) -> Result<()> {
    let status = Command::new("bash").args(["-c", command]).status()?;
    if !status.success() {
        return Err(format!("{command}: {status}; bash, curl, tar and zstd are needed").into());
    }
    Ok(())
}

/// A program of one package and some of the standard library, in a folder that is made for it.
pub fn small_program(at: &Setup) -> Result<PathBuf> {
    let dir = at.go.scratch.fresh("small")?;
    fs::write(dir.join("go.mod"), "module example.com/small\n\ngo 1.24\n")?;
    fs::write(
        dir.join("main.go"),
        "package main\n\nimport (\n\t\"encoding/json\"\n\t\"log\"\n\t\"net/http\"\n\t\"os\"\n)\n\nfunc main() {\n\
         \thttp.HandleFunc(\"/\", func(w http.ResponseWriter, r *http.Request) {\n\
         \t\t_ = json.NewEncoder(w).Encode(os.Args)\n\t})\n\tlog.Fatal(http.ListenAndServe(\"127.0.0.1:0\", nil))\n}\n",
    )?;
    Ok(dir)
}

/// kube-apiserver of Kubernetes, its staging modules at their released versions, through the module
/// proxy of `go env GOPROXY`.
pub fn kubernetes(at: &Setup, version: &str) -> Result<PathBuf> {
    let dir = at.go.scratch.join(format!("kubernetes-{version}"));
    if !dir.join("ready").exists() {
        let minor = version.strip_prefix("v1.").ok_or("kubernetes: expected v1.MINOR.PATCH")?;
        let (cache, target) = (at.go.scratch.join("home/go/pkg/mod"), dir.display());
        table::progress(&format!("fetching k8s.io/kubernetes@{version}"));
        shell(&format!(
            "set -e; export GOMODCACHE='{}' GOFLAGS=-mod=mod GOTOOLCHAIN=local GOWORK=off
             from=$(go mod download -json k8s.io/kubernetes@{version} | sed -n 's/.*\"Dir\": \"\\(.*\\)\",/\\1/p')
             rm -rf '{target}'; cp -r \"$from\" '{target}'; chmod -R u+w '{target}'; cd '{target}'
             rm -rf vendor go.work go.work.sum
             for m in $(sed -n 's|^\\t\\(k8s.io/[a-z-]*\\) => ./staging.*|\\1|p' go.mod); do
                 go mod edit -dropreplace=$m -require=$m@v0.{minor}
             done
             go mod download; go list -deps ./cmd/kube-apiserver >/dev/null; touch ready",
            cache.display()
        ))?;
    }
    Ok(dir)
}
