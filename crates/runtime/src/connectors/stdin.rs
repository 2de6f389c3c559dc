//! Standard input.
use super::lines::{EVENTS, Lines, Space};
use crate::event::{Batch, Fetched, Settle, SettleError, Source, SourceError, Token};
use crate::hold::Demand;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use tidegate_gate::Name;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Reads lines from standard input. What was read cannot be given back: what a stop leaves unwritten is counted
/// and reported.
///
/// A pipe or terminal is opened anew and read without blocking, so that nothing is read while the stream is
/// paused. Where that is not possible (a regular file, a socket, a pipe of another user) a thread reads, one
/// chunk for each time the stream asks.
#[derive(Debug)]
pub struct StdinSource {
    lines: Lines,
    /// Its offsets are those of this process: the next one's input is another.
    run: u64,
    epoch: u32,
    from: Option<From>,
    ended: bool,
}

#[derive(Debug)]
enum From {
    Ready(pipe::Receiver),
    Thread(Reader),
}

/// The thread and its two channels. It is never joined: a read of a terminal may never end.
#[derive(Debug)]
struct Reader {
    ask: std::sync::mpsc::Sender<Space>,
    got: mpsc::Receiver<(Space, io::Result<usize>)>,
    asked: bool,
}

impl StdinSource {
    /// Standard input, not opened yet; a line may have `max_line` bytes.
    pub fn new(max_line: usize) -> StdinSource {
        StdinSource {
            lines: Lines::new(0, max_line),
            run: fastrand::u64(..),
            epoch: 0,
            from: None,
            ended: false,
        }
    }

    fn open_now(&mut self) -> io::Result<()> {
        if self.from.is_some() {
            return Ok(());
        }
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let kind = file.metadata()?.file_type();
        if kind.is_fifo() || kind.is_char_device() {
            let opened = pipe::OpenOptions::new()
                .unchecked(true)
                .open_receiver("/proc/self/fd/0");
            match opened {
                Ok(receiver) => {
                    self.from = Some(From::Ready(receiver));
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(%error, "standard input cannot be opened anew, so a thread reads it")
                }
            }
        }
        self.from = Some(From::Thread(Reader::spawn(file)?));
        Ok(())
    }
}

impl Reader {
    fn spawn(mut file: File) -> io::Result<Reader> {
        let (ask, asks) = std::sync::mpsc::channel::<Space>();
        let (give, got) = mpsc::channel(1);
        std::thread::Builder::new().name("stdin".into()).spawn(move || {
            for mut space in asks {
                let read = file.read(space.free());
                space.fill(*read.as_ref().unwrap_or(&0));
                if give.blocking_send((space, read)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Reader {
            ask,
            got,
            asked: false,
        })
    }
}

fn gone() -> io::Error {
    io::Error::other("the reading thread has ended")
}

impl Source for StdinSource {
    type Settle = StdinSettle;

    fn describe(&self) -> Name {
        "stdin".into()
    }

    fn settle(&self) -> StdinSettle {
        StdinSettle
    }

    fn takes_back(&self) -> bool {
        false
    }

    fn unreturned(&self) -> u64 {
        u64::from(self.lines.has_tail())
    }

    async fn open(&mut self, epoch: u32) -> Result<(), SourceError> {
        self.epoch = epoch;
        self.open_now()
            .map_err(|e| SourceError::Fatal(e.to_string().into()))
    }

    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        let (epoch, run) = (self.epoch, self.run);
        let token = |offset: u64| Token {
            epoch,
            partition: 0,
            position: (u128::from(run) << 64) | u128::from(offset),
            part: 0,
        };
        let fatal = |e: io::Error| SourceError::Fatal(e.to_string().into());
        loop {
            if self.ended {
                return Ok(Fetched::End);
            }
            let Some(ask) = demand.wanted().await else {
                // What was read has to be written or reported: nobody else has it any more.
                self.lines.take(into, usize::MAX, usize::MAX, token);
                return Ok(Fetched::End);
            };
            let (events, bytes) = (ask.events.min(EVENTS), ask.bytes);
            if self.lines.has_ready() {
                self.lines.take(into, events, bytes, token);
                return Ok(Fetched::Events);
            }
            let read = match &mut self.from {
                None => return Err(fatal(gone())),
                Some(From::Ready(pipe)) => {
                    let mut space = self.lines.space();
                    // Reading takes what is there and nothing else, so it may happen under the ask.
                    let read = pipe.try_read(space.free());
                    space.fill(*read.as_ref().unwrap_or(&0));
                    self.lines.feed(space);
                    drop(ask);
                    if matches!(&read, Err(e) if e.kind() == io::ErrorKind::WouldBlock) {
                        tokio::select! {
                            ready = pipe.readable() => ready.map_err(fatal)?,
                            () = demand.stopping() => return Ok(Fetched::End),
                        }
                        continue;
                    }
                    read
                }
                Some(From::Thread(reader)) => {
                    if !reader.asked {
                        let space = self.lines.space();
                        reader.ask.send(space).map_err(|_| fatal(gone()))?;
                        reader.asked = true;
                    }
                    drop(ask);
                    let (space, read) = tokio::select! {
                        got = reader.got.recv() => got.ok_or_else(|| fatal(gone()))?,
                        () = demand.stopping() => return Ok(Fetched::End),
                    };
                    reader.asked = false;
                    self.lines.feed(space);
                    read
                }
            };
            match read {
                Ok(0) => {
                    self.ended = true;
                    self.lines.finish(into, token);
                    return Ok(Fetched::End);
                }
                Ok(_) => self.lines.take(into, events, bytes, token),
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                    continue;
                }
                Err(e) => return Err(fatal(e)),
            }
            if !into.is_empty() {
                return Ok(Fetched::Events);
            }
        }
    }
}

/// There is nothing to acknowledge to.
#[derive(Clone, Copy, Debug)]
pub struct StdinSettle;

impl Settle for StdinSettle {
    async fn ack(&self, _: &[Token]) -> Result<(), SettleError> {
        Ok(())
    }

    async fn give_back(&self, _: &[Token]) -> Result<(), SettleError> {
        Err(SettleError::Retry(
            "standard input cannot take back what was read".into(),
        ))
    }
}
