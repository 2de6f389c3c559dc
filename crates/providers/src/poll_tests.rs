#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
//! The loop in paused time: tokio's clock is the board's clock, and nothing here touches the network.
use super::*;
use crate::{AtStart, Body, ReadFuture};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::SystemTime;
use tidegate_gate::{
    Clock, Controller, Kind, Life, Member, Moment, OnAbsence, OnExpiry, Policy, Snapshot, State, SwitchStatus,
};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
const SECOND: Duration = ms(1000);
/// The wall clock at the start of every test.
const NOON: u64 = 1_800_000_000;

fn noon(plus: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOON.checked_add_signed(plus).unwrap())
}

/// A board on tokio's clock with one stream, `s`; the wall clock can be moved.
struct Desk {
    holds: Arc<Holds>,
    start: Instant,
    wall_offset: Arc<Mutex<i64>>,
    _members: Vec<Member>,
    stop: CancellationToken,
    good: Arc<Mutex<Vec<(Name, Flag, Version)>>>,
}

struct Good(Arc<Mutex<Vec<(Name, Flag, Version)>>>);
impl Observer for Good {
    fn good(&self, switch: &Name, flag: &Flag, version: &Version) {
        self.0
            .lock()
            .unwrap()
            .push((switch.clone(), flag.clone(), version.clone()));
    }
}

impl Desk {
    fn new() -> Desk {
        let start = Instant::now();
        let wall_offset = Arc::new(Mutex::new(0));
        let offset = wall_offset.clone();
        let clock = Clock::new(move || Moment {
            wall: noon(*offset.lock().unwrap()) + start.elapsed(),
            mono: Instant::now().into_std(),
        });
        let holds = Holds::new(clock);
        let members = ["s", "t"]
            .map(|name| {
                let member = holds.register(name, Kind::Stream).unwrap();
                member.set_life(Life::Up);
                member
            })
            .into();
        Desk {
            holds,
            start,
            wall_offset,
            _members: members,
            stop: CancellationToken::new(),
            good: Arc::default(),
        }
    }

    fn run(&self, switches: Vec<(Switch, Box<dyn Provider>)>) -> Nudger {
        let poller = Poller::bind(self.holds.clone(), switches, 7, Good(self.good.clone())).unwrap();
        let nudger = poller.nudger();
        for task in poller.tasks(&self.stop) {
            tokio::spawn(task);
        }
        nudger
    }

    fn now(&self) -> Arc<Snapshot> {
        self.holds.snapshot()
    }

    fn stream(&self) -> State {
        self.now().stream("s").unwrap().state
    }

    fn switch(&self) -> SwitchStatus {
        self.now().switch("ops").unwrap().clone()
    }

    async fn wait(&self, what: impl Fn(&Snapshot) -> bool) {
        let mut seen = self.holds.watch();
        tokio::time::timeout(Duration::from_secs(100_000), seen.wait_for(|now| what(now)))
            .await
            .expect("it never came")
            .unwrap();
    }

    async fn at(&self, since_start: Duration) {
        tokio::time::sleep_until(self.start + since_start).await;
        // Others that wake at the same moment come first.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

/// What one read comes to, and after how long.
type Answer = (
    Duration,
    Result<(&'static str, u64, Option<SystemTime>), ReadError>,
);

/// A store that answers by a script, the last line for ever, and writes down when it was asked.
#[derive(Clone)]
struct Script {
    id: &'static str,
    lines: Arc<Mutex<VecDeque<Answer>>>,
    reads: Arc<Mutex<Vec<Duration>>>,
    start: Instant,
}

impl Script {
    fn new(desk: &Desk, lines: impl IntoIterator<Item = Answer>) -> Script {
        Script {
            id: "script",
            lines: Arc::new(Mutex::new(lines.into_iter().collect())),
            reads: Arc::default(),
            start: desk.start,
        }
    }
    fn then(&self, line: Answer) {
        *self.lines.lock().unwrap() = VecDeque::from([line]);
    }
    fn reads(&self) -> Vec<Duration> {
        self.reads.lock().unwrap().clone()
    }
    fn boxed(&self) -> Box<dyn Provider> {
        Box::new(self.clone())
    }
}

impl Provider for Script {
    fn id(&self) -> Name {
        self.id.into()
    }
    fn kind(&self) -> &'static str {
        "fixed"
    }
    fn read(&mut self) -> ReadFuture<'_> {
        self.reads.lock().unwrap().push(self.start.elapsed());
        let (takes, outcome) = {
            let mut lines = self.lines.lock().unwrap();
            if lines.len() > 1 {
                lines.pop_front().unwrap()
            } else {
                lines[0].clone()
            }
        };
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            outcome.map(|(text, serial, written)| Secret {
                body: Body::Text(text.into()),
                version: Version {
                    id: serial.to_string().into(),
                    written,
                },
                serial: Some(serial),
                warnings: Vec::new(),
            })
        })
    }
}

const INSTANT: Duration = Duration::ZERO;

fn good(text: &'static str, serial: u64) -> Answer {
    (
        INSTANT,
        Ok((text, serial, Some(noon(i64::try_from(serial).unwrap() - 1000)))),
    )
}
fn down() -> Answer {
    (INSTANT, Err(ReadError::unavailable("the store is down")))
}
fn ops() -> Switch {
    Switch::new("ops", ["s"])
}
fn gaps(reads: &[Duration]) -> Vec<Duration> {
    reads.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_switch_holds_from_the_moment_it_is_bound_until_its_first_good_reading() {
    let desk = Desk::new();
    let store = Script::new(&desk, [(ms(300), Ok(("false", 1, None)))]);
    let poller = Poller::bind(desk.holds.clone(), vec![(ops(), store.boxed())], 7, ()).unwrap();
    assert_eq!(desk.stream(), State::Paused);
    assert_eq!(
        desk.now().stream("t").unwrap().state,
        State::Running,
        "not its stream"
    );
    let held = desk.now().stream("s").unwrap().holds[0].clone();
    assert_eq!(held.0, Controller::Switch("ops".into()));
    assert_eq!(held.1.reason.as_deref(), Some("no reading yet"));
    assert_eq!((desk.switch().reading, desk.switch().settled), ("none", false));

    for task in poller.tasks(&desk.stop) {
        tokio::spawn(task);
    }
    desk.wait(|now| now.switch("ops").unwrap().settled).await;
    assert_eq!(desk.start.elapsed(), ms(300), "the first read is at once");
    assert_eq!(desk.stream(), State::Running);
    assert_eq!(desk.switch().reading, "running");
}

#[tokio::test(start_paused = true)]
async fn ready_means_applied() {
    let desk = Desk::new();
    let mut seen = desk.holds.watch();
    desk.run(vec![(ops(), Script::new(&desk, [good("false", 1)]).boxed())]);
    let first = seen
        .wait_for(|now| now.switch("ops").is_some_and(|s| s.settled))
        .await
        .unwrap()
        .clone();
    assert!(
        first.stream("s").unwrap().holds.is_empty(),
        "settled before the hold was released"
    );
}

#[tokio::test(start_paused = true)]
async fn at_start_decides_what_stands_before_the_first_reading() {
    let flag = |paused| Flag {
        paused,
        reason: Some("db".into()),
        by: Some("ana".into()),
        until: Some(noon(-50)),
        warnings: vec![],
    };
    let version = Version {
        id: "6".into(),
        written: Some(noon(-900)),
    };
    let table = [
        (AtStart::Paused, None, "no reading yet", false),
        (AtStart::Paused, Some(false), "no reading yet", false),
        (AtStart::Running, None, "", true),
        (AtStart::Running, Some(true), "", true),
        (AtStart::Last, None, "no reading yet", false),
        (AtStart::Last, Some(false), "", true),
        // Its end has passed while nobody looked; only a reading confirms that.
        (AtStart::Last, Some(true), "db", true),
    ];
    for (at_start, last, reason, settled) in table {
        let desk = Desk::new();
        let switch = Switch {
            at_start,
            last: last.map(|paused| (flag(paused), version.clone())),
            ..ops()
        };
        desk.run(vec![(switch, Script::new(&desk, [down()]).boxed())]);
        for _ in 0..2 {
            let now = desk.now();
            let holds = &now.stream("s").unwrap().holds;
            let shown = holds
                .first()
                .and_then(|(_, h)| h.reason.as_deref())
                .unwrap_or_default();
            assert_eq!(shown, reason, "{at_start:?} {last:?}");
            assert_eq!(desk.switch().settled, settled, "{at_start:?} {last:?}");
            desk.at(ms(3000)).await; // an outage changes none of it
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_keeps_the_last_flag_and_recovery_applies_the_new_one() {
    for (before, during) in [("true", State::Paused), ("false", State::Running)] {
        let desk = Desk::new();
        let store = Script::new(&desk, [good(before, 5)]);
        desk.run(vec![(ops(), store.boxed())]);
        desk.wait(|now| now.switch("ops").unwrap().settled).await;
        store.then(down());
        desk.at(ms(60_000)).await;
        assert_eq!(desk.stream(), during);
        let status = desk.switch();
        assert_eq!(status.reading, "unavailable");
        let error = status.error.unwrap();
        assert!(
            error.contains("\"ops\"") && error.contains("the store is down") && error.contains("stands on"),
            "{error}"
        );
        assert_eq!(status.version.unwrap().id, "5".into());

        store.then(good(if before == "true" { "false" } else { "true" }, 6));
        let recovered = Instant::now();
        desk.wait(|now| now.stream("s").unwrap().state != during).await;
        assert!(
            recovered.elapsed() <= ms(5000) + ms(2000),
            "current delay + timeout"
        );
        assert_eq!(desk.switch().error, None);
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_answer_polls_are_an_interval_apart_and_a_fleet_is_out_of_step() {
    let mut phases = Vec::new();
    for seed in 0..20 {
        let desk = Desk::new();
        let store = Script::new(&desk, [good("false", 1)]);
        let poller = Poller::bind(desk.holds.clone(), vec![(ops(), store.boxed())], seed, ()).unwrap();
        for task in poller.tasks(&desk.stop) {
            tokio::spawn(task);
        }
        desk.at(ms(10_000)).await;
        desk.stop.cancel();
        let reads = store.reads();
        assert_eq!(reads[0], INSTANT);
        assert!(
            reads[1] <= SECOND + ms(2),
            "a flip just after the start is seen within an interval"
        );
        for gap in gaps(&reads[2..]) {
            assert!(gap >= ms(998) && gap <= ms(1002), "{gap:?}");
        }
        phases.push(reads[1]);
    }
    phases.sort();
    phases.dedup();
    assert!(phases.len() >= 15, "{phases:?}");
}

#[tokio::test(start_paused = true)]
async fn missing_and_its_like_are_answers_and_do_not_slow_polling_down() {
    for error in [
        ReadError::Missing("m".into()),
        ReadError::Deleted("d".into()),
        ReadError::Disabled("d".into()),
        ReadError::Malformed("m".into()),
    ] {
        let desk = Desk::new();
        let store = Script::new(&desk, [(INSTANT, Err(error.clone()))]);
        desk.run(vec![(ops(), store.boxed())]);
        desk.at(ms(20_500)).await;
        desk.stop.cancel();
        assert!(
            (20..=22).contains(&store.reads().len()),
            "{error:?}: {:?}",
            store.reads()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn errors_never_make_it_poll_faster_and_the_delay_grows_to_retry_max() {
    for error in [
        ReadError::unavailable("u"),
        ReadError::Denied("d".into()),
        ReadError::Sealed {
            why: "s".into(),
            retry_after: None,
        },
        ReadError::Throttled {
            why: "t".into(),
            retry_after: None,
        },
    ] {
        let desk = Desk::new();
        let store = Script::new(&desk, [good("false", 1), (INSTANT, Err(error))]);
        desk.run(vec![(ops(), store.boxed())]);
        desk.at(ms(120_000)).await;
        let failing = gaps(&store.reads()[1..]);
        assert!(
            failing.iter().all(|gap| *gap >= SECOND && *gap <= ms(5002)),
            "{failing:?}"
        );
        assert!(failing[5..].iter().any(|gap| *gap >= ms(4000)), "{failing:?}");

        store.then(good("true", 2));
        desk.wait(|now| now.stream("s").unwrap().state == State::Paused)
            .await;
        let back = store.reads().len();
        tokio::time::sleep(ms(5_500)).await;
        let after = gaps(&store.reads()[back..]);
        assert!(
            after.iter().all(|gap| *gap <= ms(1002)),
            "reset on success: {after:?}"
        );
        desk.stop.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_up_to_a_minute_and_no_nudge_goes_over_it() {
    for (asked, waited) in [(ms(20_000), ms(20_000)), (ms(3_600_000), ms(60_000))] {
        let desk = Desk::new();
        let error = ReadError::Throttled {
            why: "slow down".into(),
            retry_after: Some(asked),
        };
        let store = Script::new(&desk, [(INSTANT, Err(error)), good("true", 1)]);
        let nudger = desk.run(vec![(ops(), store.boxed())]);
        desk.at(ms(500)).await;
        let asked_at = Instant::now();
        nudger.poll_now().await;
        assert!(asked_at.elapsed() < ms(5), "refused at once");
        assert_eq!(store.reads().len(), 1, "and not polled");
        desk.at(waited - ms(10)).await;
        assert_eq!(store.reads().len(), 1);
        desk.at(waited + ms(10)).await;
        assert_eq!(store.reads().len(), 2);
        desk.stop.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_nudge_polls_at_once_and_never_within_a_tenth_of_a_second_of_the_last_poll() {
    let desk = Desk::new();
    let store = Script::new(&desk, [good("false", 1)]);
    let slow = Switch {
        interval: ms(600_000),
        ..ops()
    };
    let nudger = desk.run(vec![(slow, store.boxed())]);
    desk.at(ms(20)).await;
    for _ in 0..50 {
        nudger.poll_now().await;
    }
    let reads = store.reads();
    assert_eq!(reads.len(), 51, "each call got a poll of its own");
    assert!(
        gaps(&reads).iter().all(|gap| *gap >= ms(100) && *gap <= ms(102)),
        "{reads:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_nudge_is_answered_by_a_poll_that_began_after_it() {
    let desk = Desk::new();
    // The first read hangs for a while and brings what was true before the nudge.
    let store = Script::new(
        &desk,
        [(ms(700), Ok(("true", 1, None))), (ms(50), Ok(("false", 2, None)))],
    );
    let nudger = desk.run(vec![(ops(), store.boxed())]);
    desk.at(ms(300)).await;
    nudger.poll_now().await;
    assert_eq!(desk.stream(), State::Running, "answered with the old reading");
    assert_eq!(store.reads().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_nudge_cuts_a_backoff_short_and_ends_with_the_loops() {
    let desk = Desk::new();
    let store = Script::new(&desk, [down()]);
    let patient = Switch {
        retry_max: ms(600_000),
        ..ops()
    };
    let nudger = desk.run(vec![(patient, store.boxed())]);
    desk.at(ms(1_800_000)).await;
    store.then(good("true", 1));
    let began = Instant::now();
    nudger.poll_now().await;
    assert!(began.elapsed() < ms(101));
    assert_eq!(desk.stream(), State::Paused);

    desk.stop.cancel();
    nudger.poll_now().await; // and does not wait for loops that are gone
}

#[tokio::test(start_paused = true)]
async fn three_switches_on_one_secret_share_one_request_at_the_shortest_interval() {
    let desk = Desk::new();
    let text = r#"{"IsPaused": true, "eu": {"IsPaused": false}, "reason": "r"}"#;
    let store = Script::new(&desk, [good(text, 3)]);
    let switch = |name, stream, key: &str, interval| Switch {
        key: key.into(),
        interval,
        ..Switch::new(name, [stream])
    };
    desk.run(vec![
        (switch("a", "s", "IsPaused", ms(5000)), store.boxed()),
        (switch("b", "t", "eu:IsPaused", ms(1000)), store.boxed()),
        (switch("c", "t", "us:IsPaused", ms(9000)), store.boxed()),
    ]);
    desk.at(ms(10_500)).await;
    assert!((11..=12).contains(&store.reads().len()), "{:?}", store.reads());
    let now = desk.now();
    let readings: Vec<_> = now.switches.iter().map(|s| (&*s.name, s.reading)).collect();
    assert_eq!(readings, [("a", "paused"), ("b", "running"), ("c", "missing")]);
    assert_eq!(now.stream("s").unwrap().state, State::Paused);
    let held: Vec<_> = now
        .stream("t")
        .unwrap()
        .holds
        .iter()
        .map(|(c, _)| c.to_string())
        .collect();
    assert_eq!(held, ["switch:c"], "which has no reading yet");
    let error = now.switch("c").unwrap().error.clone().unwrap();
    assert!(error.contains("us:IsPaused"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn different_secrets_are_read_by_different_loops() {
    let desk = Desk::new();
    let one = Script::new(&desk, [(ms(1_000_000), Ok(("true", 1, None)))]);
    let other = Script {
        id: "other",
        ..Script::new(&desk, [good("false", 1)])
    };
    desk.run(vec![
        (ops(), one.boxed()),
        (Switch::new("u", ["t"]), other.boxed()),
    ]);
    desk.at(ms(1500)).await;
    assert_eq!(
        desk.now().switch("u").unwrap().reading,
        "running",
        "a store that hangs holds nobody else up"
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_is_dropped_at_the_timeout() {
    let desk = Desk::new();
    let store = Script::new(&desk, [(ms(3_600_000), Ok(("false", 1, None)))]);
    desk.run(vec![(ops(), store.boxed())]);
    desk.at(ms(2005)).await;
    let status = desk.switch();
    assert_eq!(status.reading, "unavailable");
    let error = status.error.unwrap();
    assert!(error.contains("within 2s"), "{error}");
    desk.at(ms(30_000)).await;
    assert!(
        gaps(&store.reads()).iter().all(|gap| *gap >= ms(3000)),
        "{:?}",
        store.reads()
    );
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_the_loops_at_once_whatever_they_wait_for() {
    let hang = (ms(3_600_000), Ok(("false", 1, None)));
    for line in [hang, good("false", 1), down()] {
        let desk = Desk::new();
        let stop = CancellationToken::new();
        let store = Script::new(&desk, [line]);
        let switch = Switch {
            interval: ms(3_600_000),
            timeout: ms(3_600_000),
            ..ops()
        };
        let poller = Poller::bind(desk.holds.clone(), vec![(switch, store.boxed())], 1, ()).unwrap();
        let tasks: Vec<_> = poller.tasks(&stop).into_iter().map(tokio::spawn).collect();
        desk.at(ms(50)).await;
        let began = Instant::now();
        stop.cancel();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(began.elapsed() < ms(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lower_version_is_stale_unless_it_was_created_later() {
    let desk = Desk::new();
    let at = |seconds| Some(noon(seconds));
    let store = Script::new(&desk, [(INSTANT, Ok(("true", 7, at(-100))))]);
    desk.run(vec![(ops(), store.boxed())]);
    desk.wait(|now| now.switch("ops").unwrap().settled).await;

    store.then((INSTANT, Ok(("false", 6, at(-200)))));
    desk.at(ms(3000)).await;
    assert_eq!(
        (desk.stream(), desk.switch().reading),
        (State::Paused, "stale"),
        "a replica that lags"
    );
    assert!(!desk.switch().stale);
    desk.at(ms(310_000)).await;
    assert!(desk.switch().stale, "seen for max_stale: an alarm");
    assert_eq!(desk.stream(), State::Paused);

    store.then((INSTANT, Ok(("false", 1, at(-50)))));
    desk.at(ms(320_000)).await;
    assert_eq!(
        (desk.stream(), desk.switch().reading),
        (State::Running, "running"),
        "created anew"
    );
    assert!(!desk.switch().stale);
    store.then((INSTANT, Ok(("true", 7, at(-100)))));
    desk.at(ms(330_000)).await;
    assert_eq!(desk.stream(), State::Paused, "a higher number is never stale");
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_restart_makes_a_version_stale_too() {
    let desk = Desk::new();
    let flag = Flag {
        paused: true,
        reason: None,
        by: None,
        until: None,
        warnings: vec![],
    };
    let version = Version {
        id: "7".into(),
        written: Some(noon(-100)),
    };
    let switch = Switch {
        at_start: AtStart::Last,
        last: Some((flag, version)),
        ..ops()
    };
    desk.run(vec![(switch, Script::new(&desk, [good("false", 6)]).boxed())]);
    desk.at(ms(2000)).await;
    assert_eq!((desk.stream(), desk.switch().reading), (State::Paused, "stale"));
}

#[tokio::test(start_paused = true)]
async fn on_stale_applies_at_max_stale_even_between_two_polls() {
    for (on_stale, expected) in [
        (OnAbsence::Keep, State::Running),
        (OnAbsence::Pause, State::Paused),
    ] {
        let desk = Desk::new();
        let store = Script::new(&desk, [good("false", 1), down()]);
        let switch = Switch {
            interval: ms(100_000),
            policy: Policy {
                max_stale: ms(130_000),
                on_stale,
                ..Policy::default()
            },
            ..ops()
        };
        desk.run(vec![(switch, store.boxed())]);
        desk.at(ms(129_900)).await;
        assert_eq!((desk.stream(), desk.switch().stale), (State::Running, false));
        let polls = store.reads().len();
        desk.at(ms(130_010)).await;
        assert_eq!(store.reads().len(), polls, "no poll was due");
        assert_eq!((desk.stream(), desk.switch().stale), (expected, true));
        store.then(good("false", 1));
        desk.at(ms(400_000)).await;
        assert_eq!((desk.stream(), desk.switch().stale), (State::Running, false));
    }
}

#[tokio::test(start_paused = true)]
async fn policies_hold_on_absence_only_where_they_say_so_and_a_good_reading_ends_it() {
    let missing = ReadError::Missing("m".into());
    let deleted = ReadError::Deleted("d".into());
    let malformed = ReadError::Malformed("m".into());
    let disabled = ReadError::Disabled("d".into());
    for (error, on_missing, on_malformed, expected) in [
        (&missing, OnAbsence::Pause, OnAbsence::Keep, State::Paused),
        (&missing, OnAbsence::Keep, OnAbsence::Pause, State::Running),
        (&deleted, OnAbsence::Pause, OnAbsence::Keep, State::Paused),
        (&malformed, OnAbsence::Keep, OnAbsence::Pause, State::Paused),
        (&malformed, OnAbsence::Pause, OnAbsence::Keep, State::Running),
        (&disabled, OnAbsence::Pause, OnAbsence::Pause, State::Running),
    ] {
        let desk = Desk::new();
        let store = Script::new(&desk, [good("false", 1), (INSTANT, Err(error.clone()))]);
        let policy = Policy {
            on_missing,
            on_malformed,
            ..Policy::default()
        };
        desk.run(vec![(Switch { policy, ..ops() }, store.boxed())]);
        desk.at(ms(5000)).await;
        assert_eq!(desk.stream(), expected, "{error:?}");
        store.then(down());
        desk.at(ms(20_000)).await;
        assert_eq!(desk.stream(), expected, "an outage then changes nothing");
        store.then(good("false", 1));
        desk.at(ms(40_000)).await;
        assert_eq!(desk.stream(), State::Running);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_with_an_end_is_released_by_a_reading_at_that_time() {
    let desk = Desk::new();
    // 2027-01-15T08:00:00Z is noon(0).
    let store = Script::new(
        &desk,
        [good(
            r#"{"IsPaused": true, "until": "2027-01-15T08:00:10.5Z"}"#,
            5,
        )],
    );
    let slow = Switch {
        interval: ms(60_000),
        ..ops()
    };
    desk.run(vec![(slow, store.boxed())]);
    desk.at(ms(10_400)).await;
    assert_eq!(desk.stream(), State::Paused);
    desk.at(ms(10_510)).await;
    assert_eq!(desk.stream(), State::Running);
    assert!(
        store
            .reads()
            .iter()
            .any(|at| *at >= ms(10_500) && *at < ms(10_510)),
        "{:?}",
        store.reads()
    );
}

#[tokio::test(start_paused = true)]
async fn during_an_outage_an_end_that_passes_releases_nothing() {
    for on_expiry in [OnExpiry::Release, OnExpiry::Keep] {
        let desk = Desk::new();
        let text = r#"{"IsPaused": true, "until": "2027-01-15T08:00:10Z"}"#;
        let store = Script::new(&desk, [good(text, 5), down()]);
        let policy = Policy {
            on_expiry,
            ..Policy::default()
        };
        desk.run(vec![(Switch { policy, ..ops() }, store.boxed())]);
        desk.at(ms(60_000)).await;
        assert_eq!(desk.stream(), State::Paused);
        assert!(desk.switch().error.unwrap().contains("stands on"));
        store.then(good(text, 5));
        desk.at(ms(70_000)).await;
        let (state, warnings) = (desk.stream(), desk.switch().warnings.len());
        match on_expiry {
            OnExpiry::Release => assert_eq!((state, warnings), (State::Running, 0)),
            OnExpiry::Keep => assert_eq!((state, warnings), (State::Paused, 1)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_wall_clock_moves_an_end_and_never_releases_while_the_store_is_away() {
    let text = r#"{"IsPaused": true, "until": "2027-01-15T09:00:00Z"}"#;
    // Back: it holds on, for as long as the clock says.
    let desk = Desk::new();
    desk.run(vec![(ops(), Script::new(&desk, [good(text, 5)]).boxed())]);
    *desk.wall_offset.lock().unwrap() = -1800;
    desk.at(ms(3_605_000)).await;
    assert_eq!(desk.stream(), State::Paused);
    desk.at(ms(5_405_000)).await;
    assert_eq!(desk.stream(), State::Running);

    // Forth: the next good reading sees it, and no bad one does.
    let desk = Desk::new();
    let store = Script::new(&desk, [good(text, 5), down()]);
    desk.run(vec![(ops(), store.boxed())]);
    desk.at(ms(3000)).await;
    *desk.wall_offset.lock().unwrap() = 7200;
    desk.at(ms(30_000)).await;
    assert_eq!(desk.stream(), State::Paused);
    store.then(good(text, 5));
    desk.at(ms(40_000)).await;
    assert_eq!(desk.stream(), State::Running);
}

#[tokio::test(start_paused = true)]
async fn no_jump_of_the_wall_clock_releases_anything_once_readings_are_stale() {
    let text = r#"{"IsPaused": true, "until": "2027-01-15T09:00:00Z"}"#;
    for on_stale in [OnAbsence::Keep, OnAbsence::Pause] {
        for jumps in [[7200, -7200], [-7200, 7200]] {
            let desk = Desk::new();
            let store = Script::new(&desk, [good(text, 5), down()]);
            let policy = Policy {
                on_stale,
                ..Policy::default()
            };
            desk.run(vec![(Switch { policy, ..ops() }, store.boxed())]);
            // Past max_stale.
            desk.at(ms(400_000)).await;
            assert!(desk.switch().stale);
            for (n, jump) in jumps.into_iter().enumerate() {
                *desk.wall_offset.lock().unwrap() = jump;
                desk.at(ms(500_000 + n as u64 * 100_000)).await;
                assert_eq!(desk.stream(), State::Paused, "{on_stale:?} {jumps:?} at {jump}");
            }
            store.then(good(text, 5));
            desk.at(ms(700_000)).await;
            let expected = if jumps[1] > 0 {
                State::Running
            } else {
                State::Paused
            };
            assert_eq!(desk.stream(), expected, "{on_stale:?} {jumps:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leftover_end_holds_without_expiry_and_warns() {
    let desk = Desk::new();
    let text = r#"{"IsPaused": true, "until": "2027-01-15T07:00:00Z"}"#;
    desk.run(vec![(
        ops(),
        Script::new(&desk, [(INSTANT, Ok((text, 5, Some(noon(-10)))))]).boxed(),
    )]);
    desk.at(ms(5000)).await;
    assert_eq!(desk.stream(), State::Paused);
    assert_eq!(desk.switch().warnings.len(), 1);
    assert_eq!(desk.now().stream("s").unwrap().holds[0].1.until, None);
}

#[tokio::test(start_paused = true)]
async fn an_override_stands_through_an_outage_and_ends_with_the_next_new_version() {
    let desk = Desk::new();
    let store = Script::new(&desk, [good("true", 5)]);
    let policy = Policy {
        on_stale: OnAbsence::Pause,
        on_missing: OnAbsence::Pause,
        ..Policy::default()
    };
    desk.run(vec![(Switch { policy, ..ops() }, store.boxed())]);
    desk.wait(|now| now.switch("ops").unwrap().settled).await;
    let who = Controller::Switch("ops".into());
    desk.holds
        .set_aside(&who, "s", Some("store lost".into()), &Default::default())
        .unwrap();
    for (line, at) in [
        (good("true", 5), 10_000),
        (down(), 400_000),
        ((INSTANT, Err(ReadError::Missing("m".into()))), 500_000),
        (good("true", 5), 600_000),
    ] {
        store.then(line);
        desk.at(ms(at)).await;
        assert_eq!(desk.stream(), State::Running, "at {at}");
    }
    store.then(good("true", 6));
    desk.at(ms(700_000)).await;
    assert_eq!(desk.stream(), State::Paused);
}

#[tokio::test(start_paused = true)]
async fn each_new_good_reading_is_handed_out_once_for_a_restart_to_remember() {
    let desk = Desk::new();
    let store = Script::new(&desk, [good("true", 5)]);
    desk.run(vec![(ops(), store.boxed())]);
    desk.at(ms(5_000)).await;
    store.then(down());
    desk.at(ms(20_000)).await;
    store.then(good("true", 5));
    desk.at(ms(40_000)).await;
    store.then(good("false", 6));
    desk.at(ms(60_000)).await;
    let told: Vec<_> = desk
        .good
        .lock()
        .unwrap()
        .iter()
        .map(|(name, flag, v)| (name.to_string(), flag.paused, v.id.to_string()))
        .collect();
    assert_eq!(
        told,
        [
            ("ops".into(), true, "5".into()),
            ("ops".into(), false, "6".into())
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn flip_latency_from_the_store_is_told_only_of_versions_first_seen_while_polling() {
    let desk = Desk::new();
    let store = Script::new(&desk, [(INSTANT, Ok(("true", 1, Some(noon(-500)))))]);
    desk.run(vec![(ops(), store.boxed())]);
    desk.at(ms(10_000)).await;
    store.then((INSTANT, Ok(("false", 2, Some(noon(10))))));
    desk.at(ms(15_000)).await;
    store.then((INSTANT, Ok(("true", 3, Some(noon(15))))));
    desk.at(ms(20_000)).await;
    let records = desk.holds.journal_after(0);
    let latency = |version: &str| {
        records
            .iter()
            .filter(|r| r.to.is_some() && r.version.as_deref() == Some(version))
            .find_map(|r| r.store_latency)
    };
    assert_eq!(latency("1"), None, "it is as old as it is");
    for version in ["2", "3"] {
        assert!(latency(version).unwrap() <= ms(1010), "{:?}", latency(version));
    }
    let actor = records
        .iter()
        .find(|r| r.version.as_deref() == Some("3"))
        .unwrap()
        .actor
        .clone();
    assert_eq!(actor.as_deref(), Some("store:3"));
}

#[tokio::test(start_paused = true)]
async fn a_switch_on_a_stream_that_is_not_there_cannot_be_bound() {
    for at_start in [AtStart::Paused, AtStart::Running] {
        let desk = Desk::new();
        let switch = Switch {
            at_start,
            ..Switch::new("ops", ["nowhere"])
        };
        let store = Script::new(&desk, [good("true", 1)]);
        assert!(Poller::bind(desk.holds.clone(), vec![(switch, store.boxed())], 1, ()).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn read_once_says_for_each_key_what_is_there() {
    let desk = Desk::new();
    let text = r#"{"IsPaused": true, "bad": 7}"#;
    let mut provider = Script::new(&desk, [good(text, 1), down(), (ms(9000), Ok((text, 1, None)))]);
    let seen = read_once(&mut provider, &["IsPaused", "bad", "none"], SECOND).await;
    let words: Vec<_> = seen.iter().map(|s| s.reading.word()).collect();
    assert_eq!(words, ["paused", "malformed", "missing"]);
    assert!(seen[0].error.is_none() && seen[1].error.is_some() && seen[2].error.is_some());
    for _ in 0..2 {
        let seen = read_once(&mut provider, &["IsPaused"], SECOND).await;
        assert_eq!(seen[0].reading.word(), "unavailable");
    }
}
