//! What a relay reads from files, and what it keeps.

use std::path::Path;

use tunnel_cli::secret::SecretFileError;
use tunnel_cli::{Failure, Outcome, secret};
use tunnel_relay::{Authority, Certificate};

use crate::config::relay::Files;

/// The key of the relay's own certificate, in the state folder. The certificate is made anew at each start; what
/// clients know is the key's pin.
const KEY: &str = "relay.key";

/// Makes the state folder, for its owner alone: the keys of certificates are in it.
pub(super) fn make_folder(path: &Path) -> Outcome {
    secret::make_folder(path)
        .map_err(|error| Failure::Failed(format!("cannot make {}: {error}", path.display())))
}

/// The same, and if it has been there before it is its owner's alone from now on.
pub(super) fn make_private_folder(path: &Path) -> Outcome {
    make_folder(path)?;
    secret::restrict_folder(path).map_err(|error| {
        Failure::Failed(format!("cannot keep others out of {}: {error}", path.display()))
    })
}

/// The certificate of two files.
pub(super) fn certificate(files: &Files) -> Outcome<Certificate> {
    let chain = secret::read_quietly(&files.cert).map_err(Failure::usage)?;
    let key = secret::read(&files.key).map_err(Failure::usage)?;
    let (cert, key_file) = (files.cert.display(), files.key.display());
    Certificate::from_pem(&chain, &key)
        .map_err(|error| Failure::Usage(format!("{cert} with {key_file}: {error}")))
}

/// The certificate of the relay's own making, with the key that it had last time.
pub(super) fn own_certificate(folder: &Path, name: String) -> Outcome<Certificate> {
    let path = folder.join(KEY);
    let made = Certificate::make_key().map_err(Failure::failed)?;
    let key = match secret::write(&path, &made, false) {
        Ok(()) => made.into(),
        Err(SecretFileError::Exists(_)) => secret::read(&path).map_err(Failure::failed)?,
        Err(error) => return Err(Failure::failed(error)),
    };
    Certificate::self_signed(&[name], &key)
        .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

/// The authorities in a file.
pub(super) fn authorities(path: &Path) -> Outcome<Vec<Authority>> {
    let text = secret::read_quietly(path).map_err(Failure::usage)?;
    tunnel_relay::authorities(&text)
        .map_err(|error| Failure::Usage(format!("--acme-ca: {}: {error}", path.display())))
}
