//! A pause is none of the group's business.
use crate::site::{LONG, Running, SHORT, Site, soon};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::time::Duration;
use tidegate_gate::State;
use tidegate_runtime::{KafkaConsumer, KafkaSource, MemorySink};

/// Longer than every interval of [`SHORT`].
const PAUSE: Duration = Duration::from_secs(6);

/// Polls a plain member for a while, and says what it got.
fn poll_for(member: &BaseConsumer, time: Duration) -> usize {
    let until = std::time::Instant::now() + time;
    let mut got = 0;
    while std::time::Instant::now() < until {
        if let Some(Ok(_)) = member.poll(Duration::from_millis(20)) {
            got += 1;
        }
    }
    got
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + LONG;
    while !is() {
        assert!(std::time::Instant::now() < end, "waited in vain: {what}");
    }
}

async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    soon("what runs beside", tokio::task::spawn_blocking(work))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_longer_than_every_interval_moves_no_partition_and_repeats_nothing() {
    let site = Site::with("in", 4);
    site.fill("in", 4, 0, 50);
    let sink = MemorySink::new();
    let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
    let stream = Running::start(source, sink.clone(), 64);
    stream.until("all moved", |s| s.events == 200).await;
    stream.paused().await;
    site.fill("in", 4, 50, 100);
    let held = stream.until("the hold is full", |s| s.held.events >= 64).await;
    tokio::time::sleep(PAUSE).await;
    let after = stream.status();
    assert_eq!(after.state, State::Paused);
    assert_eq!(
        after.held.events, held.held.events,
        "nothing more was fetched, nothing dropped"
    );
    assert_eq!(sink.events().len(), 200);
    stream.resume();
    stream.until("the rest moved", |s| s.events == 400).await;
    stream.stop().await;
    assert_eq!(sink.events().len(), 400, "each once");
    assert_eq!(site.committed("in", "g", 4), [Some(100); 4]);
}

/// What a consumer does that stops asking while it is paused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twin_a_member_that_is_not_polled_is_put_out_of_the_group() {
    let site = Site::with("in", 4);
    let member = site.member("g", SHORT);
    member.subscribe(&["in"]).unwrap();
    let member = beside(move || {
        until("it has partitions", || {
            let _ = member.poll(Duration::from_millis(20));
            member.assignment().unwrap().count() > 0
        });
        member
    })
    .await;
    tokio::time::sleep(PAUSE).await;
    beside(move || {
        until("it is missed", || {
            let said = member.poll(Duration::from_millis(20));
            let exceeded = KafkaError::MessageConsumption(RDKafkaErrorCode::PollExceeded);
            said.and_then(Result::err) == Some(exceeded)
        });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hold_is_bounded_through_a_pause_whatever_waits_at_the_broker() {
    let site = Site::with("in", 2);
    site.fill("in", 2, 0, 3000);
    let sink = MemorySink::new();
    let source = KafkaSource::new(KafkaConsumer {
        prefetch: 100,
        ..site.consumer("in", "g", SHORT)
    })
    .unwrap();
    let stream = Running::start_held(source, sink.clone(), 100, true);
    stream.until("paused", |s| s.state == State::Paused).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let held = stream.status().held.events;
    assert!(held <= 100, "{held}");
    assert_eq!(sink.events().len(), 0);
    stream.resume();
    stream.until("all moved", |s| s.events == 6000).await;
    stream.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_and_goes_in_a_pause_moves_nothing_and_every_event_arrives_once() {
    let site = Site::with("in", 4);
    site.fill("in", 4, 0, 50);
    let sink = MemorySink::new();
    let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
    let stream = Running::start(source, sink.clone(), 4096);
    stream.until("all moved", |s| s.events == 200).await;
    stream.paused().await;
    site.fill("in", 4, 50, 100);
    stream.until("all is held", |s| s.held.events == 200).await;

    // It is given partitions, reads what is held here, commits nothing, and goes.
    let other = site.member("g", SHORT);
    other.subscribe(&["in"]).unwrap();
    let other = beside(move || {
        until("it has partitions", || {
            let _ = other.poll(Duration::from_millis(20));
            other.assignment().unwrap().count() > 0
        });
        let _ = poll_for(&other, Duration::from_millis(500));
        other
    })
    .await;
    let half = stream
        .until("what went to the other is dropped", |s| s.held.events < 200)
        .await;
    assert_eq!(half.state, State::Paused);
    beside(move || drop(other)).await;
    // The partitions come back, and are paused before anything is fetched of them.
    tokio::time::sleep(PAUSE).await;
    let after = stream.status();
    assert_eq!(
        (after.state, after.held.events),
        (State::Paused, half.held.events)
    );
    assert_eq!(sink.events().len(), 200, "not one event moved");

    stream.resume();
    stream.until("the rest moved", |s| s.events == 400).await;
    stream.stop().await;
    assert_eq!(sink.events().len(), 400, "each once");
    assert_eq!(site.committed("in", "g", 4), [Some(100); 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_come_in_a_pause_bring_nothing_before_it_is_over() {
    let site = Site::with("in", 4);
    site.fill("in", 4, 0, 10);
    let other = site.member("g", SHORT);
    other.subscribe(&["in"]).unwrap();
    let sink = MemorySink::new();
    let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
    let stream = Running::start(source, sink.clone(), 4096);
    // Both have two.
    let other = beside(move || {
        until("both have two", || {
            let _ = other.poll(Duration::from_millis(20));
            other.assignment().unwrap().count() == 2
        });
        other
    })
    .await;
    stream.until("its own two moved", |s| s.events == 20).await;
    stream.paused().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    site.fill("in", 4, 10, 50);
    let held = stream.status();
    beside(move || drop(other)).await;
    tokio::time::sleep(PAUSE).await;
    let after = stream.status();
    assert_eq!(
        (after.state, after.held.events),
        (State::Paused, held.held.events),
        "nothing was fetched of the two that came"
    );
    stream.resume();
    stream.until("all moved", |s| s.events == 200).await;
    stream.stop().await;
    assert_eq!(sink.events().len(), 200, "each once");
}

/// What a consumer does that pauses what it has, and nothing of what it is given later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twin_partitions_that_come_in_a_pause_are_read_by_who_does_not_pause_them() {
    let site = Site::with("in", 4);
    let (one, other) = (site.member("g", SHORT), site.member("g", SHORT));
    one.subscribe(&["in"]).unwrap();
    other.subscribe(&["in"]).unwrap();
    let (one, other) = beside(move || {
        until("both have two", || {
            let _ = one.poll(Duration::from_millis(10));
            let _ = other.poll(Duration::from_millis(10));
            one.assignment().unwrap().count() == 2 && other.assignment().unwrap().count() == 2
        });
        one.pause(&one.assignment().unwrap()).unwrap();
        (one, other)
    })
    .await;
    site.fill("in", 4, 0, 50);
    beside(move || {
        assert_eq!(poll_for(&one, Duration::from_secs(1)), 0, "paused");
        drop(other);
        until("it reads", || poll_for(&one, Duration::from_millis(20)) > 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_too_long_is_dropped_and_fetched_again_after_the_pause() {
    let site = Site::with("in", 2);
    site.fill("in", 2, 0, 20);
    let sink = MemorySink::new();
    let source = KafkaSource::new(KafkaConsumer {
        max_hold: Some(Duration::from_secs(2)),
        ..site.consumer("in", "g", SHORT)
    })
    .unwrap();
    let stream = Running::start(source, sink.clone(), 1024);
    stream.until("all moved", |s| s.events == 40).await;
    stream.paused().await;
    site.fill("in", 2, 20, 60);
    stream.until("all is held", |s| s.held.events == 80).await;
    let parked = stream
        .until("parked", |s| s.held.parked && s.held.events == 0)
        .await;
    assert_eq!(parked.state, State::Paused);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stream.status().held.events, 0, "not fetched again in the pause");
    stream.resume();
    stream.until("the rest moved", |s| s.events == 120).await;
    stream.stop().await;
    assert_eq!(sink.events().len(), 120, "each once");
}
