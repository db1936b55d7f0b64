//! The page for people: readable without JavaScript, brought up to date by a little of it.
//!
//! Style and script are part of the page and allowed by their hashes; nothing else may run, and
//! nothing is loaded but `live.json`.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use super::Sources;
use super::chart::{HEIGHT, WIDTH};
use super::live::{Live, latency_ids};
use crate::http::exchange::Reply;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Adds the headers that keep the page to itself.
pub fn security_headers(reply: Reply) -> Reply {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash = |text: &str| base64_simd::STANDARD.encode_to_string(Sha256::digest(text));
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(STYLE),
            hash(SCRIPT)
        )
    });
    reply.header("Content-Security-Policy", POLICY.as_str()).header("Referrer-Policy", "no-referrer")
}

/// The whole page.
pub fn render(sources: &Sources, live: &Live) -> String {
    let bucket = sources.bucket.as_ref().map_or("none, local only".to_string(), |b| b.target());
    let cards = [
        card(live, "hits", "Hit rate", &["hits"], ""),
        card(live, "bytes", "Bytes", &["bytes", "bytes2"], &key()),
        card(live, "wait", "Waiting on the bucket", &["wait"], ""),
        card(live, "queue", "Upload queue", &["queue"], ""),
        breaker(live, sources.bucket.is_some()),
        card(live, "cache", "Cache size", &["cache"], ""),
    ];
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>go-cache-plugin status</title>
<link rel="icon" href="data:,">
<noscript><meta http-equiv="refresh" content="5"></noscript>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>go-cache-plugin {state}</h1>
<dl class="facts">
<div><dt>Version</dt><dd>{version}</dd></div>
<div><dt>Up</dt><dd>{uptime}</dd></div>
<div><dt>Clients</dt><dd>{sessions}</dd></div>
<div><dt>Memory</dt><dd>{memory}</dd></div>
<div><dt>Directory</dt><dd>{dir}</dd></div>
<div><dt>Bucket</dt><dd>{bucket}</dd></div>
</dl>
</header>
<main>
<div class="cards">
{cards}
</div>
{latencies}
{recent}
</main>
<footer>
<nav aria-label="More">
<a href="vars">Counters as JSON</a>
<a href="../metrics">Prometheus metrics</a>
<a href="../healthz">Health</a>
</nav>
</footer>
<script>{SCRIPT}</script>
</body>
</html>
"#,
        state = span(live, "state", "pill"),
        version = escape(env!("CARGO_PKG_VERSION")),
        uptime = span(live, "uptime", ""),
        sessions = span(live, "sessions", ""),
        memory = span(live, "memory", ""),
        dir = escape(&sources.cache_dir.display().to_string()),
        bucket = escape(&bucket),
        cards = cards.join("\n"),
        latencies = latencies(sources, live),
        recent = recent(live),
    )
}

fn span(live: &Live, id: &str, class: &str) -> String {
    let text = live.text.get(id).map(|t| escape(t)).unwrap_or_default();
    let mood = live.mood.get(id).map(|m| format!(" data-mood=\"{m}\"")).unwrap_or_default();
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    format!("<span id=\"{id}\"{class}{mood}>{text}</span>")
}

fn path(live: &Live, id: String, class: &str) -> String {
    let d = live.path.get(id.as_str()).map_or("", String::as_str);
    format!("<path id=\"{id}\" class=\"{class}\" d=\"{d}\"/>")
}

fn card(live: &Live, name: &str, title: &str, lines: &[&str], key: &str) -> String {
    let mut paths = path(live, format!("{name}-area"), "a1");
    for (line, class) in lines.iter().zip(["l1", "l2"]) {
        paths += &path(live, format!("{line}-line"), class);
    }
    frame(live, name, title, key, &paths)
}

/// A band instead of a line: the bucket is either in use or left alone.
fn breaker(live: &Live, has_bucket: bool) -> String {
    let mut paths = String::new();
    if has_bucket {
        paths += &format!("<rect class=\"calm\" y=\"{}\" width=\"{WIDTH}\" height=\"6\"/>", HEIGHT - 6.0);
    }
    paths += &path(live, "breaker-band".to_string(), "alarm");
    frame(live, "breaker", "Bucket", "", &paths)
}

fn frame(live: &Live, name: &str, title: &str, key: &str, paths: &str) -> String {
    let label = live.label.get(format!("{name}-chart").as_str()).map(|t| escape(t)).unwrap_or_default();
    let value = span(live, &format!("{name}-value"), "value");
    let note = span(live, &format!("{name}-note"), "");
    let top = span(live, &format!("{name}-top"), "top");
    format!(
        r#"<section class="card" aria-labelledby="{name}-title">
<h2 id="{name}-title">{title}{key}</h2>
<div>{value}</div>
<div class="note">{note}</div>
<div class="plot"><svg id="{name}-chart" role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">{paths}</svg>{top}</div>
<div class="axis" aria-hidden="true"><span>5 min ago</span><span>now</span></div>
</section>"#
    )
}

fn key() -> String {
    let mark = |class, name| {
        format!(
            "<span class=\"key\"><svg viewBox=\"0 0 20 10\" aria-hidden=\"true\"><path class=\"{class}\" d=\"M1 5H19\"/></svg>{name}</span>"
        )
    };
    mark("l1", "served") + &mark("l2", "stored")
}

fn latencies(sources: &Sources, live: &Live) -> String {
    let mut rows = String::new();
    for row in sources.metrics.latency.rows() {
        let (Some([n, p50, p99]), name) = (latency_ids(row.name), latency_title(row.name)) else { continue };
        let cell = |id| format!("<td class=\"n\">{}</td>", span(live, id, ""));
        rows += &format!("<tr><th scope=\"row\">{}</th>{}{}{}</tr>\n", escape(name), cell(n), cell(p50), cell(p99));
    }
    format!(
        r#"<section class="card wide" aria-labelledby="latency-title">
<h2 id="latency-title">Latency since the start</h2>
<div class="scroll"><table>
<thead><tr><th scope="col">Operation</th><th scope="col" class="n">Count</th><th scope="col" class="n">Median</th><th scope="col" class="n">99 %</th></tr></thead>
<tbody>
{rows}</tbody>
</table></div>
</section>"#
    )
}

fn latency_title(name: &'static str) -> &'static str {
    match name {
        "get" => "Get",
        "put" => "Put",
        "bucket_request" => "Bucket request",
        "upstream_request" => "Upstream request",
        "http_request" => "HTTP request",
        other => other,
    }
}

fn recent(live: &Live) -> String {
    let mut rows = String::new();
    for cells in &live.recent {
        rows += "<tr>";
        for (i, cell) in cells.iter().enumerate() {
            rows += &format!("<td class=\"c{i}\">{}</td>", escape(cell));
        }
        rows += "</tr>\n";
    }
    let hidden = if live.recent.is_empty() { "" } else { " hidden" };
    format!(
        r#"<section class="card wide" aria-labelledby="recent-title">
<h2 id="recent-title">Recent requests</h2>
<p id="none" class="note"{hidden}>None yet.</p>
<div class="scroll"><table class="folds">
<thead><tr><th scope="col">When</th><th scope="col">Kind</th><th scope="col">What</th><th scope="col">Outcome</th><th scope="col" class="n">Size</th><th scope="col" class="n">Took</th></tr></thead>
<tbody id="recent">
{rows}</tbody>
</table></div>
</section>"#
    )
}

/// Text for an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // what could reorder or hide the text around it
            c if c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<a href=\"x\">'&\u{202e}\0"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;\u{fffd}\u{fffd}");
    }
}
