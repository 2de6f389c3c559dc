//! What the Kafka source and sink share: where the brokers are, who asks, and what the client library says of them.
use crate::broker_config::{BadBroker, KafkaAuth, kafka_option_refused};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tidegate_gate::Name;

/// A broker that does not answer within this is not there.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// Where the brokers are and who asks.
#[derive(Clone, Debug)]
pub struct KafkaTarget {
    /// Some of the brokers, each `host:port`.
    pub brokers: Vec<String>,
    /// Speak TLS.
    pub tls: bool,
    /// How to log in; not at all without.
    pub auth: Option<KafkaAuth>,
    /// Certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Further options of librdkafka.
    pub options: BTreeMap<String, String>,
}

impl KafkaTarget {
    /// Says what is wrong with it, as far as that can be known before anything is connected. `ours` are the options that
    /// the connector itself sets.
    pub(super) fn check(&self, ours: &[(&str, String)]) -> Result<(), BadBroker> {
        if self.brokers.is_empty() {
            return Err(BadBroker::new("", "one broker at least, as \"host:9092\""));
        }
        for broker in &self.brokers {
            if broker.contains('@') || broker.contains("://") {
                return Err(BadBroker::new(
                    broker,
                    "a host and a port, without a scheme, a user or a password: say `tls` and `auth`",
                ));
            }
            let port = broker
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0)
                || broker.starts_with(':')
                || broker.contains([',', ' ', '/'])
            {
                return Err(BadBroker::new(
                    broker,
                    "a host and a port, as \"kafka-1.internal:9092\"",
                ));
            }
        }
        for name in self.options.keys() {
            if let Some(why) = kafka_option_refused(name) {
                return Err(BadBroker::Option(format!("option \"{name}\" is refused: {why}")));
            }
        }
        // The library knows its options best.
        let config = self.plain(ours);
        config
            .create_native_config()
            .map(drop)
            .map_err(|error| match error {
                KafkaError::ClientConfig(_, why, name, _) => {
                    BadBroker::Option(format!("option \"{name}\": {why}"))
                }
                other => BadBroker::Option(other.to_string()),
            })
    }

    /// Everything but the secrets.
    fn plain(&self, ours: &[(&str, String)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "tidegate");
        // A broker that restarts is back in seconds.
        config.set("reconnect.backoff.max.ms", "1000");
        // Brokers close what is idle; that is no news.
        config.set("log.connection.close", "false");
        config.set("socket.keepalive.enable", "true");
        for (name, value) in &self.options {
            config.set(name, value);
        }
        config.set("bootstrap.servers", self.brokers.join(","));
        for (name, value) in ours {
            config.set(*name, value);
        }
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// What a client is made of. Files are read each time, so that a rotated one counts.
    pub(super) fn config(&self, ours: &[(&str, String)]) -> Result<ClientConfig, Name> {
        let mut config = self.plain(ours);
        let protocol = match (self.tls, &self.auth) {
            (false, None) => "plaintext",
            (true, None) => "ssl",
            (false, Some(_)) => "sasl_plaintext",
            (true, Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(auth) = &self.auth {
            let (mechanism, user, file) = match auth {
                KafkaAuth::Plain { user, file } => ("PLAIN", user, file),
                KafkaAuth::ScramSha256 { user, file } => ("SCRAM-SHA-256", user, file),
                KafkaAuth::ScramSha512 { user, file } => ("SCRAM-SHA-512", user, file),
            };
            let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
            let password = SecretString::from(text.trim());
            config.set("sasl.mechanisms", mechanism);
            config.set("sasl.username", user);
            // The library keeps a copy of its own; it calls this property sensitive and shows it nowhere.
            config.set("sasl.password", password.expose_secret());
        }
        if self.tls {
            let path = |file: &PathBuf| file.display().to_string();
            // Built from source, the library knows no place of its own for the system's authorities.
            config.set(
                "ssl.ca.location",
                self.ca_file.as_ref().map_or_else(|| "probe".into(), path),
            );
            if let Some((cert, key)) = &self.client_cert {
                config.set("ssl.certificate.location", path(cert));
                config.set("ssl.key.location", path(key));
            }
        }
        Ok(config)
    }

    /// The brokers, for people.
    pub(super) fn shown(&self) -> String {
        self.brokers.join(",")
    }
}

/// Hands the library's own log lines on.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => {
            // What it calls an error is mostly one attempt to connect; what ends a stream is said by the stream.
            tracing::warn!(target: "librdkafka", facility, "{text}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{text}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", facility, "{text}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}

/// What became of the brokers, as told on the side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing that matters.
    #[default]
    None,
    /// It may pass.
    Wait(Name),
    /// It may pass with a new client, which reads the files anew.
    Renew(Name),
    /// It passes when a person acts.
    Fatal(Name),
}

/// Hears what the library says of its connections, and keeps what matters until somebody asks.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<SaidInner>);

#[derive(Debug, Default)]
struct SaidInner {
    /// Why a connection last failed: when all are down, that is why.
    transport: Option<Name>,
    trouble: Trouble,
}

impl Said {
    fn inner(&self) -> MutexGuard<'_, SaidInner> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// An error event of a client.
    pub(super) fn hear(&self, error: &KafkaError, reason: &str, brokers: &str) {
        use RDKafkaErrorCode as Code;
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        let mut inner = self.inner();
        let reason = plain(reason);
        match code {
            Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut | Code::SSL => {
                inner.transport = Some(reason.into());
            }
            Code::AllBrokersDown => {
                let why = match &inner.transport {
                    Some(last) => format!("cannot reach any of {brokers}: {last}"),
                    None => format!("cannot reach any of {brokers}"),
                };
                if inner.trouble == Trouble::None {
                    inner.trouble = Trouble::Wait(why.into());
                }
            }
            Code::Authentication | Code::SaslAuthenticationFailed => {
                inner.trouble = Trouble::Renew(format!("{brokers}: {reason}").into());
            }
            _ => {}
        }
    }

    /// Something else that stands in the way.
    pub(super) fn say(&self, trouble: Trouble) {
        self.inner().trouble = trouble;
    }

    /// What stands in the way; from here on nothing does.
    pub(super) fn take(&self) -> Trouble {
        std::mem::take(&mut self.inner().trouble)
    }
}

/// The library's reasons begin with the client's and the thread's names, and end with states of its own.
fn plain(reason: &str) -> String {
    let text = match reason.split_once("]: ") {
        Some((names, rest)) if names.starts_with("[thrd:") => rest,
        _ => reason,
    };
    let text = match text.rsplit_once(" (after ") {
        Some((text, _)) => text,
        None => text,
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    fn target(brokers: &[&str], options: &[(&str, &str)]) -> KafkaTarget {
        KafkaTarget {
            brokers: brokers.iter().map(|b| (*b).to_owned()).collect(),
            tls: false,
            auth: None,
            ca_file: None,
            client_cert: None,
            options: options
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn an_address_is_a_host_and_a_port_and_no_secret() {
        for good in ["127.0.0.1:9092", "[::1]:9092", "kafka-1.internal:19092"] {
            target(&[good], &[]).check(&[]).unwrap();
        }
        for bad in [
            "kafka",
            "kafka:",
            ":9092",
            "a:0",
            "a:1,b:2",
            "kafka://a:1",
            "u:secret@a:1",
            "",
        ] {
            let error = target(&[bad], &[]).check(&[]).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        target(&[], &[]).check(&[]).unwrap_err();
    }

    #[test]
    fn an_option_that_would_break_a_promise_is_refused_by_name_and_with_the_reason() {
        for (name, says) in [
            ("enable.auto.commit", "once the sink has"),
            ("enable.auto.offset.store", "once the sink has"),
            ("enable.idempotence", "repeats events"),
            ("group.id", "`group`"),
            ("sasl.password", "file"),
            ("ssl.key.password", "file"),
            ("acks", "all replicas"),
            ("enable.ssl.certificate.verification", "always verified"),
        ] {
            let error = target(&["a:1"], &[(name, "hunter2")])
                .check(&[])
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(&format!("\"{name}\"")) && error.contains(says),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_option_that_the_library_does_not_know_or_cannot_read_is_named() {
        for (name, value) in [("no.such.option", "1"), ("session.timeout.ms", "soon")] {
            let error = target(&["a:1"], &[(name, value)])
                .check(&[])
                .unwrap_err()
                .to_string();
            assert!(error.contains(name), "{error}");
        }
        target(&["a:1"], &[("compression.type", "gzip")])
            .check(&[])
            .unwrap();
    }

    #[test]
    fn a_password_is_read_from_its_file_and_shown_in_no_debug() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let target = KafkaTarget {
            auth: Some(KafkaAuth::Plain {
                user: "u".into(),
                file: file.path().to_owned(),
            }),
            ..target(&["a:1"], &[])
        };
        let config = target.config(&[]).unwrap();
        assert_eq!(config.get("sasl.password"), Some("hunter2"));
        assert_eq!(config.get("security.protocol"), Some("sasl_plaintext"));
        assert!(!format!("{target:?}").contains("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn reasons_lose_what_only_the_library_understands() {
        let said = "[thrd:127.0.0.1:1/bootstrap]: 127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: \
                    Connection refused (after 0ms in state CONNECT)";
        let plain = plain(said);
        assert_eq!(
            plain,
            "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused"
        );
    }
}
