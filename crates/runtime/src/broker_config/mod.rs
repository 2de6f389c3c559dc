//! What a configuration says of brokers. These types are there whichever brokers a build has, so that one that it has
//! not is named as such.
mod kafka;
mod nats;
mod redis;

pub use kafka::{KafkaAuth, KafkaSinkConfig, KafkaSourceConfig, kafka_option_refused};
pub use nats::{NatsAuth, NatsSinkConfig, NatsSourceConfig};
pub use redis::{RedisSinkConfig, RedisSourceConfig};

pub(crate) use kafka::{sink as kafka_sink, source as kafka_source};
pub(crate) use nats::{sink as nats_sink, source as nats_source};
pub(crate) use redis::{sink as redis_sink, source as redis_source};

use crate::config::{BuildError, duration};
use crate::hold::Limits;
use serde::Deserializer;
use std::time::Duration;

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn prefetch() -> usize {
    1024
}

fn prefetch_bytes() -> usize {
    8 << 20
}

fn maybe_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    duration(from).map(Some)
}

/// What is wrong with what a configuration says of a broker.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadBroker {
    /// Its address.
    #[error("\"{url}\" is no address: expected {expected}")]
    Address {
        /// The URL as it may be shown.
        url: String,
        /// What was expected.
        expected: &'static str,
    },
    /// An option of its client library; the text names the option and never quotes its value.
    #[error("{0}")]
    Option(String),
}

#[cfg(any(feature = "nats", feature = "redis", feature = "kafka"))]
impl BadBroker {
    pub(crate) fn new(url: &str, expected: &'static str) -> BadBroker {
        // Whatever stands before the last @ may be a password.
        let shown = match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
            (None, Some((_, rest))) => format!("…@{rest}"),
            _ => url.to_owned(),
        };
        BadBroker::Address { url: shown, expected }
    }
}

/// What names the stream, and its source or its sink, in what is wrong with it.
#[cfg(any(feature = "nats", feature = "redis", feature = "kafka"))]
fn broken(stream: &str, part: &'static str) -> impl FnOnce(BadBroker) -> BuildError {
    move |source| BuildError::Broker {
        stream: stream.to_owned(),
        part,
        source,
    }
}

#[cfg(not(all(feature = "nats", feature = "redis", feature = "kafka-tls")))]
fn not_built(stream: &str, broker: &'static str) -> BuildError {
    BuildError::NotBuilt {
        stream: stream.to_owned(),
        broker,
    }
}

/// The source and the sink of a broker that this build has not.
#[cfg(not(all(feature = "nats", feature = "redis", feature = "kafka")))]
macro_rules! without {
    ($broker:literal, $source:ty, $sink:ty) => {
        pub(crate) fn source(stream: &str, _: &$source) -> Result<AnySource, BuildError> {
            Err(super::not_built(stream, $broker))
        }

        pub(crate) fn sink(stream: &str, _: &$sink) -> Result<AnySink, BuildError> {
            Err(super::not_built(stream, $broker))
        }
    };
}
#[cfg(not(all(feature = "nats", feature = "redis", feature = "kafka")))]
use without;

pub(crate) fn limits(prefetch: usize, prefetch_bytes: usize) -> Limits {
    Limits {
        events: prefetch,
        bytes: prefetch_bytes,
        ..Limits::default()
    }
}
