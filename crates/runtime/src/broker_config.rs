//! What a configuration says of brokers. These types are there whichever brokers a build has, so that one that it has
//! not is named as such.
use crate::config::{BuildError, duration, ten_seconds};
use crate::connectors::{AnySink, AnySource};
use crate::hold::Limits;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How to log in to NATS. Files are read at every attempt to connect, so a rotated one counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum NatsAuth {
    /// A `.creds` file: a JWT and the seed that signs for it.
    Credentials {
        /// The file.
        file: PathBuf,
    },
    /// The seed of an nkey.
    Nkey {
        /// The file that holds it.
        file: PathBuf,
    },
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The file that holds the password.
        file: PathBuf,
    },
    /// A token.
    Token {
        /// The file that holds it.
        file: PathBuf,
    },
}

/// `type = "nats"` of a source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsSourceConfig {
    /// `nats://host:4222` or `tls://host:4222`, several with commas between.
    pub url: String,
    /// The JetStream stream.
    pub stream: String,
    /// The durable pull consumer: bound unchanged if it is there, made if it is not.
    pub durable: String,
    /// Only these subjects, for a consumer that is made.
    #[serde(default)]
    pub filter_subject: Option<String>,
    /// How long the server waits for an acknowledgement, for a consumer that is made.
    #[serde(default = "thirty_seconds", deserialize_with = "duration")]
    pub ack_wait: Duration,
    /// So many events are held or in flight at most.
    #[serde(default = "prefetch")]
    pub prefetch: usize,
    /// So many bytes of them.
    #[serde(default = "prefetch_bytes")]
    pub prefetch_bytes: usize,
    /// In a pause, give events back to the broker that have been held for so long. Unset: held while leases last.
    #[serde(default, deserialize_with = "maybe_duration")]
    pub max_hold: Option<Duration>,
    /// An event that was delivered more often than this goes to the dead letter. Unset: never for this.
    #[serde(default)]
    pub max_deliver: Option<u64>,
    /// How to log in.
    #[serde(default)]
    pub auth: Option<NatsAuth>,
    /// Certificate authorities to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// `type = "nats"` of a sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsSinkConfig {
    /// `nats://host:4222` or `tls://host:4222`, several with commas between.
    pub url: String,
    /// Where events are published; a JetStream stream has to take it.
    pub subject: String,
    /// How long one attempt may take.
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    pub timeout: Duration,
    /// How to log in.
    #[serde(default)]
    pub auth: Option<NatsAuth>,
    /// Certificate authorities to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// `type = "redis"` of a source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSourceConfig {
    /// `redis://host:6379/0`, or `rediss://` for TLS.
    pub url: String,
    /// The key of the stream.
    pub stream: String,
    /// The consumer group: used as it is if it is there, made from the stream's beginning if it is not.
    pub group: String,
    /// This process's name in the group; no two may share one. Unset: a new one at each start.
    #[serde(default)]
    pub consumer: Option<String>,
    /// The field of an entry that is the event. Unset: the only field's value, or all fields as a JSON object.
    #[serde(default)]
    pub field: Option<String>,
    /// A consumer that was not heard of for so long is dead, and its entries are taken over. The same in all members.
    #[serde(default = "thirty_seconds", deserialize_with = "duration")]
    pub min_idle: Duration,
    /// So many events are held or in flight at most.
    #[serde(default = "prefetch")]
    pub prefetch: usize,
    /// So many bytes of them; a read may overshoot it by a few entries that are larger than those before.
    #[serde(default = "prefetch_bytes")]
    pub prefetch_bytes: usize,
    /// In a pause, give events back to the group that have been held for so long. Unset: held while claims last.
    #[serde(default, deserialize_with = "maybe_duration")]
    pub max_hold: Option<Duration>,
    /// An entry that was delivered more often than this goes to the dead letter. Unset: never for this.
    #[serde(default)]
    pub max_deliver: Option<u64>,
    /// The user, if it is not the default one.
    #[serde(default)]
    pub user: Option<String>,
    /// The file that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Certificate authorities to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// `type = "redis"` of a sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSinkConfig {
    /// `redis://host:6379/0`, or `rediss://` for TLS.
    pub url: String,
    /// The key of the stream.
    pub stream: String,
    /// The field that the event is put into.
    #[serde(default = "data")]
    pub field: String,
    /// Trim the stream to about so many entries. Unset: never.
    #[serde(default)]
    pub max_len: Option<u64>,
    /// How long one attempt may take.
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    pub timeout: Duration,
    /// The user, if it is not the default one.
    #[serde(default)]
    pub user: Option<String>,
    /// The file that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Certificate authorities to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// How to log in to Kafka: a SASL mechanism, and the file that holds the password, read each time a client is made.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "method", deny_unknown_fields)]
pub enum KafkaAuth {
    /// SASL PLAIN.
    #[serde(rename = "plain")]
    Plain {
        /// The user.
        user: String,
        /// The file that holds the password.
        file: PathBuf,
    },
    /// SASL SCRAM-SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256 {
        /// The user.
        user: String,
        /// The file that holds the password.
        file: PathBuf,
    },
    /// SASL SCRAM-SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512 {
        /// The user.
        user: String,
        /// The file that holds the password.
        file: PathBuf,
    },
}

/// `type = "kafka"` of a source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSourceConfig {
    /// Some of the brokers, each `host:port`.
    pub brokers: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// The topics, each by its whole name; an event's place is counted by their order here.
    pub topics: Vec<String>,
    /// This process's name in the group (`group.instance.id`): with one that stays, a restart costs no rebalance. No two
    /// members may share one. Unset: a new member at each start.
    #[serde(default)]
    pub instance_id: Option<String>,
    /// So many events are held or in flight at most; the client library fetches as many ahead of that.
    #[serde(default = "prefetch")]
    pub prefetch: usize,
    /// So many bytes of them.
    #[serde(default = "prefetch_bytes")]
    pub prefetch_bytes: usize,
    /// In a pause, drop events that have been held for so long, to fetch them again later. Unset: held for any time.
    #[serde(default, deserialize_with = "maybe_duration")]
    pub max_hold: Option<Duration>,
    /// Speak TLS.
    #[serde(default)]
    pub tls: bool,
    /// How to log in.
    #[serde(default)]
    pub auth: Option<KafkaAuth>,
    /// Certificate authorities to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Further options of librdkafka, by its names.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// `type = "kafka"` of a sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSinkConfig {
    /// Some of the brokers, each `host:port`.
    pub brokers: Vec<String>,
    /// The topic.
    pub topic: String,
    /// How long one attempt may take.
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    pub timeout: Duration,
    /// Speak TLS.
    #[serde(default)]
    pub tls: bool,
    /// How to log in.
    #[serde(default)]
    pub auth: Option<KafkaAuth>,
    /// Certificate authorities to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Further options of librdkafka, by its names.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// Why an option of librdkafka is not to be set by hand, if it is not.
pub fn kafka_option_refused(name: &str) -> Option<&'static str> {
    Some(match name {
        "bootstrap.servers" | "metadata.broker.list" => "say `brokers`",
        "group.id" => "say `group`",
        "group.instance.id" => "say `instance_id`",
        "sasl.username" | "sasl.mechanism" | "sasl.mechanisms" => "say `auth`",
        "sasl.password" => "a password has no place here: say `auth`, which names the file that holds it",
        "ssl.key.password" | "ssl.keystore.password" | "ssl.keystore.location" | "ssl.key.pem" => {
            "a secret has no place here: say `cert_file` and `key_file`, which name files that only tidegate can read"
        }
        "sasl.oauthbearer.client.secret" | "sasl.oauthbearer.config" | "oauthbearer_token_refresh_cb" => {
            "a secret has no place here, and of SASL there is plain and scram: say `auth`"
        }
        "security.protocol" => "say `tls` and `auth`",
        "ssl.ca.location" | "ssl.ca.pem" => "say `ca_file`",
        "ssl.certificate.location" | "ssl.certificate.pem" => "say `cert_file`",
        "ssl.key.location" => "say `key_file`",
        "enable.ssl.certificate.verification" | "ssl.endpoint.identification.algorithm" => {
            "whom the brokers' certificates name is always verified"
        }
        "enable.auto.commit"
        | "auto.commit.enable"
        | "enable.auto.offset.store"
        | "auto.commit.interval.ms" => {
            "an offset is committed once the sink has what is before it, which only tidegate knows"
        }
        "partition.assignment.strategy" | "group.protocol" | "group.remote.assignor" => {
            "a rebalance would take away what is held: the group is cooperative-sticky"
        }
        "queued.min.messages" => "say `prefetch`",
        "queued.max.messages.kbytes" | "fetch.max.bytes" => "say `prefetch_bytes`",
        "enable.idempotence" | "max.in.flight" | "max.in.flight.requests.per.connection" => {
            "without an idempotent producer a retry repeats events and changes their order"
        }
        "acks" | "request.required.acks" => "an event counts as written once all replicas in sync have it",
        "message.timeout.ms" | "delivery.timeout.ms" => {
            "say `timeout`: nothing of an attempt may be under way when it is over, or a pause is not one"
        }
        "transactional.id" => "each event is written once it has passed the gate, not in transactions",
        "retries" | "message.send.max.retries" => "say `timeout`: an attempt is tried again until it is over",
        "plugin.library.paths" => "no code is loaded from elsewhere",
        _ => return None,
    })
}

fn data() -> String {
    "data".into()
}

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

#[cfg(not(all(feature = "nats", feature = "redis", feature = "kafka-tls")))]
fn not_built(stream: &str, broker: &'static str) -> BuildError {
    BuildError::NotBuilt {
        stream: stream.to_owned(),
        broker,
    }
}

pub(crate) fn limits(prefetch: usize, prefetch_bytes: usize) -> Limits {
    Limits {
        events: prefetch,
        bytes: prefetch_bytes,
        ..Limits::default()
    }
}

#[cfg(feature = "nats")]
mod nats {
    use super::*;
    use crate::connectors::{NatsConsumer, NatsSink, NatsSource, NatsTarget};

    fn target(
        url: &str,
        auth: Option<&NatsAuth>,
        ca_file: Option<&PathBuf>,
        cert: Option<&PathBuf>,
        key: Option<&PathBuf>,
    ) -> NatsTarget {
        NatsTarget {
            url: url.to_owned(),
            auth: auth.cloned(),
            ca_file: ca_file.cloned(),
            client_cert: cert.cloned().zip(key.cloned()),
        }
    }

    pub(crate) fn source(stream: &str, c: &NatsSourceConfig) -> Result<AnySource, BuildError> {
        let target = target(
            &c.url,
            c.auth.as_ref(),
            c.ca_file.as_ref(),
            c.cert_file.as_ref(),
            c.key_file.as_ref(),
        );
        let consumer = NatsConsumer {
            target,
            stream: c.stream.clone(),
            durable: c.durable.clone(),
            filter_subject: c.filter_subject.clone(),
            ack_wait: c.ack_wait,
            prefetch: c.prefetch.max(1),
            prefetch_bytes: c.prefetch_bytes.max(1),
            max_hold: c.max_hold,
            max_deliver: c.max_deliver,
        };
        let source = NatsSource::new(consumer).map_err(|source| BuildError::Broker {
            stream: stream.to_owned(),
            part: "source",
            source,
        })?;
        Ok(AnySource::Nats(Box::new(source)))
    }

    pub(crate) fn sink(stream: &str, c: &NatsSinkConfig) -> Result<AnySink, BuildError> {
        let target = target(
            &c.url,
            c.auth.as_ref(),
            c.ca_file.as_ref(),
            c.cert_file.as_ref(),
            c.key_file.as_ref(),
        );
        let sink =
            NatsSink::new(stream, target, &c.subject, c.timeout).map_err(|source| BuildError::Broker {
                stream: stream.to_owned(),
                part: "sink",
                source,
            })?;
        Ok(AnySink::Nats(Box::new(sink)))
    }
}

#[cfg(not(feature = "nats"))]
mod nats {
    use super::*;

    pub(crate) fn source(stream: &str, _: &NatsSourceConfig) -> Result<AnySource, BuildError> {
        Err(not_built(stream, "nats"))
    }

    pub(crate) fn sink(stream: &str, _: &NatsSinkConfig) -> Result<AnySink, BuildError> {
        Err(not_built(stream, "nats"))
    }
}

#[cfg(feature = "redis")]
mod redis {
    use super::*;
    use crate::connectors::{RedisConsumer, RedisSink, RedisSource, RedisTarget};

    pub(crate) fn source(stream: &str, c: &RedisSourceConfig) -> Result<AnySource, BuildError> {
        let consumer = RedisConsumer {
            target: RedisTarget {
                url: c.url.clone(),
                user: c.user.clone(),
                password_file: c.password_file.clone(),
                ca_file: c.ca_file.clone(),
                client_cert: c.cert_file.clone().zip(c.key_file.clone()),
            },
            stream: c.stream.clone(),
            group: c.group.clone(),
            consumer: c.consumer.clone(),
            field: c.field.clone(),
            min_idle: c.min_idle,
            prefetch_bytes: c.prefetch_bytes,
            max_hold: c.max_hold,
            max_deliver: c.max_deliver.map(|n| i64::try_from(n).unwrap_or(i64::MAX)),
        };
        let source = RedisSource::new(consumer).map_err(|source| BuildError::Broker {
            stream: stream.to_owned(),
            part: "source",
            source,
        })?;
        Ok(AnySource::Redis(Box::new(source)))
    }

    pub(crate) fn sink(stream: &str, c: &RedisSinkConfig) -> Result<AnySink, BuildError> {
        let target = RedisTarget {
            url: c.url.clone(),
            user: c.user.clone(),
            password_file: c.password_file.clone(),
            ca_file: c.ca_file.clone(),
            client_cert: c.cert_file.clone().zip(c.key_file.clone()),
        };
        let sink = RedisSink::new(target, &c.stream, &c.field, c.max_len, c.timeout).map_err(|source| {
            BuildError::Broker {
                stream: stream.to_owned(),
                part: "sink",
                source,
            }
        })?;
        Ok(AnySink::Redis(Box::new(sink)))
    }
}

#[cfg(not(feature = "redis"))]
mod redis {
    use super::*;

    pub(crate) fn source(stream: &str, _: &RedisSourceConfig) -> Result<AnySource, BuildError> {
        Err(not_built(stream, "redis"))
    }

    pub(crate) fn sink(stream: &str, _: &RedisSinkConfig) -> Result<AnySink, BuildError> {
        Err(not_built(stream, "redis"))
    }
}

/// TLS and SCRAM need the cryptography that only a build with `kafka-tls` has.
#[cfg(all(feature = "kafka", not(feature = "kafka-tls")))]
fn needs_tls(tls: bool, auth: Option<&KafkaAuth>) -> bool {
    tls || matches!(
        auth,
        Some(KafkaAuth::ScramSha256 { .. } | KafkaAuth::ScramSha512 { .. })
    )
}

#[cfg(feature = "kafka")]
mod kafka {
    use super::*;
    use crate::connectors::{KafkaConsumer, KafkaSink, KafkaSource, KafkaTarget};

    pub(crate) fn source(stream: &str, c: &KafkaSourceConfig) -> Result<AnySource, BuildError> {
        #[cfg(not(feature = "kafka-tls"))]
        if needs_tls(c.tls, c.auth.as_ref()) {
            return Err(not_built(stream, "kafka-tls"));
        }
        let consumer = KafkaConsumer {
            target: KafkaTarget {
                brokers: c.brokers.clone(),
                tls: c.tls,
                auth: c.auth.clone(),
                ca_file: c.ca_file.clone(),
                client_cert: c.cert_file.clone().zip(c.key_file.clone()),
                options: c.options.clone(),
            },
            group: c.group.clone(),
            topics: c.topics.clone(),
            instance_id: c.instance_id.clone(),
            prefetch: c.prefetch.max(1),
            prefetch_bytes: c.prefetch_bytes.max(1),
            max_hold: c.max_hold,
        };
        let source = KafkaSource::new(consumer).map_err(|source| BuildError::Broker {
            stream: stream.to_owned(),
            part: "source",
            source,
        })?;
        Ok(AnySource::Kafka(Box::new(source)))
    }

    pub(crate) fn sink(stream: &str, c: &KafkaSinkConfig) -> Result<AnySink, BuildError> {
        #[cfg(not(feature = "kafka-tls"))]
        if needs_tls(c.tls, c.auth.as_ref()) {
            return Err(not_built(stream, "kafka-tls"));
        }
        let target = KafkaTarget {
            brokers: c.brokers.clone(),
            tls: c.tls,
            auth: c.auth.clone(),
            ca_file: c.ca_file.clone(),
            client_cert: c.cert_file.clone().zip(c.key_file.clone()),
            options: c.options.clone(),
        };
        let sink = KafkaSink::new(target, &c.topic, c.timeout).map_err(|source| BuildError::Broker {
            stream: stream.to_owned(),
            part: "sink",
            source,
        })?;
        Ok(AnySink::Kafka(Box::new(sink)))
    }
}

#[cfg(not(feature = "kafka"))]
mod kafka {
    use super::*;

    pub(crate) fn source(stream: &str, _: &KafkaSourceConfig) -> Result<AnySource, BuildError> {
        Err(not_built(stream, "kafka"))
    }

    pub(crate) fn sink(stream: &str, _: &KafkaSinkConfig) -> Result<AnySink, BuildError> {
        Err(not_built(stream, "kafka"))
    }
}

pub(crate) use kafka::{sink as kafka_sink, source as kafka_source};
pub(crate) use nats::{sink as nats_sink, source as nats_source};
pub(crate) use redis::{sink as redis_sink, source as redis_source};
