//! `keygen`: makes a pair of keys, the private one's file and `.pub` beside it; or a token.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, ExitCode};
use crate::id::{OutputId, hex};
use crate::platform::OpenOptionsExt;
use crate::sign;

/// Writes both files, or none; neither is written over.
pub(super) fn execute(private: &Path) -> Result<ExitCode, Error> {
    let mut public = private.as_os_str().to_os_string();
    public.push(".pub");
    let public = PathBuf::from(public);
    let (secret, open) = sign::generate().map_err(Error::failed)?;
    write(private, 0o600, &secret)?;
    if let Err(e) = write(&public, 0o644, &open) {
        let _ = fs::remove_file(private);
        return Err(e);
    }
    super::print(&format!(
        "{}: the private key, for --signing-key-file; keep it secret\n{}: the public key, for --verify-key-file\n",
        private.display(),
        public.display()
    ))
}

/// Prints a new token, and its line for the file of `--http-auth-file`.
pub(super) fn token(name: &str) -> Result<ExitCode, Error> {
    let token = hex(&sign::random::<32>().map_err(Error::failed)?);
    super::print(&format!(
        "{token}\n# above, the token: keep it secret; below, its line for --http-auth-file. Its role may be modules,\n\
         # debug (/debug/ too), proxy (the reverse proxy too) or admin (all)\n{name} modules {}\n",
        OutputId::of(token.as_bytes())
    ))
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), Error> {
    let failed = |e| Error::failed(format!("keygen {}: {e}; choose another file", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(|e| {
        let _ = fs::remove_file(path);
        failed(e)
    })
}
