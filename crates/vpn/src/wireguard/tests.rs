use proptest::prelude::*;

use super::*;

/// An IPv4 packet of `length` bytes that ends with `mark`.
fn packet(length: usize, mark: u8) -> Vec<u8> {
    let mut packet = vec![0; length];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    packet[length - 1] = mark;
    packet
}

fn pair_with(psks: [[u8; 32]; 2], keepalive: u16) -> (Tunnel, Tunnel) {
    let (client, server) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let [ours, theirs] = psks.map(PresharedKey::new);
    (
        Tunnel::new(&client, server.public(), &ours, End::Initiator { keepalive }),
        Tunnel::new(&server, client.public(), &theirs, End::Responder),
    )
}

fn pair() -> (Tunnel, Tunnel) {
    pair_with([[7; 32]; 2], 25)
}

fn made(write: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut buffer = vec![0; message_buffer(MAX_INNER)];
    let length = write(&mut buffer);
    buffer.truncate(length);
    buffer
}

fn initiation(tunnel: &mut Tunnel) -> Vec<u8> {
    made(|out| tunnel.initiate(out))
}

fn take(tunnel: &mut Tunnel, message: &[u8]) -> (Received, Vec<u8>) {
    let mut received = Received::Nothing;
    let bytes = made(|out| {
        received = tunnel.decrypt(message, out);
        match received {
            Received::Reply(length) | Received::Packet(length) => length,
            _ => 0,
        }
    });
    (received, bytes)
}

fn shake_hands(client: &mut Tunnel, server: &mut Tunnel) {
    let initiation = initiation(client);
    let (_, response) = take(server, &initiation);
    let (_, confirmation) = take(client, &response);
    assert_eq!(take(server, &confirmation).0, Received::Nothing);
    assert!(client.is_established() && server.is_established());
}

fn sealed(tunnel: &mut Tunnel, packet: &[u8]) -> Vec<u8> {
    made(|out| tunnel.encrypt(packet, out).unwrap())
}

#[test]
fn packets_of_any_length_pass_after_the_handshake() {
    let (mut client, mut server) = pair();
    shake_hands(&mut client, &mut server);
    for length in [20, 21, 116, 1420, MAX_INNER] {
        let message = sealed(&mut client, &packet(length, 3));
        assert_eq!(message.len(), length + OVERHEAD);
        assert!(take(&mut server, &message) == (Received::Packet(length), packet(length, 3)));
        let back = sealed(&mut server, &packet(length, 4));
        assert!(take(&mut client, &back) == (Received::Packet(length), packet(length, 4)));
    }
    let mut buffer = vec![0; message_buffer(MAX_INNER + 1)];
    assert_eq!(client.encrypt(&vec![0x45; MAX_INNER + 1], &mut buffer), None);
}

#[test]
fn packets_wait_for_the_handshake_and_arrive_in_order() {
    let (mut client, mut server) = pair();
    let first = sealed(&mut client, &packet(60, 0));
    assert_eq!(first.len(), LONGEST_MESSAGE);
    for mark in 1..5 {
        assert!(sealed(&mut client, &packet(60, mark)).is_empty());
    }
    assert!(client.next_waiting_buffer().is_none());
    let (_, response) = take(&mut server, &first);
    let (received, confirmation) = take(&mut client, &response);
    assert_eq!(received, Received::Reply(confirmation.len()));
    take(&mut server, &confirmation);
    for mark in 0..5 {
        let message = made(|out| client.next_waiting(out));
        assert_eq!(take(&mut server, &message).1, packet(60, mark));
    }
    assert!(made(|out| client.next_waiting(out)).is_empty());
}

#[test]
fn what_waits_is_bounded_in_bytes_number_and_time() {
    let mut buffer = vec![0; message_buffer(MAX_INNER)];
    let mut count = |tunnel: &mut Tunnel, length| {
        (0..3000).filter(|_| tunnel.encrypt(&packet(length, 1), &mut buffer).is_some()).count()
    };
    let (mut client, mut server) = pair();
    assert_eq!(count(&mut server, MAX_INNER), MAX_WAITING / MAX_INNER);
    assert_eq!(count(&mut client, 20), MAX_WAITING_PACKETS);
    let start = Instant::now();
    client.tick(start, &mut [0; 148]);
    client.tick(start + WAITING_TIME - Duration::from_millis(1), &mut [0; 148]);
    assert_eq!(count(&mut client, 20), 0);
    client.tick(start + WAITING_TIME, &mut [0; 148]);
    assert_eq!(count(&mut client, 20), MAX_WAITING_PACKETS);
    shake_hands(&mut client, &mut server);
    let mut left = 0;
    while !made(|out| client.next_waiting(out)).is_empty() {
        left += 1;
    }
    assert_eq!(left, MAX_WAITING_PACKETS);
    assert_eq!(sealed(&mut client, &packet(20, 1)).len(), 52);
}

#[test]
fn another_preshared_key_opens_nothing() {
    let (mut client, mut server) = pair_with([[1; 32], [2; 32]], 25);
    let initiation = initiation(&mut client);
    let (_, response) = take(&mut server, &initiation);
    assert_eq!(take(&mut client, &response).0, Received::Rejected);
    assert!(!client.is_established());
}

#[test]
fn copies_and_alterations_are_rejected() {
    let (mut client, mut server) = pair();
    shake_hands(&mut client, &mut server);
    let message = sealed(&mut client, &packet(100, 1));
    for at in 0..message.len() {
        let mut altered = message.clone();
        altered[at] ^= 1;
        assert_eq!(take(&mut server, &altered).0, Received::Rejected, "{at}");
    }
    assert_eq!(take(&mut server, &message).0, Received::Packet(100));
    assert_eq!(take(&mut server, &message).0, Received::Rejected);
}

#[test]
fn a_counter_at_its_end_is_known() {
    let message = |kind: u8, counter: u64| {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend(counter.to_le_bytes());
        message.resize(60, 0);
        message
    };
    for counter in [u64::MAX, u64::MAX - 1024, REJECT_AFTER_MESSAGES] {
        assert!(is_counter_spent(&message(TYPE_DATA, counter)));
        assert!(!is_counter_spent(&message(1, counter)));
    }
    assert!(!is_counter_spent(&message(TYPE_DATA, REJECT_AFTER_MESSAGES - 1)));
    assert!(!is_counter_spent(&message(TYPE_DATA, u64::MAX)[..15]));
}

/// When `client` sends something by itself, in milliseconds after `start`, and the last of that.
fn sends(client: &mut Tunnel, start: Instant, until: u32) -> (Vec<u128>, Vec<u8>) {
    let (mut times, mut last) = (Vec::new(), Vec::new());
    for after in (0..until).map(|step| Duration::from_millis(100) * step) {
        let message = made(|out| client.tick(start + after, out));
        if !message.is_empty() {
            times.push(after.as_millis());
            last = message;
        }
    }
    (times, last)
}

#[test]
fn a_handshake_without_an_answer_is_tried_again_soon() {
    let (mut client, mut server) = pair();
    let start = Instant::now();
    initiation(&mut client);
    let (times, last) = sends(&mut client, start, 160);
    assert_eq!(times, [500, 1500, 3500, 7500, 11_500, 15_500]);
    let (_, response) = take(&mut server, &last);
    take(&mut client, &response);
    assert!(client.is_established());
    assert!(sends(&mut client, start + Duration::from_secs(60), 100).0.is_empty());
}

#[test]
fn only_an_initiator_begins_handshakes() {
    let start = Instant::now();
    // Without a keepalive too, or the answering end could say nothing once the keys are too old.
    for keepalive in [0, 25] {
        let (mut client, mut server) = pair_with([[7; 32]; 2], keepalive);
        assert_eq!(sends(&mut client, start, 10).0, [0, 500]);
        assert!(sealed(&mut server, &packet(60, 1)).is_empty());
        assert!(sends(&mut server, start, 100).0.is_empty());
    }
}

#[test]
fn a_carrier_that_is_back_begins_a_handshake_at_the_initiator() {
    let now = Instant::now();
    let (mut client, mut server) = pair();
    assert_eq!(made(|out| client.carrier_restored(now, out)).len(), LONGEST_MESSAGE);
    sealed(&mut server, &packet(60, 1));
    assert!(made(|out| server.carrier_restored(now, out)).is_empty());
    let (mut client, mut server) = pair();
    shake_hands(&mut client, &mut server);
    let again = made(|out| client.carrier_restored(now, out));
    // What is under way under the old key still arrives.
    let message = sealed(&mut client, &packet(60, 1));
    let (_, response) = take(&mut server, &again);
    assert_eq!(take(&mut server, &message).0, Received::Packet(60));
    assert!(matches!(take(&mut client, &response).0, Received::Reply(_)));
}

#[test]
fn what_waits_at_the_answering_end_leaves_with_the_peers_first_packet() {
    let (mut client, mut server) = pair();
    let initiation = initiation(&mut client);
    let (_, response) = take(&mut server, &initiation);
    assert!(!server.is_established());
    sealed(&mut server, &packet(60, 9));
    assert!(made(|out| server.next_waiting(out)).is_empty());
    let (_, confirmation) = take(&mut client, &response);
    take(&mut server, &confirmation);
    let message = made(|out| server.next_waiting(out));
    assert_eq!(take(&mut client, &message).1, packet(60, 9));
}

#[test]
fn secrets_are_not_shown() {
    let key = PrivateKey::generate().unwrap();
    assert_eq!(
        format!("{key:?} {:?}", PresharedKey::new([7; 32])),
        "PrivateKey(..) PresharedKey(..)"
    );
    assert_ne!(key.public(), PrivateKey::generate().unwrap().public());
}

proptest! {
    #[test]
    fn no_message_panics(
        messages in proptest::collection::vec((1u8..6, proptest::collection::vec(any::<u8>(), 0..160)), 0..40),
        established: bool,
    ) {
        let (mut client, mut server) = pair();
        if established {
            shake_hands(&mut client, &mut server);
        }
        for (kind, mut message) in messages {
            // Types and lengths that WireGuard has, so that more than those is looked at.
            let length = [0, 148, 92, 64, message.len(), message.len()][usize::from(kind)];
            message.resize(length, 0);
            if let Some(start) = message.first_chunk_mut::<4>() {
                *start = [kind, 0, 0, 0];
            }
            prop_assert!(!matches!(take(&mut server, &message).0, Received::Packet(_)));
        }
    }
}
