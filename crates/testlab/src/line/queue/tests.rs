use proptest::{collection::vec, option, prelude::*};

use super::*;

/// The gap before a packet in microseconds, and its IP length.
type Arrivals = Vec<(u64, usize)>;

/// A packet that was accepted.
struct Accepted {
    arrival: Duration,
    bytes: usize,
    out: Duration,
}

fn arrivals() -> impl Strategy<Value = Arrivals> {
    vec((0..2_000_u64, 20..1_500_usize), 1..300)
}

fn conditions() -> impl Strategy<Value = Condition> {
    let rate = option::of(100_000..1_000_000_000_u64);
    let parts = (0..100_000_u64, rate, 0..200_000_usize, 0.0..0.5, any::<u64>());
    parts.prop_map(|(delay, rate, buffer, loss, seed)| Condition {
        delay: Duration::from_micros(delay),
        rate,
        buffer,
        loss,
        seed,
    })
}

fn run(condition: Condition, arrivals: &Arrivals) -> Vec<Accepted> {
    let mut queue = Queue::new(condition);
    let mut arrival = Duration::ZERO;
    let mut accepted = Vec::new();
    for &(gap, packet) in arrivals {
        arrival += Duration::from_micros(gap);
        if let Some(out) = queue.arrive(arrival, packet) {
            accepted.push(Accepted { arrival, bytes: link_bytes(packet), out });
        }
    }
    accepted
}

proptest! {
    #[test]
    fn the_order_is_kept(condition in conditions(), arrivals in arrivals()) {
        let accepted = run(condition, &arrivals);
        prop_assert!(accepted.is_sorted_by_key(|packet| packet.out));
    }

    #[test]
    fn nothing_comes_out_before_its_delay_and_its_transmission(
        condition in conditions(),
        arrivals in arrivals(),
    ) {
        for packet in run(condition, &arrivals) {
            let sent = condition.rate.map(|rate| transmission(packet.bytes, rate));
            let least = packet.arrival + condition.delay + sent.unwrap_or_default();
            prop_assert!(packet.out >= least);
        }
    }

    #[test]
    fn it_is_never_faster_than_the_rate(
        condition in conditions(),
        rate in 100_000..1_000_000_000_u64,
        arrivals in arrivals(),
    ) {
        let accepted = run(Condition { rate: Some(rate), ..condition }, &arrivals);
        for (first, packet) in accepted.iter().enumerate() {
            let mut bits = 0;
            for later in &accepted[first + 1..] {
                bits += later.bytes as u128 * 8;
                let time = (later.out - packet.out).as_nanos();
                prop_assert!(bits * NANOS_PER_SEC <= time * u128::from(rate));
            }
        }
    }

    #[test]
    fn what_waits_is_never_more_than_the_buffer(
        condition in conditions(),
        rate in 100_000..1_000_000_000_u64,
        arrivals in arrivals(),
    ) {
        let condition = Condition { rate: Some(rate), ..condition };
        let accepted = run(condition, &arrivals);
        for (last, packet) in accepted.iter().enumerate() {
            let begin = |packet: &Accepted| {
                packet.out - condition.delay - transmission(packet.bytes, rate)
            };
            let waits = |other: &&Accepted| begin(other) > packet.arrival;
            let waiting: usize =
                accepted[..=last].iter().filter(waits).map(|packet| packet.bytes).sum();
            prop_assert!(waiting <= condition.buffer, "{waiting} bytes wait");
        }
    }

    #[test]
    fn the_same_seed_drops_the_same_packets(
        condition in conditions(),
        arrivals in arrivals(),
    ) {
        let outs = || run(condition, &arrivals).into_iter().map(|packet| packet.out);
        prop_assert!(outs().eq(outs()));
    }

    #[test]
    fn the_default_does_nothing(arrivals in arrivals()) {
        let accepted = run(Condition::default(), &arrivals);
        prop_assert_eq!(accepted.len(), arrivals.len());
        prop_assert!(accepted.iter().all(|packet| packet.out == packet.arrival));
    }
}

#[test]
fn the_share_of_drops_is_the_loss() {
    const PACKETS: u32 = 100_000;
    let mut queue = Queue::new(Condition::default().with_loss(0.02).with_seed(7));
    let dropped = (0..PACKETS).filter(|_| queue.arrive(Duration::ZERO, 1_500).is_none()).count();
    // 2000 are expected, with a standard deviation of 44.3.
    assert!((1_779..=2_221).contains(&dropped), "{dropped} of {PACKETS} were dropped");
}

#[test]
fn a_busy_link_fills_its_buffer_and_drops_the_rest() {
    // 1000 link bytes take a millisecond. The first packet is being sent while two wait.
    let condition = Condition::default().with_rate(8_000_000, 3_000);
    let mut queue = Queue::new(condition.with_delay(Duration::from_millis(10)));
    let packet = 1_000 - ETHERNET_HEADER;
    let mut arrive = |micros| {
        let out = queue.arrive(Duration::from_micros(micros), packet);
        out.map(|out| out.as_micros())
    };
    assert_eq!(arrive(0), Some(11_000));
    assert_eq!(arrive(0), Some(12_000));
    assert_eq!(arrive(0), Some(13_000));
    assert_eq!(arrive(0), None);
    assert_eq!(arrive(999), None);
    assert_eq!(arrive(1_000), Some(14_000));
    assert_eq!(arrive(9_000), Some(20_000));
}

#[test]
fn an_idle_link_takes_a_packet_without_a_buffer() {
    let mut queue = Queue::new(Condition::default().with_rate(8_000_000, 0));
    assert!(queue.arrive(Duration::ZERO, 1_500).is_some());
    assert!(queue.arrive(Duration::ZERO, 1_500).is_none());
}

#[test]
fn a_rate_of_zero_lets_nothing_through() {
    let mut queue = Queue::new(Condition::default().with_rate(0, 1_000_000));
    assert!(queue.arrive(Duration::ZERO, 1_500).is_none());
}
