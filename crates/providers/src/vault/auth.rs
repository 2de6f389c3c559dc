//! What keeps a token alive: lookups and renewals that run beside reads, inside the read path and without a loop of
//! their own.
use super::auth_token::TokenSource;
use super::client::{Answer, Client};
use crate::backoff::Backoff;
use crate::{ReadError, Secret};
use http::StatusCode;
use secrecy::SecretString;
use serde::Deserialize;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tidegate_gate::Name;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};
use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest};

/// A renewal that takes longer is given up; the token is still valid, and there is time for another.
const LONGEST_RENEWAL: Duration = Duration::from_secs(10);

/// How one logs in.
#[derive(Debug)]
pub(super) enum Method {
    Token(TokenSource),
}

/// Which of the tokens a read is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Candidate,
    Current,
}

/// Whether the same read should be made again with another token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Try {
    Done,
    Other,
}

struct Lease {
    token: SecretString,
    /// Tells whether work that ends belongs to it.
    number: u64,
    life: Life,
}

/// What is known of a token's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Not asked yet.
    Unknown,
    /// It has none, or Vault does not say.
    Endless,
    Until {
        expires: Instant,
        /// How long it was granted for.
        granted: Duration,
        /// Nothing for tokens that cannot be renewed (any more).
        renew_at: Option<Instant>,
    },
}

type Work = Pin<Box<dyn Future<Output = (u64, Result<Granted, ReadError>)> + Send>>;

/// What a lookup or a renewal says of a token.
struct Granted {
    ttl: Duration,
    renewable: bool,
    renewed: bool,
}

/// The tokens of one provider.
pub(super) struct Auth {
    method: Method,
    address: Name,
    current: Option<Lease>,
    /// Newer than `current` and not yet proven by a read: a token file with a mistake in it must not cost a token
    /// that works.
    candidate: Option<Lease>,
    /// When the candidate may be tried again after it was refused.
    candidate_not_before: Option<Instant>,
    /// Kept over reads: a read that is dropped at its timeout does not take the renewal with it.
    work: Option<Work>,
    work_not_before: Option<Instant>,
    backoff: Backoff,
    rng: fastrand::Rng,
    numbers: u64,
    /// Why there is no newer token, while there should be one.
    trouble: Option<ReadError>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

impl Auth {
    pub(super) fn new(method: Method, address: Name) -> Auth {
        let mut rng = fastrand::Rng::new();
        Auth {
            method,
            address,
            current: None,
            candidate: None,
            candidate_not_before: None,
            work: None,
            work_not_before: None,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30), rng.fork()),
            rng,
            numbers: 0,
            trouble: None,
        }
    }

    /// Brings the tokens up to date, as far as that needs no waiting for Vault.
    pub(super) async fn prepare(&mut self, client: &Client) -> Result<(), ReadError> {
        let changed = match &mut self.method {
            Method::Token(TokenSource::Env { token, .. }) => {
                Ok(self.current.is_none().then(|| token.clone()))
            }
            Method::Token(TokenSource::File(file)) => file.changed().await,
        };
        match changed {
            Ok(None) => self.trouble = None,
            Ok(Some(token)) => {
                self.trouble = None;
                self.take(token);
            }
            Err(error) if self.current.is_none() && self.candidate.is_none() => return Err(error),
            Err(error) => {
                if self.trouble.as_ref() != Some(&error) {
                    warn!("{error}: the token that was read before stays in use");
                }
                self.trouble = Some(error);
            }
        }
        self.start_work(client);
        Ok(())
    }

    /// The token to read with now: the newest that has not just been refused.
    pub(super) fn token_to_try(&self) -> Option<(Which, SecretString)> {
        let waits = self.candidate_not_before.is_some_and(|at| at > Instant::now());
        let candidate = self.candidate.as_ref().filter(|_| !waits);
        candidate
            .map(|lease| (Which::Candidate, lease.token.clone()))
            .or_else(|| {
                self.current
                    .as_ref()
                    .map(|lease| (Which::Current, lease.token.clone()))
            })
    }

    pub(super) fn no_token(&self) -> ReadError {
        let why = format!("there is no token for Vault at {}", self.address);
        self.trouble.clone().unwrap_or(ReadError::Denied(why.into()))
    }

    /// Makes a read and, beside it, whatever work is under way; waits for the read only.
    pub(super) async fn alongside<T>(&mut self, read: impl Future<Output = T>) -> T {
        let mut read = std::pin::pin!(read);
        loop {
            let Some(work) = &mut self.work else {
                return read.await;
            };
            tokio::select! {
                biased;
                done = &mut read => return done,
                (number, granted) = work => {
                    self.work = None;
                    self.work_done(number, granted);
                }
            }
        }
    }

    /// Learns from a read's outcome whether its token works.
    pub(super) fn judge(&mut self, which: Which, outcome: &Result<Secret, ReadError>) -> Try {
        let refused = matches!(outcome, Err(ReadError::Denied(_)));
        let answered = !matches!(outcome, Err(ReadError::Unavailable { .. }));
        match which {
            Which::Candidate if refused && self.current.is_some() => {
                if self.candidate_not_before.is_none() {
                    warn!(vault = %self.address, "the new token is refused: the one before stays in use");
                }
                self.candidate_not_before = Some(Instant::now() + self.backoff.after_failure());
                Try::Other
            }
            // A refusal of the only token there is stays what it is. An outage proves nothing either way.
            Which::Candidate if answered => {
                self.current = self.candidate.take();
                self.candidate_not_before = None;
                self.backoff.reset();
                Try::Done
            }
            Which::Candidate | Which::Current => Try::Done,
        }
    }

    fn take(&mut self, token: SecretString) {
        self.numbers += 1;
        self.candidate = Some(Lease {
            token,
            number: self.numbers,
            life: Life::Unknown,
        });
        self.candidate_not_before = None;
    }

    /// Starts the lookup or renewal that is due, if none is under way. Only proven tokens are worked on.
    fn start_work(&mut self, client: &Client) {
        let now = Instant::now();
        if self.work.is_some() || self.work_not_before.is_some_and(|at| at > now) {
            return;
        }
        let Some(lease) = &self.current else { return };
        let (number, token, client) = (lease.number, lease.token.clone(), client.clone());
        match lease.life {
            Life::Unknown => {
                self.work = Some(Box::pin(async move {
                    (number, within(lookup(&client, &token)).await)
                }));
            }
            Life::Until {
                renew_at: Some(at), ..
            } if at <= now => {
                self.work = Some(Box::pin(
                    async move { (number, within(renew(&client, &token)).await) },
                ));
            }
            Life::Endless | Life::Until { .. } => {}
        }
    }

    fn work_done(&mut self, number: u64, granted: Result<Granted, ReadError>) {
        let now = Instant::now();
        let share = 0.55 + 0.15 * self.rng.f64();
        let Some(lease) = self.current.as_mut().filter(|lease| lease.number == number) else {
            return;
        };
        match granted {
            Ok(granted) => {
                self.work_not_before = None;
                self.backoff.reset();
                let before = match lease.life {
                    Life::Until { granted, .. } => granted,
                    Life::Unknown | Life::Endless => Duration::ZERO,
                };
                lease.life = granted.life(now, before, share);
                if let Life::Until {
                    expires,
                    renew_at: None,
                    ..
                } = lease.life
                {
                    let left = humantime::format_duration(Duration::from_secs((expires - now).as_secs()));
                    warn!(vault = %self.address, "the token ends in {left} and cannot be renewed: replace it before");
                }
            }
            // Whoever may not look itself up has a token without the default policy; it may still read.
            Err(ReadError::Denied(_)) if lease.life == Life::Unknown => {
                info!(vault = %self.address, "the token may not look itself up, so it is not renewed from here");
                lease.life = Life::Endless;
            }
            Err(error) => {
                self.work_not_before = Some(now + self.backoff.after_failure());
                if let Life::Until { expires, .. } = lease.life {
                    let left = expires.saturating_duration_since(now);
                    let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
                    warn!("the token could not be renewed and ends in {left}: {error}");
                }
            }
        }
    }
}

impl Granted {
    /// `before` is what the token was granted for last time; `share` says after which part of its life to renew, a
    /// little different each time, so that a fleet that started together does not renew in step.
    fn life(&self, now: Instant, before: Duration, share: f64) -> Life {
        if self.ttl.is_zero() {
            return Life::Endless;
        }
        // Near its maximum a token is granted less and less: renewing that would end in a storm of renewals.
        let fades = self.renewed && self.ttl < before / 2;
        Life::Until {
            expires: now + self.ttl,
            granted: self.ttl.max(before),
            renew_at: (self.renewable && !fades).then(|| now + self.ttl.mul_f64(share)),
        }
    }
}

async fn within(work: impl Future<Output = Result<Granted, ReadError>>) -> Result<Granted, ReadError> {
    timeout(LONGEST_RENEWAL, work)
        .await
        .unwrap_or_else(|_| Err(ReadError::unavailable("Vault did not answer in time")))
}

async fn lookup(client: &Client, token: &SecretString) -> Result<Granted, ReadError> {
    #[derive(Deserialize)]
    struct Looked {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        ttl: u64,
        #[serde(default)]
        renewable: Option<bool>,
    }
    let answer = client.send(&LookupTokenSelfRequest {}, Some(token)).await?;
    let looked: Looked = parse(client, &answer, "lookup")?;
    Ok(Granted {
        ttl: Duration::from_secs(looked.data.ttl),
        renewable: looked.data.renewable.unwrap_or(false),
        renewed: false,
    })
}

async fn renew(client: &Client, token: &SecretString) -> Result<Granted, ReadError> {
    #[derive(Deserialize)]
    struct Renewed {
        auth: Grant,
    }
    #[derive(Deserialize)]
    struct Grant {
        lease_duration: u64,
        renewable: bool,
    }
    let answer = client
        .send(&RenewTokenSelfRequest { increment: None }, Some(token))
        .await?;
    let renewed: Renewed = parse(client, &answer, "renewal")?;
    Ok(Granted {
        ttl: Duration::from_secs(renewed.auth.lease_duration),
        renewable: renewed.auth.renewable,
        renewed: true,
    })
}

/// The body is looked into and never shown: it holds a token.
fn parse<'a, T: Deserialize<'a>>(client: &Client, answer: &'a Answer, what: &str) -> Result<T, ReadError> {
    let why = |text: String| Name::from(format!("token {what} at Vault {}: {text}", client.address()));
    match answer.status {
        StatusCode::OK => serde_json::from_slice(&answer.body)
            .map_err(|_| ReadError::unavailable(why("the answer is not one of Vault's".into()))),
        StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => Err(ReadError::Denied(
            why(format!("refused ({})", answer.status.as_u16())),
        )),
        status => Err(ReadError::Unavailable {
            why: why(format!("answered with status {}", status.as_u16())),
            retry_after: answer.retry_after,
        }),
    }
}
