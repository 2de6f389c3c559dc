//! A webhook: events that peers post.
use crate::event::{Batch, Event, Fetched, Settle, SettleError, Source, SourceError, Token};
use crate::hold::Demand;
use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tidegate_gate::{Gate, Name};
use tidegate_http::{Address, Limits, Listener, RequestBody};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// When to come again: a pause has no end that is known, a full house usually has one soon.
const AFTER_PAUSE: HeaderValue = HeaderValue::from_static("5");
const AFTER_FULL: HeaderValue = HeaderValue::from_static("1");

/// How long peers may take to read their last answers when the stream has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// When a peer gets its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accept {
    /// Once the sink has the event: 200. While the stream is held: 503.
    #[default]
    Stored,
    /// At once: 202. What is held is lost when the process ends.
    Early,
}

/// What an [`HttpSource`] is made of.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Where to listen.
    pub listen: Address,
    /// The path that takes events, exactly.
    pub path: String,
    /// When peers get their answers.
    pub accept: Accept,
    /// The longest body in bytes; a longer one gets 413.
    pub max_body: usize,
    /// So many events may wait; one more gets 429.
    pub max_waiting: usize,
    /// So many bytes of events may wait.
    pub max_waiting_bytes: usize,
}

/// Takes each body that is posted to its path as one event.
///
/// A peer gets 200 once the sink has its event (or the dead letter has), 429 when too many wait, and 503 with
/// `Retry-After` while the stream is held: also those whose events had come and not passed the gate, so that they
/// can turn elsewhere. An event whose peer has gone before it passed the gate is dropped: the peer has had no
/// answer, so it will come again. With [`Accept::Early`] peers get 202 at once, also while the stream is held, until
/// the house is full.
#[derive(Debug)]
pub struct HttpSource {
    shared: Arc<Shared>,
    /// Its positions are those of this process: a restart must not use them for other events.
    run: u64,
    epoch: u32,
    server: Option<(CancellationToken, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Shared {
    webhook: Webhook,
    gate: Gate,
    inner: Mutex<Inner>,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    arrived: Notify,
    withdrawn: Notify,
    ending: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// Not fetched yet, oldest first. Whoever withdraws leaves its number here.
    queue: VecDeque<u64>,
    waiting: HashMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    payload: Bytes,
    claimed: bool,
    /// Nobody waits for what was accepted early.
    peer: Option<oneshot::Sender<Verdict>>,
    _place: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stored,
    GivenBack,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No critical section here can panic half way.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes an event back for its peer, if it has not passed the gate.
    fn withdraw(&self, number: u64) -> bool {
        let mut inner = self.inner();
        match inner.waiting.get(&number) {
            Some(waiting) if !waiting.claimed => {
                inner.waiting.remove(&number);
                drop(inner);
                self.withdrawn.notify_one();
                true
            }
            _ => false,
        }
    }

    fn settle(&self, tokens: &[Token], verdict: Verdict) {
        let mut inner = self.inner();
        for token in tokens {
            // The lower half is the number, the upper the run.
            if let Some(peer) = inner
                .waiting
                .remove(&(token.position as u64))
                .and_then(|w| w.peer)
            {
                let _ = peer.send(verdict);
            }
        }
    }
}

impl HttpSource {
    /// A webhook before `gate`; it does not listen yet.
    pub fn new(webhook: Webhook, gate: Gate) -> HttpSource {
        // More would not fit a semaphore, and is more than any memory has.
        let most = |n: usize| n.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        HttpSource {
            shared: Arc::new(Shared {
                places: Arc::new(Semaphore::new(most(webhook.max_waiting))),
                bytes: Arc::new(Semaphore::new(most(
                    webhook.max_waiting_bytes.max(webhook.max_body),
                ))),
                webhook,
                gate,
                inner: Mutex::default(),
                arrived: Notify::new(),
                withdrawn: Notify::new(),
                ending: AtomicBool::new(false),
            }),
            run: fastrand::u64(..),
            epoch: 0,
            server: None,
        }
    }

    fn token(&self, number: u64) -> Token {
        Token {
            epoch: self.epoch,
            partition: 0,
            position: (u128::from(self.run) << 64) | u128::from(number),
            part: 0,
        }
    }

    /// Moves events from the queue into the batch.
    fn hand_out(&self, into: &mut Batch, events: usize, bytes: usize) {
        let mut inner = self.shared.inner();
        while into.events.len() < events && into.bytes < bytes {
            let Some(number) = inner.queue.pop_front() else {
                break;
            };
            if let Some(waiting) = inner.waiting.get(&number) {
                into.push(Event {
                    payload: waiting.payload.clone(),
                    key: None,
                    token: self.token(number),
                });
            }
        }
    }

    /// No more events: those that nobody fetched go back to their peers.
    fn end(&self, into: &mut Batch) {
        self.shared.ending.store(true, SeqCst);
        if self.shared.webhook.accept == Accept::Early {
            // They were accepted, so they have to be written or reported.
            return self.hand_out(into, usize::MAX, usize::MAX);
        }
        let mut inner = self.shared.inner();
        while let Some(number) = inner.queue.pop_front() {
            if let Some(peer) = inner.waiting.remove(&number).and_then(|w| w.peer) {
                let _ = peer.send(Verdict::GivenBack);
            }
        }
    }
}

impl Drop for HttpSource {
    fn drop(&mut self) {
        if let Some((_, server)) = &self.server {
            server.abort();
        }
    }
}

impl Source for HttpSource {
    type Settle = HttpSettle;

    fn describe(&self) -> Name {
        let Webhook { listen, path, .. } = &self.shared.webhook;
        format!("http {listen}{path}").into()
    }

    fn settle(&self) -> HttpSettle {
        HttpSettle(self.shared.clone())
    }

    fn takes_back(&self) -> bool {
        self.shared.webhook.accept == Accept::Stored
    }

    async fn open(&mut self, epoch: u32) -> Result<(), SourceError> {
        self.epoch = epoch;
        if self.server.is_some() {
            return Ok(());
        }
        let listen = &self.shared.webhook.listen;
        let listener = Listener::bind(listen, None, Limits::default())
            .await
            .map_err(|e| SourceError::Broke(e.to_string().into()))?;
        tracing::info!(listen = %listener.local(), path = %self.shared.webhook.path, "takes events");
        let stop = CancellationToken::new();
        let door = Door(self.shared.clone());
        let server = tokio::spawn(listener.serve(door, stop.clone()));
        self.server = Some((stop, server));
        Ok(())
    }

    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        let early = self.shared.webhook.accept == Accept::Early;
        loop {
            let room = async {
                if early {
                    // It is here and has been answered for, whether it may pass or not.
                    return demand.room().await;
                }
                let ask = demand.wanted().await?;
                Some((ask.events, ask.bytes))
            };
            let room = tokio::select! {
                room = room => room,
                () = self.shared.withdrawn.notified() => {
                    demand.lost();
                    continue;
                }
            };
            let Some((events, bytes)) = room else {
                self.end(into);
                return Ok(Fetched::End);
            };
            self.hand_out(into, events, bytes);
            if !into.is_empty() {
                return Ok(Fetched::Events);
            }
            tokio::select! {
                () = self.shared.arrived.notified() => {}
                () = self.shared.withdrawn.notified() => demand.lost(),
                () = demand.stopping() => {}
            }
        }
    }

    async fn close(&mut self) {
        self.end(&mut Batch::default());
        let Some((stop, mut server)) = self.server.take() else {
            return;
        };
        stop.cancel();
        if tokio::time::timeout(LAST_ANSWERS, &mut server).await.is_err() {
            server.abort();
        }
    }
}

/// Answers peers.
#[derive(Clone, Debug)]
pub struct HttpSettle(Arc<Shared>);

impl Settle for HttpSettle {
    fn may_lose(&self) -> bool {
        true
    }

    fn ours(&self, event: &Token) -> bool {
        self.0.inner().waiting.contains_key(&(event.position as u64))
    }

    fn claim(&self, event: &Token) -> bool {
        match self.0.inner().waiting.get_mut(&(event.position as u64)) {
            Some(waiting) => {
                waiting.claimed = true;
                true
            }
            None => false,
        }
    }

    async fn ack(&self, done: &[Token]) -> Result<(), SettleError> {
        self.0.settle(done, Verdict::Stored);
        Ok(())
    }

    async fn give_back(&self, held: &[Token]) -> Result<(), SettleError> {
        self.0.settle(held, Verdict::GivenBack);
        Ok(())
    }
}

/// The service behind the listener.
#[derive(Clone)]
struct Door(Arc<Shared>);

type Answer = Response<Full<Bytes>>;

impl tower::Service<Request<RequestBody>> for Door {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move { Ok(answer(shared, request).await) })
    }
}

fn say(status: StatusCode, message: &str) -> Answer {
    let body = serde_json::json!({ "message": message }).to_string();
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

fn held() -> Answer {
    let mut answer = say(
        StatusCode::SERVICE_UNAVAILABLE,
        "The stream is paused, come again later",
    );
    answer.headers_mut().insert(RETRY_AFTER, AFTER_PAUSE);
    answer
}

fn full() -> Answer {
    let mut answer = say(
        StatusCode::TOO_MANY_REQUESTS,
        "Too many events wait, come again later",
    );
    answer.headers_mut().insert(RETRY_AFTER, AFTER_FULL);
    answer
}

fn ending() -> Answer {
    let mut answer = say(
        StatusCode::SERVICE_UNAVAILABLE,
        "The stream is ending, come again later",
    );
    answer.headers_mut().insert(RETRY_AFTER, AFTER_FULL);
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(CONNECTION, close);
    answer
}

async fn answer(shared: Arc<Shared>, request: Request<RequestBody>) -> Answer {
    let Webhook {
        path,
        accept,
        max_body,
        ..
    } = &shared.webhook;
    let early = *accept == Accept::Early;
    if request.uri().path() != path {
        return say(StatusCode::NOT_FOUND, "There is nothing here");
    }
    if request.method() != Method::POST {
        let mut answer = say(StatusCode::METHOD_NOT_ALLOWED, "Events are posted");
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        return answer;
    }
    let kind = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    if kind.is_some_and(|k| k.starts_with("application/x-ndjson")) {
        return say(StatusCode::UNSUPPORTED_MEDIA_TYPE, "One request is one event");
    }
    if shared.ending.load(SeqCst) {
        return ending();
    }
    if !early && shared.gate.is_closed() {
        return held();
    }
    // Room for the whole body before any of it is read, so that no number of slow peers outgrows the memory.
    let announced = http_body::Body::size_hint(request.body()).upper();
    let size = match announced {
        Some(size) if size > *max_body as u64 => return too_long(*max_body),
        Some(size) => usize::try_from(size).unwrap_or(*max_body),
        None => *max_body,
    };
    let permits = u32::try_from(size.max(1)).unwrap_or(u32::MAX);
    let (Ok(place), Ok(mut bytes)) = (
        shared.places.clone().try_acquire_owned(),
        shared.bytes.clone().try_acquire_many_owned(permits),
    ) else {
        return full();
    };
    let payload = match Limited::new(request.into_body(), *max_body).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return too_long(*max_body),
        Err(_) => return say(StatusCode::REQUEST_TIMEOUT, "The body did not come"),
    };
    // What was not needed is free again.
    let unused = bytes.num_permits().saturating_sub(payload.len().max(1));
    drop(bytes.split(unused));
    let (tell, verdict) = oneshot::channel();
    let number = {
        let mut inner = shared.inner();
        // Under the lock that ending takes: nothing may join a queue that nobody looks at any more.
        if shared.ending.load(SeqCst) {
            return ending();
        }
        let number = inner.next;
        inner.next += 1;
        inner.queue.push_back(number);
        let waiting = Waiting {
            payload,
            claimed: false,
            peer: (!early).then_some(tell),
            _place: place,
            _bytes: bytes,
        };
        inner.waiting.insert(number, waiting);
        number
    };
    shared.arrived.notify_one();
    if early {
        return say(StatusCode::ACCEPTED, "Event accepted");
    }
    wait_for(&shared, number, verdict).await
}

/// Waits for the sink, and takes the event back if the gate closes or the peer goes first.
async fn wait_for(shared: &Arc<Shared>, number: u64, mut verdict: oneshot::Receiver<Verdict>) -> Answer {
    struct Gone<'a>(&'a Shared, u64);
    impl Drop for Gone<'_> {
        fn drop(&mut self) {
            self.0.withdraw(self.1);
        }
    }
    let gone = Gone(shared, number);
    let verdict = tokio::select! {
        biased;
        verdict = &mut verdict => verdict,
        () = shared.gate.closed() => {
            if shared.withdraw(number) {
                return held();
            }
            // Past the gate: it is being written, or tried again.
            verdict.await
        }
    };
    drop(gone);
    match verdict {
        Ok(Verdict::Stored) => say(StatusCode::OK, "Event stored"),
        Ok(Verdict::GivenBack) | Err(_) => ending(),
    }
}

fn too_long(max_body: usize) -> Answer {
    let message = format!("An event may have {max_body} bytes");
    say(StatusCode::PAYLOAD_TOO_LARGE, &message)
}
