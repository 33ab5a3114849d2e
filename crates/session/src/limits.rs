//! What is bounded, by how much, and why.

use std::time::Duration;

/// From the connection to a valid hello; OpenSSH's LoginGraceTime is 120 s because people type there, here nobody does.
pub const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that have not authenticated yet. At the limit the oldest makes room, so that silent peers cannot
/// keep others out; each holds some 120 KiB (measured floor of an iroh connection), 30 MiB together.
pub const MAX_UNAUTHENTICATED: usize = 256;

/// How many sessions a server takes where nothing else is said.
pub const DEFAULT_MAX_SESSIONS: usize = 100;

/// Streams that a session's client may have open at once: its control stream and its flows. More than a busy
/// browser opens, and few enough that what a flow may hold is bounded in sum.
pub const MAX_FLOWS: u32 = 4096;

/// One-way streams, each with one large packet, that a peer may have open at once: 64 × 64 KiB bounds what they hold
/// to 4 MiB.
pub const MAX_LARGE_PACKETS: u32 = 64;

/// How long a packet too large for datagrams may take; it is late for any application after that.
pub const LARGE_PACKET_TIMEOUT: Duration = Duration::from_secs(1);

/// From a stream's first byte to its whole first message. A network that is away for as long has cost the connection
/// already: iroh closes a path after 15 s without a packet (30 s through a relay).
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// For resolving and connecting together, so that a silent host is told to the client before 10 s are over.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// Between the attempts to reach several addresses of one name (RFC 8305 section 5, connection attempt delay).
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);

/// Look-ups of names at once, of all sessions; each holds a thread.
pub const MAX_LOOKUPS: usize = 64;

/// Look-ups of names at once, of one session, so that no client keeps the others from theirs.
pub const MAX_SESSION_LOOKUPS: usize = 8;

/// Checks of sources that a session has under way at once.
pub const MAX_CHECKS: usize = 2;

/// Sessions that one client process may have at once: that of the connection that has gone silent, and that of the one
/// dialled beside it, where the first does not go on over it.
pub const MAX_CONNECTIONS: usize = 2;

/// From here on, connections from addresses that have not been shown to be real must show it first (RFC 9000 section
/// 8.1.2): whoever sends from false addresses cannot displace others.
pub const CROWDED: usize = 64;

/// Bytes that a session holds for slow local sockets before it takes no more than each flow's least.
pub const MAX_WAITING: usize = 64 * 1024 * 1024;

/// A target that answers later than this is told to the client as a pause, so that what the application sends does
/// not pile up unread.
pub const SLOW_TARGET: Duration = Duration::from_millis(100);

/// How long a UDP flow that was refused stays refused: each packet would ask again.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// How long the flows of a session that has ended may take to say their last.
pub const LAST_FLOWS: Duration = Duration::from_secs(1);

/// Addresses of one name that are tried.
pub const MAX_ADDRESSES: usize = 8;

/// How long an accepted connection waits for a session, or for a stream where a session has all of [`MAX_FLOWS`].
pub const SESSION_WAIT: Duration = Duration::from_secs(10);

/// From the request for a flow to the server's answer. That takes [`CONNECT_TIMEOUT`] at most; the rest is for the path, or
/// for the session to come back.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// With this many UDP flows a client ends the longest idle one for each new one: a port for each question, as resolvers have
/// it, must not take the streams that TCP needs.
pub const CROWDED_UDP: usize = MAX_FLOWS as usize / 4 * 3;

/// A UDP flow is not ended for another one before it has been without packets for this long.
pub const LEAST_UDP_IDLE: Duration = Duration::from_secs(2);

/// A UDP flow without packets ends after this, where nothing else is said. RFC 4787 section 4.3 asks NATs for 2 minutes
/// at least; a forward costs more than a table entry, and its client opens the next flow at once.
pub const DEFAULT_UDP_IDLE: Duration = Duration::from_secs(60);

/// Packets held for a UDP flow that is not open yet.
pub const MAX_PENDING_PACKETS: usize = 64;

/// Their bytes; one full-size packet fits besides.
pub const MAX_PENDING_BYTES: usize = 16 * 1024;

/// Packets held for flows whose opening has not been read yet, of one session.
pub const MAX_EARLY_PACKETS: usize = 64;

/// Between pings while flows are open.
pub const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Without a packet for this long, while a ping is sent after 1 s, a second connection is dialled beside. A round trip of
/// more than 1.2 s, or a ping that is lost, costs a connection and nothing else.
pub const SILENCE: Duration = Duration::from_millis(2_200);

/// The same while no flow is open, and so nobody waits for anything.
pub const IDLE_SILENCE: Duration = Duration::from_secs(8);

/// From the end of a connection whose session the server has on another one to the answer there; beyond it the session
/// is without a connection.
pub const SUPERSEDED: Duration = Duration::from_secs(1);

/// Between two connections that are dialled because a path was lost, at first and at most; each doubles while paths come
/// and go: what stands still goes on by itself within 13 s, and a handshake every 5 minutes costs nothing.
pub const PATH_REST: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5 * 60));

/// How long a connection that its server may still know has to come back after a second one stands.
pub const REVIVAL: Duration = Duration::from_secs(3);

/// The first wait before dialling again, and the longest; each doubles, with a random half on top, so that none is longer
/// than 30 s.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));

/// How long one attempt to connect and authenticate takes at first, and at most. An attempt's packets are repeated at
/// growing intervals, so that a server that comes back meanwhile is met sooner by a fresh attempt.
pub const ATTEMPT: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(15));

/// How long a session is kept without a connection, where nothing else is said: a laptop carried to another place, a
/// tunnel, a router's restart.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(15 * 60);

/// The longest that can be asked for: a machine that is away for a week has been given up.
pub const MAX_GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Bytes of one flow that are kept to be sent again. A stream's window (2 MiB) may lie with the receiver, as much may be
/// on its way while its acknowledgement comes back, and [`ACKNOWLEDGE_BYTES`] pass before one is sent.
pub const MAX_HELD_FLOW: usize = 5 * 1024 * 1024;

/// The same of all flows of a session; beyond it each flow may have [`LEAST_HELD`].
pub const MAX_HELD_SESSION: usize = 64 * 1024 * 1024;

/// The same of all sessions of a process that have a connection; beyond it each flow may have [`LEAST_HELD`]. And as much
/// again of all that have none; beyond it those end that have been without one for longest.
pub const MAX_HELD_SERVER: usize = 256 * 1024 * 1024;

/// What every flow may keep, so that none stands still because of others.
pub const LEAST_HELD: usize = 64 * 1024;

/// Bytes of a session that are taken before it says so at once: little beside a stream's window, and a message for
/// hundreds of packets.
pub const ACKNOWLEDGE_BYTES: usize = 512 * 1024;

/// How long it otherwise waits to say so: a keystroke is kept for as long.
pub const ACKNOWLEDGE_AFTER: Duration = Duration::from_secs(1);

/// The same where a flow has ended, which its sender keeps until then, or where half of [`LEAST_HELD`] has been taken,
/// for which a sender may wait.
pub const ACKNOWLEDGE_SOON: Duration = Duration::from_millis(50);

/// Between two attempts while a session is kept, whose flows wait. They last as long as the first of [`ATTEMPT`] and twice
/// that in turn, so that a packet leaves within some 3 s of the server's return.
pub const KEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long an attempt is left alone before a change of the network begins it anew: addresses come one after another.
pub const SETTLED: Duration = Duration::from_secs(1);
