//! A Kafka consumer group.
use super::kafka::{ANSWER, KafkaTarget, Said, Trouble, log};
use super::kafka_offsets::Offsets;
use crate::broker_config::BadBroker;
use crate::event::{Batch, Event, Fetched, Settle, SettleError, Source, SourceError, Token};
use crate::hold::Demand;
use crate::lease::{Outstanding, Terms};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::util::AsyncRuntime;
use rdkafka::{Offset, TopicPartitionList};
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::{Duration, Instant};
use tidegate_gate::Name;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// For so long after a gate has closed the client library goes on fetching ahead, within its own bounds. Telling it to
/// pause throws away what it has fetched, which a pause that is over by then does not cost.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// The library's own queue is looked after this often, whatever else happens.
const LOOK: Duration = Duration::from_secs(1);

/// At most so many events are handed over at once, and from one partition before the next has its turn.
const TAKE: usize = 1024;
const TURN: usize = 256;

/// A partition's number takes so many bits of a token's partition; the rest is its topic's place in `topics`.
const PARTITION_BITS: u32 = 20;

/// What a [`KafkaSource`] is made of.
#[derive(Clone, Debug)]
pub struct KafkaConsumer {
    /// Where the brokers are.
    pub target: KafkaTarget,
    /// The consumer group.
    pub group: String,
    /// The topics, by their whole names.
    pub topics: Vec<String>,
    /// This process's name in the group; none: a new member.
    pub instance_id: Option<String>,
    /// So many events are fetched ahead.
    pub prefetch: usize,
    /// So many bytes of them.
    pub prefetch_bytes: usize,
    /// Drop events that have been held so long in a pause, to fetch them again.
    pub max_hold: Option<Duration>,
}

/// The library's own bounds of a request: what it asks for of one partition, what it has to have room for, and what is
/// the most that it can be told.
const ASKED: usize = 1 << 20;
const LARGEST: usize = 1_000_000;
const MOST: usize = 2_147_483_135;

/// Of each partition so many bytes are fetched ahead at least, however many partitions there are.
const LEAST: usize = 16 << 10;

impl KafkaConsumer {
    /// For so many partitions. The library bounds each queue by itself, so the bytes are shared among them: one member
    /// may get all.
    fn options(&self, partitions: usize) -> Vec<(&'static str, String)> {
        let share = (self.prefetch_bytes / partitions.max(1)).max(LEAST);
        let given = |name| self.target.options.contains_key(name);
        let mut ours = vec![
            ("group.id", self.group.clone()),
            ("enable.auto.commit", "false".into()),
            ("enable.auto.offset.store", "false".into()),
            ("partition.assignment.strategy", "cooperative-sticky".into()),
            ("queued.min.messages", self.prefetch.to_string()),
            ("queued.max.messages.kbytes", (share / 1024).to_string()),
            ("allow.auto.create.topics", "false".into()),
        ];
        if !given("fetch.message.max.bytes") && !given("max.partition.fetch.bytes") {
            // What is larger than this comes all the same, alone.
            ours.push(("fetch.message.max.bytes", share.min(ASKED).to_string()));
        }
        if !given("message.max.bytes") {
            let bytes = self.prefetch_bytes.clamp(LARGEST, MOST);
            ours.push(("fetch.max.bytes", bytes.to_string()));
        }
        if !given("fetch.queue.backoff.ms") {
            // How often the library looks whether a queue that was full has room again. Its own second is for queues of a
            // hundred thousand messages: these are empty long before.
            ours.push(("fetch.queue.backoff.ms", "10".into()));
        }
        if !given("auto.offset.reset") {
            ours.push(("auto.offset.reset", "earliest".into()));
        }
        if let Some(instance) = &self.instance_id {
            ours.push(("group.instance.id", instance.clone()));
        }
        ours
    }

    /// How long the group waits for this member to ask for more.
    fn poll_interval(&self) -> Duration {
        let asked = self.target.options.get("max.poll.interval.ms");
        // What is no number was refused when the source was made.
        let millis = asked.and_then(|text| text.parse().ok()).unwrap_or(300_000);
        Duration::from_millis(millis)
    }

    fn token(&self, topic: &str, partition: i32) -> Option<u32> {
        let topic = self.topics.iter().position(|name| name == topic)?;
        let topic = u32::try_from(topic).ok()?.checked_mul(1 << PARTITION_BITS)?;
        let partition = u32::try_from(partition)
            .ok()
            .filter(|p| *p < 1 << PARTITION_BITS)?;
        topic.checked_add(partition)
    }

    fn place(&self, partition: u32) -> (&str, i32) {
        let topic = (partition >> PARTITION_BITS) as usize;
        let partition = partition & ((1 << PARTITION_BITS) - 1);
        // It was made from this list.
        (&self.topics[topic], partition as i32)
    }

    fn list(&self, partitions: impl Iterator<Item = u32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            let (topic, partition) = self.place(partition);
            list.add_partition(topic, partition);
        }
        list
    }
}

/// Spawns nothing: all that the library would spawn is a timer for consumers that nobody looks after.
#[derive(Debug)]
struct Unspawned;

impl AsyncRuntime for Unspawned {
    type Delay = std::future::Ready<()>;

    fn spawn<T: Future<Output = ()> + Send + 'static>(_: T) {}

    fn delay_for(_: Duration) -> Self::Delay {
        std::future::ready(())
    }
}

type Client = StreamConsumer<Context, Unspawned>;
type Queue = StreamPartitionQueue<Context, Unspawned>;

/// What one client's callbacks know. They come while somebody polls it.
struct Context {
    shared: Arc<Shared>,
    /// Callbacks of a client that was given up change nothing.
    client: u64,
}

impl Context {
    fn state(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.shared.state();
        (state.client_number == self.client).then_some(state)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if self.state().is_some() {
            let brokers = self.shared.consumer.target.shown();
            self.shared.said.hear(&error, reason, &brokers);
        }
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Some(mut state) = self.state() else { return };
        let gone = match rebalance {
            Rebalance::Assign(_) => return,
            Rebalance::Revoke(list) => self.shared.tokens(list),
            // The library takes everything away.
            Rebalance::Error(_) => state.mine.clone(),
        };
        let lost: usize = gone
            .iter()
            .map(|partition| state.offsets.revoke(*partition))
            .sum();
        state.mine.retain(|partition| !gone.contains(partition));
        state.fresh.retain(|partition| !gone.contains(partition));
        if lost > 0 {
            tracing::info!(
                group = %self.shared.consumer.group, events = lost, partitions = gone.len(),
                "partitions go to another member; what was held of them is dropped here"
            );
        }
        state.lost |= lost > 0;
        drop(state);
        self.shared.changed();
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else {
            return;
        };
        // Before anything is fetched of them: a new assignment knows nothing of a pause, and their queues have to be
        // split off first.
        if let Err(error) = consumer.pause(list) {
            tracing::warn!(group = %self.shared.consumer.group, %error, "new partitions are not paused; the gate holds what they bring");
        }
        let Some(mut state) = self.state() else { return };
        for partition in self.shared.tokens(list) {
            state.offsets.assign(partition);
            state.mine.push(partition);
            state.fresh.push(partition);
        }
        state.joined = true;
        state.refused = None;
        drop(state);
        self.shared.changed();
    }
}

/// One message, copied out of the library's memory.
struct Arrived {
    partition: u32,
    offset: i64,
    key: Option<Bytes>,
    payload: Bytes,
}

#[derive(Default)]
struct State {
    offsets: Offsets,
    client: Option<Arc<Client>>,
    client_number: u64,
    /// The partitions that this member has, and those of them whose queues are not split off yet.
    mine: Vec<u32>,
    fresh: Vec<u32>,
    /// The group has given this member an assignment, if an empty one.
    joined: bool,
    /// Why it does not: the library says so once, however long that lasts.
    refused: Option<Name>,
    /// Events that are held were taken away, and the driver has not been told yet.
    lost: bool,
    /// Messages that came on the queue of events.
    stray: Vec<Arrived>,
    /// When the library was last asked for news, which tells the group that this member lives.
    polled: Option<Instant>,
}

struct Shared {
    consumer: KafkaConsumer,
    said: Said,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    /// The commit under way.
    committing: tokio::sync::Mutex<Option<Commit>>,
}

/// A commit, and how far it tells of each partition.
type Commit = JoinHandle<KafkaResult<Vec<(u32, i64)>>>;

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("consumer", &self.consumer)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn changed(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn tokens(&self, list: &TopicPartitionList) -> Vec<u32> {
        let elements = list.elements();
        let tokens = elements
            .iter()
            .map(|element| self.consumer.token(element.topic(), element.partition()));
        tokens.flatten().collect()
    }

    fn arrived(&self, message: &BorrowedMessage<'_>) -> Option<Arrived> {
        Some(Arrived {
            partition: self.consumer.token(message.topic(), message.partition())?,
            offset: message.offset(),
            key: message.key().map(Bytes::copy_from_slice),
            payload: message.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
        })
    }

    /// Serves one thing of the client's queue of events, whose callbacks come meanwhile. Cancel-safe.
    async fn serve(&self, client: &Client) {
        match client.recv().await {
            Ok(message) => {
                let arrived = self.arrived(&message);
                self.state().stray.extend(arrived);
            }
            Err(error) => self.hear(&error),
        }
    }

    /// What a consumer says instead of a message.
    fn hear(&self, error: &KafkaError) {
        use RDKafkaErrorCode as Code;
        let group = &self.consumer.group;
        let trouble = match error {
            KafkaError::MessageConsumptionFatal(Code::FencedInstanceId) => Trouble::Fatal(
                format!(
                    "another member of group \"{group}\" has this instance_id: each replica needs one of its own"
                )
                .into(),
            ),
            KafkaError::MessageConsumptionFatal(code) => Trouble::Renew(code.to_string().into()),
            KafkaError::MessageConsumption(code) => match code {
                Code::UnknownTopic | Code::UnknownTopicOrPartition => {
                    Trouble::Wait(format!("there is no such topic: {}", self.consumer.topics.join(", ")).into())
                }
                Code::TopicAuthorizationFailed => Trouble::Wait(self.may_not_read()),
                Code::GroupAuthorizationFailed => {
                    let why = Name::from(format!("not allowed to join the group \"{group}\""));
                    self.state().refused = Some(why.clone());
                    Trouble::Wait(why)
                }
                Code::AutoOffsetReset => Trouble::Fatal(
                    format!(
                        "group \"{group}\" has no valid offset, and auto.offset.reset = \"error\": set its offsets"
                    )
                    .into(),
                ),
                // The library goes on with what comes after: to write that would commit what was never read.
                Code::BadCompression | Code::NotImplemented | Code::BadMessage | Code::InvalidMessage => Trouble::Fatal(
                    format!(
                        "a message cannot be read ({code}); gzip, snappy and lz4 can be, zstd cannot. To go on without it, \
                         set the group's offset past it"
                    )
                    .into(),
                ),
                Code::PollExceeded => {
                    tracing::warn!(%group, "this member was not heard of within max.poll.interval.ms, and joins again");
                    return;
                }
                // Those that have a reason beside them were heard already.
                _ => {
                    tracing::debug!(%group, %error, "kafka");
                    return;
                }
            },
            _ => return,
        };
        self.said.say(trouble);
    }

    fn may_not_read(&self) -> Name {
        format!("not allowed to read {}", self.consumer.topics.join(", ")).into()
    }

    fn polls(&self) {
        self.state().polled = Some(tokio::time::Instant::now().into_std());
    }

    /// Tells the group how far each partition is done, and waits until it has heard.
    async fn commit(&self) -> Result<(), SettleError> {
        let retry = |why: &dyn fmt::Display| SettleError::Retry(format!("kafka: not settled: {why}").into());
        // One at a time, also where one was given up: a later one must not be overtaken.
        let mut committing = self.committing.lock().await;
        let (client, wanted) = {
            let state = self.state();
            let wanted = state.offsets.uncommitted();
            if wanted.is_empty() {
                return Ok(());
            }
            let client = state.client.clone().ok_or_else(|| retry(&"not connected"))?;
            (client, wanted)
        };
        let commit = match committing.take() {
            Some(earlier) => earlier,
            None => {
                let mut list = TopicPartitionList::new();
                for (partition, offset) in &wanted {
                    let (topic, partition) = self.consumer.place(*partition);
                    list.add_partition_offset(topic, partition, Offset::Offset(*offset))
                        .map_err(|e| retry(&e))?;
                }
                // The library tells nobody of a commit that is not waited for.
                tokio::task::spawn_blocking(move || {
                    client.commit(&list, CommitMode::Sync)?;
                    Ok(wanted)
                })
            }
        };
        let commit = committing.insert(commit);
        let Ok(told) = tokio::time::timeout(ANSWER, &mut *commit).await else {
            return Err(retry(&"no answer to a commit"));
        };
        *committing = None;
        let told = told.map_err(|e| retry(&e))?.map_err(|e: KafkaError| retry(&e))?;
        let mut state = self.state();
        for (partition, offset) in told {
            state.offsets.committed(partition, offset);
        }
        match state.offsets.uncommitted().is_empty() {
            true => Ok(()),
            false => Err(retry(&"an earlier commit came first")),
        }
    }
}

/// A partition that this member has.
struct Partition {
    token: u32,
    queue: Queue,
    /// The library fetches nothing of it.
    paused: bool,
}

/// A client that is there.
struct Link {
    client: Arc<Client>,
    partitions: Vec<Partition>,
    subscribed: bool,
    /// Since when the gate has been closed, as far as this source has seen.
    closed: Option<tokio::time::Instant>,
    /// Whose turn it is.
    turn: usize,
}

/// Reads topics as a member of a consumer group, and commits offsets once the sink has what is before them.
///
/// It goes on polling through a pause of any length, so that the group never misses it; a little after the pause began
/// the library is told to fetch no more. Partitions that it is given meanwhile are paused before anything is fetched
/// of them.
pub struct KafkaSource {
    consumer: KafkaConsumer,
    settle: KafkaSettle,
    epoch: u32,
    /// How many partitions the topics had when they were last asked for.
    partitions: usize,
    link: Option<Link>,
    /// A client that leaves the group.
    leaving: Option<JoinHandle<()>>,
}

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSource")
            .field("consumer", &self.consumer)
            .finish_non_exhaustive()
    }
}

impl KafkaSource {
    /// A source of this consumer; nothing is connected yet.
    ///
    /// # Errors
    /// [`BadBroker`].
    pub fn new(consumer: KafkaConsumer) -> Result<KafkaSource, BadBroker> {
        if consumer.topics.is_empty() || consumer.topics.iter().any(|name| !is_topic(name)) {
            return Err(BadBroker::Option(
                "topics: expected the whole names of topics: letters, digits, \".\", \"_\" and \"-\"".into(),
            ));
        }
        consumer.target.check(&consumer.options(1))?;
        let settle = KafkaSettle(Arc::new(Shared {
            consumer: consumer.clone(),
            said: Said::default(),
            state: Mutex::default(),
            changed: watch::channel(0).0,
            committing: tokio::sync::Mutex::default(),
        }));
        Ok(KafkaSource {
            consumer,
            settle,
            epoch: 0,
            partitions: 1,
            link: None,
            leaving: None,
        })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.settle.0
    }

    /// A client of its own, which is no member of the group yet.
    fn link(&self) -> Result<Link, Name> {
        let config = self
            .consumer
            .target
            .config(&self.consumer.options(self.partitions))?;
        let client_number = self.shared().state().client_number;
        let context = Context {
            shared: self.shared().clone(),
            client: client_number,
        };
        self.shared().said.begin();
        let client = Client::from_config_and_context(&config, context)
            .map_err(|error| self.consumer.target.unmade(&error))?;
        let client = Arc::new(client);
        self.shared().state().client = Some(client.clone());
        Ok(Link {
            client,
            partitions: Vec::new(),
            subscribed: false,
            closed: None,
            turn: 0,
        })
    }

    /// Gives the client up: it leaves the group, elsewhere, since that waits for the brokers.
    fn retire(&mut self) {
        let mut state = self.shared().state();
        state.client_number += 1;
        let client = state.client.take();
        state.joined = false;
        state.refused = None;
        state.mine.clear();
        state.fresh.clear();
        state.stray.clear();
        drop(state);
        let link = self.link.take();
        if client.is_none() && link.is_none() {
            return;
        }
        let leave = move || {
            // Queues before the client that they are of.
            drop(link);
            drop(client);
        };
        self.leaving = tokio::runtime::Handle::try_current()
            .ok()
            .map(|runtime| runtime.spawn_blocking(leave));
    }

    /// Waits until the client that leaves has left, or long enough.
    async fn left(&mut self) {
        if let Some(leaving) = self.leaving.take() {
            let _ = tokio::time::timeout(ANSWER, leaving).await;
        }
    }

    fn trouble(&mut self) -> Result<(), SourceError> {
        match self.shared().said.take() {
            Trouble::None => Ok(()),
            Trouble::Wait(why) => Err(SourceError::Interrupted(why)),
            Trouble::Renew(why) => {
                self.retire();
                Err(SourceError::Broke(why))
            }
            Trouble::Fatal(why) => Err(SourceError::Fatal(why)),
        }
    }

    /// Hears everything that was said since the last attempt. The library reports each failure to connect, and nobody
    /// listens between attempts: what may have passed meanwhile is no reason to give up this one, or brokers that are
    /// back are taken for gone for as long as there are old reports.
    fn catch_up(&mut self, client: &Client) -> Result<(), SourceError> {
        while self.settle.0.serve(client).now_or_never().is_some() {}
        match self.trouble() {
            Err(SourceError::Interrupted(_)) => Ok(()),
            other => other,
        }
    }

    /// Asks the brokers for the topics, and how many partitions they have.
    async fn probe(&mut self, client: &Arc<Client>) -> Result<usize, SourceError> {
        let mut all = 0;
        for topic in self.consumer.topics.clone() {
            let (asks, asked) = (client.clone(), topic.clone());
            // The library has no other way to ask than to wait.
            let mut answer = tokio::task::spawn_blocking(move || {
                let metadata = asks.fetch_metadata(Some(&asked), ANSWER);
                metadata.map(|all| {
                    let found = all.topics().iter().find(|t| t.name() == asked);
                    found.map(|t| (t.error().map(RDKafkaErrorCode::from), t.partitions().len()))
                })
            });
            let answer = loop {
                self.shared().polls();
                tokio::select! {
                    answer = &mut answer => break answer,
                    () = self.settle.0.serve(client) => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
                self.trouble()?;
            };
            let no = |why: String| Err(SourceError::Interrupted(why.into()));
            match answer {
                Ok(Ok(Some((None, partitions)))) if partitions > 0 => all += partitions,
                Ok(Ok(Some((Some(RDKafkaErrorCode::TopicAuthorizationFailed), _)))) => {
                    return Err(SourceError::Interrupted(self.shared().may_not_read()));
                }
                Ok(Ok(Some((Some(RDKafkaErrorCode::UnknownTopicOrPartition), _)) | None)) => {
                    return no(format!(
                        "there is no topic \"{topic}\": create it, and it is read from its beginning"
                    ));
                }
                Ok(Ok(Some((Some(code), _)))) => return no(format!("topic \"{topic}\": {code}")),
                Ok(Ok(Some((None, _)))) => return no(format!("topic \"{topic}\" has no partitions yet")),
                Ok(Err(error)) => {
                    let brokers = self.consumer.target.shown();
                    if let Some(why) = self.shared().said.unanswered(&brokers) {
                        self.retire();
                        return Err(SourceError::Broke(why));
                    }
                    return no(format!("no answer from {brokers}: {error}"));
                }
                Err(error) => return no(error.to_string()),
            }
        }
        Ok(all)
    }

    /// The client that is there, or a new one.
    fn client(&mut self) -> Result<Arc<Client>, SourceError> {
        if self.link.is_none() {
            self.link = Some(self.link().map_err(SourceError::Interrupted)?);
        }
        let client = self.link.as_ref().map(|link| link.client.clone());
        client.ok_or_else(|| SourceError::Interrupted("not connected".into()))
    }

    /// Waits for the group's answer.
    async fn join(&mut self, client: &Arc<Client>) -> Result<(), SourceError> {
        // A group lets new members wait for others by seconds.
        let late = tokio::time::sleep(ANSWER * 2);
        tokio::pin!(late);
        loop {
            self.shared().polls();
            if self.shared().state().joined {
                return Ok(());
            }
            tokio::select! {
                () = self.settle.0.serve(client) => {}
                () = tokio::time::sleep(LOOK) => {}
                () = &mut late => {
                    let refused = self.shared().state().refused.clone();
                    let why = refused.unwrap_or_else(|| {
                        format!("the group \"{}\" has not let this member in yet", self.consumer.group).into()
                    });
                    return Err(SourceError::Interrupted(why));
                }
            }
            self.trouble()?;
        }
    }

    /// A client that is a member of the group.
    async fn connect(&mut self, epoch: u32) -> Result<(), SourceError> {
        if self.epoch != epoch {
            self.retire();
            self.epoch = epoch;
        }
        self.shared().state().offsets.begin(epoch);
        self.left().await;
        let mut client = self.client()?;
        self.catch_up(&client)?;
        let partitions = self.probe(&client).await?;
        if partitions != self.partitions && self.link.as_ref().is_some_and(|link| !link.subscribed) {
            // It was made for another number of them, and its bounds cannot be changed.
            self.partitions = partitions;
            self.retire();
            client = self.client()?;
        }
        if let Some(link) = self.link.as_mut().filter(|link| !link.subscribed) {
            let topics: Vec<&str> = self.consumer.topics.iter().map(String::as_str).collect();
            client
                .subscribe(&topics)
                .map_err(|e| SourceError::Interrupted(e.to_string().into()))?;
            link.subscribed = true;
        }
        self.join(&client).await
    }

    /// Takes what is there, as far as there is room.
    fn take(&mut self, room: (usize, usize), into: &mut Batch, now: Instant) {
        let shared = self.settle.0.clone();
        let stray = std::mem::take(&mut shared.state().stray);
        for arrived in stray {
            self.put(arrived, into, now);
        }
        let Some(link) = &mut self.link else { return };
        let most = room.0.min(TAKE);
        let full = |into: &Batch| into.events.len() >= most || into.bytes >= room.1;
        link.turn = link.turn.wrapping_add(1);
        let (before, after) = link.partitions.split_at(link.turn % link.partitions.len().max(1));
        let mut messages = Vec::new();
        for partition in after.iter().chain(before) {
            if full(into) {
                return;
            }
            let mut stream = partition.queue.stream();
            let mut bytes = into.bytes;
            while messages.len() < TURN && into.events.len() + messages.len() < most && bytes < room.1 {
                match stream.next().now_or_never().flatten() {
                    Some(Ok(message)) => {
                        if let Some(arrived) = shared.arrived(&message) {
                            bytes += arrived.payload.len();
                            messages.push(arrived);
                        }
                    }
                    // Nothing of this partition passes what could not be read.
                    Some(Err(error)) => {
                        shared.hear(&error);
                        break;
                    }
                    None => break,
                }
            }
            let mut state = shared.state();
            for arrived in messages.drain(..) {
                put(&mut state.offsets, self.epoch, arrived, into, now);
            }
        }
    }

    fn put(&self, arrived: Arrived, into: &mut Batch, now: Instant) {
        put(&mut self.shared().state().offsets, self.epoch, arrived, into, now);
    }

    /// Splits off the queues of partitions that are new, and forgets those that are gone.
    fn follow(&mut self) {
        let shared = self.settle.0.clone();
        let Some(link) = &mut self.link else { return };
        let mut state = shared.state();
        let fresh = std::mem::take(&mut state.fresh);
        link.partitions
            .retain(|p| state.mine.contains(&p.token) && !fresh.contains(&p.token));
        drop(state);
        for token in fresh {
            let (topic, partition) = self.consumer.place(token);
            if let Some(queue) = link.client.split_partition_queue(topic, partition) {
                link.partitions.push(Partition {
                    token,
                    queue,
                    paused: true,
                });
            }
        }
    }

    /// Has the library fetch or not, as the gate and the hold want it. Answers when to look again.
    fn obey(&mut self, closed: bool, full: bool) -> Duration {
        let shared = self.settle.0.clone();
        let Some(link) = &mut self.link else { return LOOK };
        let rewinds = shared.state().offsets.rewinds();
        if closed {
            let now = tokio::time::Instant::now();
            let since = *link.closed.get_or_insert(now);
            let left = (since + PAUSE_AFTER).saturating_duration_since(now);
            if !full && !left.is_zero() && rewinds.is_empty() {
                return left.min(LOOK);
            }
            let run: Vec<&mut Partition> = link.partitions.iter_mut().filter(|p| !p.paused).collect();
            if !run.is_empty() {
                let list = self.consumer.list(run.iter().map(|p| p.token));
                match link.client.pause(&list) {
                    Ok(()) => run.into_iter().for_each(|p| p.paused = true),
                    Err(error) => tracing::debug!(group = %self.consumer.group, %error, "not paused"),
                }
            }
            return LOOK;
        }
        link.closed = None;
        if !rewinds.is_empty() && !self.rewind(&rewinds) {
            return LOOK;
        }
        let Some(link) = &mut self.link else { return LOOK };
        let still: Vec<&mut Partition> = link.partitions.iter_mut().filter(|p| p.paused).collect();
        if !still.is_empty() {
            let list = self.consumer.list(still.iter().map(|p| p.token));
            match link.client.resume(&list) {
                Ok(()) => still.into_iter().for_each(|p| p.paused = false),
                Err(error) => tracing::debug!(group = %self.consumer.group, %error, "not resumed"),
            }
        }
        LOOK
    }

    /// Goes back to what was given back. False if it has to be tried again.
    fn rewind(&self, rewinds: &[(u32, i64)]) -> bool {
        let Some(link) = &self.link else { return false };
        let mut list = TopicPartitionList::new();
        for (partition, offset) in rewinds {
            let (topic, partition) = self.consumer.place(*partition);
            if list
                .add_partition_offset(topic, partition, Offset::Offset(*offset))
                .is_err()
            {
                return false;
            }
        }
        // Answered within the process; what it waits for is its own thread.
        let done = match link.client.seek_partitions(list, LOOK) {
            Ok(done) => done,
            Err(error) => {
                tracing::debug!(group = %self.consumer.group, %error, "not rewound");
                return false;
            }
        };
        let mut all = true;
        let mut state = self.shared().state();
        for element in done.elements() {
            let partition = self.consumer.token(element.topic(), element.partition());
            match (element.error(), partition) {
                (Ok(()), Some(partition)) => state.offsets.rewound(partition),
                _ => all = false,
            }
        }
        all
    }
}

fn is_topic(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 249 && name.chars().all(allowed) && name != "." && name != ".."
}

fn put(offsets: &mut Offsets, epoch: u32, arrived: Arrived, into: &mut Batch, now: Instant) {
    let token = Token {
        epoch,
        partition: arrived.partition,
        // Offsets are never negative.
        position: arrived.offset.unsigned_abs().into(),
        part: 0,
    };
    if offsets.add(&token, now) {
        into.push(Event {
            payload: arrived.payload,
            key: arrived.key,
            token,
        });
    }
}

/// The next message of any of these.
async fn next(partitions: &[Partition], shared: &Shared) -> Option<Arrived> {
    let mut streams: Vec<_> = partitions.iter().map(|p| p.queue.stream()).collect();
    poll_fn(|context| {
        for stream in &mut streams {
            match stream.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(message))) => return Poll::Ready(shared.arrived(&message)),
                Poll::Ready(Some(Err(error))) => {
                    shared.hear(&error);
                    return Poll::Ready(None);
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
}

impl Source for KafkaSource {
    type Settle = KafkaSettle;

    fn describe(&self) -> Name {
        format!("kafka {}/{}", self.consumer.topics.join("+"), self.consumer.group).into()
    }

    fn settle(&self) -> KafkaSettle {
        self.settle.clone()
    }

    async fn open(&mut self, epoch: u32) -> Result<(), SourceError> {
        match self.connect(epoch).await {
            Err(SourceError::Broke(why)) => {
                Err(SourceError::Broke(self.consumer.target.explained(why).await))
            }
            other => other,
        }
    }

    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        let mut changed = self.shared().changed.subscribe();
        loop {
            changed.mark_unchanged();
            self.shared().polls();
            if std::mem::take(&mut self.shared().state().lost) {
                demand.lost();
            }
            self.trouble()?;
            self.follow();
            let closed = demand.closed().now_or_never().is_some();
            let room = demand.room().now_or_never().flatten();
            let look = self.obey(closed, room.is_none());
            if let Some(room) = room {
                self.take(room, into, demand.clock());
                if !into.is_empty() {
                    return Ok(Fetched::Events);
                }
            }
            let Some(link) = &self.link else {
                return Err(SourceError::Interrupted("not connected".into()));
            };
            let shared = &self.settle.0;
            let arrived = tokio::select! {
                biased;
                () = demand.stopping() => return Ok(Fetched::End),
                () = shared.serve(&link.client) => None,
                arrived = next(&link.partitions, shared), if room.is_some() => arrived,
                _ = changed.changed() => None,
                _ = demand.room(), if room.is_none() => None,
                () = demand.closed(), if !closed => None,
                () = demand.opened(), if closed => None,
                () = tokio::time::sleep(look) => None,
            };
            if let Some(arrived) = arrived {
                self.put(arrived, into, demand.clock());
            }
        }
    }

    async fn close(&mut self) {
        self.retire();
        self.left().await;
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        // Without a close the client would be dropped here, which waits for the brokers.
        self.retire();
    }
}

/// The other handle of a [`KafkaSource`].
#[derive(Clone, Debug)]
pub struct KafkaSettle(Arc<Shared>);

impl Settle for KafkaSettle {
    async fn ack(&self, done: &[Token]) -> Result<(), SettleError> {
        self.0.state().offsets.done(done);
        self.0.commit().await
    }

    fn may_lose(&self) -> bool {
        true
    }

    fn ours(&self, event: &Token) -> bool {
        self.0.state().offsets.has(event)
    }

    fn claim(&self, event: &Token) -> bool {
        self.0.state().offsets.claim(event)
    }

    fn terms(&self) -> Option<Terms> {
        Some(Terms {
            lasts: self.0.consumer.poll_interval(),
            max_hold: self.0.consumer.max_hold,
        })
    }

    /// Kafka leases no events, but it gives the partitions of a member that asks for nothing to the others: what is left
    /// is counted from when the library was last asked.
    fn outstanding(&self) -> Option<Outstanding> {
        let state = self.0.state();
        let oldest = state.offsets.oldest()?;
        Some(Outstanding {
            oldest,
            stalest: state.polled.unwrap_or(oldest).max(oldest),
        })
    }

    fn expire(&self, _: Instant) -> usize {
        self.0.state().offsets.expire()
    }

    async fn give_back(&self, held: &[Token]) -> Result<(), SettleError> {
        self.0.state().offsets.give_back(held);
        self.0.changed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;
    use std::collections::BTreeMap;

    fn consumer(prefetch_bytes: usize, options: &[(&str, &str)]) -> KafkaConsumer {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        KafkaConsumer {
            target: KafkaTarget {
                brokers: vec!["a:1".into()],
                tls: false,
                auth: None,
                ca_file: None,
                client_cert: None,
                options: options.collect(),
            },
            group: "g".into(),
            topics: vec!["t".into()],
            instance_id: None,
            prefetch: 1024,
            prefetch_bytes,
            max_hold: None,
        }
    }

    fn of(consumer: &KafkaConsumer, partitions: usize) -> BTreeMap<&'static str, String> {
        let options = consumer.options(partitions);
        consumer.target.check(&options).unwrap();
        options.into_iter().collect()
    }

    #[test]
    fn the_bytes_that_are_fetched_ahead_are_shared_among_the_partitions() {
        let consumer = consumer(8 << 20, &[]);
        for (partitions, kilobytes, asked) in [
            (0, "8192", "1048576"),
            (1, "8192", "1048576"),
            (8, "1024", "1048576"),
            (64, "128", "131072"),
            (100_000, "16", "16384"),
        ] {
            let options = of(&consumer, partitions);
            assert_eq!(options["queued.max.messages.kbytes"], kilobytes);
            assert_eq!(options["fetch.message.max.bytes"], asked);
            assert_eq!(options["fetch.max.bytes"], (8 << 20).to_string());
        }
    }

    #[test]
    fn a_bound_of_fetches_that_somebody_has_set_is_left_to_them() {
        let set = [
            ("max.partition.fetch.bytes", "5000000"),
            ("message.max.bytes", "50000000"),
        ];
        let options = of(&consumer(1 << 10, &set), 4);
        assert!(!options.contains_key("fetch.message.max.bytes") && !options.contains_key("fetch.max.bytes"));
        for extreme in [1, 2 << 30] {
            assert!(of(&consumer(extreme, &[]), 2).contains_key("fetch.max.bytes"));
        }
    }
}
