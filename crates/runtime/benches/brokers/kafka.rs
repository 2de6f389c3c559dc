//! Kafka, by a broker that is its own controller.
use crate::{Asked, BATCH, ROUNDS, Server, board, free_port, median, member, payload, report, stream};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, NoCustomPartitioner, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_runtime::{Supervisor, build};

/// More than of the others: a group takes its time to share.
const MESSAGES: usize = 500_000;
const FEW: usize = 2000;
const PARTITIONS: i32 = 8;
/// The client's own default, in milliseconds.
const LINGER: &str = "5";
const PATIENCE: Duration = Duration::from_secs(60);

/// Where `tests/peers/run.sh` puts the jars.
const JARS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/peers/.venv/kafka");

pub(crate) async fn measure(asked: &Asked) {
    let jars = std::env::var_os("TIDEGATE_KAFKA_JARS").map_or_else(|| JARS.into(), PathBuf::from);
    if !jars.is_dir() {
        println!(
            "kafka: NOT RUN: there are no jars of a broker in {}: `tests/peers/run.sh brokers` fetches them, or name their \
             folder in TIDEGATE_KAFKA_JARS",
            jars.display()
        );
        return;
    }
    let server = start(&jars).await;
    let broker = Broker {
        address: format!("127.0.0.1:{}", server.port),
    };
    broker.create("in", PARTITIONS).await;
    broker.fill("in", MESSAGES, 100).await;
    if asked.for_part("rate") {
        rate(&broker).await;
    }
    if asked.for_part("group") {
        group(&broker).await;
    }
    if asked.for_part("held") {
        for (size, what) in [(1 << 10, "1 KB"), (1_000_000, "1 MB")] {
            for partitions in [1, PARTITIONS] {
                let name = format!("held{size}of{partitions}");
                broker.create(&name, partitions).await;
                broker.fill(&name, ((128 << 20) / size).min(40_000), size).await;
                let mut source = broker.source(&name, "g");
                source["prefetch"] = BATCH.into();
                let what = format!(
                    "kafka, prefetch = 1024, prefetch_bytes = 8 MiB, messages of {what} in {partitions} partitions"
                );
                member::held(&what, source).await;
            }
        }
    }
}

fn java(jars: &Path, main: &str, args: &[&str]) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xmx1g", "-cp", &format!("{}/*", jars.display()), main])
        .args(args);
    command
}

async fn start(jars: &Path) -> Server {
    let dir = TempDir::new().unwrap();
    let (port, control) = (free_port(), free_port());
    let properties = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{control}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAIN\n\
         listeners=PLAIN://127.0.0.1:{port},CONTROLLER://127.0.0.1:{control}\n\
         listener.security.protocol.map=PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}/data\nauto.create.topics.enable=false\n\
         offsets.topic.num.partitions=1\noffsets.topic.replication.factor=1\n\
         transaction.state.log.num.partitions=1\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n",
        dir.path().display(),
    );
    std::fs::write(dir.path().join("server.properties"), properties).unwrap();
    let format = ["format", "-t", "tidegate-bench", "-c", "server.properties"];
    let mut format = java(jars, "kafka.tools.StorageTool", &format);
    format
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    assert!(format.status().unwrap().success(), "the storage is not formatted");
    let broker = java(jars, "kafka.Kafka", &["server.properties"]);
    Server::run(broker, dir, port).await
}

/// How many are not delivered yet.
#[derive(Clone, Default)]
struct Open(Arc<(Mutex<usize>, Condvar)>);

impl Open {
    fn sent(&self) {
        *self.0.0.lock().unwrap() += 1;
    }

    /// Waits until no more than so many are, one at most: the client's own `flush` looks only each 100 ms.
    fn until(&self, most: usize) {
        let open = self.0.0.lock().unwrap();
        let waited = self.0.1.wait_timeout_while(open, PATIENCE, |open| *open > most);
        assert!(!waited.unwrap().1.timed_out(), "not everything was delivered");
    }
}

impl ClientContext for Open {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ProducerContext for Open {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // What failed stays open, and is waited for in vain.
        let mut open = self.0.0.lock().unwrap();
        *open -= usize::from(result.is_ok());
        if *open <= 1 {
            self.0.1.notify_all();
        }
    }
}

type Sender = ThreadedProducer<Open, NoCustomPartitioner>;

#[derive(Clone)]
struct Broker {
    address: String,
}

impl Broker {
    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    fn consumer(&self, group: &str) -> BaseConsumer {
        let mut config = self.config();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest");
        config.create().unwrap()
    }

    fn producer(&self, linger: &str) -> (Sender, Open) {
        let mut config = self.config();
        config
            .set("enable.idempotence", "true")
            .set("linger.ms", linger)
            .set("message.max.bytes", "10000000");
        let open = Open::default();
        let producer = Sender::from_config_and_context(&config, open.clone()).unwrap();
        (producer, open)
    }

    async fn create(&self, topic: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for made in admin.create_topics([&new], &AdminOptions::new()).await.unwrap() {
            made.unwrap();
        }
    }

    async fn fill(&self, topic: &str, n: usize, size: usize) {
        let (broker, topic) = (self.clone(), topic.to_owned());
        blocking(move || {
            let asks: BaseConsumer = broker.config().create().unwrap();
            let found = asks.fetch_metadata(Some(&topic), PATIENCE).unwrap();
            let partitions = found.topics()[0].partitions().len();
            let (producer, open) = broker.producer(LINGER);
            for k in 0..n {
                let body = payload(k, size);
                let mut record = BaseRecord::<(), str>::to(&topic)
                    .partition((k % partitions) as i32)
                    .payload(&body);
                open.sent();
                while let Err((error, back)) = producer.send(record) {
                    assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull));
                    open.until(1);
                    record = back;
                }
            }
            open.until(0);
        })
        .await;
    }

    fn source(&self, topic: &str, group: &str) -> Value {
        json!({ "type": "kafka", "brokers": [self.address], "topics": [topic], "group": group })
    }

    fn sink(&self, topic: &str) -> Value {
        json!({ "type": "kafka", "brokers": [self.address], "topic": topic })
    }

    /// How many messages a topic has.
    async fn count(&self, asks: &Arc<BaseConsumer>, topic: &str) -> usize {
        let (asks, topic) = (asks.clone(), topic.to_owned());
        blocking(move || {
            let of = |partition| asks.fetch_watermarks(&topic, partition, PATIENCE).unwrap().1 as usize;
            (0..PARTITIONS).map(of).sum()
        })
        .await
    }

    /// How many messages a group is done with.
    async fn committed(&self, asks: &Arc<BaseConsumer>, topic: &str) -> usize {
        let (asks, topic) = (asks.clone(), topic.to_owned());
        blocking(move || {
            let mut all = TopicPartitionList::new();
            all.add_partition_range(&topic, 0, PARTITIONS - 1);
            let told = asks.committed_offsets(all, PATIENCE).unwrap();
            let of = |offset| match offset {
                Offset::Offset(offset) => offset as usize,
                _ => 0,
            };
            told.elements().iter().map(|element| of(element.offset())).sum()
        })
        .await
    }

    /// Whether so many members have an equal share of a topic each.
    async fn shared(&self, asks: &Arc<BaseConsumer>, group: &str, topic: &str, members: usize) -> bool {
        // An assignment begins with a version, how many topics, and the first one's name and how many of it.
        let at = 2 + 4 + 2 + topic.len();
        let (asks, group) = (asks.clone(), group.to_owned());
        blocking(move || {
            let groups = asks.fetch_group_list(Some(&group), PATIENCE).unwrap();
            let Some(found) = groups.groups().iter().find(|found| found.name() == group) else {
                return false;
            };
            let share = |assigned: &[u8]| {
                let count = assigned.get(at..at + 4)?;
                Some(u32::from_be_bytes(count.try_into().ok()?) as usize)
            };
            found.state() == "Stable"
                && found.members().len() == members
                && found
                    .members()
                    .iter()
                    .all(|member| member.assignment().and_then(share) == Some(PARTITIONS as usize / members))
        })
        .await
    }
}

/// Asks a client that can only wait for its answer.
async fn blocking<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(ask).await.unwrap()
}

/// Both are counted from when the first message is there: until then a group shares, which takes as long as it takes.
async fn rate(broker: &Broker) {
    let (mut lingering, mut prompt, mut all, mut small) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (rates, linger) in [(&mut lingering, LINGER), (&mut prompt, "0")] {
            let out = format!("plain{round}after{linger}");
            broker.create(&out, PARTITIONS).await;
            let one = broker.clone();
            rates.push(blocking(move || plain(&one, &out, linger)).await);
        }
        // The plain loop has a batch at work and the next one on its way.
        for (rates, prefetch) in [(&mut all, 2 * BATCH), (&mut small, BATCH)] {
            let out = format!("ours{round}with{prefetch}");
            broker.create(&out, PARTITIONS).await;
            rates.push(ours(broker, &out, prefetch).await);
        }
    }
    let what = format!("kafka → kafka, {MESSAGES} messages of 100 bytes in {PARTITIONS} partitions");
    report(&format!("{what}: plain client"), &lingering, &all);
    report(&format!("{what}: plain client with linger.ms = 0"), &prompt, &all);
    report(
        &format!("{what}, prefetch = {BATCH}: plain client with linger.ms = 0"),
        &prompt,
        &small,
    );
}

async fn ours(broker: &Broker, out: &str, prefetch: usize) -> f64 {
    let holds = board();
    let mut source = broker.source("in", out);
    source["prefetch"] = prefetch.into();
    let stream = stream(&source, &broker.sink(out));
    let supervisor = Supervisor::spawn(holds.clone(), vec![build(&stream, &holds, None).unwrap()]);
    let through = || holds.snapshot().streams[0].events as usize;
    let mut first = None;
    while through() < MESSAGES {
        if through() > 0 {
            first.get_or_insert_with(|| (Instant::now(), through()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (started, before) = first.unwrap();
    let rate = (MESSAGES - before) as f64 / started.elapsed().as_secs_f64();
    supervisor.stop(Duration::from_secs(10)).await;
    let asks = Arc::new(broker.consumer(out));
    assert_eq!(broker.count(&asks, out).await, MESSAGES);
    assert_eq!(broker.committed(&asks, "in").await, MESSAGES);
    rate
}

/// The client's own loop: a batch is read and sent on, its answers are awaited, and the group is told.
fn plain(broker: &Broker, out: &str, linger: &str) -> f64 {
    let consumer = broker.consumer(out);
    let (producer, open) = broker.producer(linger);
    consumer.subscribe(&["in"]).unwrap();
    let mut started = None;
    let mut done = 0;
    while done < MESSAGES {
        let mut batch = 0;
        while batch < BATCH {
            let patience = match batch {
                0 => Duration::from_millis(100),
                _ => Duration::ZERO,
            };
            let Some(message) = consumer.poll(patience) else {
                break;
            };
            let message = match message {
                Ok(message) => message,
                Err(KafkaError::MessageConsumption(code)) => panic!("{code}"),
                Err(_) => continue,
            };
            started.get_or_insert_with(Instant::now);
            let record = BaseRecord::<(), [u8]>::to(out)
                .partition(message.partition())
                .payload(message.payload().unwrap());
            open.sent();
            producer.send(record).map_err(|(error, _)| error).unwrap();
            batch += 1;
        }
        if batch > 0 {
            open.until(0);
            consumer.commit_consumer_state(CommitMode::Sync).unwrap();
            done += batch;
        }
    }
    MESSAGES as f64 / started.unwrap().elapsed().as_secs_f64()
}

/// One process and four of one group: once bound by the processor, once by a sink that takes its time.
async fn group(broker: &Broker) {
    let (mut fast, mut slow) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let endpoint = member::endpoint(Duration::from_millis(2)).await;
    broker.create("few", PARTITIONS).await;
    broker.fill("few", FEW, 100).await;
    for round in 0..3 {
        for (which, processes) in [1, 4].into_iter().enumerate() {
            let group = format!("fast{round}of{processes}");
            broker.create(&group, PARTITIONS).await;
            let asks = Arc::new(broker.consumer(&group));
            let (source, sink) = (broker.source("in", &group), broker.sink(&group));
            let shared = async || broker.shared(&asks, &group, "in", processes).await;
            let done = async || {
                // Each look is a request for each partition to the server that is being measured.
                tokio::time::sleep(Duration::from_millis(50)).await;
                broker.count(&asks, &group).await
            };
            fast[which]
                .push(member::rate_once_shared(processes, MESSAGES, &source, &sink, shared, done).await);

            let group = format!("slow{round}of{processes}");
            let asks = Arc::new(broker.consumer(&group));
            let mut source = broker.source("few", &group);
            source["prefetch"] = 64.into();
            let sink = json!({ "type": "http", "url": endpoint });
            let shared = async || broker.shared(&asks, &group, "few", processes).await;
            let done = async || broker.committed(&asks, "few").await;
            slow[which].push(member::rate_once_shared(processes, FEW, &source, &sink, shared, done).await);
        }
    }
    for (what, [one, four]) in [("kafka → kafka", fast), ("kafka → an HTTP sink of 2 ms", slow)] {
        let (one, four) = (median(one), median(four));
        println!(
            "{what}: one process {one:.0}/s, four of one group {four:.0}/s, {:.2} times",
            four / one
        );
    }
}
