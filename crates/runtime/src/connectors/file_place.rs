//! Finding the place in a file again: after a restart, a rotation, a truncation.
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use tidegate_state::checksum;

/// So much of a file's beginning tells it from another with the same inode.
pub(crate) const HEAD: usize = 256;

/// Rotated files that are looked at.
const SIBLINGS: usize = 1000;

/// How far a stream has come, as it is kept in `state_dir`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The configured path.
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    /// Grows with every file and every truncation, so that places are ordered and no two events share one.
    pub(crate) generation: u32,
    /// Everything before it is done.
    pub(crate) offset: u64,
    pub(crate) head_len: usize,
    pub(crate) head_sum: u64,
}

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileId {
    pub(crate) fn of(meta: &fs::Metadata) -> FileId {
        FileId {
            device: meta.dev(),
            inode: meta.ino(),
        }
    }
}

/// A file that was opened, and where in it reading begins.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: File,
    pub(crate) id: FileId,
    pub(crate) offset: u64,
    pub(crate) head: Vec<u8>,
    /// It is a new file, or an old one that starts over.
    pub(crate) fresh: bool,
}

impl Found {
    pub(crate) fn start(path: &Path) -> io::Result<Found> {
        Found::again(&File::open(path)?)
    }

    /// A file that is open already, from its beginning.
    pub(crate) fn again(file: &File) -> io::Result<Found> {
        let file = file.try_clone()?;
        let id = FileId::of(&file.metadata()?);
        let head = read_head(|into, at| file.read_at(into, at), HEAD)?;
        Ok(Found {
            file,
            id,
            offset: 0,
            head,
            fresh: true,
        })
    }

    fn at(mut self, offset: u64) -> Found {
        self.offset = offset;
        self.fresh = false;
        self
    }

    fn is(&self, place: &Place) -> bool {
        // Not the device: its number may be another after a reboot.
        self.id.inode == place.id.inode && self.starts_like(place)
    }

    fn starts_like(&self, place: &Place) -> bool {
        self.head.len() >= place.head_len && checksum(&self.head[..place.head_len]) == place.head_sum
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// The first `most` bytes, or what there is.
pub(crate) fn read_head(
    read_at: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    most: usize,
) -> io::Result<Vec<u8>> {
    let mut head = vec![0; most];
    let mut len = 0;
    while len < most {
        match read_at(&mut head[len..], len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    head.truncate(len);
    Ok(head)
}

/// The files to read, in order: where the last process was, then what came since.
pub(crate) fn locate(path: &Path, place: Option<&Place>, follow: bool) -> io::Result<Vec<Found>> {
    let Some(place) = place else {
        return Ok(vec![Found::start(path)?]);
    };
    let now = match Found::start(path) {
        Ok(found) => Some(found),
        Err(e) if follow && e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    if let Some(now) = now {
        if now.is(place) && now.len()? >= place.offset {
            return Ok(vec![now.at(place.offset)]);
        }
        let mut files = if !follow {
            Vec::new()
        } else if now.id.inode == place.id.inode {
            // Truncated, or another file with a recycled inode: the rest may stand in a copy.
            copy_of(path, place)?.into_iter().collect()
        } else {
            rotated_since(path, place)?
        };
        if files.is_empty() {
            tracing::warn!(
                path = %path.display(), offset = place.offset,
                "the file that was read last is gone or was emptied: the one there now is read from its beginning"
            );
        }
        files.push(now);
        return Ok(files);
    }
    let files = rotated_since(path, place)?;
    if files.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(files)
}

/// A rotated copy of the file that `place` is in, at that place: `copytruncate` leaves one, and what was not read
/// before the truncation is only there.
pub(crate) fn copy_of(path: &Path, place: &Place) -> io::Result<Option<Found>> {
    if place.head_len == 0 {
        return Ok(None);
    }
    for sibling in siblings(path)? {
        let Ok(found) = Found::start(&sibling.path) else {
            continue;
        };
        if found.id.inode != place.id.inode && found.starts_like(place) && found.len()? > place.offset {
            return Ok(Some(found.at(place.offset)));
        }
    }
    Ok(None)
}

/// The file that `place` is in under its new name, at that place, and the rotated files after it.
fn rotated_since(path: &Path, place: &Place) -> io::Result<Vec<Found>> {
    let mut others = Vec::new();
    let mut left = None;
    for sibling in siblings(path)? {
        // It may be removed or compressed at any moment.
        let Ok(found) = Found::start(&sibling.path) else {
            continue;
        };
        if left.is_none() && found.is(place) {
            left = Some((sibling.modified, found.at(place.offset)));
        } else {
            others.push((sibling.modified, found));
        }
    }
    let Some((left_at, left)) = left else {
        return Ok(Vec::new());
    };
    let later = others.into_iter().filter(|(modified, _)| *modified >= left_at);
    Ok(std::iter::once(left)
        .chain(later.map(|(_, found)| found))
        .collect())
}

struct Sibling {
    path: PathBuf,
    modified: (i64, i64),
}

/// Rotated files of `path`, the one that was written to first coming first: its name, then `.` or `-`, then a
/// digit (`orders.log.1`, `orders.log-20261122`). What is compressed cannot be read.
fn siblings(path: &Path) -> io::Result<Vec<Sibling>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let name = name.as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)?.take(SIBLINGS) {
        let entry = entry?;
        let entry_name = entry.file_name();
        let rotated = match entry_name.as_encoded_bytes().strip_prefix(name) {
            Some([b'.' | b'-', digit, ..]) => digit.is_ascii_digit(),
            _ => false,
        };
        let compressed = ["gz", "zst", "xz", "bz2", "lz4"]
            .iter()
            .any(|ending| Path::new(&entry_name).extension().is_some_and(|e| e == *ending));
        if !rotated || compressed {
            continue;
        }
        if let Ok(meta) = entry.metadata()
            && meta.is_file()
        {
            found.push(Sibling {
                path: entry.path(),
                modified: (meta.mtime(), meta.mtime_nsec()),
            });
        }
    }
    // File systems tell times in ticks of some milliseconds. Within one, `.2` is older than `.1`, and dates sort.
    found.sort_by(|a, b| {
        let number = |s: &Sibling| s.path.extension()?.to_str()?.parse::<u16>().ok();
        let by_name = match (number(a), number(b)) {
            (Some(a), Some(b)) => b.cmp(&a),
            _ => a.path.cmp(&b.path),
        };
        a.modified.cmp(&b.modified).then(by_name)
    });
    Ok(found)
}
