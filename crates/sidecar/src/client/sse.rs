//! Server-sent events, as far as `watch` sends them.

/// An event that is larger has no end.
const MOST: usize = 16 << 20;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
}

/// Takes bytes as they come, gives events as they are whole.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    /// The last byte was a CR: an LF after it belongs to it.
    after_cr: bool,
    name: String,
    data: Option<String>,
    size: usize,
}

impl Events {
    /// The events that these bytes complete. False if the stream is none that can be read on.
    pub(super) fn feed(&mut self, bytes: &[u8], into: &mut Vec<Event>) -> bool {
        for byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.after_cr) => {}
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    self.end_of_line(into);
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(*byte);
                    self.size += 1;
                    if self.size > MOST {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn end_of_line(&mut self, into: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            self.size = 0;
            let name = std::mem::take(&mut self.name);
            if let Some(data) = self.data.take() {
                into.push(Event { name, data });
            }
            return;
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // Comments, ids and retry times.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str =
        ": hello\n\nevent: state\ndata: {\"a\":1}\n\ndata: x\r\ndata:y\r\n\r\nid: 4\revent: end\rdata\r\r";

    fn expected() -> Vec<Event> {
        let event = |name: &str, data: &str| Event {
            name: name.into(),
            data: data.into(),
        };
        vec![event("state", "{\"a\":1}"), event("", "x\ny"), event("end", "")]
    }

    proptest! {
        #[test]
        fn events_are_the_same_however_the_bytes_are_cut(cuts in proptest::collection::vec(0..TEXT.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.extend([0, TEXT.len()]);
            cuts.sort_unstable();
            let (mut events, mut got) = (Events::default(), Vec::new());
            for pair in cuts.windows(2) {
                prop_assert!(events.feed(&TEXT.as_bytes()[pair[0]..pair[1]], &mut got));
            }
            prop_assert_eq!(got, expected());
        }

        #[test]
        fn no_bytes_break_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            Events::default().feed(&bytes, &mut Vec::new());
        }
    }

    #[test]
    fn an_event_without_an_end_is_given_up() {
        let mut events = Events::default();
        let block = vec![b'x'; MOST / 2];
        assert!(events.feed(&block, &mut Vec::new()));
        assert!(events.feed(&block, &mut Vec::new()));
        assert!(!events.feed(b"x", &mut Vec::new()));
    }
}
