//! The connectors, a file each, and the enums that a hosted stream is made of.
mod encode;
mod file_place;
mod file_sink;
mod file_source;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http_sink;
mod http_source;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod kafka_offsets;
#[cfg(feature = "kafka")]
mod kafka_sink;
#[cfg(feature = "kafka")]
mod kafka_source;
mod lines;
mod memory;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "nats")]
mod nats_sink;
#[cfg(feature = "nats")]
mod nats_source;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod redis_sink;
#[cfg(feature = "redis")]
mod redis_source;
mod stdin;
mod stdout;

pub use file_sink::FileSink;
pub use file_source::{FileSettle, FileSource};
pub use http_sink::{BadTarget, HttpSink, HttpTarget};
pub use http_source::{Accept, HttpSettle, HttpSource, Webhook};
#[cfg(feature = "kafka")]
pub use kafka::KafkaTarget;
#[cfg(feature = "kafka")]
pub use kafka_sink::KafkaSink;
#[cfg(feature = "kafka")]
pub use kafka_source::{KafkaConsumer, KafkaSettle, KafkaSource};
pub use memory::{Feeder, MemorySettle, MemorySink, MemorySource, memory};
#[cfg(feature = "nats")]
pub use nats::NatsTarget;
#[cfg(feature = "nats")]
pub use nats_sink::NatsSink;
#[cfg(feature = "nats")]
pub use nats_source::{NatsConsumer, NatsSettle, NatsSource};
#[cfg(feature = "redis")]
pub use redis::RedisTarget;
#[cfg(feature = "redis")]
pub use redis_sink::RedisSink;
#[cfg(feature = "redis")]
pub use redis_source::{RedisConsumer, RedisSettle, RedisSource};
pub use stdin::{StdinSettle, StdinSource};
pub use stdout::StdoutSink;

use crate::event::{Batch, Event, Fetched, Settle, SettleError, Sink, SinkError, Source, SourceError, Token};
use crate::hold::Demand;
use crate::lease::{Outstanding, Terms};
use bytes::Bytes;
use std::time::{Duration, Instant};
use tidegate_gate::Name;

/// Any source that a configuration can name. One branch per batch, none per event.
#[derive(Debug)]
#[allow(missing_docs)] // each is named after what it holds
pub enum AnySource {
    Stdin(StdinSource),
    File(Box<FileSource>),
    Http(Box<HttpSource>),
    Memory(MemorySource),
    #[cfg(feature = "nats")]
    Nats(Box<NatsSource>),
    #[cfg(feature = "redis")]
    Redis(Box<RedisSource>),
    #[cfg(feature = "kafka")]
    Kafka(Box<KafkaSource>),
}

/// The other handle of an [`AnySource`].
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is named after what it holds
pub enum AnySettle {
    Stdin(StdinSettle),
    File(FileSettle),
    Http(HttpSettle),
    Memory(MemorySettle),
    #[cfg(feature = "nats")]
    Nats(NatsSettle),
    #[cfg(feature = "redis")]
    Redis(RedisSettle),
    #[cfg(feature = "kafka")]
    Kafka(KafkaSettle),
}

/// Any sink that a configuration can name.
#[derive(Debug)]
#[allow(missing_docs)] // each is named after what it holds
pub enum AnySink {
    Stdout(StdoutSink),
    File(Box<FileSink>),
    Http(Box<HttpSink>),
    Memory(MemorySink),
    #[cfg(feature = "nats")]
    Nats(Box<NatsSink>),
    #[cfg(feature = "redis")]
    Redis(Box<RedisSink>),
    #[cfg(feature = "kafka")]
    Kafka(Box<KafkaSink>),
}

macro_rules! each {
    ($any:ident, $self:expr, $one:ident => $do:expr) => {
        each!(@$any, $self, $one => $do)
    };
    (@AnySource, $self:expr, $one:ident => $do:expr) => {
        match $self {
            AnySource::Stdin($one) => $do,
            AnySource::File($one) => $do,
            AnySource::Http($one) => $do,
            AnySource::Memory($one) => $do,
            #[cfg(feature = "nats")]
            AnySource::Nats($one) => $do,
            #[cfg(feature = "redis")]
            AnySource::Redis($one) => $do,
            #[cfg(feature = "kafka")]
            AnySource::Kafka($one) => $do,
        }
    };
    (@AnySettle, $self:expr, $one:ident => $do:expr) => {
        match $self {
            AnySettle::Stdin($one) => $do,
            AnySettle::File($one) => $do,
            AnySettle::Http($one) => $do,
            AnySettle::Memory($one) => $do,
            #[cfg(feature = "nats")]
            AnySettle::Nats($one) => $do,
            #[cfg(feature = "redis")]
            AnySettle::Redis($one) => $do,
            #[cfg(feature = "kafka")]
            AnySettle::Kafka($one) => $do,
        }
    };
    (@AnySink, $self:expr, $one:ident => $do:expr) => {
        match $self {
            AnySink::Stdout($one) => $do,
            AnySink::File($one) => $do,
            AnySink::Http($one) => $do,
            AnySink::Memory($one) => $do,
            #[cfg(feature = "nats")]
            AnySink::Nats($one) => $do,
            #[cfg(feature = "redis")]
            AnySink::Redis($one) => $do,
            #[cfg(feature = "kafka")]
            AnySink::Kafka($one) => $do,
        }
    };
}

impl Source for AnySource {
    type Settle = AnySettle;

    fn describe(&self) -> Name {
        each!(AnySource, self, s => s.describe())
    }

    fn settle(&self) -> AnySettle {
        match self {
            AnySource::Stdin(s) => AnySettle::Stdin(s.settle()),
            AnySource::File(s) => AnySettle::File(s.settle()),
            AnySource::Http(s) => AnySettle::Http(s.settle()),
            AnySource::Memory(s) => AnySettle::Memory(s.settle()),
            #[cfg(feature = "nats")]
            AnySource::Nats(s) => AnySettle::Nats(s.settle()),
            #[cfg(feature = "redis")]
            AnySource::Redis(s) => AnySettle::Redis(s.settle()),
            #[cfg(feature = "kafka")]
            AnySource::Kafka(s) => AnySettle::Kafka(s.settle()),
        }
    }

    fn takes_back(&self) -> bool {
        each!(AnySource, self, s => s.takes_back())
    }

    fn unreturned(&self) -> u64 {
        each!(AnySource, self, s => s.unreturned())
    }

    async fn open(&mut self, epoch: u32) -> Result<(), SourceError> {
        each!(AnySource, self, s => s.open(epoch).await)
    }

    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        each!(AnySource, self, s => s.fetch(demand, into).await)
    }

    async fn close(&mut self) {
        each!(AnySource, self, s => s.close().await)
    }
}

impl Settle for AnySettle {
    fn may_lose(&self) -> bool {
        each!(AnySettle, self, s => s.may_lose())
    }

    fn ours(&self, event: &Token) -> bool {
        each!(AnySettle, self, s => s.ours(event))
    }

    fn claim(&self, event: &Token) -> bool {
        each!(AnySettle, self, s => s.claim(event))
    }

    fn terms(&self) -> Option<Terms> {
        each!(AnySettle, self, s => s.terms())
    }

    fn outstanding(&self) -> Option<Outstanding> {
        each!(AnySettle, self, s => s.outstanding())
    }

    async fn extend(&self, before: Instant) -> Result<usize, SettleError> {
        each!(AnySettle, self, s => s.extend(before).await)
    }

    fn expire(&self, before: Instant) -> usize {
        each!(AnySettle, self, s => s.expire(before))
    }

    async fn ack(&self, done: &[Token]) -> Result<(), SettleError> {
        each!(AnySettle, self, s => s.ack(done).await)
    }

    async fn give_back(&self, held: &[Token]) -> Result<(), SettleError> {
        each!(AnySettle, self, s => s.give_back(held).await)
    }
}

impl Sink for AnySink {
    fn describe(&self) -> Name {
        each!(AnySink, self, s => s.describe())
    }

    fn batch(&self) -> usize {
        each!(AnySink, self, s => s.batch())
    }

    fn timeout(&self) -> Option<Duration> {
        each!(AnySink, self, s => s.timeout())
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        each!(AnySink, self, s => s.open().await)
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        each!(AnySink, self, s => s.write(events).await)
    }

    async fn write_lines(&mut self, events: &[Event], lines: &Bytes) -> Result<(), SinkError> {
        each!(AnySink, self, s => s.write_lines(events, lines).await)
    }
}
