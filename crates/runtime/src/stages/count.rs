//! `count`: how many events each key has had.
use super::jq::{BadExpression, Failure, Jq, json};
use crate::event::{Event, Poison, Stage};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::HashMap;
use std::io::Write;

/// Counts events by a key and replaces each by the count so far: `{"key":"UA","count":17}`.
///
/// The table lives in memory: it lives on through a pause, and a restart of the process begins a new one. An event
/// that a broken source hands out again is counted again. The table has at most `max_keys` keys; an event with a
/// further one goes to the dead letter, since forgetting a key would make its count wrong without a word.
pub struct Count {
    by: Jq,
    counts: HashMap<Bytes, u64>,
    max_keys: usize,
    room: BytesMut,
}

impl Count {
    /// Counts by the first output of the jq expression `by`.
    ///
    /// # Errors
    /// [`BadExpression`].
    pub fn new(by: &str, max_keys: usize) -> Result<Count, BadExpression> {
        Ok(Count {
            by: Jq::compile(by)?,
            counts: HashMap::new(),
            max_keys,
            room: BytesMut::new(),
        })
    }
}

impl Stage for Count {
    fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> Result<(), Poison> {
        let Count {
            by,
            counts,
            max_keys,
            room,
        } = self;
        let mut key = None;
        let found = by.run(&event.payload, |value| {
            key = Some(json(room, value)?);
            Ok(false)
        });
        found.map_err(|failure| by.poison(failure))?;
        let Some(key) = key else {
            return Err(by.poison(Failure::new("it gives this event no key", "")));
        };
        let full = counts.len() >= *max_keys;
        let count = match counts.get_mut(&key) {
            Some(count) => {
                *count += 1;
                *count
            }
            None if full => {
                return Err(by.poison(Failure::new(
                    "the table of counts is full",
                    &format!("max_keys is {max_keys}"),
                )));
            }
            None => {
                // A copy: a slice would keep all the room alive that it was cut from.
                counts.insert(Bytes::copy_from_slice(&key), 1);
                1
            }
        };
        let mut line = std::mem::take(room).writer();
        // Writing to memory cannot fail.
        let _ = line
            .write_all(b"{\"key\":")
            .and_then(|()| line.write_all(&key))
            .and_then(|()| write!(line, ",\"count\":{count}}}"));
        *room = line.into_inner();
        out.push(Event {
            payload: room.split().freeze(),
            key: event.key.clone(),
            token: event.token,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;
    use crate::event::Token;

    fn feed(stage: &mut Count, payload: &'static str) -> Result<String, Poison> {
        let mut out = Vec::new();
        let event = Event {
            payload: Bytes::from_static(payload.as_bytes()),
            key: None,
            token: Token {
                epoch: 0,
                partition: 0,
                position: 0,
                part: 0,
            },
        };
        stage.on(&event, &mut out)?;
        Ok(String::from_utf8(out[0].payload.to_vec()).unwrap())
    }

    #[test]
    fn each_event_becomes_the_count_of_its_key() {
        let mut stage = Count::new(".c", 10).unwrap();
        assert_eq!(
            feed(&mut stage, r#"{"c":"UA"}"#).unwrap(),
            r#"{"key":"UA","count":1}"#
        );
        assert_eq!(
            feed(&mut stage, r#"{"c":"AA"}"#).unwrap(),
            r#"{"key":"AA","count":1}"#
        );
        assert_eq!(
            feed(&mut stage, r#"{"c":"UA"}"#).unwrap(),
            r#"{"key":"UA","count":2}"#
        );
        assert_eq!(feed(&mut stage, r#"{}"#).unwrap(), r#"{"key":null,"count":1}"#);
        assert_eq!(feed(&mut stage, r#"{"c":1}"#).unwrap(), r#"{"key":1,"count":1}"#);
        assert_eq!(
            feed(&mut stage, r#"{"c":"1"}"#).unwrap(),
            r#"{"key":"1","count":1}"#,
            "a text is not its number"
        );
    }

    #[test]
    fn a_full_table_refuses_new_keys_and_goes_on_counting_the_old() {
        let mut stage = Count::new(".", 2).unwrap();
        feed(&mut stage, "1").unwrap();
        feed(&mut stage, "2").unwrap();
        let poison = feed(&mut stage, "3").unwrap_err();
        assert!(poison.why.contains("full"), "{poison}");
        assert_eq!(feed(&mut stage, "1").unwrap(), r#"{"key":1,"count":2}"#);
        assert!(
            feed(&mut Count::new("empty", 2).unwrap(), "1")
                .unwrap_err()
                .why
                .contains("no key")
        );
    }
}
