//! A Redis Streams consumer group.
use super::redis::{ANSWER, RedisTarget, told};
use crate::broker_config::BadBroker;
use crate::event::{Batch, Event, Fetched, Settle, SettleError, Source, SourceError, Token};
use crate::hold::{Ask, Demand};
use crate::lease::{LeaseId, Leases, Outstanding, Terms};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Script, Value};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tidegate_gate::Name;

/// How long a read waits at the server. A read is never given up, so a stop may wait as long.
const BLOCK: Duration = Duration::from_millis(500);

/// At most so many entries in one read, and in one claim: each keeps the server for about a millisecond.
const READ: usize = 1024;
const CLAIM: usize = 256;

/// Large enough for every other member to take it at once.
const ABANDONED: u64 = 1 << 40;

static CLAIMS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis_claims.lua")));

/// Ends a consumer, unless it still has something: its entries would be nobody's.
static RETIRE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "for _, c in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do \
           if c[2] == ARGV[2] and c[4] == 0 then \
             return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) \
           end \
         end",
    )
});

/// What a [`RedisSource`] is made of.
#[derive(Clone, Debug)]
pub struct RedisConsumer {
    /// Where the server is.
    pub target: RedisTarget,
    /// The key of the stream.
    pub stream: String,
    /// The group: used as it is if it is there, made from the stream's beginning if it is not.
    pub group: String,
    /// This process's name in the group; none: a new one.
    pub consumer: Option<String>,
    /// The field of an entry that is the event; none: the only field's value, or all fields as a JSON object.
    pub field: Option<String>,
    /// A consumer that was not heard of for so long is dead.
    pub min_idle: Duration,
    /// So many bytes are wanted at most.
    pub prefetch_bytes: usize,
    /// Give events back that have been held so long in a pause.
    pub max_hold: Option<Duration>,
    /// An entry that was delivered more often goes to the dead letter.
    pub max_deliver: Option<i64>,
}

/// The id of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(u64, u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl Id {
    fn of(value: &Value) -> Option<Id> {
        let Value::BulkString(bytes) = value else {
            return None;
        };
        let (millis, number) = std::str::from_utf8(bytes).ok()?.split_once('-')?;
        Some(Id(millis.parse().ok()?, number.parse().ok()?))
    }

    fn token(self, epoch: u32) -> Token {
        Token {
            epoch,
            partition: 0,
            position: (u128::from(self.0) << 64) | u128::from(self.1),
            part: 0,
        }
    }
}

/// One entry, as it was read; no fields if the stream has lost it since it was delivered.
struct Entry {
    id: Id,
    fields: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

/// Reads a stream as a member of a consumer group, and acknowledges entries once the sink has them.
///
/// What was delivered to this consumer before and never acknowledged comes first; entries of consumers that have not
/// been heard of for `min_idle` are taken over. Entries that are held are claimed again every third of `min_idle`,
/// only where they still are this consumer's.
#[derive(Debug)]
pub struct RedisSource {
    consumer: RedisConsumer,
    name: Arc<str>,
    settle: RedisSettle,
    epoch: u32,
    reader: Option<MultiplexedConnection>,
    /// Where to go on among what was delivered to this consumer before; none when through.
    own: Option<Id>,
    /// When to look for dead consumers next, and where to go on.
    takeover: Instant,
    takeover_from: String,
    /// The largest entry of late, to guess how many fit.
    size: usize,
}

impl RedisSource {
    /// A source of this consumer; nothing is connected yet.
    ///
    /// # Errors
    /// [`BadBroker`].
    pub fn new(consumer: RedisConsumer) -> Result<RedisSource, BadBroker> {
        consumer.target.check()?;
        let name: Arc<str> = match &consumer.consumer {
            Some(name) => name.as_str().into(),
            None => {
                let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
                format!("{}-{:08x}", host.trim(), fastrand::u32(..)).into()
            }
        };
        let settle = RedisSettle(Arc::new(Shared {
            consumer: consumer.clone(),
            name: name.clone(),
            leases: Leases::default(),
            control: Mutex::default(),
            given_back: AtomicBool::new(false),
            trimmed: AtomicBool::new(false),
        }));
        Ok(RedisSource {
            consumer,
            name,
            settle,
            epoch: 0,
            reader: None,
            own: None,
            takeover: Instant::now(),
            takeover_from: "0-0".into(),
            size: 0,
        })
    }

    /// Whether this user may do what keeps and settles entries, tried on an entry that there cannot be: else it would take
    /// some, and others would take them over while they are held.
    async fn may_keep(&self, control: &mut MultiplexedConnection) -> Result<(), SourceError> {
        let RedisConsumer { stream, group, .. } = &self.consumer;
        let none = Id(0, 0).to_string();
        let mut claims = CLAIMS.prepare_invoke();
        claims.key(stream).arg(group).arg(&*self.name).arg(0).arg(&none);
        let scripted: Result<Value, RedisError> = claims.invoke_async(control).await;
        let mut claim = redis::cmd("XCLAIM");
        claim.arg(stream).arg(group).arg(&*self.name).arg(0).arg(&none);
        let claimed: Result<Value, RedisError> = claim.query_async(control).await;
        let mut ack = redis::cmd("XACK");
        ack.arg(stream).arg(group).arg(&none);
        let acked: Result<Value, RedisError> = ack.query_async(control).await;
        match scripted.and(claimed).and(acked) {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("NOPERM") => Err(SourceError::Interrupted(
                format!(
                    "this user may not keep what it is handed ({}): grant EVAL, EVALSHA, SCRIPT, XPENDING, XRANGE, XCLAIM \
                     and XACK",
                    told(&error)
                )
                .into(),
            )),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// How many entries to ask for: as many as fit if they are no larger than those of late; the first read asks for
    /// one.
    fn count(&self, ask: &Ask) -> usize {
        let fit = match self.size {
            0 => 1,
            size => ask.bytes.div_ceil(size),
        };
        fit.clamp(1, ask.events.min(READ))
    }

    fn group_read(&self, count: usize) -> Cmd {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.consumer.group).arg(&*self.name);
        read.arg("COUNT").arg(count);
        read
    }

    /// One request, begun under the ask and awaited to its end.
    async fn read(&mut self, ask: Ask, now: Instant) -> Result<Vec<Entry>, SourceError> {
        let count = self.count(&ask);
        let Some(mut reader) = self.reader.clone() else {
            return Err(SourceError::Interrupted("not connected".into()));
        };
        let stream = self.consumer.stream.clone();
        if self.settle.0.given_back.swap(false, SeqCst) {
            self.own = Some(Id(0, 0));
        }
        if let Some(from) = self.own {
            let mut read = self.group_read(count);
            read.arg("STREAMS").arg(&stream).arg(from.to_string());
            let answer: Result<Value, RedisError> = read.query_async(&mut reader).await;
            drop(ask);
            let entries = self.entries(answer)?;
            self.own = entries.last().map(|last| last.id);
            return self.still_ours(entries).await;
        }
        if now >= self.takeover {
            let mut claim = redis::cmd("XAUTOCLAIM");
            claim.arg(&stream).arg(&self.consumer.group).arg(&*self.name);
            claim.arg(self.consumer.min_idle.as_millis() as u64);
            claim.arg(&self.takeover_from).arg("COUNT").arg(count.min(CLAIM));
            let answer: Result<Value, RedisError> = claim.query_async(&mut reader).await;
            drop(ask);
            let Value::Array(parts) = answer.map_err(|e| self.failed(&e))? else {
                return Ok(Vec::new());
            };
            let next = parts.first().and_then(Id::of).unwrap_or(Id(0, 0));
            if next == Id(0, 0) {
                self.takeover = now + self.consumer.min_idle / 2;
            }
            self.takeover_from = next.to_string();
            let entries: Vec<Entry> = parts.get(1).map(entries_of).unwrap_or_default();
            return self.still_ours(entries).await;
        }
        let mut read = self.group_read(count);
        read.arg("BLOCK").arg(BLOCK.as_millis() as u64);
        read.arg("STREAMS").arg(&stream).arg(">");
        let mut answer = std::pin::pin!(read.query_async::<Value>(&mut reader));
        // On its way: the rest is waiting for an answer, which is no reason to delay a pause.
        let first = futures_util::poll!(answer.as_mut());
        drop(ask);
        let answer = match first {
            std::task::Poll::Ready(answer) => answer,
            std::task::Poll::Pending => answer.await,
        };
        self.entries(answer)
    }

    /// Of entries that were delivered before: those that are this consumer's now, with their leases begun anew. What
    /// the stream has lost is told of and forgotten.
    async fn still_ours(&self, entries: Vec<Entry>) -> Result<Vec<Entry>, SourceError> {
        let (there, gone): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| e.fields.is_some());
        if !gone.is_empty() {
            tracing::error!(
                stream = %self.consumer.stream, group = %self.consumer.group, events = gone.len(),
                "lost: trimmed from the stream after they were delivered and before they were acknowledged"
            );
            let ids: Vec<Id> = gone.iter().map(|e| e.id).collect();
            self.settle
                .0
                .acknowledge(&ids)
                .await
                .map_err(|e| self.failed(&e))?;
        }
        let fresh: Vec<Entry> = there
            .into_iter()
            .filter(|e| !self.settle.0.leases.has(&e.id.token(self.epoch)))
            .collect();
        let ids: Vec<Id> = fresh.iter().map(|e| e.id).collect();
        let claims = self.settle.0.claims(&ids, 0).await.map_err(|e| self.failed(&e))?;
        let kept = fresh.into_iter().zip(claims).filter(|(_, claim)| *claim >= 0);
        Ok(kept.map(|(entry, _)| entry).collect())
    }

    fn entries(&self, answer: Result<Value, RedisError>) -> Result<Vec<Entry>, SourceError> {
        let Value::Array(streams) = answer.map_err(|e| self.failed(&e))? else {
            return Ok(Vec::new()); // nothing came in time
        };
        let Some(Value::Array(stream)) = streams.first() else {
            return Ok(Vec::new());
        };
        Ok(stream.get(1).map(entries_of).unwrap_or_default())
    }

    fn failed(&self, error: &RedisError) -> SourceError {
        match error.code() {
            Some("NOGROUP" | "UNBLOCKED") => SourceError::Broke(
                format!(
                    "the stream or its group \"{}\" is gone: {}",
                    self.consumer.group,
                    told(error)
                )
                .into(),
            ),
            _ => SourceError::Interrupted(told(error).into()),
        }
    }

    async fn put(&mut self, entries: Vec<Entry>, into: &mut Batch, now: Instant) -> Result<(), SourceError> {
        let mut largest = 0;
        for Entry { id, fields } in entries {
            let token = id.token(self.epoch);
            if !self.settle.0.leases.add(&token, id, now) {
                continue;
            }
            let payload = payload_of(fields.unwrap_or_default(), self.consumer.field.as_deref());
            largest = largest.max(payload.as_ref().map_or(1, |p| p.len().max(64)));
            match payload {
                Ok(payload) => into.push(Event {
                    payload,
                    key: None,
                    token,
                }),
                Err(why) => into.push_fault(
                    Event {
                        payload: Bytes::new(),
                        key: None,
                        token,
                    },
                    why,
                ),
            }
        }
        if largest > 0 {
            self.size = largest.max(self.size - self.size / 8);
        }
        let Some(most) = self.consumer.max_deliver else {
            return Ok(());
        };
        // How often each was delivered is not in the answer to a read.
        let ids: Vec<Id> = into
            .events
            .iter()
            .filter_map(|e| self.settle.0.leases.handles(&[e.token]).pop())
            .collect();
        let claims = self.settle.0.claims(&ids, 0).await.map_err(|e| self.failed(&e))?;
        for (event, times) in into.events.iter().zip(claims) {
            if times > most {
                let why =
                    format!("delivered {times} times and never finished, more than max_deliver = {most}");
                into.faults
                    .push_back((event.token, crate::event::Poison::new(why)));
            }
        }
        Ok(())
    }
}

fn entries_of(value: &Value) -> Vec<Entry> {
    let Value::Array(entries) = value else {
        return Vec::new();
    };
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => bytes.clone(),
        _ => Vec::new(),
    };
    entries
        .iter()
        .filter_map(|entry| {
            let Value::Array(parts) = entry else { return None };
            let id = Id::of(parts.first()?)?;
            let fields = match parts.get(1) {
                Some(Value::Array(flat)) => {
                    let pairs = flat.chunks_exact(2);
                    Some(pairs.map(|pair| (text(&pair[0]), text(&pair[1]))).collect())
                }
                _ => None,
            };
            Some(Entry { id, fields })
        })
        .collect()
}

fn payload_of(mut fields: Vec<(Vec<u8>, Vec<u8>)>, wanted: Option<&str>) -> Result<Bytes, Name> {
    if let Some(wanted) = wanted {
        let found = fields.into_iter().find(|(name, _)| name == wanted.as_bytes());
        return match found {
            Some((_, value)) => Ok(value.into()),
            None => Err(format!("the entry has no field \"{wanted}\"").into()),
        };
    }
    if fields.len() == 1 {
        return Ok(fields.swap_remove(0).1.into());
    }
    let mut object = serde_json::Map::new();
    for (name, value) in fields {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| "a field of the entry is no UTF-8");
        object.insert(text(name)?, text(value)?.into());
    }
    Ok(serde_json::Value::Object(object).to_string().into())
}

impl Source for RedisSource {
    type Settle = RedisSettle;

    fn describe(&self) -> Name {
        format!("redis {}/{}", self.consumer.stream, self.consumer.group).into()
    }

    fn settle(&self) -> RedisSettle {
        self.settle.clone()
    }

    async fn open(&mut self, epoch: u32) -> Result<(), SourceError> {
        self.epoch = epoch;
        self.settle.0.leases.begin(epoch);
        self.reader = None;
        let target = &self.consumer.target;
        let mut control = target.connect(ANSWER).await.map_err(SourceError::Interrupted)?;
        let reader = target
            .connect(BLOCK + ANSWER)
            .await
            .map_err(SourceError::Interrupted)?;
        let made: Result<Value, RedisError> = redis::cmd("XGROUP")
            .arg("CREATE")
            .arg(&self.consumer.stream)
            .arg(&self.consumer.group)
            .arg("0")
            .query_async(&mut control)
            .await;
        if let Err(error) = made {
            match (error.code(), error.detail()) {
                // Used as it is. Whoever may not make groups may still read of one.
                (Some("BUSYGROUP" | "NOPERM"), _) => {}
                (_, Some(detail)) if detail.contains("requires the key to exist") => {
                    return Err(SourceError::Interrupted(
                        format!(
                            "there is no stream \"{}\": add to it, and it is read from its beginning",
                            self.consumer.stream
                        )
                        .into(),
                    ));
                }
                _ => return Err(self.failed(&error)),
            }
        }
        self.may_keep(&mut control).await?;
        *self.settle.0.control() = Some(control);
        self.reader = Some(reader);
        // Also after a break: an answer that got lost on its way left its entries there.
        self.own = Some(Id(0, 0));
        Ok(())
    }

    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        while into.is_empty() {
            let Some(ask) = demand.wanted().await else {
                return Ok(Fetched::End);
            };
            let entries = self.read(ask, demand.clock()).await?;
            self.put(entries, into, demand.clock()).await?;
        }
        Ok(Fetched::Events)
    }

    async fn close(&mut self) {
        let control = self.settle.0.control().take();
        if let (Some(mut control), None) = (control, &self.consumer.consumer) {
            let mut retire = RETIRE.prepare_invoke();
            retire
                .key(&self.consumer.stream)
                .arg(&self.consumer.group)
                .arg(&*self.name);
            let _: Result<Value, RedisError> = retire.invoke_async(&mut control).await;
        }
        self.reader = None;
    }
}

#[derive(Debug)]
struct Shared {
    consumer: RedisConsumer,
    name: Arc<str>,
    leases: Leases<Id>,
    control: Mutex<Option<MultiplexedConnection>>,
    /// What was given back is still under this consumer's name, and is read anew.
    given_back: AtomicBool,
    /// It was told of once that trimming takes what is held.
    trimmed: AtomicBool,
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        // Nothing in here panics half way.
        self.control
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        let control = self.control().clone();
        control.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected).into())
    }

    /// Claims those that still are this consumer's, and says of each what `redis_claims.lua` says.
    async fn claims(&self, ids: &[Id], idle_millis: u64) -> Result<Vec<i64>, RedisError> {
        let mut said = Vec::with_capacity(ids.len());
        for some in ids.chunks(CLAIM) {
            let mut connection = self.connection()?;
            let mut claims = CLAIMS.prepare_invoke();
            claims.key(&self.consumer.stream).arg(&self.consumer.group);
            claims.arg(&*self.name).arg(idle_millis);
            for id in some {
                claims.arg(id.to_string());
            }
            let some: Vec<i64> = claims.invoke_async(&mut connection).await?;
            said.extend(some);
        }
        Ok(said)
    }

    async fn acknowledge(&self, ids: &[Id]) -> Result<(), RedisError> {
        for some in ids.chunks(READ) {
            let mut connection = self.connection()?;
            let mut ack = redis::cmd("XACK");
            ack.arg(&self.consumer.stream).arg(&self.consumer.group);
            for id in some {
                ack.arg(id.to_string());
            }
            ack.query_async::<Value>(&mut connection).await?;
        }
        Ok(())
    }
}

/// The other handle of a [`RedisSource`].
#[derive(Clone, Debug)]
pub struct RedisSettle(Arc<Shared>);

fn retry(error: RedisError) -> SettleError {
    SettleError::Retry(format!("redis: not settled: {}", told(&error)).into())
}

impl Settle for RedisSettle {
    async fn ack(&self, done: &[Token]) -> Result<(), SettleError> {
        let ids = self.0.leases.handles(done);
        self.0.acknowledge(&ids).await.map_err(retry)?;
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
        Some(Terms {
            lasts: self.0.consumer.min_idle,
            max_hold: self.0.consumer.max_hold,
        })
    }

    fn outstanding(&self) -> Option<Outstanding> {
        self.0.leases.outstanding()
    }

    async fn extend(&self, before: Instant) -> Result<usize, SettleError> {
        // Taken first: the server counts from when it hears, which is later.
        let sent = tokio::time::Instant::now().into_std();
        let (leases, ids): (Vec<LeaseId>, Vec<Id>) = self.0.leases.due(before).into_iter().unzip();
        let claims = self.0.claims(&ids, 0).await.map_err(retry)?;
        let trimmed = claims.iter().filter(|claim| **claim == -2).count();
        if trimmed > 0 && !self.0.trimmed.swap(true, SeqCst) {
            tracing::error!(
                stream = %self.0.consumer.stream, events = trimmed,
                "the stream is trimmed while entries are held: this process has the only copy, and a kill would lose \
                 them; raise MAXLEN or resume"
            );
        }
        let lost: Vec<LeaseId> = leases
            .iter()
            .zip(&claims)
            .filter(|(_, claim)| **claim == -1)
            .map(|(id, _)| *id)
            .collect();
        self.0.leases.renewed(&leases, sent);
        Ok(self.0.leases.lost(&lost))
    }

    fn expire(&self, before: Instant) -> usize {
        self.0
            .leases
            .expire(before, tokio::time::Instant::now().into_std())
    }

    async fn give_back(&self, held: &[Token]) -> Result<(), SettleError> {
        let ids = self.0.leases.handles(held);
        self.0.leases.remove(held);
        self.0.given_back.store(true, SeqCst);
        self.0.claims(&ids, ABANDONED).await.map(drop).map_err(retry)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    #[test]
    fn an_entry_is_its_only_field_or_the_named_one_or_an_object() {
        let field = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
        let one = || vec![field("data", b"\xff1")];
        let two = || vec![field("b", b"2"), field("a", b"1")];
        assert_eq!(payload_of(one(), None).unwrap(), &b"\xff1"[..]);
        assert_eq!(payload_of(two(), None).unwrap(), r#"{"b":"2","a":"1"}"#);
        assert_eq!(payload_of(two(), Some("a")).unwrap(), "1");
        assert!(payload_of(two(), Some("c")).unwrap_err().contains("\"c\""));
        let raw = vec![field("a", b"\xff"), field("b", b"2")];
        assert!(payload_of(raw, None).unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn ids_are_ordered_as_positions() {
        let id = |text: &str| Id::of(&Value::BulkString(text.into())).unwrap();
        assert_eq!(id("1700000000000-3").to_string(), "1700000000000-3");
        let position = |text| id(text).token(1).position;
        assert!(position("5-9") < position("6-0") && position("6-0") < position("6-1"));
        assert_eq!(Id::of(&Value::BulkString("x".into())), None);
    }
}
