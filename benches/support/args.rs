//! A bench's arguments: `--name value` pairs after `cargo bench --bench NAME --`. A name alone has
//! the value `yes`.

use super::Result;

/// The arguments, as given.
pub struct Args(Vec<(String, String)>);

impl Args {
    /// Takes `argv` without the program's name. Flags of cargo itself are skipped.
    pub fn new(argv: Vec<String>) -> Result<Self> {
        let mut pairs = Vec::new();
        let mut args = argv.into_iter().filter(|a| a != "--bench").peekable();
        while let Some(name) = args.next() {
            let Some(name) = name.strip_prefix("--").map(str::to_string) else {
                return Err(format!("{name}: expected --name value").into());
            };
            let value = args.next_if(|a| !a.starts_with("--"));
            pairs.push((name, value.unwrap_or_else(|| "yes".into())));
        }
        Ok(Args(pairs))
    }

    /// Refuses names that are not in `known`.
    pub fn check(&self, known: &[&str]) -> Result<()> {
        match self.0.iter().find(|(n, _)| !known.contains(&n.as_str())) {
            Some((n, _)) => Err(format!("--{n}: unknown; there are --{}", known.join(" --")).into()),
            None => Ok(()),
        }
    }

    /// The value of `--name`.
    pub fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.0.iter().rev().find(|(n, _)| n == name).map_or(default, |(_, v)| v.as_str())
    }

    /// The value of `--name`, a number.
    pub fn number(&self, name: &str, default: usize) -> Result<usize> {
        match self.text(name, "") {
            "" => Ok(default),
            v => v.parse().map_err(|_| format!("--{name} {v}: not a number").into()),
        }
    }
}
