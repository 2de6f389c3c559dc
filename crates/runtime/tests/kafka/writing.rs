//! What the sink leaves behind: nothing.
use crate::site::{LONG, Running, SHORT, Site, expected, soon};
use bytes::Bytes;
use rdkafka::consumer::Consumer;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::time::Duration;
use tidegate_gate::State;
use tidegate_runtime::{Event, KafkaSink, KafkaSource, Sink, SinkError, Token};

fn event(position: u128, payload: &str) -> Event {
    Event {
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        key: None,
        token: Token {
            epoch: 1,
            partition: 0,
            position,
            part: 0,
        },
    }
}

fn events(range: std::ops::Range<u128>) -> Vec<Event> {
    range.map(|n| event(n, &format!("0/{n:06}"))).collect()
}

fn high(site: &Site, topic: &str) -> i64 {
    let asks = site.member("asks", &[]);
    asks.fetch_watermarks(topic, 0, LONG).unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_an_attempt_that_failed_is_written_later() {
    let site = Site::with("out", 1);
    let mut sink = KafkaSink::new(site.target(&[]), "out", Duration::from_secs(2)).unwrap();
    soon("open", sink.open()).await.unwrap();
    soon("write", sink.write(&events(0..3))).await.unwrap();
    site.cluster.broker_down(1).unwrap();
    let failed = soon("the attempt's end", sink.write(&events(3..6)))
        .await
        .unwrap_err();
    assert!(matches!(failed, SinkError::Retry { taken: 0, .. }), "{failed:?}");
    site.cluster.broker_up(1).unwrap();
    // Whatever was left would be sent now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(high(&site, "out"), 3);
    // And the next attempt writes it, once.
    soon("the next attempt", async {
        while sink.write(&events(3..6)).await.is_err() {}
    })
    .await;
    assert_eq!(site.all("out", 1), expected(1, 6));
}

/// What a producer does that is kept after an attempt was given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twin_a_producer_that_is_kept_writes_after_its_attempt_was_given_up() {
    let site = Site::with("out", 1);
    let producer: ThreadedProducer<DefaultProducerContext> = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", site.cluster.bootstrap_servers())
        .set("reconnect.backoff.max.ms", "1000")
        .create()
        .unwrap();
    let send = |payload: &str| {
        let record = BaseRecord::<(), _>::to("out").partition(0).payload(payload);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    };
    send("first");
    soon("the first", async {
        while high(&site, "out") < 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    site.cluster.broker_down(1).unwrap();
    send("second");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(producer.in_flight_count(), 1, "given up, and still there");
    site.cluster.broker_up(1).unwrap();
    soon("the write that nobody waits for", async {
        while high(&site, "out") < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_with_the_destination_down_is_proven_and_nothing_is_written_in_it() {
    let site = Site::with("in", 1);
    site.topic("out", 1);
    let there = Site::with("out", 1);
    site.fill("in", 1, 0, 10);
    let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
    let sink = KafkaSink::new(there.target(&[]), "out", Duration::from_secs(2)).unwrap();
    let stream = Running::start(source, sink, 64);
    stream.until("all moved", |s| s.events == 10).await;
    there.cluster.broker_down(1).unwrap();
    site.fill("in", 1, 10, 20);
    stream.until("an attempt is under way", |s| s.in_flight > 0).await;
    stream.paused().await;
    there.cluster.broker_up(1).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(stream.status().state, State::Paused);
    assert_eq!(high(&there, "out"), 10, "nothing was written in the pause");
    stream.resume();
    stream.until("the rest moved", |s| s.events == 20).await;
    stream.stop().await;
    assert_eq!(there.all("out", 1), expected(1, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_request_that_is_too_large_only_the_event_that_is_goes_to_the_dead_letter() {
    let site = Site::with("out", 1);
    let mut sink = KafkaSink::new(site.target(&[]), "out", Duration::from_secs(10)).unwrap();
    soon("open", sink.open()).await.unwrap();
    // The broker refuses a whole request, and then the second of those that go alone.
    site.cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        ],
    );
    let all = events(0..3);
    let refused = soon("the attempt", sink.write(&all)).await.unwrap_err();
    let SinkError::Reject { taken, why, .. } = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("max.message.bytes"), "{why}");
    let rest: Vec<Event> = all[taken + 1..].to_vec();
    soon("the rest", sink.write(&rest)).await.unwrap();
    assert_eq!(high(&site, "out"), 2, "each of the others once");
}
