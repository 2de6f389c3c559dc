//! Standard output.
use super::encode::Encoded;
use crate::event::{Event, Sink, SinkError};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;
use tidegate_gate::Name;
use tokio::net::unix::pipe;

/// Writes each event as a line to standard output.
///
/// A pipe or terminal is written without blocking, so that a reader that has stopped reading cannot keep the
/// stream `pausing`: the attempt ends, and the next goes on at the very byte. For that it is opened anew, since
/// the mode would otherwise be shared with every process that has the same standard output. Where that is not
/// possible (a regular file, a socket, a pipe of another user), writes block a thread, and an attempt lasts until
/// the reader reads.
#[derive(Debug, Default)]
pub struct StdoutSink {
    out: Option<Out>,
    encoded: Encoded,
}

#[derive(Debug)]
enum Out {
    Ready(pipe::Sender),
    Blocking(File),
}

impl StdoutSink {
    /// Standard output, not opened yet.
    pub fn new() -> StdoutSink {
        StdoutSink::default()
    }
}

fn open() -> io::Result<Out> {
    let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() || kind.is_char_device() {
        let opened = pipe::OpenOptions::new()
            .unchecked(true)
            .open_sender("/proc/self/fd/1");
        match opened {
            Ok(sender) => return Ok(Out::Ready(sender)),
            Err(error) => {
                tracing::debug!(%error, "standard output cannot be opened anew, so writes to it block")
            }
        }
    }
    Ok(Out::Blocking(file))
}

fn failed(error: &io::Error) -> SinkError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return SinkError::Fatal(
            "the reader has closed the pipe; what it did not read is not acknowledged".into(),
        );
    }
    SinkError::retry(error.to_string())
}

/// Writes what is left of `encoded` on a thread that may block, and brings both back.
async fn write_blocking(
    mut file: File,
    mut encoded: Encoded,
) -> Result<(File, Encoded, io::Result<()>), SinkError> {
    let work = move || {
        let result = write_all(&mut file, &mut encoded);
        (file, encoded, result)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| SinkError::Fatal(format!("the write did not come back: {e}").into()))
}

/// Writes what is left, and remembers how far it came.
pub(super) fn write_all(file: &mut File, encoded: &mut Encoded) -> io::Result<()> {
    while !encoded.rest().is_empty() {
        match file.write(encoded.rest()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => encoded.advance(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Sink for StdoutSink {
    fn describe(&self) -> Name {
        "stdout".into()
    }

    fn timeout(&self) -> Option<Duration> {
        match self.out {
            Some(Out::Blocking(_)) => None,
            _ => Some(Duration::from_secs(10)),
        }
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.out = Some(open().map_err(|e| failed(&e))?);
        Ok(())
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        self.encoded.load(events);
        self.write_encoded().await
    }

    async fn write_lines(&mut self, events: &[Event], lines: &Bytes) -> Result<(), SinkError> {
        self.encoded.load_lines(events, lines);
        self.write_encoded().await
    }
}

impl StdoutSink {
    async fn write_encoded(&mut self) -> Result<(), SinkError> {
        match self.out.take() {
            None => self.out = Some(open().map_err(|e| failed(&e))?),
            // Put back before anything is awaited: an attempt that is dropped must not lose it.
            Some(out @ Out::Ready(_)) => self.out = Some(out),
            Some(Out::Blocking(file)) => {
                let (file, encoded, result) = write_blocking(file, std::mem::take(&mut self.encoded)).await?;
                self.out = Some(Out::Blocking(file));
                self.encoded = encoded;
                result.map_err(|e| failed(&e))?;
                return self.encoded.finish();
            }
        }
        let Some(Out::Ready(sender)) = &self.out else {
            return Err(SinkError::retry("opened anew"));
        };
        while !self.encoded.rest().is_empty() {
            match sender.try_write(self.encoded.rest()) {
                Ok(n) => self.encoded.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    sender.writable().await.map_err(|e| failed(&e))?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(&e)),
            }
        }
        self.encoded.finish()
    }
}
