//! A store that changes, breaks and takes its time as a seed says, and tells the model what each read came to.
use crate::Twin;
use crate::model::{Flag, Model, Observation};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use tidegate_gate::{Name, Version};
use tidegate_providers::{Body, Fields, Provider, ReadError, ReadFuture, Secret, Value};
use tokio::time::Instant;

/// What the secret is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    Flag { paused: bool, until: Option<SystemTime> },
    NoField,
    Malformed,
    Missing,
    Deleted,
    Disabled,
}

/// What is wrong with the way there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Denied,
    Throttled(Duration),
    Sealed,
    Unavailable,
    Hang,
    /// A replica that lags: an older state of the secret.
    Lagging,
}

#[derive(Clone, Copy, Debug)]
struct State {
    content: Content,
    version: u64,
    written: SystemTime,
}

/// One secret, the faults before it, and what the process that reads it has seen of it.
pub(crate) struct Store {
    switch: usize,
    states: Vec<State>,
    pub(crate) fault: Option<Fault>,
    random: fastrand::Rng,
    /// The newest version that this process has seen.
    newest: Option<(u64, SystemTime)>,
    /// The newest flag that any process has seen.
    pub(crate) last: Option<Flag>,
    pub(crate) reads: u64,
}

/// Where time and truth are.
#[derive(Clone)]
pub(crate) struct Truth {
    pub(crate) model: Arc<Mutex<Model>>,
    pub(crate) begin: Instant,
    pub(crate) noon: SystemTime,
    /// By how many milliseconds the wall clock of the process is wrong.
    pub(crate) off: Arc<AtomicI64>,
}

impl Truth {
    /// The clock of the store, and of whoever writes there.
    pub(crate) fn store_clock(&self) -> SystemTime {
        self.noon + self.begin.elapsed()
    }

    /// The clock of the process's machine, which jumps.
    pub(crate) fn wall(&self) -> SystemTime {
        let off = self.off.load(Relaxed);
        let by = Duration::from_millis(off.unsigned_abs());
        match off < 0 {
            true => self.store_clock() - by,
            false => self.store_clock() + by,
        }
    }

    /// The clock is set.
    pub(crate) fn jump(&self, milliseconds: i64) {
        self.off.fetch_add(milliseconds, Relaxed);
        let (now, wall) = (Instant::now(), self.wall());
        self.model().jumped(now, wall);
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        unpoisoned(&self.model)
    }
}

pub(crate) fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // One thread, and a panic ends the run anyway.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Store {
    pub(crate) fn new(switch: usize, seed: u64, now: SystemTime) -> Store {
        let first = State {
            content: Content::Flag {
                paused: false,
                until: None,
            },
            version: 1,
            written: now,
        };
        Store {
            switch,
            states: vec![first],
            fault: None,
            random: fastrand::Rng::with_seed(seed),
            newest: None,
            last: None,
            reads: 0,
        }
    }

    /// Somebody writes.
    pub(crate) fn write(&mut self, content: Content, now: SystemTime) {
        let version = self.states.len() as u64 + 1;
        self.states.push(State {
            content,
            version,
            written: now,
        });
    }

    /// Another process reads from here on.
    pub(crate) fn restarted(&mut self, remembers: bool) {
        if !remembers {
            self.last = None;
        }
        self.newest = self.last.as_ref().map(|flag| (flag.version, flag.written));
    }

    /// What a read finds, and what the model is to make of it.
    fn found(&mut self) -> (Observation, Result<Secret, ReadError>) {
        self.reads += 1;
        let why = || Name::from("as the seed says");
        let state = match self.fault {
            Some(Fault::Denied) => return (Observation::Useless, Err(ReadError::Denied(why()))),
            Some(Fault::Throttled(after)) => {
                let (why, retry_after) = (why(), Some(after));
                return (
                    Observation::Useless,
                    Err(ReadError::Throttled { why, retry_after }),
                );
            }
            Some(Fault::Sealed) => {
                let (why, retry_after) = (why(), None);
                return (Observation::Useless, Err(ReadError::Sealed { why, retry_after }));
            }
            Some(Fault::Unavailable | Fault::Hang) => {
                return (
                    Observation::Useless,
                    Err(ReadError::unavailable("as the seed says")),
                );
            }
            Some(Fault::Lagging) => self.states[self.random.usize(..self.states.len())],
            None => self.states[self.states.len() - 1],
        };
        let fields = match state.content {
            Content::Missing => return (Observation::Absent, Err(ReadError::Missing(why()))),
            Content::Deleted => return (Observation::Absent, Err(ReadError::Deleted(why()))),
            Content::Disabled => return (Observation::Useless, Err(ReadError::Disabled(why()))),
            Content::NoField => Vec::new(),
            Content::Malformed => vec![("IsPaused".to_owned(), Value::Text("perhaps".into()))],
            Content::Flag { paused, until } => {
                let mut fields = vec![("IsPaused".to_owned(), Value::Bool(paused))];
                let text = until.map(|until| rfc3339(until).into());
                fields.extend(text.map(|text| ("until".to_owned(), Value::Text(text))));
                fields
            }
        };
        let stale = self
            .newest
            .is_some_and(|(version, written)| state.version < version && state.written <= written);
        let seen = match state.content {
            _ if stale => Observation::Useless,
            Content::Flag { paused, until } => {
                let flag = Flag {
                    paused,
                    until: until.map(whole_seconds),
                    version: state.version,
                    written: state.written,
                };
                self.last = Some(flag.clone());
                Observation::Flag(flag)
            }
            Content::Malformed => Observation::Malformed,
            _ => Observation::Absent,
        };
        if !stale {
            self.newest = Some((state.version, state.written));
        }
        let secret = Secret {
            body: Body::Fields(Fields::from_iter(fields)),
            version: Version {
                id: state.version.to_string().into(),
                written: Some(state.written),
            },
            serial: Some(state.version),
            warnings: Vec::new(),
        };
        (seen, Ok(secret))
    }
}

/// The world's noon is a whole second, and ends are written in whole seconds.
fn whole_seconds(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// As people write it into a secret.
fn rfc3339(at: SystemTime) -> String {
    let seconds = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    // The world begins at noon of the first of January 2030 and lasts some minutes.
    let of_day = seconds % 86_400;
    format!(
        "2030-01-01T{:02}:{:02}:{:02}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// The real thing's view of a store.
pub(crate) struct Scripted {
    pub(crate) store: Arc<Mutex<Store>>,
    pub(crate) truth: Truth,
    pub(crate) twin: Option<Twin>,
}

/// A read under way: one that is given up by its timeout comes to nothing, and the model has to know.
struct Under<'a> {
    scripted: &'a Scripted,
    done: bool,
    /// It ends at the timeout, and not because the process does.
    limit: Instant,
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        if !self.done && Instant::now() >= self.limit {
            self.scripted.tell(&Observation::Useless);
        }
    }
}

/// What every switch here has as its `timeout`.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(400);

impl Scripted {
    fn tell(&self, seen: &Observation) {
        let switch = unpoisoned(&self.store).switch;
        let (now, wall) = (Instant::now(), self.truth.wall());
        self.truth.model().observe(switch, seen, now, wall);
    }
}

impl Provider for Scripted {
    fn id(&self) -> Name {
        format!("secret {}", unpoisoned(&self.store).switch).into()
    }

    fn kind(&self) -> &'static str {
        "scripted"
    }

    fn read(&mut self) -> ReadFuture<'_> {
        Box::pin(async move {
            let switch = unpoisoned(&self.store).switch;
            self.truth.model().read_begins(switch, Instant::now());
            let mut under = Under {
                scripted: self,
                done: false,
                limit: Instant::now() + TIMEOUT,
            };
            let (hangs, takes) = {
                let mut store = unpoisoned(&self.store);
                let takes = Duration::from_millis(store.random.u64(1..60));
                (matches!(store.fault, Some(Fault::Hang)), takes)
            };
            if hangs {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(takes).await;
            let (seen, mut found) = unpoisoned(&self.store).found();
            under.done = true;
            self.tell(&seen);
            if let (Some(twin), Err(error)) = (self.twin, &found)
                && twin.resumes_on(error)
            {
                found = Ok(Secret {
                    body: Body::Text("false".into()),
                    version: Version {
                        id: "gone".into(),
                        written: None,
                    },
                    serial: None,
                    warnings: Vec::new(),
                });
            }
            found
        })
    }
}
