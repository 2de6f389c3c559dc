//! The shapes of the JSON that says how things stand, apart from the types that keep them so.
//!
//! The command line reads them back, perhaps from an older process: whatever is not in the contract may be missing, so
//! a new field gets a default.
use crate::Core;
use crate::auth::{May, ToRead};
use crate::drill::LastDrill;
use crate::error::json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tidegate_gate as gate;
use tidegate_gate::{Controller, Hold, Life, Record, Running, Snapshot};
use utoipa::ToSchema;

/// How many of the units that still run are named per stream, oldest first.
const NAMED: usize = 20;

/// Everything at one moment: the answer of `GET {base}/status`, and the first event of `GET {base}/watch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// When (RFC 3339, UTC).
    #[schema(format = DateTime)]
    #[serde(default)]
    pub at: String,
    /// Grows with every change of a state, a hold or a switch; counters alone do not raise it.
    #[serde(default)]
    pub revision: u64,
    /// The process is stopping: `drain --close` or a signal.
    #[serde(default)]
    pub closing: bool,
    /// Streams and gates, in the order of the configuration.
    pub streams: Vec<StreamStatus>,
    /// Switches, in the order of the configuration.
    pub switches: Vec<SwitchStatus>,
    /// What is wrong with the process as a whole, a sentence each.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// The last drill of each stream that had one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drills: Vec<LastDrill>,
    /// The last transitions, oldest first; in the first event of a watch only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<Event>,
}

/// What changed since the event before: an event of `GET {base}/watch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// When (RFC 3339, UTC).
    #[schema(format = DateTime)]
    pub at: String,
    /// As in the status.
    pub revision: u64,
    /// As in the status.
    #[serde(default)]
    pub closing: bool,
    /// Those that changed, whole.
    pub streams: Vec<StreamStatus>,
    /// Those that changed, whole.
    pub switches: Vec<SwitchStatus>,
    /// What is wrong with the process as a whole now, a sentence each.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// The age in seconds of each good reading that was renewed.
    #[serde(default)]
    pub ages: BTreeMap<String, f64>,
    /// How long until the next poll of each switch that was polled since, in seconds.
    #[serde(default)]
    pub next_polls: BTreeMap<String, f64>,
    /// What happened, in order.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// One stream or gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamStatus {
    /// Its name.
    pub name: String,
    /// `stream` or `gate`.
    pub kind: String,
    /// `starting`, `running`, `pausing`, `paused`, `hiatus`, `draining`, `stopped` or `failed`.
    pub state: String,
    /// Units of work past the gate and not finished; 0 when `paused`, else never below the truth.
    pub in_flight: u64,
    /// Events fetched, not past the gate, not acknowledged.
    pub held: u64,
    /// The holds that stand.
    pub holds: Vec<HoldStatus>,
    /// Events whose effect is done, since the start of the process.
    pub events: u64,
    /// When the state last changed (RFC 3339, UTC).
    #[schema(format = DateTime)]
    pub last_transition: String,
    /// What is broken.
    pub error: Option<String>,
    /// How often it was tried again in vain, while something is broken.
    #[serde(default)]
    pub attempts: u32,
    /// The holds that an override has set aside.
    #[serde(default)]
    pub set_aside: Vec<HoldStatus>,
    /// Callers that stand before the closed gate.
    #[serde(default)]
    pub waiting: u64,
    /// Events written to the dead letter, since the start of the process.
    #[serde(default)]
    pub dead_letters: u64,
    /// Upgraded connections that are open; not part of `in_flight`.
    #[serde(default)]
    pub upgraded: u64,
    /// How long ago the oldest of the held events was fetched, in seconds.
    pub held_oldest_seconds: Option<f64>,
    /// How long until the source takes the first of the held events back, in seconds.
    pub lease_left_seconds: Option<f64>,
    /// The longest that the source leaves events with us during a pause, in seconds; none without a lease, and where
    /// leases are renewed without end.
    #[serde(default)]
    pub lease_kept_seconds: Option<f64>,
    /// The held events were given back to the source, to be fetched again after the pause.
    #[serde(default)]
    pub parked: bool,
    /// What still runs, oldest first, as far as it is named; at most 20.
    #[serde(default)]
    pub running: Vec<Work>,
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HoldStatus {
    /// `api`, `stop` or `switch:<name>`.
    pub controller: String,
    /// Why.
    pub reason: Option<String>,
    /// Who claims to have placed it.
    pub by: Option<String>,
    /// Since when it stands (RFC 3339, UTC).
    #[schema(format = DateTime)]
    pub since: String,
    /// When it ends (RFC 3339, UTC).
    #[schema(format = DateTime)]
    pub until: Option<String>,
    /// Who is known to have placed it: a token's name, `loopback`, `store:<version>`.
    pub actor: Option<String>,
}

/// A unit of work that is still running.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Work {
    /// What it is.
    pub name: String,
    /// How long ago it passed the gate, in seconds.
    pub age_seconds: f64,
}

/// One switch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SwitchStatus {
    /// Its name.
    pub name: String,
    /// The kind of store: `vault`, `azure_key_vault`, `file`, `fixed`.
    pub provider: String,
    /// The last reading: `paused`, `running`, `missing`, `deleted`, `disabled`, `malformed`, `denied`, `throttled`,
    /// `sealed`, `unavailable`, `stale`, or `none` before the first.
    pub reading: String,
    /// The version of the last good reading.
    pub version: Option<String>,
    /// How long ago the last good reading was made, in seconds.
    pub age_seconds: Option<f64>,
    /// What is wrong, for a person.
    pub error: Option<String>,
    /// When the store says that version was written (RFC 3339, UTC).
    #[schema(format = DateTime)]
    pub written: Option<String>,
    /// The streams it can hold.
    #[serde(default)]
    pub streams: Vec<String>,
    /// Smaller complaints about a flag that was read.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How long until the next poll, in seconds.
    pub next_poll_seconds: Option<f64>,
    /// The last good reading is older than `max_stale`.
    #[serde(default)]
    pub stale: bool,
    /// The process may call itself ready as far as this switch is concerned.
    #[serde(default)]
    pub settled: bool,
}

/// One thing that happened: a line of the audit, and of `events` in a watch. What does not apply is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// When (RFC 3339, UTC).
    #[schema(format = DateTime)]
    pub time: String,
    /// Counts up by one.
    pub seq: u64,
    /// `transition`, `hold_placed`, `hold_released`, `hold_expired`, `override`, `refused`, `reading` or `drill`; in a
    /// history also `started` and `lost`.
    pub kind: String,
    /// The stream or gate it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The switch, for readings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<String>,
    /// The state before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The state after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whose hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// Who is known to have acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Who claims to have acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The secret's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// From the reading (or the call) to the proven state, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flip_latency_ms: Option<f64>,
    /// From the store's own time of the version to the proven state, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_latency_ms: Option<f64>,
}

/// Everything.
#[utoipa::path(get, path = "/status", tag = "control", responses(
    (status = 200, description = "Everything at one moment.", body = Status),
))]
pub(crate) async fn full(State(core): State<Arc<Core>>, _: May<ToRead>) -> Response {
    json(StatusCode::OK, &Status::now(&core))
}

/// Everything that is harmless to see: on the observe listener.
pub(crate) async fn redacted(State(core): State<Arc<Core>>) -> Response {
    let status = Status::of(&core.holds.snapshot(), core.is_closing());
    json(StatusCode::OK, &status.redacted())
}

impl Status {
    pub(crate) fn now(core: &Core) -> Status {
        let drills = core.metrics.drills().last();
        Status {
            drills: drills.into_iter().map(|(_, drill)| drill).collect(),
            ..Status::of(&core.holds.snapshot(), core.is_closing())
        }
    }

    pub(crate) fn of(snapshot: &Snapshot, closing: bool) -> Status {
        Status {
            at: time(snapshot.at),
            revision: snapshot.revision,
            closing,
            streams: snapshot
                .streams
                .iter()
                .map(|s| StreamStatus::of(s, snapshot.mono))
                .collect(),
            switches: snapshot
                .switches
                .iter()
                .map(|s| SwitchStatus::of(s, snapshot.mono))
                .collect(),
            alarms: snapshot.alarms.iter().map(ToString::to_string).collect(),
            drills: Vec::new(),
            recent: Vec::new(),
        }
    }

    /// Without reasons, actors, addresses and errors, and without the names of what runs, which may be paths with
    /// somebody's id in them.
    fn redacted(mut self) -> Status {
        self.alarms.clear();
        for stream in &mut self.streams {
            stream.error = None;
            stream.running.clear();
            for hold in stream.holds.iter_mut().chain(&mut stream.set_aside) {
                hold.reason = None;
                hold.by = None;
                hold.actor = None;
            }
        }
        for switch in &mut self.switches {
            switch.error = None;
            switch.warnings.clear();
        }
        self
    }
}

impl StreamStatus {
    pub(crate) fn of(stream: &gate::StreamStatus, now: Instant) -> StreamStatus {
        let holds = |of: &[(Controller, Hold)]| of.iter().map(|(c, h)| HoldStatus::new(c, h)).collect();
        StreamStatus {
            name: stream.name.to_string(),
            kind: stream.kind.word().into(),
            state: stream.state.word().into(),
            in_flight: stream.in_flight,
            held: stream.held.events,
            holds: holds(&stream.holds),
            events: stream.events,
            last_transition: time(stream.last_transition),
            error: stream.life.error().map(ToString::to_string),
            attempts: match stream.life {
                Life::Retrying { attempt, .. } => attempt,
                _ => 0,
            },
            set_aside: holds(&stream.set_aside),
            waiting: stream.waiting,
            dead_letters: stream.dead_letters,
            upgraded: stream.upgraded,
            held_oldest_seconds: stream.held.oldest.map(|at| since(at, now)),
            lease_left_seconds: stream.held.lease_ends.map(|at| since(now, at)),
            lease_kept_seconds: stream.lease.and_then(|l| l.kept_for).map(|d| d.as_secs_f64()),
            parked: stream.held.parked,
            running: stream
                .running
                .iter()
                .take(NAMED)
                .map(|r| Work::of(r, now))
                .collect(),
        }
    }
}

impl Work {
    pub(crate) fn of(running: &Running, now: Instant) -> Work {
        Work {
            name: running.name.to_string(),
            age_seconds: since(running.since, now),
        }
    }
}

impl HoldStatus {
    pub(crate) fn new(controller: &Controller, hold: &Hold) -> HoldStatus {
        HoldStatus {
            controller: controller.to_string(),
            reason: hold.reason.as_deref().map(Into::into),
            by: hold.by.as_deref().map(Into::into),
            since: time(hold.since),
            until: hold.until.map(time),
            actor: Some(hold.actor.to_string()),
        }
    }
}

impl SwitchStatus {
    pub(crate) fn of(switch: &gate::SwitchStatus, now: Instant) -> SwitchStatus {
        let strings = |of: &[gate::Name]| of.iter().map(ToString::to_string).collect();
        SwitchStatus {
            name: switch.name.to_string(),
            provider: switch.provider.into(),
            reading: switch.reading.into(),
            version: switch.version.as_ref().map(|v| v.id.to_string()),
            age_seconds: switch.good_at.map(|at| since(at, now)),
            error: switch.error.as_deref().map(Into::into),
            written: switch.version.as_ref().and_then(|v| v.written).map(time),
            streams: strings(&switch.streams),
            warnings: strings(&switch.warnings),
            next_poll_seconds: switch.next_poll.map(|at| since(now, at)),
            stale: switch.stale,
            settled: switch.settled,
        }
    }
}

impl Event {
    /// The record as JSON tells it.
    pub fn of(record: &Record) -> Event {
        let text = |name: &Option<gate::Name>| name.as_deref().map(Into::into);
        let millis = |d: Option<Duration>| d.map(|d| (d.as_secs_f64() * 1e6).round() / 1e3);
        Event {
            time: time(record.at),
            seq: record.seq,
            kind: record.act.word().into(),
            stream: text(&record.stream),
            switch: text(&record.switch),
            from: record.from.map(|s| s.word().into()),
            to: record.to.map(|s| s.word().into()),
            controller: record.controller.as_ref().map(ToString::to_string),
            actor: text(&record.actor),
            by: text(&record.by),
            reason: text(&record.reason),
            version: text(&record.version),
            flip_latency_ms: millis(record.flip_latency),
            store_latency_ms: millis(record.store_latency),
        }
    }

    /// Something that the journal has no record of, for whoever keeps a history.
    pub fn bare(at: SystemTime, kind: &str, reason: &str) -> Event {
        Event {
            time: time(at),
            seq: 0,
            kind: kind.into(),
            stream: None,
            switch: None,
            from: None,
            to: None,
            controller: None,
            actor: None,
            by: None,
            reason: Some(reason.into()),
            version: None,
            flip_latency_ms: None,
            store_latency_ms: None,
        }
    }
}

/// RFC 3339, UTC, milliseconds.
pub(crate) fn time(at: SystemTime) -> String {
    // Outside the years that RFC 3339 can write, the nearest it can.
    let at = Timestamp::try_from(at).unwrap_or(match at < SystemTime::UNIX_EPOCH {
        true => Timestamp::UNIX_EPOCH,
        false => Timestamp::MAX,
    });
    format!("{at:.3}")
}

/// Seconds from one moment to another, to the millisecond; 0 if it is not later.
pub(crate) fn since(from: Instant, to: Instant) -> f64 {
    (to.saturating_duration_since(from).as_secs_f64() * 1e3).round() / 1e3
}
