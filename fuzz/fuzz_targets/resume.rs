//! A flow over connections that are cut as the input says, between two ends that keep to the protocol; a receiver that
//! says anything about where it stands; and flow numbers in any order.

#![no_main]

use std::collections::HashSet;

use bytes::Bytes;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use tunnel_model::resume::{GONE, Inbox, OutOfRange, Outbox, SeenFlows};

/// The longest chunk, in bytes: some times what is joined with others.
const MAX_CHUNK: u16 = 3000;

/// The most places that a copy has, and the most bytes that arrive at once.
const MAX_PLACES: usize = 5;
const MAX_DELIVERED: u16 = 4000;

/// The next bytes of a flow, such that no stretch of them comes again.
fn bytes(from: usize, length: u16) -> Vec<u8> {
    (from as u64..)
        .take(length.into())
        .map(|place| {
            let mixed = (place + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8
        })
        .collect()
}

fn copy(outbox: &Outbox, position: u64, places: usize) -> Vec<u8> {
    let mut chunks = vec![Bytes::new(); places];
    let copied = outbox.copy(position, &mut chunks);
    let all = chunks.concat();
    assert_eq!(all.len(), copied);
    all
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
    fn push(&mut self, length: u16) {
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

    fn hear(&mut self, which: usize) {
        if !self.acknowledgements.is_empty() {
            let position = self.acknowledgements.swap_remove(which % self.acknowledgements.len());
            self.outbox.acknowledge(position).expect("an honest receiver");
            self.heard = self.heard.max(position);
        }
    }

    /// The receiver takes nothing more of the old connection, and says where it stands.
    fn tell(&mut self) {
        self.lose();
        self.told = Some(self.stands());
    }

    fn resume(&mut self) {
        let position = self.told.take().expect("a position on its way");
        self.outbox.resume(position).expect("an honest receiver");
        self.heard = self.heard.max(position);
        self.written = usize::try_from(position).unwrap_or(usize::MAX);
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

    /// Lets the flow run to its end; its connection is not cut any more.
    fn run_out(mut self) {
        self.finish();
        let mut rounds = self.pushed.len() + 2;
        while self.ends == 0 && !self.stopped {
            assert!(rounds > 0, "nothing goes on");
            rounds -= 1;
            self.write(1);
            self.deliver(usize::MAX);
        }
        self.acknowledge();
        // The last one comes first, and all others late.
        while let Some(last) = self.acknowledgements.len().checked_sub(1) {
            self.hear(last);
            self.check();
        }
        assert!(self.outbox.is_done());
        assert_eq!(self.outbox.held(), 0);
        if self.stopped {
            assert!(self.pushed.starts_with(&self.taken));
        } else {
            assert_eq!(self.ends, 1);
            assert!(self.taken == self.pushed, "other bytes");
        }
    }
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

    fn cut(&mut self, late: bool) {
        self.resumed = 0;
        for direction in &mut self.directions {
            direction.cut();
            // Otherwise it may still arrive, until the receiver says where it stands.
            if !late {
                direction.lose();
            }
        }
    }

    fn act(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let what: u8 = input.arbitrary()?;
        let there = &mut self.directions[usize::from(what >> 7)];
        match what % 16 {
            0..3 => there.push(input.int_in_range(0..=MAX_CHUNK)?),
            3 => there.finish(),
            4..7 => there.write(input.int_in_range(0..=MAX_PLACES)?),
            7 => there.deliver(usize::MAX),
            8 => there.deliver(input.int_in_range(0..=MAX_DELIVERED)?.into()),
            9 => there.acknowledge(),
            10 | 11 => there.hear(input.arbitrary::<u8>()?.into()),
            12 => there.stopped |= input.ratio(1, 4)?,
            13 => self.cut(input.arbitrary()?),
            _ => self.resume(),
        }
        Ok(())
    }
}

/// Two ends that keep to the protocol.
fn honest(input: &mut Unstructured<'_>) -> Result<()> {
    let directions = [(); 2].map(|()| Direction { live: true, ..Direction::default() });
    let mut flow = Flow { directions, resumed: 4 };
    while !input.is_empty() {
        flow.act(input)?;
        flow.directions.iter().for_each(Direction::check);
    }
    while flow.resumed < 4 {
        flow.resume();
    }
    flow.directions.into_iter().for_each(Direction::run_out);
    Ok(())
}

fn position(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.arbitrary::<u8>()? % 8 {
        0 => input.arbitrary()?,
        1 => GONE - u64::from(input.arbitrary::<u8>()? % 4),
        _ => input.arbitrary::<u16>()?.into(),
    })
}

/// A receiver that says anything.
fn hostile(input: &mut Unstructured<'_>) -> Result<()> {
    let (mut outbox, mut pushed) = (Outbox::default(), Vec::new());
    let mut chunks = 0;
    while !input.is_empty() {
        let (held, done) = (outbox.held(), outbox.is_done());
        let told: std::result::Result<(), OutOfRange> = match input.arbitrary::<u8>()? % 8 {
            0..3 => {
                let chunk = bytes(pushed.len(), input.int_in_range(0..=MAX_CHUNK)?);
                outbox.push(chunk.clone().into());
                chunks += 1;
                if !done && !outbox.is_finished() {
                    pushed.extend(chunk);
                }
                continue;
            }
            3 if input.ratio(1, 4)? => {
                outbox.finish();
                continue;
            }
            3 | 4 => {
                let copied = copy(&outbox, position(input)?, input.int_in_range(0..=MAX_PLACES)?);
                assert!(copied.len() <= held);
                continue;
            }
            5 => outbox.acknowledge(position(input)?),
            _ => outbox.resume(position(input)?),
        };
        assert!(outbox.held() <= held && outbox.is_done() >= done);
        if told.is_err() {
            assert_eq!((outbox.held(), outbox.is_done()), (held, done));
        }
        let kept = copy(&outbox, 0, chunks);
        assert_eq!(kept.len(), outbox.held());
        assert!(pushed.ends_with(&kept), "other bytes");
    }
    Ok(())
}

fn numbers(input: &mut Unstructured<'_>) -> Result<()> {
    let (mut seen, mut model) = (SeenFlows::default(), HashSet::new());
    let mut highest = 0_u64;
    while !input.is_empty() {
        let flow = match input.arbitrary::<u8>()? % 4 {
            0 => highest.saturating_sub(input.arbitrary::<u16>()?.into()),
            1 => highest.saturating_add(input.arbitrary::<u16>()?.into()),
            2 => highest.saturating_add(input.arbitrary::<u8>()?.into()),
            _ => input.arbitrary()?,
        };
        let in_window = flow > highest || highest - flow < SeenFlows::WINDOW;
        let expected = flow != u64::MAX && in_window && !model.contains(&flow);
        assert_eq!(seen.insert(flow), expected, "{flow}");
        if expected {
            model.insert(flow);
            highest = highest.max(flow);
        }
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    // Input that ends within a step ends the program there.
    let _ = match input.arbitrary::<u8>().map(|byte| byte % 4) {
        Ok(0 | 1) => honest(&mut input),
        Ok(2) => hostile(&mut input),
        _ => numbers(&mut input),
    };
});
