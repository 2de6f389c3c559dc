//! A record that is written with every batch: two slots in one file, overwritten in turns.
//!
//! A rename per batch costs some 30 µs and a directory entry; a write in place costs one. A process that is
//! killed never leaves half a slot (the write is one call within a page); a power cut may, and then the other
//! slot is whole.
use crate::{StateError, VERSION, checksum};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// One slot, padded with spaces and ended by a newline. Both fit one page.
const SLOT: usize = 2048;

/// One small value that is written often.
#[derive(Debug)]
pub struct Ledger<T> {
    path: PathBuf,
    file: Option<File>,
    turn: u64,
    value: PhantomData<fn() -> T>,
}

/// The checksum covers the text of `data` as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Slot {
    version: u32,
    turn: u64,
    sum: u64,
    data: String,
}

impl<T> Ledger<T> {
    /// The ledger at `path`, which need not exist; its folder must.
    pub fn at(path: impl Into<PathBuf>) -> Ledger<T> {
        Ledger {
            path: path.into(),
            file: None,
            turn: 0,
            value: PhantomData,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open(&mut self) -> Result<&mut File, StateError> {
        if self.file.is_none() {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&self.path)
                .map_err(|e| StateError::io("open", &self.path, e))?;
            self.file = Some(file);
        }
        // Assigned above where it was missing.
        Ok(self.file.as_mut().expect("the file was just opened"))
    }

    /// Forces what was saved to the disk, so that a power cut cannot take it back.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn sync(&mut self) -> Result<(), StateError> {
        match &self.file {
            Some(file) => file
                .sync_data()
                .map_err(|e| StateError::io("flush", &self.path, e)),
            None => Ok(()),
        }
    }
}

impl<T: Serialize> Ledger<T> {
    /// Writes the value over the older of the two slots. When this returns, the value survives the end of the
    /// process in any form, kill -9 included; a power cut only after [`Ledger::sync`]. Load before the first save.
    ///
    /// # Errors
    /// [`StateError::Io`], and [`StateError::Damaged`] for a value of more than about 1.9 KB.
    pub fn save(&mut self, value: &T) -> Result<(), StateError> {
        let data = serde_json::to_string(value).map_err(|e| StateError::damaged(&self.path, e))?;
        let turn = self.turn + 1;
        let slot = Slot {
            version: VERSION,
            turn,
            sum: checksum(data.as_bytes()) ^ turn,
            data,
        };
        let mut text = serde_json::to_vec(&slot).map_err(|e| StateError::damaged(&self.path, e))?;
        if text.len() >= SLOT {
            return Err(StateError::damaged(&self.path, "the value does not fit its slot"));
        }
        text.resize(SLOT - 1, b' ');
        text.push(b'\n');
        let at = (turn % 2) * SLOT as u64;
        let file = self.open()?;
        let written = file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&text));
        written.map_err(|e| StateError::io("write", &self.path, e))?;
        self.turn = turn;
        Ok(())
    }
}

impl<T: DeserializeOwned> Ledger<T> {
    /// What was saved last; nothing if nothing ever was.
    ///
    /// # Errors
    /// [`StateError::Damaged`] if the file has content and neither slot is whole, [`StateError::Newer`],
    /// [`StateError::Io`].
    pub fn load(&mut self) -> Result<Option<T>, StateError> {
        if !self.path.exists() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let file = self.open()?;
        let read = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.take(2 * SLOT as u64).read_to_end(&mut bytes));
        read.map_err(|e| StateError::io("read", &self.path, e))?;
        let slots = bytes.chunks(SLOT).filter_map(whole);
        let Some(newest) = slots.max_by_key(|slot| slot.turn) else {
            // Zeroes are the second slot's place before it was first written, or a first write that was cut.
            return match bytes.iter().all(|b| *b == 0) {
                true => Ok(None),
                false => Err(StateError::damaged(
                    &self.path,
                    "neither of its two records is whole",
                )),
            };
        };
        if newest.version > VERSION {
            return Err(StateError::Newer {
                path: self.path.clone(),
                found: newest.version,
                known: VERSION,
            });
        }
        let value = serde_json::from_str(&newest.data).map_err(|e| StateError::damaged(&self.path, e))?;
        self.turn = newest.turn;
        Ok(Some(value))
    }
}

fn whole(bytes: &[u8]) -> Option<Slot> {
    let slot: Slot = serde_json::from_slice(bytes).ok()?;
    (slot.sum == checksum(slot.data.as_bytes()) ^ slot.turn).then_some(slot)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;
    use std::fs;

    fn ledger(dir: &tempfile::TempDir) -> Ledger<u64> {
        Ledger::at(dir.path().join("x.ledger"))
    }

    #[test]
    fn the_last_value_is_loaded_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..10 {
            let mut l = ledger(&dir);
            assert_eq!(l.load().unwrap(), (n > 0).then(|| n * 3 - 1));
            for k in 0..3 {
                l.save(&(n * 3 + k)).unwrap();
            }
            l.sync().unwrap();
        }
        assert_eq!(
            fs::metadata(dir.path().join("x.ledger")).unwrap().len(),
            2 * SLOT as u64
        );
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ledger");
        let mut l = ledger(&dir);
        l.save(&1).unwrap();
        l.save(&2).unwrap();
        l.save(&3).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in [1, 10, 60, SLOT - 2] {
            // Turn 3 stands in the second slot: what a power cut left of it is its beginning over older bytes.
            let mut torn = whole.clone();
            torn[SLOT + cut..].fill(0);
            fs::write(&path, &torn).unwrap();
            let loaded = ledger(&dir).load().unwrap();
            assert_eq!(loaded, Some(2), "cut at {cut}");
        }
    }

    #[test]
    fn garbage_is_an_error_and_an_empty_file_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ledger");
        fs::write(&path, "").unwrap();
        assert_eq!(ledger(&dir).load().unwrap(), None);
        fs::write(&path, "garbage").unwrap();
        assert!(matches!(ledger(&dir).load(), Err(StateError::Damaged { .. })));
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused_and_the_old_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut l = Ledger::<String>::at(dir.path().join("x"));
        l.save(&"old".into()).unwrap();
        assert!(l.save(&"x".repeat(SLOT)).is_err());
        assert_eq!(
            Ledger::<String>::at(dir.path().join("x")).load().unwrap(),
            Some("old".into())
        );
    }

    proptest::proptest! {
        #[test]
        fn no_content_makes_loading_panic(bytes: Vec<u8>) {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("x.ledger"), &bytes).unwrap();
            let _ = ledger(&dir).load();
        }
    }
}
