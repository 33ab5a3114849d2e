//! Somebody who can alter both blocks sits in the middle, and the codes tell.

use std::future::{Future, pending};
use std::sync::{Arc, mpsc};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tunnel_ice::signaling::manual::{Answer, CodePart, Offer, encode_answer, encode_offer};
use tunnel_ice::{Endpoint, Side as IceSide};
use tunnel_model::{Allowlist, Policy};
use tunnel_session::client::Link;
use tunnel_session::events::Events;
use tunnel_session::limits::DEFAULT_GRACE;
use tunnel_session::server::{Limits, Server};

use crate::services::{ask, connect, shout, tcp_service};
use crate::side::{Side, answer, offer};
use crate::support::{SOON, TestResult, on_loopback, sessions, wait_log};

/// For tasks of the test in the network that it is in.
pub(crate) fn runtime() -> TestResult<Runtime> {
    tunnel_ice::crypto::install();
    Ok(Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

/// Within the usual limit.
fn soon<T>(runtime: &Runtime, future: impl Future<Output = T>) -> TestResult<T> {
    Ok(runtime.block_on(async { tokio::time::timeout(SOON, future).await })?)
}

/// A server for the client; passes on what that tells first.
async fn serve(endpoint: Endpoint, told: mpsc::Sender<Option<[u8; 16]>>) -> TestResult {
    let networks = vec!["127.0.0.0/8".parse()?];
    let policy = Policy::pinned(Allowlist { tcp: networks.clone(), udp: networks });
    let (_rules, present) = watch::channel(Arc::new(policy));
    let server = Server::new(present, Limits::default(), Events::default())?;
    while let Some(accepting) = endpoint.accept().await {
        let (connection, reveal) = accepting.complete().await?;
        told.send(reveal)?;
        server.serve(connection, None, pending()).await;
    }
    Ok(())
}

/// A client for the server.
async fn dial(endpoint: Endpoint, offer: Offer) -> TestResult {
    let link = Link::new(
        endpoint.dialer(),
        None,
        offer.sources,
        DEFAULT_GRACE,
        Events::default(),
        |_| (),
    )?;
    link.run().await;
    Ok(())
}

/// One end of the middle, and what it says of itself.
async fn end(side: IceSide, reveal: Option<CodePart>) -> TestResult<Endpoint> {
    Ok(Endpoint::bind(side, Vec::new(), reveal.map(|part| part.0)).await?)
}

/// Gives the client an answer of the middle's own, and serves it; returns the client's part of the code.
fn lure(runtime: &Runtime, client: &mut Side) -> TestResult<CodePart> {
    let theirs = offer(&client.block()?)?;
    let endpoint = soon(runtime, end(IceSide::Answering, None))??;
    let description = soon(runtime, endpoint.gathered())?;
    soon(runtime, endpoint.meet(&theirs.description, None))??;
    let nonce = CodePart::generate()?.0;
    client.paste(&encode_answer(&Answer { id: theirs.id, nonce, description }))?;
    let (telling, told) = mpsc::channel();
    runtime.spawn(serve(endpoint, telling));
    let Some(part) = told.recv_timeout(SOON)? else { panic!("the client does not tell its part") };
    Ok(CodePart(part))
}

/// Gives the server an offer of the middle's own in place of the client's, and dials it.
fn pretend(
    runtime: &Runtime,
    server: &mut Side,
    theirs: &Offer,
    commitment: [u8; 16],
    reveal: CodePart,
) -> TestResult {
    let endpoint = soon(runtime, end(IceSide::Offering, Some(reveal)))??;
    let description = soon(runtime, endpoint.gathered())?;
    let offer = Offer { commitment, description, ..theirs.clone() };
    server.paste(&encode_offer(&offer))?;
    let answer = answer(&server.block()?)?;
    soon(runtime, endpoint.meet(&answer.description, None))??;
    runtime.spawn(dial(endpoint, offer));
    Ok(())
}

#[test]
fn the_codes_differ_where_somebody_is_in_the_middle() -> TestResult {
    on_loopback(|| {
        let source = tcp_service(shout)?;
        // With a part of the code that is the middle's own, and with the client's, once that is told.
        for own_part in [true, false] {
            let runtime = runtime()?;
            let (mut client, mut server) = (Side::client(&[&source], &[])?, Side::server(&[])?);
            let theirs = offer(&client.block()?)?;
            let clients_part = lure(&runtime, &mut client)?;
            assert_eq!(clients_part.commitment(), theirs.commitment);
            let part = if own_part { CodePart::generate()? } else { clients_part };
            pretend(&runtime, &mut server, &theirs, part.commitment(), part)?;

            // Nothing else is wrong: that is what the codes are for.
            ask(&mut connect(client.targets(1)?[0])?, "hello")?;
            assert_ne!(client.code()?, server.code()?);
            for side in [&client.process, &server.process] {
                wait_log(side, &["session open"], SOON)?;
            }
        }
        Ok(())
    })
}

#[test]
fn who_does_not_keep_to_the_offer_is_found_out() -> TestResult {
    on_loopback(|| {
        let runtime = runtime()?;
        let (client, mut server) =
            (Side::client(&["tcp://127.0.0.1:22"], &[])?, Side::server(&[])?);
        let theirs = offer(&client.block()?)?;
        // The client's commitment stands in the offer, and what is behind it is not known yet.
        pretend(&runtime, &mut server, &theirs, theirs.commitment, CodePart::generate()?)?;
        assert_eq!(server.exit_code(SOON)?, 3, "{}", server.process.output());
        wait_log(&server.process, &["ERROR", "altered"], SOON)?;
        assert!(!server.process.stdout().contains("Code"), "{}", server.process.output());
        assert!(sessions(&server.process) <= 1);
        Ok(())
    })
}
