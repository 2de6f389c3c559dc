//! What a configuration says of a stream, and one place that builds it.
use crate::broker_config::{
    self, BadBroker, KafkaSinkConfig, KafkaSourceConfig, NatsSinkConfig, NatsSourceConfig, RedisSinkConfig,
    RedisSourceConfig,
};
use crate::connectors::{
    Accept, AnySink, AnySource, BadTarget, FileSink, FileSource, HttpSink, HttpSource, HttpTarget,
    StdinSource, StdoutSink, Webhook,
};
use crate::dead_letter::DeadLetters;
use crate::event::Stage;
use crate::hold::Limits;
use crate::pace::Pace;
use crate::stages::{BadExpression, Count, Filter, Map};
use crate::stream::Pipeline;
use crate::supervisor::Stream;
use secrecy::SecretString;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::{Holds, Kind, NameTaken};
use tidegate_http::{Address, BadAddress};
use tidegate_state::{StateDir, StateError};

/// `[[stream]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Its name, shared with the HTTP gates.
    pub name: String,
    /// Where its events come from.
    pub source: SourceConfig,
    /// What happens to them, in this order.
    #[serde(default, rename = "stage")]
    pub stages: Vec<StageConfig>,
    /// Where they go.
    pub sink: SinkConfig,
    /// For `resume_ramp` after each resume, let so many events a second pass at most. Unset: as fast as it goes.
    #[serde(default)]
    pub resume_rate: Option<NonZeroU32>,
    /// How long `resume_rate` holds.
    #[serde(default = "a_minute", deserialize_with = "duration")]
    pub resume_ramp: Duration,
    /// Where those go that nobody can take. Unset: a file in `state_dir`; without that either, the first such
    /// event stops the stream as `failed`.
    #[serde(default)]
    pub dead_letter: Option<PathBuf>,
}

fn a_minute() -> Duration {
    Duration::from_secs(60)
}

/// `[stream.source]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SourceConfig {
    /// Lines of standard input.
    Stdin(StdinSourceConfig),
    /// Lines of a file.
    File(FileSourceConfig),
    /// Bodies that are posted to a path.
    Http(HttpSourceConfig),
    /// A NATS JetStream consumer.
    Nats(NatsSourceConfig),
    /// A Redis Streams consumer group.
    Redis(RedisSourceConfig),
    /// A Kafka consumer group.
    Kafka(KafkaSourceConfig),
}

/// `type = "stdin"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinSourceConfig {
    /// The longest line in bytes; a longer one goes to the dead letter.
    #[serde(default = "max_line")]
    pub max_line: usize,
}

/// `type = "file"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSourceConfig {
    /// The file, read from its beginning or from where the last process stopped.
    pub path: PathBuf,
    /// Go on at the end, through rotations and truncations. Unset: the end of the file ends the stream.
    #[serde(default)]
    pub follow: bool,
    /// The longest line in bytes; a longer one goes to the dead letter.
    #[serde(default = "max_line")]
    pub max_line: usize,
}

/// `type = "http"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSourceConfig {
    /// Where to listen: `127.0.0.1:8080`, or `unix:/path`.
    pub listen: String,
    /// The path that takes events.
    #[serde(default = "root")]
    pub path: String,
    /// `stored` answers 200 once the sink has the event, `early` answers 202 at once and may lose what is held.
    #[serde(default)]
    pub accept: Accept,
    /// The longest body in bytes; a longer one gets 413.
    #[serde(default = "max_line")]
    pub max_body: usize,
    /// So many events may wait; one more gets 429.
    #[serde(default = "max_waiting")]
    pub max_waiting: usize,
}

fn root() -> String {
    "/".into()
}

fn max_waiting() -> usize {
    1024
}

/// So many bytes of posted events may wait, whatever their number.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// `[[stream.stage]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StageConfig {
    /// Keeps the events for which a jq expression is true.
    Filter(JqStageConfig),
    /// Replaces each event by the outputs of a jq expression.
    Map(JqStageConfig),
    /// Replaces each event by the count of its key.
    Count(CountStageConfig),
}

/// `type = "filter"` and `type = "map"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JqStageConfig {
    /// The expression; it sees the event and nothing else.
    pub jq: String,
}

/// `type = "count"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountStageConfig {
    /// A jq expression whose first output is the key.
    pub by: String,
    /// An event with one key more goes to the dead letter.
    #[serde(default = "max_keys")]
    pub max_keys: usize,
}

fn max_keys() -> usize {
    100_000
}

/// `[stream.sink]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SinkConfig {
    /// Lines on standard output.
    Stdout(StdoutSinkConfig),
    /// Lines at the end of a file.
    File(FileSinkConfig),
    /// Requests to an endpoint.
    Http(HttpSinkConfig),
    /// A NATS JetStream subject.
    Nats(NatsSinkConfig),
    /// A Redis Stream.
    Redis(RedisSinkConfig),
    /// A Kafka topic.
    Kafka(KafkaSinkConfig),
}

/// `type = "stdout"`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutSinkConfig {}

/// `type = "file"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSinkConfig {
    /// The file to append to.
    pub path: PathBuf,
    /// Force each write to the disk before its events are acknowledged: then a power cut loses none either.
    #[serde(default)]
    pub fsync: bool,
}

/// `type = "http"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSinkConfig {
    /// Where to post.
    pub url: String,
    /// Events per request; above 1 they are posted as NDJSON.
    #[serde(default = "one")]
    pub batch: usize,
    /// How long one attempt may take.
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    pub timeout: Duration,
    /// Further headers, such as `Authorization`; their values are never shown.
    #[serde(default, deserialize_with = "secrets")]
    pub headers: BTreeMap<String, SecretString>,
    /// Certificate authorities to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

fn one() -> usize {
    1
}

pub(crate) fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

pub(crate) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(|_| {
        D::Error::custom(format!(
            "{text:?} is no duration: write \"10s\", \"250ms\" or \"1m 30s\""
        ))
    })
}

fn secrets<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, SecretString>, D::Error> {
    let plain = BTreeMap::<String, String>::deserialize(from)?;
    Ok(plain
        .into_iter()
        .map(|(name, value)| (name, SecretString::from(value)))
        .collect())
}

fn max_line() -> usize {
    1 << 20
}

/// Why a stream could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Another stream or gate has its name.
    #[error(transparent)]
    NameTaken(#[from] NameTaken),
    /// One of its stages has an expression that is no good.
    #[error("stream \"{stream}\", stage {number}: {source}")]
    Stage {
        /// The stream.
        stream: String,
        /// Which of its stages, from 1.
        number: usize,
        /// What is wrong.
        source: BadExpression,
    },
    /// Its source listens nowhere.
    #[error("stream \"{stream}\", source: {source}")]
    Listen {
        /// The stream.
        stream: String,
        /// What is wrong.
        source: BadAddress,
    },
    /// Its source takes events at no path.
    #[error("stream \"{stream}\", source: \"{path}\" is no path: it has to begin with a slash")]
    Path {
        /// The stream.
        stream: String,
        /// The path.
        path: String,
    },
    /// Its sink has no place to post to.
    #[error("stream \"{stream}\", sink: {source}")]
    Target {
        /// The stream.
        stream: String,
        /// What is wrong.
        source: BadTarget,
    },
    /// Its broker has no address.
    #[error("stream \"{stream}\", {part}: {source}")]
    Broker {
        /// The stream.
        stream: String,
        /// `source` or `sink`.
        part: &'static str,
        /// What is wrong.
        source: BadBroker,
    },
    /// This build was made without its broker.
    #[error(
        "stream \"{stream}\": this tidegate was built without {broker}: build it with the feature \"{broker}\""
    )]
    NotBuilt {
        /// The stream.
        stream: String,
        /// The feature.
        broker: &'static str,
    },
    /// Its state has no place.
    #[error("stream \"{stream}\": {source}")]
    State {
        /// The stream.
        stream: String,
        /// What is wrong.
        source: StateError,
    },
}

/// Builds a stream and puts it on the board; nothing is opened and nothing runs yet.
///
/// # Errors
/// [`BuildError`]; the stream is then not on the board.
pub fn build(
    config: &StreamConfig,
    holds: &Arc<Holds>,
    state: Option<&StateDir>,
) -> Result<Stream, BuildError> {
    let place = |folder: &str, ending: &str| {
        state
            .map(|dir| dir.place(folder, &config.name, ending))
            .transpose()
            .map_err(|source| BuildError::State {
                stream: config.name.clone(),
                source,
            })
    };
    let stream = || config.name.clone();
    // Whatever can fail comes before the place on the board is taken.
    let offsets = match config.source {
        SourceConfig::File(_) => place("offsets", "ledger")?,
        _ => None,
    };
    let webhook = match &config.source {
        SourceConfig::Http(c) => Some(webhook(&config.name, c)?),
        _ => None,
    };
    let (broker, limits) = match &config.source {
        SourceConfig::Nats(c) => (
            Some(broker_config::nats_source(&config.name, c)?),
            broker_config::limits(c.prefetch, c.prefetch_bytes),
        ),
        SourceConfig::Redis(c) => (
            Some(broker_config::redis_source(&config.name, c)?),
            broker_config::limits(c.prefetch, c.prefetch_bytes),
        ),
        SourceConfig::Kafka(c) => (
            Some(broker_config::kafka_source(&config.name, c)?),
            broker_config::limits(c.prefetch, c.prefetch_bytes),
        ),
        _ => (None, Limits::default()),
    };
    let sink = match &config.sink {
        SinkConfig::Stdout(StdoutSinkConfig {}) => AnySink::Stdout(StdoutSink::new()),
        SinkConfig::File(c) => {
            let ledger = place("sinks", "ledger")?;
            AnySink::File(Box::new(FileSink::new(&c.path, c.fsync, ledger)))
        }
        SinkConfig::Http(c) => {
            let target = HttpTarget {
                url: c.url.clone(),
                batch: c.batch,
                timeout: c.timeout,
                headers: c.headers.clone(),
                ca_file: c.ca_file.clone(),
            };
            let sink = HttpSink::new(&config.name, &target).map_err(|source| BuildError::Target {
                stream: stream(),
                source,
            })?;
            AnySink::Http(Box::new(sink))
        }
        SinkConfig::Nats(c) => broker_config::nats_sink(&config.name, c)?,
        SinkConfig::Redis(c) => broker_config::redis_sink(&config.name, c)?,
        SinkConfig::Kafka(c) => broker_config::kafka_sink(&config.name, c)?,
    };
    let stages = stages(config)?;
    let dead_letters = match &config.dead_letter {
        Some(path) => DeadLetters::at(path),
        None => place("dead_letters", "jsonl")?.map_or_else(DeadLetters::none, DeadLetters::at),
    };
    let member = holds.register(config.name.as_str(), Kind::Stream)?;
    let source = match (&config.source, webhook, broker) {
        (_, _, Some(broker)) => broker,
        (SourceConfig::Stdin(c), ..) => AnySource::Stdin(StdinSource::new(c.max_line)),
        (SourceConfig::File(c), ..) => {
            AnySource::File(Box::new(FileSource::new(&c.path, c.follow, c.max_line, offsets)))
        }
        (_, webhook, None) => {
            // Made above for exactly this arm, the last that is neither a file nor a broker.
            let webhook = webhook.expect("a source of this type has a webhook");
            AnySource::Http(Box::new(HttpSource::new(webhook, member.gate())))
        }
    };
    Ok(Stream::new(
        member,
        Pipeline {
            source,
            stages,
            sink,
            dead_letters,
            limits: Limits {
                pace: config.resume_rate.map(|rate| Pace {
                    rate,
                    ramp: config.resume_ramp,
                }),
                ..limits
            },
        },
    ))
}

fn webhook(stream: &str, config: &HttpSourceConfig) -> Result<Webhook, BuildError> {
    let listen: Address = config.listen.parse().map_err(|source| BuildError::Listen {
        stream: stream.into(),
        source,
    })?;
    if !config.path.starts_with('/') {
        return Err(BuildError::Path {
            stream: stream.into(),
            path: config.path.clone(),
        });
    }
    Ok(Webhook {
        listen,
        path: config.path.clone(),
        accept: config.accept,
        max_body: config.max_body,
        max_waiting: config.max_waiting,
        max_waiting_bytes: MAX_WAITING_BYTES,
    })
}

fn stages(config: &StreamConfig) -> Result<Vec<Box<dyn Stage>>, BuildError> {
    let one = |stage: &StageConfig| -> Result<Box<dyn Stage>, BadExpression> {
        Ok(match stage {
            StageConfig::Filter(c) => Box::new(Filter::new(&c.jq)?),
            StageConfig::Map(c) => Box::new(Map::new(&c.jq)?),
            StageConfig::Count(c) => Box::new(Count::new(&c.by, c.max_keys)?),
        })
    };
    let numbered = config.stages.iter().enumerate();
    numbered
        .map(|(at, stage)| {
            one(stage).map_err(|source| BuildError::Stage {
                stream: config.name.clone(),
                number: at + 1,
                source,
            })
        })
        .collect()
}
