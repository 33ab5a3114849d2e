use std::{io::Read, net::UdpSocket};

use super::*;
use crate::enter::{bind_udp, listen_tcp};

const LIMIT: Duration = Duration::from_secs(20);

fn namespace() -> Result<(Namespace, TcpListener, SocketAddr)> {
    let namespace = Namespace::new("stream")?;
    let listener = listen_tcp(&namespace, SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = listener.local_addr().map_err(Error::io("read an address"))?;
    Ok((namespace, listener, address))
}

/// A connection, and two ends of it that the test holds: a stream has the outer ends.
fn cut_open() -> Result<(Namespace, Stream, TcpStream, TcpStream)> {
    let (namespace, listener, address) = namespace()?;
    let near = connect_tcp(&namespace, address, LIMIT)?;
    let inner_near = accept(&listener, LIMIT)?;
    let inner_far = connect_tcp(&namespace, address, LIMIT)?;
    let stream = Stream::start(near, accept(&listener, LIMIT)?)?;
    Ok((namespace, stream, inner_near, inner_far))
}

#[test]
fn a_stream_carries_both_ways_and_is_whole() -> Result<()> {
    let (namespace, listener, address) = namespace()?;
    let stream = Stream::open(&namespace, address, &listener, LIMIT)?;
    let mark = stream.mark();
    stream.wait_beyond(mark, 100_000, LIMIT)?;
    let totals = stream.finish(LIMIT)?;
    assert!(totals.up >= 100_000 && totals.down >= 100_000, "{totals:?}");
    Ok(())
}

#[test]
fn a_pause_is_kept_with_its_direction() -> Result<()> {
    let (_namespace, stream, mut near, mut far) = cut_open()?;
    let since = Instant::now();
    let mut pass = |size: usize, way: Direction| -> io::Result<()> {
        let mut bytes = vec![0; size];
        match way {
            Direction::Up => near.read_exact(&mut bytes).and_then(|()| far.write_all(&bytes)),
            Direction::Down => far.read_exact(&mut bytes).and_then(|()| near.write_all(&bytes)),
        }
    };
    // 3 s of one direction pass while the other one rests.
    for _ in 0..300 {
        pass(CHUNK, Direction::Up).map_err(Error::io("pass bytes on"))?;
    }
    let rested = since.elapsed();
    pass(CHUNK, Direction::Down).map_err(Error::io("pass bytes on"))?;
    stream.wait_beyond(Mark::of_nothing(since), CHUNK as u64, LIMIT)?;
    let pauses = stream.pauses(since);
    assert!(pauses.down >= rested && pauses.up < rested, "{pauses:?} of {rested:?}");
    Ok(())
}

#[test]
fn a_byte_that_changed_is_named() -> Result<()> {
    let (_namespace, stream, mut near, mut far) = cut_open()?;
    let mut bytes = vec![0; 1000];
    near.read_exact(&mut bytes).map_err(Error::io("read"))?;
    bytes[700] ^= 1;
    far.write_all(&bytes).map_err(Error::io("write"))?;
    let waited = stream.wait_beyond(stream.mark(), 1, LIMIT);
    let wrong = Direction::Up;
    assert!(
        matches!(waited, Err(Error::Broken { direction, position: 700, .. }) if direction == wrong),
        "{waited:?}"
    );
    Ok(())
}

#[test]
fn a_reset_is_told_from_an_end() -> Result<()> {
    let (namespace, stream, near, far) = cut_open()?;
    near.shutdown(Shutdown::Write).map_err(Error::io("end"))?;
    let ended = stream.wait_reset(Duration::from_millis(200));
    assert!(matches!(ended, Err(Error::NotReset { .. })), "{ended:?}");
    drop((stream, near, far, namespace));
    let (_namespace, stream, near, _far) = cut_open()?;
    near.peek(&mut [0]).map_err(Error::io("peek"))?;
    // Closing with bytes that were not read resets (RFC 2525 section 2.17).
    drop(near);
    stream.wait_reset(LIMIT).map(drop)
}

#[test]
fn packets_come_back_through_a_hole_in_time() -> Result<()> {
    let namespace = Namespace::new("packets")?;
    let bind = || bind_udp(&namespace, SocketAddr::from(([127, 0, 0, 1], 0)));
    let address = |socket: &UdpSocket| socket.local_addr().map_err(Error::io("read an address"));
    let exit = bind()?;
    let packets = Packets::start(&namespace, address(&exit)?, exit)?;
    packets.wait_beyond(packets.mark(), 5, LIMIT)?;
    let cut = Instant::now();
    namespace
        .nft("table inet cut { chain input { type filter hook input priority 0; drop; }; }")?;
    let mark = packets.mark();
    let lost = packets.wait_beyond(mark, 10, Duration::from_secs(3));
    assert!(matches!(lost, Err(Error::Stalled { .. })), "{lost:?}");
    namespace.nft("delete table inet cut")?;
    packets.wait_beyond(mark, 10, LIMIT)?;
    assert!(packets.pauses(cut).up >= Duration::from_millis(1500), "{:?}", packets.pauses(cut));
    assert!(packets.totals().down < packets.totals().up, "{:?}", packets.totals());
    Ok(())
}
