//! What `go env` says: variables, what `go env -w` has set, and defaults.
//!
//! `run --modproxy` takes over what it says of modules: GOPROXY gives the upstreams, GOSUMDB the sum
//! database, GONOSUMDB what is not checked. What GONOPROXY names is never asked of us: `go` fetches it from
//! its origin.

use std::collections::BTreeMap;
use std::env;
use std::process::Command;

use crate::config::{GoSays, ListEnd, ModProxyConfig, UpstreamList};
use crate::error::Error;

/// Those that matter, with what `go` defaults to.
const NAMES: [(&str, &str); 3] =
    [("GOPROXY", "https://proxy.golang.org,direct"), ("GOSUMDB", "sum.golang.org"), ("GONOSUMDB", "")];

/// The values by name.
pub struct GoEnv(BTreeMap<String, String>);

impl GoEnv {
    /// Asks the `go` on PATH, or with `switch` the one that it fetches where a go.mod here wants another. The
    /// error is a sentence for people.
    pub fn ask(names: &[&str], switch: bool) -> Result<Self, String> {
        let mut command = Command::new("go");
        if !switch {
            command.env("GOTOOLCHAIN", "local");
        }
        let out = command.args(["env", "-json"]).args(names).output();
        let out = out.map_err(|e| format!("cannot start it: {e}; is it on PATH?"))?;
        if !out.status.success() {
            let why = String::from_utf8_lossy(&out.stderr).lines().next().unwrap_or_default().to_string();
            return Err(format!("\"go env\" fails: {why}"));
        }
        serde_json::from_slice(&out.stdout).map(GoEnv).map_err(|e| format!("\"go env -json\": {e}"))
    }

    /// What the variables say by themselves.
    fn variables(names: &[&str]) -> Self {
        let private = env::var("GOPRIVATE").ok().map(|value| ("GONOSUMDB".to_string(), value));
        let set = names.iter().filter_map(|name| Some((name.to_string(), env::var(name).ok()?)));
        GoEnv(private.into_iter().chain(set).collect())
    }

    /// The value, empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// Sets `config` up as `go` is, where flags do not say otherwise. Returns what GOPROXY has to say after our
/// own address.
pub(super) fn take_over(config: &mut ModProxyConfig, says: GoSays) -> Result<&'static str, Error> {
    let names = NAMES.map(|(name, _)| name);
    // no toolchain is fetched before modules are as they are to be
    let said = GoEnv::ask(&names, false).unwrap_or_else(|why| {
        log::debug!("go: {why}: modules are fetched as the variables say");
        GoEnv::variables(&names)
    });
    let get = |name: &str| match said.get(name) {
        "" => NAMES.iter().find(|row| row.0 == name).map_or("", |row| row.1),
        said => said,
    };
    // these errors quote what is wrong themselves, without a password
    let wrong = |name: &str, why: String| Error::usage(format!("{name} {why}: see \"go env {name}\""));
    config.nosum = get("GONOSUMDB").to_string();
    if says.sumdb {
        let database = match get("GOSUMDB") {
            "off" => None,
            "sum.golang.google.cn" => Some("sum.golang.org=https://sum.golang.google.cn".to_string()),
            text => Some(text.split_whitespace().collect::<Vec<_>>().join("=")),
        };
        config.verify &= database.is_some();
        let database = database.map(|text| text.parse()).transpose();
        config.sumdb = database.map_err(|why| wrong("GOSUMDB", why))?.into_iter().collect();
    }
    if says.upstream {
        let list = get("GOPROXY");
        let first = list.split([',', '|']).map(str::trim).find(|entry| !entry.is_empty());
        config.upstream = match first {
            // nothing but the origin, which is go's to ask
            Some("direct") => UpstreamList { entries: Vec::new(), end: ListEnd::Direct },
            _ => list.parse().map_err(|why| wrong("GOPROXY", why))?,
        };
    }
    let UpstreamList { entries, end } = &mut config.upstream;
    // after others, it ends GOPROXY's list and no more: go itself asks the sum database then, and so do we
    if says.upstream && *end == ListEnd::Off && !entries.is_empty() {
        *end = ListEnd::List;
    }
    Ok(match end {
        ListEnd::Direct if !entries.is_empty() && entries.iter().all(|entry| entry.on_any_error) => "|direct",
        ListEnd::Direct => ",direct",
        ListEnd::List | ListEnd::Off => "",
    })
}
