//! What is wrong is said, is tried again for ever, and keeps no pause from being proven.
use crate::site::{Running, SHORT, Site};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::time::Duration;
use tidegate_gate::{Life, State, StreamStatus};
use tidegate_runtime::{KafkaSink, KafkaSource, MemorySink};

fn says(status: &StreamStatus, what: &str) -> bool {
    matches!(&status.life, Life::Retrying { error, .. } if error.contains(what))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_are_down_at_the_start_are_waited_for() {
    let site = Site::with("in", 1);
    site.fill("in", 1, 0, 10);
    site.cluster.broker_down(1).unwrap();
    let sink = MemorySink::new();
    let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
    let stream = Running::start(source, sink.clone(), 64);
    stream
        .until("it is said", |s| {
            says(s, "kafka in/g: cannot reach any of 127.0.0.1:")
        })
        .await;
    stream.paused().await;
    site.cluster.broker_up(1).unwrap();
    stream.until("it is well again", |s| s.life == Life::Up).await;
    assert_eq!(sink.events().len(), 0);
    stream.resume();
    stream.until("all moved", |s| s.events == 10).await;
    stream.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_go_and_come_back_cost_no_event_and_repeat_none() {
    let site = Site::with("in", 2);
    site.fill("in", 2, 0, 20);
    let sink = MemorySink::new();
    let source = KafkaSource::new(site.consumer("in", "g", &[("session.timeout.ms", "20000")])).unwrap();
    let stream = Running::start(source, sink.clone(), 64);
    stream.until("all moved", |s| s.events == 40).await;
    site.cluster.broker_down(1).unwrap();
    stream
        .until("it is said", |s| says(s, "cannot reach any of"))
        .await;
    site.cluster.broker_up(1).unwrap();
    stream.until("it is well again", |s| s.life == Life::Up).await;
    site.fill("in", 2, 20, 40);
    stream.until("the rest moved", |s| s.events == 80).await;
    stream.stop().await;
    assert_eq!(sink.events().len(), 80, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_there_or_not_ours_to_read_is_named() {
    for (error, text) in [
        (
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
            "there is no topic \"in\"",
        ),
        (
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            "not allowed to read in",
        ),
    ] {
        let site = Site::with("in", 1);
        site.cluster.topic_error("in", error).unwrap();
        let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
        let stream = Running::start(source, MemorySink::new(), 64);
        stream.until(text, |s| says(s, text)).await;
        let status = stream.paused().await;
        assert_eq!(status.state, State::Paused);
        stream.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_lets_nobody_in_is_named() {
    let site = Site::with("in", 1);
    site.cluster.request_errors(
        RDKafkaApiKey::JoinGroup,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED; 50],
    );
    let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
    let stream = Running::start(source, MemorySink::new(), 64);
    let text = "not allowed to join the group \"g\"";
    stream.until(text, |s| says(s, text)).await;
    stream.paused().await;
    stream.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_ours_to_write_is_named() {
    let site = Site::with("in", 1);
    let there = Site::with("out", 1);
    there
        .cluster
        .topic_error(
            "out",
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        )
        .unwrap();
    let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
    let sink = KafkaSink::new(there.target(&[]), "out", Duration::from_secs(3)).unwrap();
    let stream = Running::start(source, sink, 64);
    let text = "not allowed to write to topic \"out\"";
    stream.until(text, |s| says(s, text)).await;
    stream.paused().await;
    stream.stop().await;
}
