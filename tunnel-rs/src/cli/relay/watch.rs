//! What a relay reads again while it runs: who may use it, and its certificate.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use tunnel_cli::rules::{self as files, Look, Watch, apart};
use tunnel_cli::signals::Reload;
use tunnel_cli::{Failure, Outcome, secret};
use tunnel_relay::{EndpointId, Relay, Rules};
use url::Url;

use super::announce::needed_pin;
use super::files::certificate;
use crate::config::relay::{AccessSource, Files, RelayConfig, TlsSource};

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

/// Files that are read again.
#[derive(Debug)]
struct Source {
    files: Arc<[PathBuf]>,
    watch: Watch,
}

impl Source {
    fn new(files: Vec<PathBuf>) -> Self {
        Self { watch: Watch::new(Look::at(&files)), files: files.into() }
    }

    /// Whether they are to be read.
    async fn is_due(&mut self, asked: bool) -> bool {
        if self.files.is_empty() {
            return false;
        }
        let files = self.files.clone();
        let due = self.watch.is_due(apart(move || Look::at(&files)).await);
        due || asked
    }
}

/// What is read again. To be made before the first reading, so that no change is missed.
#[derive(Debug)]
pub(super) struct Watched<'a> {
    config: &'a RelayConfig,
    access: Source,
    certificate: Source,
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
        Self { config, access: Source::new(access), certificate: Source::new(certificate) }
    }

    fn files(config: &RelayConfig) -> Option<&Files> {
        match &config.tls {
            TlsSource::Files(files) | TlsSource::Plain(Some(files)) => Some(files),
            TlsSource::Plain(None) | TlsSource::Own | TlsSource::Acme { .. } => None,
        }
    }

    /// Reads what has changed, again and again. What cannot be read changes nothing, and the log says why.
    pub(super) async fn keep_fresh(mut self, relay: &Relay, mut reload: Reload, url: &Url) {
        let mut clock = Watch::clock();
        loop {
            let asked = tokio::select! {
                _ = clock.tick() => false,
                () = reload.requested() => true,
            };
            if self.access.is_due(asked).await {
                let source = self.config.access.clone();
                match apart(move || rules(&source)).await {
                    Ok(rules) => {
                        self.access.watch.taken();
                        tracing::info!("read again who may use the relay: {rules}");
                        let cut = relay.set_rules(rules).await;
                        if cut > 0 {
                            tracing::info!("{cut} connection(s) cut that are no longer allowed");
                        }
                    }
                    Err(error) => {
                        if self.access.watch.failed(&error) || asked {
                            tracing::warn!("who may use the relay stays as it is: {error}");
                        }
                    }
                }
            }
            if self.certificate.is_due(asked).await {
                self.replace_certificate(relay, url, asked).await;
            }
        }
    }

    async fn replace_certificate(&mut self, relay: &Relay, url: &Url, asked: bool) {
        let (Some(files), Some(certificates)) = (Self::files(self.config), relay.certificates())
        else {
            return;
        };
        let before = needed_pin(self.config, relay, url);
        let shown = files.cert.display();
        let files = files.clone();
        match apart(move || certificate(&files)).await {
            Ok(certificate) => {
                self.certificate.watch.taken();
                certificates.replace(certificate);
                tracing::info!("certificate read again: {shown}");
            }
            Err(error) => {
                if self.certificate.watch.failed(&error) || asked {
                    tracing::warn!("the certificate stays as it is: {error}");
                }
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
}
