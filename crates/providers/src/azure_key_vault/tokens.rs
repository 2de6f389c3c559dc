//! Tokens for the SDK, ahead of time.
//!
//! The SDK asks for a token within each request and waits for it, also when the one it has is still valid for minutes:
//! a login that hangs would cost readings. Here a valid token is handed out at once, and its successor is fetched
//! between reads.
use super::answer::Where;
use crate::ReadError;
use crate::backoff::Backoff;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::{Error, ErrorKind};
use azure_core::time::OffsetDateTime;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The credentials of the SDK keep a token until this long before its end; asking earlier brings the same one.
const AHEAD: Duration = Duration::from_secs(300);

/// A token that ends sooner is not handed out: the request that carries it takes time, too.
const SPARE: Duration = Duration::from_secs(5);

/// Where a new token is refused at once, it is not replaced sooner: a login for each read would change nothing.
const NO_BETTER: Duration = Duration::from_secs(30);

/// A read that waits for a login ends by its switch's timeout, which nobody should set longer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

type Fetch = Pin<Box<dyn Future<Output = azure_core::Result<AccessToken>> + Send>>;

/// A login that is under way.
struct Login {
    since: Instant,
    token: Fetch,
}

/// Handed to the SDK as its credential.
pub(super) struct Tokens {
    state: Mutex<State>,
    /// Kept when whoever waits for them goes away: a slow login is not begun anew by each read. More than one only where
    /// reads went away: whatever ails the authority may have ended since the older was asked, and its answer may never
    /// come.
    logins: tokio::sync::Mutex<Vec<Login>>,
    /// How long a login may take beside reads, and how long it is kept beside a newer one.
    longest: Duration,
}

struct State {
    source: Option<Arc<dyn TokenCredential>>,
    held: Option<Held>,
    /// As the vault's challenge names it.
    scope: Option<String>,
    not_before: Option<Instant>,
    backoff: Backoff,
    rng: fastrand::Rng,
    trouble: Option<ReadError>,
}

struct Held {
    token: AccessToken,
    /// On tokio's clock, counted when the token came.
    expires: Instant,
    refresh_at: Instant,
    since: Instant,
    has_worked: bool,
}

impl Held {
    fn is_usable(&self) -> bool {
        self.expires > Instant::now() + SPARE
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    pub(super) fn new(longest: Duration) -> Tokens {
        let mut rng = fastrand::Rng::new();
        Tokens {
            state: Mutex::new(State {
                source: None,
                held: None,
                scope: None,
                not_before: None,
                backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30), rng.fork()),
                rng,
                trouble: None,
            }),
            logins: tokio::sync::Mutex::default(),
            longest,
        }
    }

    /// Where tokens come from, from now on. One that is held stays in use for as long as it is valid.
    pub(super) fn set_source(&self, source: Arc<dyn TokenCredential>) {
        self.state().source = Some(source);
    }

    /// The source whose login was refused: it may go on for minutes with what it has read from a file that was mended since.
    pub(super) fn forget_source(&self) {
        self.state().source = None;
    }

    pub(super) fn has_source(&self) -> bool {
        self.state().source.is_some()
    }

    /// Whether the next read has to wait for a login that another read has waited for in vain. The source of that one is
    /// busy with it, so another login needs a source of its own.
    pub(super) fn is_stuck(&self) -> bool {
        let usable = self.state().held.as_ref().is_some_and(Held::is_usable);
        // Locked only by whoever waits for a login, and reads and tending take turns.
        !usable && self.logins.try_lock().is_ok_and(|logins| !logins.is_empty())
    }

    /// A read with the token that is held has succeeded.
    pub(super) fn works(&self) {
        if let Some(held) = &mut self.state().held {
            held.has_worked = true;
        }
    }

    /// Drops a token that the vault refuses, unless it is so new that another would be no better; true if it did. Its
    /// source is then to be made anew, since it keeps the same one.
    pub(super) fn drop_refused(&self) -> bool {
        let mut state = self.state();
        let outlived = |held: &Held| held.has_worked || held.since.elapsed() > NO_BETTER;
        let drop = state.held.as_ref().is_some_and(outlived);
        if drop {
            state.held = None;
        }
        drop
    }

    /// Waits until a token is to be replaced, or for a login that goes on; sees it through, and resolves.
    pub(super) async fn tend(&self, at: &Where<'_>) {
        if self.logins.lock().await.is_empty() {
            match self.due() {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
        let outcome = self.beside_reads().await;
        let mut state = self.state();
        let newer = state
            .held
            .as_ref()
            .is_some_and(|held| held.refresh_at > Instant::now());
        if newer {
            return;
        }
        let wait = state.backoff.after_failure();
        state.not_before = Some(Instant::now() + wait);
        if let Err(error) = outcome {
            let trouble = at.login(&error);
            if matches!(trouble, ReadError::Denied(_)) {
                // The next read makes another.
                state.source = None;
            }
            if state.trouble.as_ref() != Some(&trouble) {
                tracing::warn!("{trouble}; the token in use stays in use as long as it is valid");
            }
            state.trouble = Some(trouble);
        }
    }

    fn due(&self) -> Option<Instant> {
        let state = self.state();
        // Where there is no token, the next read asks for one, and the poll loop paces those.
        let held = state.held.as_ref()?;
        Some(
            state
                .not_before
                .map_or(held.refresh_at, |at| at.max(held.refresh_at)),
        )
    }

    async fn beside_reads(&self) -> azure_core::Result<AccessToken> {
        let mut logins = self.logins.lock().await;
        let since = match logins.last() {
            Some(newest) => newest.since,
            None => {
                logins.push(self.begin()?);
                Instant::now()
            }
        };
        self.first(&mut logins, since + self.longest).await
    }

    /// The first of these logins that brings a token, which is then held; none of them is left then. Dropped, they go on
    /// with whoever waits next.
    async fn first(&self, logins: &mut Vec<Login>, until: Instant) -> azure_core::Result<AccessToken> {
        let first = std::future::poll_fn(|cx| {
            let mut i = 0;
            while let Some(login) = logins.get_mut(i) {
                match login.token.as_mut().poll(cx) {
                    Poll::Pending => i += 1,
                    Poll::Ready(Err(_)) if logins.len() > 1 => drop(logins.remove(i)),
                    Poll::Ready(outcome) => return Poll::Ready(outcome),
                }
            }
            Poll::Pending
        });
        let outcome = timeout_at(until, first).await.unwrap_or_else(|_| {
            let why = "the login took too long";
            let cause = Error::with_message(ErrorKind::Io, why);
            Err(Error::with_error(ErrorKind::Credential, cause, why))
        });
        logins.clear();
        let token = outcome?;
        self.hold(token.clone());
        Ok(token)
    }

    fn begin(&self) -> azure_core::Result<Login> {
        let state = self.state();
        let (Some(source), Some(scope)) = (state.source.clone(), state.scope.clone()) else {
            return Err(Error::with_message(
                ErrorKind::Credential,
                "there is no credential",
            ));
        };
        Ok(Login {
            since: Instant::now(),
            token: Box::pin(async move { source.get_token(&[&scope], None).await }),
        })
    }

    fn hold(&self, token: AccessToken) {
        let now = Instant::now();
        let left = Duration::try_from(token.expires_on - OffsetDateTime::now_utc()).unwrap_or_default();
        let mut state = self.state();
        // Not all replicas that started together at the same moment.
        let ahead = AHEAD.min(left / 3).mul_f64(0.5 + 0.5 * state.rng.f64());
        state.held = Some(Held {
            expires: now + left,
            refresh_at: now + (left - ahead),
            since: now,
            has_worked: false,
            token,
        });
        state.not_before = None;
        state.trouble = None;
        state.backoff.reset();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl TokenCredential for Tokens {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        {
            let mut state = self.state();
            let scope = scopes.first().map(|scope| (*scope).to_owned());
            if state.scope != scope {
                state.held = None;
                state.scope = scope;
            }
            if let Some(held) = &state.held
                && held.is_usable()
            {
                return Ok(held.token.clone());
            }
        }
        let mut logins = self.logins.lock().await;
        logins.retain(|login| login.since.elapsed() < self.longest);
        logins.push(self.begin()?);
        self.first(&mut logins, Instant::now() + LONGEST_WAIT).await
    }
}
