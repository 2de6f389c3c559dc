//! The provider in memory.
use crate::bench::Bench;
use tidegate_providers::{Fixed, FixedHand, Provider, ReadError};

pub(crate) struct Memory {
    fixed: Fixed,
    hand: FixedHand,
}

impl Bench for Memory {
    async fn open() -> Self {
        let (fixed, hand) = Fixed::new("contract", "false");
        Memory { fixed, hand }
    }
    fn provider(&self) -> Box<dyn Provider> {
        Box::new(self.fixed.clone())
    }
    fn other(&self) -> Box<dyn Provider> {
        let (other, hand) = Fixed::new("other", "false");
        hand.fail(ReadError::Missing("there is no such secret in memory".into()));
        Box::new(other)
    }
    async fn set(&self, fields: &[(&str, &str)]) {
        let object: serde_json::Map<_, _> = fields
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).into()))
            .collect();
        self.hand.set_text(&serde_json::Value::Object(object).to_string());
    }
    fn ailments(&self) -> Vec<(&'static str, &'static str)> {
        let words = [
            "missing",
            "deleted",
            "disabled",
            "malformed",
            "denied",
            "throttled",
            "sealed",
            "unavailable",
        ];
        words.map(|word| (word, word)).into()
    }
    async fn ail(&self, way: &str) {
        let why = "a test said so, and nothing else did";
        let (why, retry_after) = (why.into(), None);
        if way == "malformed" {
            return self.hand.set_text(r#"{"IsPaused": "MARKED"}"#);
        }
        self.hand.fail(match way {
            "missing" => ReadError::Missing(why),
            "deleted" => ReadError::Deleted(why),
            "disabled" => ReadError::Disabled(why),
            "denied" => ReadError::Denied(why),
            "throttled" => ReadError::Throttled { why, retry_after },
            "sealed" => ReadError::Sealed { why, retry_after },
            _ => ReadError::Unavailable { why, retry_after },
        });
    }
    async fn heal(&self) {}
}
