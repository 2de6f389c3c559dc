//! (secret, key) → flag: strict, per switch, in one place.
//!
//! A valid flag always wins: what is wrong beside it (`until`, `reason`, `by`) is dropped and told, because a pause
//! that is lost to a typing error in its end time is worse than a pause without one.
use crate::{Body, Fields, MOST_BYTES, Secret, Value};
use secrecy::{ExposeSecret, SecretString};
use std::time::SystemTime;
use tidegate_gate::{Flag, Name, plain};

/// Why a secret holds no flag under a key. The texts say what was expected, never what was found.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlagError {
    /// The secret is there, the key is not.
    #[error("the secret has no field \"{0}\"")]
    NoSuchField(Name),
    /// Something else than a flag is there.
    #[error("{0}")]
    Malformed(Name),
}

/// Looks up the flag that `key` names in a secret.
///
/// `:` in the key steps into objects as .NET configuration does, and names are compared without case. A bare boolean
/// is the flag whatever the key says: it has no names to look one up by.
pub fn read_flag(secret: &Secret, key: &str) -> Result<Flag, FlagError> {
    let mut flag = match &secret.body {
        Body::Fields(fields) => from_fields(fields, key)?,
        Body::Text(text) => from_text(text, key)?,
    };
    flag.warnings.extend(secret.warnings.iter().cloned());
    Ok(flag)
}

fn from_text(text: &SecretString, key: &str) -> Result<Flag, FlagError> {
    let text = text.expose_secret();
    if text.len() > MOST_BYTES {
        let why = format!("expected a flag, which is far shorter than {MOST_BYTES} bytes");
        return Err(FlagError::Malformed(why.into()));
    }
    if let Some(paused) = boolean(text) {
        return Ok(bare(paused));
    }
    match serde_json::from_str::<Fields>(text) {
        Ok(fields) => from_fields(&fields, key),
        // What serde says may quote the text.
        Err(_) => Err(FlagError::Malformed(
            format!("expected true or false, or a JSON object with \"{key}\": true or false").into(),
        )),
    }
}

fn from_fields(fields: &Fields, key: &str) -> Result<Flag, FlagError> {
    let value = match find(fields, key) {
        Found::One(value) => value,
        Found::None => return Err(FlagError::NoSuchField(key.into())),
        Found::Several => {
            let why = format!(
                "expected one field \"{key}\", and there are several (names are compared without case)"
            );
            return Err(FlagError::Malformed(why.into()));
        }
    };
    let paused = match value {
        Value::Bool(paused) => Some(*paused),
        Value::Text(text) => boolean(text.expose_secret()),
        Value::Null | Value::Fields(_) | Value::Other => None,
    };
    let Some(paused) = paused else {
        return Err(FlagError::Malformed(
            format!("expected \"{key}\" to be true or false").into(),
        ));
    };

    let mut flag = bare(paused);
    let beside = |name: &str| match key.rsplit_once(':') {
        Some((parent, _)) => format!("{parent}:{name}"),
        None => name.to_owned(),
    };
    for (name, slot) in [("reason", &mut flag.reason), ("by", &mut flag.by)] {
        match text_of(fields, &beside(name)) {
            Ok(text) => *slot = text.and_then(|t| plain(t.expose_secret().into())),
            Err(NoText) => flag
                .warnings
                .push(format!("\"{name}\" is not a single text and is ignored").into()),
        }
    }
    match text_of(fields, &beside("until")).map(|text| text.map(|t| instant(t.expose_secret()))) {
        Ok(None) => {}
        Ok(Some(Some(until))) => flag.until = Some(until),
        Ok(Some(None)) | Err(NoText) => flag.warnings.push(
            "\"until\" is not a time such as 2026-11-22T18:00:00Z and is ignored: the flag has no expiry"
                .into(),
        ),
    }
    Ok(flag)
}

fn bare(paused: bool) -> Flag {
    Flag {
        paused,
        reason: None,
        by: None,
        until: None,
        warnings: Vec::new(),
    }
}

/// Any case, outer white space ignored, nothing else: `yes` and `1` are refused rather than guessed at.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

fn instant(text: &str) -> Option<SystemTime> {
    text.trim().parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

enum Found<'a> {
    None,
    One(&'a Value),
    Several,
}

fn find<'a>(fields: &'a Fields, path: &str) -> Found<'a> {
    let mut hits = Vec::new();
    walk(fields, &folded(path), &mut hits);
    match hits.as_slice() {
        [] => Found::None,
        [one] => Found::One(one),
        _ => Found::Several,
    }
}

/// Letter by letter: `str::to_lowercase` looks at what follows a letter (Greek has a sigma for the ends of words), so that a name
/// would be another one before a `:`.
fn folded(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// As .NET flattens its configuration: `a:b` is the field `b` of `a` as well as a field that is called `a:b`.
fn walk<'a>(fields: &'a Fields, path: &str, hits: &mut Vec<&'a Value>) {
    for (name, value) in fields.iter() {
        let Some(rest) = path.strip_prefix(&*folded(name)) else {
            continue;
        };
        if rest.is_empty() {
            hits.push(value);
        } else if let (Some(rest), Value::Fields(inner)) = (rest.strip_prefix(':'), value) {
            walk(inner, rest, hits);
        }
    }
}

struct NoText;

/// Empty text and null count as absent: `vault kv patch … until=""` is how people take an expiry away.
fn text_of<'a>(fields: &'a Fields, path: &str) -> Result<Option<&'a SecretString>, NoText> {
    match find(fields, path) {
        Found::None | Found::One(Value::Null) => Ok(None),
        Found::One(Value::Text(text)) if text.expose_secret().trim().is_empty() => Ok(None),
        Found::One(Value::Text(text)) => Ok(Some(text)),
        Found::One(_) | Found::Several => Err(NoText),
    }
}

#[cfg(test)]
#[path = "flag_tests.rs"]
mod tests;
