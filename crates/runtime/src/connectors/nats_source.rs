//! A NATS JetStream consumer.
use super::nats::{ANSWER, NatsTarget, Said, is_up};
use crate::broker_config::BadBroker;
use crate::event::{Batch, Event, Fetched, Settle, SettleError, Source, SourceError, Token};
use crate::hold::{Ask, Demand};
use crate::lease::{LeaseId, Leases, Outstanding, Terms};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::{self, AckKind, Context};
use async_nats::{Client, Request, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tidegate_gate::Name;

/// How long the server keeps a pull request. Short, so that a paused stream stops receiving soon; long, so that an
/// idle one asks seldom.
const EXPIRES: Duration = Duration::from_secs(2);

/// The link is looked at this often while nothing arrives.
const LOOK: Duration = Duration::from_millis(500);

/// The server said no, and nothing else would tell of it.
const MAY_NOT_ASK: &str = "this user may not ask the consumer for messages";

/// At most so many events are handed on in one batch.
const BATCH: usize = 1024;

/// What a [`NatsSource`] is made of.
#[derive(Clone, Debug)]
pub struct NatsConsumer {
    /// Where the servers are.
    pub target: NatsTarget,
    /// The JetStream stream.
    pub stream: String,
    /// The durable consumer: bound unchanged if it is there, made if it is not.
    pub durable: String,
    /// Only these subjects, for a consumer that is made.
    pub filter_subject: Option<String>,
    /// How long the server waits for an acknowledgement, for a consumer that is made.
    pub ack_wait: Duration,
    /// So many events are held or in flight at most.
    pub prefetch: usize,
    /// So many bytes of them.
    pub prefetch_bytes: usize,
    /// Give events back that have been held so long in a pause.
    pub max_hold: Option<Duration>,
    /// An event that comes for the so-manieth time goes to the dead letter.
    pub max_deliver: Option<u64>,
}

/// Pulls messages from a durable consumer, and acknowledges them once the sink has them.
///
/// Several processes may share a consumer. A pull request is never dropped and never left unread: what it brings
/// after a pause began lands in the hold, and its lease is kept by progress reports. A message that the server hands
/// out again while it is held here is not handed on twice.
#[derive(Debug)]
pub struct NatsSource {
    consumer: NatsConsumer,
    settle: NatsSettle,
    said: Said,
    epoch: u32,
    link: Option<Link>,
    /// The server refused a request for messages.
    refused: bool,
}

#[derive(Debug)]
struct Link {
    /// When it began to be made.
    since: Instant,
    client: Client,
    context: Context,
    /// Where pull requests go.
    next: String,
    inbox: String,
    arrivals: Subscriber,
    pulls: VecDeque<Pull>,
    pulled: u64,
    /// A pull request allows so many bytes at least; grows where a message is larger.
    least_bytes: usize,
    /// The next message is larger than all the room there is.
    oversize: bool,
    /// What the consumer's own configuration allows in one request.
    most: usize,
    most_bytes: usize,
    longest: Duration,
}

/// A pull request whose messages have not all come.
#[derive(Debug)]
struct Pull {
    number: u64,
    asked: (usize, usize),
    events: usize,
    bytes: usize,
    until: tokio::time::Instant,
}

impl NatsSource {
    /// A source of this consumer; nothing is connected yet.
    ///
    /// # Errors
    /// [`BadBroker`].
    pub fn new(consumer: NatsConsumer) -> Result<NatsSource, BadBroker> {
        consumer.target.check()?;
        let said = Said::default();
        let settle = NatsSettle(Arc::new(Shared {
            said: said.clone(),
            max_hold: consumer.max_hold,
            leases: Leases::default(),
            bound: Mutex::default(),
        }));
        Ok(NatsSource {
            consumer,
            settle,
            said,
            epoch: 0,
            link: None,
            refused: false,
        })
    }

    async fn client(&mut self) -> Result<Client, Name> {
        let bound = self.settle.0.bound().as_ref().map(|bound| bound.client.clone());
        let Some(client) = bound else {
            return self.consumer.target.connect(&self.said).await;
        };
        if !is_up(&client) && !self.said.deaf() {
            // It reconnects by itself; this only waits for it.
            let _ = tokio::time::timeout(ANSWER, client.flush()).await;
        }
        if is_up(&client) && !self.said.deaf() {
            return Ok(client);
        }
        let client = self.consumer.target.connect(&self.said).await?;
        if let Some(bound) = &mut *self.settle.0.bound() {
            bound.client = client.clone();
        }
        Ok(client)
    }

    async fn bind(&mut self, client: Client) -> Result<Link, SourceError> {
        let since = Instant::now();
        let NatsConsumer { stream, durable, .. } = &self.consumer;
        let later = |why: Name| SourceError::Interrupted(why);
        let mut context = jetstream::new(client.clone());
        context.set_timeout(ANSWER);
        let handle = context
            .get_stream_no_info(stream)
            .await
            .map_err(|e| SourceError::Fatal(format!("stream \"{stream}\": {e}").into()))?;
        let no_stream = || later(format!("there is no stream \"{stream}\" on the server: create it").into());
        let info = match handle.consumer_info(durable).await {
            Ok(info) => info,
            Err(e) => match e.kind() {
                ConsumerInfoErrorKind::NotFound => {
                    let config = pull::Config {
                        durable_name: Some(durable.clone()),
                        ack_policy: AckPolicy::Explicit,
                        ack_wait: self.consumer.ack_wait,
                        // Of all members together: what each may hold is its own prefetch.
                        max_ack_pending: 1_000_000,
                        filter_subject: self.consumer.filter_subject.clone().unwrap_or_default(),
                        ..pull::Config::default()
                    };
                    match handle.create_consumer(config).await {
                        Ok(made) => made.cached_info().clone(),
                        Err(e) => {
                            return Err(later(
                                self.said
                                    .beside(format!("cannot make consumer \"{durable}\": {e}")),
                            ));
                        }
                    }
                }
                ConsumerInfoErrorKind::StreamNotFound => return Err(no_stream()),
                ConsumerInfoErrorKind::InvalidName => {
                    return Err(SourceError::Fatal(
                        format!("\"{durable}\" is no name for a consumer").into(),
                    ));
                }
                ConsumerInfoErrorKind::NoResponders => {
                    return Err(later(
                        "JetStream is not enabled on the server, or not for this account".into(),
                    ));
                }
                _ => {
                    return Err(later(
                        self.said
                            .beside(format!("cannot read consumer \"{durable}\": {e}")),
                    ));
                }
            },
        };
        let config = info.config;
        if config.deliver_subject.is_some() {
            return Err(SourceError::Fatal(
                format!("consumer \"{durable}\" is a push consumer: expected a pull consumer").into(),
            ));
        }
        if config.ack_policy != AckPolicy::Explicit {
            return Err(SourceError::Fatal(
                format!("consumer \"{durable}\" acknowledges {:?}: expected explicit, else a pause loses or repeats", config.ack_policy).into(),
            ));
        }
        // Each delivery has a wait of its own where there is a backoff: the shortest serves all.
        let lasts = config.backoff.iter().copied().min().unwrap_or(config.ack_wait);
        let inbox = client.new_inbox();
        let arrivals = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|e| later(self.said.beside(e)))?;
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}");
        if self.refused {
            // A request for messages that is refused gets no answer, and one that cannot be read gets one at once: so it
            // shows, without asking for any, whether the next would be refused again.
            let request = Request::new().payload("{".into()).timeout(Some(ANSWER));
            if let Err(e) = client.send_request(next.clone(), request).await {
                return Err(later(self.said.beside(format!("{MAY_NOT_ASK}: {e}"))));
            }
            self.refused = false;
        }
        let limit = |n: i64| usize::try_from(n).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
        *self.settle.0.bound() = Some(Bound {
            client: client.clone(),
            lasts,
            max_deliver: u64::try_from(config.max_deliver).ok().filter(|n| *n > 0),
        });
        Ok(Link {
            since,
            next,
            client,
            context,
            inbox,
            arrivals,
            pulls: VecDeque::new(),
            pulled: 0,
            least_bytes: self.consumer.prefetch_bytes / 8,
            oversize: false,
            most: limit(config.max_batch),
            most_bytes: limit(config.max_bytes),
            longest: match config.max_expires {
                Duration::ZERO => EXPIRES,
                most => most,
            },
        })
    }

    /// Puts one message into the batch, or says what a status means.
    fn take(
        &mut self,
        message: async_nats::Message,
        into: &mut Batch,
        now: Instant,
    ) -> Result<(), SourceError> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        if let Some(status) = message.status.filter(|s| *s != StatusCode::OK) {
            return link.hear(status, &message, &self.consumer);
        }
        link.came(message.length);
        let message = jetstream::Message {
            message,
            context: link.context.clone(),
        };
        let Ok(info) = message.info() else {
            // Whoever publishes to the inbox of another is up to no good.
            tracing::warn!("a message that JetStream did not send was ignored");
            return Ok(());
        };
        let delivered = u64::try_from(info.delivered).unwrap_or(1);
        let token = Token {
            epoch: self.epoch,
            partition: 0,
            position: info.stream_sequence.into(),
            part: 0,
        };
        let async_nats::Message {
            payload,
            reply: Some(reply),
            ..
        } = message.message
        else {
            return Ok(());
        };
        let handle = Handle { reply, delivered };
        if !self.settle.0.leases.add(&token, handle, now) {
            return Ok(());
        }
        let event = Event {
            payload,
            key: None,
            token,
        };
        match self.consumer.max_deliver {
            Some(most) if delivered > most => into.push_fault(
                event,
                format!("delivered {delivered} times and never finished, more than max_deliver = {most}")
                    .into(),
            ),
            _ => into.push(event),
        }
        Ok(())
    }

    /// Everything that has arrived, without waiting.
    fn take_all(&mut self, into: &mut Batch, now: Instant) -> Result<(), SourceError> {
        while into.events.len() < BATCH {
            let next = self
                .link
                .as_mut()
                .and_then(|link| link.arrivals.next().now_or_never());
            match next.flatten() {
                Some(message) => self.take(message, into, now)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Ends what was asked for, and takes what comes before the server has heard of it: the driver gives it back.
    async fn leave(&mut self, demand: &Demand, into: &mut Batch) {
        let Some(link) = &mut self.link else { return };
        let client = link.client.clone();
        if link.arrivals.drain().await.is_err() || !is_up(&client) {
            return;
        }
        let _ = tokio::time::timeout(LOOK, client.flush()).await;
        loop {
            let Some(link) = &mut self.link else { return };
            match tokio::time::timeout(LOOK, link.arrivals.next()).await {
                Ok(Some(message)) => {
                    if self.take(message, into, demand.clock()).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }
}

impl Link {
    /// What was asked for and has not come.
    fn asked(&self) -> (usize, usize) {
        let add = |(events, bytes), pull: &Pull| (events + pull.events, bytes + pull.bytes);
        self.pulls.iter().fold((0, 0), add)
    }

    /// A message of so many bytes came; pulls are served in turn.
    fn came(&mut self, bytes: usize) {
        let Some(first) = self.pulls.front_mut() else {
            return;
        };
        first.events = first.events.saturating_sub(1);
        first.bytes = first.bytes.saturating_sub(bytes);
        if first.events == 0 {
            self.pulls.pop_front();
        }
    }

    /// A status: most end a pull, and some say that there is no use in another.
    fn hear(
        &mut self,
        status: StatusCode,
        message: &async_nats::Message,
        consumer: &NatsConsumer,
    ) -> Result<(), SourceError> {
        if status == StatusCode::IDLE_HEARTBEAT {
            return Ok(());
        }
        let number = message.subject.rsplit('.').next().and_then(|n| n.parse().ok());
        let place = self.pulls.iter().position(|pull| Some(pull.number) == number);
        let ended = place.and_then(|place| self.pulls.remove(place));
        let said = message.description.as_deref().unwrap_or_default();
        if status == StatusCode::TIMEOUT || status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        if said.contains("Exceeds MaxBytes") {
            // Said too where some came and the next did not fit any more.
            if let Some(pull) = ended.filter(|pull| pull.events == pull.asked.0) {
                let all = consumer.prefetch_bytes;
                self.oversize = pull.asked.1 >= all.min(self.most_bytes);
                self.least_bytes = self.least_bytes.saturating_mul(2).min(all - 1);
            }
            return Ok(());
        }
        if said.contains("Consumer Deleted") {
            // What is held is of a consumer that is no more: its successor hands it out anew.
            return Err(SourceError::Broke(
                format!("consumer \"{}\" was deleted", consumer.durable).into(),
            ));
        }
        Err(SourceError::Interrupted(
            format!("the server ended a pull request: {} {said}", u16::from(status)).into(),
        ))
    }

    async fn pull(&mut self, ask: Ask, least: (usize, usize), lasts: Duration) -> Result<(), SourceError> {
        let expires = EXPIRES.min(lasts).min(self.longest);
        let mut request = pull::BatchConfig {
            batch: (ask.events + least.0).min(self.most),
            max_bytes: ask.bytes.saturating_add(least.1).min(self.most_bytes),
            expires: Some(expires),
            ..pull::BatchConfig::default()
        };
        if std::mem::take(&mut self.oversize) {
            // All the room there is, and it does not fit: one alone may overshoot.
            (request.batch, request.max_bytes) = (1, 0);
        }
        self.pulled += 1;
        let pull = Pull {
            number: self.pulled,
            asked: (request.batch, request.max_bytes),
            events: request.batch,
            bytes: request.max_bytes,
            until: tokio::time::Instant::now() + expires + ANSWER,
        };
        let payload = serde_json::to_vec(&request).map_err(|e| SourceError::Fatal(e.to_string().into()))?;
        let sent = self
            .client
            .publish_with_reply(
                self.next.clone(),
                format!("{}.{}", self.inbox, pull.number),
                payload.into(),
            )
            .await;
        drop(ask);
        sent.map_err(|e| SourceError::Interrupted(e.to_string().into()))?;
        self.pulls.push_back(pull);
        Ok(())
    }
}

impl Source for NatsSource {
    type Settle = NatsSettle;

    fn describe(&self) -> Name {
        format!("nats {}/{}", self.consumer.stream, self.consumer.durable).into()
    }

    fn settle(&self) -> NatsSettle {
        self.settle.clone()
    }

    async fn open(&mut self, epoch: u32) -> Result<(), SourceError> {
        self.epoch = epoch;
        self.settle.0.leases.begin(epoch);
        self.link = None;
        // Leases outlive the link, so nothing is given up while it is made again.
        let client = self.client().await.map_err(SourceError::Interrupted)?;
        let bound = tokio::time::timeout(ANSWER * 3, self.bind(client)).await;
        let link = bound.unwrap_or_else(|_| {
            Err(SourceError::Interrupted(
                self.said.beside("the server does not answer"),
            ))
        })?;
        self.link = Some(link);
        Ok(())
    }

    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        let (prefetch, prefetch_bytes) = (self.consumer.prefetch, self.consumer.prefetch_bytes);
        let lasts = self.settle.terms().map_or(EXPIRES, |terms| terms.lasts);
        loop {
            self.take_all(into, demand.clock())?;
            if !into.is_empty() {
                return Ok(Fetched::Events);
            }
            let lost = || SourceError::Interrupted(self.said.beside("the connection to the server is lost"));
            let Some(link) = &mut self.link else {
                return Err(lost());
            };
            let now = tokio::time::Instant::now();
            link.pulls.retain(|pull| pull.until > now);
            let (events, bytes) = link.asked();
            // A pull for an eighth of the room at least: one for each event that leaves would cost more than it.
            let least = match link.oversize {
                true => (prefetch - 1, prefetch_bytes - 1),
                false => (prefetch / 8, link.least_bytes),
            };
            let wants = match link.oversize {
                true => link.pulls.is_empty(),
                false => events <= prefetch / 2 && bytes <= prefetch_bytes / 2,
            };
            tokio::select! {
                biased;
                () = demand.stopping() => {
                    self.leave(demand, into).await;
                    return Ok(Fetched::End);
                }
                message = link.arrivals.next() => match message {
                    Some(message) => self.take(message, into, demand.clock())?,
                    None => return Err(lost()),
                },
                ask = demand.wanted_beside(events + least.0, bytes + least.1), if wants => {
                    if let Some(ask) = ask {
                        link.pull(ask, least, lasts).await?;
                    }
                }
                () = tokio::time::sleep(LOOK) => {
                    if !is_up(&link.client) {
                        return Err(lost());
                    }
                    if let Some(why) = self.said.about(link.since, &[&link.next, &link.inbox]) {
                        self.refused = true;
                        return Err(SourceError::Interrupted(format!("{MAY_NOT_ASK} ({why})").into()));
                    }
                }
            }
        }
    }

    async fn close(&mut self) {
        let bound = self.settle.0.bound().take();
        if let Some(bound) = bound {
            // What was said last has to be on its way before the process ends.
            let _ = tokio::time::timeout(LOOK, bound.client.flush()).await;
        }
        self.link = None;
    }
}

/// What settles one message.
#[derive(Clone, Debug)]
struct Handle {
    reply: Subject,
    delivered: u64,
}

#[derive(Debug)]
struct Shared {
    said: Said,
    max_hold: Option<Duration>,
    leases: Leases<Handle>,
    bound: Mutex<Option<Bound>>,
}

/// What is known once a consumer is bound.
#[derive(Debug)]
struct Bound {
    client: Client,
    lasts: Duration,
    max_deliver: Option<u64>,
}

impl Shared {
    fn bound(&self) -> MutexGuard<'_, Option<Bound>> {
        // Nothing in here panics half way.
        self.bound.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn client(&self) -> Result<Client, SettleError> {
        let bound = self.bound();
        let bound = bound.as_ref();
        let up = bound.filter(|bound| is_up(&bound.client));
        // A client that is not connected would queue it, and whoever waits would not know.
        up.map(|bound| bound.client.clone())
            .ok_or_else(|| SettleError::Retry("nats: the connection to the server is lost".into()))
    }

    /// Says the same of several messages. The server takes these in order on one connection: its answer to the last
    /// is an answer to all.
    async fn say(&self, kind: AckKind, handles: &[Handle]) -> Result<(), SettleError> {
        let Some((last, rest)) = handles.split_last() else {
            return Ok(());
        };
        let client = self.client()?;
        let failed = |e: &dyn std::fmt::Display| {
            SettleError::Retry(self.said.beside(format!("nats: not settled: {e}")))
        };
        let word = Bytes::from(kind);
        for handle in rest {
            let sent = client.publish(handle.reply.clone(), word.clone()).await;
            sent.map_err(|e| failed(&e))?;
        }
        let request = Request::new().payload(word).timeout(Some(ANSWER));
        let answer = client.send_request(last.reply.clone(), request).await;
        answer.map(drop).map_err(|e| failed(&e))
    }
}

/// The other handle of a [`NatsSource`].
#[derive(Clone, Debug)]
pub struct NatsSettle(Arc<Shared>);

impl Settle for NatsSettle {
    async fn ack(&self, done: &[Token]) -> Result<(), SettleError> {
        let handles = self.0.leases.handles(done);
        self.0.say(AckKind::Ack, &handles).await?;
        self.0.leases.remove(done);
        Ok(())
    }

    fn may_lose(&self) -> bool {
        true
    }

    fn ours(&self, event: &Token) -> bool {
        self.0.leases.has(event)
    }

    fn claim(&self, event: &Token) -> bool {
        self.0.leases.claim(event)
    }

    fn terms(&self) -> Option<Terms> {
        let bound = self.0.bound();
        Some(Terms {
            // Nothing is out before a consumer is bound.
            lasts: bound.as_ref().map_or(EXPIRES, |bound| bound.lasts),
            max_hold: self.0.max_hold,
        })
    }

    fn outstanding(&self) -> Option<Outstanding> {
        self.0.leases.outstanding()
    }

    async fn extend(&self, before: Instant) -> Result<usize, SettleError> {
        // Taken first: the server counts from when it hears, which is later.
        let sent = tokio::time::Instant::now().into_std();
        let (ids, handles): (Vec<LeaseId>, Vec<Handle>) = self.0.leases.due(before).into_iter().unzip();
        self.0.say(AckKind::Progress, &handles).await?;
        self.0.leases.renewed(&ids, sent);
        Ok(0)
    }

    fn expire(&self, before: Instant) -> usize {
        self.0
            .leases
            .expire(before, tokio::time::Instant::now().into_std())
    }

    async fn give_back(&self, held: &[Token]) -> Result<(), SettleError> {
        let mut handles = self.0.leases.handles(held);
        self.0.leases.remove(held);
        let last = self.0.bound().as_ref().and_then(|bound| bound.max_deliver);
        // Given back at its last delivery a message never comes again; left alone it does not either, but whoever
        // reads the server's advisories then learns of it as a missed acknowledgement, which it is.
        handles.retain(|handle| last.is_none_or(|last| handle.delivered < last));
        self.0.say(AckKind::Nak(None), &handles).await
    }
}
