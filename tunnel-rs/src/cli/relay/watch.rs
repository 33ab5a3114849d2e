//! What a relay reads again while it runs: who may use it, and its certificate.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use tunnel_cli::rules::{self as files, Look};
use tunnel_cli::signals::Reload;
use tunnel_cli::{Failure, Outcome, secret};
use tunnel_relay::{EndpointId, Relay, Rules};
use url::Url;

use super::announce::needed_pin;
use super::files::certificate;
use crate::config::relay::{AccessSource, Files, RelayConfig, TlsSource};

/// How often files are looked at, as those of a server: what is taken back is cut within a second.
const LOOK: Duration = Duration::from_millis(250);

/// Reads who may use the relay.
pub(super) fn rules(source: &AccessSource) -> Outcome<Rules> {
    match source {
        AccessSource::Everybody => Ok(Rules::Everybody),
        AccessSource::Ids(path) => {
            let text = secret::read_quietly(path).map_err(Failure::usage)?;
            let ids = ids(&text).map_err(|line| {
                Failure::Usage(format!("{}: line {line} holds no EndpointId", path.display()))
            })?;
            Ok(Rules::Listed(ids))
        }
        AccessSource::Tokens(path) => files::read_tokens(path).map(|list| Rules::Tokens(list.0)),
    }
}

/// The EndpointIds of a list, one a line, `#` begins a comment; or else the number of a line that holds none. The line
/// itself is not told: a file of tokens may have been given by mistake.
fn ids(text: &str) -> Result<HashSet<EndpointId>, usize> {
    let lines = text.lines().zip(1..).map(|(line, number)| {
        let id = line.split_once('#').map_or(line, |(id, _)| id).trim();
        (number, id)
    });
    lines
        .filter(|(_, id)| !id.is_empty())
        .map(|(number, id)| id.parse().map_err(|_| number))
        .collect()
}

/// Files, as they were when they were read.
#[derive(Debug)]
struct Watch {
    files: Vec<PathBuf>,
    read: Look,
    last: Look,
}

impl Watch {
    fn new(files: Vec<PathBuf>) -> Self {
        let now = Look::at(&files);
        Self { files, read: now.clone(), last: now }
    }

    /// Whether they are to be read: asked for, or changed and standing still, as an editor empties a file before it
    /// fills it.
    fn is_due(&mut self, asked: bool) -> bool {
        let now = Look::at(&self.files);
        let settled = now == self.last && now != self.read;
        self.last = now.clone();
        let due = !self.files.is_empty() && (asked || settled);
        if due {
            self.read = now;
        }
        due
    }
}

/// What is read again. To be made before the first reading, so that no change is missed.
#[derive(Debug)]
pub(super) struct Watched<'a> {
    config: &'a RelayConfig,
    access: Watch,
    certificate: Watch,
}

impl<'a> Watched<'a> {
    pub(super) fn new(config: &'a RelayConfig) -> Self {
        let access = match &config.access {
            AccessSource::Everybody => Vec::new(),
            AccessSource::Ids(path) | AccessSource::Tokens(path) => vec![path.clone()],
        };
        let certificate = match Self::files(config) {
            Some(Files { cert, key }) => vec![cert.clone(), key.clone()],
            None => Vec::new(),
        };
        Self { config, access: Watch::new(access), certificate: Watch::new(certificate) }
    }

    fn files(config: &RelayConfig) -> Option<&Files> {
        match &config.tls {
            TlsSource::Files(files) | TlsSource::Plain(Some(files)) => Some(files),
            TlsSource::Plain(None) | TlsSource::Own | TlsSource::Acme { .. } => None,
        }
    }

    /// Reads what has changed, again and again. What cannot be read changes nothing, and the log says why.
    pub(super) async fn keep_fresh(mut self, relay: &Relay, mut reload: Reload, url: &Url) {
        let mut clock = tokio::time::interval(LOOK);
        loop {
            let asked = tokio::select! {
                _ = clock.tick() => false,
                () = reload.requested() => true,
            };
            if self.access.is_due(asked) {
                match rules(&self.config.access) {
                    Ok(rules) => {
                        tracing::info!("read again who may use the relay: {rules}");
                        let cut = relay.set_rules(rules).await;
                        if cut > 0 {
                            tracing::info!("{cut} connection(s) cut that are no longer allowed");
                        }
                    }
                    Err(error) => tracing::warn!("who may use the relay stays as it is: {error}"),
                }
            }
            if self.certificate.is_due(asked) {
                self.replace_certificate(relay, url);
            }
        }
    }

    fn replace_certificate(&self, relay: &Relay, url: &Url) {
        let (Some(files), Some(certificates)) = (Self::files(self.config), relay.certificates())
        else {
            return;
        };
        let before = needed_pin(self.config, relay, url);
        match certificate(files) {
            Ok(certificate) => {
                certificates.replace(certificate);
                tracing::info!("certificate read again: {}", files.cert.display());
            }
            Err(error) => {
                tracing::warn!("the certificate stays as it is: {error}");
                return;
            }
        }
        let after = needed_pin(self.config, relay, url);
        if before != after {
            let pin = after.as_deref().unwrap_or("none is needed any more");
            tracing::warn!(
                "the pin has changed, and tickets with the old one are of no use any more: {pin}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use tunnel_iroh::SecretKey;

    use super::*;

    #[test]
    fn a_list_has_an_id_a_line_and_comments() {
        let (one, two) = (SecretKey::generate().id(), SecretKey::generate().id());
        let text = format!("# mine\n{one}\n\n  {two}  # laptop\n{one}\n");
        assert_eq!(ids(&text).unwrap(), [one, two].into());
        assert!(ids("").unwrap().is_empty());
        assert_eq!(ids(&format!("{one}\nnonsense # x\n")), Err(2));
    }

    #[test]
    fn a_file_is_read_when_it_has_changed_and_stands_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids");
        let mut watch = Watch::new(vec![path.clone()]);
        assert!(!watch.is_due(false));
        std::fs::write(&path, "a").unwrap();
        assert!(!watch.is_due(false), "it may still be written");
        assert!(watch.is_due(false));
        assert!(!watch.is_due(false) && watch.is_due(true));
        assert!(!Watch::new(Vec::new()).is_due(true), "nothing to read");
    }
}
