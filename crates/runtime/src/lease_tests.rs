#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use super::*;
use Step::{Expire, Extend, Park, Wait};

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

const TERMS: Terms = Terms {
    lasts: secs(120),
    max_hold: None,
};
const BOUNDED: Terms = Terms {
    max_hold: Some(secs(300)),
    ..TERMS
};

/// All times are seconds after `epoch`; leases last 120 s, of which the last 12 count as over.
#[test]
fn the_plan_renews_then_gives_back_then_lets_go() {
    let epoch = Instant::now();
    let at = |s: u64| epoch + secs(s);
    let out = |oldest, stalest| {
        Some(Outstanding {
            oldest: at(oldest),
            stalest: at(stalest),
        })
    };
    let running = Standing::default();
    let paused = Standing {
        paused: true,
        parkable: true,
        failed: None,
    };
    let met_a_stage = Standing {
        parkable: false,
        ..paused
    };
    let failing = |since| Standing {
        failed: Some(at(since)),
        ..paused
    };
    let failing_running = |since| Standing {
        paused: false,
        ..failing(since)
    };
    let failing_in_flight = |since| Standing {
        parkable: false,
        ..failing(since)
    };
    let table = [
        // Nothing is out.
        (TERMS, None, running, 0, Wait(secs(1))),
        (TERMS, None, paused, 999, Wait(secs(1))),
        // Fresh: nothing to do, whether paused or not.
        (TERMS, out(0, 0), running, 10, Wait(secs(1))),
        (TERMS, out(0, 0), paused, 39, Wait(secs(1))),
        // A third is over: what is a sixth old is renewed along.
        (TERMS, out(0, 0), running, 40, Extend(at(20))),
        (TERMS, out(0, 0), paused, 40, Extend(at(20))),
        (TERMS, out(0, 100), paused, 140, Extend(at(120))),
        (TERMS, out(0, 0), met_a_stage, 60, Extend(at(40))),
        // Held for an hour and renewed all the while: held on.
        (TERMS, out(0, 3590), paused, 3600, Wait(secs(1))),
        // Given back after `max_hold`, but only while paused, and only what has met no stage.
        (BOUNDED, out(0, 295), paused, 299, Wait(secs(1))),
        (BOUNDED, out(0, 295), paused, 300, Park),
        (BOUNDED, out(0, 295), running, 300, Wait(secs(1))),
        (BOUNDED, out(0, 295), met_a_stage, 300, Wait(secs(1))),
        // Renewing fails: again, but not at once; at the last call what can be is given back.
        (TERMS, out(0, 0), failing(40), 45, Wait(secs(1))),
        (TERMS, out(0, 0), failing(40), 50, Extend(at(30))),
        (TERMS, out(0, 0), failing(70), 77, Wait(secs(1))),
        (TERMS, out(0, 0), failing(70), 78, Park),
        (TERMS, out(0, 0), failing_running(70), 78, Park),
        (TERMS, out(0, 0), failing_in_flight(70), 80, Extend(at(60))),
        // The end: the broker may have given them to another.
        (TERMS, out(0, 0), failing(100), 107, Park),
        (TERMS, out(0, 0), failing(100), 108, Expire(at(0))),
        (TERMS, out(0, 0), failing_in_flight(100), 108, Expire(at(0))),
        (TERMS, out(0, 0), running, 500, Expire(at(392))),
    ];
    for (row, (terms, out, standing, now, expected)) in table.into_iter().enumerate() {
        assert_eq!(plan(&terms, out, standing, at(now)), expected, "row {row}");
    }
}

/// Walks time step by step as the loop does, with a broker that renews until `works_until`.
fn walk(terms: Terms, works_until: u64, to: u64) -> Vec<(u64, &'static str)> {
    let epoch = Instant::now();
    let mut now = epoch;
    let mut renewed = epoch;
    let mut failed = None;
    let mut out = true;
    let mut said: Vec<(u64, &'static str)> = Vec::new();
    while now < epoch + secs(to) && out {
        let held = Outstanding {
            oldest: epoch,
            stalest: renewed,
        };
        let standing = Standing {
            paused: true,
            parkable: true,
            failed,
        };
        let at = (now - epoch).as_secs();
        match plan(&terms, Some(held), standing, now) {
            Wait(wait) => now += wait.max(Duration::from_millis(1)),
            Extend(_) if at < works_until => {
                (renewed, failed) = (now, None);
                said.push((at, "renewed"));
            }
            Extend(_) => failed = Some(now),
            Park => {
                said.push((at, "parked"));
                out = false;
            }
            Expire(_) => {
                said.push((at, "expired"));
                out = false;
            }
        }
    }
    said
}

#[test]
fn an_hour_of_pause_is_a_renewal_every_third_of_a_lease_and_nothing_else() {
    let said = walk(TERMS, u64::MAX, 3600);
    assert!(said.iter().all(|(_, what)| *what == "renewed"), "{said:?}");
    assert_eq!(said.len(), 89); // one every 40 s
}

#[test]
fn what_cannot_be_renewed_is_given_back_before_the_broker_takes_it() {
    let said = walk(TERMS, 100, 3600);
    // Renewed at 40 and 80, so the lease ends at 200.
    let (at, what) = *said.last().unwrap();
    assert_eq!(what, "parked", "{said:?}");
    assert!((150..200).contains(&at), "{said:?}");
}

fn token(epoch: u32, position: u128) -> Token {
    Token {
        epoch,
        partition: 0,
        position,
        part: 0,
    }
}

#[test]
fn an_event_that_is_handed_out_again_is_not_two() {
    let leases = Leases::default();
    leases.begin(1);
    let (then, now) = (Instant::now(), Instant::now() + secs(5));
    assert!(leases.add(&token(1, 7), "first", then));
    assert!(!leases.add(&token(1, 7), "second", now));
    assert_eq!(leases.handles(&[token(1, 7)]), ["second"]);
    let out = leases.outstanding().unwrap();
    assert_eq!((out.oldest, out.stalest), (then, now));
}

#[test]
fn a_lease_is_ours_until_it_is_settled_lost_expired_or_of_an_earlier_opening() {
    let leases = Leases::default();
    leases.begin(1);
    let start = Instant::now();
    for position in 0..5 {
        leases.add(&token(1, position), (), start + secs(position as u64));
    }
    leases.remove(&[token(1, 0), token(0, 1)]);
    let due = leases.due(start + secs(2));
    assert_eq!(due.len(), 2);
    assert_eq!(leases.lost(&[due[0].0]), 1);
    leases.renewed(&[due[1].0, due[0].0], start + secs(9));
    assert_eq!(leases.expire(start + secs(3), start + secs(20)), 1);
    let ours = |epoch| {
        (0..5)
            .filter(|p| leases.has(&token(epoch, *p)))
            .collect::<Vec<_>>()
    };
    assert_eq!(ours(1), [2, 4]);
    assert_eq!(ours(2), []);
    leases.begin(1);
    assert_eq!(ours(1), [2, 4]);
    leases.begin(2);
    assert!(leases.is_empty() && leases.outstanding().is_none());
}

#[test]
fn what_is_past_the_gate_is_not_given_up_when_its_lease_is_over() {
    let leases = Leases::default();
    leases.begin(1);
    let start = Instant::now();
    leases.add(&token(1, 1), "first", start);
    leases.add(&token(1, 2), "first", start);
    assert!(leases.claim(&token(1, 1)) && !leases.claim(&token(2, 1)) && !leases.claim(&token(1, 9)));
    let later = start + secs(500);
    assert_eq!(leases.expire(start, later), 1);
    assert!(leases.has(&token(1, 1)) && !leases.has(&token(1, 2)));
    assert_eq!(leases.outstanding().unwrap().stalest, later);
    // The broker hands both out again: the one is known, the other is news.
    assert!(!leases.add(&token(1, 1), "second", later));
    assert!(leases.add(&token(1, 2), "second", later));
    assert_eq!(leases.handles(&[token(1, 1)]), ["second"]);
}
