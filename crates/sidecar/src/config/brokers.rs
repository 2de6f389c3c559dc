//! What the brokers of streams demand of their options.
use super::problem::Report;
use super::streams::LONGEST_ATTEMPT;
use super::tree::Path;
use std::time::Duration;
use tidegate_runtime::{
    KafkaSinkConfig, KafkaSourceConfig, NatsSinkConfig, NatsSourceConfig, SinkConfig, SourceConfig,
    kafka_option_refused,
};

/// Shorter leases than this are over before a slow link has renewed them.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// A request that was under way when the pause began may still bring events for this long.
const SHORTEST_HOLD: Duration = Duration::from_secs(5);

pub(super) fn source(report: &mut Report<'_>, path: &Path, source: &SourceConfig) {
    if let SourceConfig::Nats(nats) = source {
        let NatsSourceConfig {
            stream,
            durable,
            ack_wait,
            prefetch,
            prefetch_bytes,
            max_hold,
            max_deliver,
            ..
        } = nats;
        nats_name(report, &path.key("stream"), stream);
        nats_name(report, &path.key("durable"), durable);
        least(report, &path.key("ack_wait"), *ack_wait, SHORTEST_LEASE);
        amounts(report, path, *prefetch, *prefetch_bytes, *max_hold, *max_deliver);
        pair(report, path, nats.cert_file.is_some(), nats.key_file.is_some());
    }
    if let SourceConfig::Redis(redis) = source {
        for (key, value) in [("stream", &redis.stream), ("group", &redis.group)] {
            not_empty(report, &path.key(key), value);
        }
        if let Some(consumer) = &redis.consumer {
            not_empty(report, &path.key("consumer"), consumer);
        }
        least(report, &path.key("min_idle"), redis.min_idle, SHORTEST_LEASE);
        amounts(
            report,
            path,
            redis.prefetch,
            redis.prefetch_bytes,
            redis.max_hold,
            redis.max_deliver,
        );
        pair(report, path, redis.cert_file.is_some(), redis.key_file.is_some());
    }
    if let SourceConfig::Kafka(kafka) = source {
        let KafkaSourceConfig {
            brokers,
            group,
            topics,
            instance_id,
            prefetch,
            prefetch_bytes,
            max_hold,
            ..
        } = kafka;
        kafka_brokers(report, path, brokers);
        not_empty(report, &path.key("group"), group);
        if topics.is_empty() {
            report.at(&path.key("topics"), "expected one topic at least");
        }
        for topic in topics {
            kafka_topic(report, &path.key("topics"), topic);
        }
        if let Some(instance_id) = instance_id {
            not_empty(report, &path.key("instance_id"), instance_id);
        }
        amounts(report, path, *prefetch, *prefetch_bytes, *max_hold, None);
        kafka_options(report, path, kafka.options.keys());
        let tls_only = kafka.ca_file.is_some() || kafka.cert_file.is_some() || kafka.key_file.is_some();
        kafka_tls(report, path, kafka.tls, tls_only);
        pair(report, path, kafka.cert_file.is_some(), kafka.key_file.is_some());
    }
}

pub(super) fn sink(report: &mut Report<'_>, path: &Path, sink: &SinkConfig) {
    if let SinkConfig::Nats(nats) = sink {
        let NatsSinkConfig { subject, timeout, .. } = nats;
        if subject.is_empty()
            || subject.contains([' ', '*', '>', '\t'])
            || subject.split('.').any(str::is_empty)
        {
            report.at(
                &path.key("subject"),
                "expected a subject to publish to, such as \"orders.done\", without wildcards",
            );
        }
        attempt(report, path, *timeout);
        pair(report, path, nats.cert_file.is_some(), nats.key_file.is_some());
    }
    if let SinkConfig::Redis(redis) = sink {
        for (key, value) in [("stream", &redis.stream), ("field", &redis.field)] {
            not_empty(report, &path.key(key), value);
        }
        if redis.max_len == Some(0) {
            report.at(
                &path.key("max_len"),
                "expected 1 or more: with 0, every event is lost",
            );
        }
        attempt(report, path, redis.timeout);
        pair(report, path, redis.cert_file.is_some(), redis.key_file.is_some());
    }
    if let SinkConfig::Kafka(kafka) = sink {
        let KafkaSinkConfig {
            brokers,
            topic,
            timeout,
            ..
        } = kafka;
        kafka_brokers(report, path, brokers);
        kafka_topic(report, &path.key("topic"), topic);
        attempt(report, path, *timeout);
        kafka_options(report, path, kafka.options.keys());
        let tls_only = kafka.ca_file.is_some() || kafka.cert_file.is_some() || kafka.key_file.is_some();
        kafka_tls(report, path, kafka.tls, tls_only);
        pair(report, path, kafka.cert_file.is_some(), kafka.key_file.is_some());
    }
}

fn kafka_brokers(report: &mut Report<'_>, path: &Path, brokers: &[String]) {
    let bad = |broker: &String| {
        let port = broker
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        port.is_none_or(|(host, port)| host.is_empty() || port == 0) || broker.contains([',', ' ', '/', '@'])
    };
    if brokers.is_empty() || brokers.iter().any(bad) {
        report.at(
            &path.key("brokers"),
            "expected hosts with their ports, such as [\"kafka-1.internal:9092\"], without scheme, user or password",
        );
    }
}

fn kafka_topic(report: &mut Report<'_>, at: &Path, topic: &str) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.is_empty() || topic.len() > 249 || !topic.chars().all(allowed) {
        report.at(
            at,
            "expected the whole name of a topic: letters, digits, \".\", \"_\" and \"-\"",
        );
    }
}

fn kafka_options<'a>(report: &mut Report<'_>, path: &Path, names: impl Iterator<Item = &'a String>) {
    for name in names {
        if let Some(why) = kafka_option_refused(name) {
            report.at(&path.key("options").key(name), format!("is refused: {why}"));
        }
    }
}

fn kafka_tls(report: &mut Report<'_>, path: &Path, tls: bool, tls_only: bool) {
    if tls_only && !tls {
        report.at(
            &path.key("tls"),
            "expected true: ca_file, cert_file and key_file are for TLS",
        );
    }
}

fn not_empty(report: &mut Report<'_>, at: &Path, value: &str) {
    if value.is_empty() {
        report.at(at, "expected a name, found nothing");
    }
}

fn nats_name(report: &mut Report<'_>, at: &Path, name: &str) {
    if name.is_empty() || name.contains(['.', ' ', '*', '>', '/', '\\', '\t']) {
        report.at(at, "expected a name without dots, slashes, spaces and wildcards");
    }
}

fn least(report: &mut Report<'_>, at: &Path, value: Duration, least: Duration) {
    if value < least {
        report.at(
            at,
            format!("expected {} or more", humantime::format_duration(least)),
        );
    }
}

fn amounts(
    report: &mut Report<'_>,
    path: &Path,
    prefetch: usize,
    prefetch_bytes: usize,
    max_hold: Option<Duration>,
    max_deliver: Option<u64>,
) {
    /// More would not fit what the client itself buffers.
    const MOST: usize = 100_000;
    if !(1..=MOST).contains(&prefetch) {
        report.at(&path.key("prefetch"), format!("expected 1 to {MOST}"));
    }
    if prefetch_bytes < 1024 {
        report.at(&path.key("prefetch_bytes"), "expected 1024 or more");
    }
    if let Some(max_hold) = max_hold {
        least(report, &path.key("max_hold"), max_hold, SHORTEST_HOLD);
    }
    if max_deliver == Some(0) {
        report.at(
            &path.key("max_deliver"),
            "expected 1 or more: with 0, every event is a dead letter",
        );
    }
}

fn attempt(report: &mut Report<'_>, path: &Path, timeout: Duration) {
    if timeout.is_zero() || timeout > LONGEST_ATTEMPT {
        report.at(
            &path.key("timeout"),
            "expected more than 0s and at most 1h: a pause is proven once the attempt under way has ended",
        );
    }
}

fn pair(report: &mut Report<'_>, path: &Path, cert: bool, key: bool) {
    match (cert, key) {
        (true, false) => report.at(&path.key("cert_file"), "expected key_file beside it"),
        (false, true) => report.at(&path.key("key_file"), "expected cert_file beside it"),
        _ => {}
    }
}
