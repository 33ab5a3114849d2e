//! Blocks from and to terminals, pipes and files.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs};

use tokio::sync::mpsc;
use tokio::time::sleep;
use tunnel_cli::file::{Stamp, decode};
use tunnel_cli::output::print;
use tunnel_cli::{Failure, Outcome};
use tunnel_ice::signaling::manual::{Block, BlockError, Scanner};

use crate::config::channel::Channel;

/// How often a file is looked at that is not there yet, or may be replaced.
const LOOK: Duration = Duration::from_millis(200);

/// More than any block, in bytes: a wrong file is not read without end.
const MAX_FILE: u64 = 256 * 1024;

/// Bytes read at once from a terminal or a pipe.
const PIECE: usize = 4096;

/// Blocks, or pieces of input, that wait to be taken.
const QUEUE: usize = 16;

/// What came.
pub(super) type Found = Result<Block, BlockError>;

/// Blocks as they come in.
pub(super) enum Inbox {
    /// Read by a thread of its own, since nothing else can be waited for that is not always ready.
    Stream(mpsc::Receiver<Found>),
    /// A file that may come, and may be replaced.
    File { path: PathBuf, seen: Option<Stamp>, scanned: Vec<Found> },
}

impl Inbox {
    /// Begins to read.
    pub(super) fn open(channel: &Channel) -> Self {
        match channel {
            Channel::Standard => Self::stream(|| Ok(Box::new(io::stdin()))),
            Channel::File(path) if is_stream(path) => {
                let path = path.clone();
                // Opening a FIFO waits for its writer.
                Self::stream(move || Ok(Box::new(fs::File::open(path)?)))
            }
            Channel::File(path) => {
                Self::File { path: path.clone(), seen: None, scanned: Vec::new() }
            }
        }
    }

    fn stream(open: impl FnOnce() -> io::Result<Box<dyn Read>> + Send + 'static) -> Self {
        let (found, blocks) = mpsc::channel(QUEUE);
        std::thread::spawn(move || {
            ignore_terminal_stops();
            if let Err(error) = open().and_then(|input| scan(input, &found)) {
                tracing::error!("cannot read: {error}");
            }
        });
        Self::Stream(blocks)
    }

    /// The next block, or what is wrong with it. `None` where nothing more can come.
    pub(super) async fn next(&mut self) -> Option<Found> {
        match self {
            Self::Stream(blocks) => blocks.recv().await,
            Self::File { path, seen, scanned } => loop {
                if let Some(found) = scanned.pop() {
                    return Some(found);
                }
                match look(path, seen) {
                    Ok(Some(text)) => *scanned = whole(&text),
                    Ok(None) => sleep(LOOK).await,
                    Err(error) => {
                        tracing::error!("cannot read {}: {error}", path.display());
                        return None;
                    }
                }
            },
        }
    }
}

/// Whether reading it takes what is read away, so that it cannot be looked at again and again.
fn is_stream(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file())
}

/// Reads to the end and hands on each block as soon as it is whole.
fn scan(mut input: Box<dyn Read>, found: &mpsc::Sender<Found>) -> io::Result<()> {
    let mut scanner = Scanner::default();
    let mut piece = vec![0; PIECE];
    loop {
        let read = match input.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            break;
        }
        // A character that is cut between two reads is none of a block.
        scanner.push(&String::from_utf8_lossy(&piece[..read]));
        for block in &mut scanner {
            if found.blocking_send(block).is_err() {
                return Ok(());
            }
        }
    }
    if let Some(error) = scanner.finish() {
        let _ = found.blocking_send(Err(error));
    }
    Ok(())
}

/// The file's text, if it is there and is not as it was seen last.
fn look(path: &Path, seen: &mut Option<Stamp>) -> io::Result<Option<String>> {
    let now = match Stamp::of(path) {
        Ok(now) => now,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if *seen == Some(now) {
        return Ok(None);
    }
    *seen = Some(now);
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    // What is no text in any known form holds no block.
    let text = decode(&bytes).map(|text| text.to_string());
    Ok(Some(text.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned())))
}

/// The blocks of a text, last first; of a file that is still being written, none.
fn whole(text: &str) -> Vec<Found> {
    let mut scanner = Scanner::default();
    scanner.push(text);
    let mut found: Vec<_> = scanner.collect();
    found.reverse();
    found
}

/// Gives a block out.
pub(super) async fn publish(channel: &Channel, block: String, qr: bool) -> Outcome {
    if qr {
        super::qr::show(&block);
    }
    let Channel::File(path) = channel else { return print(block.trim_end()) };
    let shown = path.display();
    let failed =
        |error: &dyn fmt::Display| Failure::Failed(format!("cannot write {shown}: {error}"));
    let target = path.clone();
    // A FIFO is opened once somebody reads it.
    let written = tokio::task::spawn_blocking(move || write(&target, &block)).await;
    written.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

/// Writes a file that appears whole, so that nobody reads half a block.
fn write(path: &Path, block: &str) -> io::Result<()> {
    let linked = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    if is_stream(path) || linked {
        // Behind a link may be a terminal, a pipe, or what standard output was redirected to.
        return fs::OpenOptions::new().append(true).open(path)?.write_all(block.as_bytes());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = fs::write(&part, block).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

/// Lets this thread read from a terminal that has been given to another program: the reading fails then, where otherwise
/// the whole process would be stopped, and the tunnel with it.
#[cfg(unix)]
fn ignore_terminal_stops() {
    let mut signals = nix::sys::signal::SigSet::empty();
    signals.add(nix::sys::signal::Signal::SIGTTIN);
    // Where that cannot be had, a shell's `bg` stops the program, as it stops others that read.
    let _ = signals.thread_block();
}

#[cfg(not(unix))]
fn ignore_terminal_stops() {}
