//! The fields of a request, as loosely typed as Vault takes them: a number may be text, a list may be text with commas.
use super::response::{Object, Refusal};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a request carries: its JSON body, its form or its query. `null` counts as absent.
pub(crate) struct Fields<'a>(pub(crate) &'a Object);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// The raw field, `null` included: whether it was sent at all.
    pub(crate) fn sent(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, Refusal> {
        self.get(name)
            .map(|value| match value {
                Value::String(text) => Ok(text.clone()),
                Value::Number(number) => Ok(number.to_string()),
                Value::Bool(truth) => Ok(truth.to_string()),
                _ => Err(wrong(name, "text")),
            })
            .transpose()
    }

    pub(crate) fn required(&self, name: &str) -> Result<String, Refusal> {
        self.text(name)?
            .filter(|text| !text.is_empty())
            .ok_or_else(|| Refusal::bad_request(format!("missing {name}")))
    }

    pub(crate) fn whole(&self, name: &str) -> Result<Option<i64>, Refusal> {
        self.get(name)
            .map(|value| whole(value).ok_or_else(|| wrong(name, "a whole number")))
            .transpose()
    }

    pub(crate) fn truth(&self, name: &str) -> Result<Option<bool>, Refusal> {
        self.get(name)
            .map(|value| {
                match value {
                    Value::Bool(truth) => Some(*truth),
                    Value::Number(number) => number.as_i64().map(|number| number != 0),
                    Value::String(text) => match text.as_str() {
                        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
                        "0" | "f" | "F" | "false" | "FALSE" | "False" | "" => Some(false),
                        _ => None,
                    },
                    _ => None,
                }
                .ok_or_else(|| wrong(name, "true or false"))
            })
            .transpose()
    }

    /// A duration in seconds: a number, or text such as `90`, `5m`, `1h30m` or `2d`.
    pub(crate) fn seconds(&self, name: &str) -> Result<Option<i64>, Refusal> {
        self.get(name)
            .map(|value| {
                match value {
                    Value::String(text) => parse_seconds(text),
                    other => whole(other),
                }
                .ok_or_else(|| wrong(name, "a duration"))
            })
            .transpose()
    }

    /// A list, or text with commas; empty items are dropped.
    pub(crate) fn list(&self, name: &str) -> Result<Option<Vec<String>>, Refusal> {
        let bad = || wrong(name, "a list or text with commas");
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let items = match value {
            Value::String(text) => text.split(',').map(str::to_owned).collect(),
            Value::Array(items) => items
                .iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text.clone()),
                    Value::Number(number) => Ok(number.to_string()),
                    _ => Err(bad()),
                })
                .collect::<Result<Vec<_>, _>>()?,
            _ => return Err(bad()),
        };
        Ok(Some(
            items
                .iter()
                .map(|item| item.trim().to_owned())
                .filter(|item| !item.is_empty())
                .collect(),
        ))
    }

    pub(crate) fn wholes(&self, name: &str) -> Result<Vec<i64>, Refusal> {
        if let Some(Value::Number(_)) = self.get(name) {
            return Ok(self.whole(name)?.into_iter().collect());
        }
        self.list(name)?
            .unwrap_or_default()
            .iter()
            .map(|item| item.parse().map_err(|_| wrong(name, "a list of whole numbers")))
            .collect()
    }

    /// An object; the form in which it may also come, JSON in text, is taken as well.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Object>, Refusal> {
        self.get(name)
            .map(|value| match value {
                Value::Object(object) => Ok(object.clone()),
                Value::String(text) => match serde_json::from_str(text) {
                    Ok(Value::Object(object)) => Ok(object),
                    _ => Err(wrong(name, "an object")),
                },
                _ => Err(wrong(name, "an object")),
            })
            .transpose()
    }

    /// An object whose values are text.
    pub(crate) fn pairs(&self, name: &str) -> Result<Option<BTreeMap<String, String>>, Refusal> {
        let Some(object) = self.object(name)? else {
            return Ok(None);
        };
        let fields = Fields(&object);
        object
            .keys()
            .map(|key| {
                let text = fields.text(key).map_err(|_| wrong(name, "an object of texts"))?;
                Ok((key.clone(), text.unwrap_or_default()))
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

fn wrong(name: &str, expected: &str) -> Refusal {
    Refusal::bad_request(format!(
        "Field validation failed: error converting input for field {name:?}: expected {expected}"
    ))
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(truth) => Some(i64::from(*truth)),
        _ => None,
    }
}

/// Go's duration text, days added as Vault has them, rounded down to seconds.
fn parse_seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    if text.is_empty() {
        return Some(0);
    }
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    // Whole seconds of a century fit; what does not is no lifetime.
    (total < 1e10).then_some((sign * total) as i64)
}

/// Go's form of a duration: `0s`, `1h30m0s`.
pub(crate) fn go_duration(seconds: i64) -> String {
    let (sign, left) = if seconds < 0 {
        ("-", -seconds)
    } else {
        ("", seconds)
    };
    let (hours, minutes, seconds) = (left / 3600, left / 60 % 60, left % 60);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::vault::response::object;
    use serde_json::json;

    #[test]
    fn durations_read_as_vault_reads_them() {
        for (text, seconds) in [
            ("90", Some(90)),
            ("1h30m", Some(5400)),
            ("1.5h", Some(5400)),
            ("2d", Some(172_800)),
            ("1500ms", Some(1)),
            ("-1s", Some(-1)),
            ("", Some(0)),
            ("1", Some(1)),
            ("h", None),
            ("1x", None),
            ("5m3", None),
            ("1e999h", None),
            ("99999999999999h", None),
        ] {
            assert_eq!(parse_seconds(text), seconds, "{text:?}");
        }
        assert_eq!(go_duration(0), "0s");
        assert_eq!(go_duration(5400), "1h30m0s");
        assert_eq!(go_duration(-1), "-1s");
    }

    #[test]
    fn a_field_of_the_wrong_type_is_refused_without_its_value() {
        let sent = object(json!({"ttl": "MARKED", "cas": ["MARKED"], "data": "MARKED", "null": null}));
        let fields = Fields(&sent);
        for refusal in [
            fields.seconds("ttl").unwrap_err(),
            fields.whole("cas").unwrap_err(),
            fields.object("data").unwrap_err(),
            fields.truth("ttl").unwrap_err(),
            fields.wholes("ttl").unwrap_err(),
        ] {
            assert_eq!(refusal.status, 400);
            assert!(!format!("{refusal:?}").contains("MARKED"));
        }
        assert_eq!(fields.text("null").unwrap(), None);
        assert_eq!(fields.list("ttl").unwrap(), Some(vec!["MARKED".to_owned()]));
    }
}
