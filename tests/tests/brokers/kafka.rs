//! Kafka, by a broker of Apache Kafka that is its own controller (KRaft).
use crate::link::Link;
use crate::post::Post;
use crate::scenes::{self, Broker, Rival, error_of, http};
use crate::server::{Server, free_port};
use crate::site::{Site, eventually, field};
use crate::tally::Tally;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{FromClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer,
};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The jars of the broker, as `tests/peers/run.sh` fetches them.
const JARS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/.venv/kafka");

/// Numbers go to the partition that they are modulo this.
pub(crate) const PARTITIONS: usize = 8;

/// The partitions of the topic that the sink writes to.
pub(crate) const SUNK: usize = 3;

const PATIENCE: Duration = e2e::PATIENCE;

pub(crate) struct Kafka {
    pub(crate) server: Server,
    link: Link,
    /// The ways to the listeners that only some tests have, by their names.
    pub(crate) more: BTreeMap<&'static str, Link>,
    /// How to log in, if that is necessary.
    login: Vec<(&'static str, &'static str)>,
    dir: TempDir,
}

/// What a broker has that most tests do not need.
#[derive(Default)]
pub(crate) struct More<'a> {
    /// Listeners and their protocols.
    pub(crate) listeners: &'a [(&'static str, &'a str)],
    /// Users of SCRAM, in the words of `StorageTool --add-scram`.
    pub(crate) users: &'a [&'a str],
}

/// The arguments of a small virtual machine that runs one of the jars' programs.
fn java(main: &str, args: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]
        .map(String::from)
        .into();
    all.push(format!("{JARS}/*"));
    all.push(main.to_owned());
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    all
}

/// Runs one of the jars' programs to its end.
pub(crate) async fn run(main: &str, args: &[&str]) {
    let mut command = tokio::process::Command::new("java");
    command.args(java(main, args)).stdin(Stdio::null());
    let ended = command.output().await.expect("tests/peers/run.sh installs java");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{main}: {said}; are the jars in {JARS}?");
}

impl Kafka {
    /// With more settings of the broker. A client has to log in with these options, if there are any.
    async fn with(settings: &str, login: Vec<(&'static str, &'static str)>) -> Kafka {
        Kafka::and(More::default(), settings, login).await
    }

    /// The same, and more.
    pub(crate) async fn and(
        more: More<'_>,
        settings: &str,
        login: Vec<(&'static str, &'static str)>,
    ) -> Kafka {
        let dir = TempDir::new().unwrap();
        let (port, linked, control) = (free_port(), free_port(), free_port());
        // A broker tells its clients where it is, so one that is behind a link has to know of the link.
        let link = Link::to((Ipv4Addr::LOCALHOST, linked).into()).await;
        let mut links = BTreeMap::new();
        let (mut listeners, mut advertised, mut protocols) = (String::new(), String::new(), String::new());
        for (name, protocol) in more.listeners {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            let link = Link::to(at).await;
            listeners += &format!(",{name}://{at}");
            advertised += &format!(",{name}://{}", link.address);
            protocols += &format!(",{name}:{protocol}");
            links.insert(*name, link);
        }
        let properties = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{control}\n\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAIN\n\
             listeners=PLAIN://127.0.0.1:{port},LINK://127.0.0.1:{linked},CONTROLLER://127.0.0.1:{control}{listeners}\n\
             advertised.listeners=PLAIN://127.0.0.1:{port},LINK://{}{advertised}\n\
             log.dirs={}/data\nnum.partitions=1\nauto.create.topics.enable=false\n\
             offsets.topic.num.partitions=1\noffsets.topic.replication.factor=1\n\
             transaction.state.log.num.partitions=1\ntransaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n\
             {settings}\n",
            link.address,
            dir.path().display(),
        );
        let properties = match settings.contains("listener.security.protocol.map") {
            true => properties,
            false => format!(
                "{properties}listener.security.protocol.map=PLAIN:PLAINTEXT,LINK:PLAINTEXT,\
                 CONTROLLER:PLAINTEXT{protocols}\n"
            ),
        };
        let path = dir.path().join("server.properties");
        std::fs::write(&path, properties).unwrap();
        let path = path.to_str().unwrap();
        let mut format = vec!["format", "-t", "tidegate-peer", "-c", path];
        format.extend(more.users.iter().flat_map(|user| ["--add-scram", user]));
        run("kafka.tools.StorageTool", &format).await;
        let args = java("kafka.Kafka", &[path]);
        let server = Server::start("java", args, dir.path().to_owned(), port).await;
        let kafka = Kafka {
            server,
            link,
            more: links,
            login,
            dir,
        };
        kafka.ready().await;
        kafka
    }

    /// A client of these options and those that are necessary here.
    fn client<T: FromClientConfig + Send + 'static>(&self, options: &[(&str, &str)]) -> T {
        self.config(options).create().unwrap()
    }

    fn config(&self, options: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.server.address.to_string());
        for (name, value) in self.login.iter().chain(options) {
            config.set(*name, *value);
        }
        config
    }

    /// Waits until it answers.
    async fn ready(&self) {
        let asks: Arc<BaseConsumer> = Arc::new(self.client(&[("log_level", "0")]));
        eventually("the broker answers", async || {
            let asks = asks.clone();
            blocking(move || asks.fetch_metadata(None, Duration::from_secs(2)).is_ok()).await
        })
        .await;
    }

    pub(crate) async fn create(&self, topic: &str, partitions: usize) {
        self.create_with(topic, partitions, &[]).await;
    }

    async fn create_with(&self, topic: &str, partitions: usize, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.client(&[]);
        let mut new = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        for made in admin.create_topics([&new], &AdminOptions::new()).await.unwrap() {
            made.unwrap();
        }
        // Its leaders are told a moment later.
        let asks: Arc<BaseConsumer> = Arc::new(self.client(&[]));
        let topic = topic.to_owned();
        eventually("the topic is there", async || {
            let (asks, topic) = (asks.clone(), topic.clone());
            blocking(move || {
                let found = asks.fetch_metadata(Some(&topic), PATIENCE).unwrap();
                let found = &found.topics()[0];
                found.error().is_none() && found.partitions().iter().all(|p| p.error().is_none())
            })
            .await
        })
        .await;
    }

    /// A plain client of the group that has joined and has its share.
    async fn member(&self, options: &[(&str, &str)]) -> Member {
        let mut all = vec![
            ("group.id", "tidegate"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("auto.offset.reset", "earliest"),
            ("enable.auto.commit", "false"),
            ("session.timeout.ms", "6000"),
        ];
        all.extend_from_slice(options);
        let consumer: BaseConsumer = self.client(&all);
        consumer.subscribe(&["orders"]).unwrap();
        let mut member = Member {
            consumer,
            first: BTreeSet::new(),
            early: VecDeque::new(),
        };
        eventually("the rival has a share", async || {
            if let Some(got) = member.poll() {
                member.early.push_back(got);
            }
            member.first = member.share();
            !member.first.is_empty()
        })
        .await;
        member
    }

    /// The members of the group and their partitions, once it is stable.
    async fn members(&self) -> Option<BTreeMap<String, Vec<i32>>> {
        let asks: BaseConsumer = self.client(&[]);
        blocking(move || {
            let groups = asks.fetch_group_list(Some("tidegate"), PATIENCE).ok()?;
            let group = groups.groups().iter().find(|group| group.name() == "tidegate")?;
            let members = group.members().iter();
            (group.state() == "Stable").then(|| {
                members
                    .map(|m| (m.id().to_owned(), partitions(m.assignment().unwrap_or_default())))
                    .collect()
            })
        })
        .await
    }

    /// The generation that the group's coordinator has last made, by its own log.
    fn generation(&self) -> Option<u64> {
        let log = std::fs::read_to_string(self.dir.path().join("server.log")).unwrap();
        let made = log.lines().rev().find_map(|line| {
            let (_, rest) = line.split_once("Stabilized group tidegate generation ")?;
            rest.split(' ').next()
        })?;
        Some(made.parse().unwrap())
    }
}

/// The partitions in a member's assignment: a version, then topics, each a name and a list of numbers.
fn partitions(assignment: &[u8]) -> Vec<i32> {
    let mut rest = assignment;
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at_checked(n)?;
        rest = left;
        Some(taken)
    };
    let mut read = || -> Option<Vec<i32>> {
        let mut all = Vec::new();
        take(2)?;
        for _ in 0..u32::from_be_bytes(take(4)?.try_into().ok()?) {
            let name = u16::from_be_bytes(take(2)?.try_into().ok()?);
            take(name.into())?;
            for _ in 0..u32::from_be_bytes(take(4)?.try_into().ok()?) {
                all.push(i32::from_be_bytes(take(4)?.try_into().ok()?));
            }
        }
        Some(all)
    };
    read().unwrap_or_default()
}

/// Asks a client that can only wait for its answer.
async fn blocking<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(ask).await.unwrap()
}

type Got = (i32, i64, String);

/// A plain consumer. Whoever has one has to ask it for messages now and then.
pub(crate) struct Member {
    consumer: BaseConsumer,
    /// The partitions that it had when it had joined.
    first: BTreeSet<i32>,
    /// What came before anybody asked.
    early: VecDeque<Got>,
}

impl Member {
    fn share(&self) -> BTreeSet<i32> {
        let share = self.consumer.assignment().unwrap();
        share
            .elements()
            .iter()
            .map(|element| element.partition())
            .collect()
    }

    /// A message that is there, if one is.
    fn poll(&self) -> Option<Got> {
        let got = |m: BorrowedMessage<'_>| {
            let body = String::from_utf8(m.payload().unwrap_or_default().to_vec()).unwrap();
            (m.partition(), m.offset(), body)
        };
        // A broker that is away for a moment is no message.
        self.consumer.poll(Duration::ZERO)?.ok().map(got)
    }

    /// Up to so many messages, after a moment without one.
    async fn next(&mut self, most: usize) -> Vec<Got> {
        let mut all = Vec::new();
        let mut last = Instant::now();
        while all.len() < most && last.elapsed() < Duration::from_millis(50) {
            match self.early.pop_front().or_else(|| self.poll()) {
                Some(got) => {
                    all.push(got);
                    last = Instant::now();
                }
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        all
    }
}

impl Rival for Member {
    async fn take(&mut self, most: usize) -> (Vec<String>, usize) {
        let got = self.next(most).await;
        let mut done = TopicPartitionList::new();
        for (partition, offset, _) in &got {
            let next = Offset::Offset(offset + 1);
            let already = done.find_partition("orders", *partition).is_some();
            match already {
                true => done.set_partition_offset("orders", *partition, next).unwrap(),
                false => done.add_partition_offset("orders", *partition, next).unwrap(),
            }
        }
        if !got.is_empty() {
            self.consumer.commit(&done, CommitMode::Sync).unwrap();
        }
        let again = got
            .iter()
            .filter(|(partition, ..)| !self.first.contains(partition));
        (got.iter().map(|(.., body)| body.clone()).collect(), again.count())
    }
}

/// Counts the messages that a producer could not deliver.
#[derive(Clone, Default)]
struct Failed(Arc<AtomicUsize>);

impl ClientContext for Failed {}

impl ProducerContext for Failed {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.fetch_add(usize::from(result.is_err()), SeqCst);
    }
}

impl Broker for Kafka {
    const NAME: &'static str = "kafka";
    // The least that a broker allows by default for both: silence of the member, and of who asks it for messages.
    const LEASE: Duration = Duration::from_secs(6);
    const SEQUENCES: usize = PARTITIONS;
    type Rival = Member;

    async fn start() -> Kafka {
        let kafka = Kafka::with("", Vec::new()).await;
        kafka.create("orders", PARTITIONS).await;
        kafka.create("done", SUNK).await;
        kafka
    }

    fn address(&self) -> SocketAddr {
        self.server.address
    }

    async fn link(&self) -> Link {
        self.link.clone()
    }

    async fn kill(&mut self) {
        self.server.kill().await;
    }

    async fn start_again(&mut self) {
        self.server.start_again().await;
        self.ready().await;
    }

    fn source(&self, at: SocketAddr, options: &str) -> String {
        format!(
            "type = \"kafka\"\nbrokers = [\"{at}\"]\ngroup = \"tidegate\"\ntopics = [\"orders\"]\n{options}\n\
             options = {{ \"session.timeout.ms\" = \"6000\", \"max.poll.interval.ms\" = \"6000\" }}"
        )
    }

    fn sink(&self, at: SocketAddr) -> String {
        format!("type = \"kafka\"\nbrokers = [\"{at}\"]\ntopic = \"done\"")
    }

    async fn produce(&self, numbers: std::ops::Range<usize>) {
        let config = self.config(&[("enable.idempotence", "true")]);
        let failed = Failed::default();
        let counts = failed.clone();
        blocking(move || {
            let producer: ThreadedProducer<Failed, NoCustomPartitioner> =
                ThreadedProducer::from_config_and_context(&config, counts).unwrap();
            for n in numbers {
                let body = n.to_string();
                let record = BaseRecord::<(), str>::to("orders")
                    .partition((n % PARTITIONS) as i32)
                    .payload(&body);
                producer.send(record).map_err(|(error, _)| error).unwrap();
            }
            producer.flush(PATIENCE).unwrap();
        })
        .await;
        assert_eq!(failed.0.load(SeqCst), 0, "not everything was produced");
    }

    async fn rival(&self) -> Member {
        self.member(&[]).await
    }

    async fn shared_by(&self, members: usize) {
        eventually("all members have their share", async || {
            let Some(all) = self.members().await else {
                return false;
            };
            let shares: Vec<usize> = all.values().map(Vec::len).collect();
            shares.len() == members
                && shares.iter().sum::<usize>() == PARTITIONS
                && shares
                    .iter()
                    .all(|n| (PARTITIONS / members..=PARTITIONS.div_ceil(members)).contains(n))
        })
        .await;
    }

    async fn shares(&self) -> String {
        let generation = self.generation();
        assert!(generation.is_some(), "the coordinator's log names no generation");
        format!("generation {generation:?}: {:?}", self.members().await)
    }

    async fn left(&self) -> usize {
        let asks: BaseConsumer = self.client(&[("group.id", "tidegate")]);
        blocking(move || {
            let mut all = TopicPartitionList::new();
            all.add_partition_range("orders", 0, PARTITIONS as i32 - 1);
            let Ok(committed) = asks.committed_offsets(all, PATIENCE) else {
                return usize::MAX;
            };
            let of = |partition: i32, offset| {
                let (first, end) = asks.fetch_watermarks("orders", partition, PATIENCE).unwrap();
                let from = match offset {
                    Offset::Offset(offset) => offset,
                    _ => first,
                };
                usize::try_from(end - from).unwrap()
            };
            let all = committed.elements();
            all.iter().map(|e| of(e.partition(), e.offset())).sum()
        })
        .await
    }

    async fn sunk(&self) -> Vec<String> {
        let asks: BaseConsumer = self.client(&[("group.id", "reader"), ("enable.auto.commit", "false")]);
        blocking(move || {
            let mut from = TopicPartitionList::new();
            let mut there = 0;
            for partition in 0..SUNK as i32 {
                let (_, end) = asks.fetch_watermarks("done", partition, PATIENCE).unwrap();
                there += usize::try_from(end).unwrap();
                from.add_partition_offset("done", partition, Offset::Beginning)
                    .unwrap();
            }
            asks.assign(&from).unwrap();
            let mut all = Vec::new();
            while all.len() < there {
                let message = asks.poll(PATIENCE).expect("what is there comes").unwrap();
                all.push(String::from_utf8(message.payload().unwrap().to_vec()).unwrap());
            }
            all
        })
        .await
    }
}

/// Two plain members of a group, each with its half.
async fn two_members(kafka: &Kafka, options: &[(&str, &str)]) -> (Member, Member) {
    let mut one = kafka.member(options).await;
    let asking = async {
        loop {
            one.early.extend(one.poll());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut other = tokio::select! {
        other = kafka.member(&[]) => other,
        () = asking => unreachable!(),
    };
    eventually("both have their half", async || {
        one.early.extend(one.poll());
        other.early.extend(other.poll());
        [&one, &other].iter().all(|m| m.share().len() == PARTITIONS / 2)
            && kafka.members().await.is_some_and(|all| all.len() == 2)
    })
    .await;
    (one.first, other.first) = (one.share(), other.share());
    (one, other)
}

#[tokio::test]
async fn kafka_twin_a_source_that_asks_for_nothing_in_a_pause_loses_its_partitions() {
    let kafka = Kafka::start().await;
    let (mut one, mut rival) = two_members(&kafka, &[("max.poll.interval.ms", "6000")]).await;
    kafka.produce(0..200).await;
    let mut held = 0;
    eventually("messages are held", async || {
        held += one.next(100).await.len();
        held >= 50
    })
    .await;
    let shares = kafka.shares().await;
    let mut again = 0;
    eventually("what is held is handed out again", async || {
        again += rival.take(200).await.1;
        again > 0
    })
    .await;
    assert_ne!(kafka.shares().await, shares);
}

#[tokio::test]
async fn kafka_twin_a_pause_that_is_not_repeated_after_a_rebalance_lets_events_through() {
    let kafka = Kafka::start().await;
    let (mut one, rival) = two_members(&kafka, &[]).await;
    one.consumer.pause(&one.consumer.assignment().unwrap()).unwrap();
    kafka.produce(0..200).await;
    assert!(one.next(200).await.is_empty(), "paused, and messages come");
    drop(rival);
    let mut moved = 0;
    eventually("messages come through the pause", async || {
        moved += one.next(200).await.len();
        moved > 0
    })
    .await;
}

/// One member is there when the pause begins and leaves, another joins and leaves: partitions come and go all the while.
#[tokio::test]
async fn kafka_members_that_join_and_leave_in_a_pause_move_nothing() {
    let kafka = Kafka::start().await;
    let site = Site::new();
    let post = Post::start(Duration::from_millis(2)).await;
    let source = kafka.source(kafka.address(), "prefetch = 300");
    let sidecar = site.sidecar("one", &source, &http(&post)).await;
    kafka.shared_by(1).await;
    let early = kafka.rival().await;
    kafka.shared_by(2).await;
    kafka.produce(0..2000).await;
    eventually("events arrive", async || post.count() > 50).await;
    site.flip(&[&sidecar], true).await;
    let at_pause = post.count();
    assert!(field(&sidecar, "held").await.as_u64().unwrap() >= 50);
    let mut generations = BTreeSet::from([kafka.generation()]);
    drop(early);
    kafka.shared_by(1).await;
    generations.insert(kafka.generation());
    let late = kafka.rival().await;
    kafka.shared_by(2).await;
    generations.insert(kafka.generation());
    drop(late);
    kafka.shared_by(1).await;
    generations.insert(kafka.generation());
    assert_eq!(
        generations.len(),
        4,
        "the group did not share anew: {generations:?}"
    );
    // Long enough for what was assigned to arrive, and for the group to miss a member that does not ask.
    tokio::time::sleep(Kafka::LEASE + Kafka::LEASE / 2).await;
    assert_eq!(Some(&kafka.generation()), generations.last());
    assert_eq!(post.count(), at_pause, "something moved while paused");
    assert_eq!(field(&sidecar, "state").await, "paused");
    post.set_delay(Duration::ZERO);
    site.flip(&[&sidecar], false).await;
    eventually("everything is through", async || post.count() >= 2000).await;
    eventually("everything is acknowledged", async || kafka.left().await == 0).await;
    let tally = Tally::of(post.seen().iter().map(String::as_str));
    assert_eq!((tally.lost(2000), tally.repeated()), (0, 0));
    eprintln!(
        "kafka: members joined and left in a pause (generations {:?} to {:?}): 0 moved while paused, 0 lost, 0 repeated",
        generations.first().unwrap().unwrap(),
        generations.last().unwrap().unwrap(),
    );
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn kafka_a_restart_under_a_name_that_stays_is_not_noticed_by_the_group() {
    let kafka = Kafka::start().await;
    let site = Site::new();
    let post = Post::start(Duration::from_millis(1)).await;
    let source = kafka.source(kafka.address(), "instance_id = \"one\"");
    let sidecar = site.sidecar("one", &source, &http(&post)).await;
    kafka.shared_by(1).await;
    let mut rival = kafka.rival().await;
    kafka.shared_by(2).await;
    let generation = kafka.generation();
    kafka.produce(0..1000).await;
    eventually("events arrive", async || post.count() > 50).await;
    sidecar.stop().await.unwrap();
    let at_stop = post.count();
    let sidecar = site.sidecar("one", &source, &http(&post)).await;
    let mut got = Vec::new();
    eventually("everything is through", async || {
        got.extend(rival.take(100).await.0);
        post.count() + got.len() >= 1000
    })
    .await;
    assert!(post.count() > at_stop, "the restarted one got nothing");
    eventually("everything is acknowledged", async || kafka.left().await == 0).await;
    let seen = post.seen();
    let tally = Tally::of(seen.iter().chain(&got).map(String::as_str));
    assert_eq!((tally.lost(1000), tally.repeated()), (0, 0));
    assert_eq!(kafka.generation(), generation, "the group shared anew");
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn kafka_a_long_pause_is_not_noticed_by_the_group() {
    scenes::long_pause::<Kafka>().await;
}

#[tokio::test]
async fn kafka_what_is_held_too_long_is_given_back_and_arrives_once() {
    scenes::beyond_the_lease::<Kafka>().await;
}

#[tokio::test]
async fn kafka_kills_of_sidecar_broker_and_link_lose_nothing() {
    scenes::chaos::<Kafka>().await;
}

#[tokio::test]
async fn kafka_one_flip_pauses_a_whole_group() {
    scenes::scale_out::<Kafka>().await;
}

#[tokio::test]
async fn kafka_to_kafka_keeps_the_order_of_each_partition_and_repeats_nothing() {
    scenes::broker_to_broker::<Kafka>().await;
}

#[tokio::test]
async fn kafka_a_sink_that_refuses_for_ever_stops_the_stream_and_not_the_controls() {
    scenes::refused_for_ever::<Kafka>().await;
}

#[tokio::test]
async fn kafka_an_event_that_the_sink_refuses_goes_to_the_dead_letter_with_the_reason() {
    scenes::poison::<Kafka>().await;
}

#[tokio::test]
async fn kafka_a_broker_that_is_down_at_the_start_is_waited_for() {
    scenes::down_at_start::<Kafka>().await;
}

#[tokio::test]
async fn kafka_an_event_over_the_topics_limit_goes_to_the_dead_letter() {
    let kafka = Kafka::with("", Vec::new()).await;
    kafka
        .create_with("done", SUNK, &[("max.message.bytes", "100000")])
        .await;
    let site = Site::new();
    let input = site.path("in");
    std::fs::write(&input, format!("1\n\"{}\"\n2\n", "x".repeat(200_000))).unwrap();
    let source = format!("type = \"file\"\nfollow = true\npath = \"{}\"", input.display());
    let sidecar = site.sidecar("one", &source, &kafka.sink(kafka.address())).await;
    eventually("the others are through", async || kafka.sunk().await.len() >= 2).await;
    eventually("it is in the dead letter", async || {
        field(&sidecar, "dead_letters").await == 1
    })
    .await;
    assert_eq!(kafka.sunk().await, ["1", "2"]);
    assert_eq!(field(&sidecar, "state").await, "running");
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn kafka_a_topic_that_is_missing_is_said_and_read_once_it_is_there() {
    let kafka = Kafka::with("", Vec::new()).await;
    let source = kafka.source(kafka.address(), "");
    let error = error_of(&source).await;
    assert!(error.contains("there is no topic \"orders\""), "{error}");
    let site = Site::new();
    let post = Post::start(Duration::ZERO).await;
    let sidecar = site.sidecar("one", &source, &http(&post)).await;
    eventually("it says so", async || {
        field(&sidecar, "error").await != serde_json::Value::Null
    })
    .await;
    kafka.create("orders", PARTITIONS).await;
    kafka.produce(0..100).await;
    eventually("everything is through", async || post.count() >= 100).await;
    sidecar.stop().await.unwrap();

    let input = site.path("in");
    std::fs::write(&input, "1\n").unwrap();
    let source = format!("type = \"file\"\nfollow = true\npath = \"{}\"", input.display());
    let sidecar = site.sidecar("two", &source, &kafka.sink(kafka.address())).await;
    eventually("the sink says so", async || {
        let error = field(&sidecar, "error").await;
        error
            .as_str()
            .is_some_and(|e| e.contains("there is no topic \"done\""))
    })
    .await;
    kafka.create("done", SUNK).await;
    eventually("it is written", async || kafka.sunk().await == ["1"]).await;
    sidecar.stop().await.unwrap();
}

/// A broker that asks who it is, and knows `admin`, who may do everything, and `ana`, who may do nothing yet.
async fn locked() -> Kafka {
    let settings = "listener.security.protocol.map=PLAIN:SASL_PLAINTEXT,LINK:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT\n\
        sasl.enabled.mechanisms=PLAIN\nsasl.mechanism.inter.broker.protocol=PLAIN\n\
        listener.name.plain.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
        username=\"admin\" password=\"the-admins-own\" user_admin=\"the-admins-own\" user_ana=\"the-right-one\";\n\
        listener.name.link.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
        user_ana=\"the-right-one\";\n\
        authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
        super.users=User:admin;User:ANONYMOUS";
    let login = vec![
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanisms", "PLAIN"),
        ("sasl.username", "admin"),
        ("sasl.password", "the-admins-own"),
    ];
    let kafka = Kafka::with(settings, login).await;
    kafka.create("orders", PARTITIONS).await;
    kafka.create("done", SUNK).await;
    kafka
}

impl Kafka {
    /// Lets `ana` do something.
    async fn allow(&self, what: &[&str]) {
        let login = self.dir.path().join("admin.properties");
        let text = "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n\
            sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" \
            password=\"the-admins-own\";\n";
        std::fs::write(&login, text).unwrap();
        let at = self.server.address.to_string();
        let mut args = vec![
            "--bootstrap-server",
            &at,
            "--command-config",
            login.to_str().unwrap(),
        ];
        args.extend_from_slice(&["--add", "--allow-principal", "User:ana"]);
        args.extend_from_slice(what);
        run("org.apache.kafka.tools.AclCommand", &args).await;
    }
}

#[tokio::test]
async fn kafka_wrong_credentials_and_denied_topics_and_groups_are_said_and_never_shown() {
    let kafka = locked().await;
    kafka.produce(0..100).await;
    let site = Site::new();
    let password = site.path("password");
    let login = format!(
        "auth = {{ method = \"plain\", user = \"ana\", file = \"{}\" }}",
        password.display()
    );
    let source = kafka.source(kafka.address(), &login);
    std::fs::write(&password, "the-wrong-one\n").unwrap();
    let error = error_of(&source).await;
    assert!(error.contains("Authentication failed"), "{error}");
    assert!(!error.contains("wrong-one"), "{error}");

    std::fs::write(&password, "the-right-one\n").unwrap();
    let post = Post::start(Duration::ZERO).await;
    let sidecar = site.sidecar("one", &source, &http(&post)).await;
    let says = async |what: &str| {
        eventually(what, async || {
            let error = field(&sidecar, "error").await;
            error.as_str().is_some_and(|e| e.contains(what))
        })
        .await;
    };
    says("not allowed to read orders").await;
    kafka.allow(&["--operation", "Read", "--topic", "orders"]).await;
    says("not allowed to join the group \"tidegate\"").await;
    kafka.allow(&["--operation", "Read", "--group", "tidegate"]).await;
    eventually("everything is through", async || post.count() >= 100).await;
    let tally = Tally::of(post.seen().iter().map(String::as_str));
    assert_eq!((tally.lost(100), tally.repeated()), (0, 0));
    assert!(sidecar.said().iter().all(|line| !line.contains("the-right-one")));
    sidecar.stop().await.unwrap();

    let input = site.path("in");
    std::fs::write(&input, "1\n").unwrap();
    let source = format!("type = \"file\"\nfollow = true\npath = \"{}\"", input.display());
    let sink = format!("{}\n{login}", kafka.sink(kafka.address()));
    let sidecar = site.sidecar("two", &source, &sink).await;
    eventually("the sink says so", async || {
        let error = field(&sidecar, "error").await;
        error
            .as_str()
            .is_some_and(|e| e.contains("not allowed to write to topic \"done\""))
    })
    .await;
    kafka.allow(&["--operation", "Write", "--topic", "done"]).await;
    eventually("it is written", async || kafka.sunk().await == ["1"]).await;
    sidecar.stop().await.unwrap();
}
