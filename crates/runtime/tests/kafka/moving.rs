//! Events move, in their order, and offsets follow them.
use crate::site::{Running, SHORT, Site, expected};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tidegate_runtime::{Event, KafkaSink, KafkaSource, MemorySink, Sink, SinkError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_move_from_topic_to_topic_in_the_order_of_each_partition() {
    let site = Site::with("in", 4);
    site.topic("out", 4);
    site.fill("in", 4, 0, 500);
    let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
    let sink = KafkaSink::new(site.target(&[]), "out", Duration::from_secs(10)).unwrap();
    let stream = Running::start(source, sink, 1024);
    stream.until("all moved", |s| s.events == 2000).await;
    stream.stop().await;
    assert_eq!(site.all("out", 4), expected(4, 500));
    assert_eq!(site.committed("in", "g", 4), [Some(500); 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_not_read_again_by_the_next_process_and_the_rest_is() {
    let site = Site::with("in", 2);
    site.fill("in", 2, 0, 100);
    let first = MemorySink::new();
    let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
    let stream = Running::start(source, first.clone(), 64);
    stream.until("all moved", |s| s.events == 200).await;
    stream.paused().await;
    site.fill("in", 2, 100, 150);
    stream.until("some are held", |s| s.held.events >= 64).await;
    let report = stream.stop().await;
    assert!(report.given_back >= 64, "{report:?}");
    assert_eq!(first.events().len(), 200);

    let second = MemorySink::new();
    let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
    let stream = Running::start(source, second.clone(), 64);
    stream.until("the rest moved", |s| s.events == 100).await;
    stream.stop().await;
    let mut payloads: Vec<_> = second.events().into_iter().map(|e| e.payload).collect();
    payloads.sort();
    payloads.dedup();
    assert_eq!(payloads.len(), 100, "each once");
    assert_eq!(payloads[0], "0/000100");
}

/// Takes nothing until it may.
struct Shut {
    may: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
    then: MemorySink,
}

impl Sink for Shut {
    fn describe(&self) -> Arc<str> {
        "shut".into()
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        self.asked.store(true, SeqCst);
        match self.may.load(SeqCst) {
            true => self.then.write(events).await,
            false => Err(SinkError::retry("shut")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_offset_is_committed_before_the_sink_has_what_is_before_it() {
    let site = Site::with("in", 2);
    site.fill("in", 2, 0, 100);
    let (may, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let sink = Shut {
        may: may.clone(),
        asked: asked.clone(),
        then: MemorySink::new(),
    };
    let source = KafkaSource::new(site.consumer("in", "g", SHORT)).unwrap();
    let stream = Running::start(source, sink, 64);
    stream.until("an attempt", |_| asked.load(SeqCst)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(site.committed("in", "g", 2), [None, None]);
    may.store(true, SeqCst);
    stream.until("all moved", |s| s.events == 200).await;
    assert_eq!(site.committed("in", "g", 2), [Some(100), Some(100)]);
    stream.stop().await;
}
