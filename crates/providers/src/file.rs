//! A file, or a directory of files, as Kubernetes mounts a Secret or a ConfigMap.
//!
//! Whoever replaces the file does it by a rename or a swapped link, which no read can see half of; or writes into it,
//! which a read can catch between its truncation and its last byte. So what does not look whole is read again after a
//! moment, and what changes while it is read is not used.
use crate::flag::boolean;
use crate::{Access, AccessFuture, Body, Fields, MOST_BYTES, Provider, ReadError, ReadFuture, Secret, Value};
use secrecy::{ExposeSecret, SecretString};
use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tidegate_gate::{Name, Version};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// How long something that does not look whole gets to become whole.
const PATIENCE: Duration = Duration::from_millis(40);

/// How often a file that keeps changing under its reader is looked at again within one read.
const LOOKS: usize = 5;

/// How often a swap under the reader's hands is followed at once.
const ANEW: usize = 20;

/// Kubernetes swaps this link, and with it all files of the directory at once.
const SWAPPED: &str = "..data";

/// A file that holds the flag, or a directory in which each file is a field.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    id: Name,
    /// What the last read came to. What has stood since then needs no patience.
    last: Option<Look>,
    /// A read that was dropped goes on in its thread. It is waited for rather than joined by another, so that a dead
    /// network mount costs one thread and not one for each poll.
    looking: Option<JoinHandle<io::Result<Found>>>,
}

/// Two looks are equal if nothing has changed between them, as far as the file system tells.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    Found(Mark),
    Failed(ErrorKind),
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Mark {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
    /// The same of what is in a directory.
    inside: u64,
}

#[derive(Debug)]
struct Found {
    body: Body,
    mark: Mark,
    /// Whether it could be what somebody meant to write.
    whole: bool,
}

impl File {
    /// Nothing is read before the first read, and the file may appear later.
    pub fn new(path: impl Into<PathBuf>) -> File {
        let path = path.into();
        File {
            id: format!("file {}", path.display()).into(),
            path,
            last: None,
            looking: None,
        }
    }

    async fn read_settled(&mut self) -> Result<Secret, ReadError> {
        let mut before = self.last.clone();
        for _ in 0..LOOKS {
            let outcome = self.look().await;
            let (whole, look) = match &outcome {
                Ok(found) => (found.whole, Look::Found(found.mark.clone())),
                Err(error) => (false, Look::Failed(error.kind())),
            };
            if whole || before.as_ref() == Some(&look) {
                self.last = Some(look);
                return match outcome {
                    Ok(found) => Ok(found.secret()),
                    Err(error) => Err(self.failed(&error)),
                };
            }
            before = Some(look);
            tokio::time::sleep(PATIENCE).await;
        }
        Err(self.unavailable("it keeps changing while it is read"))
    }

    async fn look(&mut self) -> io::Result<Found> {
        let looking = self.looking.get_or_insert_with(|| {
            let path = self.path.clone();
            tokio::task::spawn_blocking(move || look(&path))
        });
        let outcome = looking.await;
        self.looking = None;
        // Its thread panicked, or the runtime is going away.
        outcome.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn failed(&self, error: &io::Error) -> ReadError {
        let says = |what: &str| Name::from(format!("{}: {what}", self.id));
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                ReadError::Missing(says("there is no such file"))
            }
            ErrorKind::PermissionDenied => {
                ReadError::Denied(says("this process may not read it: check its mode and owner"))
            }
            ErrorKind::FileTooLarge => ReadError::Malformed(says(&format!(
                "expected a flag, which is far shorter than {MOST_BYTES} bytes"
            ))),
            ErrorKind::InvalidData => ReadError::Malformed(says("expected text in UTF-8")),
            _ => self.unavailable(&format!("it cannot be read: {error}")),
        }
    }

    fn unavailable(&self, what: &str) -> ReadError {
        ReadError::unavailable(format!("{}: {what}", self.id))
    }
}

impl Provider for File {
    fn id(&self) -> Name {
        self.id.clone()
    }

    fn kind(&self) -> &'static str {
        "file"
    }

    fn read(&mut self) -> ReadFuture<'_> {
        Box::pin(self.read_settled())
    }

    fn access(&mut self) -> AccessFuture<'_> {
        let (path, id) = (self.path.clone(), self.id.clone());
        Box::pin(async move {
            let writes = tokio::task::spawn_blocking(move || may_write(&path)).await;
            match writes {
                Ok(Ok(false)) => Access::ReadOnly,
                Ok(Ok(true)) => Access::Writes(
                    format!(
                        "{id}: this process may write it; give it to another user, or mount it read-only"
                    )
                    .into(),
                ),
                Ok(Err(error)) => Access::Unknown(format!("{id}: {error}").into()),
                // Its thread panicked, or the runtime is going away.
                Err(error) => Access::Unknown(format!("{id}: {error}").into()),
            }
        })
    }
}

/// Whether this process could flip what it reads. Nothing is opened for writing: that would show in the file's times.
fn may_write(path: &Path) -> io::Result<bool> {
    use rustix::fs::{Access as Mode, access};
    use rustix::io::Errno;
    match access(path, Mode::WRITE_OK) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS | Errno::ROFS | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Found {
    fn secret(self) -> Secret {
        Secret {
            body: self.body,
            version: Version {
                id: self.mark.id().into(),
                written: self.mark.modified,
            },
            // A file that is restored from a backup is not stale, it is what somebody wants.
            serial: None,
            warnings: Vec::new(),
        }
    }
}

impl Mark {
    fn of(meta: &Metadata) -> Mark {
        Mark {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: meta.modified().ok(),
            inside: 0,
        }
    }

    fn id(&self) -> String {
        let modified = self
            .modified
            .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok())
            .unwrap_or_default();
        let id = format!("{:x}-{:x}-{:x}", self.bytes, self.inode, modified.as_nanos());
        match self.inside {
            0 => id,
            inside => format!("{id}-{inside:x}"),
        }
    }
}

/// A swap of the volume removes the directory that was just resolved. Then the name is there and what it leads to is
/// not, until it is looked at anew; a link that leads nowhere for good is missing after all.
fn look(path: &Path) -> io::Result<Found> {
    for _ in 0..ANEW {
        match look_once(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && path.symlink_metadata().is_ok() => {}
            outcome => return outcome,
        }
    }
    look_once(path)
}

fn look_once(path: &Path) -> io::Result<Found> {
    let file = std::fs::File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return look_into(path, &meta);
    }
    let (text, mark, unmoved) = read_whole(file)?;
    Ok(Found {
        whole: unmoved && looks_whole(text.expose_secret()),
        body: Body::Text(text),
        mark,
    })
}

/// A field for each file. Hidden entries are Kubernetes's own.
fn look_into(path: &Path, meta: &Metadata) -> io::Result<Found> {
    // Resolved once, so that all files come from one state of the volume.
    let swapped = path.join(SWAPPED);
    let (inside, mut mark) = match std::fs::canonicalize(&swapped) {
        Ok(target) => {
            let mark = Mark::of(&std::fs::metadata(&target)?);
            (target, mark)
        }
        Err(_) => (path.to_owned(), Mark::of(meta)),
    };
    let mut hasher = DefaultHasher::new();
    let mut fields: Vec<(String, Value)> = Vec::new();
    let mut whole = true;
    let mut names: Vec<_> = std::fs::read_dir(&inside)?.collect::<Result<_, _>>()?;
    names.sort_by_key(std::fs::DirEntry::file_name);
    let mut left = MOST_BYTES as u64;
    for entry in names {
        // No flag has a name that is not text.
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        let file_path = entry.path();
        if name.starts_with('.') || !std::fs::metadata(&file_path)?.is_file() {
            continue;
        }
        let (text, file_mark, unmoved) = read_whole(std::fs::File::open(&file_path)?)?;
        left = left.checked_sub(file_mark.bytes).ok_or(ErrorKind::FileTooLarge)?;
        whole &= unmoved && !text.expose_secret().is_empty();
        mark.modified = mark.modified.max(file_mark.modified);
        (&name, &file_mark).hash(&mut hasher);
        fields.push((name, Value::Text(text)));
    }
    mark.inside = hasher.finish();
    if inside != path && !std::fs::canonicalize(&swapped).is_ok_and(|now| now == inside) {
        // Its files may have been going away while they were listed.
        return Err(ErrorKind::NotFound.into());
    }
    Ok(Found {
        body: Body::Fields(Fields::from_iter(fields)),
        mark,
        whole,
    })
}

/// The file's text, what it looked like, and whether it looked the same afterwards.
fn read_whole(file: std::fs::File) -> io::Result<(SecretString, Mark, bool)> {
    let before = Mark::of(&file.metadata()?);
    // A pipe or a device could deliver for ever.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    (&file).take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MOST_BYTES {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| ErrorKind::InvalidData)?;
    let after = Mark::of(&file.metadata()?);
    let unmoved = before == after && after.bytes == bytes.len() as u64;
    Ok((text.into(), after, unmoved))
}

fn looks_whole(text: &str) -> bool {
    boolean(text).is_some() || serde_json::from_str::<Fields>(text).is_ok()
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
