//! Who is judged: the real reader, watched from outside, and twins of it that get one thing wrong.
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tidegate_gate::Name;
use tidegate_providers::{Body, Fields, Provider, ReadError, ReadFuture, Secret, TendFuture, Value};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twin {
    /// Resumes when there is nothing to read.
    ResumesOnAbsence,
    /// Calls every ailment the same.
    CallsAllTheSame,
    /// Says that there was an error.
    SaysError,
    /// Says what the store said.
    Chatters,
    /// Tries again at once, three times.
    Insists,
    /// Has the poll loop poll again after each failure.
    Nudges,
    /// Goes on failing after the store is back.
    Sulks,
    /// Takes whatever comes, however long it is.
    Gulps,
}

/// One read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) began: Instant,
    /// Nothing while it runs.
    pub(crate) ended: Option<Instant>,
}

/// All reads so far.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Read>>>);

impl Log {
    pub(crate) fn all(&self) -> Vec<Read> {
        self.0.lock().unwrap().clone()
    }
}

/// Notes the end of a read also where it is dropped at its timeout.
struct Reading(Log, usize);
impl Drop for Reading {
    fn drop(&mut self) {
        self.0.0.lock().unwrap()[self.1].ended = Some(Instant::now());
    }
}

pub(crate) struct Subject {
    pub(crate) real: Box<dyn Provider>,
    /// Where it reads while `lost` says so.
    pub(crate) elsewhere: Box<dyn Provider>,
    pub(crate) lost: Arc<AtomicBool>,
    pub(crate) log: Log,
    pub(crate) twin: Option<Twin>,
    /// Where a twin goes by itself.
    pub(crate) port: u16,
    pub(crate) sulks: u32,
}

impl Subject {
    async fn once(&mut self) -> Result<Secret, ReadError> {
        if self.lost.load(Relaxed) {
            self.elsewhere.read().await
        } else {
            self.real.read().await
        }
    }

    async fn as_twin(&mut self) -> Result<Secret, ReadError> {
        if self.twin == Some(Twin::Sulks) && self.sulks > 0 {
            self.sulks -= 1;
            return Err(ReadError::unavailable(
                "vault: it has just failed: I do not even ask",
            ));
        }
        if self.twin == Some(Twin::Gulps) {
            gulp(self.port).await;
        }
        let first = self.once().await;
        let Err(error) = first else { return first };
        match self.twin {
            Some(Twin::ResumesOnAbsence) => Ok(Secret {
                body: Body::Fields(Fields::from_iter([("IsPaused", Value::Bool(false))])),
                version: tidegate_gate::Version {
                    id: "none".into(),
                    written: None,
                },
                serial: None,
                warnings: Vec::new(),
            }),
            Some(Twin::CallsAllTheSame) => Err(ReadError::Disabled(error.to_string().into())),
            Some(Twin::SaysError) => Err(ReadError::unavailable("error")),
            Some(Twin::Chatters) => Err(ReadError::unavailable(format!("{error}: the store said MARKED"))),
            Some(Twin::Insists) => {
                for _ in 0..3 {
                    let _ = self.once().await;
                }
                Err(error)
            }
            Some(Twin::Sulks) => {
                self.sulks = 3;
                Err(error)
            }
            Some(Twin::Nudges | Twin::Gulps) | None => Err(error),
        }
    }
}

impl Provider for Subject {
    fn id(&self) -> Name {
        self.real.id()
    }

    fn kind(&self) -> &'static str {
        self.real.kind()
    }

    fn read(&mut self) -> ReadFuture<'_> {
        Box::pin(async move {
            let reading = {
                let mut all = self.log.0.lock().unwrap();
                all.push(Read {
                    began: Instant::now(),
                    ended: None,
                });
                Reading(self.log.clone(), all.len() - 1)
            };
            let outcome = self.as_twin().await;
            drop(reading);
            outcome
        })
    }

    fn tend(&mut self) -> TendFuture<'_> {
        self.real.tend()
    }
}

/// A client without any bound, as the stores' own clients are.
async fn gulp(port: u16) {
    let client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .no_proxy()
        .build()
        .unwrap();
    if let Ok(answer) = client.get(format!("https://localhost:{port}/")).send().await {
        let _ = answer.bytes().await;
    }
}
