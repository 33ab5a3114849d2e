use std::fmt;

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// A code that this version does not know.
            Unknown(u64),
        }

        impl $name {
            /// The number on the wire.
            pub fn code(self) -> u64 {
                match self {
                    $(Self::$variant => $code,)*
                    Self::Unknown(code) => code,
                }
            }

            /// The meaning of a number from the wire.
            pub fn from_code(code: u64) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    other => Self::Unknown(other),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)*
                    Self::Unknown(code) => write!(f, "code {code}, unknown to this version"),
                }
            }
        }
    };
}

codes! {
    /// Why a connection was closed: the application error code of QUIC's CONNECTION_CLOSE (RFC 9000 section 19.19).
    CloseCode {
        /// The peer gave this connection up, and perhaps not its session: what a QUIC library says when the last handle to
        /// a connection is dropped.
        Dropped = 0, "the peer gave the connection up";
        /// The peer's process is ending.
        ShuttingDown = 1, "the peer is shutting down";
        /// The proof fits no accepted token.
        BadToken = 2, "the token is not accepted";
        /// No valid hello in time.
        AuthenticationTimeout = 3, "authentication took too long";
        /// No protocol version in common.
        VersionMismatch = 4, "the two sides speak different protocol versions";
        /// As many sessions as the server takes.
        Full = 5, "the server has as many sessions as it takes";
        /// The token was taken back.
        Revoked = 6, "the token was revoked";
        /// The peer broke the protocol.
        ProtocolError = 7, "the peer broke the protocol";
        /// The handshake chose a key exchange that is not post-quantum.
        NotPostQuantum = 8, "the key exchange is not post-quantum";
        /// Another connection has taken this one's place, or another client its session's.
        Superseded = 9, "another connection has taken its place";
        /// The server did not prove that it knows the token.
        ServerNotProven = 10, "the server did not prove that it knows the token";
        /// More unauthenticated connections than the server keeps.
        Overloaded = 11, "the server has too many unauthenticated connections";
        /// The peer's certificate is not the one that was told, or this side's is not the one that the peer was told.
        UnknownPeer = 12, "the two sides do not know each other's certificates: what they were told was altered on its way";
        /// The peer has no further use for the session.
        Done = 13, "the peer ended the session";
    }
}

codes! {
    /// Why a stream was reset or stopped: the application error code of QUIC's RESET_STREAM and STOP_SENDING
    /// (RFC 9000 sections 19.4 and 19.5).
    ResetCode {
        /// The forwarded connection was reset, or its socket closed without reading what came.
        ConnectionReset = 0x20, "connection reset";
        /// The flow was refused or never came to be.
        Refused = 0x21, "refused";
        /// The rules no longer allow the flow.
        Revoked = 0x22, "no longer allowed";
        /// The process is ending or the session is.
        Ended = 0x23, "the session ended";
        /// The stream's beginning was not understood.
        Malformed = 0x24, "malformed stream";
        /// The packet was not delivered in time.
        Late = 0x25, "packet too late";
        /// A flow that was to go on is not known here, or is over.
        UnknownFlow = 0x26, "flow unknown";
        /// Another client with the same key has taken the VPN flow's addresses.
        Replaced = 0x27, "another client with the same key has taken its place";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_as_itself() {
        for code in 0..64 {
            assert_eq!(CloseCode::from_code(code).code(), code);
            assert_eq!(ResetCode::from_code(code).code(), code);
        }
        assert_eq!(CloseCode::from_code(2), CloseCode::BadToken);
        assert_eq!(CloseCode::from_code(63), CloseCode::Unknown(63));
    }
}
