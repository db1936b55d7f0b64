//! One client: a reader on the calling thread, a pool of workers, answers in any order.
//!
//! A get whose answer is in memory is answered by the reader itself.
//!
//! Invariants: the reader waits for nobody but the client, the memory budget and a full queue; the
//! close of a session is answered after every other request, and always; whatever ends the input,
//! what was read is carried out and the session's uses are recorded.

mod budget;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};

use crate::cache::Client;
use crate::cache::disk::Hit;
use crate::cache::id::{ActionId, OutputId};
use crate::metrics::{Histogram, Recent};
use crate::pool::Pool;
use crate::protocol::{Answer, Command, PIECE, ProtocolError, PutBody, Reader, Writer};
use crate::spare;
use crate::text;
pub use budget::Budget;
use budget::{Piece, Share};

/// Requests read and waiting for a worker.
const QUEUE: usize = 64;
/// Pieces of one body waiting for its worker: enough to go on to the next body while a large one is
/// hashed and written.
const PIECES: usize = 32;
/// A decoder may write a group of three past the end of a piece.
const GROUP: usize = 3;

/// Bytes at the end of an output in which the last line of a test's result is looked for.
const RESULT: u64 = 1024;

/// The commands of every session.
const KNOWN: &[&str] = &["get", "put", "close"];
/// The commands of a session that a `connect` of ours may be at the other end of.
const KNOWN_TO_CONNECT: &[&str] = &["get", "put", "close", "scope"];

/// How a session works.
#[derive(Clone)]
pub struct Options {
    /// Requests worked on at a time.
    pub concurrency: usize,
    /// Memory for put bodies; sessions of one process share it.
    pub budget: Arc<Budget>,
    /// Log a line at begin and end of each request.
    pub debug: bool,
    /// Count the results of tests among the outputs.
    pub tests: bool,
    /// Let the client name its scope.
    pub scope_command: bool,
}

/// Serves one client until it closes the session or its input ends. `greeted` runs once the
/// greeting is out; `at_end` when every request has been carried out and before the close is
/// answered. An error means that the input was not the protocol.
pub fn run<W: Write + Send + 'static>(
    input: impl Read,
    output: W,
    client: &Arc<Client>,
    options: &Options,
    greeted: impl FnOnce(),
    at_end: impl FnOnce(),
) -> Result<(), ProtocolError> {
    let writer = Arc::new(Writer::new(output));
    let known = if options.scope_command { KNOWN_TO_CONNECT } else { KNOWN };
    let (pool, share) = (Pool::new("worker", options.concurrency, QUEUE), options.budget.share());
    let mut session = Session { client, options, share, writer: &writer, pool };
    answer(&writer, 0, Answer::Known(known));
    greeted();
    let result = session.read(&mut Reader::new(input));
    // answers held back are the client's before it is made to wait
    session.flush();
    session.pool.finish();
    at_end();
    if let Ok(Some(close)) = result {
        answer(&writer, close, Answer::Closed);
    }
    result.map(|_| ())
}

struct Session<'a, W> {
    client: &'a Arc<Client>,
    options: &'a Options,
    share: Arc<Share>,
    writer: &'a Arc<Writer<W>>,
    pool: Pool,
}

impl<W: Write + Send + 'static> Session<'_, W> {
    /// Reads to the end; returns the id of the close request, if one came.
    fn read<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<Option<i64>, ProtocolError> {
        loop {
            if !reader.is_ready() {
                self.flush();
            }
            let Some(request) = reader.request()? else { return Ok(None) };
            let (id, size) = (request.id, request.body_size);
            match request.command {
                Ok(Command::Get(action)) => self.get(id, action),
                Ok(Command::Put(action, output)) => self.put(id, action, output, size, reader.body(size)?)?,
                Ok(Command::Close) => return Ok(Some(id)),
                Ok(Command::Scope(scope)) if self.options.scope_command => self.client.set_scope(&scope),
                Ok(Command::Scope(_)) => answer(self.writer, id, Answer::Failed("unknown command \"scope\"".into())),
                Err(why) => {
                    let mut body = reader.body(size)?;
                    while body.piece(&mut Vec::new())? {}
                    answer(self.writer, id, Answer::Failed(why));
                }
            }
        }
    }

    fn get(&mut self, id: i64, action: ActionId) {
        let metrics = &self.client.cache.metrics;
        metrics.server.get_requests.inc();
        let span = Span::begin(self.options.debug, id, "get", action);
        // handing it to a worker costs more than answering it
        if let Some(hit) = self.client.get_at_hand(&action) {
            let reply = found(self.client, hit, self.options.tests);
            span.end(&reply, &metrics.latency.get, &metrics.recent);
            // `go` may have sent more already: then one write does for all
            return tell(self.writer.hold(id, &reply));
        }
        self.flush();
        self.client.comes(&action);
        let (client, writer, tests) = (self.client.clone(), self.writer.clone(), self.options.tests);
        self.pool.submit(move || {
            let reply = get(&client, &action, tests);
            let metrics = &client.cache.metrics;
            span.end(&reply, &metrics.latency.get, &metrics.recent);
            answer(&writer, id, reply);
        });
    }

    fn put<R: Read>(
        &mut self,
        id: i64,
        action: ActionId,
        output: OutputId,
        size: u64,
        mut body: PutBody<'_, R>,
    ) -> Result<(), ProtocolError> {
        self.client.cache.metrics.server.put_requests.inc();
        self.flush();
        self.client.comes(&action);
        let mut bytes = spare::buffer(size.min(PIECE as u64) as usize + GROUP);
        let mut more = body.piece(&mut bytes)?;
        let (sender, pieces) = bounded(PIECES);
        let put = Put { id, action, output, size, first: self.share.charge(bytes), pieces };
        if !more {
            let _ = sender.send(Part::End(body.finish()));
            self.submit_put(put);
            return Ok(());
        }
        self.submit_put(put);
        // a worker that gives up drops its receiver; the rest of the body is read all the same
        while more {
            let mut bytes = spare::buffer(PIECE + GROUP);
            more = body.piece(&mut bytes)?;
            let _ = sender.send(Part::Piece(self.share.charge(bytes)));
        }
        let _ = sender.send(Part::End(body.finish()));
        Ok(())
    }

    fn submit_put(&mut self, put: Put) {
        let (client, writer, debug) = (self.client.clone(), self.writer.clone(), self.options.debug);
        self.pool.submit(move || {
            let id = put.id;
            let span = Span::begin(debug, id, "put", put.action);
            let reply = put.carry_out(&client);
            let metrics = &client.cache.metrics;
            span.end(&reply, &metrics.latency.put, &metrics.recent);
            answer(&writer, id, reply);
        });
    }

    /// Writes the answers that the reader has held back; before it waits for anything.
    fn flush(&self) {
        tell(self.writer.flush());
    }
}

fn answer<W: Write>(writer: &Writer<W>, id: i64, reply: Answer) {
    tell(writer.answer(id, &reply));
}

fn tell(written: io::Result<()>) {
    if let Err(e) = written {
        // its requests are carried out all the same
        log::debug!("the client is gone: {e}");
    }
}

fn get(client: &Client, action: &ActionId, tests: bool) -> Answer {
    let metrics = &client.cache.metrics.server;
    match client.get(action) {
        Ok(Some(hit)) => found(client, hit, tests),
        Ok(None) => {
            metrics.get_misses.inc();
            Answer::Miss
        }
        Err(e) => {
            metrics.get_errors.inc();
            client.cache.disk.trouble.tell(format_args!("get of action {action}: {e}"));
            Answer::Failed(format!("cache directory: {e}"))
        }
    }
}

fn found(client: &Client, hit: Hit, tests: bool) -> Answer {
    let metrics = &client.cache.metrics.server;
    metrics.get_hits.inc();
    metrics.get_hit_bytes.add(hit.size);
    if tests && is_test_result(&hit).unwrap_or(false) {
        metrics.get_tests.inc();
    }
    Answer::Hit { output: hit.output, size: hit.size, time: hit.time, path: hit.path }
}

/// Whether an output is what a test printed, as `go test` keeps it of one that passed: the last line says so.
fn is_test_result(hit: &Hit) -> io::Result<bool> {
    let mut file = File::open(&hit.path)?;
    file.seek(SeekFrom::Start(hit.size.saturating_sub(RESULT)))?;
    let mut end = Vec::new();
    file.take(RESULT).read_to_end(&mut end)?;
    let last = end.strip_suffix(b"\n").and_then(|text| text.rsplit(|b| *b == b'\n').next());
    Ok(last.is_some_and(|line| line.starts_with(b"ok  \t")))
}

/// A put whose body is still coming in.
struct Put {
    id: i64,
    action: ActionId,
    output: OutputId,
    size: u64,
    first: Piece,
    pieces: Receiver<Part>,
}

enum Part {
    Piece(Piece),
    /// The body is read, and whether it was sound. Without it, the input broke off.
    End(Result<(), String>),
}

impl Put {
    fn carry_out(self, client: &Client) -> Answer {
        let (metrics, size) = (&client.cache.metrics.server, self.size);
        match self.store(client) {
            Ok(path) => {
                metrics.put_bytes.add(size);
                Answer::Stored(path)
            }
            Err(why) => {
                metrics.put_errors.inc();
                Answer::Failed(why)
            }
        }
    }

    fn store(self, client: &Client) -> Result<PathBuf, String> {
        let disk = |e: io::Error| match e.kind() {
            io::ErrorKind::InvalidData => e.to_string(),
            _ => {
                client.cache.disk.trouble.tell(format_args!("put of action {}: {e}", self.action));
                format!("cache directory: {e}")
            }
        };
        let mut put = client.put(self.action, self.output, self.size).map_err(disk)?;
        let mut piece = self.first;
        loop {
            put.writer.write_all(&piece.bytes).map_err(disk)?;
            drop(piece);
            piece = match self.pieces.recv() {
                Ok(Part::Piece(next)) => next,
                Ok(Part::End(sound)) => {
                    sound?;
                    break;
                }
                Err(_) => return Err("input ended within the body".into()),
            };
        }
        Ok(put.commit().map_err(disk)?.path)
    }
}

/// One request's trace: its latency, its place among the recent ones, and the log lines of
/// `--debug`.
struct Span {
    debug: bool,
    id: i64,
    command: &'static str,
    action: ActionId,
    begin: Instant,
}

impl Span {
    fn begin(debug: bool, id: i64, command: &'static str, action: ActionId) -> Self {
        if debug {
            log::info!(target: "request", "B {command} #{id} {action}");
        }
        Span { debug, id, command, action, begin: Instant::now() }
    }

    fn end(self, reply: &Answer, latency: &Histogram, recent: &Recent) {
        let took = self.begin.elapsed();
        let (outcome, bytes) = match reply {
            Answer::Hit { size, .. } => ("hit", Some(*size)),
            Answer::Miss => ("miss", None),
            Answer::Stored(_) => ("stored", None),
            Answer::Failed(_) => ("failed", None),
            Answer::Known(_) | Answer::Closed => ("", None),
        };
        latency.observe(took);
        recent.push(self.command, || self.action.to_string(), outcome, bytes, took);
        if self.debug {
            let Span { command, id, action, .. } = self;
            let more = match reply {
                Answer::Failed(why) => format!(": {why}"),
                _ => bytes.map_or_else(String::new, |n| format!(", {}", text::bytes(n))),
            };
            log::info!(target: "request", "E {command} #{id} {action} {outcome}{more}, {took:?}");
        }
    }
}
