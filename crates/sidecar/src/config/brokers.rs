//! What the brokers of streams demand of their options.
use super::problem::Report;
use super::streams::LONGEST_ATTEMPT;
use super::tree::Path;
use std::time::Duration;
use tidegate_runtime::{NatsSinkConfig, NatsSourceConfig, SinkConfig, SourceConfig};

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
