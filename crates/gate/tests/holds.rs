//! The board of holds: who pauses what, who may end it, and what is told of it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tidegate_gate::{
    Act, Applied, Cause, Clock, Controller, Gate, Held, Holds, Kind, Life, Member, Moment, Name,
    OverrideError, Phase, Record, Running, Scope, Since, State, SwitchStatus, Unit, Version, Wish,
};

const S: Duration = Duration::from_secs(1);
const API: Controller = Controller::Api;

/// A clock that the test moves, each of its two hands by itself.
#[derive(Clone)]
struct Hands(Arc<Mutex<Moment>>);
impl Hands {
    fn new() -> Hands {
        Hands(Arc::new(Mutex::new(Moment {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
            mono: Instant::now(),
        })))
    }
    fn clock(&self) -> Clock {
        let me = self.clone();
        Clock::new(move || me.now())
    }
    fn now(&self) -> Moment {
        *self.0.lock().unwrap()
    }
    fn wall(&self) -> SystemTime {
        self.now().wall
    }
    fn pass(&self, time: Duration) {
        let mut now = self.0.lock().unwrap();
        now.wall += time;
        now.mono += time;
    }
    fn jump_wall(&self, seconds: i64) {
        let mut now = self.0.lock().unwrap();
        let by = Duration::from_secs(seconds.unsigned_abs());
        now.wall = if seconds < 0 { now.wall - by } else { now.wall + by };
    }
}

/// A board with streams that are up.
fn board(streams: &[&str]) -> (Hands, Arc<Holds>, Vec<Member>) {
    let hands = Hands::new();
    let holds = Holds::new(hands.clock());
    let members = streams
        .iter()
        .map(|name| {
            let member = holds.register(*name, Kind::Stream).unwrap();
            member.set_life(Life::Up);
            member
        })
        .collect();
    (hands, holds, members)
}

fn switch(name: &str) -> Controller {
    Controller::Switch(name.into())
}
fn version(id: &str, written: Option<SystemTime>) -> Version {
    Version {
        id: id.into(),
        written,
    }
}
fn wish() -> Wish {
    Wish::default()
}
fn because(reason: &str) -> Wish {
    Wish {
        reason: Some(reason.into()),
        ..wish()
    }
}
fn until(at: SystemTime) -> Wish {
    Wish {
        until: Some(at),
        ..wish()
    }
}
/// What a poll that reads `id` passes on.
fn read(id: &str, at: Instant) -> Cause {
    Cause {
        actor: Some(format!("store:{id}").into()),
        version: Some(version(id, None)),
        read_at: Some(at),
        first_seen: true,
        ..nobody()
    }
}
fn asked_by(id: &str, at: Instant) -> Wish {
    Wish {
        cause: read(id, at),
        ..wish()
    }
}
fn nobody() -> Cause {
    Cause::default()
}
fn state(holds: &Holds, stream: &str) -> State {
    holds.snapshot().stream(stream).unwrap().state
}
fn standing(applied: &Applied) -> Vec<String> {
    applied
        .standing
        .iter()
        .map(|(stream, who, _)| format!("{stream} by {who}"))
        .collect()
}
fn transitions(holds: &Holds) -> Vec<Arc<Record>> {
    let mut all = holds.journal_after(0);
    all.retain(|r| r.act == Act::Transition);
    all
}

#[test]
fn any_one_hold_closes_the_gate_and_the_last_release_opens_it() {
    let (_, holds, members) = board(&["orders"]);
    let all = [API, Controller::Stop, switch("ops"), switch("region")];
    for who in &all {
        holds.place(who, Scope::One("orders"), wish()).unwrap();
        assert!(members[0].gate().is_closed());
    }
    for (released, who) in all.iter().enumerate() {
        assert!(
            members[0].gate().is_closed(),
            "{} holds still stand",
            all.len() - released
        );
        holds.release(who, Scope::One("orders"), &nobody()).unwrap();
    }
    assert!(!members[0].gate().is_closed());
    assert_eq!(state(&holds, "orders"), State::Running);
}

#[test]
fn a_controller_releases_only_its_own_hold_and_is_told_who_still_holds() {
    let (_, holds, members) = board(&["orders", "audit"]);
    holds.place(&switch("ops"), Scope::One("orders"), wish()).unwrap();
    holds.place(&API, Scope::All, wish()).unwrap();

    let applied = holds.release(&API, Scope::All, &nobody()).unwrap();

    assert_eq!(standing(&applied), ["orders by switch:ops"]);
    assert_eq!(applied.changed, ["orders".into(), "audit".into()]);
    assert_eq!(applied.turned, ["audit".into()], "only audit is free now");
    assert!(members[0].gate().is_closed());
    assert!(!members[1].gate().is_closed());
}

#[test]
fn releasing_what_one_does_not_hold_changes_nothing() {
    let (_, holds, members) = board(&["orders"]);
    holds.place(&switch("ops"), Scope::All, wish()).unwrap();
    let before = holds.snapshot().revision;
    let applied = holds.release(&switch("region"), Scope::All, &nobody()).unwrap();
    assert!(applied.changed.is_empty() && applied.turned.is_empty());
    assert_eq!(standing(&applied), ["orders by switch:ops"]);
    assert!(members[0].gate().is_closed());
    assert_eq!(holds.snapshot().revision, before);
}

#[test]
fn pausing_again_over_the_api_only_strengthens() {
    let (hands, holds, _) = board(&["orders"]);
    let end = |holds: &Holds| holds.snapshot().stream("orders").unwrap().holds[0].1.until;
    let at = |s: u64| hands.wall() + Duration::from_secs(s);
    let place = |wish| holds.place(&API, Scope::All, wish).unwrap();

    assert_eq!(place(until(at(60))).turned.len(), 1);
    assert!(
        place(until(at(30))).changed.is_empty(),
        "an earlier end is no change"
    );
    assert_eq!(end(&holds), Some(at(60)), "an earlier end does not weaken");
    assert_eq!(place(until(at(90))).changed.len(), 1);
    assert_eq!(end(&holds), Some(at(90)), "a later end strengthens");
    place(wish());
    assert_eq!(end(&holds), None, "no end beats any");
    place(until(at(120)));
    assert_eq!(end(&holds), None, "and stays");
}

#[test]
fn pausing_again_keeps_since_and_the_reason_unless_it_brings_another() {
    let (hands, holds, _) = board(&["orders"]);
    let first = hands.wall();
    holds.place(&API, Scope::All, because("maintenance")).unwrap();
    hands.pass(10 * S);
    holds.place(&API, Scope::All, wish()).unwrap();
    let hold = holds.snapshot().stream("orders").unwrap().holds[0].1.clone();
    assert_eq!((hold.since, hold.reason.as_deref()), (first, Some("maintenance")));
    holds.place(&API, Scope::All, because("incident")).unwrap();
    let hold = holds.snapshot().stream("orders").unwrap().holds[0].1.clone();
    assert_eq!((hold.since, hold.reason.as_deref()), (first, Some("incident")));
}

#[test]
fn a_hold_that_outlived_a_restart_keeps_its_since() {
    let (hands, holds, _) = board(&["orders"]);
    let long_ago = hands.wall() - 3_600 * S;
    let restored = Wish {
        since: Some(long_ago),
        ..wish()
    };
    holds.place(&API, Scope::All, restored).unwrap();
    assert_eq!(
        holds.snapshot().stream("orders").unwrap().holds[0].1.since,
        long_ago
    );
}

#[test]
fn a_switchs_hold_follows_its_secret_and_keeps_since() {
    let (hands, holds, _) = board(&["orders"]);
    let ops = switch("ops");
    let first = hands.wall();
    let later = first + 600 * S;
    let mut asked = asked_by("1", hands.now().mono);
    asked.until = Some(later);
    asked.reason = Some("first".into());
    holds.place(&ops, Scope::All, asked).unwrap();
    hands.pass(5 * S);

    // The next version asks for less: an earlier end, no reason. A switch says what its secret says.
    let mut asked = asked_by("2", hands.now().mono);
    asked.until = Some(first + 60 * S);
    holds.place(&ops, Scope::All, asked).unwrap();
    let hold = holds.snapshot().stream("orders").unwrap().holds[0].1.clone();
    assert_eq!(hold.until, Some(first + 60 * S));
    assert_eq!(hold.reason, None);
    assert_eq!(hold.since, first);
    assert_eq!(hold.version.unwrap().id.as_ref(), "2");
    assert_eq!(hold.actor.as_ref(), "store:2");
}

#[test]
fn the_apis_hold_ends_at_its_until_and_a_switchs_does_not() {
    let (hands, holds, members) = board(&["mine", "theirs"]);
    let end = hands.wall() + 60 * S;
    holds.place(&API, Scope::One("mine"), until(end)).unwrap();
    holds
        .place(&switch("ops"), Scope::One("theirs"), until(end))
        .unwrap();
    assert_eq!(holds.settle(), Some(60 * S));
    hands.pass(60 * S - Duration::from_nanos(1));
    holds.settle();
    assert!(members[0].gate().is_closed(), "not a moment early");
    hands.pass(Duration::from_nanos(1));
    assert_eq!(holds.settle(), None);
    assert!(!members[0].gate().is_closed());
    hands.pass(3_600 * S);
    holds.settle();
    assert!(
        members[1].gate().is_closed(),
        "only a good reading ends what a secret asked for"
    );
    let expired: Vec<_> = holds
        .journal_after(0)
        .into_iter()
        .filter(|r| r.act == Act::Expired)
        .collect();
    assert_eq!(expired.len(), 1);
    assert_eq!(expired[0].stream.as_deref(), Some("mine"));
    assert_eq!(expired[0].actor.as_deref(), Some("until"));
}

#[test]
fn an_until_is_a_time_on_the_wall_whichever_way_the_clock_jumps() {
    let (hands, holds, members) = board(&["orders"]);
    let end = hands.wall() + 600 * S;
    holds.place(&API, Scope::All, until(end)).unwrap();
    hands.jump_wall(-3_600);
    assert_eq!(
        holds.settle(),
        Some(4_200 * S),
        "set back: the end is farther off"
    );
    hands.pass(600 * S);
    holds.settle();
    assert!(members[0].gate().is_closed());
    hands.jump_wall(36_000);
    holds.settle();
    assert!(!members[0].gate().is_closed(), "set forward past it: it is over");

    // A jump back does not bring a hold that has ended back to life.
    hands.jump_wall(-36_000);
    holds.settle();
    assert!(!members[0].gate().is_closed());
}

#[test]
fn a_wall_clock_that_jumps_does_not_touch_latencies() {
    let (hands, holds, _) = board(&["orders"]);
    let asked = asked_by("1", hands.now().mono);
    hands.pass(Duration::from_millis(3));
    hands.jump_wall(-500);
    holds.place(&switch("ops"), Scope::All, asked).unwrap();
    let paused = transitions(&holds).pop().unwrap();
    assert_eq!(paused.to, Some(State::Paused));
    assert_eq!(paused.flip_latency, Some(Duration::from_millis(3)));
}

#[test]
fn an_override_stands_until_its_switch_has_a_new_version() {
    let (hands, holds, members) = board(&["orders", "audit"]);
    let ops = switch("ops");
    let gate = members[0].gate();
    let now = hands.now().mono;
    holds.place(&ops, Scope::All, asked_by("7", now)).unwrap();

    let applied = holds
        .set_aside(&ops, "orders", Some("store is lost".into()), &nobody())
        .unwrap();
    assert_eq!(applied.turned, ["orders".into()]);
    assert!(!gate.is_closed());
    assert!(members[1].gate().is_closed(), "one stream, not all");
    let status = holds.snapshot().stream("orders").unwrap().clone();
    assert!(status.holds.is_empty());
    assert_eq!(status.set_aside[0].0, ops);

    // Every poll that reads the same version says the same again.
    for _ in 0..3 {
        let applied = holds.place(&ops, Scope::All, asked_by("7", now)).unwrap();
        assert!(!gate.is_closed());
        assert!(applied.changed.is_empty());
    }
    holds.place(&ops, Scope::All, asked_by("8", now)).unwrap();
    assert!(gate.is_closed(), "a new version is a new wish");
    assert!(holds.snapshot().stream("orders").unwrap().set_aside.is_empty());
}

#[test]
fn a_flag_that_releases_ends_the_override_too() {
    let (hands, holds, members) = board(&["orders"]);
    let ops = switch("ops");
    let now = hands.now().mono;
    holds.place(&ops, Scope::All, asked_by("7", now)).unwrap();
    holds.set_aside(&ops, "orders", None, &nobody()).unwrap();
    holds.release(&ops, Scope::All, &read("8", now)).unwrap();
    assert!(holds.snapshot().stream("orders").unwrap().set_aside.is_empty());
    holds.place(&ops, Scope::All, asked_by("9", now)).unwrap();
    assert!(members[0].gate().is_closed());
}

#[test]
fn an_override_lifts_no_other_hold_and_is_for_switches_only() {
    let (hands, holds, members) = board(&["orders"]);
    let now = hands.now().mono;
    holds.place(&API, Scope::All, wish()).unwrap();
    holds.place(&Controller::Stop, Scope::All, wish()).unwrap();
    holds
        .place(&switch("ops"), Scope::All, asked_by("7", now))
        .unwrap();
    for who in [API, Controller::Stop] {
        let refused = holds.set_aside(&who, "orders", None, &nobody()).unwrap_err();
        assert_eq!(refused, OverrideError::NotASwitch(who));
    }
    let applied = holds
        .set_aside(&switch("ops"), "orders", None, &nobody())
        .unwrap();
    assert_eq!(standing(&applied), ["orders by api", "orders by stop"]);
    assert!(applied.turned.is_empty());
    assert!(members[0].gate().is_closed());
    assert!(matches!(
        holds.set_aside(&switch("ops"), "orders", None, &nobody()),
        Err(OverrideError::NotHeld { .. })
    ));
}

#[test]
fn an_unknown_stream_is_an_error_and_nothing_is_done() {
    let (_, holds, members) = board(&["orders"]);
    let both: [Name; 2] = ["orders".into(), "order".into()];
    let error = holds.place(&API, Scope::Each(&both), wish()).unwrap_err();
    assert_eq!(error.0.as_ref(), "order");
    assert_eq!(error.to_string(), "no stream or gate is named \"order\"");
    assert!(!members[0].gate().is_closed(), "all or nothing");
    assert!(holds.place(&API, Scope::One(""), wish()).is_err());
    assert!(holds.release(&API, Scope::One("Orders"), &nobody()).is_err());
    assert!(matches!(
        holds.set_aside(&switch("ops"), "order", None, &nobody()),
        Err(OverrideError::UnknownStream(_))
    ));
}

#[test]
fn two_streams_cannot_share_a_name_whatever_their_kind() {
    let (_, holds, _) = board(&["orders"]);
    let gate = Kind::Gate { serves: false };
    assert_eq!(holds.register("orders", gate).unwrap_err().0.as_ref(), "orders");
}

#[test]
fn an_end_while_held_names_the_stop_and_not_who_holds() {
    for kind in [Kind::Stream, Kind::Gate { serves: true }] {
        let hands = Hands::new();
        let holds = Holds::new(hands.clock());
        let member = holds.register("app", kind).unwrap();
        member.set_life(Life::Up);
        holds
            .place(&switch("ops"), Scope::All, because("maintenance"))
            .unwrap();
        holds
            .place(&Controller::Stop, Scope::All, because("the process is stopping"))
            .unwrap();
        member.set_life(Life::Draining);
        member.set_life(Life::Stopped);
        let told = transitions(&holds);
        let [.., held, draining, stopped] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(held.controller, Some(switch("ops")), "{kind:?}");
        for (end, to) in [(draining, State::Draining), (stopped, State::Stopped)] {
            assert_eq!(end.to, Some(to), "{kind:?}");
            assert_eq!(end.controller, Some(Controller::Stop), "{kind:?}");
            assert_eq!(end.reason.as_deref(), Some("the process is stopping"), "{kind:?}");
            assert_eq!(end.flip_latency, None, "{kind:?}");
        }
    }
}

#[test]
fn a_stream_that_comes_to_its_own_end_while_held_names_nobody() {
    let (_, holds, members) = board(&["orders"]);
    holds.place(&API, Scope::All, because("maintenance")).unwrap();
    members[0].set_life(Life::Stopped);
    let told = transitions(&holds);
    let last = told.last().unwrap();
    assert_eq!(
        (last.to, &last.controller, &last.reason),
        (Some(State::Stopped), &None, &None)
    );
}

#[test]
fn the_journal_tells_everything_in_order_and_without_gaps() {
    let (hands, holds, members) = board(&["orders"]);
    let start = *holds.journal_end().borrow();
    let ops = switch("ops");
    let unit = members[0].gate().try_enter().unwrap();
    holds
        .place(&ops, Scope::All, asked_by("1", hands.now().mono))
        .unwrap();
    drop(unit);
    holds.settle();
    let oncall = Cause {
        actor: Some("oncall".into()),
        ..nobody()
    };
    holds.set_aside(&ops, "orders", None, &oncall).unwrap();
    let mut refused = Record::new(Act::Refused);
    refused.actor = Some("intern".into());
    holds.note(refused);

    let told = holds.journal_after(start);
    let words: Vec<_> = told
        .iter()
        .map(|r| (r.act.word(), r.to.map_or("", |s| s.word())))
        .collect();
    assert_eq!(
        words,
        [
            ("hold_placed", ""),
            ("transition", "pausing"),
            ("transition", "paused"),
            ("override", ""),
            ("transition", "running"),
            ("refused", ""),
        ]
    );
    let seqs: Vec<_> = told.iter().map(|r| r.seq).collect();
    assert_eq!(seqs, (start + 1..=start + 6).collect::<Vec<_>>());
    assert_eq!(*holds.journal_end().borrow(), start + 6);
    for r in &told[..3] {
        assert_eq!(r.version.as_deref(), Some("1"), "{r:?}");
        assert_eq!(r.actor.as_deref(), Some("store:1"), "{r:?}");
        assert_eq!(r.controller, Some(ops.clone()), "{r:?}");
    }
    assert_eq!(told[4].actor.as_deref(), Some("oncall"));
}

#[test]
fn a_flips_latency_is_told_once_and_counts_to_the_proof() {
    let (hands, holds, members) = board(&["orders"]);
    let unit = members[0].gate().try_enter().unwrap();
    let asked = asked_by("1", hands.now().mono);
    hands.pass(Duration::from_millis(2));
    holds.place(&switch("ops"), Scope::All, asked).unwrap();
    hands.pass(Duration::from_millis(5));
    drop(unit);
    holds.settle();
    // Hours later the source breaks for good behind the closed gate, and is started again.
    hands.pass(3_600 * S);
    members[0].set_life(Life::Failed { error: "gone".into() });
    members[0].set_life(Life::Up);
    hands.pass(3_600 * S);
    holds
        .release(&switch("ops"), Scope::All, &read("2", hands.now().mono))
        .unwrap();

    let told: Vec<_> = transitions(&holds)
        .iter()
        .filter_map(|r| Some((r.to?.word(), r.flip_latency?)))
        .collect();
    assert_eq!(
        told,
        [("paused", Duration::from_millis(7)), ("running", Duration::ZERO)]
    );
}

#[test]
fn latency_at_the_store_is_told_only_of_versions_seen_to_come_and_is_never_negative() {
    let (hands, holds, _) = board(&["orders"]);
    let told = |first_seen, written: SystemTime| {
        let cause = Cause {
            version: Some(version("1", Some(written))),
            read_at: Some(hands.now().mono),
            first_seen,
            ..nobody()
        };
        let wish = Wish {
            cause: cause.clone(),
            ..wish()
        };
        holds.place(&switch("ops"), Scope::All, wish).unwrap();
        holds.release(&switch("ops"), Scope::All, &nobody()).unwrap();
        let all = transitions(&holds);
        all[all.len() - 2].store_latency
    };
    let now = hands.wall();
    assert_eq!(told(true, now - 2 * S), Some(2 * S));
    assert_eq!(
        told(false, now - 2 * S),
        None,
        "it may have been there for a year"
    );
    assert_eq!(
        told(true, now + 2 * S),
        Some(Duration::ZERO),
        "the store's clock runs ahead"
    );
}

#[test]
fn a_hold_before_the_first_reading_tells_no_latency() {
    let (_, holds, _) = board(&["orders"]);
    holds
        .place(&switch("ops"), Scope::All, because("no reading yet"))
        .unwrap();
    assert_eq!(transitions(&holds).pop().unwrap().flip_latency, None);
}

#[test]
fn a_reader_that_comes_late_gets_the_newest_records_and_sees_the_gap() {
    let (_, holds, _) = board(&["orders"]);
    for _ in 0..10_000 {
        holds.note(Record::new(Act::Refused));
    }
    let end = *holds.journal_end().borrow();
    let late = holds.journal_after(5);
    assert!(late[0].seq > 6, "what is lost shows as a gap");
    assert_eq!(late.last().unwrap().seq, end);
    assert!(late.windows(2).all(|w| w[1].seq == w[0].seq + 1));
    assert_eq!(holds.journal_after(end - 3).len(), 3);
    assert!(holds.journal_after(end).is_empty());
    assert!(
        holds.journal_after(end + 100).is_empty(),
        "a number from another life"
    );
}

#[test]
fn text_from_outside_is_cut_and_cannot_move_a_terminal() {
    let (_, holds, _) = board(&["orders"]);
    let nasty = format!(
        "  db\u{1b}[2J \u{202e}main\ntenance\u{2028}\u{7}\0 {}",
        "x".repeat(1_000)
    );
    let wish = Wish {
        reason: Some(nasty.into()),
        by: Some("\u{1b}\u{85}\n \t".into()),
        ..wish()
    };
    holds.place(&API, Scope::All, wish).unwrap();
    let hold = holds.snapshot().stream("orders").unwrap().holds[0].1.clone();
    let reason = hold.reason.unwrap();
    assert!(reason.starts_with("db[2J maintenance xxx"), "{reason:?}");
    assert!(reason.chars().count() <= 256);
    assert_eq!(hold.by, None, "nothing is left of it");
    let placed = holds
        .journal_after(0)
        .into_iter()
        .find(|r| r.act == Act::Placed)
        .unwrap();
    assert_eq!(
        placed.reason,
        Some(reason),
        "the journal has the same text, not the raw one"
    );
}

#[test]
fn a_gate_that_serves_on_is_never_closed_and_says_hiatus() {
    let hands = Hands::new();
    let holds = Holds::new(hands.clock());
    let app = holds.register("app", Kind::Gate { serves: true }).unwrap();
    app.set_life(Life::Up);
    holds.place(&API, Scope::All, wish()).unwrap();
    let unit = app.gate().try_enter();
    assert!(unit.is_some(), "it goes on serving");
    let status = holds.snapshot().stream("app").unwrap().clone();
    assert_eq!((status.state, status.in_flight), (State::Hiatus, 1));
    holds.release(&API, Scope::All, &nobody()).unwrap();
    assert_eq!(state(&holds, "app"), State::Running);
}

#[tokio::test]
async fn a_gate_with_an_upgraded_connection_is_pausing_until_it_closes() {
    let hands = Hands::new();
    let holds = Holds::new(hands.clock());
    let app = holds.register("app", Kind::Gate { serves: false }).unwrap();
    app.set_life(Life::Up);
    let unit = app.gate().try_enter().unwrap();
    let socket = app.meter().upgraded(Running {
        name: "GET /feed".into(),
        since: hands.now().mono,
    });
    drop(unit);
    holds.place(&API, Scope::All, wish()).unwrap();
    let status = holds.snapshot().stream("app").unwrap().clone();
    assert_eq!(
        (status.state, status.in_flight, status.upgraded),
        (State::Pausing, 0, 1)
    );
    assert_eq!(status.running[0].name, "GET /feed", "what it waits for");

    let closed = holds.proof();
    drop(socket);
    closed.await;
    assert_eq!(state(&holds, "app"), State::Paused);
}

#[test]
fn every_change_is_published_and_counters_alone_are_not() {
    let (_, holds, members) = board(&["orders"]);
    let mut seen = holds.watch();
    seen.mark_unchanged();
    members[0].meter().add_events(5);
    members[0].meter().set_held(Held {
        events: 3,
        ..Held::default()
    });
    assert!(!seen.has_changed().unwrap());
    assert_eq!(
        holds.snapshot().stream("orders").unwrap().events,
        5,
        "but whoever asks, sees"
    );
    holds.place(&API, Scope::All, wish()).unwrap();
    assert!(seen.has_changed().unwrap());
    let first = seen.borrow_and_update().revision;
    holds.place(&API, Scope::All, wish()).unwrap();
    assert!(!seen.has_changed().unwrap(), "nothing is new");
    members[0].set_life(Life::Draining);
    assert!(seen.borrow_and_update().revision > first);
}

#[test]
fn a_switchs_reading_is_told_when_it_changes_and_only_then() {
    let (_, holds, _) = board(&["orders"]);
    let said = |reading| SwitchStatus {
        name: "ops".into(),
        provider: "vault",
        streams: vec!["orders".into()],
        reading,
        version: None,
        good_at: None,
        error: None,
        warnings: vec![],
        next_poll: None,
        settled: false,
        stale: false,
    };
    for reading in ["none", "running", "running", "denied", "denied", "running"] {
        holds.put_switch(said(reading));
    }
    let told: Vec<_> = holds
        .journal_after(0)
        .iter()
        .filter(|r| r.act == Act::Reading)
        .map(|r| r.reason.clone().unwrap())
        .collect();
    assert_eq!(
        told,
        ["running".into(), "denied".into(), "running".into()] as [Name; 3]
    );
}

#[test]
fn names_say_what_still_runs_oldest_first_and_nothing_once_paused() {
    let (hands, holds, members) = board(&["orders"]);
    let gate = members[0].gate();
    let start = hands.now().mono;
    let young = gate.try_enter().unwrap().named("young", start + 2 * S);
    let old = std::thread::spawn(move || gate.try_enter().unwrap().named("old", start))
        .join()
        .unwrap();
    let renamed = gate
        .try_enter()
        .unwrap()
        .named("before", start)
        .named("middle", start + S);
    let _nameless = gate.try_enter().unwrap();
    holds.place(&API, Scope::All, wish()).unwrap();
    let names = |holds: &Holds| -> Vec<String> {
        let snapshot = holds.snapshot();
        let running = &snapshot.stream("orders").unwrap().running;
        running.iter().map(|r| r.name.to_string()).collect()
    };
    assert_eq!(names(&holds), ["old", "middle", "young"]);
    drop(renamed);
    assert_eq!(names(&holds), ["old", "young"]);
    let reused = gate.admit().named("reused", start + 3 * S);
    assert_eq!(names(&holds), ["old", "young", "reused"]);
    drop((old, young, reused, _nameless));
    assert!(names(&holds).is_empty());
}

#[test]
fn a_start_is_listed_as_it_was_given_by_either_clock() {
    let (gate, _keeper) = Gate::new("starts");
    let start = Instant::now();
    let unit = gate.admit().named("by an instant", start);
    assert_eq!(gate.running()[0].since, start);
    drop(unit);

    let up = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let up = up.tv_sec as u64 * 1_000_000_000 + up.tv_nsec as u64;
    let _unit = gate.admit().named("by the system's clock", Since::monotonic(up));
    let since = gate.running()[0].since;
    // How far apart the two lie was read once, with a moment between.
    assert!(start <= since + S && since <= Instant::now());
}

#[test]
fn however_named_units_come_and_go_those_that_run_are_listed_each_once() {
    let (gate, _keeper) = Gate::new("churn");
    let since = Instant::now();
    let mut running: BTreeMap<u32, Unit> = Default::default();
    for n in 0..3_000u32 {
        // Long names among short ones, which have their place's text after them.
        let long = "x".repeat(if n % 7 == 0 { 200 } else { 0 });
        let unit = gate.admit().named_by(&[&n.to_string(), "-", &long], since);
        running.insert(n, unit);
        // Some end at once, some in time, some much later, and every thousand nearly all.
        running.retain(|&at, _| match n % 1_000 {
            999 => at % 100 == 0,
            _ => at % 3 != 0 && (at % 5 != 0 || n - at < 50),
        });
        if n % 97 == 0 || n % 1_000 == 999 {
            let mut listed: Vec<u32> = gate
                .running()
                .iter()
                .map(|unit| unit.name.split('-').next().unwrap().parse().unwrap())
                .collect();
            listed.sort_unstable();
            assert!(listed.iter().eq(running.keys()), "after {n}");
        }
    }
}

#[test]
fn a_name_is_listed_as_it_was_put_together_and_cut_between_two_characters() {
    let (gate, _keeper) = Gate::new("names");
    let since = Instant::now();
    let listed = |parts: &[&str]| -> String {
        let _unit = gate.admit().named_by(parts, since);
        gate.running()[0].name.to_string()
    };
    assert_eq!(listed(&[]), "");
    assert_eq!(listed(&["", "a", ""]), "a");
    assert_eq!(listed(&["GET ", "/"]), "GET /");
    assert_eq!(
        listed(&["12345678", "/orders/12345678"]),
        "12345678/orders/12345678"
    );
    assert_eq!(listed(&["PROPFIND", " ", "/a/b/c/d/e"]), "PROPFIND /a/b/c/d/e");
    let long = "/".to_owned() + &"é".repeat(100);
    let cut = listed(&["GET ", &long]);
    assert!(
        cut.len() > 100 && format!("GET {long}").starts_with(&cut),
        "{cut}"
    );
}

#[test]
fn names_that_come_and_go_on_many_threads_are_never_mixed() {
    let (gate, _keeper) = Gate::new("crowd");
    let start = Instant::now();
    let stop = AtomicBool::new(false);
    let text_of = |nth: u64| {
        char::from(b'a' + nth as u8)
            .to_string()
            .repeat(10 + 8 * (nth as usize % 12))
    };
    std::thread::scope(|s| {
        // More than there are shards for, so that some meet on one.
        for nth in 0..24u64 {
            let (stop, since) = (&stop, start + Duration::from_secs(nth));
            s.spawn(move || {
                let text = text_of(nth);
                let mut kept = VecDeque::new();
                while !stop.load(SeqCst) {
                    kept.push_back(gate.admit().named_by(&[&text], since));
                    if kept.len() > nth as usize % 4 {
                        kept.pop_front();
                    }
                    std::thread::yield_now();
                }
            });
        }
        for _ in 0..2_000 {
            for unit in gate.running() {
                let nth = unit.since.duration_since(start).as_secs();
                assert_eq!(unit.name, text_of(nth));
            }
            std::thread::yield_now();
        }
        stop.store(true, SeqCst);
    });
    assert_eq!((gate.running(), gate.sight().in_flight), (vec![], 0));
}

/// Each thread that ends leaves its shard to one that begins, while units that it counted there are still in flight.
#[test]
fn what_threads_count_that_come_and_go_is_exact() {
    const THREADS: u64 = 24;
    const UNITS: u64 = 100;
    let (gate, _keeper) = Gate::new("generations");
    let start = Instant::now();
    let mut left = Vec::new();
    for generation in 1..=50u64 {
        let (send, units) = std::sync::mpsc::channel();
        std::thread::scope(|s| {
            for _ in 0..THREADS {
                let send = send.clone();
                s.spawn(move || {
                    for nth in 0..UNITS {
                        let unit = match nth % 3 {
                            0 => gate.admit(),
                            1 => gate.admit().child().named("child", start),
                            _ => gate.try_enter().unwrap().named("entered", start),
                        };
                        // Every other ends here, the rest somewhere else and later.
                        let unit = if nth % 4 < 2 { unit.as_event() } else { unit };
                        if nth % 2 == 0 {
                            send.send(unit).unwrap();
                        }
                    }
                });
            }
            drop(send);
            // Those of the generation before, while this one counts.
            left.clear();
            left.extend(units);
        });
        assert_eq!(gate.sight().in_flight, THREADS * UNITS / 2);
        // Half of those that ended here are events, and of those that were left, all but the last generation's.
        let ended = generation * THREADS * UNITS / 4 + (generation - 1) * THREADS * UNITS / 4;
        assert_eq!(gate.events(), ended);
    }
    left.clear();
    assert_eq!((gate.running(), gate.sight().in_flight), (vec![], 0));
}

/// Threads that pass the gate and threads that toggle holds, against somebody who looks. Returns in how many looks
/// the state was `paused` and something was in flight. `expected` looks on until it has seen one.
fn contradictions(expected: bool, look: impl Fn(&Holds, &Member) -> (State, u64)) -> u64 {
    let (_, holds, members) = board(&["orders"]);
    let member = members[0].clone();
    let stop = AtomicBool::new(false);
    let passed = AtomicU64::new(0);
    let mut seen = 0;
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !stop.load(SeqCst) {
                    if let Some(unit) = member.gate().try_enter() {
                        passed.fetch_add(1, SeqCst);
                        std::thread::yield_now();
                        drop(unit);
                    }
                    std::thread::yield_now();
                }
            });
        }
        for who in [API, switch("ops")] {
            let (holds, stop) = (&holds, &stop);
            s.spawn(move || {
                while !stop.load(SeqCst) {
                    holds.place(&who, Scope::All, wish()).unwrap();
                    std::thread::yield_now();
                    holds.release(&who, Scope::All, &nobody()).unwrap();
                    std::thread::yield_now();
                }
            });
        }
        let (mut looks, mut paused) = (0u64, 0u64);
        loop {
            let (state, in_flight) = look(&holds, &member);
            looks += 1;
            paused += u64::from(state == State::Paused);
            seen += u64::from(state == State::Paused && in_flight > 0);
            let enough = looks >= 20_000 && paused >= 100 && passed.load(SeqCst) >= 100;
            if enough && (seen > 0 || !expected || looks > 10_000_000) {
                break;
            }
        }
        stop.store(true, SeqCst);
    });
    let last = holds.snapshot().stream("orders").unwrap().clone();
    assert_eq!(last.in_flight, 0, "all have left");
    seen
}

#[test]
fn no_snapshot_says_paused_with_work_in_flight() {
    let seen = contradictions(false, |holds, _| {
        let snapshot = holds.snapshot();
        let status = snapshot.stream("orders").unwrap();
        (status.state, status.in_flight)
    });
    assert_eq!(seen, 0);
}

#[test]
fn a_reader_that_asks_for_state_and_count_one_after_the_other_is_caught() {
    let seen = contradictions(true, |holds, member| {
        let state = holds.snapshot().stream("orders").unwrap().state;
        std::thread::yield_now();
        (state, member.gate().sight().in_flight)
    });
    assert!(seen > 0, "the check cannot see what it is there to see");
}

/// What a test of random operations does to the board.
#[derive(Clone, Debug)]
enum Op {
    Place(usize, usize, Option<u64>),
    Release(usize, usize),
    Read(usize, u8, bool),
    SetAside(usize, usize),
    Pass(u64),
    Enter(usize),
    Leave(usize),
}
const STREAMS: [&str; 3] = ["a", "b", "c"];

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (0..2usize, 0..4usize, prop::option::of(1..100u64)).prop_map(|(w, s, u)| Op::Place(w, s, u)),
        (0..2usize, 0..4usize).prop_map(|(w, s)| Op::Release(w, s)),
        (0..2usize, 1..4u8, any::<bool>()).prop_map(|(w, v, p)| Op::Read(w, v, p)),
        (0..4usize, 0..3usize).prop_map(|(w, s)| Op::SetAside(w, s)),
        (0..50u64).prop_map(Op::Pass),
        (0..3usize).prop_map(Op::Enter),
        (0..3usize).prop_map(Op::Leave),
    ];
    prop::collection::vec(op, 1..60)
}

/// All there is to it: a set of holders per stream, the end of the API's hold, and what is set aside.
#[derive(Default)]
struct Model {
    held: [BTreeMap<Controller, Option<u8>>; 3],
    aside: [BTreeMap<Controller, u8>; 3],
    api_end: [Option<u64>; 3],
    now: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_operations_agree_with_the_short_model(ops in ops()) {
        let (hands, holds, members) = board(&STREAMS);
        let start = hands.wall();
        let persons = [API, Controller::Stop];
        let switches = [switch("x"), switch("y")];
        let mut model = Model::default();
        let mut units: [Vec<tidegate_gate::Unit>; 3] = Default::default();
        let meant = |s: usize| if s == 3 { (0..3).collect::<Vec<_>>() } else { vec![s] };
        let scope = |s: usize| if s == 3 { Scope::All } else { Scope::One(STREAMS[s]) };
        for op in ops {
            match op {
                Op::Place(w, s, end) => {
                    let who = &persons[w];
                    let end = end.map(|e| model.now + e);
                    let wish = Wish { until: end.map(|e| start + Duration::from_secs(e)), ..wish() };
                    holds.place(who, scope(s), wish).unwrap();
                    for i in meant(s) {
                        let fresh = model.held[i].insert(who.clone(), None).is_none();
                        if *who == API {
                            model.api_end[i] = match (fresh, model.api_end[i], end) {
                                (true, _, end) => end,
                                (false, Some(a), Some(b)) => Some(a.max(b)),
                                (false, ..) => None,
                            };
                        }
                    }
                }
                Op::Release(w, s) => {
                    holds.release(&persons[w], scope(s), &nobody()).unwrap();
                    for i in meant(s) {
                        model.held[i].remove(&persons[w]);
                    }
                }
                Op::Read(w, v, paused) => {
                    let who = &switches[w];
                    let cause = read(&v.to_string(), hands.now().mono);
                    if paused {
                        holds.place(who, Scope::All, Wish { cause, ..wish() }).unwrap();
                    } else {
                        holds.release(who, Scope::All, &cause).unwrap();
                    }
                    for i in 0..3 {
                        match paused {
                            true if model.aside[i].get(who) == Some(&v) => {}
                            true => {
                                model.aside[i].remove(who);
                                model.held[i].insert(who.clone(), Some(v));
                            }
                            false => {
                                model.aside[i].remove(who);
                                model.held[i].remove(who);
                            }
                        }
                    }
                }
                Op::SetAside(w, s) => {
                    let who = persons.iter().chain(&switches).nth(w).unwrap();
                    let done = holds.set_aside(who, STREAMS[s], None, &nobody()).is_ok();
                    let held = if w < 2 { None } else { model.held[s].remove(who).flatten() };
                    prop_assert_eq!(done, held.is_some());
                    if let Some(v) = held {
                        model.aside[s].insert(who.clone(), v);
                    }
                }
                Op::Pass(seconds) => {
                    hands.pass(Duration::from_secs(seconds));
                    model.now += seconds;
                    holds.settle();
                    for i in 0..3 {
                        if model.api_end[i].is_some_and(|end| end <= model.now) && model.held[i].contains_key(&API) {
                            model.held[i].remove(&API);
                        }
                    }
                }
                Op::Enter(s) => {
                    let unit = members[s].gate().try_enter();
                    prop_assert_eq!(unit.is_some(), model.held[s].is_empty());
                    units[s].extend(unit);
                }
                Op::Leave(s) => drop(units[s].pop()),
            }
            let snapshot = holds.snapshot();
            for i in 0..3 {
                let status = snapshot.stream(STREAMS[i]).unwrap();
                let expected = match (model.held[i].is_empty(), units[i].len()) {
                    (true, _) => State::Running,
                    (false, 0) => State::Paused,
                    (false, _) => State::Pausing,
                };
                prop_assert_eq!(status.state, expected);
                prop_assert_eq!(status.in_flight, units[i].len() as u64);
                let holders: BTreeSet<_> = status.holds.iter().map(|(c, _)| c.clone()).collect();
                prop_assert_eq!(holders, model.held[i].keys().cloned().collect::<BTreeSet<_>>());
                let aside: BTreeSet<_> = status.set_aside.iter().map(|(c, _)| c.clone()).collect();
                prop_assert_eq!(aside, model.aside[i].keys().cloned().collect::<BTreeSet<_>>());
                prop_assert_eq!(members[i].gate().is_closed(), !model.held[i].is_empty());
                let phase = members[i].gate().sight().phase;
                prop_assert_eq!(phase == Phase::Paused, expected == State::Paused);
            }
        }
        // The transitions that were told are a path: each begins where the one before it ended.
        for name in STREAMS {
            let mut at = State::Starting;
            for record in transitions(&holds).iter().filter(|r| r.stream.as_deref() == Some(name)) {
                prop_assert_eq!(record.from, Some(at));
                prop_assert_ne!(record.to, record.from);
                at = record.to.unwrap();
            }
            prop_assert_eq!(at, state(&holds, name));
        }
    }
}

#[test]
fn a_release_tells_why_and_who_claims_to_have_asked() {
    let (_, holds, _) = board(&["orders"]);
    let start = *holds.journal_end().borrow();
    holds.place(&Controller::Api, Scope::All, wish()).unwrap();
    let cause = Cause {
        actor: Some("oncall".into()),
        reason: Some("the \u{1b}[31mdisk is back".into()),
        by: Some("ana".into()),
        ..nobody()
    };
    holds.release(&Controller::Api, Scope::All, &cause).unwrap();
    let told = holds.journal_after(start);
    for act in [Act::Released, Act::Transition] {
        let last = told.iter().rev().find(|r| r.act == act).unwrap();
        assert_eq!(last.reason.as_deref(), Some("the [31mdisk is back"), "{act:?}");
        assert_eq!(last.by.as_deref(), Some("ana"), "{act:?}");
    }
}
