//! What is measured, as OpenMetrics text.
use crate::Core;
use crate::drill::Drills;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tidegate_gate::{Act, Holds, Record, Snapshot, State as Word};
use tokio_util::sync::CancellationToken;

/// The counters and histograms that the process writes; gauges are read from the board when they are asked for.
/// Clones share everything.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    holds: Arc<Holds>,
    registry: Registry,
    polls: Family<Poll, Counter>,
    poll_duration: Family<Switch, Histogram>,
    flips: Family<Flip, Histogram>,
    store_flips: Family<Flip, Histogram>,
    transitions: Family<Transition, Counter>,
    refused: Family<Refused, Counter>,
    audit_lost: Counter,
    drilled: Family<Drilled, Counter>,
    drills: Drills,
    pub(crate) watchers: Gauge,
    watchers_dropped: Family<Dropped, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Poll {
    switch: String,
    outcome: String,
}
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Switch {
    switch: String,
}
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Flip {
    stream: String,
    to: &'static str,
}
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Transition {
    stream: String,
    from: &'static str,
    to: &'static str,
}
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refused {
    status: u16,
}
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Drilled {
    stream: String,
    result: &'static str,
}
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Dropped {
    reason: &'static str,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// From 10 µs (a gate with nothing in flight) to 84 s (a slow store, a long unit of work).
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(1e-5, 4.0, 13).chain([300.0]))
}

/// From 1 ms to 16 s: a read is given up after `timeout`.
fn round_trip() -> Histogram {
    Histogram::new(exponential_buckets(1e-3, 2.0, 15))
}

impl Metrics {
    /// Metrics of a board; `version` is the program's.
    pub fn new(holds: Arc<Holds>, version: &'static str) -> Metrics {
        let mut registry = Registry::default();
        let polls = Family::default();
        let poll_duration = Family::new_with_constructor(round_trip as fn() -> Histogram);
        let flips = Family::new_with_constructor(latency as fn() -> Histogram);
        let store_flips = Family::new_with_constructor(latency as fn() -> Histogram);
        let transitions = Family::default();
        let refused = Family::default();
        let audit_lost = Counter::default();
        let drilled = Family::default();
        let drills = Drills::default();
        let watchers = Gauge::default();
        let watchers_dropped = Family::default();
        let own = registry.sub_registry_with_prefix("tidegate");
        own.register(
            "build",
            "The program that runs",
            Info::new([("version", version)]),
        );
        own.register(
            "polls",
            "Polls of a switch, by what the reading was",
            polls.clone(),
        );
        own.register_with_unit(
            "poll_duration",
            "How long one read of a switch took",
            Unit::Seconds,
            poll_duration.clone(),
        );
        own.register_with_unit(
            "flip_latency",
            "From the reading (or the call) to the proven state",
            Unit::Seconds,
            flips.clone(),
        );
        own.register_with_unit(
            "store_flip_latency",
            "From the store's own time of the version to the proven state, for versions first seen while polling",
            Unit::Seconds,
            store_flips.clone(),
        );
        own.register("transitions", "Changes of a stream's state", transitions.clone());
        own.register(
            "refused_calls",
            "Calls to the control API that were refused",
            refused.clone(),
        );
        own.register(
            "audit_lines_lost",
            "Audit lines that could not be written",
            audit_lost.clone(),
        );
        own.register("drills", "Drills, by what came of them", drilled.clone());
        own.register("watchers", "Open watches", watchers.clone());
        own.register(
            "watchers_dropped",
            "Watches that were ended because their reader was too slow",
            watchers_dropped.clone(),
        );
        own.register_collector(Box::new(Board(holds.clone(), drills.clone())));
        registry.register_collector(Box::new(Process));
        Metrics(Arc::new(Inner {
            holds,
            registry,
            polls,
            poll_duration,
            flips,
            store_flips,
            transitions,
            refused,
            audit_lost,
            drilled,
            drills,
            watchers,
            watchers_dropped,
        }))
    }

    /// Counts one poll of a switch; `outcome` is the reading's word.
    pub fn poll_outcome(&self, switch: &str, outcome: &str, took: Duration) {
        let poll = Poll {
            switch: switch.into(),
            outcome: outcome.into(),
        };
        self.0.polls.get_or_create(&poll).inc();
        let switch = Switch {
            switch: switch.into(),
        };
        self.0
            .poll_duration
            .get_or_create(&switch)
            .observe(took.as_secs_f64());
    }

    /// Everything as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0.registry).expect("writing to a String does not fail");
        text
    }

    pub(crate) fn refused(&self, status: u16) {
        self.0.refused.get_or_create(&Refused { status }).inc();
    }

    pub(crate) fn audit_lines_lost(&self, count: u64) {
        self.0.audit_lost.inc_by(count);
    }

    pub(crate) fn drilled(&self, stream: &str, passed: bool) {
        let drilled = Drilled {
            stream: stream.into(),
            result: if passed { "passed" } else { "found" },
        };
        self.0.drilled.get_or_create(&drilled).inc();
    }

    /// The last drills: kept here, since their age is a metric.
    pub(crate) fn drills(&self) -> &Drills {
        &self.0.drills
    }

    pub(crate) fn watchers(&self) -> &Gauge {
        &self.0.watchers
    }

    pub(crate) fn watcher_dropped(&self, reason: &'static str) {
        self.0.watchers_dropped.get_or_create(&Dropped { reason }).inc();
    }

    /// Reads the journal as it grows, until `stop`.
    pub(crate) async fn follow(&self, stop: &CancellationToken) {
        let mut end = self.0.holds.journal_end();
        let mut seq = 0;
        loop {
            end.mark_unchanged();
            for record in self.0.holds.journal_after(seq) {
                self.observe(&record);
                seq = record.seq;
            }
            tokio::select! {
                changed = end.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    fn observe(&self, record: &Record) {
        let (Act::Transition, Some(stream), Some(from), Some(to)) =
            (record.act, &record.stream, record.from, record.to)
        else {
            return;
        };
        let transition = Transition {
            stream: stream.to_string(),
            from: from.word(),
            to: to.word(),
        };
        self.0.transitions.get_or_create(&transition).inc();
        let flip = Flip {
            stream: stream.to_string(),
            to: to.word(),
        };
        if let Some(latency) = record.flip_latency {
            self.0.flips.get_or_create(&flip).observe(latency.as_secs_f64());
        }
        if let Some(latency) = record.store_latency {
            self.0
                .store_flips
                .get_or_create(&flip)
                .observe(latency.as_secs_f64());
        }
    }
}

/// Everything as OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "observe", responses(
    (status = 200, description = "OpenMetrics text.", body = String, content_type = "application/openmetrics-text"),
))]
pub(crate) async fn serve(State(core): State<Arc<Core>>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, OPEN_METRICS)], core.metrics.text()).into_response()
}

/// What the board says at the moment of a scrape: no series outlives what it is about.
#[derive(Debug)]
struct Board(Arc<Holds>, Drills);

type Series<T> = Vec<(Vec<(&'static str, String)>, T)>;

impl Collector for Board {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let now = self.0.snapshot();
        let e = &mut encoder;
        gauges(
            e,
            "stream_state",
            "1 for the state that a stream or gate is in, 0 for the others",
            None,
            states(&now),
        )?;
        let per_stream = |of: fn(&tidegate_gate::StreamStatus) -> u64| -> Series<u64> {
            now.streams
                .iter()
                .map(|s| (vec![("stream", s.name.to_string())], of(s)))
                .collect()
        };
        gauges(
            e,
            "in_flight_units",
            "Units of work past the gate and not finished",
            None,
            per_stream(|s| s.in_flight),
        )?;
        gauges(
            e,
            "held_events",
            "Events fetched, not past the gate, not acknowledged",
            None,
            per_stream(|s| s.held.events),
        )?;
        gauges(
            e,
            "waiting_callers",
            "Callers before the closed gate",
            None,
            per_stream(|s| s.waiting),
        )?;
        gauges(
            e,
            "holds_set_aside",
            "Holds that an override has set aside",
            None,
            per_stream(|s| s.set_aside.len() as u64),
        )?;
        gauges(
            e,
            "upgraded_connections",
            "Upgraded connections that are open",
            None,
            per_stream(|s| s.upgraded),
        )?;
        counters(
            e,
            "events",
            "Events whose effect is done",
            per_stream(|s| s.events),
        )?;
        counters(
            e,
            "dead_letters",
            "Events written to the dead letter",
            per_stream(|s| s.dead_letters),
        )?;
        let aged = |of: fn(&tidegate_gate::StreamStatus, Instant) -> Option<Duration>| -> Series<f64> {
            let some = now.streams.iter().filter_map(|s| Some((s, of(s, now.mono)?)));
            some.map(|(s, d)| (vec![("stream", s.name.to_string())], d.as_secs_f64()))
                .collect()
        };
        gauges(
            e,
            "held_oldest_age",
            "How long ago the oldest of the held events was fetched",
            Some(Unit::Seconds),
            aged(|s, now| Some(now.saturating_duration_since(s.held.oldest?))),
        )?;
        gauges(
            e,
            "lease_left",
            "How long until the source takes the first of the held events back",
            Some(Unit::Seconds),
            aged(|s, now| Some(s.held.lease_ends?.saturating_duration_since(now))),
        )?;
        gauges(
            e,
            "alarms",
            "What is wrong with the process as a whole: how many sentences the status has about it",
            None,
            vec![(Vec::new(), now.alarms.len() as u64)],
        )?;
        let last = self.1.last();
        let of_drills = |of: &dyn Fn(SystemTime, bool) -> f64| -> Series<f64> {
            last.iter()
                .map(|(at, drill)| (vec![("stream", drill.stream.clone())], of(*at, drill.passed)))
                .collect()
        };
        gauges(
            e,
            "last_drill_age",
            "How long ago the last drill of a stream was",
            Some(Unit::Seconds),
            of_drills(&|at, _| now.at.duration_since(at).unwrap_or_default().as_secs_f64()),
        )?;
        gauges(
            e,
            "last_drill_passed",
            "1 if the last drill of a stream found nothing",
            None,
            of_drills(&|_, passed| f64::from(u8::from(passed))),
        )?;
        gauges(e, "holds", "Holds that stand", None, holds(&now))?;
        gauges(
            e,
            "switch_reading",
            "1 for what the last poll of a switch returned",
            None,
            per_switch(&now, |s| Some((Some(("reading", s.reading.to_owned())), 1.0))),
        )?;
        gauges(
            e,
            "switch_stale",
            "1 if the last good reading is older than max_stale",
            None,
            per_switch(&now, |s| Some((None, f64::from(u8::from(s.stale))))),
        )?;
        gauges(
            e,
            "reading_age",
            "How long ago the last good reading was made",
            Some(Unit::Seconds),
            per_switch(&now, |s| {
                Some((None, now.mono.saturating_duration_since(s.good_at?).as_secs_f64()))
            }),
        )
    }
}

fn states(now: &Snapshot) -> Series<u64> {
    let of = |s: &tidegate_gate::StreamStatus| {
        let (name, kind, state) = (s.name.to_string(), s.kind.word(), s.state);
        Word::ALL.map(move |word| {
            let labels = vec![
                ("stream", name.clone()),
                ("kind", kind.to_owned()),
                ("state", word.word().to_owned()),
            ];
            (labels, u64::from(word == state))
        })
    };
    now.streams.iter().flat_map(of).collect()
}

fn holds(now: &Snapshot) -> Series<u64> {
    // Every switch that could hold a stream has a series, so that a graph shows 0 and not a gap.
    let mut all: BTreeMap<(String, String), u64> = BTreeMap::new();
    for stream in &now.streams {
        let mut put = |controller: String, count| {
            all.entry((stream.name.to_string(), controller))
                .and_modify(|c| *c += count)
                .or_insert(count);
        };
        put("api".into(), 0);
        for switch in now.switches.iter().filter(|s| s.streams.contains(&stream.name)) {
            put(format!("switch:{}", switch.name), 0);
        }
        for (controller, _) in &stream.holds {
            put(controller.to_string(), 1);
        }
    }
    all.into_iter()
        .map(|((stream, controller), count)| (vec![("stream", stream), ("controller", controller)], count))
        .collect()
}

fn per_switch(
    now: &Snapshot,
    of: impl Fn(&tidegate_gate::SwitchStatus) -> Option<(Option<(&'static str, String)>, f64)>,
) -> Series<f64> {
    let some = now.switches.iter().filter_map(|s| Some((s, of(s)?)));
    some.map(|(s, (label, value))| {
        let labels = std::iter::once(("switch", s.name.to_string()))
            .chain(label)
            .collect();
        (labels, value)
    })
    .collect()
}

fn gauges<T>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    series: Series<T>,
) -> Result<(), fmt::Error>
where
    ConstGauge<T>: EncodeMetric,
{
    let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
    for (labels, value) in series {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn counters(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    series: Series<u64>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// The names that every Prometheus client library uses, read from `/proc` where there is one.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let e = &mut encoder;
        let page = rustix::param::page_size() as u64;
        let resident = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|s| s.split(' ').nth(1)?.parse::<u64>().ok());
        if let Some(pages) = resident {
            one(
                e,
                "process_resident_memory",
                "Resident memory",
                Some(Unit::Bytes),
                pages * page,
            )?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the directory that is being read.
            one(
                e,
                "process_open_fds",
                "Open file descriptors",
                None,
                (open.count() as u64).saturating_sub(1),
            )?;
        }
        if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            one(
                e,
                "process_max_fds",
                "How many file descriptors may be open",
                None,
                most,
            )?;
        }
        // A scrape is answered inside the runtime.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let alive = runtime.metrics().num_alive_tasks() as u64;
            one(
                e,
                "tidegate_tasks",
                "Tasks that live, connections among them",
                None,
                alive,
            )?;
        }
        Ok(())
    }
}

fn one(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    value: u64,
) -> Result<(), fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}
