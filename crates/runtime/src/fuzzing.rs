//! What any bytes from outside are tried on; see `fuzz/README.md`.
pub use crate::connectors::fuzzing::lines;

use crate::event::{Event, Stage, Token};
use crate::{Filter, Map};
use bytes::Bytes;
use std::cell::RefCell;

/// Expressions as people write them, over what comes from outside.
const EXPRESSIONS: [&str; 8] = [
    ".a.b",
    "{id: .id, n: (.n | tonumber)}",
    ".[] | select(.x > 1)",
    "to_entries | map(.key) | join(\",\")",
    "tojson | fromjson",
    "[.. | numbers] | add",
    "ascii_downcase | test(\"a+b\")",
    // The last reads outputs once more, and is no choice of the input's.
    ".",
];
const MARK: &str = "hunter2";

/// Which expression, then an event. An output is JSON that stays as it is from there on, a filter keeps its event byte by byte,
/// and no refusal shows what was in the event. With `=` first the rest is an expression, which is compiled or refused.
pub fn jq(data: &[u8]) {
    let Some((which, payload)) = data.split_first() else {
        return;
    };
    if *which == b'=' {
        let Ok(text) = std::str::from_utf8(payload) else {
            return;
        };
        if let Err(bad) = Map::new(text) {
            assert!(!bad.why.is_empty() && bad.text == text);
        }
        return;
    }
    thread_local! {
        static STAGES: Vec<RefCell<(Filter, Map)>> = EXPRESSIONS
            .iter()
            .map(|text| {
                let good = "the expressions are compiled by a test";
                RefCell::new((Filter::new(text).expect(good), Map::new(text).expect(good)))
            })
            .collect();
    }
    let event = Event {
        payload: Bytes::copy_from_slice(payload),
        key: None,
        token: Token {
            epoch: 0,
            partition: 0,
            position: 0,
            part: 0,
        },
    };
    STAGES.with(|stages| {
        let chosen = usize::from(*which) % (stages.len() - 1);
        let mut out = Vec::new();
        let mut kept = Vec::new();
        let (filter, map) = &mut *stages[chosen].borrow_mut();
        for outcome in [filter.on(&event, &mut kept), map.on(&event, &mut out)] {
            if let Err(poison) = outcome {
                assert!(!poison.why.contains(MARK), "{}", poison.why);
            }
        }
        assert!(kept.iter().all(|event| event.payload == payload));
        let (_, same) = &mut *stages[EXPRESSIONS.len() - 1].borrow_mut();
        for output in &out {
            let mut again = Vec::new();
            let read = same.on(output, &mut again);
            assert!(read.is_ok(), "no JSON: {:?}", output.payload);
            assert_eq!(again.len(), 1);
            assert_eq!(again[0].payload, output.payload);
        }
    });
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn every_file_and_every_event_that_is_kept_keeps_the_promises() {
        replay("lines", super::lines);
        replay("jq", super::jq);
    }
}
