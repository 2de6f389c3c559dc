//! `filter` and `map` by jq expressions, compiled once.
//!
//! Switched off in expressions: whatever shows the environment (it holds tokens), reads or writes anything besides
//! the event, or ends the process. An expression that never ends, or that recurses without end, cannot be told
//! from one that is slow: it is the author's to avoid.
use crate::event::{Event, Poison, Stage};
use bytes::{BufMut, Bytes, BytesMut};
use jaq_core::data::JustLut;
use jaq_core::load::{self, Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Exn, ValT, Vars};
use jaq_json::write::Pp;
use jaq_json::{Num, Val};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tidegate_gate::Name;

type Data = JustLut<Val>;

/// Native functions that are not there, and the definitions that stand on them.
const OFF: [&str; 9] = [
    "env",
    "halt",
    "halt_error",
    "debug",
    "debug_empty",
    "stderr",
    "stderr_empty",
    "input",
    "inputs",
];

/// Deeper nesting would run the parser, which recurses, out of stack.
const DEPTH: usize = 256;

/// One event that becomes more than this is a runaway expression.
const OUTPUTS: usize = 100_000;

/// Room for outputs that is asked for at once.
const ROOM: usize = 64 << 10;

/// An expression that cannot be compiled.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the jq expression \"{text}\" is no good: {why}")]
pub struct BadExpression {
    /// The expression.
    pub text: String,
    /// What is wrong with it, and where.
    pub why: String,
}

/// A compiled expression.
pub(super) struct Jq {
    text: Name,
    filter: jaq_core::Filter<Data>,
}

/// Why an event has no outputs, without and with what it holds.
pub(super) struct Failure {
    kind: &'static str,
    detail: String,
}

impl Failure {
    pub(super) fn new(kind: &'static str, detail: &str) -> Failure {
        Failure {
            kind,
            detail: detail.into(),
        }
    }
}

impl Jq {
    pub(super) fn compile(text: &str) -> Result<Jq, BadExpression> {
        let bad = |why: String| BadExpression {
            text: text.into(),
            why,
        };
        let arena = Arena::default();
        let defs = jaq_core::defs()
            .chain(jaq_std::defs())
            .chain(jaq_json::defs())
            .filter(|def| !OFF.contains(&def.name));
        let program = File { code: text, path: () };
        let modules = Loader::new(defs)
            .load(&arena, program)
            .map_err(|errors| bad(load_error(text, &errors)))?;
        let funs = jaq_core::funs::<Data>()
            .chain(jaq_std::funs())
            .chain(jaq_json::funs())
            .filter(|fun| !OFF.contains(&fun.0));
        let filter = Compiler::default()
            .with_funs(funs)
            .compile(modules)
            .map_err(|errors| bad(undefined(&errors)))?;
        Ok(Jq {
            text: text.into(),
            filter,
        })
    }

    pub(super) fn poison(&self, failure: Failure) -> Poison {
        let Failure { kind, detail } = failure;
        Poison {
            why: format!("the jq expression \"{}\": {kind}", self.text).into(),
            detail: Some(detail.into()),
        }
    }

    /// Runs it on one payload; `each` gets every output and may stop by returning false.
    pub(super) fn run(
        &self,
        payload: &[u8],
        mut each: impl FnMut(&Val) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let work = || {
            let input = parse(payload)?;
            let ctx = Ctx::<Data>::new(&self.filter.lut, Vars::new([]));
            for output in self.filter.id.run((ctx, input)) {
                if !each(&output.map_err(failed)?)? {
                    break;
                }
            }
            Ok(())
        };
        // The interpreter is not ours: a bug of its own in one event must not end the stream.
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            Err(Failure {
                kind: "the interpreter broke on this event",
                detail: "the log has the message".into(),
            })
        })
    }
}

fn failed(exception: Exn<'_, Val>) -> Failure {
    Failure {
        kind: "it failed on this event",
        detail: match exception.get_err() {
            Ok(error) => error.to_string(),
            Err(_) => "it broke out of itself".into(),
        },
    }
}

fn parse(payload: &[u8]) -> Result<Val, Failure> {
    if too_deep(payload) {
        return Err(Failure {
            kind: "the event is nested too deeply",
            detail: format!("more than {DEPTH} levels"),
        });
    }
    jaq_json::read::parse_single(payload).map_err(|error| Failure {
        kind: "the event is not JSON",
        detail: error.to_string(),
    })
}

fn too_deep(payload: &[u8]) -> bool {
    // Nearly every event has fewer brackets than that altogether, and this loop has no branches.
    let opening = payload.iter().filter(|b| matches!(b, b'[' | b'{')).count();
    if opening <= DEPTH {
        return false;
    }
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0usize, 0, false, false);
    for byte in payload {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest > DEPTH
}

/// The language knows values that JSON does not; writing them would break whoever reads the output.
fn is_json(value: &Val) -> bool {
    match value {
        Val::Num(Num::Float(f)) => f.is_finite(),
        Val::BStr(_) => false,
        Val::Null | Val::Bool(_) | Val::Num(_) => true,
        Val::TStr(text) => std::str::from_utf8(text).is_ok(),
        Val::Arr(values) => values.iter().all(is_json),
        Val::Obj(fields) => fields
            .iter()
            .all(|(key, value)| matches!(key, Val::TStr(_)) && is_json(key) && is_json(value)),
    }
}

/// Writes a value as compact JSON behind what `room` holds, and takes it off as a slice of its own.
pub(super) fn json(room: &mut BytesMut, value: &Val) -> Result<Bytes, Failure> {
    if !is_json(value) {
        return Err(Failure {
            kind: "an output is not JSON",
            detail:
                "JSON has no NaN, no infinity, no bytes, no text that is not UTF-8 and no keys but strings"
                    .into(),
        });
    }
    if room.capacity() < ROOM / 16 {
        room.reserve(ROOM);
    }
    let mut writer = room.writer();
    jaq_json::write::write(&mut writer, &Pp::default(), 0, value).map_err(|error| Failure {
        kind: "an output cannot be written",
        detail: error.to_string(),
    })?;
    Ok(room.split().freeze())
}

/// Keeps the events for which the first output of an expression is neither `false` nor `null`. What it keeps, it
/// keeps byte by byte.
pub struct Filter(Jq);

impl Filter {
    /// # Errors
    /// [`BadExpression`].
    pub fn new(expression: &str) -> Result<Filter, BadExpression> {
        Jq::compile(expression).map(Filter)
    }
}

impl Stage for Filter {
    fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> Result<(), Poison> {
        let mut keep = false;
        let first = |value: &Val| {
            keep = value.as_bool();
            Ok(false)
        };
        self.0
            .run(&event.payload, first)
            .map_err(|failure| self.0.poison(failure))?;
        if keep {
            out.push(event.clone());
        }
        Ok(())
    }
}

/// Replaces each event by the outputs of an expression, as compact JSON; none drops it. Whole numbers keep all
/// their digits, decimals their spelling.
pub struct Map {
    jq: Jq,
    room: BytesMut,
}

impl Map {
    /// # Errors
    /// [`BadExpression`].
    pub fn new(expression: &str) -> Result<Map, BadExpression> {
        Ok(Map {
            jq: Jq::compile(expression)?,
            room: BytesMut::new(),
        })
    }
}

impl Stage for Map {
    fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> Result<(), Poison> {
        let Map { jq, room } = self;
        let mut count = 0;
        let each = |value: &Val| {
            count += 1;
            if count > OUTPUTS {
                return Err(Failure {
                    kind: "it has too many outputs for this event",
                    detail: format!("more than {OUTPUTS}"),
                });
            }
            out.push(Event {
                payload: json(room, value)?,
                key: event.key.clone(),
                token: event.token,
            });
            Ok(true)
        };
        let result = jq.run(&event.payload, each);
        result.map_err(|failure| jq.poison(failure))
    }
}

fn load_error(text: &str, errors: &load::Errors<&str, ()>) -> String {
    let at = |found: &str| {
        let offset = (found.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        match found.chars().next() {
            Some(c) if offset < text.len() => format!(" at {c:?} (byte {offset})"),
            _ => " at its end".to_owned(),
        }
    };
    let one = |error: &load::Error<&str>| match error {
        load::Error::Io(errors) => errors
            .first()
            .map(|(path, _)| format!("it may not load {path:?}")),
        load::Error::Lex(errors) => errors
            .first()
            .map(|(expected, found)| format!("expected {}{}", expected.as_str(), at(found))),
        load::Error::Parse(errors) => errors
            .first()
            .map(|(expected, found)| format!("expected {}{}", expected.as_str(), at(found))),
    };
    let first = errors.iter().find_map(|(_, error)| one(error));
    first.unwrap_or_else(|| "it cannot be read".into())
}

fn undefined(errors: &jaq_core::compile::Errors<&str, ()>) -> String {
    let Some((name, what)) = errors.iter().flat_map(|(_, errors)| errors).next() else {
        return "it cannot be compiled".into();
    };
    if OFF.contains(name) || *name == "$ENV" {
        return format!("{name:?} is switched off: an expression sees its event and nothing else");
    }
    let what = what.as_str();
    format!("there is no {what} {name:?}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;
    use crate::event::Token;

    fn event(payload: &str) -> Event {
        Event {
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            key: None,
            token: Token {
                epoch: 0,
                partition: 0,
                position: 0,
                part: 0,
            },
        }
    }

    fn outputs(stage: &mut dyn Stage, payload: &str) -> Result<Vec<String>, Poison> {
        let mut out = Vec::new();
        stage.on(&event(payload), &mut out)?;
        Ok(out
            .iter()
            .map(|e| String::from_utf8(e.payload.to_vec()).unwrap())
            .collect())
    }

    fn map(expression: &str, payload: &str) -> Result<Vec<String>, Poison> {
        outputs(&mut Map::new(expression).unwrap(), payload)
    }

    #[test]
    fn map_replaces_an_event_by_all_outputs() {
        assert_eq!(map(".a", r#"{"a": 1}"#).unwrap(), ["1"]);
        assert_eq!(map(".[]", "[1, {\"b\": null}]").unwrap(), ["1", "{\"b\":null}"]);
        assert_eq!(map("empty", "1").unwrap(), Vec::<String>::new());
        assert_eq!(
            map("{b: .a, a: 1}", r#"{"a": "é"}"#).unwrap(),
            ["{\"b\":\"é\",\"a\":1}"]
        );
    }

    #[test]
    fn filter_keeps_events_byte_by_byte() {
        let mut stage = Filter::new(".n > 1").unwrap();
        assert_eq!(
            outputs(&mut stage, "{ \"n\" : 2.0 }").unwrap(),
            ["{ \"n\" : 2.0 }"]
        );
        assert_eq!(outputs(&mut stage, "{\"n\": 1}").unwrap(), Vec::<String>::new());
        for (expression, keeps) in [
            ("null", false),
            ("empty", false),
            ("0", true),
            ("false, true", false),
        ] {
            let kept = outputs(&mut Filter::new(expression).unwrap(), "1").unwrap();
            assert_eq!(kept.len(), usize::from(keeps), "{expression}");
        }
    }

    #[test]
    fn numbers_keep_their_digits() {
        for number in [
            "123456789012345678901234567890",
            "-9223372036854775809",
            "1.10",
            "0.1000000000000000000001",
            "1e400",
        ] {
            assert_eq!(map(".", number).unwrap(), [number]);
        }
        assert_eq!(
            map(". + 1", "9223372036854775807").unwrap(),
            ["9223372036854775808"]
        );
    }

    #[test]
    fn an_error_names_the_expression_and_tells_the_content_only_in_the_detail() {
        let poison = map(".a.b", r#"{"a": "secret"}"#).unwrap_err();
        assert!(poison.why.contains("\".a.b\""), "{poison}");
        assert!(!poison.why.contains("secret"), "{poison}");
        assert!(poison.detail.unwrap().contains("secret"));
        for payload in ["", "{", "nonsense", "1 2", "{\"a\":1}]"] {
            let poison = map(".", payload).unwrap_err();
            assert!(poison.why.contains("not JSON"), "{payload}: {poison}");
        }
        assert!(map("error(\"x\")", "1").is_err());
        assert!(map("nan", "1").unwrap_err().why.contains("not JSON"));
    }

    #[test]
    fn what_is_nested_without_end_is_refused_and_breaks_nothing() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(map(".", &deep(DEPTH)).is_ok());
        assert!(
            map(".", &deep(DEPTH + 1))
                .unwrap_err()
                .why
                .contains("nested too deeply")
        );
        assert!(map(".", &"[".repeat(1 << 20)).is_err());
        let flat = format!("[{}1]", "[1],".repeat(1000));
        assert!(map(".", &flat).is_ok(), "many brackets are not deep brackets");
        let quoted = format!("\"{}\\\"\"", "[".repeat(1000));
        assert!(map(".", &quoted).is_ok());
    }

    #[test]
    fn a_runaway_expression_is_stopped() {
        assert!(
            map("repeat(1)", "1")
                .unwrap_err()
                .why
                .contains("too many outputs")
        );
        assert_eq!(
            outputs(&mut Filter::new("repeat(1)").unwrap(), "1").unwrap(),
            ["1"]
        );
    }

    #[test]
    fn an_expression_sees_its_event_and_nothing_else() {
        for expression in [
            "env",
            "$ENV",
            "$ENV.PATH",
            "input",
            "inputs",
            "halt",
            "halt(1)",
            "halt_error",
            "debug",
            "debug(\"x\")",
            "stderr",
            "env.HOME",
            "[limit(1; inputs)]",
        ] {
            let error = Map::new(expression).map(|_| ()).unwrap_err();
            assert!(error.why.contains("switched off"), "{expression}: {error}");
        }
        let error = Map::new("import \"a\" as a; .").map(|_| ()).unwrap_err();
        assert!(error.why.contains("may not load"), "{error}");
    }

    #[test]
    fn a_bad_expression_says_what_and_where() {
        for (expression, says) in [
            ("", "end"),
            (".a |", "at its end"),
            ("(.a", "closing parenthesis at its end"),
            (".a.b }", "'}'"),
            ("foo", "no filter \"foo\""),
            ("$x", "no variable \"$x\""),
            ("map(", "closing parenthesis"),
        ] {
            let error = Map::new(expression).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains(says), "{expression}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_expression_and_no_event_panics(
            expression in "[.a-c\\[\\]{}|,:$\"0-9 ]{0,20}",
            payload in "[\\[\\]{}\",:0-9a-e.+-]{0,40}",
        ) {
            if let Ok(mut stage) = Map::new(&expression) {
                let _ = outputs(&mut stage, &payload);
            }
        }
    }
}
