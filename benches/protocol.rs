//! Reading puts, beside finding the end of each line and decoding the body straight.
//!
//! `cargo bench --bench protocol -- --megabytes 256 --runs 9`

mod support;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use go_cache_plugin::protocol::Reader;
use support::args::Args;
use support::client::{get_request, put_request};
use support::table::{Bound, Samples, row, section};
use support::{Result, bodies};

fn main() -> ExitCode {
    support::main(bench)
}

fn bench(args: &Args) -> Result<()> {
    args.check(&["megabytes", "runs"])?;
    let (total, runs) = (args.number("megabytes", 256)? * 1_000_000, args.number("runs", 9)?);
    section("protocol: one thread, from memory");
    for (name, size) in [("puts of 1 KiB", 1 << 10), ("puts of 64 KiB", 64 << 10), ("puts of 4 MiB", 4 << 20)] {
        let body = bodies::body(1, size);
        let put = put_request(1, &[1; 32], &bodies::sha256(&body), &body);
        let count = (total / size).min(100_000);
        let input = put.repeat(count);
        compare(name, &input, count * size, runs)?;
    }
    let gets = get_request(1, &[1; 32]).repeat(100_000);
    compare("gets", &gets, gets.len(), runs)
}

/// Times both ways over `input`, which carries `bytes`.
fn compare(name: &str, input: &[u8], bytes: usize, runs: usize) -> Result<()> {
    let (mut ours, mut base) = (Samples::default(), Samples::default());
    let mut out = Vec::new();
    for i in 0..=runs {
        let begin = Instant::now();
        read(input)?;
        let took = begin.elapsed();
        let begin = Instant::now();
        straight(input, &mut out)?;
        let straight = begin.elapsed();
        if i > 0 {
            ours.push(bytes as f64 / took.as_secs_f64());
            base.push(bytes as f64 / straight.as_secs_f64());
        }
    }
    row(name, &ours.show("MB/s"), &base.show("MB/s"), ours.by(&base).median(), Bound::Free);
    Ok(())
}

fn read(input: &[u8]) -> Result<()> {
    let mut reader = Reader::new(input);
    let mut piece = Vec::new();
    while let Some(request) = reader.request()? {
        black_box(&request);
        if request.body_size > 0 {
            let mut body = reader.body(request.body_size)?;
            while body.piece(&mut piece)? {
                black_box(&piece);
            }
            black_box(&piece);
            body.finish()?;
        }
    }
    Ok(())
}

/// Lines by memchr, bodies by one call of the decoder, requests not parsed at all.
fn straight(input: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', input) {
        if let [b'"', body @ .., b'"'] = &input[start..end] {
            out.resize(base64_simd::STANDARD.estimated_decoded_length(body.len()), 0);
            let decoded = base64_simd::STANDARD.decode(body, base64_simd::Out::from_slice(out));
            black_box(decoded.map_err(|e| e.to_string())?);
        }
        start = end + 1;
    }
    Ok(())
}
