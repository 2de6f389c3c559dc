//! What a store holds, before any flag is looked up in it: switches with different keys share one secret.
use secrecy::SecretString;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use tidegate_gate::{Name, Version};

/// A secret as one read found it.
#[derive(Debug)]
pub struct Secret {
    /// What it holds.
    pub body: Body,
    /// Which state of it this is.
    pub version: Version,
    /// The version as a number that grows, from stores that count (Vault KV v2). Only such versions can be stale.
    pub serial: Option<u64>,
    /// What people should know besides, such as an expiry date of the secret itself; never a value.
    pub warnings: Vec<Name>,
}

/// What a secret holds.
#[derive(Debug)]
pub enum Body {
    /// Fields by name, as Vault's KV stores keep them.
    Fields(Fields),
    /// One text: a bare boolean, or an object as JSON.
    Text(SecretString),
}

/// Named values in the order in which they were written; names may repeat, which the flag's reader refuses where it
/// matters. A map would have dropped one of two silently.
#[derive(Default)]
pub struct Fields(Vec<(String, Value)>);

/// A field's value, as far as a flag can be made of it. `Debug` shows its kind and nothing else.
pub enum Value {
    /// Text.
    Text(SecretString),
    /// A JSON boolean.
    Bool(bool),
    /// A JSON null.
    Null,
    /// An object.
    Fields(Fields),
    /// A number or a list: never a flag, so it is not kept.
    Other,
}

impl Fields {
    /// Names and values in the order in which they were written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl<N: Into<String>> FromIterator<(N, Value)> for Fields {
    fn from_iter<I: IntoIterator<Item = (N, Value)>>(fields: I) -> Self {
        Fields(fields.into_iter().map(|(n, v)| (n.into(), v)).collect())
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Value::Text(_) => "text",
            Value::Bool(_) => "boolean",
            Value::Null => "null",
            Value::Fields(_) => "object",
            Value::Other => "other",
        })
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(Object)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }
            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.into()))
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Value::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
                Fields::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Value::Fields)
            }
        }
        from.deserialize_any(Any)
    }
}
