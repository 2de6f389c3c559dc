//! Turning events into lines, and going on in the middle of one where a write stopped.
use crate::event::{Event, SinkError, Token};
use bytes::Bytes;
use memchr::{memchr, memchr_iter};

/// The bytes of one attempt. An attempt that failed half way goes on where it stopped: a byte stream has no way
/// to take back what it was given.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    bytes: Vec<u8>,
    /// The bytes instead of `bytes`, where they are lines already.
    lines: Option<Bytes>,
    sent: usize,
    loaded: Option<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    first: Token,
    asked: usize,
    count: usize,
    refused: Option<&'static str>,
}

impl Encoded {
    /// Makes `events` ready for writing, unless they are what an earlier attempt has begun to write.
    ///
    /// Where it began to write something else (the source took it back), the line that was begun is finished
    /// first: a line that the reader sees twice is a duplicate, half a line is damage.
    pub(crate) fn load(&mut self, events: &[Event]) {
        if events.is_empty() || self.has(events) {
            return;
        }
        self.drop_all_but_the_begun_line();
        self.add(events);
    }

    /// Puts `events` behind a line that was begun.
    fn add(&mut self, events: &[Event]) {
        let Some(first) = events.first() else { return };
        let mut loaded = Loaded {
            first: first.token,
            asked: events.len(),
            count: 0,
            refused: None,
        };
        let begun = self.bytes.len();
        for event in events {
            self.bytes.extend_from_slice(&event.payload);
            self.bytes.push(b'\n');
        }
        // Nearly every event is one line. One count over all of them costs a fraction of a look at each.
        if memchr_iter(b'\n', &self.bytes[begun..]).count() == events.len() {
            loaded.count = events.len();
        } else {
            self.bytes.truncate(begun);
            for event in events {
                if let Err(why) = line(&event.payload, &mut self.bytes) {
                    loaded.refused = Some(why);
                    break;
                }
                loaded.count += 1;
            }
        }
        self.loaded = Some(loaded);
    }

    /// [`Encoded::load`] of events that are these lines.
    pub(crate) fn load_lines(&mut self, events: &[Event], lines: &Bytes) {
        let Some(first) = events.first() else { return };
        if self.has(events) {
            return;
        }
        self.drop_all_but_the_begun_line();
        if !self.bytes.is_empty() {
            return self.add(events);
        }
        self.lines = Some(lines.clone());
        self.loaded = Some(Loaded {
            first: first.token,
            asked: events.len(),
            count: events.len(),
            refused: None,
        });
    }

    /// Whether these are what was loaded last and is not finished.
    fn has(&self, events: &[Event]) -> bool {
        let same = |l: &Loaded| events.first().is_some_and(|e| e.token == l.first) && l.asked == events.len();
        self.loaded.as_ref().is_some_and(same)
    }

    /// What is left to write.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.all()[self.sent..]
    }

    fn all(&self) -> &[u8] {
        self.lines.as_deref().unwrap_or(&self.bytes)
    }

    /// Whether nothing of it is written yet.
    pub(crate) fn fresh(&self) -> bool {
        self.sent == 0
    }

    /// `n` more bytes are written.
    pub(crate) fn advance(&mut self, n: usize) {
        self.sent += n;
    }

    /// Everything that was loaded is written: refuses the event that does not fit a line, if there was one.
    pub(crate) fn finish(&mut self) -> Result<(), SinkError> {
        self.bytes.clear();
        self.lines = None;
        self.sent = 0;
        match self.loaded.take() {
            Some(Loaded {
                count,
                refused: Some(why),
                ..
            }) => Err(SinkError::Reject {
                taken: count,
                why: why.into(),
                detail: None,
            }),
            _ => Ok(()),
        }
    }

    fn drop_all_but_the_begun_line(&mut self) {
        self.loaded = None;
        let line_begun = self.sent > 0 && self.all()[self.sent - 1] != b'\n';
        let end = match memchr(b'\n', self.rest()) {
            Some(end) if line_begun => self.sent + end + 1,
            _ => self.sent,
        };
        match self.lines.take() {
            Some(lines) => self.bytes.extend_from_slice(&lines[self.sent..end]),
            None => {
                self.bytes.truncate(end);
                self.bytes.drain(..self.sent);
            }
        }
        self.sent = 0;
    }
}

/// Adds `payload` as a line.
pub(crate) fn line(payload: &[u8], to: &mut Vec<u8>) -> Result<(), &'static str> {
    if memchr(b'\n', payload).is_none() {
        to.extend_from_slice(payload);
    } else {
        // A newline in JSON is white space: it can only stand between tokens.
        if serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_err() {
            return Err("the event has several lines and is not JSON, so it does not fit a file of lines");
        }
        let spaced = payload.iter().map(|b| if *b == b'\n' { b' ' } else { *b });
        to.extend(spaced);
    }
    to.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    fn event(position: u128, payload: &'static str) -> Event {
        Event {
            payload: Bytes::from_static(payload.as_bytes()),
            key: None,
            token: Token {
                epoch: 1,
                partition: 0,
                position,
                part: 0,
            },
        }
    }

    #[test]
    fn the_same_events_again_go_on_in_the_middle_of_a_line() {
        let mut encoded = Encoded::default();
        let events = [event(1, "one"), event(2, "two")];
        encoded.load(&events);
        encoded.advance(5);
        encoded.load(&events);
        assert_eq!(encoded.rest(), b"wo\n");
        encoded.advance(3);
        encoded.finish().unwrap();
        assert_eq!(encoded.rest(), b"");
    }

    #[test]
    fn other_events_come_after_the_line_that_was_begun() {
        let mut encoded = Encoded::default();
        encoded.load(&[event(1, "one"), event(2, "two"), event(3, "three")]);
        encoded.advance(5);
        encoded.load(&[event(9, "nine")]);
        assert_eq!(encoded.rest(), b"wo\nnine\n");
        encoded.advance(3);
        encoded.load(&[event(7, "seven")]);
        assert_eq!(encoded.rest(), b"seven\n");
    }

    #[test]
    fn lines_in_one_piece_are_written_as_they_are_and_go_on_like_any_other() {
        let mut encoded = Encoded::default();
        let events = [event(1, "one"), event(2, "two"), event(3, "three")];
        let lines = Bytes::from_static(b"one\ntwo\nthree\n");
        encoded.load_lines(&events, &lines);
        assert_eq!(encoded.rest().as_ptr(), lines.as_ptr(), "nothing is copied");
        encoded.advance(5);
        encoded.load_lines(&events, &lines);
        assert_eq!(encoded.rest(), b"wo\nthree\n");
        encoded.load(&events);
        assert_eq!(encoded.rest(), b"wo\nthree\n");

        // The source took it back and hands out something else.
        let other = [event(9, "nine")];
        let lines = Bytes::from_static(b"nine\n");
        encoded.load_lines(&other, &lines);
        assert_eq!(encoded.rest(), b"wo\nnine\n");
        encoded.advance(8);
        encoded.finish().unwrap();
        encoded.load_lines(&other, &lines);
        encoded.load(&[event(7, "seven")]);
        assert_eq!(encoded.rest(), b"seven\n");
    }

    #[test]
    fn json_of_several_lines_becomes_one_and_anything_else_is_refused() {
        let mut encoded = Encoded::default();
        encoded.load(&[event(1, "{\n \"a\": \"x\\n\"\n}")]);
        assert_eq!(encoded.rest(), b"{  \"a\": \"x\\n\" }\n");
        encoded.advance(encoded.rest().len());
        encoded.finish().unwrap();

        let mixed = [event(2, "fine"), event(3, "not\njson")];
        encoded.load(&mixed);
        assert_eq!(encoded.rest(), b"fine\n");
        encoded.advance(5);
        let refused = encoded.finish();
        assert!(
            matches!(refused, Err(SinkError::Reject { taken: 1, .. })),
            "{refused:?}"
        );
    }
}
