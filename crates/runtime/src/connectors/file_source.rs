//! Reading a file line by line, and going on where it was left.
use super::file_place::{FileId, Found, HEAD, Place, copy_of, locate, read_head};
use super::lines::{EVENTS, Lines, Space};
use crate::event::{Batch, Fetched, Settle, SettleError, Source, SourceError, Token};
use crate::hold::Demand;
use notify::{RecursiveMode, Watcher};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tidegate_gate::Name;
use tidegate_state::{Ledger, checksum};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The backstops where the file system tells of changes: a read at the end of the file costs little, a look at what
/// has its name costs a thread.
const READ: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(5);
/// Where it does not: network file systems, links, no watches left.
const LOOK_OFTEN: Duration = Duration::from_millis(250);
/// Files that were rotated in while nobody read. Beyond that the newest has to wait for a name.
const WAITING_FILES: usize = 64;

/// Reads a file from its beginning, each line an event without its newline.
///
/// With a ledger it goes on where the last process was, told by path, inode and the file's first bytes; without,
/// only within the process. Following, it goes on at the end: appended lines come as they are completed (a last
/// line without a newline waits for it), a file that was renamed is read to its end before the one that took its
/// name (also several of them, after a long pause), one that was truncated starts over, and what `copytruncate`
/// moved away unread is read from the copy. Not following, a last line without newline counts, and the end of the
/// file is the end of the stream.
///
/// The place is saved with each acknowledgement, once the sink has the batch: kill -9 repeats at most the batch
/// that was in flight.
#[derive(Debug)]
pub struct FileSource {
    path: Arc<PathBuf>,
    follow: bool,
    max_line: usize,
    shared: Arc<Shared>,
    epoch: u32,
    generation: u32,
    tail: Option<Tail>,
    next: VecDeque<Found>,
    changes: Option<Changes>,
    /// When it was last looked at what has the file's name.
    looked: Option<Instant>,
    /// Whether the file system can say what it has in memory.
    at_hand: bool,
}

/// The file that is being read.
#[derive(Debug)]
struct Tail {
    file: Arc<File>,
    id: FileId,
    generation: u32,
    head: Vec<u8>,
    lines: Lines,
    /// Time has passed since the last read: it may not be the same file any more.
    waited: bool,
}

#[derive(Debug)]
struct Shared {
    path: Arc<PathBuf>,
    inner: Mutex<Inner>,
    ledger: Option<Mutex<Ledger<Place>>>,
}

#[derive(Debug, Default)]
struct Inner {
    epoch: u32,
    acked: Option<Place>,
    /// The files of which events are about, oldest first.
    files: VecDeque<(u32, FileId, Vec<u8>)>,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No critical section here can panic half way.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn knows(&self, generation: u32, id: FileId, head: &[u8]) {
        let mut inner = self.inner();
        match inner.files.iter_mut().find(|f| f.0 == generation) {
            Some(file) => file.2 = head.to_vec(),
            None => inner.files.push_back((generation, id, head.to_vec())),
        }
    }

    fn load(&self) -> Result<Option<Place>, SourceError> {
        if let Some(place) = self.inner().acked.clone() {
            return Ok(Some(place));
        }
        let Some(ledger) = &self.ledger else {
            return Ok(None);
        };
        let mut ledger = ledger.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let place = ledger
            .load()
            .map_err(|e| SourceError::Broke(e.to_string().into()))?;
        // A stream that reads another file now begins at that file's beginning.
        Ok(place.filter(|p| p.path == *self.path))
    }
}

enum Read {
    Data,
    End,
    /// Shorter than what was read of it, or with another beginning.
    Truncated,
}

impl FileSource {
    /// Reads `path`; a line may have `max_line` bytes; `ledger` is where it may keep its place.
    pub fn new(
        path: impl Into<PathBuf>,
        follow: bool,
        max_line: usize,
        ledger: Option<PathBuf>,
    ) -> FileSource {
        let path = Arc::new(path.into());
        FileSource {
            shared: Arc::new(Shared {
                path: path.clone(),
                inner: Mutex::default(),
                ledger: ledger.map(|at| Mutex::new(Ledger::at(at))),
            }),
            path,
            follow,
            max_line,
            epoch: 0,
            generation: 0,
            tail: None,
            next: VecDeque::new(),
            changes: None,
            looked: None,
            at_hand: true,
        }
    }

    /// Goes on to the next file that waits.
    fn advance(&mut self) -> bool {
        let Some(found) = self.next.pop_front() else {
            return false;
        };
        if found.fresh {
            self.generation = self.generation.saturating_add(1);
        }
        self.shared.knows(self.generation, found.id, &found.head);
        self.tail = Some(Tail {
            file: Arc::new(found.file),
            id: found.id,
            generation: self.generation,
            head: found.head,
            lines: Lines::new(found.offset, self.max_line),
            waited: false,
        });
        true
    }

    /// Opens what has taken the file's name since the last look, so that a rotation is not missed however long
    /// the stream is paused. Only opens: nothing is read.
    async fn look(&mut self) -> io::Result<()> {
        self.looked = Some(Instant::now());
        let last = self
            .next
            .back()
            .map(|f| f.id)
            .or(self.tail.as_ref().map(|t| t.id));
        if self.next.len() >= WAITING_FILES {
            return Ok(());
        }
        let path = self.path.clone();
        let found = blocking(move || match fs::metadata(&*path) {
            Ok(meta) if Some(FileId::of(&meta)) != last => Found::start(&path).map(Some),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        })
        .await?;
        self.next.extend(found.filter(|f| Some(f.id) != last));
        Ok(())
    }

    /// What was read to its end has a successor that was written to, so it will grow no more.
    async fn is_over(&self) -> io::Result<bool> {
        let Some(next) = self.next.front() else {
            return Ok(false);
        };
        if self.next.len() > 1 || next.offset > 0 {
            return Ok(true);
        }
        Ok(next.file.metadata()?.len() > 0)
    }

    /// The file was emptied under us: what is left of it may stand in a copy, then it starts over.
    async fn start_over(&mut self) -> io::Result<()> {
        let Some(tail) = self.tail.take() else {
            return Ok(());
        };
        let place = Place {
            path: self.path.to_path_buf(),
            id: tail.id,
            generation: tail.generation,
            offset: tail.lines.next_line(),
            head_len: tail.head.len(),
            head_sum: checksum(&tail.head),
        };
        let (path, file) = (self.path.clone(), tail.file.clone());
        let (copy, now) = blocking(move || {
            let copy = copy_of(&path, &place)?;
            Ok((copy, Found::again(&file)?))
        })
        .await?;
        tracing::warn!(
            path = %self.path.display(), offset = tail.lines.next_line(), copy = copy.is_some(),
            "the file was truncated; it is read from its beginning{}",
            if copy.is_some() { ", after the rest of its copy" } else { "" }
        );
        self.next.push_front(now);
        if let Some(mut copy) = copy {
            copy.fresh = true;
            self.next.push_front(copy);
        }
        self.advance();
        Ok(())
    }

    fn broke(&self, error: &io::Error) -> SourceError {
        SourceError::Broke(error.to_string().into())
    }
}

/// How a file is read at an offset.
type ReadAt = fn(&File, &mut [u8], u64) -> io::Result<usize>;

/// Waits for the disk, so it needs a thread that may.
fn waiting(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    file.read_at(into, at)
}

/// Brings what is in memory already, and fails where that would mean to wait: what was just appended is there, and
/// handing a read to another thread and back costs more than the read.
fn at_hand(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let into = &mut [io::IoSliceMut::new(into)];
    Ok(rustix::io::preadv2(
        file,
        into,
        at,
        rustix::io::ReadWriteFlags::NOWAIT,
    )?)
}

/// One read of a chunk.
fn read(tail: &Peek, space: &mut Space, at: u64, read_at: ReadAt) -> io::Result<(Read, Vec<u8>)> {
    let mut head = Vec::new();
    if tail.waited || tail.head.len() < HEAD {
        head = read_head(|into, at| read_at(&tail.file, into, at), HEAD)?;
        if !head.starts_with(&tail.head) {
            return Ok((Read::Truncated, head));
        }
    }
    let read = loop {
        match read_at(&tail.file, space.free(), at) {
            Ok(0) if tail.file.metadata()?.len() < at => break Read::Truncated,
            Ok(0) => break Read::End,
            Ok(n) => {
                space.fill(n);
                break Read::Data;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    };
    Ok((read, head))
}

/// What a read needs of a [`Tail`], on another thread.
struct Peek {
    file: Arc<File>,
    head: Vec<u8>,
    waited: bool,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
}

impl Source for FileSource {
    type Settle = FileSettle;

    fn describe(&self) -> Name {
        format!("file {}", self.path.display()).into()
    }

    fn settle(&self) -> FileSettle {
        FileSettle(self.shared.clone())
    }

    async fn open(&mut self, epoch: u32) -> Result<(), SourceError> {
        let (path, shared, follow) = (self.path.clone(), self.shared.clone(), self.follow);
        let work = move || {
            let place = shared.load()?;
            let files = locate(&path, place.as_ref(), follow)
                .map_err(|e| SourceError::Broke(e.to_string().into()))?;
            Ok((place, files))
        };
        let (place, files) = tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(SourceError::Broke(e.to_string().into())))?;
        self.epoch = epoch;
        {
            let mut inner = self.shared.inner();
            inner.epoch = epoch;
            inner.files.clear();
            inner.acked.clone_from(&place);
        }
        self.tail = None;
        self.next = files.into();
        self.generation = match (&place, self.next.front()) {
            // The first file of a place that is gone starts over, so it must not share its numbers.
            (Some(place), Some(first)) if first.fresh => place.generation.saturating_add(1),
            (Some(place), _) => place.generation,
            (None, _) => 0,
        };
        if let Some(first) = self.next.front_mut() {
            first.fresh = false;
        }
        self.advance();
        if self.follow && self.changes.is_none() {
            self.changes = Some(Changes::of(&self.path));
        }
        Ok(())
    }

    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        loop {
            let ask = match &self.changes {
                None => demand.wanted().await,
                Some(changes) => tokio::select! {
                    biased;
                    ask = demand.wanted() => ask,
                    () = changes.moved() => {
                        self.look().await.map_err(|e| self.broke(&e))?;
                        continue;
                    }
                },
            };
            let Some(ask) = ask else {
                return Ok(Fetched::End);
            };
            let epoch = self.epoch;
            let Some(tail) = &mut self.tail else {
                return Err(SourceError::Broke("no file is open".into()));
            };
            let (id, generation) = (tail.id, tail.generation);
            let token = |offset: u64| Token {
                epoch,
                partition: generation,
                position: (u128::from(id.inode) << 64) | u128::from(offset),
                part: 0,
            };
            let (events, bytes) = (ask.events.min(EVENTS), ask.bytes);
            if tail.lines.has_ready() {
                tail.lines.take(into, events, bytes, token);
                return Ok(Fetched::Events);
            }
            let at = tail.lines.read_at();
            let mut space = tail.lines.space();
            let peek = Peek {
                file: tail.file.clone(),
                head: tail.head.clone(),
                waited: tail.waited,
            };
            let result = match self.at_hand.then(|| read(&peek, &mut space, at, at_hand)) {
                Some(Ok(read)) => {
                    drop(ask);
                    Ok(read)
                }
                tried => {
                    if let Some(Err(error)) = tried
                        && error.kind() != io::ErrorKind::WouldBlock
                    {
                        // A network file system, as a rule: it cannot say what is in memory.
                        self.at_hand = false;
                    }
                    let work = tokio::task::spawn_blocking(move || {
                        let result = read(&peek, &mut space, at, waiting);
                        (space, result)
                    });
                    // The request is under way: what it brings lands before the gate.
                    drop(ask);
                    let (back, result) = work
                        .await
                        .map_err(|e| SourceError::Broke(format!("the read did not come back: {e}").into()))?;
                    space = back;
                    result
                }
            };
            tail.lines.feed(space);
            let (outcome, head) = result.map_err(|e| SourceError::Broke(e.to_string().into()))?;
            tail.waited = false;
            if head.len() > tail.head.len() {
                tail.head = head;
                self.shared.knows(generation, id, &tail.head);
            }
            match outcome {
                Read::Data => {
                    tail.lines.take(into, events, bytes, token);
                    if !into.is_empty() {
                        return Ok(Fetched::Events);
                    }
                }
                Read::Truncated => self.start_over().await.map_err(|e| self.broke(&e))?,
                Read::End if !self.follow => {
                    tail.lines.finish(into, token);
                    return Ok(Fetched::End);
                }
                Read::End => {
                    let due = |changes: &Changes| self.looked.is_none_or(|at| at.elapsed() >= changes.look);
                    if self.changes.as_ref().is_none_or(due) {
                        self.look().await.map_err(|e| self.broke(&e))?;
                    }
                    if self.is_over().await.map_err(|e| self.broke(&e))? {
                        if let Some(last) = self.last_words(into, token).await? {
                            return Ok(last);
                        }
                        continue;
                    }
                    let Some(changes) = &self.changes else { continue };
                    tokio::select! {
                        moved = changes.any() => if moved {
                            self.looked = None;
                        },
                        () = demand.stopping() => return Ok(Fetched::End),
                    }
                    if let Some(tail) = &mut self.tail {
                        tail.waited = true;
                    }
                }
            }
        }
    }
}

impl FileSource {
    /// The successor was written to after this file was read to its end, so one more look tells whether this one
    /// really ended: then its last line counts, and the next file's turn comes.
    async fn last_words(
        &mut self,
        into: &mut Batch,
        token: impl Fn(u64) -> Token,
    ) -> Result<Option<Fetched>, SourceError> {
        let Some(tail) = &mut self.tail else {
            return Ok(None);
        };
        let (file, at) = (tail.file.clone(), tail.lines.read_at());
        let more = blocking(move || Ok(file.metadata()?.len() > at))
            .await
            .map_err(|e| SourceError::Broke(e.to_string().into()))?;
        if more {
            return Ok(None);
        }
        tail.lines.finish(into, token);
        self.advance();
        Ok((!into.is_empty()).then_some(Fetched::Events))
    }
}

/// Keeps the place.
#[derive(Clone, Debug)]
pub struct FileSettle(Arc<Shared>);

impl Settle for FileSettle {
    async fn ack(&self, done: &[Token]) -> Result<(), SettleError> {
        let place = {
            let inner = self.0.inner();
            let Some(last) = done.iter().rev().find(|t| t.epoch == inner.epoch) else {
                return Ok(());
            };
            let Some((generation, id, head)) = inner.files.iter().find(|f| f.0 == last.partition) else {
                return Ok(());
            };
            // The lower half is the offset, the upper the inode.
            let offset = last.position as u64;
            let head_len = head.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
            Place {
                path: self.0.path.to_path_buf(),
                id: *id,
                generation: *generation,
                offset,
                head_len,
                head_sum: checksum(&head[..head_len]),
            }
        };
        if self.0.ledger.is_some() {
            let (shared, place) = (self.0.clone(), place.clone());
            let saved = tokio::task::spawn_blocking(move || match &shared.ledger {
                Some(ledger) => ledger
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner())
                    .save(&place)
                    .map_err(|e| e.to_string()),
                None => Ok(()),
            })
            .await
            .unwrap_or_else(|e| Err(e.to_string()));
            saved.map_err(|e| SettleError::Retry(e.into()))?;
        }
        let mut inner = self.0.inner();
        while inner.files.front().is_some_and(|f| f.0 < place.generation) {
            inner.files.pop_front();
        }
        inner.acked = Some(place);
        Ok(())
    }

    async fn give_back(&self, _: &[Token]) -> Result<(), SettleError> {
        // What was not acknowledged is still in the file.
        Ok(())
    }
}

/// What the file system tells of changes, and how long to wait where it does not.
#[derive(Debug)]
struct Changes {
    data: Arc<Notify>,
    names: Arc<Notify>,
    read: Duration,
    look: Duration,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    fn of(path: &Path) -> Changes {
        let (data, names) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let link = fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
        let watcher = match link {
            true => None,
            false => watch(path, data.clone(), names.clone()),
        };
        let (read, look) = match watcher {
            Some(_) => (READ, LOOK),
            None => (LOOK_OFTEN, LOOK_OFTEN),
        };
        Changes {
            read,
            look,
            data,
            names,
            _watcher: watcher,
        }
    }

    /// Something may have taken the file's name.
    async fn moved(&self) {
        let _ = tokio::time::timeout(self.look, self.names.notified()).await;
    }

    /// Anything may have changed; true if something has taken a name.
    async fn any(&self) -> bool {
        tokio::select! {
            () = self.data.notified() => false,
            () = self.names.notified() => true,
            () = tokio::time::sleep(self.read) => false,
        }
    }
}

fn watch(path: &Path, data: Arc<Notify>, names: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let ours = path.file_name()?.to_owned();
    let told = move |event: notify::Result<notify::Event>| match event {
        Ok(event) if event.kind.is_access() => {}
        Ok(event) if event.need_rescan() => {
            data.notify_one();
            names.notify_one();
        }
        Ok(event) => {
            use notify::event::{EventKind, ModifyKind};
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {
                    if event.paths.iter().any(|p| p.file_name() == Some(&ours)) {
                        data.notify_one();
                    }
                }
                _ => {
                    data.notify_one();
                    names.notify_one();
                }
            }
        }
        Err(_) => data.notify_one(),
    };
    let watched = notify::recommended_watcher(told).and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match watched {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(
                path = %path.display(), %error,
                "the file system tells of no changes, so the file is looked at four times a second"
            );
            None
        }
    }
}
