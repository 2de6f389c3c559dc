//! A source whose broker takes back what it does not hear of: a pause of any length is none of the broker's business.
//! Everything here runs in paused time.
use crate::rig::*;
use bytes::Bytes;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidegate_gate::{Name, State};
use tidegate_runtime::{
    Batch, Demand, Event, Fetched, LeaseId, Leases, Limits, Outstanding, Pipeline, Settle, SettleError,
    Source, SourceError, Terms, Token,
};
use tokio::sync::Notify;

const LEASE: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_secs(3600);

/// A broker with one queue. Whoever asks gets what is ready, or what another has not been heard of for a lease.
#[derive(Default)]
struct Broker {
    inner: Mutex<Vec<Message>>,
    changed: Notify,
}

#[derive(Default)]
struct Message {
    acked: bool,
    /// Who has it, and when they were last heard of.
    out: Option<(&'static str, Instant)>,
    deliveries: u32,
}

impl Broker {
    fn with(messages: usize) -> Arc<Broker> {
        let broker = Broker::default();
        broker
            .inner
            .lock()
            .unwrap()
            .resize_with(messages, Message::default);
        Arc::new(broker)
    }

    fn take(&self, who: &'static str, most: usize) -> Vec<usize> {
        let now = now();
        let mut inner = self.inner.lock().unwrap();
        let free = inner
            .iter_mut()
            .enumerate()
            .filter(|(_, m)| !m.acked && m.out.is_none_or(|(_, heard)| now.duration_since(heard) >= LEASE));
        free.take(most)
            .map(|(n, m)| {
                m.out = Some((who, now));
                m.deliveries += 1;
                n
            })
            .collect()
    }

    fn each(&self, who: &'static str, numbers: &[usize], mut act: impl FnMut(&mut Message)) -> Vec<usize> {
        let mut inner = self.inner.lock().unwrap();
        let mut not_theirs = Vec::new();
        for n in numbers {
            match inner[*n].out {
                Some((has, _)) if has == who => act(&mut inner[*n]),
                _ => not_theirs.push(*n),
            }
        }
        self.changed.notify_one();
        not_theirs
    }

    fn redeliveries(&self) -> u32 {
        let inner = self.inner.lock().unwrap();
        inner.iter().map(|m| m.deliveries.saturating_sub(1)).sum()
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What goes wrong between the source and its broker.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// Renewals are not sent at all, and nobody notices: the broken twin.
    never_renews: bool,
    /// Renewals fail from this moment on.
    renewals_fail: Option<Instant>,
    /// So does giving back.
    returns_fail: bool,
}

struct Leased {
    broker: Arc<Broker>,
    settle: LeasedSettle,
    epoch: u32,
}

#[derive(Clone)]
struct LeasedSettle {
    broker: Arc<Broker>,
    leases: Leases<usize>,
    faults: Arc<Mutex<Faults>>,
    max_hold: Option<Duration>,
}

impl Leased {
    fn new(broker: &Arc<Broker>, max_hold: Option<Duration>, faults: Faults) -> Leased {
        Leased {
            broker: broker.clone(),
            settle: LeasedSettle {
                broker: broker.clone(),
                leases: Leases::default(),
                faults: Arc::new(Mutex::new(faults)),
                max_hold,
            },
            epoch: 0,
        }
    }
}

impl Source for Leased {
    type Settle = LeasedSettle;

    fn describe(&self) -> Name {
        "leased".into()
    }

    fn settle(&self) -> LeasedSettle {
        self.settle.clone()
    }

    async fn open(&mut self, epoch: u32) -> Result<(), SourceError> {
        self.epoch = epoch;
        self.settle.leases.begin(epoch);
        Ok(())
    }

    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        loop {
            let Some(ask) = demand.wanted().await else {
                return Ok(Fetched::End);
            };
            for n in self.broker.take("us", ask.events) {
                let token = Token {
                    epoch: self.epoch,
                    partition: 0,
                    position: n as u128,
                    part: 0,
                };
                if self.settle.leases.add(&token, n, now()) {
                    into.push(Event {
                        payload: Bytes::from(n.to_string()),
                        key: None,
                        token,
                    });
                }
            }
            drop(ask);
            if !into.is_empty() {
                return Ok(Fetched::Events);
            }
            tokio::select! {
                () = self.broker.changed.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                () = demand.stopping() => return Ok(Fetched::End),
            }
        }
    }
}

impl Settle for LeasedSettle {
    fn may_lose(&self) -> bool {
        true
    }

    fn ours(&self, event: &Token) -> bool {
        self.leases.has(event)
    }

    fn claim(&self, event: &Token) -> bool {
        self.leases.claim(event)
    }

    fn terms(&self) -> Option<Terms> {
        Some(Terms {
            lasts: LEASE,
            max_hold: self.max_hold,
        })
    }

    fn outstanding(&self) -> Option<Outstanding> {
        self.leases.outstanding()
    }

    async fn extend(&self, before: Instant) -> Result<usize, SettleError> {
        let faults = *self.faults.lock().unwrap();
        if faults.renewals_fail.is_some_and(|from| now() >= from) {
            return Err(SettleError::Retry("the broker does not answer".into()));
        }
        let (sent, due) = (now(), self.leases.due(before));
        let ids: Vec<LeaseId> = due.iter().map(|(id, _)| *id).collect();
        let mut lost = Vec::new();
        if !faults.never_renews {
            for (id, n) in &due {
                if !self
                    .broker
                    .each("us", &[*n], |m| m.out = Some(("us", sent)))
                    .is_empty()
                {
                    lost.push(*id);
                }
            }
        }
        self.leases.renewed(&ids, sent);
        Ok(self.leases.lost(&lost))
    }

    fn expire(&self, before: Instant) -> usize {
        self.leases.expire(before, now())
    }

    async fn ack(&self, done: &[Token]) -> Result<(), SettleError> {
        self.broker
            .each("us", &self.leases.handles(done), |m| m.acked = true);
        self.leases.remove(done);
        Ok(())
    }

    async fn give_back(&self, held: &[Token]) -> Result<(), SettleError> {
        let numbers = self.leases.handles(held);
        self.leases.remove(held);
        if self.faults.lock().unwrap().returns_fail {
            return Err(SettleError::Retry("the broker does not answer".into()));
        }
        self.broker.each("us", &numbers, |m| m.out = None);
        Ok(())
    }
}

/// A stream of 100 messages that takes one at a time until 10 are through, and is then paused with 20 held.
struct Scene {
    broker: Arc<Broker>,
    board: Board,
    sink: Scripted,
    _running: (
        tokio_util::sync::CancellationToken,
        tokio::task::JoinHandle<tidegate_runtime::Report>,
    ),
}

impl Scene {
    async fn paused(max_hold: Option<Duration>, faults: Faults) -> Scene {
        let board = Board::new();
        let member = board.member();
        let broker = Broker::with(100);
        let mut sink = Scripted::willing(member.gate());
        let permits = Arc::new(tokio::sync::Semaphore::new(10));
        sink.permits = Some(permits.clone());
        sink.batch = 1;
        let pipeline = Pipeline {
            limits: Limits {
                events: 20,
                bytes: 1 << 20,
                ..Limits::default()
            },
            ..pipeline(Leased::new(&broker, max_hold, faults), (), sink.clone())
        };
        let running = run(&member, pipeline);
        sink.attempted(11).await;
        board.pause();
        permits.add_permits(1000);
        let held = board.until_state(State::Paused).await.held;
        assert!(held.events > 0 && held.lease_ends.is_none_or(|ends| ends > now()));
        Scene {
            broker,
            board,
            sink,
            _running: running,
        }
    }

    /// Lets time pass, with another consumer that asks for work all the while. Returns what it got.
    async fn pass(&self, time: Duration) -> Vec<usize> {
        let end = now() + time;
        let mut got = Vec::new();
        // It takes one at most: what nobody has is there for the taking, and would hide what is taken from us.
        let unheld: Vec<usize> = self.broker.take("another", usize::MAX);
        while now() < end {
            tokio::time::sleep(LEASE / 4).await;
            self.broker
                .each("another", &unheld, |m| m.out = Some(("another", now())));
            got.extend(self.broker.take("another", 1));
        }
        // It never happened.
        self.broker.each("another", &unheld, |m| {
            m.out = None;
            m.deliveries -= 1;
        });
        got
    }

    async fn everything_arrives_once(&self) {
        self.board.resume();
        self.sink.has(100).await;
        let mut seen: Vec<usize> = self
            .sink
            .payloads()
            .iter()
            .map(|p| std::str::from_utf8(p).unwrap().parse().unwrap())
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_an_hour_costs_no_redelivery_though_another_asks_all_the_while() {
    let scene = Scene::paused(None, Faults::default()).await;
    let got = scene.pass(HOUR).await;
    assert!(got.is_empty(), "{got:?}");
    let held = scene.board.status().held;
    assert!(held.events > 0 && !held.parked);
    assert!(held.oldest.is_some_and(|oldest| now() - oldest >= HOUR));
    assert!(held.lease_ends.is_some_and(|ends| ends > now()));
    scene.everything_arrives_once().await;
    assert_eq!(scene.broker.redeliveries(), 0);
}

#[tokio::test(start_paused = true)]
async fn twin_a_source_that_does_not_renew_loses_what_it_holds_to_another() {
    let faults = Faults {
        never_renews: true,
        ..Faults::default()
    };
    let scene = Scene::paused(None, faults).await;
    assert!(
        !scene.pass(HOUR).await.is_empty(),
        "the check cannot tell a lease from none"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_held_too_long_is_given_back_and_arrives_once_after_the_resume() {
    let scene = Scene::paused(Some(Duration::from_secs(30)), Faults::default()).await;
    let before = scene.board.status().held.events;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(scene.board.status().held.events, before);
    let parked = scene
        .board
        .until("parked", |s| s.held.parked && s.held.events == 0)
        .await;
    assert_eq!(parked.state, State::Paused);
    // Back at the broker: whoever asks has it at once.
    assert_eq!(scene.broker.take("another", 1).len(), 1);
    tokio::time::sleep(HOUR).await;
    assert!(scene.board.status().held.parked);
    scene.everything_arrives_once().await;
    assert!(!scene.board.status().held.parked);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_renewed_is_given_back_before_the_broker_takes_it() {
    let faults = Faults {
        renewals_fail: Some(now() + Duration::from_secs(10)),
        ..Faults::default()
    };
    let scene = Scene::paused(None, faults).await;
    scene
        .board
        .until("parked", |s| s.held.parked && s.held.events == 0)
        .await;
    {
        let inner = scene.broker.inner.lock().unwrap();
        let given_back = inner.iter().filter(|m| !m.acked && m.deliveries == 1).count();
        let still_out = inner.iter().filter(|m| !m.acked && m.out.is_some()).count();
        assert!(given_back > 0 && still_out == 0, "{given_back} {still_out}");
    }
    scene.everything_arrives_once().await;
}

#[tokio::test(start_paused = true)]
async fn what_another_consumer_has_taken_over_is_dropped_and_never_written() {
    let faults = Faults {
        renewals_fail: Some(now() + Duration::from_secs(10)),
        returns_fail: true,
        ..Faults::default()
    };
    let scene = Scene::paused(None, faults).await;
    let got = scene.pass(Duration::from_secs(60)).await;
    assert!(!got.is_empty());
    assert_eq!(scene.board.status().held.events, 0);
    // The other one is done with them.
    scene.broker.each("another", &got, |m| m.acked = true);
    scene.board.resume();
    scene.sink.has(100 - got.len()).await;
    tokio::time::sleep(HOUR).await;
    let mut seen: Vec<usize> = scene
        .sink
        .payloads()
        .iter()
        .map(|p| std::str::from_utf8(p).unwrap().parse().unwrap())
        .collect();
    seen.sort_unstable();
    let expected: Vec<usize> = (0..100).filter(|n| !got.contains(n)).collect();
    assert_eq!(seen, expected);
}
