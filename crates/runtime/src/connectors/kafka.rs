//! What the Kafka source and sink share: where the brokers are, who asks, and what the client library says of them.
use crate::broker_config::{BadBroker, KafkaAuth, kafka_option_refused};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
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
            let files = self.ca_file.iter();
            let files = files.chain(self.client_cert.iter().flat_map(|(cert, key)| [cert, key]));
            for file in files {
                // The library names only its own option.
                std::fs::File::open(file).map_err(|e| format!("{}: {e}", file.display()))?;
            }
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

    /// Why no client was made, with the file where it is one.
    pub(super) fn unmade(&self, error: &KafkaError) -> Name {
        let text = match error {
            KafkaError::ClientCreation(text) => text.clone(),
            other => other.to_string(),
        };
        let client = self.client_cert.as_ref();
        let named = [
            ("ssl.ca.location", self.ca_file.as_ref()),
            ("ssl.certificate.location", client.map(|(cert, _)| cert)),
            ("ssl.key.location", client.map(|(_, key)| key)),
        ];
        let file = named
            .into_iter()
            .find_map(|(option, file)| file.filter(|_| text.contains(option)));
        match file {
            Some(file) => format!("{}: {text}", file.display()).into(),
            None => text.into(),
        }
    }

    /// The same with what is wrong with the broker's certificate, if that is what it is about: OpenSSL does not say, so
    /// that it is looked at again.
    pub(super) async fn explained(&self, why: Name) -> Name {
        let refused = why.split_once("://").filter(|_| why.contains(UNVERIFIED));
        let broker = refused
            .and_then(|(_, rest)| rest.split('/').next())
            .map(str::to_owned);
        let (Some(broker), Some(ca_file)) = (broker, self.ca_file.clone()) else {
            return why;
        };
        let looked = tokio::task::spawn_blocking(move || look(&broker, &ca_file));
        match tokio::time::timeout(ANSWER * 2, looked).await {
            Ok(Ok(Some(found))) => format!("{why}: {found}").into(),
            _ => why,
        }
    }

    /// The brokers, for people.
    pub(super) fn shown(&self) -> String {
        self.brokers.join(",")
    }
}

/// What OpenSSL says of a certificate, whatever is wrong with it.
const UNVERIFIED: &str = "certificate verify failed";

/// Why a broker's certificate is none for these authorities.
fn look(broker: &str, ca_file: &Path) -> Option<String> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(ca_file).ok()? {
        roots.add(authority.ok()?).ok()?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (host, _) = broker.rsplit_once(':')?;
    let host = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()?;
    let mut tls = rustls::ClientConnection::new(Arc::new(config), host).ok()?;
    let mut tcp = TcpStream::connect_timeout(&broker.to_socket_addrs().ok()?.next()?, ANSWER).ok()?;
    tcp.set_read_timeout(Some(ANSWER)).ok()?;
    let error = tls.complete_io(&mut tcp).err()?;
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        refused @ rustls::Error::InvalidCertificate(_) => Some(refused.to_string()),
        _ => None,
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
    /// That was TLS, whose files are read when a client is made: it passes with a new one, if they are mended.
    tls: bool,
    trouble: Trouble,
}

impl SaidInner {
    fn failed(&mut self, reason: &str) {
        let tls = refused(reason);
        self.tls = tls.is_some();
        self.transport = Some(tls.unwrap_or_else(|| reason.to_owned()).into());
    }

    fn down(&self, brokers: &str) -> Trouble {
        let why = match &self.transport {
            Some(last) => format!("cannot reach any of {brokers}: {last}"),
            None => format!("cannot reach any of {brokers}"),
        };
        match self.tls {
            true => Trouble::Renew(why.into()),
            false => Trouble::Wait(why.into()),
        }
    }
}

impl Said {
    fn inner(&self) -> MutexGuard<'_, SaidInner> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A new client: what failed before was not its doing.
    pub(super) fn begin(&self) {
        let mut inner = self.inner();
        inner.transport = None;
        inner.tls = false;
    }

    /// Nobody answered: why, if that passes with a new client.
    pub(super) fn unanswered(&self, brokers: &str) -> Option<Name> {
        match self.inner().down(brokers) {
            Trouble::Renew(why) => Some(why),
            _ => None,
        }
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
                inner.failed(&reason);
            }
            Code::AllBrokersDown if inner.trouble == Trouble::None => {
                inner.trouble = inner.down(brokers);
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

/// What TLS said, if it was TLS: without places in OpenSSL, and with what is to be mended here instead of the library's
/// own advice.
fn refused(reason: &str) -> Option<String> {
    let (before, after) = reason.split_once("SSL routines:")?;
    let (_, why) = after.split_once(':')?;
    let broker = before.split(": ").next().unwrap_or(before);
    let why = why.split(": broker certificate").next().unwrap_or(why);
    let mend = if why.contains(UNVERIFIED) {
        " (an authority of ca_file, or of the system without it, has to have signed the broker's certificate, for this host; \
         and it has to be valid today)"
    } else if why.contains(" alert ") && why.contains("certificate") {
        " (the broker does not accept the client's certificate of cert_file, or that there is none)"
    } else {
        ""
    };
    Some(format!("{broker}: TLS: {why}{mend}"))
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
    fn a_certificate_file_that_cannot_be_read_is_named() {
        let here = tempfile::NamedTempFile::new().unwrap();
        let (here, gone) = (here.path().to_owned(), PathBuf::from("/nowhere/some.pem"));
        let of = |ca: &PathBuf, cert: &PathBuf, key: &PathBuf| KafkaTarget {
            tls: true,
            ca_file: Some(ca.clone()),
            client_cert: Some((cert.clone(), key.clone())),
            ..target(&["a:1"], &[])
        };
        of(&here, &here, &here).config(&[]).unwrap();
        for target in [
            of(&gone, &here, &here),
            of(&here, &gone, &here),
            of(&here, &here, &gone),
        ] {
            let error = target.config(&[]).unwrap_err();
            assert!(error.starts_with("/nowhere/some.pem: No such file"), "{error}");
            for (option, name) in [
                ("ssl.ca.location", &target.ca_file),
                (
                    "ssl.key.location",
                    &target.client_cert.clone().map(|(_, key)| key),
                ),
            ] {
                let error = KafkaError::ClientCreation(format!("{option} failed: what OpenSSL says"));
                let said = target.unmade(&error);
                assert!(
                    said.starts_with(name.as_ref().unwrap().to_str().unwrap()),
                    "{said}"
                );
            }
        }
    }

    const UNKNOWN: &str = "[thrd:ssl://a:1/bootstrap]: ssl://a:1/bootstrap: SSL handshake failed: \
        error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified, verify that \
        ssl.ca.location is correctly configured or root CA certificates are installed (install ca-certificates package) \
        (after 3ms in state SSL_HANDSHAKE)";

    #[test]
    fn what_tls_says_is_told_without_the_places_in_openssl_and_with_what_to_mend() {
        let told = refused(&plain(UNKNOWN)).unwrap();
        assert!(
            told.starts_with("ssl://a:1/bootstrap: TLS: certificate verify failed (an authority of ca_file"),
            "{told}"
        );
        assert!(
            !told.contains("ssl.ca.location") && !told.contains("0A000086"),
            "{told}"
        );
        let alert = "ssl://a:1/1: Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert \
                     number 42";
        let told = refused(alert).unwrap();
        assert!(
            told.contains("alert bad certificate") && told.contains("cert_file"),
            "{told}"
        );
        assert_eq!(
            refused("a:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused"),
            None
        );
    }

    #[test]
    fn a_refusal_of_tls_asks_for_a_new_client_and_a_broker_that_is_away_for_patience() {
        let said = Said::default();
        let heard = |code, reason| said.hear(&KafkaError::Global(code), reason, "a:1");
        heard(RDKafkaErrorCode::SSL, UNKNOWN);
        assert_eq!(said.take(), Trouble::None, "one broker of many");
        assert!(said.unanswered("a:1").is_some());
        heard(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        assert!(matches!(said.take(), Trouble::Renew(why) if why.contains("certificate verify failed")));
        heard(
            RDKafkaErrorCode::BrokerTransportFailure,
            "a:1/bootstrap: Connect failed: refused",
        );
        heard(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        assert!(matches!(said.take(), Trouble::Wait(why) if why.contains("Connect failed")));
        heard(RDKafkaErrorCode::SSL, UNKNOWN);
        said.begin();
        assert_eq!(
            said.unanswered("a:1"),
            None,
            "a new client has not been refused yet"
        );
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
