//! Where events go that nobody can take, and why.
use crate::event::{Event, Poison};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tidegate_gate::Name;

/// A stream's dead letters: one JSON line per event, appended and flushed to the disk before the event is
/// acknowledged. The file is never read or shortened here; clearing it is for whoever has looked at it.
#[derive(Clone, Debug, Default)]
pub struct DeadLetters(Option<Arc<PathBuf>>);

/// Why an event could not be written to the dead letter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadLetterError {
    #[error("there is no place for dead letters: set state_dir, or dead_letter for this stream")]
    NoPlace,
    #[error("cannot write the dead letter {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    stream: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    partition: u32,
    position: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    /// What is no UTF-8 stands here instead, so that the line stays JSON and nothing of the event is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

impl DeadLetters {
    /// No place: the first event that would need one stops the stream as `failed`, unacknowledged.
    pub fn none() -> DeadLetters {
        DeadLetters(None)
    }

    /// The file at `path`, made when it is first needed.
    pub fn at(path: impl Into<PathBuf>) -> DeadLetters {
        DeadLetters(Some(Arc::new(path.into())))
    }

    /// Where they go.
    pub fn path(&self) -> Option<&Path> {
        self.0.as_deref().map(PathBuf::as_path)
    }

    pub(crate) async fn write(
        &self,
        stream: &Name,
        event: &Event,
        poison: &Poison,
        at: SystemTime,
    ) -> Result<(), DeadLetterError> {
        let Some(path) = self.0.clone() else {
            return Err(DeadLetterError::NoPlace);
        };
        let text = std::str::from_utf8(&event.payload).ok();
        let line = Line {
            time: humantime::format_rfc3339_millis(at).to_string(),
            stream,
            reason: &poison.why,
            detail: poison.detail.as_deref(),
            partition: event.token.partition,
            position: event.token.position.to_string(),
            payload: text,
            payload_hex: text
                .is_none()
                .then(|| event.payload.iter().map(|b| format!("{b:02x}")).collect()),
        };
        let failed = |source| DeadLetterError::Io {
            path: path.to_path_buf(),
            source,
        };
        let mut json = serde_json::to_vec(&line).map_err(|e| failed(e.into()))?;
        json.push(b'\n');
        let file = path.clone();
        tokio::task::spawn_blocking(move || append(&file, &json))
            .await
            .unwrap_or_else(|e| Err(io::Error::other(e)))
            .map_err(failed)
    }
}

fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(path)?;
    end_torn_line(&mut file)?;
    file.write_all(line)?;
    file.sync_data()
}

/// A process that was killed while it appended leaves a line without an end: the next must not join it.
fn end_torn_line(file: &mut File) -> io::Result<()> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    Ok(())
}
