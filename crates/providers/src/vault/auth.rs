//! Logins and tokens: which token a read is made with, and what is done beside reads so that there always is one.
//!
//! There is no loop here. Lookups, renewals and logins are started by reads and run beside them; one that is not done
//! when its read is goes on with the next. A token in use is given up only when another has been shown to work.
use super::auth_approle::AppRole;
use super::auth_jwt::Jwt;
use super::auth_kubernetes::Kubernetes;
use super::auth_token::TokenSource;
use super::client::{Answer, Client};
use super::token::{Granted, Life, Next, look_up, parse_login, renew};
use crate::backoff::Backoff;
use crate::{ConfigError, ReadError, Secret, VaultAuth};
use secrecy::SecretString;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tidegate_gate::Name;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

/// What takes longer is given up and tried again. Longer than a read may take by default, since it goes on between
/// reads; short enough that an answer that never comes does not cost the reads after an outage.
const LONGEST_WORK: Duration = Duration::from_secs(4);

/// The longest delay between two tries of the same.
const MOST_PATIENT: Duration = Duration::from_secs(30);

/// How one gets a token.
#[derive(Clone, Debug)]
enum Login {
    AppRole(AppRole),
    Kubernetes(Kubernetes),
    Jwt(Jwt),
}

impl Login {
    async fn send(&self, client: &Client) -> Result<Answer, ReadError> {
        match self {
            Login::AppRole(login) => login.login(client).await,
            Login::Kubernetes(login) => login.login(client).await,
            Login::Jwt(login) => login.login(client).await,
        }
    }
}

#[derive(Debug)]
enum Method {
    /// Somebody else gets it.
    Token(TokenSource),
    /// We do.
    Login(Login),
}

/// Which of the tokens a read is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The newest.
    Candidate,
    /// The one that has worked before.
    Current,
}

/// What follows for the read that was just made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Try {
    /// Its outcome stands.
    Done,
    /// It is to be made again with the other token.
    Other,
    /// It is to be made again after a login.
    Login,
}

struct Lease {
    token: SecretString,
    /// Tells whether work that ends belongs to it.
    number: u64,
    life: Life,
}

/// What can be due for a token.
enum Job {
    LookUp,
    Renew,
    Login,
}

enum Done {
    /// A lookup or a renewal of the token of that number.
    Granted(u64, Result<Granted, ReadError>),
    LoggedIn(Result<(SecretString, Granted), ReadError>),
}

type Doing = Pin<Box<dyn Future<Output = Done> + Send>>;

struct Work {
    is_login: bool,
    done: Doing,
}

impl Work {
    fn new(is_login: bool, done: impl Future<Output = Done> + Send + 'static) -> Work {
        let done = Box::pin(done);
        Work { is_login, done }
    }
}

/// The tokens of one provider.
pub(super) struct Auth {
    method: Method,
    /// How it gets its token, for people.
    reader: Name,
    current: Option<Lease>,
    /// Newer than `current` and not yet shown to work: a token file with a mistake in it must not cost a token that
    /// does.
    candidate: Option<Lease>,
    /// When a refused candidate may be tried again.
    candidate_not_before: Option<Instant>,
    /// Kept over reads: a read that is dropped at its timeout does not take it along.
    work: Option<Work>,
    work_not_before: Option<Instant>,
    /// Since the token of the last login was refused at once: the role is at fault, and another login is no help.
    login_not_before: Option<Instant>,
    backoff: Backoff,
    rng: fastrand::Rng,
    numbers: u64,
    /// Why there is no newer token although there should be one; told once.
    trouble: Option<ReadError>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("reader", &self.reader)
            .finish_non_exhaustive()
    }
}

impl Auth {
    pub(super) fn new(config: VaultAuth) -> Result<Auth, ConfigError> {
        let (method, reader) = match config {
            VaultAuth::Token { env, file } => {
                let source = TokenSource::new(env, file)?;
                let reader = source.to_string();
                (Method::Token(source), reader)
            }
            VaultAuth::Approle {
                mount,
                role_id,
                secret_id_file,
            } => {
                let login = AppRole::new(mount.as_deref(), role_id, secret_id_file)?;
                let reader = login.to_string();
                (Method::Login(Login::AppRole(login)), reader)
            }
            VaultAuth::Kubernetes {
                mount,
                role,
                token_file,
            } => {
                let login = Kubernetes::new(mount.as_deref(), role, token_file)?;
                let reader = login.to_string();
                (Method::Login(Login::Kubernetes(login)), reader)
            }
            VaultAuth::Jwt {
                mount,
                role,
                token_file,
            } => {
                let login = Jwt::new(mount.as_deref(), role, token_file)?;
                let reader = login.to_string();
                (Method::Login(Login::Jwt(login)), reader)
            }
        };
        let mut rng = fastrand::Rng::new();
        Ok(Auth {
            method,
            reader: reader.into(),
            current: None,
            candidate: None,
            candidate_not_before: None,
            work: None,
            work_not_before: None,
            login_not_before: None,
            backoff: Backoff::new(Duration::from_secs(1), MOST_PATIENT, rng.fork()),
            rng,
            numbers: 0,
            trouble: None,
        })
    }

    /// How it gets its token, for people.
    pub(super) fn reader(&self) -> &Name {
        &self.reader
    }

    /// Sees to it that there is a token, and starts what is due. Waits for Vault only where there is no token at all.
    pub(super) async fn prepare(&mut self, client: &Client) -> Result<(), ReadError> {
        let none = self.current.is_none() && self.candidate.is_none();
        match &mut self.method {
            Method::Token(source) => match source.newer().await {
                Ok(Some(token)) => {
                    self.trouble = None;
                    self.take(token, Life::Unknown);
                }
                Ok(None) => self.trouble = None,
                Err(error) if none => return Err(error),
                Err(error) => self.tell_trouble(error, "the token that was read before stays in use"),
            },
            // The poll loop's own backoff paces these: there is nothing else to do before one succeeds.
            Method::Login(_) if none => self.log_in(client).await?,
            Method::Login(_) => {}
        }
        self.start_work(client);
        Ok(())
    }

    /// The token to read with now: the newest that has not just been refused.
    pub(super) fn token_to_try(&self) -> Option<(Which, SecretString)> {
        let waits = waits(self.candidate_not_before);
        let candidate = self
            .candidate
            .as_ref()
            .filter(|_| !waits || self.current.is_none());
        candidate
            .map(|lease| (Which::Candidate, lease.token.clone()))
            .or_else(|| {
                self.current
                    .as_ref()
                    .map(|lease| (Which::Current, lease.token.clone()))
            })
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
                outcome = &mut read => return outcome,
                done = &mut work.done => self.work_done_beside(done),
            }
        }
    }

    /// Learns from a read's outcome whether its token works.
    pub(super) fn judge(&mut self, which: Which, outcome: &Result<Secret, ReadError>) -> Try {
        let refused = matches!(outcome, Err(ReadError::Denied(_)));
        // Neither an outage nor a proxy's answer says anything about a token.
        let proven = match outcome {
            Ok(_) => true,
            Err(ReadError::Missing(_) | ReadError::Deleted(_)) => true,
            Err(_) => false,
        };
        match which {
            Which::Candidate if proven => {
                self.current = self.candidate.take();
                self.candidate_not_before = None;
                self.work_not_before = None;
                self.login_not_before = None;
                self.backoff.reset();
                Try::Done
            }
            Which::Candidate if refused => {
                let outlived = self.candidate.as_ref().is_some_and(Lease::is_over);
                let first = self.candidate_not_before.is_none();
                let later = Instant::now() + self.backoff.after_failure();
                self.candidate_not_before = Some(later);
                if outlived {
                    // Refused for its age: nothing is known of what a new one may do.
                    self.login_not_before = None;
                } else if first {
                    // A login whose token may not read is repeated, as the role may be set right, but not each time.
                    self.login_not_before = Some(later);
                }
                match &self.current {
                    Some(_) => {
                        if first {
                            warn!(reader = %self.reader, "the new token is refused: the one before stays in use");
                        }
                        Try::Other
                    }
                    None => self.try_login(),
                }
            }
            // What has worked works no more: it was revoked, or Vault has lost it.
            Which::Current if refused => self.try_login(),
            Which::Candidate | Which::Current => Try::Done,
        }
    }

    fn try_login(&self) -> Try {
        match self.method {
            Method::Login(_) if !waits(self.login_not_before) => Try::Login,
            Method::Login(_) | Method::Token(_) => Try::Done,
        }
    }

    /// Logs in and waits for it. Dropped, it goes on with the next read.
    pub(super) async fn log_in(&mut self, client: &Client) -> Result<(), ReadError> {
        let Some(fresh) = self.login(client) else {
            return Ok(());
        };
        // A login that is under way may have been asked before whatever ails the store ended, and its answer may
        // never come; or it may only be slow. What else is under way concerns a token that is of no use any more.
        let work = match self.work.take().filter(|work| work.is_login) {
            Some(older) => Work::new(true, first_success(older.done, fresh.done)),
            None => fresh,
        };
        let work = self.work.insert(work);
        let done = work.done.as_mut().await;
        self.work_done(done)
    }

    fn take(&mut self, token: SecretString, life: Life) {
        self.numbers += 1;
        self.candidate = Some(Lease {
            token,
            number: self.numbers,
            life,
        });
        self.candidate_not_before = None;
    }

    /// Waits until something is due, does it, and resolves. Dropped, it goes on with the next call or the next read.
    pub(super) async fn tend(&mut self, client: &Client) {
        if self.work.is_none() {
            match self.due() {
                Some((at, _)) => sleep_until(at).await,
                None => std::future::pending().await,
            }
            self.start_work(client);
        }
        if let Some(work) = &mut self.work {
            let done = work.done.as_mut().await;
            self.work_done_beside(done);
        }
    }

    /// The token that matters for the future: the newest that has not been refused.
    fn tended(&self) -> Option<&Lease> {
        let candidate = self.candidate.as_ref();
        candidate
            .filter(|_| self.candidate_not_before.is_none())
            .or(self.current.as_ref())
    }

    /// What is to be done next for that token, and when.
    fn due(&self) -> Option<(Instant, Job)> {
        let lease = self.tended()?;
        let later = |at: Instant, not_before: Option<Instant>| not_before.map_or(at, |other| at.max(other));
        let (at, job) = match lease.life {
            Life::Endless => return None,
            // A token that somebody put into a file is asked about when it has been shown to work.
            Life::Unknown if self.candidate_not_before.is_none() && self.candidate.is_some() => return None,
            Life::Unknown => (Instant::now(), Job::LookUp),
            Life::Until { next_at, next, .. } => match (next, &self.method) {
                (Next::Renew, _) => (next_at, Job::Renew),
                (Next::Login, Method::Login(_)) => (later(next_at, self.login_not_before), Job::Login),
                (Next::Login, Method::Token(_)) => return None,
            },
        };
        Some((later(at, self.work_not_before), job))
    }

    /// Starts what is due, if nothing is under way.
    fn start_work(&mut self, client: &Client) {
        let (Some((at, job)), Some(lease)) = (self.due(), self.tended()) else {
            return;
        };
        if self.work.is_some() || at > Instant::now() {
            return;
        }
        let (number, token) = (lease.number, lease.token.clone());
        let its_client = client.clone();
        self.work = match job {
            Job::LookUp => Some(Work::new(false, async move {
                Done::Granted(number, within(look_up(&its_client, &token)).await)
            })),
            Job::Renew => Some(Work::new(false, async move {
                Done::Granted(number, within(renew(&its_client, &token)).await)
            })),
            Job::Login => self.login(client),
        };
    }

    fn login(&self, client: &Client) -> Option<Work> {
        let Method::Login(login) = &self.method else {
            return None;
        };
        let (login, client, reader) = (login.clone(), client.clone(), self.reader.clone());
        Some(Work::new(true, async move {
            let answered = within(async {
                let answer = login.send(&client).await?;
                parse_login(&client, &answer, &reader)
            });
            Done::LoggedIn(answered.await)
        }))
    }

    /// Takes in what a lookup, a renewal or a login has come to; only a login's failure is returned.
    fn work_done(&mut self, done: Done) -> Result<(), ReadError> {
        self.work = None;
        let now = Instant::now();
        let share = 0.55 + 0.15 * self.rng.f64();
        match done {
            Done::LoggedIn(Ok((token, granted))) => {
                debug!(reader = %self.reader, "logged in");
                self.trouble = None;
                self.take(token, granted.life(now, Life::Unknown, share));
                Ok(())
            }
            Done::LoggedIn(Err(error)) => Err(error),
            Done::Granted(number, granted) => {
                let owns_login = matches!(self.method, Method::Login(_));
                let later = now + self.backoff.after_failure();
                let both = [&mut self.candidate, &mut self.current];
                let lease = both.into_iter().flatten().find(|lease| lease.number == number);
                match (lease, granted) {
                    (None, _) => {}
                    (Some(lease), Ok(granted)) => {
                        self.work_not_before = None;
                        self.backoff.reset();
                        self.trouble = None;
                        lease.life = granted.life(now, lease.life, share);
                        if let (
                            Life::Until {
                                expires,
                                next: Next::Login,
                                ..
                            },
                            false,
                        ) = (lease.life, owns_login)
                        {
                            let left = left(expires, now);
                            warn!(reader = %self.reader, "the token ends in {left} and cannot be renewed: replace it");
                        }
                    }
                    // Whoever may not look itself up has a token without the default policy; it may still read.
                    (Some(lease), Err(ReadError::Denied(_))) if lease.life == Life::Unknown => {
                        info!(reader = %self.reader, "the token may not look itself up and is not renewed from here");
                        lease.life = Life::Endless;
                    }
                    (Some(lease), Err(error)) => {
                        self.work_not_before = Some(later.min(lease.soon(now)));
                        lease.doubt(&error, owns_login, now);
                        let until = match lease.life {
                            Life::Until { expires, .. } => format!("it ends in {}", left(expires, now)),
                            Life::Unknown | Life::Endless => "it stays in use".to_owned(),
                        };
                        self.tell_trouble(error, &until);
                    }
                }
                Ok(())
            }
        }
    }

    /// As [`Auth::work_done`], for a login that nobody waits for.
    fn work_done_beside(&mut self, done: Done) {
        if let Err(error) = self.work_done(done) {
            let now = Instant::now();
            let later = now + self.backoff.after_failure();
            self.work_not_before = Some(self.tended().map_or(later, |lease| later.min(lease.soon(now))));
            self.tell_trouble(error, "the token in use stays in use");
        }
    }

    fn tell_trouble(&mut self, error: ReadError, meanwhile: &str) {
        if self.trouble.as_ref() != Some(&error) {
            warn!("{error}; {meanwhile}");
        }
        self.trouble = Some(error);
    }
}

impl Lease {
    fn is_over(&self) -> bool {
        matches!(self.life, Life::Until { expires, .. } if expires <= Instant::now())
    }

    /// When to try again at the latest, so that there are several tries before the token ends.
    fn soon(&self, now: Instant) -> Instant {
        match self.life {
            Life::Until { expires, .. } => {
                let left = expires.saturating_duration_since(now);
                now + (left / 4).max(Duration::from_secs(1))
            }
            Life::Unknown | Life::Endless => now + MOST_PATIENT,
        }
    }

    /// A renewal has failed: refused, or with little time left, it is for a login to bring the next token.
    fn doubt(&mut self, error: &ReadError, owns_login: bool, now: Instant) {
        if let Life::Until {
            expires,
            granted,
            next,
            ..
        } = &mut self.life
        {
            let refused = matches!(error, ReadError::Denied(_));
            let late = expires.saturating_duration_since(now) < *granted / 4;
            if owns_login && (refused || late) {
                *next = Next::Login;
            }
        }
    }
}

/// The first of two logins that succeeds, or the later failure.
async fn first_success(mut one: Doing, mut other: Doing) -> Done {
    let (first, rest) = tokio::select! {
        first = &mut one => (first, other),
        first = &mut other => (first, one),
    };
    match first {
        Done::LoggedIn(Err(_)) => rest.await,
        success => success,
    }
}

fn waits(not_before: Option<Instant>) -> bool {
    not_before.is_some_and(|at| at > Instant::now())
}

fn left(expires: Instant, now: Instant) -> humantime::FormattedDuration {
    let left = expires.saturating_duration_since(now);
    humantime::format_duration(Duration::from_secs(left.as_secs()))
}

async fn within<T>(work: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
    timeout(LONGEST_WORK, work).await.unwrap_or_else(|_| {
        Err(ReadError::unavailable(
            "Vault did not answer about the token in time",
        ))
    })
}
