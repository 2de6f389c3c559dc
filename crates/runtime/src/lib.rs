//! What gets paused: streams hosted behind a gate, from source through stages to sink.
//!
//! [`build`] makes a [`Stream`] of a [`StreamConfig`], [`Supervisor::spawn`] runs streams, [`herald`] keeps the board
//! true. Embedders who have a source, stages and a sink of their own hand a [`Pipeline`] to [`drive`]: it is
//! generic, so their stages are inlined. Whoever has a loop of their own needs none of this, but a
//! [`Lane`](tidegate_gate::Lane).
//!
//! ```
//! # use tidegate_runtime::{DeadLetters, Limits, MemorySink, Pipeline, drive, memory};
//! # use tidegate_gate::{Clock, Holds, Kind, Moment};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let clock = Clock::new(|| Moment { wall: std::time::SystemTime::now(), mono: std::time::Instant::now() });
//! let holds = Holds::new(clock);
//! let member = holds.register("orders", Kind::Stream).expect("the name is free");
//! let (feeder, source) = memory(100);
//! let sink = MemorySink::new();
//! feeder.send("an event").await;
//! drop(feeder); // the source ends, and so does the stream
//!
//! let pipeline = Pipeline {
//!     source,
//!     stages: (),
//!     sink: sink.clone(),
//!     dead_letters: DeadLetters::none(),
//!     limits: Limits::default(),
//! };
//! drive(&member, pipeline, Default::default()).await;
//! assert_eq!(sink.events()[0].payload, "an event");
//! # }
//! ```
mod broker_config;
mod config;
mod connectors;
mod dead_letter;
mod event;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod hold;
mod lane;
mod lease;
mod life;
mod pace;
mod pending;
mod stages;
mod stream;
mod supervisor;
mod together;
mod vitals;

pub use broker_config::{
    BadBroker, KafkaAuth, KafkaSinkConfig, KafkaSourceConfig, NatsAuth, NatsSinkConfig, NatsSourceConfig,
    RedisSinkConfig, RedisSourceConfig, kafka_option_refused,
};
pub use config::{
    BuildError, CountStageConfig, FileSinkConfig, FileSourceConfig, HttpSinkConfig, HttpSourceConfig,
    JqStageConfig, SinkConfig, SourceConfig, StageConfig, StdinSourceConfig, StdoutSinkConfig, StreamConfig,
    build,
};
pub use connectors::{
    Accept, AnySettle, AnySink, AnySource, BadTarget, Feeder, FileSettle, FileSink, FileSource, HttpSettle,
    HttpSink, HttpSource, HttpTarget, MemorySettle, MemorySink, MemorySource, StdinSettle, StdinSource,
    StdoutSink, Webhook, memory,
};
#[cfg(feature = "kafka")]
pub use connectors::{KafkaConsumer, KafkaSettle, KafkaSink, KafkaSource, KafkaTarget};
#[cfg(feature = "nats")]
pub use connectors::{NatsConsumer, NatsSettle, NatsSink, NatsSource, NatsTarget};
#[cfg(feature = "redis")]
pub use connectors::{RedisConsumer, RedisSettle, RedisSink, RedisSource, RedisTarget};
pub use dead_letter::DeadLetters;
pub use event::{
    Batch, Event, Fetched, Poison, Settle, SettleError, Sink, SinkError, Source, SourceError, Stage, Stages,
    Token,
};
pub use hold::{Ask, Demand, Limits};
pub use lease::{LeaseId, Leases, Outstanding, Terms};
pub use pace::Pace;
pub use stages::{BadExpression, Count, Filter, Map};
pub use stream::{Outcome, Pipeline, Report, drive};
pub use supervisor::{Stream, Supervisor, herald};
pub use tidegate_state::StateDir;
