//! Paths as they are given: the only place that reads them.
//!
//! GOCACHEPROG and the variables of a CI job are no shell lines. What a shell would have put at the
//! beginning of a path, for `~`, `$NAME` or `${NAME}`, is put there; the rest stays as it is.

use std::path::{PathBuf, is_separator};

use super::Resolver;
use crate::cli::flags::Given;
use crate::error::Error;
use crate::platform::HOME;

/// Whether `text`, which may be something else too, is a path.
pub(super) fn is_path(text: &str) -> bool {
    text.contains(is_separator) || text.starts_with(['~', '$'])
}

impl Resolver<'_> {
    /// The path that `given` says, absolute.
    pub(super) fn path(&self, given: &Given) -> Result<PathBuf, Error> {
        Ok(self.cwd.join(self.expanded(&given.text).map_err(|why| given.error(why))?))
    }

    /// The path of a file, which has a name.
    pub(super) fn file(&self, given: &Given) -> Result<PathBuf, Error> {
        if given.text.is_empty() { Err(given.error("names no file")) } else { self.path(given) }
    }

    /// `text` with what its beginning stands for.
    pub(super) fn expanded(&self, text: &str) -> Result<String, String> {
        let (name, rest) = if let Some(rest) = text.strip_prefix('~') {
            if !rest.is_empty() && !rest.starts_with(is_separator) {
                return Err("~ stands for your own home directory alone: write ~/ or the path in full".into());
            }
            (HOME, rest)
        } else if let Some(rest) = text.strip_prefix("${") {
            rest.split_once('}').ok_or("a } is missing: write ${NAME} or the path in full")?
        } else if let Some(rest) = text.strip_prefix('$') {
            rest.split_at(rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len()))
        } else {
            return Ok(text.to_string());
        };
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !plain || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("no shell reads this: write $NAME, ${NAME} or the path in full".into());
        }
        let value =
            self.variable(name).ok_or_else(|| format!("{name} is not set: set it, or write the path in full"))?;
        let value = value.to_str().ok_or_else(|| format!("{name} is not valid UTF-8: write the path in full"))?;
        Ok(format!("{value}{rest}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::Environment;
    use crate::cli::flags::{Mode, Values};

    #[test]
    fn the_beginning_is_what_a_shell_would_make_of_it() {
        let env: Environment =
            [("HOME", "/home/u"), ("A_1", "a"), ("EMPTY", "")].map(|(name, value)| (name.into(), value.into())).into();
        let values = Values::default();
        let from = Resolver { mode: Mode::Serve, note: None, values: &values, env: &env, cwd: Path::new("/cwd") };
        let path = |text: &str| from.path(&Given { text: text.into(), from: "--x".into(), on_line: true });
        for (text, want) in [
            ("~", "/home/u"),
            ("~/x", "/home/u/x"),
            ("$HOME", "/home/u"),
            ("$HOME.d/x", "/home/u.d/x"),
            ("${HOME}", "/home/u"),
            ("${HOME}x/~/$A_1", "/home/ux/~/$A_1"),
            ("$A_1/x", "/cwd/a/x"),
            ("/~/$HOME", "/~/$HOME"),
            ("x~", "/cwd/x~"),
            ("./~", "/cwd/./~"),
        ] {
            assert_eq!(path(text).unwrap(), Path::new(want), "{text}");
        }
        for (text, want) in [
            ("~bob/x", "write ~/ or"),
            ("~$HOME", "write ~/ or"),
            ("$NONE/x", "NONE is not set: set it, or"),
            ("${EMPTY}/x", "EMPTY is not set: set it, or"),
            ("$/x", "write $NAME"),
            ("$", "write $NAME"),
            ("$1/x", "write $NAME"),
            ("$(pwd)/x", "write $NAME"),
            ("${}/x", "write $NAME"),
            ("${HOME:-x}", "write $NAME"),
            ("${HOME", "write ${NAME}"),
        ] {
            let text_of = path(text).unwrap_err().to_string();
            assert!(text_of.starts_with(&format!("--x {text:?}: ")) && text_of.contains(want), "{text_of}");
        }
    }
}
