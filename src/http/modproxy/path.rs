//! Paths of the module proxy protocol, and the names in them: the rules of golang.org/x/mod
//! (`module.CheckPath`, `module.UnescapePath`, `semver`), so that whatever gets past here is a name
//! that `go` itself would use.

use std::cmp::Ordering;

use fast_glob::glob_match;
use semver::Version;

use crate::text::{first_of, number, percent_decode};

/// A request, parsed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModPath {
    /// The whole path: the answer's name in the store, and below an upstream's URL.
    pub name: String,
    /// The module path, unescaped.
    pub module: String,
    /// Which of its files.
    pub file: ModFile,
    /// The version or query whose file it is; of a list and `@latest`, none.
    pub version: String,
}

/// What is asked of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModFile {
    /// `@v/list`
    List,
    /// `@latest`
    Latest,
    /// `@v/<version>.info`, where the version may be a branch or a commit.
    Info,
    /// `@v/<version>.mod`
    Mod,
    /// `@v/<version>.zip`
    Zip,
}

impl ModPath {
    /// Parses a decoded path such as `github.com/!burnt!sushi/toml/@v/v0.3.1.info`. The error is a
    /// status, 400 for a name that cannot be one and 404 for what no proxy has, and what is wrong.
    pub fn parse(name: &str) -> Result<Self, (u16, String)> {
        let (bad, none) = (|why: String| (400, why), |why: &str| (404, why.to_string()));
        let (escaped, file) = match name.strip_suffix("/@latest") {
            Some(module) => (module, None),
            None => {
                let (module, file) = name.split_once("/@v/").ok_or(none("neither @latest nor a file below @v/"))?;
                (module, Some(file))
            }
        };
        let module = unescape(escaped).ok_or_else(|| bad(format!("invalid escaped module path {escaped:?}")))?;
        check_path(&module).map_err(|why| bad(format!("invalid module path {module:?}: {why}")))?;
        let (file, version) = match file {
            None => (ModFile::Latest, ""),
            Some("list") => (ModFile::List, ""),
            Some(file) => match file.rsplit_once('.') {
                Some((version, "info")) => (ModFile::Info, version),
                Some((version, "mod")) => (ModFile::Mod, version),
                Some((version, "zip")) => (ModFile::Zip, version),
                _ => return Err(none("neither list nor .info, .mod or .zip")),
            },
        };
        let version = unescape(version).ok_or_else(|| bad(format!("invalid escaped version {version:?}")))?;
        if !matches!(file, ModFile::List | ModFile::Latest) {
            check_version(&version).map_err(|why| bad(format!("invalid version {version:?}: {why}")))?;
        }
        if matches!(file, ModFile::Mod | ModFile::Zip) && !is_canonical(&version) {
            return Err(none(&format!("version {version:?} is not canonical")));
        }
        Ok(ModPath { name: name.to_string(), module, file, version })
    }

    /// Whether the answer may change: everything but the files of a version that is one of the module's.
    pub fn is_mutable(&self) -> bool {
        match self.file {
            ModFile::List | ModFile::Latest => true,
            ModFile::Info => !is_version_of(&self.version, &self.module),
            ModFile::Mod | ModFile::Zip => false,
        }
    }

    /// What follows the version in the sum database, which knows some files.
    pub fn summed(&self) -> Option<&'static str> {
        match self.file {
            ModFile::Mod => Some("/go.mod"),
            ModFile::Zip => Some(""),
            _ => None,
        }
    }
}

/// Decodes `%xx` in a URL path that can only stand for names of the protocol: every byte is
/// visible ASCII afterwards, and none is a separator that the URL hid.
pub fn decode(path: &str) -> Option<String> {
    let hidden = |at: usize| path.get(at + 1..at + 3).is_some_and(|hex| matches!(hex, "2F" | "2f"));
    // a version query may hold a space
    let fine = |decoded: &String| decoded.bytes().all(|b| b == b' ' || b.is_ascii_graphic() && b != b'\\');
    percent_decode(path).filter(|decoded| fine(decoded) && !path.match_indices('%').any(|(at, _)| hidden(at)))
}

/// Encodes a decoded path for a URL as `go` does, so that no byte of a name means anything there.
pub fn encode(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~$&+:=@".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A name with upper case as `!x`.
pub fn escape(name: &str) -> String {
    let marked = |c: char| [c.is_ascii_uppercase().then_some('!'), Some(c.to_ascii_lowercase())];
    name.chars().flat_map(marked).flatten().collect()
}

/// The name of the file of that kind (`info`, `mod` or `zip`) of a module's version.
pub fn name(module: &str, version: &str, kind: &str) -> String {
    format!("{}/@v/{}.{kind}", escape(module), escape(version))
}

/// Undoes the case escapes; `None` where the text is not what escaping makes.
pub fn unescape(escaped: &str) -> Option<String> {
    let mut out = String::with_capacity(escaped.len());
    let mut bytes = escaped.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'!' => out.push(bytes.next().filter(u8::is_ascii_lowercase)?.to_ascii_uppercase() as char),
            b'A'..=b'Z' => return None,
            0..=127 => out.push(b as char),
            _ => return None,
        }
    }
    Some(out)
}

/// `module.CheckPath`.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    for element in path.split('/') {
        check_element(element, plain)?;
        let short = element.split('.').next().unwrap_or_default();
        let numbered = short.rsplit_once('~').is_some_and(|(_, digits)| number(digits).is_some());
        first_of(&[
            (element.starts_with('.'), "leading dot in path element"),
            (numbered, "trailing tilde and digits in path element"),
        ])?;
    }
    let first = path.split('/').next().unwrap_or_default();
    let host = |b: u8| matches!(b, b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z');
    first_of(&[
        (path.starts_with('-'), "leading dash"),
        (!first.contains('.'), "missing dot in first path element"),
        (!first.bytes().all(host), "invalid character in first path element"),
        (path_major(path).is_none(), "invalid version suffix"),
    ])
}

/// What paths and versions want of an element between slashes.
pub fn check_element(element: &str, allowed: impl Fn(u8) -> bool) -> Result<(), &'static str> {
    let short = element.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let numbered = |name| short.strip_prefix(name).is_some_and(|n| matches!(n.as_bytes(), [b'1'..=b'9']));
    let device = matches!(&*short, "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt");
    first_of(&[
        (element.is_empty(), "empty path element"),
        (element.bytes().all(|b| b == b'.'), "path element of dots only"),
        (element.ends_with('.'), "trailing dot in path element"),
        (!element.bytes().all(allowed), "invalid character"),
        (device, "path element that Windows reserves"),
    ])
}

/// `module.SplitPathVersion`: the path's major version suffix, `/v2` or `.v3`, empty without one;
/// `None` where it is not a valid one.
fn path_major(path: &str) -> Option<&str> {
    if let Some(rest) = path.strip_prefix("gopkg.in/") {
        let rest = rest.strip_suffix("-unstable").unwrap_or(rest);
        let stem = rest.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = &rest[stem.len()..];
        let valid = stem.ends_with(".v") && !digits.is_empty() && (!digits.starts_with('0') || digits == "0");
        return valid.then(|| &rest[stem.len() - 2..]);
    }
    let stem = path.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let suffix = &path[stem.len()..];
    if suffix.is_empty() || !stem.ends_with("/v") {
        return Some("");
    }
    (!suffix.contains('.') && !suffix.starts_with('0') && suffix != "1").then(|| &path[stem.len() - 2..])
}

/// Whether a canonical version is one that the module `path` can have, as `module.Check` says: v2 of a
/// module without `/v2` at its end is but a query, which may be answered with `v2+incompatible`.
pub fn is_version_of(version: &str, path: &str) -> bool {
    let major = version.split('.').next().unwrap_or_default();
    is_canonical(version)
        && match path_major(path) {
            Some("") => matches!(major, "v0" | "v1") || version.ends_with("+incompatible"),
            Some(suffix) => major == &suffix[1..] || suffix == ".v1" && version.starts_with("v0.0.0-"),
            None => false,
        }
}

/// What `module.UnescapeVersion` wants of a version or query.
pub fn check_version(version: &str) -> Result<(), &'static str> {
    check_element(version, |b| b.is_ascii_alphanumeric() || b"#$%&()+,-.=@[]^_{}~ ".contains(&b))
}

/// A canonical semantic version: `v1.2.3`, with a pre-release perhaps, and no build but `+incompatible`.
pub fn canonical(version: &str) -> Option<Version> {
    let version = Version::parse(version.strip_prefix('v')?).ok()?;
    matches!(version.build.as_str(), "" | "incompatible").then_some(version)
}

/// Whether `version` is a canonical semantic version. Such a version never changes.
pub fn is_canonical(version: &str) -> bool {
    canonical(version).is_some()
}

/// Whether a canonical version stands for a commit without a tag: its pre-release ends with the commit's
/// time and hash.
pub fn is_pseudo(version: &str) -> bool {
    let version = version.strip_suffix("+incompatible").unwrap_or(version);
    let Some((rest, hash)) = version.rsplit_once('-') else { return false };
    let time = rest.rsplit(['-', '.']).next().unwrap_or_default();
    let is = |text: &str, len, all: fn(&u8) -> bool| text.len() == len && text.as_bytes().iter().all(all);
    is(hash, 12, u8::is_ascii_alphanumeric) && is(time, 14, u8::is_ascii_digit)
}

/// The one of canonical versions that `go` takes for the latest: a release before a pre-release, and that
/// before a commit without a tag.
pub fn latest<'a>(versions: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let rank = |version: &str| (!is_pseudo(version), !version.contains('-'));
    versions.max_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| compare(a, b)))
}

/// The order of canonical versions; others come before all.
pub fn compare(a: &str, b: &str) -> Ordering {
    canonical(a).cmp(&canonical(b))
}

/// `module.MatchPrefixPatterns`: whether one of the comma-separated `globs` matches `path` or the
/// elements that it begins with. A star stands for no slash, and a malformed pattern matches nothing.
pub fn matches_prefix(globs: &str, path: &str) -> bool {
    globs.split(',').map(|glob| glob.trim().trim_end_matches('/')).filter(|glob| !glob.is_empty()).any(|glob| {
        let mut ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        // what means more to the library alone stands for itself
        let plain = || glob.replace('!', "\\!").replace('{', "\\{");
        ends.nth(glob.matches('/').count()).is_some_and(|end| glob_match(plain(), &path[..end]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let p = ModPath::parse("github.com/!burnt!sushi/toml/@v/v0.3.1.info").unwrap();
        assert_eq!((p.module.as_str(), p.file), ("github.com/BurntSushi/toml", ModFile::Info));
        assert_eq!(p.version, "v0.3.1");
        let p = ModPath::parse("golang.org/toolchain/@v/v0.0.1-go1.21.0.linux-amd64.zip").unwrap();
        assert_eq!((p.file, p.version.as_str()), (ModFile::Zip, "v0.0.1-go1.21.0.linux-amd64"));
        assert!(ModPath::parse("a.b/c/@v/list").unwrap().is_mutable());
        assert!(ModPath::parse("a.b/c/@latest").unwrap().is_mutable());
        assert!(ModPath::parse("a.b/c/@v/master.info").unwrap().is_mutable());
        assert!(ModPath::parse("a.b/c/@v/v1.info").unwrap().is_mutable());
        assert!(!ModPath::parse("a.b/c/@v/v1.0.0+incompatible.mod").unwrap().is_mutable());
        for bad in [
            "", "a.b/c", "a.b/c/@v/", "a.b/c/@v/list/x", "a.b/c/@v/v1.0.0.tar", "a.b/c/@v/master.zip",
            "a.b/c/@v/master.mod", "a.b/c/@v/.info", "a.b/c/@v/...info", "a.b/c/@v/v1/2.info", "a.b/C/@v/list",
            "a.b/!C/@v/list", "a.b/!/@v/list", "a.b/../x/@v/list", "a.b//x/@v/list", "/a.b/@v/list", "a.b/./x/@latest",
            "a.b/.x/@latest", "ab/x/@latest", "-a.b/x/@latest", "a.b/con/@latest", "a.b/nul.txt/@latest",
            "a.b/x~1/@latest", "a.b/x@v/@latest", "a.b/x/@v/VERSION.info", "a.b/x/v1/@latest", "a.b/x/v0/@latest",
            "a.b/x/v02/@latest", "gopkg.in/yaml/@latest", "a.b/x/@v/a@latest",
        ] {
            assert!(ModPath::parse(bad).is_err(), "{bad}");
        }
        for good in ["a.b/@latest", "a.b/x/v2/@latest", "gopkg.in/yaml.v3/@latest", "gopkg.in/a/b.v0-unstable/@latest"]
        {
            assert!(ModPath::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn decoding() {
        assert_eq!(decode("a.b/%21x/@v/v1.0.0%2Bincompatible.info").unwrap(), "a.b/!x/@v/v1.0.0+incompatible.info");
        for bad in ["a%2fb", "a%2Fb", "a%5cb", "a\\b", "a%00b", "a%0ab", "a%", "a%2", "a%zz", "a%e9"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        // decoded once, and encoded again on the way up
        assert_eq!(decode("a%252f%20%23").as_deref(), Some("a%2f #"));
        assert_eq!(encode("a.b/!x/@v/a%2f #+?.info"), "a.b/%21x/@v/a%252f%20%23+%3F.info");
    }

    #[test]
    fn versions_of_another_major_are_queries() {
        for (version, path) in [
            ("v1.0.0", "a.b/c"),
            ("v2.0.0+incompatible", "a.b/c"),
            ("v2.1.0", "a.b/c/v2"),
            ("v3.0.0", "gopkg.in/yaml.v3"),
            ("v0.0.0-20161208181325-20d25e280405", "gopkg.in/check.v1"),
            ("v0.1.0", "gopkg.in/a/b.v0-unstable"),
        ] {
            assert!(is_version_of(version, path), "{version} {path}");
        }
        for (version, path) in [("v2.0.0", "rsc.io/breaker"), ("v1.0.0", "a.b/c/v2"), ("v2.0.0", "gopkg.in/yaml.v3")] {
            assert!(!is_version_of(version, path), "{version} {path}");
        }
    }

    #[test]
    fn escapes_are_undone() {
        let plain = "github.com/Azure/azure-sdk-for-go/v2";
        assert_eq!(unescape("github.com/!azure/azure-sdk-for-go/v2").as_deref(), Some(plain));
    }

    #[test]
    fn canonical_versions() {
        for good in [
            "v1.2.3",
            "v0.0.0",
            "v1.2.3-pre.1",
            "v0.0.0-20191109021931-daa7c04131f5",
            "v2.0.0+incompatible",
            "v1.0.0-0.20200101000000-abcdefabcdef+incompatible",
        ] {
            assert!(is_canonical(good), "{good}");
        }
        for bad in [
            "", "v1", "v1.2", "1.2.3", "v1.2.3.4", "v01.2.3", "v1.2.3+meta", "v1.2.3-", "v1.2.3-01", "v1.2.3-a..b",
            "master",
        ] {
            assert!(!is_canonical(bad), "{bad}");
        }
    }

    #[test]
    fn versions_are_ordered() {
        let sorted = [
            "v0.0.0-20191109021931-daa7c04131f5",
            "v0.9.0",
            "v1.0.0-alpha",
            "v1.0.0-alpha.1",
            "v1.0.0-alpha.beta",
            "v1.0.0-rc.2",
            "v1.0.0-rc.11",
            "v1.0.0",
            "v1.2.0",
            "v1.10.0",
            "v2.0.0+incompatible",
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} {b}");
            }
        }
        for pseudo in
            [sorted[0], "v1.2.4-0.20191109060011-ce42febb9b51", "v2.0.1-rc.0.20191109060011-ce42febb9b51+incompatible"]
        {
            assert!(is_pseudo(pseudo), "{pseudo}");
        }
        assert!(!sorted[1..].iter().any(|v| is_pseudo(v)));
    }

    #[test]
    fn private_patterns() {
        let globs = "*.corp.example.com, github.com/org/*,exact.example/x/";
        for inside in [
            "git.corp.example.com/x/y",
            "github.com/org/repo",
            "github.com/org/repo/v2/sub",
            "exact.example/x",
            "exact.example/x/y",
        ] {
            assert!(matches_prefix(globs, inside), "{inside}");
        }
        for outside in [
            "corp.example.com/x", "github.com/org", "github.com/other/repo", "exact.example/xy",
            "a/git.corp.example.com",
        ] {
            assert!(!matches_prefix(globs, outside), "{outside}");
        }
        assert!(matches_prefix("a.b/[x-z]?", "a.b/yy/z") && !matches_prefix("a.b/[^x-z]", "a.b/y"));
        assert!(matches_prefix("a.b/[!x]*", "a.b/xy") && !matches_prefix("a.b/[!x]*", "a.b/y"));
        assert!(!matches_prefix("a.b/{x,y}", "a.b/x"));
        assert!(
            !matches_prefix("", "a.b/c") && !matches_prefix("a.b/[", "a.b/[") && !matches_prefix("!a.b/c", "a.b/d")
        );
        // a path that is made for it costs no time to speak of
        let long = format!("{}x", "a.".repeat(4000));
        assert!(!matches_prefix("*a*a*a*a*a*a*b", &long) && matches_prefix("*a*a*a*a*[x]", &long));
        assert!(matches_prefix("*a?b*/c*d", "xaabab/cd") && !matches_prefix("*a?b*/c*d", "xaabab/cx/d"));
    }
}
