//! Requests and answers as values.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::Deserialize;

use crate::cache::id::{ActionId, OutputId};

/// A request: `Err` says why it cannot be carried out, and is answered so.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// What the answer is matched by.
    pub id: i64,
    /// What is wanted.
    pub command: Result<Command, String>,
    /// Bytes of the body that follows; it must be read whatever becomes of the request.
    pub body_size: u64,
}

/// What `go` may want.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Look an action up.
    Get(ActionId),
    /// Store the body that follows.
    Put(ActionId, OutputId),
    /// End the session.
    Close,
    /// Name the scope of this session; from our `connect` only, and never answered.
    Scope(String),
}

/// An answer.
#[derive(Debug)]
pub enum Answer {
    /// The greeting: the commands that are known.
    Known(&'static [&'static str]),
    /// A get that found its action.
    Hit {
        /// The output's id.
        output: OutputId,
        /// Its size in bytes.
        size: u64,
        /// When it was put.
        time: SystemTime,
        /// Where its bytes are, absolute.
        path: PathBuf,
    },
    /// A get that did not.
    Miss,
    /// A put that was stored, and where.
    Stored(PathBuf),
    /// The session is closed.
    Closed,
    /// This request failed.
    Failed(String),
}

/// A request line as it stands on the wire.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    #[serde(rename = "ID")]
    id: Option<i64>,
    command: Option<String>,
    #[serde(rename = "ActionID")]
    action: Option<String>,
    #[serde(rename = "OutputID")]
    output: Option<String>,
    /// What Go 1.23's experiment called OutputID.
    #[serde(rename = "ObjectID")]
    object: Option<String>,
    body_size: Option<i64>,
    scope: Option<String>,
}

impl Request {
    /// Parses one line. An error means that the line is not a JSON object with the fields' types.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        let wire: Wire = serde_json::from_slice(line)?;
        let body_size = wire.body_size.unwrap_or(0).max(0) as u64;
        Ok(Request { id: wire.id.unwrap_or(0), body_size, command: wire.into_command() })
    }
}

impl Wire {
    fn into_command(self) -> Result<Command, String> {
        if self.id.is_none() {
            return Err("request has no ID".into());
        }
        if self.body_size.is_some_and(|n| n < 0) {
            return Err("negative BodySize".into());
        }
        match self.command.as_deref() {
            Some("get") => Ok(Command::Get(action(self.action)?)),
            Some("put") => {
                let id = decode(self.output.or(self.object), "OutputID")?;
                let output =
                    OutputId::new(&id).ok_or_else(|| format!("OutputID has {} bytes; a SHA-256 has 32", id.len()))?;
                Ok(Command::Put(action(self.action)?, output))
            }
            Some("close") => Ok(Command::Close),
            Some("scope") => self.scope.map(Command::Scope).ok_or_else(|| "scope command without Scope".into()),
            Some(other) => Err(format!("unknown command {other:?}")),
            None => Err("request has no Command".into()),
        }
    }
}

fn action(text: Option<String>) -> Result<ActionId, String> {
    let id = decode(text, "ActionID")?;
    ActionId::new(&id).ok_or_else(|| format!("ActionID has {} bytes; 1 to 64 are possible", id.len()))
}

fn decode(text: Option<String>, field: &str) -> Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!("request has no {field}"))?;
    base64_simd::STANDARD.decode_to_vec(text).map_err(|_| format!("{field} is not base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Result<Command, String> {
        Request::parse(line.as_bytes()).unwrap().command
    }

    #[test]
    fn requests_of_go() {
        let get = Request::parse(br#"{"ID":1,"Command":"get","ActionID":"AQI="}"#).unwrap();
        assert_eq!(get.id, 1);
        assert_eq!(get.command, Ok(Command::Get(ActionId::new(&[1, 2]).unwrap())));
        let sum = base64_simd::STANDARD.encode_to_string([7; 32]);
        let line = format!(r#"{{"ID":2,"Command":"put","ActionID":"AQI=","OutputID":"{sum}","BodySize":9}}"#);
        let put = Request::parse(line.as_bytes()).unwrap();
        assert_eq!(put.body_size, 9);
        assert_eq!(put.command, Ok(Command::Put(ActionId::new(&[1, 2]).unwrap(), OutputId([7; 32]))));
        assert_eq!(command(r#"{"ID":3,"Command":"close"}"#), Ok(Command::Close));
    }

    #[test]
    fn what_is_wrong_with_a_request_is_said() {
        for (line, want) in [
            (r#"{"Command":"get","ActionID":"AQI="}"#, "no ID"),
            (r#"{"ID":1,"Command":"get"}"#, "no ActionID"),
            (r#"{"ID":1,"Command":"get","ActionID":"A"}"#, "not base64"),
            (r#"{"ID":1,"Command":"get","ActionID":""}"#, "0 bytes"),
            (r#"{"ID":1,"Command":"put","ActionID":"AQI=","OutputID":"AQI="}"#, "2 bytes"),
            (r#"{"ID":1,"Command":"put","ActionID":"AQI=","BodySize":-1}"#, "negative"),
            (r#"{"ID":1,"Command":"sing"}"#, "\"sing\""),
            (r#"{"ID":1}"#, "no Command"),
        ] {
            let err = command(line).unwrap_err();
            assert!(err.contains(want), "{line}: {err}");
        }
    }

    #[test]
    fn what_is_not_a_request_object_is_an_error() {
        for bad in ["", "nonsense", "[]", "7", r#"{"ID":"x"}"#, r#"{"ID":1"#] {
            assert!(Request::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
