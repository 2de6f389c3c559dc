//! A Kafka topic.
use super::kafka::{ANSWER, KafkaTarget, Said, Trouble, log};
use crate::broker_config::BadBroker;
use crate::event::{Event, Sink, SinkError, Token};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tidegate_gate::Name;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What the library may take of an attempt's time: the rest is for clearing up, and for saying so.
const DELIVERY: (u32, u32) = (3, 4);
const GIVE_UP: (u32, u32) = (9, 10);

/// When the library's own queue is full: for so long until the next look.
const FULL: Duration = Duration::from_millis(5);

/// As large as a broker takes a request by default.
const LARGEST: u32 = 100_000_000;

/// What has become of the messages of one attempt.
#[derive(Debug, Default)]
struct Attempt {
    results: Vec<Option<Result<(), RDKafkaErrorCode>>>,
    left: usize,
}

#[derive(Debug, Default)]
struct Reports {
    attempt: Mutex<Attempt>,
    all: Notify,
    said: Said,
    brokers: String,
}

impl Reports {
    fn attempt(&self) -> MutexGuard<'_, Attempt> {
        // Nothing in here panics half way.
        self.attempt
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set(&self, at: usize, result: Result<(), RDKafkaErrorCode>) {
        let mut attempt = self.attempt();
        let Some(place) = attempt.results.get_mut(at) else {
            return;
        };
        if place.replace(result).is_none() {
            attempt.left -= 1;
            if attempt.left == 0 {
                drop(attempt);
                self.all.notify_waiters();
            }
        }
    }

    async fn all(&self) {
        loop {
            let told = self.all.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.attempt().left == 0 {
                return;
            }
            told.await;
        }
    }
}

struct Context(Arc<Reports>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.said.hear(&error, reason, &self.0.brokers);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, at: usize) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        self.0.set(at, result);
    }
}

type Client = ThreadedProducer<Context, NoCustomPartitioner>;

/// A producer that is there, and how many partitions the topic has.
struct Link {
    client: Arc<Client>,
    reports: Arc<Reports>,
    partitions: u32,
}

/// Writes each event to a topic, and has it once all replicas in sync do.
///
/// An event with a key goes where its key belongs; one without goes to the partition that has the number of its partition
/// at the source, so that its order is kept. The producer is idempotent. After a failed attempt nothing of it is left
/// in the producer's queue, or on its way: the producer is given up with its connections.
pub struct KafkaSink {
    target: KafkaTarget,
    topic: String,
    timeout: Duration,
    link: Option<Link>,
    /// Written beyond the first that was not, in an attempt that failed: not to be written again.
    written: HashSet<Token>,
}

impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink")
            .field("target", &self.target)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl KafkaSink {
    /// A sink of this topic; nothing is connected yet.
    ///
    /// # Errors
    /// [`BadBroker`].
    pub fn new(target: KafkaTarget, topic: &str, timeout: Duration) -> Result<KafkaSink, BadBroker> {
        let sink = KafkaSink {
            target,
            topic: topic.to_owned(),
            timeout,
            link: None,
            written: HashSet::new(),
        };
        sink.target.check(&sink.options())?;
        Ok(sink)
    }

    fn options(&self) -> Vec<(&'static str, String)> {
        let delivery = (self.timeout * DELIVERY.0 / DELIVERY.1).as_millis().max(1);
        let mut ours = vec![
            ("enable.idempotence", "true".into()),
            ("acks", "all".into()),
            ("message.timeout.ms", delivery.to_string()),
        ];
        let mut default = |name, value: &str| {
            if !self.target.options.contains_key(name) {
                ours.push((name, value.to_owned()));
            }
        };
        // A batch is there at once; to wait for more would only make it late.
        default("linger.ms", "0");
        // Where Kafka's own clients put a key.
        default("partitioner", "murmur2_random");
        // The broker knows best what is too large.
        default("message.max.bytes", &LARGEST.to_string());
        // The library asks for no shorter answers than this.
        default("request.timeout.ms", &delivery.clamp(1, 30_000).to_string());
        ours
    }

    async fn link(&mut self) -> Result<&Link, Name> {
        if self.link.is_none() {
            self.link = Some(self.connect().await?);
        }
        self.link.as_ref().ok_or_else(|| "not connected".into())
    }

    async fn connect(&self) -> Result<Link, Name> {
        let reports = Arc::new(Reports {
            brokers: self.target.shown(),
            ..Reports::default()
        });
        let config = self.target.config(&self.options())?;
        let client: Client = ThreadedProducer::from_config_and_context(&config, Context(reports.clone()))
            .map_err(|error| self.target.unmade(&error))?;
        let client = Arc::new(client);
        let (asks, topic) = (client.clone(), self.topic.clone());
        // The attempt's own time is not over when it has no answer: what it says is worth more than "no answer".
        let bound = ANSWER.min(self.timeout / 2);
        // The library has no other way to ask than to wait.
        let answer = tokio::task::spawn_blocking(move || {
            let metadata = asks.client().fetch_metadata(Some(&topic), bound);
            metadata.map(|all| {
                let found = all.topics().iter().find(|t| t.name() == topic);
                found.map(|t| (t.error().map(RDKafkaErrorCode::from), t.partitions().len()))
            })
        });
        let mut link = Link {
            client,
            reports,
            partitions: 0,
        };
        let topic = &self.topic;
        let found = match answer.await {
            Ok(Ok(Some((None, partitions)))) if partitions > 0 => {
                link.partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
                return Ok(link);
            }
            Ok(Ok(Some((Some(code), _)))) => self.told(&link, code),
            Ok(Ok(_)) => format!("there is no topic \"{topic}\": create it").into(),
            Ok(Err(error)) => {
                let code = error.rdkafka_error_code();
                self.told(&link, code.unwrap_or(RDKafkaErrorCode::Fail))
            }
            Err(error) => Name::from(error.to_string()),
        };
        gone(link).await;
        Err(self.target.explained(found).await)
    }

    /// An error for people, with what was said beside it.
    fn told(&self, link: &Link, code: RDKafkaErrorCode) -> Name {
        use RDKafkaErrorCode as Code;
        let topic = &self.topic;
        match (code, link.reports.said.take()) {
            (Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition, _) => {
                format!("there is no topic \"{topic}\": create it").into()
            }
            (Code::TopicAuthorizationFailed, _) => {
                format!("not allowed to write to topic \"{topic}\"").into()
            }
            (Code::ClusterAuthorizationFailed, _) => {
                "not allowed to write idempotently: allow IdempotentWrite on the cluster".into()
            }
            (_, Trouble::Wait(why) | Trouble::Renew(why) | Trouble::Fatal(why)) => why,
            (code, Trouble::None) => format!("{}: {code}", self.target.shown()).into(),
        }
    }

    /// Where an event goes that has no key.
    fn partition(&self, link: &Link, event: &Event) -> Option<i32> {
        match &event.key {
            Some(_) => None,
            None => i32::try_from(event.token.partition % link.partitions.max(1)).ok(),
        }
    }

    /// Sends these and waits for what becomes of each, until `until`.
    async fn send(
        &self,
        link: &Link,
        events: &[&Event],
        until: Instant,
    ) -> Vec<Option<Result<(), RDKafkaErrorCode>>> {
        {
            let mut attempt = link.reports.attempt();
            attempt.results = vec![None; events.len()];
            attempt.left = events.len();
        }
        // Whoever drops this attempt half way leaves nothing behind that could still be sent.
        let purge = Purge(Some(link.client.clone()));
        for (at, event) in events.iter().enumerate() {
            let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&self.topic, at);
            record.key = event.key.as_deref();
            // Kafka's own word for "no such value any more" is a key without one.
            record.payload = match (&event.key, event.payload.is_empty()) {
                (Some(_), true) => None,
                _ => Some(&event.payload[..]),
            };
            record.partition = self.partition(link, event);
            while let Err((error, back)) = link.client.send(record) {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                if code != RDKafkaErrorCode::QueueFull || Instant::now() >= until {
                    link.reports.set(at, Err(code));
                    break;
                }
                tokio::time::sleep(FULL).await;
                record = back;
            }
        }
        let in_time = tokio::time::timeout_at(until, link.reports.all()).await;
        let mut attempt = link.reports.attempt();
        attempt.left = 0;
        let results = std::mem::take(&mut attempt.results);
        drop(attempt);
        if in_time.is_ok() {
            purge.nothing_left();
        }
        results
    }
}

/// Takes back what a producer has not sent yet, unless nothing is left.
struct Purge(Option<Arc<Client>>);

impl Purge {
    fn nothing_left(mut self) {
        self.0 = None;
    }
}

impl Drop for Purge {
    fn drop(&mut self) {
        if let Some(client) = &self.0 {
            client.purge(PurgeConfig::default().queue().inflight());
        }
    }
}

/// Waits until a producer is gone, with its queue and its connections.
async fn gone(link: Link) {
    let _ = tokio::time::timeout(ANSWER, tokio::task::spawn_blocking(move || drop(link))).await;
}

fn too_large(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize
    )
}

/// What the broker will say of this message each time.
fn refused(code: RDKafkaErrorCode) -> Option<&'static str> {
    match code {
        RDKafkaErrorCode::InvalidRecord => Some("the topic's rules refuse it (compacted topics want a key)"),
        RDKafkaErrorCode::InvalidTimestamp => Some("the topic refuses its timestamp"),
        code if too_large(code) => Some("larger than the topic's max.message.bytes"),
        _ => None,
    }
}

impl Sink for KafkaSink {
    fn describe(&self) -> Name {
        format!("kafka {}", self.topic).into()
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.timeout)
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.link().await.map(drop).map_err(SinkError::retry)
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        let until = Instant::now() + self.timeout * GIVE_UP.0 / GIVE_UP.1;
        self.link().await.map_err(SinkError::retry)?;
        // Taken out, so that an attempt that is dropped half way leaves no producer behind that may still send.
        let Some(link) = self.link.take() else {
            return Err(SinkError::retry("not connected"));
        };
        let written = std::mem::take(&mut self.written);
        let fresh: Vec<usize> = (0..events.len())
            .filter(|at| !written.contains(&events[*at].token))
            .collect();
        let some: Vec<&Event> = fresh.iter().map(|at| &events[*at]).collect();
        let mut results: Vec<Option<Result<(), RDKafkaErrorCode>>> = vec![Some(Ok(())); events.len()];
        for (at, result) in fresh.iter().zip(self.send(&link, &some, until).await) {
            results[*at] = result;
        }
        if fresh.len() > 1 && results.iter().flatten().any(|r| r.is_err_and(too_large)) {
            // Said of a whole request: which event it is true of shows when each goes alone.
            for at in fresh {
                if results[at].is_some_and(|r| r.is_err_and(too_large)) {
                    let alone = self.send(&link, &[&events[at]], until).await;
                    results[at] = alone.into_iter().next().flatten();
                }
            }
        }
        let bad = results.iter().position(|result| *result != Some(Ok(())));
        let Some(taken) = bad else {
            self.link = Some(link);
            return Ok(());
        };
        let after = events.iter().zip(&results).skip(taken + 1);
        self.written = after
            .filter(|(_, result)| **result == Some(Ok(())))
            .map(|(event, _)| event.token)
            .collect();
        let code = results[taken].and_then(Result::err);
        let why = code.and_then(refused);
        let unknown = results.iter().any(|result| match result {
            Some(Ok(())) => false,
            Some(Err(code)) => refused(*code).is_none(),
            None => true,
        });
        if let (Some(why), false) = (why, unknown) {
            self.link = Some(link);
            return Err(SinkError::Reject {
                taken,
                why: why.into(),
                detail: None,
            });
        }
        let said = match code {
            Some(code) => self.told(&link, code),
            None => format!("no answer from {}", self.target.shown()).into(),
        };
        // Only with its connections gone is nothing on its way any more.
        gone(link).await;
        match why {
            Some(why) => Err(SinkError::Reject {
                taken,
                why: why.into(),
                detail: None,
            }),
            None => Err(SinkError::Retry {
                taken,
                after: None,
                why: said,
            }),
        }
    }
}

impl Drop for KafkaSink {
    fn drop(&mut self) {
        let link = self.link.take();
        // Dropping a producer waits for its thread.
        if let (Some(link), Ok(runtime)) = (link, tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(link));
        }
    }
}
