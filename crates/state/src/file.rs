//! A file that is always either the old one or the new one, whatever kills the process or the machine.
use crate::{StateError, VERSION};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// One value in one JSON file, replaced as a whole.
#[derive(Debug)]
pub struct StateFile<T> {
    path: PathBuf,
    value: PhantomData<fn() -> T>,
}

#[derive(Serialize)]
struct Written<'a, T> {
    version: u32,
    data: &'a T,
}

/// Read before the data: data of a layout that is not known need not fit.
#[derive(Deserialize)]
struct Layout {
    version: u32,
}

#[derive(Deserialize)]
struct Read<T> {
    data: T,
}

impl<T> StateFile<T> {
    /// The file at `path`, which need not exist; its folder must.
    pub fn at(path: impl Into<PathBuf>) -> StateFile<T> {
        StateFile {
            path: path.into(),
            value: PhantomData,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl<T: Serialize> StateFile<T> {
    /// Replaces what the file holds: when this returns, the new value survives a power cut; when it fails or
    /// never returns, the old one is still whole.
    ///
    /// # Errors
    /// [`StateError::Io`]: full or read-only disk, missing rights.
    pub fn save(&self, value: &T) -> Result<(), StateError> {
        let written = Written {
            version: VERSION,
            data: value,
        };
        let mut json = serde_json::to_vec(&written).map_err(|e| StateError::damaged(&self.path, e))?;
        json.push(b'\n');
        let temporary = self.path.with_extension("json.new");
        let result = self.replace(&temporary, &json);
        if result.is_err() {
            // A leftover does no harm, it is overwritten next time; on a full disk it takes room.
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    fn replace(&self, temporary: &Path, json: &[u8]) -> Result<(), StateError> {
        let failed = |what| move |e| StateError::io(what, &self.path, e);
        let mut file = File::create(temporary).map_err(failed("create the successor of"))?;
        file.write_all(json).map_err(failed("write the successor of"))?;
        file.sync_all().map_err(failed("flush the successor of"))?;
        fs::rename(temporary, &self.path).map_err(failed("replace"))?;
        // Without this the rename itself can be lost in a power cut.
        match self.path.parent() {
            Some(folder) => File::open(folder)
                .and_then(|f| f.sync_all())
                .map_err(failed("flush the folder of")),
            None => Ok(()),
        }
    }
}

impl<T: DeserializeOwned> StateFile<T> {
    /// What was saved last; nothing if the file is not there.
    ///
    /// # Errors
    /// [`StateError::Damaged`], [`StateError::Newer`] or [`StateError::Io`]; the file is left as it is.
    pub fn load(&self) -> Result<Option<T>, StateError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StateError::io("read", &self.path, e)),
        };
        let layout: Layout = serde_json::from_slice(&text).map_err(|e| StateError::damaged(&self.path, e))?;
        if layout.version > VERSION {
            return Err(StateError::Newer {
                path: self.path.clone(),
                found: layout.version,
                known: VERSION,
            });
        }
        let read: Read<T> = serde_json::from_slice(&text).map_err(|e| StateError::damaged(&self.path, e))?;
        Ok(Some(read.data))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;
    use std::collections::BTreeMap;

    type Map = BTreeMap<String, u64>;
    fn map(n: u64) -> Map {
        BTreeMap::from([("a".to_owned(), n)])
    }

    #[test]
    fn what_was_saved_is_loaded_and_what_was_never_saved_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::<Map>::at(dir.path().join("x.json"));
        assert_eq!(file.load().unwrap(), None);
        file.save(&map(1)).unwrap();
        file.save(&map(2)).unwrap();
        assert_eq!(file.load().unwrap(), Some(map(2)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no leftovers");
    }

    #[test]
    fn a_process_killed_while_writing_leaves_the_old_value() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::<Map>::at(dir.path().join("x.json"));
        file.save(&map(1)).unwrap();
        fs::write(dir.path().join("x.json.new"), "{\"version\":1,\"da").unwrap();
        assert_eq!(file.load().unwrap(), Some(map(1)));
        file.save(&map(2)).unwrap();
        assert_eq!(file.load().unwrap(), Some(map(2)));
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it_and_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        let file = StateFile::<Map>::at(&path);
        for text in [
            "",
            "nonsense",
            "{\"version\":1}",
            "{\"data\":{}}",
            "{\"version\":1,\"data\":[]}",
            "{\"version\":1,",
        ] {
            fs::write(&path, text).unwrap();
            let error = file.load().unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{text}: {error}");
            assert!(error.to_string().contains("x.json"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_file_of_a_newer_layout_is_not_guessed_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        fs::write(&path, "{\"version\":2,\"data\":\"other\"}").unwrap();
        let error = StateFile::<Map>::at(&path).load().unwrap_err();
        assert!(matches!(error, StateError::Newer { found: 2, .. }), "{error}");
    }

    #[test]
    fn a_folder_that_vanished_is_an_error_and_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::<Map>::at(dir.path().join("gone/x.json"));
        assert_eq!(file.load().unwrap(), None);
        assert!(matches!(file.save(&map(1)), Err(StateError::Io { .. })));
    }

    proptest::proptest! {
        #[test]
        fn no_content_makes_loading_panic(bytes: Vec<u8>) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.json");
            fs::write(&path, &bytes).unwrap();
            let _ = StateFile::<Map>::at(&path).load();
        }
    }
}
