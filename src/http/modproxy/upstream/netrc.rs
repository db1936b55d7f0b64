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

/// Read as `go` does: a word and what it names are on one line, macros are skipped, and where `default` ends a line, so
/// does all that is read: credentials for just any host are given to none. The first whole entry of a machine counts.
fn parse(text: &str) -> Logins {
    let (mut logins, mut entry, mut in_macro) = (Logins::new(), [""; 3], false);
    for line in text.lines() {
        if in_macro || line.trim_start().starts_with('#') {
            in_macro &= !line.trim().is_empty();
            continue;
        }
        for pair in line.split_whitespace().collect::<Vec<_>>().chunks(2) {
            match *pair {
                ["machine", name] => entry = [name, "", ""],
                ["login", name] => entry[1] = name,
                ["password", word] => entry[2] = word,
                ["macdef", ..] => in_macro = true,
                ["default"] => return logins,
                _ => {}
            }
            let [machine, login, password] = entry;
            if !entry.contains(&"") {
                logins.entry(machine.to_ascii_lowercase()).or_insert((login.into(), password.into()));
            }
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
             macdef init\n machine evil.example login x password y\n\ndefault login any password any\nmachine a.example login u3\n\
             machine c.example login u4 password p4 default\nlogin any password any machine d.example\n",
        );
        assert_eq!(logins.len(), 3);
        assert_eq!(logins["a.example"], ("u1".into(), "p1".into()));
        assert_eq!(logins["b.example"], ("u2".into(), "p2".into()));
        assert_eq!(logins["c.example"], ("u4".into(), "p4".into()));
    }
}
