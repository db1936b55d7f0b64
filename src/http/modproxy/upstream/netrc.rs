//! The part of netrc that names users and passwords of machines.

use std::collections::HashMap;
use std::io;
use std::path::Path;

/// User and password by host, in lower case.
pub(super) type Logins = HashMap<String, (String, String)>;

/// Reads the file at `path`; one that is not there is empty.
pub(super) fn read(path: &Path) -> Result<Logins, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(parse(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Logins::new()),
        Err(e) => Err(format!("netrc file {}: {e}", path.display())),
    }
}

/// Macros are skipped, and so is `default`: credentials for just any host are given to none. The
/// first entry of a machine counts.
fn parse(text: &str) -> Logins {
    let (mut entries, mut in_macro) = (Vec::new(), false);
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut words = line.split_whitespace();
        while let Some(word) = words.next().filter(|word| !word.starts_with('#')) {
            match (word, entries.last_mut()) {
                ("machine", _) => entries.push((words.next(), None, None)),
                ("default", _) => entries.push((None, None, None)),
                ("login", Some((_, login, _))) => *login = words.next(),
                ("password", Some((_, _, password))) => *password = words.next(),
                ("login" | "password" | "account", _) => drop(words.next()),
                ("macdef", _) => {
                    in_macro = true;
                    break;
                }
                _ => {}
            }
        }
    }
    let mut logins = Logins::new();
    for (machine, login, password) in entries {
        if let (Some(machine), Some(login)) = (machine, login) {
            let login = (login.to_string(), password.unwrap_or_default().to_string());
            logins.entry(machine.to_ascii_lowercase()).or_insert(login);
        }
    }
    logins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_and_nothing_else() {
        let logins = parse(
            "# comment\nmachine A.example login u1 password p1\nmachine b.example\n  login u2\n  account x\n  password p2\n\
             macdef init\n machine evil.example login x password y\n\ndefault login any password any\nmachine a.example login u3\n",
        );
        assert_eq!(logins.len(), 2);
        assert_eq!(logins["a.example"], ("u1".into(), "p1".into()));
        assert_eq!(logins["b.example"], ("u2".into(), "p2".into()));
    }
}
