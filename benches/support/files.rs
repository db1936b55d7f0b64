//! The baseline of the disk: a put and a get done straight with `std::fs`, with the same files as
//! the program's, and no more care than that.

use std::fs;
use std::io;
use std::path::Path;

use super::bodies::sha256;
use super::sigv4::hex;

/// Checks the body's SHA-256, and writes and renames the output and the action.
pub fn put(dir: &Path, action: &[u8], output: &[u8], body: &[u8]) -> io::Result<()> {
    if sha256(body) != output {
        return Err(io::Error::other("wrong SHA-256"));
    }
    let (action, output) = (hex(action), hex(output));
    store(&dir.join("output"), &output, &action, body)?;
    let line = format!("{output} {}\n", body.len());
    store(&dir.join("action"), &action, "action", line.as_bytes())
}

fn store(dir: &Path, name: &str, unique: &str, data: &[u8]) -> io::Result<()> {
    let dir = dir.join(&name[..2]);
    let temporary = dir.join(format!(".{name}.{unique}"));
    if let Err(e) = fs::write(&temporary, data) {
        if e.kind() != io::ErrorKind::NotFound {
            return Err(e);
        }
        fs::create_dir_all(&dir)?;
        fs::write(&temporary, data)?;
    }
    fs::rename(temporary, dir.join(name))
}

/// Reads the action, and asks for the output's size.
pub fn get(dir: &Path, action: &[u8]) -> io::Result<()> {
    let action = hex(action);
    let line = fs::read(dir.join("action").join(&action[..2]).join(&action))?;
    let output = line.get(..64).and_then(|o| std::str::from_utf8(o).ok()).ok_or(io::ErrorKind::InvalidData)?;
    fs::metadata(dir.join("output").join(&output[..2]).join(output)).map(drop)
}
