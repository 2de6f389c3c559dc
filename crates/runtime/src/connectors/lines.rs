//! Cutting what was read into lines, without copying them.
use crate::event::{Batch, Event, Token};
use bytes::{Bytes, BytesMut};
use memchr::{memchr_iter, memrchr};
use std::collections::VecDeque;

/// What one read asks for: enough that its costs do not count, little enough to stay in a processor's cache until
/// it is written.
pub(crate) const CHUNK: usize = 256 << 10;

/// Events that a fetch hands out at most: what most sinks take with one write, so that a batch changes hands whole.
pub(crate) const EVENTS: usize = 1024;

/// Buffers that are kept, so that a steady stream allocates none.
const KEPT: usize = 8;

/// Less than this of a buffer is copied out of it: a held line must not hold a whole buffer.
const LITTLE: usize = CHUNK / 8;

/// How much of a line that is too long goes to the dead letter.
const HEAD: usize = 64 << 10;

/// Lines of one stretch of bytes. Read into its space, feed that, take events out.
#[derive(Debug)]
pub(crate) struct Lines {
    /// Whole lines, each with its newline, not handed out yet.
    ready: Bytes,
    /// The beginning of a line whose end was not read yet.
    tail: Vec<u8>,
    /// The offset of the first byte of `ready`, or of `tail` where `ready` is empty.
    offset: u64,
    max_line: usize,
    /// In the middle of a line that is too long: its beginning, and how long it is so far.
    overlong: Option<(Bytes, u64)>,
    /// Buffers that were read into, the latest last. One whose lines are all gone is read into again.
    buffers: VecDeque<Bytes>,
}

/// A buffer that begins with the unfinished line. One that is never fed loses nothing but itself.
#[derive(Debug)]
pub(crate) struct Space {
    buffer: BytesMut,
    kept: usize,
    filled: usize,
}

impl Space {
    /// Where to read into; never empty before [`Space::fill`].
    pub(crate) fn free(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// `n` bytes were read.
    pub(crate) fn fill(&mut self, n: usize) {
        self.filled += n;
    }
}

impl Lines {
    pub(crate) fn new(offset: u64, max_line: usize) -> Lines {
        Lines {
            ready: Bytes::new(),
            tail: Vec::new(),
            offset,
            max_line,
            overlong: None,
            buffers: VecDeque::new(),
        }
    }

    /// Where the next read has to begin.
    pub(crate) fn read_at(&self) -> u64 {
        let overlong = self.overlong.as_ref().map_or(0, |(_, len)| *len);
        self.offset + self.ready.len() as u64 + self.tail.len() as u64 + overlong
    }

    /// Where the first line begins that was not handed out.
    pub(crate) fn next_line(&self) -> u64 {
        self.offset
    }

    /// Whether whole lines wait to be handed out.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether a line has begun that has no end yet.
    pub(crate) fn has_tail(&self) -> bool {
        !self.tail.is_empty() || self.overlong.is_some()
    }

    /// Something to read into. Only when nothing is ready, and fed before the next is asked for.
    pub(crate) fn space(&mut self) -> Space {
        let kept = self.tail.len();
        // However long the unfinished line is, a read has room for half a chunk at least.
        let mut buffer = if kept <= CHUNK / 2 {
            self.spare().unwrap_or_else(|| BytesMut::zeroed(CHUNK))
        } else {
            BytesMut::zeroed(kept + CHUNK)
        };
        buffer[..kept].copy_from_slice(&self.tail);
        Space {
            buffer,
            kept,
            filled: kept,
        }
    }

    fn spare(&mut self) -> Option<BytesMut> {
        // The latest first: it is likeliest to be in the cache.
        let at = self.buffers.iter().rposition(Bytes::is_unique)?;
        self.buffers.remove(at)?.try_into_mut().ok()
    }

    /// Takes what was read.
    pub(crate) fn feed(&mut self, space: Space) {
        debug_assert!(self.ready.is_empty());
        let Space { buffer, kept, filled } = space;
        let buffer = buffer.freeze();
        let lines = memrchr(b'\n', &buffer[kept..filled]).map_or(0, |last| kept + last + 1);
        if lines > 0 {
            self.tail.clear();
            self.tail.extend_from_slice(&buffer[lines..filled]);
        } else {
            self.tail.extend_from_slice(&buffer[kept..filled]);
        }
        self.ready = match lines {
            0 => Bytes::new(),
            1..LITTLE => Bytes::copy_from_slice(&buffer[..lines]),
            _ => buffer.slice(..lines),
        };
        if buffer.len() == CHUNK {
            if self.buffers.len() == KEPT {
                self.buffers.pop_front();
            }
            self.buffers.push_back(buffer);
        }
        if self.ready.is_empty() {
            self.watch_length();
        }
    }

    /// Hands out up to `events` lines and about `bytes` bytes, the unfinished line never.
    pub(crate) fn take(
        &mut self,
        into: &mut Batch,
        events: usize,
        bytes: usize,
        token: impl Fn(u64) -> Token,
    ) {
        let mut from = 0;
        if self.ready.is_empty() {
            return;
        }
        let mut plain = into.is_empty();
        let full = |into: &Batch| into.events.len() >= events || into.bytes >= bytes;
        for end in memchr_iter(b'\n', &self.ready) {
            if full(into) {
                break;
            }
            let after = self.offset + end as u64 + 1;
            match self.overlong.take() {
                Some((head, len)) => {
                    plain = false;
                    let after = after + len;
                    self.offset += len;
                    into.push_fault(event(head, token(after)), self.too_long(len + end as u64));
                }
                None if end - from > self.max_line => {
                    plain = false;
                    let head = self.ready.slice(from..from + HEAD.min(end - from));
                    into.push_fault(event(head, token(after)), self.too_long((end - from) as u64));
                }
                None => into.push(event(self.ready.slice(from..end), token(after))),
            }
            from = end + 1;
        }
        self.offset += from as u64;
        let taken = self.ready.split_to(from);
        into.lines = plain.then_some(taken);
        if self.ready.is_empty() {
            self.watch_length();
        }
    }

    /// Hands out the line that has no end, as there will be none.
    pub(crate) fn finish(&mut self, into: &mut Batch, token: impl Fn(u64) -> Token) {
        let end = self.read_at();
        let tail = Bytes::from(std::mem::take(&mut self.tail));
        match self.overlong.take() {
            Some((head, len)) => {
                let why = self.too_long(len + tail.len() as u64);
                into.push_fault(event(head, token(end)), why);
            }
            None if tail.is_empty() => return,
            None => into.push(event(tail, token(end))),
        }
        self.offset = end;
    }

    /// A line without end must not grow without bound: from some length on only its length is kept.
    fn watch_length(&mut self) {
        match &mut self.overlong {
            Some((_, len)) => {
                *len += self.tail.len() as u64;
                self.tail.clear();
            }
            None if self.tail.len() > self.max_line => {
                let head = Bytes::copy_from_slice(&self.tail[..HEAD.min(self.tail.len())]);
                self.overlong = Some((head, self.tail.len() as u64));
                self.tail.clear();
            }
            None => {}
        }
    }

    fn too_long(&self, len: u64) -> tidegate_gate::Name {
        format!(
            "the line has {len} bytes, max_line is {}; the dead letter has its beginning",
            self.max_line
        )
        .into()
    }
}

fn event(payload: Bytes, token: Token) -> Event {
    Event {
        payload,
        key: None,
        token,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    fn token(position: u64) -> Token {
        Token {
            epoch: 1,
            partition: 0,
            position: position.into(),
            part: 0,
        }
    }

    /// Reads `data` in pieces of the given sizes, as a file would be read; payloads, ends, and faults.
    fn cut(
        data: &[u8],
        sizes: &[usize],
        max_line: usize,
        events: usize,
        finish: bool,
    ) -> (Vec<(Vec<u8>, u64)>, Vec<u64>) {
        let mut lines = Lines::new(0, max_line);
        let mut batch = Batch::default();
        let mut sizes = sizes.iter().copied().cycle();
        loop {
            let at = usize::try_from(lines.read_at()).unwrap();
            let n = sizes.next().unwrap().max(1).min(data.len() - at);
            if n == 0 {
                break;
            }
            let mut space = lines.space();
            space.free()[..n].copy_from_slice(&data[at..at + n]);
            space.fill(n);
            lines.feed(space);
            while lines.has_ready() {
                let most = batch.events.len() + events.max(1);
                lines.take(&mut batch, most, usize::MAX, token);
            }
        }
        if finish {
            lines.finish(&mut batch, token);
        }
        let got = batch
            .events
            .iter()
            .map(|e| (e.payload.to_vec(), e.token.position as u64))
            .collect();
        (got, batch.faults.iter().map(|(t, _)| t.position as u64).collect())
    }

    #[test]
    fn lines_carry_the_offset_after_their_newline() {
        let (got, faults) = cut(b"a\n\nbc\r\nd", &[3], 100, 10, false);
        let expected: Vec<(Vec<u8>, u64)> =
            vec![(b"a".to_vec(), 2), (b"".to_vec(), 3), (b"bc\r".to_vec(), 7)];
        assert_eq!((got, faults), (expected, vec![]));
        let (got, _) = cut(b"a\nd", &[1], 100, 10, true);
        assert_eq!(got.last().unwrap(), &(b"d".to_vec(), 3));
    }

    #[test]
    fn a_line_that_is_too_long_is_one_fault_and_the_next_line_is_whole() {
        let mut data = vec![b'x'; 1000];
        data.extend(b"\nok\n");
        for sizes in [vec![1], vec![7], vec![300], vec![5000]] {
            let (got, faults) = cut(&data, &sizes, 10, 10, false);
            assert_eq!(got.len(), 2, "{sizes:?}");
            assert_eq!(faults, [1001], "{sizes:?}");
            assert_eq!(got[0].1, 1001, "{sizes:?}");
            assert!(got[0].0.iter().all(|b| *b == b'x'));
            assert_eq!(got[1], (b"ok".to_vec(), 1004), "{sizes:?}");
        }
        let (got, faults) = cut(&data[..1000], &[64], 10, 10, true);
        assert_eq!((got.len(), faults), (1, vec![1000]));
    }

    proptest::proptest! {
        #[test]
        fn however_it_is_read_the_lines_are_the_same(
            data in proptest::collection::vec(proptest::sample::select(b"ab\n\r".to_vec()), 0..300),
            sizes in proptest::collection::vec(1usize..40, 1..8),
            events in 1usize..5,
        ) {
            let (got, faults) = cut(&data, &sizes, 1 << 20, events, true);
            let mut expected: Vec<&[u8]> = data.split(|b| *b == b'\n').collect();
            if expected.last() == Some(&&b""[..]) {
                expected.pop();
            }
            let payloads: Vec<&[u8]> = got.iter().map(|(p, _)| &p[..]).collect();
            assert_eq!(payloads, expected);
            assert!(faults.is_empty());
            if let Some((_, end)) = got.last() {
                assert_eq!(*end, data.len() as u64);
            }
        }
    }
}
