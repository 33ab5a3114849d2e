//! What passes by the relays.

use std::{
    io::{Read, Write},
    ops::RangeInclusive,
    thread,
};

use tunnel_testlab::{
    Error,
    enter::connect_tcp,
    nat::Nat,
    nostr::{Manner, carried},
    programs::MIB,
};

use super::{SESSION_LIMIT, stage::Stage};
use crate::support::{TestResult, alone};

/// How much is transferred.
const SIZE: u64 = 50 * MIB;

/// What the relay's host may send and receive meanwhile: signs of life of some connections, and STUN.
const BESIDE: u64 = 16 << 10;

/// What it may before, and must in part: some events, the WebSockets, and STUN.
const SIGNALING: RangeInclusive<u64> = 4 << 10..=64 << 10;

#[test]
fn no_byte_of_a_transfer_passes_by_the_relay() -> TestResult {
    let _alone = alone();
    let stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &[Manner::Good])?;
    let key = stage.config.key()?;
    let begun = carried(&stage.lab.relay)?;
    let _server = stage.server(&[&key], &[])?;
    let client = stage.connect("client with a transfer", &key)?;
    let before = [carried(&stage.lab.relay)?, carried(&stage.lab.b.host)?];

    let near = connect_tcp(&stage.lab.a.host, stage.entrance(&client)?, SESSION_LIMIT)?;
    let (far, _) = stage.service().accept().map_err(failed("accept a connection"))?;
    let received = thread::scope(|scope| {
        let sends = scope.spawn(move || {
            let chunk = vec![0x5a; MIB as usize];
            (0..SIZE / MIB).try_for_each(|_| (&far).write_all(&chunk))
        });
        let mut received = 0;
        let mut buffer = vec![0; MIB as usize];
        while let Ok(size @ 1..) = (&near).read(&mut buffer) {
            received += size as u64;
        }
        sends.join().map(|sent| sent.map(|()| received))
    });
    let Ok(received) = received else { panic!("the sender panicked") };
    assert_eq!(received.map_err(failed("send"))?, SIZE);

    let after = [carried(&stage.lab.relay)?, carried(&stage.lab.b.host)?];
    let [relay, server] = [after[0] - before[0], after[1] - before[1]];
    assert!(server > SIZE, "of {SIZE} bytes only {server} left the server's host");
    assert!(relay < BESIDE, "{relay} bytes passed by the relay's host meanwhile");
    let signaling = before[0] - begun;
    assert!(SIGNALING.contains(&signaling), "{signaling} bytes for signaling");
    Ok(())
}

fn failed(action: &str) -> impl FnOnce(std::io::Error) -> Error {
    let action = action.to_owned();
    move |source| Error::Io { action, source }
}
