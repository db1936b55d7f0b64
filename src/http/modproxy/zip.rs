//! What makes a module zip fit to be kept: that it is whole, every checksum included, and the module's; and what
//! go.sum has to say of it, `dirhash.Hash1`. What else `go` wants of one it checks itself, each time it unpacks one.
//!
//! One pass, in memory that does not grow with the zip but for its files' names.

use std::fs::File;
use std::io::{self, Read, Write};

use base64_simd::STANDARD;
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive};

use crate::id::{Hashing, OutputId};

/// `go`'s limit on a module zip, and on what it unpacks to, in bytes.
pub const MAX_ZIP: u64 = 500 << 20;
/// Bytes of all files' names, and of what is held of each beside that. The largest modules have some ten thousand.
const MAX_NAMES: usize = 64 << 20;
const BESIDE: usize = 64;

/// Checks that `file` is a whole zip of `module@version`, and returns its hash. The error says what is
/// wrong.
pub fn check(file: &File, module: &str, version: &str) -> Result<String, String> {
    let len = file.metadata().map_err(|e| e.to_string())?.len();
    if len > MAX_ZIP {
        return Err(format!("{len} bytes, more than the 500 MiB that go allows"));
    }
    let prefix = format!("{module}@{version}/");
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let file = file.try_clone().map_err(|e| e.to_string())?;
    let zip = ZipArchive::from_file(file, &mut buffer).map_err(|e| format!("not a whole zip: {e}"))?;
    let (mut sums, mut names, mut unpacked) = (Vec::new(), 0, 0);
    let mut scratch = vec![0; 32 << 10];
    let mut entries = zip.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(|e| format!("damaged directory: {e}"))? {
        let path = entry.file_path();
        let name = std::str::from_utf8(path.as_ref()).map_err(|_| "a file name that is not UTF-8")?;
        // one of two lines would be hashed like two files
        if !name.starts_with(&prefix) || name.contains('\n') {
            return Err(format!("{name:?} is no name of a file under {prefix}"));
        }
        names += name.len() + BESIDE;
        if names > MAX_NAMES {
            return Err("names of more than 64 MiB".into());
        }
        let size = entry.uncompressed_size_hint();
        unpacked = size.saturating_add(unpacked);
        if unpacked > MAX_ZIP {
            return Err("unpacks to more than the 500 MiB that go allows".into());
        }
        let damaged = |e: &dyn std::fmt::Display| format!("{name:?} is damaged: {e}");
        let data = zip.get_entry(entry.wayfinder()).map_err(|e| damaged(&e))?;
        let read = match entry.compression_method() {
            CompressionMethod::STORE => drain(data.verifying_reader(data.reader()), size, &mut scratch),
            CompressionMethod::DEFLATE => {
                let inflate = flate2::read::DeflateDecoder::new(data.reader());
                drain(data.verifying_reader(inflate), size, &mut scratch)
            }
            other => return Err(format!("{name:?} is compressed by method {other}, which go does not know")),
        };
        sums.push((name.to_string(), read.map_err(|e| damaged(&e))?));
    }
    if sums.len() as u64 != zip.entries_hint() {
        return Err("more or fewer files than its directory says".into());
    }
    Ok(hash(sums))
}

/// `dirhash.Hash1`, of files' names and contents.
pub fn hash(mut sums: Vec<(String, OutputId)>) -> String {
    sums.sort_by(|a, b| a.0.cmp(&b.0));
    let mut all = Hashing::new(io::sink());
    for (name, sum) in sums {
        writeln!(all, "{sum}  {name}").expect("a sink takes all");
    }
    format!("h1:{}", STANDARD.encode_to_string(all.hash().0))
}

/// The SHA-256 of all, read to the end, where sizes and checksum are compared, but no further than the size claimed.
fn drain(reader: impl Read, size: u64, scratch: &mut [u8]) -> io::Result<OutputId> {
    let mut reader = reader.take(size + 1);
    let mut sum = Hashing::new(io::sink());
    loop {
        match reader.read(scratch)? {
            0 if sum.len == size => return Ok(sum.hash()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => sum.write_all(&scratch[..n])?,
        }
        if sum.len > size {
            return Err(io::Error::other("longer than its size"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = "example.com/M";

    /// A zip of stored and deflated files.
    fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut archive = rawzip::ZipArchiveWriter::new(&mut out);
        for (name, bytes) in files {
            let (mut entry, config) =
                archive.new_file(*name).compression_method(CompressionMethod::DEFLATE).start().unwrap();
            let encoder = flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::default());
            let mut writer = config.wrap(encoder);
            writer.write_all(bytes).unwrap();
            let (encoder, descriptor) = writer.finish().unwrap();
            encoder.finish().unwrap();
            entry.finish(descriptor).unwrap();
        }
        archive.finish().unwrap();
        out
    }

    fn verdict(bytes: &[u8]) -> Result<String, String> {
        let mut temp = crate::atomic::TempFile::create(&std::env::temp_dir()).unwrap();
        temp.file().write_all(bytes).unwrap();
        check(temp.file(), MODULE, "v1.0.0")
    }

    #[test]
    fn whole_zips_pass() {
        let big = vec![7; 300_000];
        let files: [(&str, &[u8]); 3] = [
            ("example.com/M@v1.0.0/go.mod", b"module example.com/M\n"),
            ("example.com/M@v1.0.0/a/b.go", &big),
            ("example.com/M@v1.0.0/empty", b""),
        ];
        verdict(&zip(&files)).unwrap();
        verdict(&zip(&[])).unwrap();
    }

    #[test]
    fn wrong_names_do_not() {
        for name in ["go.mod", "example.com/m@v1.0.0/x", "example.com/M@v1.0.1/x", "/example.com/M@v1.0.0/x"] {
            // the writer would tidy the name up: write another of its length, then exchange them
            let stand_in = "Q".repeat(name.len());
            let mut bytes = zip(&[(&stand_in, b"x")]);
            for at in 0..bytes.len() - name.len() {
                if bytes[at..].starts_with(stand_in.as_bytes()) {
                    bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
                }
            }
            assert!(verdict(&bytes).is_err(), "{name}");
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_of_a_body_is_seen() {
        let whole = zip(&[("example.com/M@v1.0.0/x.go", b"package x // some text that deflates somewhat, somewhat")]);
        for len in 0..whole.len() {
            assert!(verdict(&whole[..len]).is_err(), "cut at {len}");
        }
        let body = 30 + "example.com/M@v1.0.0/x.go".len();
        for at in body..body + 40 {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            assert!(verdict(&flipped).is_err(), "flipped at {at}");
        }
    }

    /// The directory of a zip of empty files that claim to have these sizes, and its end.
    fn claims(sizes: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (n, size) in sizes.iter().enumerate() {
            let name = format!("example.com/M@v1.0.0/{n}");
            bytes.extend(b"PK\x01\x02\x2d\0\x2d\0\0\0\0\0");
            bytes.extend([0; 8]); // time, date, checksum
            bytes.extend([0u32, u32::MAX].map(u32::to_le_bytes).concat());
            bytes.extend([name.len() as u16, 12, 0, 0, 0].map(u16::to_le_bytes).concat());
            bytes.extend([0; 8]); // attributes, place
            bytes.extend(name.as_bytes());
            bytes.extend([&[1, 0, 8, 0], &size.to_le_bytes()[..]].concat());
        }
        let (count, len) = ((sizes.len() as u16).to_le_bytes(), (bytes.len() as u32).to_le_bytes());
        bytes.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count, &len, &[0; 4], &[0; 2]].concat());
        bytes
    }

    #[test]
    fn sizes_do_not_wrap_around() {
        for sizes in [&[MAX_ZIP + 1][..], &[u64::MAX], &[0, u64::MAX], &[1, u64::MAX]] {
            // what is there before is read first
            let why = verdict(&claims(sizes)).unwrap_err();
            assert!(why.contains("500 MiB") || why.contains("/0\" is damaged"), "{sizes:?}: {why}");
        }
        assert!(verdict(&claims(&[u64::MAX])).unwrap_err().contains("500 MiB"));
    }

    #[test]
    fn limits_hold() {
        let name = format!("example.com/M@v1.0.0/{}", "n".repeat(60_000));
        assert!(verdict(&zip(&vec![(name.as_str(), b"".as_slice()); 1120])).unwrap_err().contains("64 MiB"));
    }
}
