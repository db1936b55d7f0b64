//! The bench's side of the S3 server: starting it, and telling it what to do.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::sigv4::{ACCESS_KEY, SECRET_KEY};
use super::{Result, s3server, turns};

/// The bucket's name.
pub const BUCKET: &str = "bench";

/// A running server; it ends when this is dropped.
pub struct S3 {
    child: Child,
    control: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    port: u16,
}

impl S3 {
    /// Starts a server with an empty bucket, without delays.
    pub fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(s3server::SERVE)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let control = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().ok_or("the server has no stdout")?);
        let mut port = String::new();
        answers.read_line(&mut port)?;
        Ok(S3 { child, control, answers, port: port.trim().parse()? })
    }

    fn say(&mut self, command: &str) -> Result<String> {
        let control = self.control.as_mut().ok_or("the server has no stdin")?;
        writeln!(control, "{command}")?;
        control.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        match line.trim_end() {
            "" => Err(format!("the server ended before it answered {command}").into()),
            l if l.starts_with("error") => Err(l.to_string().into()),
            l => Ok(l.to_string()),
        }
    }

    /// Sets the round trip, and zeroes the counters.
    pub fn round_trip(&mut self, rtt: Duration) -> Result<()> {
        self.say(&format!("rtt {}", rtt.as_micros()))?;
        self.say("reset")?;
        Ok(())
    }

    /// Sets the bandwidth, bytes a second; 0 for no limit.
    pub fn bandwidth(&mut self, bytes: u64) -> Result<()> {
        self.say(&format!("bandwidth {bytes}")).map(drop)
    }

    /// Makes every request fail with 503, or no longer.
    pub fn fail(&mut self, on: bool) -> Result<()> {
        self.say(if on { "fail on" } else { "fail off" }).map(drop)
    }

    /// Empties the bucket.
    pub fn clear(&mut self) -> Result<()> {
        self.say("clear").map(drop)
    }

    /// Remembers the bucket as it is, for [`Self::restore`] in a turn of the same program.
    pub fn save(&mut self) -> Result<()> {
        self.say(&turns::own("save a")).map(drop)
    }

    /// Brings the bucket back to what it was.
    pub fn restore(&mut self) -> Result<()> {
        self.say(&turns::own("restore a")).map(drop)
    }

    /// Fills the bucket from a local cache directory, in the classic layout.
    pub fn load_classic(&mut self, cache: &Path) -> Result<()> {
        self.say(&format!("classic {BUCKET} {}", cache.display())).map(drop)
    }

    /// Serves a file to anybody by its name, in the folder that it tells and in all below.
    pub fn share(&mut self, file: &Path) -> Result<String> {
        self.say(&format!("share {}", file.display()))?;
        Ok(format!("http://127.0.0.1:{}{}", self.port, s3server::SHARED))
    }

    /// Number and bytes of the objects whose key starts with `prefix`.
    pub fn size(&mut self, prefix: &str) -> Result<(u64, u64)> {
        let v: Value = serde_json::from_str(&self.say(&format!("size {BUCKET}/{prefix}"))?)?;
        Ok((v["objects"].as_u64().unwrap_or(0), v["bytes"].as_u64().unwrap_or(0)))
    }

    /// What the server counted since the last [`Self::round_trip`].
    pub fn counters(&mut self) -> Result<Counters> {
        Ok(Counters(serde_json::from_str(&self.say("counters")?)?))
    }

    /// CPU seconds that the server took so far, to 10 ms.
    pub fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // user and system time are the 12th and 13th field after the command's name, in 1/100 s
        let fields = stat.rsplit_once(')').ok_or("/proc/PID/stat: no command")?.1;
        let ticks: u64 = fields.split_ascii_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / 100.0)
    }

    /// The flags that point the program here.
    pub fn flags(&self) -> Vec<String> {
        let endpoint = format!("--s3-endpoint-url=http://127.0.0.1:{}", self.port);
        vec![format!("--bucket={BUCKET}"), "--region=us-east-1".into(), endpoint, "--s3-path-style".into()]
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.control.take());
        let _ = self.child.wait();
    }
}

/// The credentials that the server knows, as environment variables.
pub fn credentials() -> [(&'static str, &'static str); 2] {
    [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]
}

/// Counters of the server, by name.
#[derive(Clone, Debug)]
pub struct Counters(Value);

impl Counters {
    /// One of them.
    pub fn get(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or(0)
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        ["get", "head", "put", "delete", "list"].iter().map(|n| self.get(n)).sum()
    }
}
