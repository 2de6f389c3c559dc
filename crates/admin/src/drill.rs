//! Trying the button: whether a flip of a switch would pause a stream, how soon, and what stands in the way.
//!
//! A drill disturbs nothing: it reads the switches once, asks their stores what the credentials may do, and decides
//! without applying. A live one pauses the stream for a moment, under a hold with an end, so that whatever becomes of
//! the caller or of this process's clients, the stream moves again.
use crate::auth::{Caller, May, Right, ToRead};
use crate::body::Whole;
use crate::error::{ApiError, ErrorBody, json};
use crate::flowtide::{StreamName, cause};
use crate::status::{Event, time};
use crate::{Admin, Core};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use tidegate_gate::{Act, Controller, Kind, Name, Record, Scope, State as Word, StreamStatus, Wish};
use utoipa::ToSchema;

/// Longer than the slowest store is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// A live drill is a look, not an outage.
const LONGEST_LIVE: Duration = Duration::from_secs(60);
const SHORTEST_LIVE: Duration = Duration::from_millis(100);
/// The pause that leases are compared with, unless the caller plans another.
const PLANNED: Duration = Duration::from_secs(30 * 60);
/// How long after its end the drill's hold may still be seen.
const RELEASE: Duration = Duration::from_secs(10);
/// Pauses that the expected latency is made of.
const REMEMBERED: usize = 100;

/// What a look at one switch found; made by whoever knows the providers.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The switch.
    pub switch: Name,
    /// The streams and gates it can hold.
    pub streams: Vec<Name>,
    /// The reading in one word, as in the status.
    pub reading: &'static str,
    /// Why that is no flag.
    pub error: Option<Name>,
    /// How long the read took.
    pub took: Duration,
    /// Between the starts of two polls.
    pub interval: Duration,
    /// The store asked to be left alone, so that this is the read before.
    pub old: bool,
    /// What the credential may do besides reading.
    pub access: Access,
    /// Whether a flip of what was read would be acted on; if not, why.
    pub acts: Result<(), Name>,
}

/// What a credential may do besides reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    ReadOnly,
    /// It may write; how, and what to do about it.
    Writes(Name),
    /// It cannot be known; why.
    Unknown(Name),
}

/// The answer of `POST {base}/streams/{name}/drill`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Drill {
    /// The stream or gate.
    pub stream: String,
    /// When the drill began (RFC 3339, UTC).
    #[schema(format = DateTime)]
    pub at: String,
    /// It really was paused.
    pub live: bool,
    /// Nothing was found.
    pub passed: bool,
    /// What was looked at, and what came of it.
    pub checks: Vec<Check>,
    /// How soon a flip is expected to be proven.
    pub expected: Expected,
    /// What a live drill measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// `stream`, `switches`, `reading`, `access`, `decision`, `lease` or `live`.
    pub check: String,
    /// The switch, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<String>,
    /// `ok`, `found` (something to repair) or `unknown` (it cannot be checked; not counted as found).
    pub result: String,
    /// One sentence.
    pub told: String,
}

/// From a flip at the store to the proven pause, put together from what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Expected {
    /// The longest interval between two polls of the switches, in seconds.
    pub interval_seconds: Option<f64>,
    /// The slowest read just made, in seconds.
    pub read_seconds: Option<f64>,
    /// From a reading to the proven pause: the longest of the last pauses of this stream, in seconds.
    pub quiesce_seconds: Option<f64>,
    /// Half an interval, one read, and quiescing, as far as it is known.
    pub typical_seconds: Option<f64>,
    /// A whole interval, one read, and quiescing, as far as it is known.
    pub worst_seconds: Option<f64>,
}

/// What a live drill measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Measured {
    /// From the hold to the proven pause, in seconds; none if it was not proven in time.
    pub paused_seconds: Option<f64>,
    /// From the end of the hold to the stream running again, in seconds; none if something else holds it.
    pub resumed_seconds: Option<f64>,
}

/// The last drill of a stream: part of the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastDrill {
    /// The stream or gate.
    pub stream: String,
    /// When (RFC 3339, UTC).
    #[schema(format = DateTime)]
    pub at: String,
    /// It really was paused.
    pub live: bool,
    /// Nothing was found.
    pub passed: bool,
    /// In one sentence.
    pub told: String,
}

/// The body of a drill; all of it may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrillBody {
    /// Really pause for this long (`3s`; 100 ms to 60 s). Needs the right to pause.
    live: Option<String>,
    /// The pause that is planned, which leases are compared with (`30m`).
    pause: Option<String>,
}

/// The last drill of each stream, and those under way. Clones share everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drills(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    last: BTreeMap<Name, (SystemTime, LastDrill)>,
    under_way: BTreeSet<Name>,
}

impl Drills {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Each step leaves the maps whole.
        self.0.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// The last of each stream, with the moment it began.
    pub(crate) fn last(&self) -> Vec<(SystemTime, LastDrill)> {
        self.known().last.values().cloned().collect()
    }

    fn remember(&self, at: SystemTime, drill: LastDrill) {
        let mut known = self.known();
        let stream = Name::from(drill.stream.as_str());
        if known.last.get(&stream).is_none_or(|(before, _)| *before <= at) {
            known.last.insert(stream, (at, drill));
        }
    }
}

/// Two drills of one stream at once would measure each other.
struct UnderWay<'a>(&'a Drills, Name);

impl<'a> UnderWay<'a> {
    fn begin(drills: &'a Drills, stream: &Name) -> Option<UnderWay<'a>> {
        let new = drills.known().under_way.insert(stream.clone());
        new.then(|| UnderWay(drills, stream.clone()))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.known().under_way.remove(&self.1);
    }
}

impl Admin {
    /// Remembers the drills among what happened in earlier processes, so that their age outlives a restart. Streams
    /// that are gone are left out.
    pub fn remember_drills(&self, past: &[Event]) {
        let now = self.0.holds.snapshot();
        for event in past.iter().filter(|e| e.kind == Act::Drill.word()) {
            let (Some(stream), Some(told)) = (&event.stream, &event.reason) else {
                continue;
            };
            let Ok(at) = event.time.parse::<jiff::Timestamp>() else {
                continue;
            };
            if now.stream(stream).is_some() {
                let drill = LastDrill {
                    stream: stream.clone(),
                    at: event.time.clone(),
                    live: told.starts_with(LIVE),
                    passed: told.strip_prefix(LIVE).unwrap_or(told) == PASSED,
                    told: told.clone(),
                };
                self.0.metrics.drills().remember(at.into(), drill);
            }
        }
    }
}

/// How the sentence of a live drill begins, and that of one that found nothing ends: the journal keeps no more.
const LIVE: &str = "live, ";
const PASSED: &str = "passed";

/// Tries whether a flip would pause one stream or gate, and tells what stands in the way.
///
/// Reads each of its switches once, asks their stores what the credential may do besides reading, decides without
/// applying, and compares leases with the pause that is planned. With `live` it really pauses for that long, under a
/// hold of the API that ends by itself.
#[utoipa::path(post, path = "/streams/{name}/drill", tag = "control", request_body = Option<DrillBody>,
    params(("name" = String, Path, description = "The stream's or gate's name.")), responses(
    (status = 200, description = "What was found; `passed` if nothing was.", body = Drill),
    (status = 400, description = "The body is not JSON.", body = ErrorBody),
    (status = 404, description = "No stream or gate has that name.", body = ErrorBody),
    (status = 409, description = "It is held, does not run, or is being drilled: a live drill would prove nothing.",
        body = ErrorBody),
    (status = 422, description = "A field is unknown or wrong.", body = ErrorBody),
    (status = 504, description = "The switches take longer than 30 s to read.", body = ErrorBody),
))]
pub(crate) async fn drill(
    State(core): State<Arc<Core>>,
    may: May<ToRead>,
    StreamName(name): StreamName,
    body: Whole,
) -> Result<Response, ApiError> {
    let asked = body.json::<DrillBody>()?.unwrap_or_default();
    let live = asked
        .live
        .as_deref()
        .map(|text| duration("live", text))
        .transpose()?;
    if live.is_some() {
        may.also(Right::Pause)?;
    }
    if live.is_some_and(|live| !(SHORTEST_LIVE..=LONGEST_LIVE).contains(&live)) {
        let sentence = "live is between 100 ms and 60 s: a drill is a look; for longer, pause with an until";
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, sentence));
    }
    let planned = match asked.pause.as_deref() {
        Some(text) => duration("pause", text)?,
        None => live.unwrap_or_default().max(PLANNED),
    };
    let drill = carry_out(&core, &may.caller, &name, live, planned).await?;
    Ok(json(StatusCode::OK, &drill))
}

fn duration(field: &str, text: &str) -> Result<Duration, ApiError> {
    humantime::parse_duration(text.trim()).map_err(|_| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("{field} is no duration: write it as in \"3s\" or \"30m\""),
        )
    })
}

async fn carry_out(
    core: &Core,
    caller: &Caller,
    name: &str,
    live: Option<Duration>,
    planned: Duration,
) -> Result<Drill, ApiError> {
    let conflict = |sentence: String| ApiError::new(StatusCode::CONFLICT, sentence);
    let now = core.holds.now();
    let stream = status_of(core, name)?;
    let drills = core.metrics.drills();
    let Some(_under_way) = UnderWay::begin(drills, &stream.name) else {
        return Err(conflict(format!("another drill of \"{name}\" is under way")));
    };
    let examined = tokio::time::timeout(PATIENCE, (core.hooks.examine)());
    let examined: Vec<Examination> = examined
        .await
        .map_err(|_| {
            let sentence = "the switches take longer than 30 s to read; status shows which and why";
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, sentence)
        })?
        .into_iter()
        .filter(|e| e.streams.contains(&stream.name))
        .collect();
    // Again: the read may have changed what stands.
    let stream = status_of(core, name)?;
    let mut checks = vec![of_stream(&stream)];
    if examined.is_empty() {
        checks.push(Check::found(
            "switches",
            "no switch holds it: only the control API can pause it",
        ));
    }
    checks.extend(examined.iter().flat_map(of_switch));
    checks.extend(of_lease(&stream, planned, core.holds.now().mono));
    let measured = match live {
        Some(live) => Some(pause_for(core, caller, &stream, live, &mut checks).await?),
        None => None,
    };
    let mut drill = Drill {
        stream: stream.name.to_string(),
        at: time(now.wall),
        live: live.is_some(),
        passed: checks.iter().all(|c| c.result != FOUND),
        expected: expected(core, &stream.name, &examined),
        checks,
        measured,
    };
    drill.checks.sort_by_key(|c| c.result != FOUND);
    note(core, caller, &drill, now.wall);
    Ok(drill)
}

fn status_of(core: &Core, name: &str) -> Result<StreamStatus, ApiError> {
    let snapshot = core.holds.snapshot();
    let found = snapshot.stream(name).cloned();
    found.ok_or_else(|| tidegate_gate::UnknownStream(name.into()).into())
}

const OK: &str = "ok";
const FOUND: &str = "found";
const UNKNOWN: &str = "unknown";

impl Check {
    fn new(check: &str, result: &str, told: impl Into<String>) -> Check {
        Check {
            check: check.into(),
            switch: None,
            result: result.into(),
            told: told.into(),
        }
    }

    fn found(check: &str, told: impl Into<String>) -> Check {
        Check::new(check, FOUND, told)
    }

    fn of(self, switch: &Name) -> Check {
        Check {
            switch: Some(switch.to_string()),
            ..self
        }
    }
}

fn of_stream(stream: &StreamStatus) -> Check {
    match (stream.state, stream.life.error()) {
        (Word::Failed | Word::Stopped | Word::Draining, error) => {
            let why = error.map(|e| format!(": {e}")).unwrap_or_default();
            Check::found("stream", format!("it is {}{why}", stream.state.word()))
        }
        (_, Some(error)) => Check::found("stream", format!("it is being tried again: {error}")),
        (state, None) => Check::new("stream", OK, format!("it is {}", state.word())),
    }
}

fn of_switch(e: &Examination) -> Vec<Check> {
    let reading = match &e.error {
        Some(error) => Check::found("reading", format!("{}: {error}", e.reading)),
        None if e.old => Check::new(
            "reading",
            UNKNOWN,
            "the store asked to be left alone, so that it was not read now",
        ),
        None => Check::new("reading", OK, format!("read in {}: {}", told(e.took), e.reading)),
    };
    let access = match &e.access {
        Access::ReadOnly => Check::new("access", OK, "the credential may read and not write"),
        Access::Writes(how) => Check::found("access", how.as_ref()),
        Access::Unknown(why) => Check::new("access", UNKNOWN, why.as_ref()),
    };
    let decision = match (&e.acts, &e.error) {
        (Ok(()), _) => Check::new("decision", OK, "a flip would hold it, and a flip back let it go"),
        // Said already.
        (Err(_), Some(_)) => return vec![reading.of(&e.switch), access.of(&e.switch)],
        (Err(why), None) => Check::found("decision", why.as_ref()),
    };
    vec![
        reading.of(&e.switch),
        access.of(&e.switch),
        decision.of(&e.switch),
    ]
}

fn of_lease(stream: &StreamStatus, planned: Duration, now: Instant) -> Option<Check> {
    let terms = stream.lease?;
    let planned_told = humantime::format_duration(planned);
    let left = stream.held.lease_ends.map(|at| at.saturating_duration_since(now));
    let check = match terms.kept_for {
        Some(kept) if kept < planned => Check::found(
            "lease",
            format!(
                "a pause of {planned_told} outlives the lease of what is held: after {} the source has it back and \
                 hands it out again; lengthen the lease, or pause for less",
                told(kept)
            ),
        ),
        Some(kept) => Check::new("lease", OK, format!("what is held is kept for {}", told(kept))),
        None => Check::new(
            "lease",
            OK,
            format!(
                "leases of {} are renewed as long as it is paused",
                told(terms.term)
            ),
        ),
    };
    let ends = |left: Duration| format!("; the first of what is held now has {} left", told(left));
    Some(Check {
        told: check.told + &left.map(ends).unwrap_or_default(),
        ..check
    })
}

fn expected(core: &Core, stream: &Name, examined: &[Examination]) -> Expected {
    let interval = examined.iter().map(|e| e.interval).max();
    let read = examined
        .iter()
        .filter(|e| e.error.is_none())
        .map(|e| e.took)
        .max();
    let proven = |r: &Record| {
        let paused = matches!(r.to, Some(Word::Paused | Word::Hiatus));
        (paused && r.act == Act::Transition && r.stream.as_ref() == Some(stream)).then_some(r.flip_latency)?
    };
    let journal = core.holds.journal_after(0);
    let quiesce = journal
        .iter()
        .rev()
        .filter_map(|r| proven(r))
        .take(REMEMBERED)
        .max();
    let seconds = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e6;
    let of = |interval: Duration| read.map(|read| seconds(interval + read + quiesce.unwrap_or_default()));
    Expected {
        interval_seconds: interval.map(seconds),
        read_seconds: read.map(seconds),
        quiesce_seconds: quiesce.map(seconds),
        typical_seconds: interval.and_then(|i| of(i / 2)),
        worst_seconds: interval.and_then(of),
    }
}

/// Pauses under an end and waits for both turns. The hold is not released: if somebody strengthens it meanwhile, it is
/// theirs.
async fn pause_for(
    core: &Core,
    caller: &Caller,
    stream: &StreamStatus,
    live: Duration,
    checks: &mut Vec<Check>,
) -> Result<Measured, ApiError> {
    let conflict = |sentence: String| Err(ApiError::new(StatusCode::CONFLICT, sentence));
    if let Some((by, _)) = stream.holds.first() {
        return conflict(format!(
            "\"{}\" is held by {by} already, so a live drill would prove nothing; without live it disturbs nothing",
            stream.name
        ));
    }
    if stream.state != Word::Running {
        return conflict(format!(
            "\"{}\" is {}, so a live drill would prove nothing",
            stream.name,
            stream.state.word()
        ));
    }
    let began = tokio::time::Instant::now();
    let wish = Wish {
        reason: Some(format!("drill for {}", humantime::format_duration(live)).into()),
        until: Some(core.holds.now().wall + live),
        cause: cause(caller),
        ..Wish::default()
    };
    core.holds
        .place(&Controller::Api, Scope::One(&stream.name), wish)?;
    let still = match stream.kind {
        Kind::Gate { serves: true } => Word::Hiatus,
        _ => Word::Paused,
    };
    let reached = becomes(core, &stream.name, |s| s.state == still);
    let paused = tokio::time::timeout_at(began + live, reached).await.ok();
    let paused = paused.map(|at| at.saturating_duration_since(began));
    match paused {
        Some(after) => checks.push(Check::new(
            "live",
            OK,
            format!("it was paused after {}", told(after)),
        )),
        None => {
            let runs = status_of(core, &stream.name)?;
            let oldest = runs.running.first().map(|r| {
                let age = told(core.holds.now().mono.saturating_duration_since(r.since));
                format!(", such as {} since {age}", r.name)
            });
            checks.push(Check::found(
                "live",
                format!(
                    "it was not paused within {}: {} still ran{}",
                    humantime::format_duration(live),
                    runs.in_flight,
                    oldest.unwrap_or_default()
                ),
            ));
        }
    }
    let ended = began + live;
    let free = becomes(core, &stream.name, |s| s.holds.is_empty() && s.state != still);
    let resumed = tokio::time::timeout_at(ended + RELEASE, free).await.ok();
    if resumed.is_none() {
        let holds = status_of(core, &stream.name)?.holds;
        let who: Vec<String> = holds.iter().map(|(c, _)| c.to_string()).collect();
        checks.push(Check::new(
            "live",
            UNKNOWN,
            format!(
                "it did not move again after the drill's hold had ended: held by {}",
                who.join(", ")
            ),
        ));
    }
    Ok(Measured {
        paused_seconds: paused.map(|d| (d.as_secs_f64() * 1e6).round() / 1e6),
        resumed_seconds: resumed
            .map(|at| (at.saturating_duration_since(ended).as_secs_f64() * 1e6).round() / 1e6),
    })
}

/// When the stream was first seen to be as wanted.
async fn becomes(core: &Core, stream: &str, wanted: impl Fn(&StreamStatus) -> bool) -> tokio::time::Instant {
    let mut changes = core.holds.watch();
    loop {
        changes.mark_unchanged();
        if core.holds.snapshot().stream(stream).is_some_and(&wanted) {
            return tokio::time::Instant::now();
        }
        // The sender lives in the board, which the core keeps.
        let _ = changes.changed().await;
    }
}

fn note(core: &Core, caller: &Caller, drill: &Drill, at: SystemTime) {
    let found: Vec<&Check> = drill.checks.iter().filter(|c| c.result == FOUND).collect();
    let kind = if drill.live { LIVE } else { "" };
    let told = match found.as_slice() {
        [] => format!("{kind}{PASSED}"),
        [first, ..] => {
            let switch = first
                .switch
                .as_ref()
                .map(|s| format!("{s}: "))
                .unwrap_or_default();
            format!("{kind}found {}: {switch}{}", found.len(), first.told)
        }
    };
    let mut record = Record::new(Act::Drill);
    record.stream = Some(drill.stream.as_str().into());
    record.actor = Some(caller.actor.clone());
    record.reason = tidegate_gate::plain(told.as_str().into());
    record.flip_latency = drill
        .measured
        .as_ref()
        .and_then(|m| m.paused_seconds)
        .map(Duration::from_secs_f64);
    core.metrics.drills().remember(
        at,
        LastDrill {
            stream: drill.stream.clone(),
            at: drill.at.clone(),
            live: drill.live,
            passed: drill.passed,
            told,
        },
    );
    core.metrics.drilled(&drill.stream, drill.passed);
    core.holds.note(record);
}

/// To the precision that a person reads.
fn told(duration: Duration) -> String {
    match duration {
        d if d < Duration::from_millis(1) => format!("{} µs", d.as_micros()),
        d if d < Duration::from_secs(1) => format!("{:.1} ms", d.as_secs_f64() * 1e3),
        d if d < Duration::from_secs(10) => format!("{:.2} s", d.as_secs_f64()),
        d => humantime::format_duration(Duration::from_secs(d.as_secs())).to_string(),
    }
}
