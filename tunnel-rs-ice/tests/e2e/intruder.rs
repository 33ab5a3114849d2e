//! Somebody else who knows the blocks.

use std::time::Duration;

use tokio::time::timeout;
use tunnel_ice::signaling::manual::CodePart;
use tunnel_ice::{Endpoint, Side as IceSide};
use tunnel_session::client::Link;
use tunnel_session::events::Events;
use tunnel_session::limits::DEFAULT_GRACE;

use crate::middle::runtime;
use crate::services::{ask, connect, shout, tcp_service};
use crate::side::{Pair, Side, answer, offer};
use crate::support::{SOON, TestResult, on_loopback, sessions, wait_log};

/// Many times what a client takes that is let in.
const TRIES: Duration = Duration::from_secs(3);

#[test]
fn a_second_client_with_the_same_offer_is_not_let_in() -> TestResult {
    on_loopback(|| {
        let runtime = runtime()?;
        let client = Side::client(&[&tcp_service(shout)?], &[])?;
        let pair = Pair::answered(client, Side::server(&[])?)?;
        let (offer, answer) = (offer(&pair.client.block()?)?, answer(&pair.server.block()?)?);
        let fingerprint = offer.description.fingerprint.to_string();

        // It has all that the client has, but for the key of the certificate in the offer.
        let reveal = Some(CodePart::generate()?.0);
        let intruder = runtime.block_on(Endpoint::bind(IceSide::Offering, Vec::new(), reveal))?;
        runtime.block_on(intruder.meet(&answer.description, None))?;
        let link = Link::new(
            intruder.dialer(),
            None,
            offer.sources,
            DEFAULT_GRACE,
            Events::default(),
            |_| (),
        )?;
        let (dialling, first) = (link.clone(), link.clone());
        runtime.spawn(async move { dialling.run().await });
        let is_in = |link: &Link<_>| runtime.block_on(async { timeout(TRIES, link.up()).await });
        assert!(is_in(&first).is_err(), "the intruder was let in before the client came");

        let pair = pair.hand_over()?;
        pair.wait_connected()?;
        let mut tcp = connect(pair.client.targets(1)?[0])?;
        ask(&mut tcp, "hello")?;
        assert!(is_in(&link).is_err(), "the intruder was let in beside the client");
        ask(&mut tcp, "still here")?;
        let server = &pair.server.process;
        wait_log(server, &["session open", &fingerprint[..10]], SOON)?;
        assert_eq!(sessions(server), 1, "{}", server.output());
        Ok(())
    })
}
