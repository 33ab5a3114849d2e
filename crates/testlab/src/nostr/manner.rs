use std::{fmt, str::FromStr};

/// What a relay does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// What it should.
    Good,
    /// What it should, until it has passed on so many events: at the next one it is dead.
    Mortal(usize),
    /// It accepts WebSockets, and says nothing.
    Silent,
    /// It says what is no message of Nostr.
    Garbage,
    /// It sends each subscriber so many events a second that are worth nothing: of strangers, and of the authors asked
    /// for with false signatures. It says that it takes events, and passes none on.
    Flood(usize),
}

impl fmt::Display for Manner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => formatter.write_str("good"),
            Self::Mortal(events) => write!(formatter, "mortal={events}"),
            Self::Silent => formatter.write_str("silent"),
            Self::Garbage => formatter.write_str("garbage"),
            Self::Flood(events) => write!(formatter, "flood={events}"),
        }
    }
}

impl FromStr for Manner {
    type Err = String;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = match text.split_once('=') {
            Some((name, number)) => (name, number.parse().ok()),
            None => (text, None),
        };
        match (name, number, text.contains('=')) {
            ("good", None, false) => Ok(Self::Good),
            ("mortal", Some(events), _) => Ok(Self::Mortal(events)),
            ("silent", None, false) => Ok(Self::Silent),
            ("garbage", None, false) => Ok(Self::Garbage),
            ("flood", Some(events), _) => Ok(Self::Flood(events)),
            _ => Err(format!("'{text}' is none of good, mortal=N, silent, garbage, flood=N")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for manner in
            [Manner::Good, Manner::Mortal(0), Manner::Silent, Manner::Garbage, Manner::Flood(1_000)]
        {
            assert_eq!(manner.to_string().parse(), Ok(manner));
        }
        for text in ["", "kind", "mortal", "mortal=", "flood=x", "good=1", "silent="] {
            assert!(text.parse::<Manner>().is_err(), "{text:?}");
        }
    }
}
