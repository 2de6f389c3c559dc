//! What any bytes from outside are tried on; see `fuzz/README.md`.
use crate::{Entry, History, Ledger, StateError, StateFile};
use serde_json::Value;
use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// A folder of this process's own, in memory where the machine has such a place.
fn folder() -> PathBuf {
    thread_local! {
        static FOLDER: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
    }
    FOLDER.with_borrow_mut(|kept| {
        let made = || {
            let memory = PathBuf::from("/dev/shm");
            let base = if memory.is_dir() {
                memory
            } else {
                std::env::temp_dir()
            };
            let thread = format!("{:?}", std::thread::current().id());
            let number: String = thread.chars().filter(char::is_ascii_digit).collect();
            let folder = base.join(format!("tidegate-state-{}-{number}", std::process::id()));
            fs::create_dir_all(&folder).expect("a folder can be made");
            folder
        };
        kept.get_or_insert_with(made).clone()
    })
}

/// What kind of file (`f`, `l`, anything else a history), then what a damaged disk or another program has left in it: it is read
/// or refused by name, never changed by reading, and what is written after it is read again.
pub fn state(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else {
        return;
    };
    let path = folder().join("x.json");
    let old = folder().join("x.json.old");
    let _ = fs::remove_file(&old);
    fs::write(&path, text).expect("there is room");
    match kind {
        b'f' => {
            let file = StateFile::<Value>::at(&path);
            let found = file.load();
            unchanged(&path, text, &found);
            if let Ok(Some(value)) = found {
                file.save(&value).expect("there is room");
                assert_eq!(file.load().expect("it was just written"), Some(value));
            }
        }
        b'l' => {
            let mut ledger = Ledger::<Value>::at(&path);
            let found = ledger.load();
            unchanged(&path, text, &found);
            if found.is_ok() {
                let next = Value::from(text.len());
                ledger.save(&next).expect("there is room");
                let again = Ledger::at(&path).load();
                assert_eq!(again.expect("it was just written"), Some(next));
            }
        }
        _ => {
            const MOST: u64 = 4096;
            if text.len() as u64 >= MOST / 2 {
                return;
            }
            let history = History::<Value>::at(&path, MOST);
            let before = history.read(None, usize::MAX).expect("files can be read");
            assert_eq!(fs::read(&path).expect("files can be read"), text);
            let entry = Entry {
                at: SystemTime::UNIX_EPOCH + Duration::from_micros(text.len() as u64),
                what: Value::from("next"),
            };
            history
                .append(std::slice::from_ref(&entry))
                .expect("there is room");
            let after = history.read(None, usize::MAX).expect("files can be read");
            assert_eq!(after.entries.last(), Some(&entry));
            // A line that had no end was no entry yet; now that it has one it is, or is unreadable.
            let known = before.entries.len();
            assert_eq!(after.entries[..known], before.entries);
            assert!(after.entries.len() <= known + 2, "{after:?}");
        }
    }
}

fn unchanged(path: &std::path::Path, text: &[u8], found: &Result<Option<Value>, StateError>) {
    assert_eq!(
        fs::read(path).expect("files can be read"),
        text,
        "reading has changed it"
    );
    if let Err(error) = found {
        assert!(error.to_string().contains("x.json"), "{error}");
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn every_file_that_is_kept_is_read_or_refused_by_name() {
        super::replay::replay("state", super::state);
        std::fs::remove_dir_all(super::folder()).expect("it was made");
    }
}
