//! Who may do what: tokens with rights, and the walls against browsers that were led astray.
use crate::error::{ApiError, Why};
use crate::flood::{Notes, Slow};
use crate::options::{AdminError, ControlOptions};
use crate::session::{self, Sessions};
use crate::token::{self, Token};
use crate::walls::{Names, says_where_from};
use crate::{Core, flowtide, page};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use tidegate_gate::{Act, Name, Record, plain};
use tidegate_http::Peer;

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// See status, watch and drain.
    Read,
    /// Place the API's hold, and close.
    Pause,
    /// Release the API's hold, and have the switches read now.
    Resume,
    /// Set a switch's hold aside.
    Override,
}

impl Right {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Pause => "pause",
            Right::Resume => "resume",
            Right::Override => "override",
        }
    }
}

/// Whoever called, known by token or by coming from this machine.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) actor: Name,
    rights: Arc<[Right]>,
    by_token: bool,
}

impl Caller {
    pub(crate) fn rights(&self) -> &[Right] {
        &self.rights
    }

    fn may(&self, right: Right) -> Result<(), ApiError> {
        if self.rights.contains(&right) {
            return Ok(());
        }
        if !self.by_token {
            return Err(ApiError::unauthorized(
                "an override always needs a token with the right \"override\", on this machine too: every \
                 container of a pod shares its loopback",
            ));
        }
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!(
                "the token \"{}\" does not have the right \"{}\"",
                self.actor,
                right.word()
            ),
        ))
    }
}

/// A handler's proof that the caller has the right it needs.
pub(crate) struct May<R> {
    pub(crate) caller: Caller,
    needs: PhantomData<R>,
}

pub(crate) trait Needs {
    const RIGHT: Right;
}
macro_rules! needs {
    ($($name:ident => $right:ident),*) => {$(
        pub(crate) struct $name;
        impl Needs for $name {
            const RIGHT: Right = Right::$right;
        }
    )*};
}
needs!(ToRead => Read, ToPause => Pause, ToResume => Resume, ToOverride => Override);

impl<R> May<R> {
    /// For the one call whose right depends on its query.
    pub(crate) fn also(&self, right: Right) -> Result<(), ApiError> {
        self.caller.may(right)
    }
}

impl<S: Sync, R: Needs> FromRequestParts<S> for May<R> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<May<R>, ApiError> {
        // The guard puts it there; a router that forgot the guard must refuse, not allow.
        let caller = parts.extensions.get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| ApiError::unauthorized("nobody has asked who you are"))?;
        caller.may(R::RIGHT)?;
        Ok(May {
            caller,
            needs: PhantomData,
        })
    }
}

/// Stands before every path of the control surface, also those that do not exist.
pub(crate) async fn guard(State(core): State<Arc<Core>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let caller = match core.auth.admit(&request, peer.as_ref()) {
        Ok(caller) => Some(caller),
        Err(Refusal::Unknown(_) | Refusal::WrongToken) if page::is_open(&request) => None,
        Err(refusal) => {
            let refusal = match refusal {
                Refusal::Walled(error) | Refusal::Unknown(error) => error,
                Refusal::WrongToken => core.auth.slow.down(peer.as_ref()).await,
            };
            let response = refusal.into_response();
            core.auth
                .note(&core, &response, "anonymous", &method, &path, peer.as_ref());
            return response;
        }
    };
    let actor: Name = caller
        .as_ref()
        .map_or_else(|| "anonymous".into(), |c| c.actor.clone());
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    let response = next.run(request).await;
    core.auth
        .note(&core, &response, &actor, &method, &path, peer.as_ref());
    response
}

enum Refusal {
    /// Whoever it is.
    Walled(ApiError),
    /// Nobody knows who it is.
    Unknown(ApiError),
    /// Told only after a while.
    WrongToken,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal::Walled(error)
    }
}

pub(crate) struct Auth {
    tokens: Vec<Token>,
    names: Names,
    pub(crate) sessions: Sessions,
    slow: Slow,
    notes: Mutex<Notes>,
}

impl Auth {
    pub(crate) fn new(options: &ControlOptions) -> Result<Auth, AdminError> {
        let tokens = token::load(&options.tokens).map_err(|mut all| all.swap_remove(0))?;
        Ok(Auth {
            tokens,
            names: Names {
                hosts: options.hosts.iter().map(|h| h.to_ascii_lowercase()).collect(),
                tls: options.tls.clone(),
            },
            sessions: Sessions::default(),
            slow: Slow::default(),
            notes: Mutex::default(),
        })
    }

    fn admit(&self, request: &Request, peer: Option<&Peer>) -> Result<Caller, Refusal> {
        // A browser cannot open a Unix socket, so names and origins mean nothing there.
        if peer.is_none_or(|p| p.addr.is_some()) {
            self.names.check(request, peer.is_some_and(|p| p.tls))?;
        }
        if self.tokens.is_empty() {
            // `ControlOptions::check` refuses such a listener; this is for whoever serves the router otherwise.
            if !peer.is_some_and(Peer::is_loopback) {
                return Err(
                    ApiError::unauthorized("no token is configured, so only this machine may call").into(),
                );
            }
            return Ok(Caller {
                actor: "loopback".into(),
                rights: Arc::from([Right::Read, Right::Pause, Right::Resume]),
                by_token: false,
            });
        }
        let headers = request.headers();
        if let Some(given) = headers.get(AUTHORIZATION) {
            let (scheme, given) = given.as_bytes().split_at_checked(7).unwrap_or_default();
            let token = scheme
                .eq_ignore_ascii_case(b"bearer ")
                .then(|| self.token(given.trim_ascii()));
            return token.flatten().map(by_token).ok_or(Refusal::WrongToken);
        }
        if let Some(token) = session::named(headers).and_then(|s| self.sessions.of(s, &self.tokens)) {
            if !request.method().is_safe() && !says_where_from(headers) {
                return Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    "a call with the page's cookie must come from the page; elsewhere send Authorization: Bearer",
                )
                .into());
            }
            return Ok(by_token(token));
        }
        Err(Refusal::Unknown(ApiError::unauthorized(
            "this call needs a token: send Authorization: Bearer <token>",
        )))
    }

    /// Starts a session for whoever shows a token, or makes them wait for the refusal.
    pub(crate) async fn log_in(&self, given: &[u8], peer: Option<&Peer>) -> Result<String, ApiError> {
        match self.token(given.trim_ascii()) {
            Some(token) => self.sessions.start(token).map_err(|error| {
                let sentence = format!("no session can be started: {error}");
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
            }),
            None => Err(self.slow.down(peer).await),
        }
    }

    /// Compares with every token, whichever matches and however soon.
    fn token(&self, given: &[u8]) -> Option<&Token> {
        let mut found = None;
        for token in &self.tokens {
            if token.is(given) {
                found = Some(token);
            }
        }
        found
    }

    /// Writes a refused call down; a flood of them becomes one line a moment that says how many it stands for.
    fn note(
        &self,
        core: &Core,
        response: &Response,
        actor: &str,
        method: &Method,
        path: &str,
        peer: Option<&Peer>,
    ) {
        let status = response.status();
        let refused = matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        );
        let Some(Why(why)) = response.extensions().get::<Why>().filter(|_| refused) else {
            return;
        };
        core.metrics.refused(status.as_u16());
        let Some(left_out) = self.notes.lock().unwrap_or_else(|p| p.into_inner()).take() else {
            return;
        };
        let from = match peer.map(|p| p.addr) {
            Some(Some(addr)) => addr.ip().to_string(),
            Some(None) => "the unix socket".into(),
            None => "unknown".into(),
        };
        let path: String = path.chars().take(60).collect();
        let mut reason = format!("{} {method} {path} from {from}: {why}", status.as_u16());
        if left_out > 0 {
            reason = format!("{left_out} more were refused before this; {reason}");
        }
        let mut record = Record::new(Act::Refused);
        record.actor = Some(actor.into());
        record.reason = plain(reason.into());
        record.stream = flowtide::stream_in(&path).and_then(|s| plain(s.into()));
        core.holds.note(record);
    }
}

fn by_token(token: &Token) -> Caller {
    Caller {
        actor: token.name.clone(),
        rights: token.rights.clone(),
        by_token: true,
    }
}
