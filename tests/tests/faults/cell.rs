//! One cell: a store that goes wrong in one way while a stream is in one phase, and everything that has to hold then.
use crate::rows::{Expect, How, Kind, Row};
use crate::stores::{MARK, Place, Stores};
use crate::subject::{Log, Subject, Twin};
use e2e::fault_proxy::{ENDLESS, Fault};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tidegate_gate::{Clock, Holds, Kind as StreamKind, Life, Moment, Name, Reading, Snapshot, State, Unit};
use tidegate_providers::{Nudger, Observer, Poller, Switch};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) const INTERVAL: Duration = Duration::from_millis(250);
pub(crate) const RETRY_MAX: Duration = Duration::from_millis(500);
/// Far more than anything takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between what is computed and when it is looked at.
const SLACK: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Running,
    Pausing,
    Paused,
}
pub(crate) const PHASES: [Phase; 4] = [Phase::Starting, Phase::Running, Phase::Pausing, Phase::Paused];

/// What a cell complains of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    State,
    Kind,
    Line,
    Rate,
    Recovery,
    Memory,
}

#[derive(Clone, Debug)]
pub(crate) struct Complaint {
    pub(crate) of: Property,
    what: String,
}
impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.of, self.what)
    }
}

/// What each poll came to.
#[derive(Clone)]
struct Polls(watch::Sender<Vec<&'static str>>, Arc<Mutex<Option<Nudger>>>);
impl Observer for Polls {
    fn polled(&self, _: &Name, reading: &Reading, _: Duration) {
        self.0.send_modify(|all| all.push(reading.word()));
        if !matches!(reading, Reading::Good(..))
            && let Some(nudger) = &*self.1.lock().unwrap()
        {
            let nudger = nudger.clone();
            tokio::spawn(async move { nudger.poll_now().await });
        }
    }
}

struct Cell<'r> {
    row: &'r Row,
    expect: Expect,
    phase: Phase,
    place: Place,
    holds: Arc<Holds>,
    words: watch::Receiver<Vec<&'static str>>,
    log: Log,
    lost: Arc<AtomicBool>,
    jump: Arc<AtomicI64>,
    complaints: Vec<Complaint>,
    patience: Duration,
}

/// Plays one cell and returns what was wrong.
pub(crate) async fn play(
    stores: Arc<Stores>,
    number: usize,
    row: &Row,
    phase: Phase,
    kind: Kind,
    twin: Option<Twin>,
) -> Vec<Complaint> {
    let place = stores.place(kind, number).await;
    // The version before this one says the opposite: what a replica that lags behind would serve.
    let paused = matches!(phase, Phase::Pausing | Phase::Paused);
    place.write(!paused);
    let jump = Arc::new(AtomicI64::new(0));
    let jumps = jump.clone();
    let holds = Holds::new(Clock::new(move || {
        let by = jumps.load(Relaxed);
        let now = SystemTime::now();
        let wall = match u64::try_from(by) {
            Ok(ahead) => now + Duration::from_secs(ahead),
            Err(_) => now - Duration::from_secs(by.unsigned_abs()),
        };
        Moment {
            wall,
            mono: Instant::now(),
        }
    }));
    let member = holds.register("orders", StreamKind::Stream).unwrap();
    member.set_life(Life::Up);
    let unit = (phase == Phase::Pausing).then(|| member.gate().try_enter().expect("an open gate"));

    let (log, lost) = (Log::default(), Arc::new(AtomicBool::new(false)));
    let subject = Subject {
        real: place.reader(),
        elsewhere: place.lost(),
        lost: lost.clone(),
        log: log.clone(),
        twin,
        port: place.proxy.address.port(),
        sulks: 0,
    };
    let switch = Switch {
        interval: INTERVAL,
        retry_max: RETRY_MAX,
        // Long enough that a machine that is too busy to shake hands at once does it in time, for all cells together.
        timeout: Duration::from_secs(if row.silent { 10 } else { 30 }),
        ..Switch::new("ops", ["orders"])
    };
    let polls = Polls(watch::channel(Vec::new()).0, Arc::default());
    let words = polls.0.subscribe();
    let nudges = polls.1.clone();
    let poller = Poller::bind(
        holds.clone(),
        vec![(switch, Box::new(subject))],
        number as u64,
        polls,
    )
    .unwrap();
    if twin == Some(Twin::Nudges) {
        *nudges.lock().unwrap() = Some(poller.nudger());
    }
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let mut cell = Cell {
        row,
        expect: match row.expect(kind) {
            // Where no version was seen before, none is older.
            Expect::Kept("stale", _) if phase == Phase::Starting => Expect::Follows,
            expect => expect,
        },
        phase,
        place,
        holds,
        words,
        log,
        lost,
        jump,
        complaints: Vec::new(),
        // A twin is waited for in vain.
        patience: if twin.is_some() { PATIENCE / 6 } else { PATIENCE },
    };
    let tasks = poller.tasks(&stop);
    let spawn = move || {
        for task in tasks {
            tokio::spawn(task);
        }
    };
    if phase == Phase::Starting {
        // What was written before is remembered by hand: nobody has read it yet.
        cell.remember_first().await;
        cell.place.write(paused);
        cell.goes_wrong();
        spawn();
    } else {
        spawn();
        cell.comes("the version before", |s| s.switches[0].good_at.is_some())
            .await;
        cell.place.proxy.remember();
        cell.place.write(paused);
        let reading = if paused { "paused" } else { "running" };
        cell.comes("the flag of this phase", |s| s.switches[0].reading == reading)
            .await;
        cell.goes_wrong();
    }
    cell.while_wrong(paused, unit).await;
    cell.after(paused).await;
    cell.complaints
}

impl Cell<'_> {
    fn complain(&mut self, of: Property, what: String) {
        self.complaints.push(Complaint { of, what });
    }

    fn goes_wrong(&self) {
        match &self.row.how {
            How::Wire(fault) => self.place.proxy.set(fault.clone()),
            How::DnsGone => self.lost.store(true, Relaxed),
            How::Clock(by) => self.jump.store(*by, Relaxed),
        }
    }

    fn heals(&self) {
        self.place.proxy.set(Fault::Pass);
        self.lost.store(false, Relaxed);
        self.jump.store(0, Relaxed);
    }

    async fn remember_first(&self) {
        let mut reader = self.place.reader();
        // A login that takes too long on a busy machine is begun anew.
        let read = async { while reader.read().await.is_err() {} };
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("a first reading");
        self.place.proxy.remember();
    }

    /// Waits until the board looks like this; false if it never does.
    async fn comes(&mut self, what: &str, is: impl Fn(&Snapshot) -> bool) -> bool {
        // Asked again and again: nobody here tells the board's watchers of the end of a unit, as the sidecar does.
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let started = Instant::now();
        let mut came = false;
        while !came && started.elapsed() < self.patience {
            looks.tick().await;
            let seen = self.holds.snapshot();
            came = !seen.switches.is_empty() && is(&seen);
        }
        if !came {
            let seen = self.holds.snapshot();
            let switch = &seen.switches[0];
            let now = format!(
                "{:?}, {}, {:?}",
                seen.streams[0].state, switch.reading, switch.error
            );
            self.complain(Property::Recovery, format!("waited in vain for {what}: {now}"));
        }
        came
    }

    /// Waits until so many polls that began after `since` have ended; their words.
    async fn polls_begun_after(&mut self, since: Instant, count: usize) -> Vec<&'static str> {
        let log = self.log.clone();
        let first = || {
            let reads = log.all();
            reads
                .iter()
                .position(|read| read.began > since)
                .unwrap_or(reads.len())
        };
        let mut words = self.words.clone();
        let enough = words.wait_for(|words| words.len() >= first() + count);
        drop(tokio::time::timeout(self.patience, enough).await);
        let words = self.words.borrow();
        words.get(first()..).unwrap_or_default().to_vec()
    }

    fn standing(&self, paused: bool) -> State {
        match (self.phase, self.expect) {
            (Phase::Starting, Expect::Kept(..)) => State::Paused,
            (Phase::Starting, _) | (Phase::Running, Expect::Follows) if self.says(paused) => State::Paused,
            (Phase::Starting | Phase::Running, _) => State::Running,
            (Phase::Pausing | Phase::Paused, Expect::Follows) => State::Running,
            (Phase::Pausing, _) => State::Pausing,
            (Phase::Paused, _) => State::Paused,
        }
    }

    /// Whether what is read under the fault says that the stream is to stand.
    fn says(&self, paused: bool) -> bool {
        if self.expect == Expect::Follows {
            !paused
        } else {
            paused
        }
    }

    async fn while_wrong(&mut self, paused: bool, unit: Option<Unit>) {
        let since = Instant::now();
        let asked = self.row.asks.is_some_and(|asks| asks > Duration::from_secs(10));
        let wanted = match (asked, self.row.silent) {
            (true, _) => 1,
            (_, true) => 2,
            (false, false) => 3,
        };
        let words = self.polls_begun_after(since, wanted).await;
        if words.len() < wanted {
            self.complain(
                Property::Rate,
                format!("{} polls in {:?}", words.len(), self.patience),
            );
        }
        let by_turns = matches!(self.expect, Expect::ByTurns(..) | Expect::Follows);
        let good = |word: &str| matches!(word, "paused" | "running");
        for (i, word) in words.iter().enumerate() {
            let right = match self.expect {
                Expect::Kept(kind, _) => *word == kind,
                Expect::ByTurns(kind, _) => *word == kind || good(word),
                Expect::Unmoved => good(word) && (*word == "paused") == paused,
                Expect::Follows => good(word),
            };
            if !right {
                self.complain(
                    Property::Kind,
                    format!("poll {i} was read as {word}, not as {:?}", self.expect),
                );
            }
        }
        // By turns there is no one state of what follows.
        let follows_by_turns =
            self.expect == Expect::Follows && matches!(self.row.how, How::Wire(Fault::ReplayByTurns));
        if !follows_by_turns {
            let standing = self.standing(paused);
            let at = self.holds.snapshot().streams[0].state;
            if at != standing {
                self.complain(Property::State, format!("{at:?}, not {standing:?}"));
            }
        }
        if let Expect::Kept(kind, told) = self.expect {
            if words.last() == Some(&kind) {
                // What is noted of a poll is on the board a moment later.
                self.comes("that reading on the board", |s| s.switches[0].reading == kind)
                    .await;
            }
            self.look_at_the_line(kind, told);
        }
        if let Some(unit) = unit {
            drop(unit);
            if self.expect != Expect::Follows {
                // Proven while the store is of no help.
                self.comes("paused, with the store away", |s| {
                    s.streams[0].state == State::Paused
                })
                .await;
            }
        }
        if !by_turns {
            self.look_at_the_rate(since, words.len());
        }
        self.look_at_the_next_poll();
        let sent = self.place.proxy.counts().most_sent.load(Relaxed);
        if sent > ENDLESS / 4 {
            self.complain(
                Property::Memory,
                format!("{sent} bytes were taken over one connection"),
            );
        }
    }

    fn look_at_the_line(&mut self, kind: &str, told: &str) {
        let seen = self.holds.snapshot();
        let switch = &seen.switches[0];
        let error = switch.error.as_deref().unwrap_or_default().to_owned();
        let what_now = ["what stood before stands on", "its streams"];
        let place = if matches!(self.row.how, How::DnsGone) {
            String::new()
        } else {
            self.place.told_as()
        };
        let mut wrong = Vec::new();
        if !error.starts_with("switch \"ops\": ") {
            wrong.push("does not name the switch".to_owned());
        }
        // Errors of the network name the address, the others the secret; stale readings speak of a version.
        let names = ["Vault at https://", "older version", &place];
        if !names.iter().any(|name| error.contains(name)) {
            wrong.push(format!("does not name the store ({place})"));
        }
        if !told.split('|').any(|told| error.contains(told)) {
            wrong.push(format!("does not say {told:?}"));
        }
        if !what_now.iter().any(|now| error.contains(now)) {
            wrong.push("does not say what happens now".to_owned());
        }
        if error.contains(MARK) {
            wrong.push("shows what nobody may see".to_owned());
        }
        if error.len() > 600 || error.contains('\n') {
            wrong.push("is not one line".to_owned());
        }
        for what in wrong {
            self.complain(
                Property::Line,
                format!("the line of a {kind} reading {what}: {error}"),
            );
        }
    }

    /// Never faster than the interval: counted from the end of what failed, and one request a poll.
    fn look_at_the_rate(&mut self, since: Instant, polls: usize) {
        let reads = self.log.all();
        let backs_off = matches!(
            self.expect,
            Expect::Kept("unavailable" | "denied" | "throttled" | "sealed", _)
        );
        let least = self
            .row
            .asks
            .unwrap_or_default()
            .clamp(INTERVAL, Duration::from_secs(60));
        for pair in reads.windows(2).filter(|pair| pair[0].began > since) {
            let Some(ended) = pair[0].ended else { continue };
            let gap = pair[1].began.saturating_duration_since(ended);
            if backs_off && gap < least {
                self.complain(
                    Property::Rate,
                    format!("polled again {gap:?} after a failure, not {least:?}"),
                );
            }
        }
        let counts = self.place.proxy.counts();
        let (requests, connections) = (counts.requests.load(Relaxed), counts.connections.load(Relaxed));
        // Key Vault is asked twice when its challenge is first met; what was read before the fault counts as well.
        let most = reads.len() as u64
            * if self.place.told_as().starts_with("azure") {
                2
            } else {
                1
            }
            + 2;
        if requests > most {
            self.complain(Property::Rate, format!("{requests} requests in {polls} polls"));
        }
        // The token is asked about over the same network, at its own pace.
        if connections > 2 * reads.len() as u64 + 4 {
            self.complain(
                Property::Rate,
                format!("{connections} connections in {} polls", reads.len()),
            );
        }
    }

    /// The delay that is shown is the one that is documented.
    fn look_at_the_next_poll(&mut self) {
        let seen = self.holds.snapshot();
        let Some(next) = seen.switches[0].next_poll else {
            return;
        };
        let ahead = next.saturating_duration_since(Instant::now());
        let most = match self.row.asks {
            Some(asks) => asks.max(RETRY_MAX).max(Duration::from_secs(2)),
            None => RETRY_MAX.max(INTERVAL),
        };
        if ahead > most + SLACK {
            self.complain(
                Property::Recovery,
                format!("the next poll is {ahead:?} away, not {most:?}"),
            );
        }
    }

    async fn after(&mut self, paused: bool) {
        if self.row.asks.is_some_and(|asks| asks > Duration::from_secs(10)) {
            let seen = self.holds.snapshot();
            let ahead = seen.switches[0]
                .next_poll
                .unwrap()
                .saturating_duration_since(Instant::now());
            if ahead < Duration::from_secs(20) {
                self.complain(
                    Property::Rate,
                    format!("the store asked for a minute, and the next poll is {ahead:?} away"),
                );
            }
            return;
        }
        // Flipped while nobody could see it.
        self.place.write(!paused);
        self.heals();
        let healed = Instant::now();
        let expected = if paused { "running" } else { "paused" };
        let words = self.polls_begun_after(healed, 1).await;
        if words.last() != Some(&expected) {
            let error = self.holds.snapshot().switches[0].error.clone();
            self.complain(
                Property::Recovery,
                format!("the poll after it was read as {words:?}, not as {expected}: {error:?}"),
            );
        }
        let state = if paused { State::Running } else { State::Paused };
        self.comes("the flip that nobody could see", |s| s.streams[0].state == state)
            .await;
    }
}
