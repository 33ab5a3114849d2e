use clap::{ArgMatches, Args};
use tunnel_cli::settings::{OneOrMany, from_environment};
use tunnel_cli::{Failure, Outcome};
use tunnel_ice::StunServer;
use tunnel_model::{AddressError, Source};

/// Who is asked where nobody else is named. Two operators, so that neither is needed.
const DEFAULT: [&str; 2] = ["stun.l.google.com:19302", "stun.cloudflare.com:3478"];

/// Reads `HOST:PORT`.
fn server(text: &str) -> Result<StunServer, AddressError> {
    let Source { host, port, .. } = format!("udp://{text}").parse()?;
    Ok(StunServer { host, port })
}

/// Who tells this machine its public address, by flags.
#[derive(Args, Debug, Default)]
pub(super) struct StunArgs {
    /// A STUN server, which is asked for this machine's public address; repeatable [default: stun.l.google.com:19302 and stun.cloudflare.com:3478]
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "TUNNEL_RS_STUN_SERVER",
        value_delimiter = ',',
        value_parser = server
    )]
    stun_server: Vec<StunServer>,
    /// Ask no STUN server: only the machines' own addresses are tried, and in manual mode nothing outside is contacted
    #[arg(long)]
    no_stun: bool,
}

impl StunArgs {
    /// `--no-stun` leaves the servers of the environment out.
    pub(super) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        let [servers, _] = from_environment(matches, ["stun_server", "no_stun"]);
        self.stun_server.retain(|_| !servers);
    }

    /// The servers to ask; none with `--no-stun`.
    pub(super) fn resolve(self, file: Option<OneOrMany<String>>) -> Outcome<Vec<StunServer>> {
        let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
        match (self.no_stun, &self.stun_server[..]) {
            (true, []) => return Ok(Vec::new()),
            (true, _) => {
                return usage("--stun-server and --no-stun exclude one another: give one of them");
            }
            (false, []) => {}
            (false, _) => return Ok(self.stun_server),
        }
        let named = match file {
            // Whoever writes this means that nobody is to be asked.
            Some(list) if list.is_empty() => {
                return usage("stun_servers is empty: to ask nobody, give --no-stun");
            }
            Some(list) => list.into(),
            None => DEFAULT.map(str::to_owned).to_vec(),
        };
        let read = |text: &String| {
            server(text).map_err(|error| Failure::Usage(format!("stun_servers: {error}")))
        };
        named.iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::super::tests::with_variables;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: StunArgs,
    }

    fn resolve(words: &[&str], file: Option<OneOrMany<String>>) -> Outcome<Vec<StunServer>> {
        let words = ["stun"].into_iter().chain(words.iter().copied());
        let matches = Line::command().get_matches_from(words);
        let Line { mut args } = Line::from_arg_matches(&matches).unwrap();
        args.prefer_command_line(&matches);
        args.resolve(file)
    }

    fn named(words: &[&str], file: Option<&str>) -> Vec<String> {
        let file = file.map(|text| OneOrMany::One(text.to_owned()));
        let servers = resolve(words, file).unwrap();
        servers.iter().map(|StunServer { host, port }| format!("{host}:{port}")).collect()
    }

    #[test]
    fn servers_are_host_and_port() {
        for good in ["stun.example:3478", "192.0.2.1:1", "[2001:db8::1]:65535"] {
            assert_eq!(named(&["--stun-server", good], None), [good]);
        }
        for bad in ["", "stun.example", "stun.example:0", "2001:db8::1:1", "stun:h:1", "udp://h:1"]
        {
            assert!(server(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_public_ones() {
        assert_eq!(named(&[], None), DEFAULT);
        assert_eq!(named(&[], Some("a:1")), ["a:1"]);
        assert_eq!(named(&["--stun-server", "b:2,c:3"], Some("a:1")), ["b:2", "c:3"]);
        assert!(named(&["--no-stun"], Some("a:1")).is_empty());
    }

    #[test]
    fn nobody_is_asked_by_the_flag_alone() {
        for (words, file) in
            [(&["--no-stun", "--stun-server", "a:1"][..], None), (&[], Some(OneOrMany::default()))]
        {
            let error = resolve(words, file).unwrap_err();
            assert!(matches!(error, Failure::Usage(text) if text.contains("--no-stun")));
        }
    }

    #[test]
    fn no_stun_leaves_the_variable_out() {
        let name = "config::stun::tests::no_stun_leaves_the_variable_out";
        with_variables(name, &[("TUNNEL_RS_STUN_SERVER", "v:1,w:2")], || {
            assert_eq!(named(&[], Some("a:1")), ["v:1", "w:2"]);
            assert_eq!(named(&["--stun-server", "b:2"], None), ["b:2"]);
            assert!(named(&["--no-stun"], None).is_empty());
        });
    }
}
