//! Appending to a file.
use super::encode::Encoded;
use super::stdout::write_all;
use crate::event::{Event, Sink, SinkError};
use bytes::Bytes;
use memchr::memrchr;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::Name;
use tidegate_state::Ledger;

/// Appends each event as a line to a file, and opens it anew when it was moved or removed.
///
/// A write is done when the kernel has the bytes: they survive the end of the process in any form. With `fsync`
/// each write is forced to the disk before its events are acknowledged, so that a power cut loses none.
///
/// A process that is killed in the middle of a write leaves half a line. With a ledger, opening the file cuts that
/// half line off again, provided that it was written since the file was last opened here; otherwise it is not ours
/// to remove, so it is ended by a newline and said out loud.
#[derive(Debug)]
pub struct FileSink {
    path: Arc<PathBuf>,
    fsync: bool,
    open: Option<Open>,
    ledger: Option<Ledger<Opened>>,
    encoded: Encoded,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
}

/// What is remembered of the last opening.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    path: PathBuf,
    inode: u64,
    len: u64,
}

impl FileSink {
    /// Appends to `path`; `ledger` is where it may remember what the file was when it was opened.
    pub fn new(path: impl Into<PathBuf>, fsync: bool, ledger: Option<PathBuf>) -> FileSink {
        FileSink {
            path: Arc::new(path.into()),
            fsync,
            open: None,
            ledger: ledger.map(Ledger::at),
            encoded: Encoded::default(),
        }
    }

    /// Everything that blocks, on a thread that may.
    async fn work(
        &mut self,
        work: impl FnOnce(&mut FileSink) -> Result<(), SinkError> + Send + 'static,
    ) -> Result<(), SinkError> {
        let placeholder = FileSink {
            path: self.path.clone(),
            fsync: self.fsync,
            open: None,
            ledger: None,
            encoded: Encoded::default(),
        };
        let mut this = std::mem::replace(self, placeholder);
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut this);
            (this, result)
        });
        let (this, result) = done
            .await
            .map_err(|e| SinkError::Fatal(format!("the write did not come back: {e}").into()))?;
        *self = this;
        result
    }

    fn open_now(&mut self) -> Result<(), SinkError> {
        let (file, len) =
            open(&self.path, &mut self.ledger).map_err(|why| SinkError::retry(why.to_string()))?;
        let inode = file.metadata().map_err(failed)?.ino();
        if let Some(ledger) = &mut self.ledger {
            let opened = Opened {
                path: self.path.to_path_buf(),
                inode,
                len,
            };
            ledger
                .save(&opened)
                .map_err(|e| SinkError::retry(e.to_string()))?;
        }
        self.open = Some(Open { file, inode });
        Ok(())
    }

    fn write_now(&mut self) -> Result<(), SinkError> {
        // A line that was begun is ended where it was begun.
        if self.encoded.fresh() {
            let there = fs::metadata(&*self.path).map(|m| m.ino()).ok();
            if self.open.as_ref().map(|open| open.inode) != there {
                self.open = None;
            }
        }
        if self.open.is_none() {
            self.open_now()?;
        }
        // Opened just above where it was not.
        let Some(open) = &mut self.open else {
            return Err(SinkError::retry("not open"));
        };
        write_all(&mut open.file, &mut self.encoded).map_err(failed)?;
        if self.fsync {
            open.file.sync_data().map_err(failed)?;
        }
        self.encoded.finish()
    }
}

fn failed(error: io::Error) -> SinkError {
    SinkError::retry(error.to_string())
}

fn open(path: &Path, ledger: &mut Option<Ledger<Opened>>) -> Result<(File, u64), Box<dyn std::error::Error>> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(path)?;
    let meta = file.metadata()?;
    let whole = end_of_last_line(&file, meta.len())?;
    if whole == meta.len() {
        return Ok((file, whole));
    }
    let last = match ledger {
        Some(ledger) => ledger.load()?,
        None => None,
    };
    let ours = last.is_some_and(|l| l.path == path && l.inode == meta.ino() && l.len <= whole);
    if ours {
        tracing::warn!(
            path = %path.display(), bytes = meta.len() - whole,
            "the last process was killed while it wrote a line; that half line is cut off and comes again"
        );
        file.set_len(whole)?;
        return Ok((file, whole));
    }
    tracing::warn!(
        path = %path.display(),
        "the file ends in the middle of a line that may be somebody else's; the line is ended, not removed"
    );
    io::Write::write_all(&mut &file, b"\n")?;
    Ok((file, meta.len() + 1))
}

/// Where the last whole line ends.
fn end_of_last_line(file: &File, len: u64) -> io::Result<u64> {
    let mut block = vec![0; 64 << 10];
    let mut end = len;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        // At most the length of the block, so it fits.
        let part = &mut block[..usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(part, start)?;
        if let Some(at) = memrchr(b'\n', part) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

impl Sink for FileSink {
    fn describe(&self) -> Name {
        format!("file {}", self.path.display()).into()
    }

    /// A local write cannot be taken back, so it counts as in flight until the kernel is done with it.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.work(FileSink::open_now).await
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        self.encoded.load(events);
        self.work(FileSink::write_now).await
    }

    async fn write_lines(&mut self, events: &[Event], lines: &Bytes) -> Result<(), SinkError> {
        self.encoded.load_lines(events, lines);
        self.work(FileSink::write_now).await
    }
}
