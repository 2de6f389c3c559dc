//! What happened, one JSON object a line, in two files of bounded size: the newest entries are in `<name>`, and the
//! ones before in `<name>.old`, which the next turn of the files throws away.
//!
//! An append opens the file, writes all its lines in one call and syncs; nothing is kept open in between. That costs
//! microseconds against the sync, and in return there is no state that could disagree with the disk: somebody may
//! remove or move the files while the process runs.
use crate::dir::make_private;
use crate::{StateError, VERSION};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::marker::PhantomData;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Entries that may be read while they are written, by this process or another.
///
/// One process writes, from one place; any number read. A history is a record for people: whatever is wrong with it
/// costs the entries concerned and is told, and never stands in the way of what it records.
#[derive(Debug)]
pub struct History<T> {
    path: PathBuf,
    old: PathBuf,
    each: u64,
    entries: PhantomData<fn() -> T>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// When; kept to the microsecond.
    pub at: SystemTime,
    /// What.
    pub what: T,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past<T> {
    /// In the order in which they were appended, oldest first.
    pub entries: Vec<Entry<T>>,
    /// Lines that are not whole, or were written by a newer tidegate: each was an entry, or a piece of one.
    pub unreadable: u64,
}

#[derive(Serialize)]
struct Written<'a, T> {
    v: u32,
    /// Microseconds since 1970.
    at: u64,
    what: &'a T,
}

#[derive(Deserialize)]
struct Line<T> {
    v: u32,
    at: u64,
    what: T,
}

impl<T> History<T> {
    /// The history at `path`, which need not exist: [`History::append`] makes it, and its folder, for the owner only.
    /// Both files together never take more than `most` bytes.
    pub fn at(path: impl Into<PathBuf>, most: u64) -> History<T> {
        let path = path.into();
        let mut old = path.clone().into_os_string();
        old.push(".old");
        History {
            path,
            old: old.into(),
            each: most / 2,
            entries: PhantomData,
        }
    }

    /// Where the newest entries are.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl<T: Serialize> History<T> {
    /// Adds entries after those that are there. When this returns, they survive a power cut; when the process is
    /// killed meanwhile, a first part of them does, and at most one line is torn, which no reader takes for an entry.
    ///
    /// # Errors
    /// [`StateError::Io`]: full or read-only disk, missing rights. Then none of the entries counts as written (the
    /// file is cut back where the disk lets it), so that the same ones may be appended again.
    /// [`StateError::Damaged`] for a line that is longer than half of the bound.
    pub fn append(&self, entries: &[Entry<T>]) -> Result<(), StateError> {
        let mut lines = Vec::new();
        for entry in entries {
            let before = lines.len();
            let line = Written {
                v: VERSION,
                at: micros(entry.at),
                what: &entry.what,
            };
            serde_json::to_writer(&mut lines, &line).map_err(|e| StateError::damaged(&self.path, e))?;
            lines.push(b'\n');
            // One byte is for the newline that may have to end a torn line.
            if (lines.len() - before) as u64 >= self.each {
                return Err(StateError::damaged(
                    &self.path,
                    "an entry does not fit into the history",
                ));
            }
            if lines.len() as u64 >= self.each {
                let next = lines.split_off(before);
                self.write(&lines)?;
                lines = next;
            }
        }
        match lines.is_empty() {
            true => Ok(()),
            false => self.write(&lines),
        }
    }

    fn write(&self, lines: &[u8]) -> Result<(), StateError> {
        let failed = |what| move |e| StateError::io(what, &self.path, e);
        let mut file = self.open().map_err(failed("open"))?;
        let mut length = file.metadata().map_err(failed("look at"))?.len();
        if length > 0 && length + lines.len() as u64 >= self.each {
            fs::rename(&self.path, &self.old).map_err(failed("turn over"))?;
            file = self.open().map_err(failed("open"))?;
            length = file.metadata().map_err(failed("look at"))?.len();
        }
        let mut last = *b"\n";
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)
                .map_err(failed("read"))?;
        }
        let mended;
        let lines = if last == *b"\n" {
            lines
        } else {
            // Whoever wrote last was killed, or met a full disk.
            mended = [b"\n", lines].concat();
            &mended
        };
        let written = file.write_all(lines).and_then(|()| file.sync_data());
        written.map_err(|error| {
            // On a disk that refuses this too, the next append ends the torn line.
            let _ = file.set_len(length);
            StateError::io("write", &self.path, error)
        })
    }

    fn open(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent() {
            make_private(folder)?;
        }
        OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            // Reasons and names of people are in it.
            .mode(0o600)
            .open(&self.path)
    }
}

impl<T: DeserializeOwned> History<T> {
    /// Reads the newest `most` of the entries that are not older than `since`; of all of them without it. Takes as
    /// long as both files are large, whatever is asked for, and memory for what is returned. The writer need not
    /// wait, and a line that is being written meanwhile is not there yet.
    ///
    /// # Errors
    /// [`StateError::Io`]. No history yet is none.
    pub fn read(&self, since: Option<SystemTime>, most: usize) -> Result<Past<T>, StateError> {
        let since = since.map_or(0, micros);
        let mut entries = VecDeque::new();
        let mut unreadable = 0;
        for file in self.files()?.into_iter().flatten() {
            let mut file = BufReader::new(file);
            let mut line = Vec::new();
            loop {
                line.clear();
                // No line is longer; whatever is there instead of a history is not taken into memory whole.
                let read = (&mut file).take(self.each.max(1)).read_until(b'\n', &mut line);
                if read.map_err(|e| StateError::io("read", &self.path, e))? == 0 {
                    break;
                }
                if line.pop_if(|last| *last == b'\n').is_none() && (line.len() as u64) < self.each {
                    // The end of the file: being written, or torn, and then the next append makes it a line.
                    break;
                }
                match serde_json::from_slice::<Line<T>>(&line) {
                    Ok(read) if read.v <= VERSION && read.at < since => {}
                    Ok(read) if read.v <= VERSION => {
                        if entries.len() >= most {
                            entries.pop_front();
                        }
                        if most > 0 {
                            entries.push_back(Entry {
                                at: UNIX_EPOCH + Duration::from_micros(read.at),
                                what: read.what,
                            });
                        }
                    }
                    // What an append leaves that had to end a line which another has ended.
                    Err(_) if line.is_empty() => {}
                    _ => unreadable += 1,
                }
            }
        }
        Ok(Past {
            entries: entries.into(),
            unreadable,
        })
    }

    /// Both files, the older first, as they were at one moment: had they been turned over in between, one of them
    /// would be missing, or be there twice.
    fn files(&self) -> Result<[Option<File>; 2], StateError> {
        let failed = |e| StateError::io("open", &self.path, e);
        loop {
            let old = open_if_there(&self.old).map_err(failed)?;
            let new = open_if_there(&self.path).map_err(failed)?;
            let again = open_if_there(&self.old).map_err(failed)?;
            if identity(old.as_ref()).map_err(failed)? == identity(again.as_ref()).map_err(failed)? {
                return Ok([old, new]);
            }
        }
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Of an open file, so that no other can have the same number.
fn identity(file: Option<&File>) -> io::Result<Option<(u64, u64)>> {
    file.map(|file| file.metadata().map(|meta| (meta.dev(), meta.ino())))
        .transpose()
}

fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
