//! What serde objects to, kept in parts: a sentence is made of them only once it is known where the value stands and
//! whether it may be shown.
use super::tree::Path;
use serde::de::{Expected, Unexpected};
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    /// The nearest value above what is wrong whose place is known: serde buffers tagged enums and forgets places.
    path: Option<Path>,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// Words of the type that was read. They may quote the value.
    Custom(String),
    /// Not the kind or the range of value that was expected. What was found is not kept: it may be secret.
    Other { expected: String },
    /// Not one of the words that are known.
    Word { known: &'static [&'static str] },
    /// A key that is not known.
    Unknown {
        key: String,
        known: &'static [&'static str],
    },
    /// A key that has to be there.
    Missing(&'static str),
}

impl Fault {
    pub(super) fn new(what: What) -> Fault {
        Fault { path: None, what }
    }

    /// Says where, unless that is known more closely already.
    pub(super) fn or_at(mut self, path: &Path) -> Fault {
        self.path.get_or_insert_with(|| path.clone());
        self
    }

    pub(super) fn path(&self) -> Path {
        self.path.clone().unwrap_or_default()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Custom(words) => f.write_str(words),
            What::Other { expected } => write!(f, "expected {expected}"),
            What::Word { known } => write!(f, "expected one of {}", known.join(", ")),
            What::Unknown { key, .. } => write!(f, "unknown key {key}"),
            What::Missing(key) => write!(f, "missing key {key}"),
        }
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(words: T) -> Fault {
        Fault::new(What::Custom(words.to_string()))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        Fault::new(What::Other {
            expected: plain(expected),
        })
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        Fault::new(What::Other {
            expected: plain(expected),
        })
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Fault {
        Fault::new(What::Other {
            expected: plain(expected),
        })
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Fault {
        Fault::new(What::Word { known })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Fault {
        Fault::new(What::Unknown {
            key: key.to_owned(),
            known,
        })
    }

    fn missing_field(key: &'static str) -> Fault {
        Fault::new(What::Missing(key))
    }

    fn duplicate_field(key: &'static str) -> Fault {
        Fault::new(What::Custom(format!("{key} is given twice")))
    }
}

/// Serde's words for types, in those of somebody who writes TOML.
fn plain(expected: &dyn Expected) -> String {
    let words = expected.to_string();
    match words.as_str() {
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" | "u64" | "usize" | "u128" => "a whole number, 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" | "i128" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        "path string" => "a path".into(),
        _ if words.starts_with("struct ")
            || words.starts_with("internally tagged enum ")
            || words.starts_with("struct variant ") =>
        {
            "a table".into()
        }
        _ if words.starts_with("a nonzero ") => "a whole number, 1 or more".into(),
        _ => words,
    }
}
