//! The whole state at once, then every change, as server-sent events: made once, told to all.
use crate::auth::{May, ToRead};
use crate::drill::Drills;
use crate::error::{ApiError, ErrorBody};
use crate::status::{Change, Event, Status, StreamStatus, SwitchStatus, since, time};
use crate::{Core, Metrics};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tidegate_gate as gate;
use tidegate_gate::{Act, Holds, Snapshot};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A watcher that is this many events behind is dropped. The events are shared, so that a slow reader costs
/// nothing but its place.
const BEHIND: usize = 256;
/// So many events go at once after a quiet time: a flip is one or two, and whoever watches it waits for the last.
const AT_ONCE: u32 = 4;
/// After those, changes are gathered for this long: a storm of them becomes fifty events a second.
const GATHER: Duration = Duration::from_millis(20);
/// Counters and ages.
const TICK: Duration = Duration::from_secs(1);
/// For readers that have to know that what they see is not old, and for proxies that close what is silent.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Transitions in the first event.
const RECENT: usize = 200;

pub(crate) struct Hub {
    holds: Arc<Holds>,
    drills: Drills,
    told: Mutex<Told>,
    frames: broadcast::Sender<Frame>,
    wanted: Notify,
    places: Arc<Semaphore>,
}

#[derive(Clone)]
enum Frame {
    Data(Bytes),
    Last(Bytes),
}

/// What the watchers have been told.
struct Told {
    snapshot: Arc<Snapshot>,
    closing: bool,
    seq: u64,
    /// The first event of whoever comes now.
    first: Option<Bytes>,
    ended: bool,
}

impl Hub {
    pub(crate) fn new(holds: Arc<Holds>, drills: Drills, places: usize) -> Hub {
        let snapshot = holds.snapshot();
        let seq = *holds.journal_end().borrow();
        Hub {
            told: Mutex::new(Told {
                snapshot,
                closing: false,
                seq,
                first: None,
                ended: false,
            }),
            holds,
            drills,
            frames: broadcast::channel(BEHIND).0,
            wanted: Notify::new(),
            places: Arc::new(Semaphore::new(places)),
        }
    }

    /// Tells watchers of changes, as long as there are any.
    pub(crate) async fn run(&self, stop: &CancellationToken, core: &Core) {
        let mut changed = self.holds.watch();
        let mut closing = core.closing.subscribe();
        let mut spoke = Instant::now();
        let mut pace = Pace::new(spoke);
        loop {
            if self.frames.receiver_count() == 0 {
                tokio::select! {
                    () = self.wanted.notified() => {}
                    () = stop.cancelled() => break,
                }
            }
            let tick = Instant::now() + TICK;
            changed.mark_unchanged();
            closing.mark_unchanged();
            let due = self.tell(core.is_closing());
            if due {
                spoke = Instant::now();
                pace.sent(spoke);
            } else if spoke.elapsed() >= KEEP_ALIVE {
                spoke = Instant::now();
                let _ = self
                    .frames
                    .send(Frame::Data(Bytes::from_static(b"event: alive\ndata: {}\n\n")));
            }
            if let Some(until) = pace.gathers_until(Instant::now()) {
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = stop.cancelled() => break,
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = closing.changed() => {}
                () = sleep_until(tick) => {}
                () = stop.cancelled() => break,
            }
        }
        self.told().ended = true;
        let _ = self.frames.send(Frame::Last(event(
            "end",
            &Reason {
                reason: "the process is stopping",
            },
        )));
    }

    /// Sends what changed since the last time; whether anything did.
    fn tell(&self, closing: bool) -> bool {
        let mut told = self.told();
        // Taken inside the lock: who subscribes in between gets either the state before and this change, or the
        // state after.
        let now = self.holds.snapshot();
        let Some(change) = told.advance(now, closing, &self.holds) else {
            return false;
        };
        let _ = self.frames.send(Frame::Data(event("change", &change)));
        true
    }

    /// The whole state, and whatever changes after it.
    fn subscribe(&self, closing: bool) -> Option<(Bytes, broadcast::Receiver<Frame>)> {
        let mut told = self.told();
        if told.ended {
            return None;
        }
        // What is sent below goes to those who watch already; whoever comes now has it in the first event. A call
        // that was answered before this one must be in it too, so that a change is not waited for.
        if self.frames.receiver_count() == 0 || self.holds.watch().borrow().revision != told.snapshot.revision
        {
            let now = self.holds.snapshot();
            if let Some(change) = told.advance(now, closing, &self.holds) {
                let _ = self.frames.send(Frame::Data(event("change", &change)));
            }
        }
        let receiver = self.frames.subscribe();
        let first = match &told.first {
            Some(first) => first.clone(),
            None => {
                let first = event("state", &told.whole(&self.holds, &self.drills));
                told.first = Some(first.clone());
                first
            }
        };
        self.wanted.notify_one();
        Some((first, receiver))
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // Each step leaves the value whole.
        self.told.lock().unwrap_or_else(|p| p.into_inner())
    }
}

/// How densely events may follow one another: each takes [`GATHER`] to be paid for, and [`AT_ONCE`] are lent.
struct Pace {
    paid: Instant,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { paid: now }
    }

    fn sent(&mut self, now: Instant) {
        self.paid = self.paid.max(now) + GATHER;
    }

    /// Until when the next event has to wait, if it has to.
    fn gathers_until(&self, now: Instant) -> Option<Instant> {
        let owed = self.paid.saturating_duration_since(now);
        let over = owed.saturating_sub(GATHER * (AT_ONCE - 1));
        (over > Duration::ZERO).then(|| now + over)
    }
}

impl Told {
    fn whole(&self, holds: &Holds, drills: &Drills) -> Status {
        let mut recent: Vec<Event> = holds
            .journal_after(0)
            .iter()
            .rev()
            .filter(|r| r.act == Act::Transition && r.seq <= self.seq)
            .take(RECENT)
            .map(|r| Event::of(r))
            .collect();
        recent.reverse();
        Status {
            recent,
            drills: drills.last().into_iter().map(|(_, drill)| drill).collect(),
            ..Status::of(&self.snapshot, self.closing)
        }
    }

    fn advance(&mut self, now: Arc<Snapshot>, closing: bool, holds: &Holds) -> Option<Change> {
        let before = std::mem::replace(&mut self.snapshot, now);
        let now = &self.snapshot;
        let records = holds.journal_after(self.seq);
        let streams: Vec<StreamStatus> = now
            .streams
            .iter()
            .filter(|s| !before.stream(&s.name).is_some_and(|b| same_stream(b, s)))
            .map(|s| StreamStatus::of(s, now.mono))
            .collect();
        let switches: Vec<SwitchStatus> = now
            .switches
            .iter()
            .filter(|s| !before.switch(&s.name).is_some_and(|b| same_switch(b, s)))
            .map(|s| SwitchStatus::of(s, now.mono))
            .collect();
        let polled = |s: &&gate::SwitchStatus| {
            before
                .switch(&s.name)
                .is_some_and(|b| (b.good_at, b.next_poll) != (s.good_at, s.next_poll))
        };
        let per_switch = |of: &dyn Fn(&gate::SwitchStatus) -> Option<f64>| -> BTreeMap<String, f64> {
            let polled = now.switches.iter().filter(polled);
            polled
                .filter_map(|s| Some((s.name.to_string(), of(s)?)))
                .collect()
        };
        let ages = per_switch(&|s| Some(since(s.good_at?, now.mono)));
        let next_polls = per_switch(&|s| Some(since(now.mono, s.next_poll?)));
        let turned = std::mem::replace(&mut self.closing, closing) != closing;
        let turned = turned || before.alarms != now.alarms;
        let silent = ages.is_empty() && next_polls.is_empty() && records.is_empty();
        if streams.is_empty() && switches.is_empty() && silent && !turned {
            return None;
        }
        self.first = None;
        self.seq = records.last().map_or(self.seq, |r| r.seq);
        Some(Change {
            at: time(now.at),
            revision: now.revision,
            closing,
            streams,
            switches,
            alarms: now.alarms.iter().map(ToString::to_string).collect(),
            ages,
            next_polls,
            events: records.iter().map(|r| Event::of(r)).collect(),
        })
    }
}

/// Ages grow by themselves and are no change.
fn same_stream(a: &gate::StreamStatus, b: &gate::StreamStatus) -> bool {
    (a.state, a.in_flight, a.waiting, a.held, a.events) == (b.state, b.in_flight, b.waiting, b.held, b.events)
        && (a.dead_letters, a.upgraded, a.last_transition) == (b.dead_letters, b.upgraded, b.last_transition)
        && (&a.holds, &a.set_aside, &a.running, &a.life) == (&b.holds, &b.set_aside, &b.running, &b.life)
}

fn same_switch(a: &gate::SwitchStatus, b: &gate::SwitchStatus) -> bool {
    (a.reading, a.settled, a.stale) == (b.reading, b.settled, b.stale)
        && (&a.version, &a.error, &a.warnings, &a.streams) == (&b.version, &b.error, &b.warnings, &b.streams)
}

#[derive(Serialize)]
struct Reason {
    reason: &'static str,
}

fn event(name: &str, data: &impl Serialize) -> Bytes {
    let mut frame = format!("event: {name}\ndata: ").into_bytes();
    // JSON without line breaks, so that it is one data line.
    serde_json::to_writer(&mut frame, data).expect("our own types have string keys and finite numbers");
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

/// Server-sent events: `state` (everything, with the last transitions) at once, then a `change` for every change;
/// counters once a second, `alive` where there was nothing for five. A reader that falls behind gets `dropped` with a reason, and the end of the answer.
#[utoipa::path(get, path = "/watch", tag = "control", responses(
    (status = 200, description = "`state`: Status. `change`: Change. `dropped`, `end`: `{\"reason\"}`.",
        content((Status = "text/event-stream"))),
    (status = 503, description = "Too many watch already, or the process is stopping.", body = ErrorBody),
))]
pub(crate) async fn watch(State(core): State<Arc<Core>>, _: May<ToRead>) -> Result<Response, ApiError> {
    let busy = |sentence| Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, sentence).retry_after("5"));
    let Ok(place) = core.hub.places.clone().try_acquire_owned() else {
        core.metrics.watcher_dropped("too many");
        return busy("too many watch already; status can still be asked for");
    };
    let Some((first, frames)) = core.hub.subscribe(core.is_closing()) else {
        return busy("the process is stopping");
    };
    core.metrics.watchers().inc();
    let watcher = Watcher {
        first: Some(first),
        frames,
        ended: false,
        metrics: core.metrics.clone(),
        _place: place,
    };
    let events = stream::unfold(watcher, |mut watcher| async {
        let frame = watcher.next().await?;
        Some((Ok::<_, Infallible>(frame), watcher))
    });
    Ok((
        [
            (CONTENT_TYPE, "text/event-stream"),
            // Some proxies gather an answer before they pass it on.
            (HeaderName::from_static("x-accel-buffering"), "no"),
        ],
        Body::from_stream(events),
    )
        .into_response())
}

struct Watcher {
    first: Option<Bytes>,
    frames: broadcast::Receiver<Frame>,
    ended: bool,
    metrics: Metrics,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.ended {
            return None;
        }
        match self.frames.recv().await {
            Ok(Frame::Data(frame)) => Some(frame),
            Ok(Frame::Last(frame)) => {
                self.ended = true;
                Some(frame)
            }
            Err(RecvError::Lagged(_)) => {
                self.ended = true;
                self.metrics.watcher_dropped("too slow");
                let reason = "too slow: more than 256 events behind; watch again for the whole state";
                Some(event("dropped", &Reason { reason }))
            }
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.metrics.watchers().dec();
        // The listener cuts a connection whose reader has stopped; what it left unread tells that from a goodbye.
        if !self.ended && !self.frames.is_empty() {
            self.metrics.watcher_dropped("not reading");
        }
    }
}
