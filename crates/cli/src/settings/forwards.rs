use clap::{ArgMatches, Args};
use serde::Deserialize;
use tunnel_model::{Forward, Source, Target};

use super::{from_environment, key, list};
use crate::{Failure, Outcome};

/// What a client forwards, by flags.
#[derive(Args, Debug, Default)]
pub struct ForwardArgs {
    /// A service to ask for, as the server reaches it: tcp://HOST:PORT or udp://HOST:PORT; repeatable, with as many --target
    #[arg(short, long, value_name = "URL", env = "TUNNEL_RS_SOURCE", value_delimiter = ',')]
    source: Vec<Source>,
    /// Where to listen for it: HOST:PORT; repeatable, in the order of --source
    #[arg(short, long, value_name = "ADDR", env = "TUNNEL_RS_TARGET", value_delimiter = ',')]
    target: Vec<Target>,
    /// Source and target in ssh's form; repeatable
    #[arg(
        short = 'L',
        long,
        value_name = "[BIND:]PORT:HOST:PORT[/udp]",
        env = "TUNNEL_RS_LOCAL_FORWARD",
        value_delimiter = ','
    )]
    local_forward: Vec<Forward>,
}

/// The keys of a file that say the same.
#[derive(Debug, Default)]
pub struct ForwardFile {
    /// The first forward's source.
    pub request_source: Option<String>,
    /// The first forward's target.
    pub target: Option<String>,
    /// Further forwards.
    pub tunnels: Vec<TunnelFile>,
    /// Forwards in ssh's form.
    pub local_forward: Vec<String>,
}

/// A section `[[tunnels]]`: one forward.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct TunnelFile {
    #[serde(alias = "request_source")]
    source: String,
    target: String,
}

impl ForwardArgs {
    /// Of the two ways to write a forward, that of the command line leaves the other one's variables out.
    pub fn prefer_command_line(&mut self, matches: &ArgMatches) {
        let names = ["source", "target", "local_forward"];
        let [source, target, local] = from_environment(matches, names);
        self.source.retain(|_| !source);
        self.target.retain(|_| !target);
        self.local_forward.retain(|_| !local);
    }

    /// The forwards of the flags, or else those of the file; at least one.
    ///
    /// # Errors
    ///
    /// Where a source or a target stands alone, a word of the file is no address, or there is no forward.
    pub fn resolve(self, file: ForwardFile) -> Outcome<Vec<Forward>> {
        let flags = self.forwards()?;
        let forwards = list(flags, file.forwards()?);
        if forwards.is_empty() {
            let text =
                "nothing to forward: give --source URL and --target ADDR, or -L PORT:HOST:PORT";
            return Err(Failure::Usage(text.to_owned()));
        }
        Ok(forwards)
    }

    fn forwards(self) -> Outcome<Vec<Forward>> {
        if self.source.len() != self.target.len() {
            let (sources, targets) = (self.source.len(), self.target.len());
            let text = format!("{sources} --source and {targets} --target: they go in pairs");
            return Err(Failure::Usage(text));
        }
        let mut all = Vec::new();
        for (source, target) in self.source.into_iter().zip(self.target) {
            all.push(Forward::new(source, target).map_err(Failure::usage)?);
        }
        all.extend(self.local_forward);
        Ok(all)
    }
}

impl ForwardFile {
    fn forwards(self) -> Outcome<Vec<Forward>> {
        let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
        let first = match (self.request_source, self.target) {
            (Some(source), Some(target)) => Some(TunnelFile { source, target }),
            (None, None) => None,
            (Some(_), None) => return usage("request_source has no target"),
            (None, Some(_)) => return usage("target has no request_source"),
        };
        let mut all = Vec::new();
        for TunnelFile { source, target } in first.into_iter().chain(self.tunnels) {
            let forward = Forward::new(key("source", &source)?, key("target", &target)?);
            all.push(forward.map_err(Failure::usage)?);
        }
        for text in self.local_forward {
            all.push(key("local_forward", &text)?);
        }
        Ok(all)
    }
}
