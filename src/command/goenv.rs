//! What `go` is set to do for modules, by variables or by `go env -w`, as `run --modproxy` takes it over:
//! GOPROXY gives the upstreams, GOSUMDB the sum database, GONOSUMDB what is not checked. What GONOPROXY
//! names is never asked of us: `go` fetches it from its origin.

use std::collections::HashMap;
use std::env;
use std::process::Command;

use crate::config::{GoSays, ListEnd, ModProxyConfig, UpstreamList};
use crate::error::Error;

/// Those that matter, with what `go` defaults to.
const NAMES: [(&str, &str); 3] =
    [("GOPROXY", "https://proxy.golang.org,direct"), ("GOSUMDB", "sum.golang.org"), ("GONOSUMDB", "")];

/// What `go env` says; without a `go` on PATH, what the variables say.
fn ask() -> HashMap<String, String> {
    let names = NAMES.map(|(name, _)| name);
    // no toolchain is fetched to answer this
    let asked = Command::new("go").args(["env", "-json"]).args(names).env("GOTOOLCHAIN", "local").output();
    let told = asked.ok().filter(|out| out.status.success());
    let mut said: HashMap<String, String> =
        told.and_then(|out| serde_json::from_slice(&out.stdout).ok()).unwrap_or_else(|| {
            log::debug!("go env says nothing: modules are fetched as the variables say");
            let private = env::var("GOPRIVATE").ok().map(|value| ("GONOSUMDB".to_string(), value));
            let set = names.into_iter().filter_map(|name| Some((name.to_string(), env::var(name).ok()?)));
            private.into_iter().chain(set).collect()
        });
    said.retain(|_, value| !value.is_empty());
    said
}

/// Sets `config` up as `go` is, where flags do not say otherwise. Returns what GOPROXY has to say after our
/// own address.
pub(super) fn take_over(config: &mut ModProxyConfig, says: GoSays) -> Result<&'static str, Error> {
    let said = ask();
    let get = |name: &str| {
        let default = NAMES.iter().find(|row| row.0 == name).map_or("", |row| row.1);
        said.get(name).map_or(default, String::as_str)
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
        config.upstream = match get("GOPROXY").trim() {
            // nothing but the origin, which is go's to ask
            "direct" => UpstreamList { entries: Vec::new(), end: ListEnd::Direct },
            list => list.parse().map_err(|why| wrong("GOPROXY", why))?,
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
