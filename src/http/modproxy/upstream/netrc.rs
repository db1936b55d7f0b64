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
    let mut logins = Logins::new();
    let mut machine: Option<String> = None;
    let (mut login, mut password) = (None, None);
    let mut in_macro = false;
    let mut keep = |machine: &mut Option<String>, login: &mut Option<String>, password: &mut Option<String>| {
        let (login, password) = (login.take(), password.take());
        if let (Some(machine), Some(login)) = (machine.take(), login) {
            logins.entry(machine.to_ascii_lowercase()).or_insert((login, password.unwrap_or_default()));
        }
    };
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                _ if word.starts_with('#') => break,
                "machine" => {
                    keep(&mut machine, &mut login, &mut password);
                    machine = words.next().map(str::to_string);
                }
                "default" => keep(&mut machine, &mut login, &mut password),
                "login" => login = words.next().map(str::to_string),
                "password" => password = words.next().map(str::to_string),
                "account" => drop(words.next()),
                "macdef" => {
                    in_macro = true;
                    break;
                }
                _ => {}
            }
        }
    }
    keep(&mut machine, &mut login, &mut password);
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
