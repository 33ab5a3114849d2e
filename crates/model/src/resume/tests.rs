use std::collections::HashSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// Bytes that tell where they stand: no stretch of them comes again.
fn bytes(from: usize, length: usize) -> Vec<u8> {
    (from as u64..)
        .take(length)
        .map(|place| {
            let mixed = (place + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8
        })
        .collect()
}

/// Keeps `bytes(0, ..)` in chunks of these lengths.
fn outbox(lengths: &[usize]) -> Outbox {
    let mut outbox = Outbox::default();
    let mut end = 0;
    for &length in lengths {
        outbox.push(bytes(end, length).into());
        end += length;
    }
    outbox
}

fn lengths(outbox: &Outbox) -> Vec<usize> {
    outbox.chunks.iter().map(Bytes::len).collect()
}

fn copy(outbox: &Outbox, position: u64, places: usize) -> Vec<u8> {
    let mut chunks = vec![Bytes::new(); places];
    let copied = outbox.copy(position, &mut chunks);
    let filled = chunks.iter().take_while(|chunk| !chunk.is_empty()).count();
    assert!(chunks[filled..].iter().all(Bytes::is_empty), "a gap");
    let all = chunks.concat();
    assert_eq!(all.len(), copied);
    all
}

#[test]
fn small_chunks_are_joined_and_others_are_not() {
    assert_eq!(lengths(&outbox(&[1; 100])), [100]);
    assert_eq!(lengths(&outbox(&[SMALL - 1, SMALL - 1, 1])), [2 * SMALL - 2, 1]);
    assert_eq!(lengths(&outbox(&[SMALL - 1, SMALL, 1, 1])), [SMALL - 1, SMALL, 2]);
    let joined = outbox(&[200, 300, 5, 700, 3, 4]);
    assert_eq!(copy(&joined, 0, 9), bytes(0, 1212));
}

#[test]
fn a_small_chunk_does_not_keep_the_buffer_it_was_part_of() {
    let buffer = Bytes::from(bytes(0, 10_000));
    let mut outbox = Outbox::default();
    outbox.push(buffer.slice(..SMALL - 1));
    outbox.push(buffer.slice(SMALL - 1..5000));
    outbox.push(buffer.slice(5000..5001));
    let at: Vec<_> =
        outbox.chunks.iter().map(|chunk| buffer.as_ptr_range().contains(&chunk.as_ptr())).collect();
    assert_eq!(at, [false, true, false]);
    assert_eq!(copy(&outbox, 0, 3), buffer[..5001]);
}

#[test]
fn a_chunk_joined_to_one_that_has_partly_arrived_follows_it() {
    let mut outbox = outbox(&[1000]);
    outbox.acknowledge(900).unwrap();
    outbox.push(bytes(1000, 50).into());
    assert_eq!(lengths(&outbox), [150]);
    assert_eq!(copy(&outbox, 900, 1), bytes(900, 150));
}

#[test]
fn nothing_is_kept_of_empty_chunks_and_behind_the_end() {
    let mut outbox = outbox(&[0, 3, 0]);
    assert_eq!((lengths(&outbox), outbox.held()), (vec![3], 3));
    assert!(!outbox.is_finished());
    outbox.finish();
    assert!(outbox.is_finished());
    outbox.push(Bytes::from_static(b"more"));
    assert_eq!(outbox.held(), 3);
}

#[test]
fn the_end_counts_one() {
    let mut inbox = Inbox::default();
    inbox.take(3);
    assert_eq!((inbox.position(), inbox.is_ended()), (3, false));
    inbox.end();
    inbox.end();
    assert_eq!((inbox.position(), inbox.is_ended()), (4, true));

    let mut three = outbox(&[3]);
    three.finish();
    three.acknowledge(3).unwrap();
    assert_eq!((three.held(), three.is_done()), (0, false));
    three.acknowledge(inbox.position()).unwrap();
    assert_eq!((three.held(), three.is_done()), (0, true));

    let mut none = Outbox::default();
    none.acknowledge(0).unwrap();
    assert!(!none.is_done());
    none.finish();
    assert!(!none.is_done());
    none.acknowledge(1).unwrap();
    assert!(none.is_done());
}

#[test]
fn a_position_behind_what_was_sent_is_an_error_and_changes_nothing() {
    let mut outbox = outbox(&[600, 600]);
    outbox.acknowledge(100).unwrap();
    for position in [1201, 1202, GONE - 1] {
        let error = OutOfRange { position, kept: 100, end: 1200 };
        assert_eq!(outbox.acknowledge(position), Err(error));
        assert_eq!(outbox.resume(position), Err(error));
    }
    outbox.finish();
    let error = OutOfRange { position: 1202, kept: 100, end: 1201 };
    assert_eq!(outbox.acknowledge(1202), Err(error));
    assert_eq!(error.to_string(), "position 1202 of a flow that is kept from 100 to 1201");
    assert_eq!((outbox.held(), outbox.is_done()), (1100, false));
    assert_eq!(copy(&outbox, 100, 2), bytes(100, 1100));
    outbox.acknowledge(1201).unwrap();
    assert!(outbox.is_done());
}

#[test]
fn an_earlier_position_is_an_old_acknowledgement_but_no_place_to_begin_again() {
    let mut outbox = outbox(&[600, 600]);
    outbox.acknowledge(700).unwrap();
    for position in [0, 600, 699, 700] {
        outbox.acknowledge(position).unwrap();
        assert_eq!((outbox.held(), copy(&outbox, 700, 2)), (500, bytes(700, 500)));
    }
    for position in [0, 699] {
        let error = OutOfRange { position, kept: 700, end: 1200 };
        assert_eq!(outbox.resume(position), Err(error));
    }
    outbox.resume(700).unwrap();
    assert_eq!(outbox.held(), 500);
    outbox.resume(900).unwrap();
    assert_eq!((outbox.held(), copy(&outbox, 900, 1)), (300, bytes(900, 300)));
}

#[test]
fn acknowledged_chunks_are_let_go() {
    let mut outbox = outbox(&[600, 700, 800]);
    for (position, kept) in
        [(599, vec![1, 700, 800]), (600, vec![700, 800]), (1301, vec![799]), (2100, vec![])]
    {
        outbox.acknowledge(position).unwrap();
        assert_eq!(lengths(&outbox), kept);
        assert_eq!(outbox.held(), kept.iter().sum::<usize>());
    }
}

#[test]
fn a_receiver_that_is_gone_wants_nothing_more() {
    for told in [Outbox::acknowledge, Outbox::resume] {
        for finished in [false, true] {
            let mut outbox = outbox(&[600, 600]);
            if finished {
                outbox.finish();
            }
            told(&mut outbox, GONE).unwrap();
            outbox.push(bytes(1200, 600).into());
            outbox.finish();
            assert!(outbox.is_finished());
            // What it said before may come afterwards.
            for position in [0, 500, 1200, GONE] {
                outbox.acknowledge(position).unwrap();
                outbox.resume(position).unwrap();
                assert_eq!((outbox.held(), outbox.is_done()), (0, true));
                assert_eq!(copy(&outbox, position, 3), []);
            }
            assert!(outbox.chunks.is_empty());
        }
    }
}

#[test]
fn copies_begin_within_a_chunk_and_end_with_the_places() {
    let mut outbox = outbox(&[600, 700, 800]);
    assert_eq!(copy(&outbox, 0, 0), []);
    assert_eq!(copy(&outbox, 0, 1), bytes(0, 600));
    assert_eq!(copy(&outbox, 599, 1), bytes(599, 1));
    assert_eq!(copy(&outbox, 600, 1), bytes(600, 700));
    assert_eq!(copy(&outbox, 650, 2), bytes(650, 1450));
    assert_eq!(copy(&outbox, 2099, 9), bytes(2099, 1));
    for behind in [2100, 2101, GONE] {
        assert_eq!(copy(&outbox, behind, 9), []);
    }
    outbox.acknowledge(650).unwrap();
    assert_eq!(copy(&outbox, 650, 2), bytes(650, 1450));
    assert_eq!(copy(&outbox, 700, 1), bytes(700, 600));
    assert_eq!(outbox.held(), 1450, "a copy takes nothing");

    let mut chunks = [const { Bytes::from_static(b"as before") }; 4];
    assert_eq!(outbox.copy(1299, &mut chunks), 801);
    assert_eq!(chunks.map(|chunk| chunk.len()), [1, 800, 9, 9]);
}

/// One direction of a flow: its two ends, what is on its way between them, and what is to come of it.
#[derive(Default)]
struct Direction {
    outbox: Outbox,
    inbox: Inbox,
    pushed: Vec<u8>,
    finished: bool,
    taken: Vec<u8>,
    ends: usize,
    /// The receiver wants nothing more.
    stopped: bool,
    /// The furthest position that the sender has been told.
    heard: u64,
    /// The sender has a stream to write to, and has written it as far as `written`, which includes its end.
    live: bool,
    written: usize,
    stream: Vec<u8>,
    end_in_flight: bool,
    acknowledgements: Vec<u64>,
    /// Where the receiver has said that it stands, on its way.
    told: Option<u64>,
}

impl Direction {
    fn push(&mut self, length: usize) {
        let chunk = bytes(self.pushed.len(), length);
        self.outbox.push(chunk.clone().into());
        if !self.finished && self.heard != GONE {
            self.pushed.extend(chunk);
        }
    }

    fn finish(&mut self) {
        self.outbox.finish();
        self.finished = true;
    }

    /// Writes what so many places take, and the end behind the last byte.
    fn write(&mut self, places: usize) {
        if !self.live || self.heard == GONE || self.written > self.pushed.len() {
            return;
        }
        let copied = copy(&self.outbox, self.written as u64, places);
        let rest = &self.pushed[self.written..];
        assert!(rest.starts_with(&copied), "other bytes");
        assert!(!copied.is_empty() || places == 0 || rest.is_empty(), "bytes are lost");
        self.written += copied.len();
        self.stream.extend(copied);
        if self.finished && self.written == self.pushed.len() {
            self.written += 1;
            self.end_in_flight = true;
        }
    }

    /// Bytes arrive, and the end where it comes within `most`.
    fn deliver(&mut self, most: usize) {
        let count = most.min(self.stream.len());
        let arrived: Vec<u8> = self.stream.drain(..count).collect();
        let end = most > count && std::mem::take(&mut self.end_in_flight);
        if !self.stopped {
            self.inbox.take(count);
            self.taken.extend(arrived);
            if end {
                self.inbox.end();
                self.ends += 1;
            }
        }
    }

    fn stands(&self) -> u64 {
        if self.stopped { GONE } else { self.inbox.position() }
    }

    fn acknowledge(&mut self) {
        // Messages of a connection may come before those on another of its streams.
        if self.live || self.told.is_some() {
            self.acknowledgements.push(self.stands());
        }
    }

    fn hear(&mut self, which: Index) {
        if !self.acknowledgements.is_empty() {
            let which = which.index(self.acknowledgements.len());
            let position = self.acknowledgements.swap_remove(which);
            self.outbox.acknowledge(position).unwrap();
            self.heard = self.heard.max(position);
        }
    }

    /// The receiver takes nothing more of the old connection, and says where it stands.
    fn tell(&mut self) {
        self.lose();
        self.told = Some(self.stands());
    }

    fn resume(&mut self) {
        let position = self.told.take().unwrap();
        self.outbox.resume(position).unwrap();
        self.heard = self.heard.max(position);
        self.written = usize::try_from(position).unwrap();
        self.live = true;
    }

    fn cut(&mut self) {
        self.live = false;
        self.told = None;
    }

    fn lose(&mut self) {
        self.stream.clear();
        self.end_in_flight = false;
        self.acknowledgements.clear();
    }

    fn check(&self) {
        let pushed = self.pushed.len() as u64;
        assert_eq!(self.outbox.held() as u64, pushed - pushed.min(self.heard));
        let done = self.heard == GONE || self.finished && self.heard == pushed + 1;
        assert_eq!(self.outbox.is_done(), done);
        assert_eq!(self.outbox.is_finished(), self.finished);
        assert_eq!(self.inbox.position(), (self.taken.len() + self.ends) as u64);
        assert_eq!(self.inbox.is_ended(), self.ends == 1);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Finish,
    Write(usize),
    Deliver(usize),
    Acknowledge,
    Hear(Index),
    Stop,
    /// Whether what is in flight may still arrive, until the receiver says where it stands.
    Cut(bool),
    Resume,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let push = prop_oneof![0..16_usize, SMALL - 8..SMALL + 8, 0..3000_usize];
    let deliver = prop_oneof![0..16_usize, 0..4000_usize, Just(usize::MAX)];
    let step = prop_oneof![
        20 => push.prop_map(Step::Push),
        1 => Just(Step::Finish),
        20 => (0..6_usize).prop_map(Step::Write),
        20 => deliver.prop_map(Step::Deliver),
        15 => Just(Step::Acknowledge),
        15 => any::<Index>().prop_map(Step::Hear),
        1 => Just(Step::Stop),
        5 => any::<bool>().prop_map(Step::Cut),
        20 => Just(Step::Resume),
    ];
    proptest::collection::vec((0..2_usize, step), 0..200)
}

/// A flow between a client, the sender of the first direction, and a server.
struct Flow {
    directions: [Direction; 2],
    /// How much of a resumption is done, of four: the client tells its position, the server begins again there, tells
    /// its own, and the client begins again.
    resumed: usize,
}

impl Flow {
    fn resume(&mut self) {
        let [up, down] = &mut self.directions;
        match self.resumed {
            0 => down.tell(),
            1 => down.resume(),
            2 => up.tell(),
            3 => up.resume(),
            _ => return,
        }
        self.resumed += 1;
    }

    fn act(&mut self, direction: usize, step: Step) {
        let there = &mut self.directions[direction];
        match step {
            Step::Push(length) => there.push(length),
            Step::Finish => there.finish(),
            Step::Write(places) => there.write(places),
            Step::Deliver(most) => there.deliver(most),
            Step::Acknowledge => there.acknowledge(),
            Step::Hear(which) => there.hear(which),
            Step::Stop => there.stopped = true,
            Step::Cut(late) => {
                self.resumed = 0;
                for direction in &mut self.directions {
                    direction.cut();
                    if !late {
                        direction.lose();
                    }
                }
            }
            Step::Resume => self.resume(),
        }
    }
}

/// Two ends over connections that are cut, until nothing is left to do.
fn run(steps: Vec<(usize, Step)>) {
    let directions = [(); 2].map(|()| Direction { live: true, ..Direction::default() });
    let mut flow = Flow { directions, resumed: 4 };
    for (direction, step) in steps {
        flow.act(direction, step);
        flow.directions.iter().for_each(Direction::check);
    }
    while flow.resumed < 4 {
        flow.resume();
    }
    for mut direction in flow.directions {
        direction.finish();
        let mut rounds = direction.pushed.len() + 2;
        while direction.ends == 0 && !direction.stopped {
            assert!(rounds > 0, "nothing goes on");
            rounds -= 1;
            direction.write(1);
            direction.deliver(usize::MAX);
        }
        direction.acknowledge();
        // The last one comes first, and all others late.
        while let Some(position) = direction.acknowledgements.pop() {
            direction.outbox.acknowledge(position).unwrap();
            direction.heard = direction.heard.max(position);
            direction.check();
        }
        assert!(direction.outbox.is_done());
        assert_eq!((direction.outbox.held(), direction.outbox.chunks.len()), (0, 0));
        if direction.stopped {
            assert!(direction.pushed.starts_with(&direction.taken));
        } else {
            assert_eq!(direction.ends, 1);
            assert!(direction.taken == direction.pushed, "other bytes");
        }
    }
}

#[derive(Clone, Debug)]
enum Hostile {
    Push(usize),
    Finish,
    Acknowledge(u64),
    Resume(u64),
    Copy(u64, usize),
}

fn hostile_steps() -> impl Strategy<Value = Vec<Hostile>> {
    let position = || prop_oneof![8 => 0..10_000_u64, 1 => GONE - 9..=GONE, 1 => any::<u64>()];
    let step = prop_oneof![
        4 => (0..3000_usize).prop_map(Hostile::Push),
        1 => Just(Hostile::Finish),
        4 => position().prop_map(Hostile::Acknowledge),
        4 => position().prop_map(Hostile::Resume),
        4 => (position(), 0..5_usize).prop_map(|(position, places)| Hostile::Copy(position, places)),
    ];
    proptest::collection::vec(step, 0..60)
}

fn state(outbox: &Outbox) -> (usize, bool, Vec<u8>) {
    (outbox.held(), outbox.is_done(), copy(outbox, 0, outbox.chunks.len()))
}

/// A receiver that says anything.
fn run_hostile(steps: Vec<Hostile>) {
    let (mut outbox, mut pushed) = (Outbox::default(), Vec::new());
    for step in steps {
        let before = state(&outbox);
        let (result, resumes) = match step {
            Hostile::Push(length) => {
                let chunk = bytes(pushed.len(), length);
                outbox.push(chunk.clone().into());
                if !before.1 && !outbox.is_finished() {
                    pushed.extend(chunk);
                }
                continue;
            }
            Hostile::Finish => {
                outbox.finish();
                continue;
            }
            Hostile::Copy(position, places) => {
                assert!(copy(&outbox, position, places).len() <= before.0);
                continue;
            }
            Hostile::Acknowledge(position) => (outbox.acknowledge(position), None),
            Hostile::Resume(position) => (outbox.resume(position), Some(position)),
        };
        let after = state(&outbox);
        assert!(after.0 <= before.0 && after.1 >= before.1);
        assert_eq!(after.0, after.2.len());
        assert!(pushed.ends_with(&after.2) || after.1, "other bytes");
        match (result, resumes) {
            (Err(_), _) => assert!(after == before, "refused, and yet changed"),
            // Begins where it was told to.
            (Ok(()), Some(position)) if !after.1 => {
                let rest = pushed.len() as u64 - position.min(pushed.len() as u64);
                assert_eq!(after.0 as u64, rest);
            }
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn bytes_arrive_whole_once_and_in_order_over_connections_that_are_cut(steps in steps()) {
        run(steps);
    }

    #[test]
    fn no_position_panics_or_adds_to_what_is_kept(steps in hostile_steps()) {
        run_hostile(steps);
    }
}

#[test]
fn a_flow_number_is_new_once() {
    let mut seen = SeenFlows::default();
    for flow in [0, 5, 4, 1, 2, 3, SeenFlows::WINDOW - 1] {
        assert!(seen.insert(flow), "{flow}");
        assert!(!seen.insert(flow), "{flow}");
    }
    // The number that stood in its place leaves the window.
    assert!(seen.insert(SeenFlows::WINDOW));
    assert!(!seen.insert(0));
    assert!(!seen.insert(1));
    assert!(seen.insert(6));
}

#[test]
fn a_jump_leaves_what_lies_below_the_window_as_seen() {
    for jump in [SeenFlows::WINDOW - 1, SeenFlows::WINDOW, SeenFlows::WINDOW + 1, 1 << 62] {
        let mut seen = SeenFlows::default();
        assert!((0..100).step_by(2).all(|flow| seen.insert(flow)));
        let flow = 98 + jump;
        assert!(seen.insert(flow));
        let lowest = flow + 1 - SeenFlows::WINDOW;
        assert!((0..lowest).rev().take(200).all(|flow| !seen.insert(flow)));
        let expected = |flow: u64| flow > 98 || flow % 2 == 1;
        assert!((lowest..lowest + 200).all(|flow| seen.insert(flow) == expected(flow)), "{jump}");
        assert!((flow - 200..=flow).all(|at| seen.insert(at) == (at < flow)), "{jump}");
    }
}

#[test]
fn the_highest_flow_numbers_end_the_window() {
    let mut seen = SeenFlows::default();
    assert!(!seen.insert(u64::MAX));
    assert!(seen.insert(0), "the highest number does not move the window");
    for flow in [u64::MAX - SeenFlows::WINDOW, u64::MAX - 1, u64::MAX - 2] {
        assert!(seen.insert(flow), "{flow}");
        assert!(!seen.insert(flow), "{flow}");
    }
    assert!(!seen.insert(u64::MAX));
    assert!(!seen.insert(0));
    assert!(!seen.insert(u64::MAX - SeenFlows::WINDOW - 1));
    assert!(seen.insert(u64::MAX - SeenFlows::WINDOW + 1));
}

#[derive(Clone, Debug)]
enum Number {
    /// So far below the highest one, or above.
    Below(u64),
    Above(u64),
    Any(u64),
    /// One that has been seen.
    Again(Index),
}

fn numbers() -> impl Strategy<Value = (u64, Vec<Number>)> {
    let window = SeenFlows::WINDOW;
    let near = move || {
        prop_oneof![
            0..10_u64,
            window - 5..window + 5,
            0..2 * window,
            (0..200_u64).prop_map(|words| words * 64)
        ]
    };
    let number = prop_oneof![
        10 => near().prop_map(Number::Below),
        10 => near().prop_map(Number::Above),
        1 => any::<u64>().prop_map(Number::Any),
        5 => any::<Index>().prop_map(Number::Again),
    ];
    let first = prop_oneof![near(), any::<u64>(), near().prop_map(|below| u64::MAX - below)];
    (first, proptest::collection::vec(number, 0..300))
}

fn run_numbers(first: u64, numbers: Vec<Number>) {
    let (mut seen, mut model) = (SeenFlows::default(), HashSet::new());
    let (mut order, mut highest) = (vec![first], 0);
    for number in std::iter::once(Number::Any(first)).chain(numbers) {
        let flow: u64 = match number {
            Number::Below(far) => u64::saturating_sub(highest, far),
            Number::Above(far) => highest.saturating_add(far),
            Number::Any(flow) => flow,
            Number::Again(which) => order[which.index(order.len())],
        };
        let in_window = flow > highest || highest - flow < SeenFlows::WINDOW;
        let expected = flow != u64::MAX && in_window && !model.contains(&flow);
        assert_eq!(seen.insert(flow), expected, "{flow}");
        if expected {
            model.insert(flow);
            order.push(flow);
            highest = highest.max(flow);
        }
    }
}

proptest! {
    #[test]
    fn flow_numbers_are_new_once_as_in_a_set((first, numbers) in numbers()) {
        run_numbers(first, numbers);
    }
}

#[test]
fn a_proof_holds_for_its_secret_session_connection_and_identities_only() {
    let secret = ResumptionSecret::new([1; 32]);
    let base = ResumptionTranscript { keying_material: &[7; 32], client: b"cc", server: b"ss" };
    let resumption = secret.prove([3; 16], &base);
    assert_eq!(resumption.session, [3; 16]);
    assert!(secret.verify(&resumption, &base));
    assert!(ResumptionSecret::new([1; 32]).verify(&resumption, &base));
    assert!(!ResumptionSecret::new([2; 32]).verify(&resumption, &base));
    assert!(!secret.verify(&Resumption { session: [4; 16], ..resumption.clone() }, &base));
    for other in [
        ResumptionTranscript { keying_material: &[8; 32], ..base },
        ResumptionTranscript { client: b"cx", ..base },
        ResumptionTranscript { server: b"sx", ..base },
        ResumptionTranscript { client: b"ss", server: b"cc", ..base },
        ResumptionTranscript { client: b"c", server: b"css", ..base },
        ResumptionTranscript { client: b"ccs", server: b"s", ..base },
    ] {
        assert!(!secret.verify(&resumption, &other));
    }
}

#[test]
fn a_secret_is_not_printed() {
    assert_eq!(format!("{:?}", ResumptionSecret::new([1; 32])), "ResumptionSecret(..)");
}

proptest! {
    #[test]
    fn resumptions_survive_the_hello(
        secret: [u8; 32],
        session: [u8; 16],
        keying_material: [u8; 32],
        identities: (Vec<u8>, Vec<u8>),
        later: Vec<u8>,
        bit in 0..48 * 8_usize,
    ) {
        let (client, server) = (&*identities.0, &*identities.1);
        let transcript = ResumptionTranscript { keying_material: &keying_material, client, server };
        let secret = ResumptionSecret::new(secret);
        let mut hello = secret.prove(session, &transcript).to_bytes();
        prop_assert_eq!(hello.len(), 48);
        let back = Resumption::from_bytes(&[&*hello, &*later].concat()).unwrap();
        prop_assert_eq!(back.session, session);
        prop_assert!(secret.verify(&back, &transcript));
        prop_assert_eq!(back.to_bytes(), &*hello);

        hello[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!secret.verify(&Resumption::from_bytes(&hello).unwrap(), &transcript));
        hello.truncate(bit / 8);
        prop_assert!(Resumption::from_bytes(&hello).is_none());
    }

    #[test]
    fn no_resumption_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let resumption = Resumption::from_bytes(&bytes);
        prop_assert_eq!(resumption.is_some(), bytes.len() >= 48);
        if let Some(resumption) = resumption {
            prop_assert_eq!(resumption.to_bytes(), &bytes[..48]);
        }
    }
}
