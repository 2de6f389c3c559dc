//! What any bytes from outside are tried on. Each function takes whatever the fuzzer has come to and panics where a
//! promise is broken; `fuzz/` calls them with `cfg(fuzzing)`, and a test with the inputs that are kept in `fuzz/corpus`.
use crate::{Body, Fields, FlagError, ReadError, Secret, Value, read_flag};
use secrecy::ExposeSecret;
use std::fmt::Debug;
use std::time::SystemTime;
use tidegate_gate::Version;

pub use crate::azure_key_vault::fuzzing::key_vault;
pub use crate::vault::fuzzing::vault;

/// Stands in inputs where a secret would.
pub(crate) const MARK: &str = "hunter2";

/// One answer of a store as an input spells it: the status, then headers, an empty line, the body.
pub(crate) struct Scripted<'a> {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    pub(crate) body: &'a [u8],
}

/// An input's first line, which chooses among options, and the answers, which stand apart by lines of `%%`.
pub(crate) fn script(data: &[u8]) -> (&[u8], Vec<Scripted<'_>>) {
    let (options, mut rest) = cut(data, b"\n").unwrap_or((data, b""));
    let mut answers = Vec::new();
    while !rest.is_empty() && answers.len() < 8 {
        let one;
        (one, rest) = cut(rest, b"\n%%\n").unwrap_or((rest, b""));
        let (head, body) = cut(one, b"\n\n").unwrap_or((one, b""));
        let mut lines = std::str::from_utf8(head).unwrap_or_default().split('\n');
        let status = lines.next().and_then(|line| line.trim().parse().ok());
        answers.push(Scripted {
            status: status
                .filter(|status| (200..=599).contains(status))
                .unwrap_or(200),
            headers: lines.filter_map(|line| line.split_once(": ")).collect(),
            body,
        });
    }
    (options, answers)
}

fn cut<'a>(data: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let found = data.windows(at.len()).position(|window| window == at)?;
    Some((&data[..found], &data[found + at.len()..]))
}

/// What people are shown is one line and holds nothing of what was read.
pub(crate) fn says_nothing(text: &str) {
    assert!(!text.contains(MARK), "shows what was read: {text}");
    assert!(!text.contains(char::is_control), "more than a line: {text:?}");
}

/// The same of everything that an outcome can show. Names of fields and of versions are no secrets, and are shown.
pub(crate) fn tells_nothing(outcome: &Result<Secret, ReadError>) {
    if !outcome.as_ref().is_ok_and(is_named_so) {
        says_nothing(&format!("{outcome:?}"));
    }
    match outcome {
        Err(error) => says_nothing(&error.to_string()),
        // A flag looked up in it may say who and why, but errors and warnings never quote.
        Ok(secret) => match read_flag(secret, "IsPaused") {
            Ok(flag) => flag.warnings.iter().for_each(|warning| says_nothing(warning)),
            Err(error) => says_nothing(&error.to_string()),
        },
    }
}

/// Whether the mark stands where nobody keeps a secret.
fn is_named_so(secret: &Secret) -> bool {
    fn in_names(fields: &Fields) -> bool {
        fields.iter().any(|(name, value)| {
            name.contains(MARK) || matches!(value, Value::Fields(inner) if in_names(inner))
        })
    }
    secret.version.id.contains(MARK) || matches!(&secret.body, Body::Fields(fields) if in_names(fields))
}

/// A key, a newline, a secret's text: reading it agrees with a short model, and refusals quote the key and nothing else.
pub fn flag(data: &[u8]) {
    let Some((key, text)) = std::str::from_utf8(data)
        .ok()
        .and_then(|data| data.split_once('\n'))
    else {
        return;
    };
    let secret = |body| Secret {
        body,
        version: Version {
            id: "1".into(),
            written: None,
        },
        serial: None,
        warnings: Vec::new(),
    };
    judge(&secret(Body::Text(text.into())), key, text);
    if let Ok(fields) = serde_json::from_str::<Fields>(text) {
        // As a Vault would hand them out.
        let once = format!("{:?}", read_flag(&secret(Body::Text(text.into())), key));
        let again = secret(Body::Fields(fields));
        assert_eq!(once, format!("{:?}", read_flag(&again, key)));
    }
}

fn judge(secret: &Secret, key: &str, text: &str) {
    let outcome = read_flag(secret, key);
    let expected = expected(key, text);
    match (&outcome, &expected) {
        (Ok(flag), Expected::Flag { paused, until }) => {
            assert_eq!(
                (flag.paused, flag.until),
                (*paused, *until),
                "{key:?} of {text:?}"
            );
            for warning in &flag.warnings {
                assert!(
                    ["\"reason\" is not", "\"by\" is not", "\"until\" is not"]
                        .iter()
                        .any(|known| warning.starts_with(known)),
                    "{warning}"
                );
            }
            // They are put into lines that people read.
            let told = [&flag.reason, &flag.by].into_iter().flatten();
            told.for_each(|text| assert!(!text.contains(char::is_control), "{text:?}"));
        }
        (Err(FlagError::NoSuchField(_)), Expected::Missing) => {}
        (Err(FlagError::Malformed(_)), Expected::Malformed) => {}
        _ => panic!("{key:?} of {text:?} is {outcome:?}, expected {expected:?}"),
    }
    if let Err(error) = outcome {
        let said = error.to_string();
        let known = [
            format!("the secret has no field \"{key}\""),
            format!("expected true or false, or a JSON object with \"{key}\": true or false"),
            format!("expected one field \"{key}\", and there are several (names are compared without case)"),
            format!("expected \"{key}\" to be true or false"),
        ];
        assert!(known.contains(&said), "{said}");
    }
}

#[derive(Debug)]
enum Expected {
    Flag { paused: bool, until: Option<SystemTime> },
    Missing,
    Malformed,
}

/// The flag's rules once more, over names that are flattened first, as .NET's configuration does it.
fn expected(key: &str, text: &str) -> Expected {
    fn flatten<'a>(fields: &'a Fields, before: &str, all: &mut Vec<(String, &'a Value)>) {
        for (name, value) in fields.iter() {
            let name = format!("{before}{}", folded(name));
            if let Value::Fields(inner) = value {
                flatten(inner, &format!("{name}:"), all);
            }
            all.push((name, value));
        }
    }
    /// Letter by letter, so that a name is the same alone and in a path.
    fn folded(text: &str) -> String {
        text.chars().flat_map(char::to_lowercase).collect()
    }
    fn boolean(text: &str) -> Option<bool> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }
    if let Some(paused) = boolean(text) {
        return Expected::Flag { paused, until: None };
    }
    let Ok(fields) = serde_json::from_str::<Fields>(text) else {
        return Expected::Malformed;
    };
    let mut all = Vec::new();
    flatten(&fields, "", &mut all);
    let at = |path: &str| -> Vec<&Value> {
        let path = folded(path);
        all.iter()
            .filter(|(name, _)| *name == path)
            .map(|(_, value)| *value)
            .collect()
    };
    let paused = match at(key).as_slice() {
        [] => return Expected::Missing,
        [Value::Bool(paused)] => Some(*paused),
        [Value::Text(text)] => boolean(text.expose_secret()),
        _ => None,
    };
    let Some(paused) = paused else {
        return Expected::Malformed;
    };
    let beside = match key.rfind(':') {
        Some(colon) => format!("{}until", &key[..=colon]),
        None => "until".to_owned(),
    };
    let until = match at(&beside).as_slice() {
        [Value::Text(text)] => text.expose_secret().trim().parse::<jiff::Timestamp>().ok(),
        _ => None,
    };
    Expected::Flag {
        paused,
        until: until.map(SystemTime::from),
    }
}

/// Runs what waits, on a clock that nobody has to wait for.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without sockets needs memory only");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// Which kind of reading an outcome is, for messages.
pub(crate) fn kind(outcome: &Result<Secret, ReadError>) -> impl Debug {
    outcome.as_ref().map(|_| "a secret").map_err(ReadError::reading)
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn every_input_that_is_kept_of_flags_and_stores_keeps_the_promises() {
        replay("flag", super::flag);
        replay("vault", super::vault);
        replay("key_vault", super::key_vault);
    }
}
