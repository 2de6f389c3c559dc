//! What a configuration says of Kafka.
#[cfg(feature = "kafka")]
use super::broken;
use crate::config::BuildError;
use crate::connectors::{AnySink, AnySource};
#[cfg(feature = "kafka")]
use crate::connectors::{KafkaConsumer, KafkaSink, KafkaSource, KafkaTarget};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

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
    #[serde(default = "super::prefetch_bytes")]
    pub prefetch_bytes: usize,
    /// In a pause, drop events that have been held for so long, to fetch them again later. Unset: held for any time.
    #[serde(default, deserialize_with = "super::maybe_duration")]
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
    #[serde(default = "crate::config::ten_seconds", deserialize_with = "super::duration")]
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

/// An attempt at the sink, and the next one: an attempt is over when the group has heard of it, which takes a broker some
/// milliseconds however much it is.
fn prefetch() -> usize {
    2048
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

/// TLS and SCRAM need the cryptography that only a build with `kafka-tls` has.
#[cfg(all(feature = "kafka", not(feature = "kafka-tls")))]
fn needs_tls(tls: bool, auth: Option<&KafkaAuth>) -> bool {
    tls || matches!(
        auth,
        Some(KafkaAuth::ScramSha256 { .. } | KafkaAuth::ScramSha512 { .. })
    )
}

#[cfg(feature = "kafka")]
pub(crate) fn source(stream: &str, c: &KafkaSourceConfig) -> Result<AnySource, BuildError> {
    #[cfg(not(feature = "kafka-tls"))]
    if needs_tls(c.tls, c.auth.as_ref()) {
        return Err(super::not_built(stream, "kafka-tls"));
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
    let source = KafkaSource::new(consumer).map_err(broken(stream, "source"))?;
    Ok(AnySource::Kafka(Box::new(source)))
}

#[cfg(feature = "kafka")]
pub(crate) fn sink(stream: &str, c: &KafkaSinkConfig) -> Result<AnySink, BuildError> {
    #[cfg(not(feature = "kafka-tls"))]
    if needs_tls(c.tls, c.auth.as_ref()) {
        return Err(super::not_built(stream, "kafka-tls"));
    }
    let target = KafkaTarget {
        brokers: c.brokers.clone(),
        tls: c.tls,
        auth: c.auth.clone(),
        ca_file: c.ca_file.clone(),
        client_cert: c.cert_file.clone().zip(c.key_file.clone()),
        options: c.options.clone(),
    };
    let sink = KafkaSink::new(target, &c.topic, c.timeout).map_err(broken(stream, "sink"))?;
    Ok(AnySink::Kafka(Box::new(sink)))
}

#[cfg(not(feature = "kafka"))]
super::without!("kafka", KafkaSourceConfig, KafkaSinkConfig);
