//! A mock cluster, a board, and streams between the two.
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tidegate_gate::{Cause, Clock, Controller, Holds, Kind, Moment, Scope, State, StreamStatus, Wish};
use tidegate_runtime::{
    DeadLetters, KafkaConsumer, KafkaSource, KafkaTarget, Limits, Pipeline, Report, Sink, Source, drive,
    herald,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; only a hang meets it.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Whoever is not heard of for so long is put out of the group. The mock lets a first member wait for three seconds, and
/// a group that changes for a second less than its session.
pub(crate) const SHORT: &[(&str, &str)] = &[
    ("session.timeout.ms", "4000"),
    ("heartbeat.interval.ms", "500"),
    ("max.poll.interval.ms", "4000"),
];

pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LONG, wait).await {
        Ok(done) => done,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

pub(crate) struct Site {
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Site {
    /// One broker with a topic of so many partitions.
    pub(crate) fn with(topic: &str, partitions: i32) -> Site {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(topic, partitions, 1).unwrap();
        Site { cluster }
    }

    pub(crate) fn topic(&self, topic: &str, partitions: i32) {
        self.cluster.create_topic(topic, partitions, 1).unwrap();
    }

    pub(crate) fn target(&self, options: &[(&str, &str)]) -> KafkaTarget {
        KafkaTarget {
            brokers: vec![self.cluster.bootstrap_servers()],
            tls: false,
            auth: None,
            ca_file: None,
            client_cert: None,
            options: options
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    pub(crate) fn consumer(&self, topic: &str, group: &str, options: &[(&str, &str)]) -> KafkaConsumer {
        KafkaConsumer {
            target: self.target(options),
            group: group.into(),
            topics: vec![topic.into()],
            instance_id: None,
            prefetch: 1024,
            prefetch_bytes: 1 << 20,
            max_hold: None,
        }
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers());
        config
    }

    /// So many messages to each partition, named after their place: `partition/number`.
    pub(crate) fn fill(&self, topic: &str, partitions: i32, from: usize, to: usize) {
        let producer: BaseProducer = self.client().create().unwrap();
        for number in from..to {
            for partition in 0..partitions {
                let payload = format!("{partition}/{number:06}");
                let record = BaseRecord::<(), _>::to(topic)
                    .partition(partition)
                    .payload(&payload);
                producer.send(record).map_err(|(e, _)| e).unwrap();
            }
        }
        producer.flush(LONG).unwrap();
    }

    /// A plain member of a group, as any other program's.
    pub(crate) fn member(&self, group: &str, options: &[(&str, &str)]) -> BaseConsumer {
        let mut config = self.client();
        config.set("group.id", group).set("auto.offset.reset", "earliest");
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("enable.auto.commit", "false");
        for (name, value) in options {
            config.set(*name, *value);
        }
        config.create().unwrap()
    }

    /// Everything that is in a topic now, by partition.
    pub(crate) fn all(&self, topic: &str, partitions: i32) -> BTreeMap<i32, Vec<String>> {
        let reader = self.member("reader", &[]);
        let mut list = TopicPartitionList::new();
        let mut wanted = 0;
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)
                .unwrap();
            let (low, high) = reader.fetch_watermarks(topic, partition, LONG).unwrap();
            wanted += high - low;
        }
        reader.assign(&list).unwrap();
        let mut found: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for _ in 0..wanted {
            let message = reader.poll(LONG).unwrap().unwrap();
            let text = String::from_utf8(message.payload().unwrap_or_default().to_vec()).unwrap();
            found.entry(message.partition()).or_default().push(text);
        }
        found
    }

    /// What a group has committed, by partition.
    pub(crate) fn committed(&self, topic: &str, group: &str, partitions: i32) -> Vec<Option<i64>> {
        let asks = self.member(group, &[]);
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let answer = asks.committed_offsets(list, LONG).unwrap();
        let offset = |offset| match offset {
            Offset::Offset(n) => Some(n),
            _ => None,
        };
        answer.elements().iter().map(|e| offset(e.offset())).collect()
    }
}

/// What `partition/number` names from 0 on, for each partition.
pub(crate) fn expected(partitions: i32, to: usize) -> BTreeMap<i32, Vec<String>> {
    (0..partitions)
        .map(|p| (p, (0..to).map(|n| format!("{p}/{n:06}")).collect()))
        .collect()
}

/// A stream that runs, on a board of its own.
pub(crate) struct Running {
    pub(crate) holds: Arc<Holds>,
    stop: CancellationToken,
    task: JoinHandle<Report>,
    _herald: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(source: KafkaSource, sink: impl Sink, prefetch: usize) -> Running {
        Running::start_held(source, sink, prefetch, false)
    }

    /// Starts it, paused if that is wanted.
    pub(crate) fn start_held(source: impl Source, sink: impl Sink, prefetch: usize, held: bool) -> Running {
        let holds = Holds::new(Clock::new(|| Moment {
            wall: SystemTime::now(),
            mono: tokio::time::Instant::now().into_std(),
        }));
        let member = holds.register("s", Kind::Stream).unwrap();
        let stop = CancellationToken::new();
        let pipeline = Pipeline {
            source,
            stages: (),
            sink,
            dead_letters: DeadLetters::none(),
            limits: Limits {
                events: prefetch,
                bytes: 1 << 20,
                pace: None,
            },
        };
        let stopped = stop.clone();
        let running = Running {
            _herald: tokio::spawn(herald(holds.clone(), CancellationToken::new())),
            holds,
            stop,
            task: tokio::spawn(async move { drive(&member, pipeline, stopped).await }),
        };
        if held {
            running.pause();
        }
        running
    }

    pub(crate) fn pause(&self) {
        self.holds
            .place(&Controller::Api, Scope::All, Wish::default())
            .unwrap();
    }

    pub(crate) fn resume(&self) {
        self.holds
            .release(&Controller::Api, Scope::All, &Cause::default())
            .unwrap();
    }

    pub(crate) fn status(&self) -> StreamStatus {
        self.holds.snapshot().streams[0].clone()
    }

    pub(crate) async fn until(&self, what: &str, is: impl Fn(&StreamStatus) -> bool) -> StreamStatus {
        let end = tokio::time::Instant::now() + LONG;
        loop {
            let status = self.status();
            if is(&status) {
                return status;
            }
            assert!(
                tokio::time::Instant::now() < end,
                "waited in vain: {what}: {status:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Pauses and waits for the proof.
    pub(crate) async fn paused(&self) -> StreamStatus {
        self.pause();
        self.until("paused", |s| s.state == State::Paused).await
    }

    pub(crate) async fn stop(self) -> Report {
        self.stop.cancel();
        soon("the end", self.task).await.unwrap()
    }
}
