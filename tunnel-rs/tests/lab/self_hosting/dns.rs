//! The discovery server answers DNS as well.

use tunnel_testlab::{net::PairLab, process::run, tunnel::ServerConfig};

use super::{LIMIT, OwnRelay, folder};
use crate::support::{TUNNEL_RS, TestResult, alone};

#[test]
fn a_server_is_found_by_dns() -> TestResult {
    let _alone = alone();
    let lab = PairLab::new()?;
    let state = folder()?;
    let url = format!("https://{}", PairLab::A4);
    let listen = format!("{}:53", PairLab::A4);
    let dns = ["--dns-listen", &listen, "--dns-origin", "iroh.lab.test"];
    let relay = OwnRelay::start(&lab.a, &state, &[&["--public-url", &url][..], &dns].concat())?;
    let server = ServerConfig::new(TUNNEL_RS).arguments(relay.flags()).start(Some(&lab.b))?;
    let id: tunnel_iroh::EndpointId = server.endpoint_id.parse()?;
    for domain in ["iroh.lab.test.", "."] {
        let name = format!("_iroh.{}.{}", id.to_z32(), domain.trim_start_matches('.'));
        for transport in ["+notcp", "+tcp"] {
            let answer = || {
                let mut dig = lab.b.command("dig");
                dig.args([&format!("@{}", PairLab::A4), transport, "+short", "TXT", &name]);
                let answer = run(&mut dig, LIMIT).ok()?;
                answer.contains(&format!("\"relay={url}/\"")).then_some(())
            };
            server.process.wait_for(answer, LIMIT)?;
        }
    }
    let mut stranger = lab.b.command("dig");
    stranger.args([&format!("@{}", PairLab::A4), "A", "example.org"]);
    let answer = run(&mut stranger, LIMIT)?;
    assert!(!answer.contains("status: NOERROR"), "it resolves for others: {answer}");
    Ok(())
}
