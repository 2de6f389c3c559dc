//! The parsed file with the place of every key and value, and `${NAME}` filled in.
//!
//! Filled in here, in the parsed strings, and never in the raw text: a value from the environment can then hold
//! quotes, newlines or `#` without becoming configuration.
use std::env::VarError;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where the environment is asked.
pub type Lookup<'a> = dyn Fn(&str) -> Result<String, VarError> + 'a;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The way from the top of the file to a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    pub(super) fn top(key: &str) -> Path {
        Path(vec![Step::Key(key.to_owned())])
    }

    pub(super) fn key(&self, key: &str) -> Path {
        self.step(Step::Key(key.to_owned()))
    }

    pub(super) fn index(&self, index: usize) -> Path {
        self.step(Step::Index(index))
    }

    pub(super) fn step(&self, step: Step) -> Path {
        let mut longer = self.clone();
        longer.0.push(step);
        longer
    }

    pub(super) fn join(&self, rest: &Path) -> Path {
        Path(self.0.iter().chain(&rest.0).cloned().collect())
    }

    pub(super) fn starts_with(&self, other: &Path) -> bool {
        self.0.starts_with(&other.0)
    }

    /// What stands here may be a password: by its own key, or because everything in its table may be.
    fn leads_to_a_secret(&self) -> bool {
        let mut keys = self.0.iter().rev().filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        });
        keys.next().is_some_and(names_a_secret) || keys.any(|table| matches!(table, "headers" | "options"))
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) start: usize,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text {
        /// With `${NAME}` filled in; shown to nobody.
        text: String,
        /// As it stands in the file.
        written: String,
    },
    Integer(i128),
    Float(f64),
    Boolean(bool),
    /// A TOML date or time, which no key takes.
    Date(String),
    /// With the number each item has in the file: items are taken out, and the others keep theirs.
    List(Vec<(usize, Node)>),
    Table(Table),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_start: usize,
    pub(super) node: Node,
}

/// Entries in the order of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(pub(super) Vec<Entry>);

impl Table {
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Node> {
        let (first, rest) = path.0.split_first()?;
        let Step::Key(key) = first else { return None };
        self.entry(key)?.node.get(rest)
    }

    /// Byte offset of the value at `path`, or of the nearest thing above it.
    pub(super) fn value_offset(&self, path: &Path) -> usize {
        self.offset(path, |entry| entry.node.start)
    }

    /// Byte offset of the key at `path`, or of the nearest thing above it.
    pub(super) fn key_offset(&self, path: &Path) -> usize {
        self.offset(path, |entry| entry.key_start)
    }

    fn offset(&self, path: &Path, of: fn(&Entry) -> usize) -> usize {
        for shown in (1..=path.0.len()).rev() {
            let part = Path(path.0[..shown].to_vec());
            let Some(node) = self.get(&part) else { continue };
            let (parent, last) = (Path(part.0[..shown - 1].to_vec()), &part.0[shown - 1]);
            let Step::Key(key) = last else { return node.start };
            let table = if parent.0.is_empty() {
                Some(self)
            } else {
                self.get(&parent).and_then(Node::as_table)
            };
            return table.and_then(|t| t.entry(key)).map_or(node.start, of);
        }
        0
    }

    /// `switch[ops].interval`: elements that have a name are called by it.
    pub(super) fn name(&self, path: &Path) -> String {
        let mut out = String::new();
        for (i, step) in path.0.iter().enumerate() {
            match step {
                Step::Key(key) if i == 0 => out.push_str(key),
                Step::Key(key) => {
                    out.push('.');
                    out.push_str(key);
                }
                Step::Index(index) => {
                    let node = self.get(&Path(path.0[..=i].to_vec()));
                    let name = node
                        .and_then(Node::as_table)
                        .and_then(|t| t.entry("name"))
                        .and_then(|e| e.node.written());
                    match name {
                        Some(name) if !name.is_empty() => out.push_str(&format!("[{name}]")),
                        _ => out.push_str(&format!("[{index}]")),
                    }
                }
            }
        }
        out
    }
}

impl Node {
    pub(super) fn get(&self, path: &[Step]) -> Option<&Node> {
        let Some((first, rest)) = path.split_first() else {
            return Some(self);
        };
        match (first, &self.value) {
            (Step::Key(key), Value::Table(table)) => table.entry(key)?.node.get(rest),
            (Step::Index(index), Value::List(list)) => list.iter().find(|(i, _)| i == index)?.1.get(rest),
            _ => None,
        }
    }

    pub(super) fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The text of a string as it stands in the file.
    pub(super) fn written(&self) -> Option<&str> {
        match &self.value {
            Value::Text { written, .. } => Some(written),
            _ => None,
        }
    }

    /// The text of a string with the environment filled in.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Something in here came from the environment.
    pub(super) fn was_filled_in(&self) -> bool {
        match &self.value {
            Value::Text { text, written } => text != written,
            Value::List(list) => list.iter().any(|(_, item)| item.was_filled_in()),
            Value::Table(table) => table.0.iter().any(|entry| entry.node.was_filled_in()),
            _ => false,
        }
    }

    /// Every text that was filled in, with what stands in the file.
    pub(super) fn filled_in<'n>(&'n self, into: &mut Vec<(&'n str, &'n str)>) {
        match &self.value {
            Value::Text { text, written } if text != written => into.push((text, written)),
            Value::List(list) => list.iter().for_each(|(_, item)| item.filled_in(into)),
            Value::Table(table) => table.0.iter().for_each(|entry| entry.node.filled_in(into)),
            _ => {}
        }
    }

    /// The same as it stands in the file.
    pub(super) fn as_written(&self) -> Node {
        let value = match &self.value {
            Value::Text { written, .. } => Value::Text {
                text: written.clone(),
                written: written.clone(),
            },
            Value::List(list) => Value::List(list.iter().map(|(i, item)| (*i, item.as_written())).collect()),
            Value::Table(table) => Value::Table(Table(
                table
                    .0
                    .iter()
                    .map(|entry| Entry {
                        node: entry.node.as_written(),
                        ..entry.clone()
                    })
                    .collect(),
            )),
            other => other.clone(),
        };
        Node {
            start: self.start,
            value,
        }
    }

    pub(super) fn get_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        let Some((first, rest)) = path.split_first() else {
            return Some(self);
        };
        let child = match (first, &mut self.value) {
            (Step::Key(key), Value::Table(table)) => {
                &mut table.0.iter_mut().find(|entry| entry.key == *key)?.node
            }
            (Step::Index(index), Value::List(list)) => &mut list.iter_mut().find(|(i, _)| i == index)?.1,
            _ => return None,
        };
        child.get_mut(rest)
    }

    /// Takes out what is at `path`, and says whether anything was there.
    pub(super) fn remove(&mut self, path: &Path) -> bool {
        let Some((last, above)) = path.0.split_last() else {
            return false;
        };
        let Some(parent) = self.get_mut(above) else {
            return false;
        };
        match (last, &mut parent.value) {
            (Step::Key(key), Value::Table(table)) => {
                let before = table.0.len();
                table.0.retain(|entry| entry.key != *key);
                table.0.len() < before
            }
            (Step::Index(index), Value::List(list)) => {
                let before = list.len();
                list.retain(|(i, _)| i != index);
                list.len() < before
            }
            _ => false,
        }
    }

    /// What a person is told that they wrote: never the environment's part, never a password.
    pub(super) fn shown(&self, at: &Path) -> String {
        match &self.value {
            Value::List(_) => "a list".into(),
            Value::Table(_) => "a table".into(),
            _ if at.leads_to_a_secret() => "a value (not shown)".into(),
            Value::Text { written, .. } => format!("\"{}\"", shown(written)),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(value) => value.to_string(),
            Value::Date(date) => format!("the date {date}"),
        }
    }
}

fn names_a_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "passwd", "secret", "token", "credential", "role_id"]
        .iter()
        .any(|word| key.contains(word))
        && !key.ends_with("_file")
}

/// A value as it is shown to a person: one line, at most 80 characters, without a password in a URL.
pub(super) fn shown(text: &str) -> String {
    let masked = match text.split_once("://") {
        Some((scheme, rest)) => {
            let host_ends = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            match rest[..host_ends].rfind('@') {
                Some(at) => format!("{scheme}://***{}", &rest[at..]),
                None => text.to_owned(),
            }
        }
        None => text.to_owned(),
    };
    let mut out: String = masked.chars().take(80).flat_map(char::escape_debug).collect();
    if masked.chars().nth(80).is_some() {
        out.push('…');
    }
    out
}

/// Builds the tree. What cannot be filled in or held is added to `wrong`; in the tree it stands as it is written.
pub(super) fn build(table: &DeTable<'_>, env: &Lookup<'_>, wrong: &mut Vec<(Path, String)>) -> Table {
    build_table(table, env, &Path::default(), wrong)
}

fn build_table(table: &DeTable<'_>, env: &Lookup<'_>, path: &Path, wrong: &mut Vec<(Path, String)>) -> Table {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_start: key.span().start,
            node: build_node(value, env, &path.key(key.get_ref()), wrong),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_start);
    Table(entries)
}

fn build_node(
    value: &Spanned<DeValue<'_>>,
    env: &Lookup<'_>,
    path: &Path,
    wrong: &mut Vec<(Path, String)>,
) -> Node {
    let Range { start, .. } = value.span();
    let value = match value.get_ref() {
        DeValue::String(written) => {
            let (text, refused) = match fill_in(written, env) {
                Ok(text) => (text, None),
                Err(what) => (written.to_string(), Some(what)),
            };
            let value = Value::Text {
                text,
                written: written.to_string(),
            };
            if let Some(what) = refused {
                let found = Node {
                    start,
                    value: value.clone(),
                }
                .shown(path);
                wrong.push((path.clone(), format!("{what}, found {found}")));
            }
            value
        }
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => {
                wrong.push((path.clone(), "the number is too large".into()));
                Value::Integer(0)
            }
        },
        // Every float that TOML allows is one that Rust reads.
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(list) => Value::List(
            list.iter()
                .enumerate()
                .map(|(i, item)| (i, build_node(item, env, &path.index(i), wrong)))
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(build_table(table, env, path, wrong)),
    };
    Node { start, value }
}

/// Replaces `${NAME}` by the environment's value and `$${` by `${`. Errors name the variable, never a value.
pub(super) fn fill_in(written: &str, env: &Lookup<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end = inner
            .find('}')
            .ok_or("expected ${NAME}, or $${ for a literal ${")?;
        let name = &inner[..end];
        let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !valid {
            return Err(
                "expected ${NAME} with a name of letters, digits and _, or $${ for a literal ${".into(),
            );
        }
        match env(name) {
            Ok(value) => out.push_str(&value),
            Err(VarError::NotPresent) => {
                return Err(format!("the environment variable {name} is not set"));
            }
            Err(VarError::NotUnicode(_)) => {
                return Err(format!("the environment variable {name} is not UTF-8"));
            }
        }
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Result<String, VarError> {
        match name {
            "HOST" => Ok("vault.internal".into()),
            "EMPTY" => Ok(String::new()),
            "TRICK" => Ok("${HOST}".into()),
            _ => Err(VarError::NotPresent),
        }
    }

    #[test]
    fn the_environment_is_filled_in_once_and_only_where_it_is_asked() {
        let ok = |text: &str| fill_in(text, &env).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(ok("https://${HOST}:8200"), "https://vault.internal:8200");
        assert_eq!(ok("${EMPTY}"), "");
        assert_eq!(ok("${TRICK}"), "${HOST}");
        assert_eq!(ok("$HOST $ {HOST} $"), "$HOST $ {HOST} $");
        assert_eq!(ok("$${HOST}"), "${HOST}");
        assert_eq!(ok("$$${HOST}"), "$${HOST}");
        for bad in ["${", "${HOST", "${}", "${1A}", "${A B}", "${GONE}"] {
            assert!(fill_in(bad, &env).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        assert_eq!(shown("redis://u:p@ss@h:1/x@y"), "redis://***@h:1/x@y");
        assert_eq!(shown("https://h/x"), "https://h/x");
        assert_eq!(shown("a\nb"), "a\\nb");
        assert!(names_a_secret("sasl.password") && names_a_secret("secret") && !names_a_secret("token_file"));
    }
}
