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
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// The credentials of the SDK keep a token until this long before its end; asking earlier brings the same one.
const AHEAD: Duration = Duration::from_secs(300);

/// A token that ends sooner is not handed out: the request that carries it takes time, too.
const SPARE: Duration = Duration::from_secs(5);

/// Where a new token is refused at once, it is not replaced sooner: a login for each read would change nothing.
const NO_BETTER: Duration = Duration::from_secs(30);

type Fetch = Pin<Box<dyn Future<Output = azure_core::Result<AccessToken>> + Send>>;

/// Handed to the SDK as its credential.
pub(super) struct Tokens {
    state: Mutex<State>,
    /// Kept when whoever waits for it goes away: a slow login is not begun anew by each read.
    fetch: tokio::sync::Mutex<Option<Fetch>>,
    /// How long one login may take.
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
            fetch: tokio::sync::Mutex::new(None),
            longest,
        }
    }

    /// Where tokens come from, from now on. One that is held stays in use for as long as it is valid.
    pub(super) fn set_source(&self, source: Arc<dyn TokenCredential>) {
        self.state().source = Some(source);
    }

    pub(super) fn has_source(&self) -> bool {
        self.state().source.is_some()
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
        if self.fetch.lock().await.is_none() {
            match self.due() {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
        let outcome = self.fetch().await;
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

    async fn fetch(&self) -> azure_core::Result<AccessToken> {
        let mut fetch = self.fetch.lock().await;
        let doing = match &mut *fetch {
            Some(doing) => doing,
            none => none.insert(self.begin()?),
        };
        let outcome = doing.await;
        *fetch = None;
        let token = outcome?;
        self.hold(token.clone());
        Ok(token)
    }

    fn begin(&self) -> azure_core::Result<Fetch> {
        let state = self.state();
        let (Some(source), Some(scope)) = (state.source.clone(), state.scope.clone()) else {
            return Err(Error::with_message(
                ErrorKind::Credential,
                "there is no credential",
            ));
        };
        let longest = self.longest;
        Ok(Box::pin(async move {
            match timeout(longest, source.get_token(&[&scope], None)).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let why = "the login took too long";
                    let cause = Error::with_message(ErrorKind::Io, why);
                    Err(Error::with_error(ErrorKind::Credential, cause, why))
                }
            }
        }))
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
                && held.expires > Instant::now() + SPARE
            {
                return Ok(held.token.clone());
            }
        }
        self.fetch().await
    }
}
