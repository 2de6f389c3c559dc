//! Reads a part of the tree as a type and reports everything that is wrong with it, not only the first thing.
//!
//! Serde stops at the first error. So a part is read again and again: each time the offending key is reported and
//! taken out, until it reads or nothing more can be taken out. Rejected: `toml::from_str` (one error, and no place in
//! a tagged enum), reading every key by hand (the types of providers and connectors live with them).
use super::fault::{Fault, What};
use super::problem::{Report, suggestion};
use super::tree::{Entry, Node, Path, Step, Table, Value, shown};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, VariantAccess, Visitor};
use std::cell::RefCell;

/// More rounds than a person makes mistakes; the bound keeps a mistake in here from becoming a loop.
const ROUNDS: usize = 512;

/// The keys by which serde tells the variants of our enums apart. Without its tag nothing of an enum can be read.
const TAGS: [&str; 2] = ["type", "method"];

/// Reads the value at `base`, without what is wrong in it and with something in the place of what is missing: all of
/// that is reported, and the rest can be judged all the same. What stands at a reported place is not judged again.
/// None if it is not there, or if nothing can stand for what is missing.
pub(super) fn read<T: DeserializeOwned>(report: &mut Report<'_>, base: &Path) -> Option<T> {
    let mut node = if base.0.is_empty() {
        Node {
            start: 0,
            value: Value::Table(report.root().clone()),
        }
    } else {
        report.node(base)?.clone()
    };
    let mut taken: Vec<Path> = Vec::new();
    let mut stood_in: Vec<Path> = Vec::new();
    for _ in 0..ROUNDS {
        let unknown = RefCell::new(Vec::new());
        let result = attempt::<T>(&node, &unknown);
        for fault in unknown.into_inner() {
            say::<T>(report, base, &node, &fault.path(), &fault);
        }
        let fault = match result {
            Ok(read) => {
                for path in taken.iter().chain(&stood_in) {
                    report.settle(&base.join(path));
                }
                return Some(read);
            }
            Err(fault) => fault,
        };
        let path = locate::<T>(&node, &fault);
        if let What::Missing(key) = fault.what {
            if !taken.contains(&path.key(key)) {
                report.missing_key(&base.join(&path), key);
            }
            if !stand_in::<T>(&mut node, &path, key, &fault) {
                return None;
            }
            stood_in.push(path.key(key));
            continue;
        }
        if stood_in.iter().any(|known| path.starts_with(known)) {
            return None; // wrong only because of what stands in for a missing key
        }
        say::<T>(report, base, &node, &path, &fault);
        if !node.remove(&path) {
            return None;
        }
        taken.push(path);
    }
    None
}

fn attempt<T: DeserializeOwned>(node: &Node, unknown: &RefCell<Vec<Fault>>) -> Result<T, Fault> {
    T::deserialize(Reader {
        node,
        path: Path::default(),
        unknown,
    })
}

fn fault_in<T: DeserializeOwned>(node: &Node) -> Option<Fault> {
    attempt::<T>(node, &RefCell::default()).err()
}

/// The path to what a fault is about. Places get lost where serde buffers a tagged enum; there, entries are added one
/// by one until the fault shows: the entry that brings it is meant.
fn locate<T: DeserializeOwned>(root: &Node, fault: &Fault) -> Path {
    let mut path = fault.path();
    if matches!(fault.what, What::Missing(_)) {
        return path;
    }
    loop {
        let Some(node) = root.get(&path.0) else {
            return path;
        };
        match (&fault.what, &node.value) {
            (What::Unknown { key, .. }, Value::Table(table)) if table.entry(key).is_some() => {
                return path.key(key);
            }
            (What::Word { known }, Value::Table(table)) => {
                let is_the_tag = |tag: &&&str| {
                    let word = table.entry(tag).and_then(|e| e.node.text());
                    word.is_some_and(|word| !known.contains(&word))
                };
                if let Some(tag) = TAGS.iter().find(is_the_tag) {
                    return path.key(tag);
                }
            }
            _ => {}
        }
        let steps: Vec<Step> = match &node.value {
            Value::Table(table) => table.0.iter().map(|e| Step::Key(e.key.clone())).collect(),
            Value::List(list) => list.iter().map(|(i, _)| Step::Index(*i)).collect(),
            _ => return path,
        };
        let with_first = |count: usize| {
            let mut trial = root.clone();
            for step in &steps[count..] {
                if !matches!(step, Step::Key(key) if TAGS.contains(&key.as_str())) {
                    trial.remove(&path.step(step.clone()));
                }
            }
            fault_in::<T>(&trial).as_ref() == Some(fault)
        };
        if with_first(0) {
            return path;
        }
        match (1..=steps.len()).find(|count| with_first(*count)) {
            Some(count) => path = path.step(steps[count - 1].clone()),
            None => return path,
        }
    }
}

/// Puts a value in the place of a required key that is missing, so that what else is wrong shows in the same run. False
/// if no value fits.
fn stand_in<T: DeserializeOwned>(node: &mut Node, path: &Path, key: &str, fault: &Fault) -> bool {
    let text = |text: &str| Value::Text {
        text: text.into(),
        written: text.into(),
    };
    let values = [
        text("x"),
        text("1s"),
        text("127.0.0.1:0"),
        text("http://127.0.0.1/"),
        Value::Integer(1),
        Value::Boolean(false),
        Value::List(Vec::new()),
    ];
    let here = path.key(key);
    for value in values {
        let mut trial = node.clone();
        let Some(Value::Table(table)) = trial.get_mut(&path.0).map(|n| &mut n.value) else {
            return false;
        };
        table.0.push(Entry {
            key: key.to_owned(),
            key_start: 0,
            node: Node { start: 0, value },
        });
        let fits = match fault_in::<T>(&trial) {
            None => true,
            Some(next) => next != *fault && !locate::<T>(&trial, &next).starts_with(&here),
        };
        if fits {
            *node = trial;
            return true;
        }
    }
    false
}

/// Says what is wrong at `path` under `base`, in words that show what the file says and nothing from elsewhere.
fn say<T: DeserializeOwned>(report: &mut Report<'_>, base: &Path, part: &Node, path: &Path, fault: &Fault) {
    let full = base.join(path);
    let node = part.get(&path.0);
    let found = node.map_or_else(|| "nothing".to_owned(), |n| n.shown(&full));
    match &fault.what {
        What::Unknown { known, .. } => report.unknown_key(&full, known.iter().copied()),
        What::Missing(key) => report.missing_key(&full, key),
        What::Other { expected } => report.at(&full, format!("expected {expected}, found {found}")),
        What::Word { known } => {
            let written = node.and_then(Node::written).unwrap_or_default();
            let what = if node.is_some_and(|n| n.written().is_some()) {
                format!(
                    "{found} is not known{}",
                    suggestion(written, known.iter().copied())
                )
            } else {
                format!("expected one of {}, found {found}", known.join(", "))
            };
            report.at(&full, what);
        }
        What::Custom(words) => {
            let mut words = harmless::<T>(part, path, words);
            if words.starts_with("expected ") && !words.contains(", found ") {
                words.push_str(&format!(", found {found}"));
            }
            report.at(&full, words);
        }
    }
}

/// The words of the type that was read may quote the value. Where the environment has part in it, they are taken from
/// a reading of what is written instead; passwords in URLs are masked.
fn harmless<T: DeserializeOwned>(part: &Node, path: &Path, words: &str) -> String {
    let words = if part.was_filled_in() {
        let written = part.as_written();
        let again = fault_in::<T>(&written).filter(|f| locate::<T>(&written, f) == *path);
        match again.map(|f| f.what) {
            Some(What::Custom(words)) => words,
            _ => {
                let found = part.get(&path.0).map(|n| n.shown(path)).unwrap_or_default();
                return format!("{found} is refused once the environment is filled in");
            }
        }
    } else {
        words.to_owned()
    };
    mask(part, words)
}

fn mask(node: &Node, words: String) -> String {
    match &node.value {
        Value::Text { written, .. } if shown(written) != *written => words.replace(written, &shown(written)),
        Value::List(list) => list.iter().fold(words, |words, (_, item)| mask(item, words)),
        Value::Table(table) => table.0.iter().fold(words, |words, e| mask(&e.node, words)),
        _ => words,
    }
}

#[derive(Clone)]
struct Reader<'a> {
    node: &'a Node,
    path: Path,
    /// Keys that the types do not know: reading goes on without them.
    unknown: &'a RefCell<Vec<Fault>>,
}

impl Reader<'_> {
    fn child<'c>(&'c self, step: Step, node: &'c Node) -> Reader<'c> {
        Reader {
            node,
            path: self.path.step(step),
            unknown: self.unknown,
        }
    }

    fn unexpected<'de, V: Visitor<'de>>(&self, visitor: &V) -> Fault {
        serde::de::Error::invalid_type(serde::de::Unexpected::Other(""), visitor)
    }

    fn any<'de, V: Visitor<'de>>(&self, known: Option<&[&str]>, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Text { text, .. } => visitor.visit_str(text),
            Value::Integer(n) => match (i64::try_from(*n), u64::try_from(*n)) {
                (Ok(n), _) => visitor.visit_i64(n),
                (_, Ok(n)) => visitor.visit_u64(n),
                _ => visitor.visit_i128(*n),
            },
            Value::Float(n) => visitor.visit_f64(*n),
            Value::Boolean(b) => visitor.visit_bool(*b),
            Value::Date(_) => Err(self.unexpected(&visitor)),
            Value::List(list) => visitor.visit_seq(Items {
                of: self,
                rest: list.iter(),
            }),
            Value::Table(table) => visitor.visit_map(Fields {
                of: self,
                known,
                rest: table.0.iter(),
                value: None,
            }),
        }
    }
}

impl<'de> serde::Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.any(None, visitor).map_err(|f| f.or_at(&self.path))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let path = self.path.clone();
        visitor.visit_newtype_struct(self).map_err(|f| f.or_at(&path))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if let Value::Table(table) = &self.node.value {
            let strangers = table.0.iter().filter(|e| !fields.contains(&e.key.as_str()));
            self.unknown.borrow_mut().extend(strangers.map(|e| {
                Fault::new(What::Unknown {
                    key: e.key.clone(),
                    known: fields,
                })
                .or_at(&self.path.key(&e.key))
            }));
        }
        self.any(Some(fields), visitor).map_err(|f| f.or_at(&self.path))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let read = match &self.node.value {
            Value::Text { text, .. } => {
                let word: StrDeserializer<'_, Fault> = text.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            Value::Table(Table(entries)) if entries.len() == 1 => visitor.visit_enum(Variant {
                of: &self,
                entry: &entries[0],
            }),
            _ => Err(self.unexpected(&visitor)),
        };
        read.map_err(|f| f.or_at(&self.path))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier
    }
}

struct Items<'a> {
    of: &'a Reader<'a>,
    rest: std::slice::Iter<'a, (usize, Node)>,
}

impl<'de> serde::de::SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some((index, node)) = self.rest.next() else {
            return Ok(None);
        };
        let item = self.of.child(Step::Index(*index), node);
        let path = item.path.clone();
        seed.deserialize(item).map(Some).map_err(|f| f.or_at(&path))
    }
}

struct Fields<'a> {
    of: &'a Reader<'a>,
    known: Option<&'a [&'a str]>,
    rest: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
}

impl<'de> serde::de::MapAccess<'de> for Fields<'_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let known = self.known;
        let is_known = |e: &&Entry| known.is_none_or(|k| k.contains(&e.key.as_str()));
        let Some(entry) = self.rest.find(is_known) else {
            return Ok(None);
        };
        self.value = Some(entry);
        let key: StrDeserializer<'_, Fault> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let Some(entry) = self.value.take() else {
            return Err(serde::de::Error::custom("a value was asked for before its key"));
        };
        let value = self.of.child(Step::Key(entry.key.clone()), &entry.node);
        let path = value.path.clone();
        seed.deserialize(value).map_err(|f| f.or_at(&path))
    }
}

struct Variant<'a> {
    of: &'a Reader<'a>,
    entry: &'a Entry,
}

impl<'a> Variant<'a> {
    fn content(&self) -> Reader<'a> {
        self.of.child(Step::Key(self.entry.key.clone()), &self.entry.node)
    }
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        let word: StrDeserializer<'_, Fault> = self.entry.key.as_str().into_deserializer();
        Ok((seed.deserialize(word)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        serde::Deserialize::deserialize(self.content())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(self.content())
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        serde::Deserializer::deserialize_any(self.content(), visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        serde::Deserializer::deserialize_struct(self.content(), "", fields, visitor)
    }
}
