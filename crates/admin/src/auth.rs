//! Who may do what: tokens with rights, and the walls against browsers that were led astray.
use crate::error::{ApiError, Why};
use crate::options::{AdminError, ControlOptions, TokenSpec};
use crate::{Core, flowtide};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tidegate_gate::{Act, Name, Record, plain};
use tidegate_http::{Peer, Tls};
use tokio::sync::Semaphore;
use tokio::time::Instant;

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
    fn word(self) -> &'static str {
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
        Ok(caller) => caller,
        Err(refusal) => {
            let refusal = match refusal {
                Refusal::Plain(error) => error,
                Refusal::WrongToken => core.auth.slow.down(peer.as_ref()).await,
            };
            let response = refusal.into_response();
            core.auth
                .note(&core, &response, "anonymous", &method, &path, peer.as_ref());
            return response;
        }
    };
    let actor = caller.actor.clone();
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    core.auth
        .note(&core, &response, &actor, &method, &path, peer.as_ref());
    response
}

enum Refusal {
    Plain(ApiError),
    /// Told only after a while.
    WrongToken,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal::Plain(error)
    }
}

pub(crate) struct Auth {
    tokens: Vec<Token>,
    hosts: Vec<String>,
    tls: Option<Tls>,
    slow: Slow,
    notes: Mutex<Notes>,
}

impl Auth {
    pub(crate) fn new(options: &ControlOptions) -> Result<Auth, AdminError> {
        let tokens = load(&options.tokens).map_err(|mut all| all.swap_remove(0))?;
        Ok(Auth {
            tokens,
            hosts: options.hosts.iter().map(|h| h.to_ascii_lowercase()).collect(),
            tls: options.tls.clone(),
            slow: Slow::default(),
            notes: Mutex::default(),
        })
    }

    fn admit(&self, request: &Request, peer: Option<&Peer>) -> Result<Caller, Refusal> {
        // A browser cannot open a Unix socket, so names and origins mean nothing there.
        if peer.is_none_or(|p| p.addr.is_some()) {
            let host = host(request)?;
            if let Some(host) = &host {
                self.known(host)?;
            }
            same_origin(request.headers(), host.as_deref(), peer.is_some_and(|p| p.tls))?;
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
        let Some(given) = request.headers().get(AUTHORIZATION) else {
            return Err(ApiError::unauthorized(
                "this call needs a token: send Authorization: Bearer <token>",
            )
            .into());
        };
        self.caller(given.as_bytes()).ok_or(Refusal::WrongToken)
    }

    /// Compares with every token, whichever matches and however soon.
    fn caller(&self, given: &[u8]) -> Option<Caller> {
        let (scheme, given) = given.split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return None;
        }
        let given = given.trim_ascii();
        let mut found = None;
        for token in &self.tokens {
            let current = token.current();
            if bool::from(current.expose_secret().as_bytes().ct_eq(given)) {
                found = Some(Caller {
                    actor: token.name.clone(),
                    rights: token.rights.clone(),
                    by_token: true,
                });
            }
        }
        found
    }

    /// Refuses names that are not ours: a page whose name was made to point here (DNS rebinding) is of the same
    /// origin as what it calls, and only the name gives it away.
    fn known(&self, host: &str) -> Result<(), ApiError> {
        let name = without_port(host).to_ascii_lowercase();
        let ip = name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        let ours = ip.is_ok()
            || name == "localhost"
            || self.hosts.contains(&name)
            || self.tls.as_ref().is_some_and(|tls| tls.names(&name));
        if ours {
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "the Host of this request is not one of ours: use an IP address or localhost, or add the name to hosts \
             under [control]",
        ))
    }

    /// Writes a refused call down; a flood of them becomes one line a moment that says how many it stands for.
    fn note(
        &self,
        core: &Core,
        response: &Response,
        actor: &str,
        method: &axum::http::Method,
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
        let Some(left_out) = unpoisoned(&self.notes).take() else {
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

/// At most ten a second.
#[derive(Default)]
struct Notes {
    window: Option<Instant>,
    used: u32,
    left_out: u64,
}

impl Notes {
    fn take(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self
            .window
            .is_none_or(|at| now.duration_since(at) >= Duration::from_secs(1))
        {
            self.window = Some(now);
            self.used = 0;
        }
        if self.used == 10 {
            self.left_out += 1;
            return None;
        }
        self.used += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

fn host(request: &Request) -> Result<Option<String>, ApiError> {
    let bad = |sentence| Err(ApiError::new(StatusCode::BAD_REQUEST, sentence));
    let mut named = request.headers().get_all(HOST).iter();
    match (named.next(), named.next(), request.uri().authority()) {
        (Some(_), Some(_), _) => bad("the request has more than one Host"),
        (Some(host), None, _) => match host.to_str() {
            Ok(host) => Ok(Some(host.to_owned())),
            Err(_) => bad("the Host of this request is not text"),
        },
        // HTTP/2 carries it in :authority.
        (None, _, Some(authority)) => Ok(Some(authority.as_str().to_owned())),
        (None, _, None) if request.version() < Version::HTTP_11 => Ok(None),
        (None, _, None) => bad("the request has no Host"),
    }
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host.ends_with(']') && host[colon + 1..].bytes().all(|b| b.is_ascii_digit()) => {
            &host[..colon]
        }
        _ => host,
    }
}

/// A browser says where a request comes from; what is not from our own page is refused, a port of the same
/// machine included. Whoever says nothing is no browser.
fn same_origin(headers: &HeaderMap, host: Option<&str>, tls: bool) -> Result<(), ApiError> {
    let refuse = || {
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "a web page of another origin sent this request",
        ))
    };
    for site in headers.get_all("sec-fetch-site") {
        if !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return refuse();
        }
    }
    for origin in headers.get_all(ORIGIN) {
        let same = origin
            .to_str()
            .ok()
            .and_then(|o| o.parse::<Uri>().ok())
            .is_some_and(|origin| {
                let scheme = if tls { "https" } else { "http" };
                origin.scheme_str() == Some(scheme)
                    && host.is_some_and(|host| {
                        origin
                            .authority()
                            .is_some_and(|a| a.as_str().eq_ignore_ascii_case(host))
                    })
            });
        if !same {
            return refuse();
        }
    }
    Ok(())
}

/// Makes whoever guesses wait, and nobody else: a valid token never comes here.
struct Slow {
    failures: Mutex<HashMap<IpAddr, (u32, Instant)>>,
    waiting: Semaphore,
}

impl Default for Slow {
    fn default() -> Slow {
        Slow {
            failures: Mutex::default(),
            waiting: Semaphore::new(Slow::AT_ONCE),
        }
    }
}

impl Slow {
    /// Addresses remembered, whatever comes.
    const KNOWN: usize = 4096;
    const FORGET: Duration = Duration::from_secs(60);
    /// Those who wait occupy a connection each.
    const AT_ONCE: usize = 256;

    async fn down(&self, peer: Option<&Peer>) -> ApiError {
        let from = peer
            .and_then(|p| p.addr)
            .map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |a| network(a.ip()));
        let failures = self.count(from);
        let wait = Duration::from_millis(100) * 2u32.pow(failures.saturating_sub(1).min(5));
        let Ok(_place) = self.waiting.try_acquire() else {
            return ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many calls with a wrong token are waiting for their answer",
            )
            .retry_after("5");
        };
        tokio::time::sleep(wait).await;
        ApiError::unauthorized("no token of ours is like the one sent")
    }

    fn count(&self, from: IpAddr) -> u32 {
        let now = Instant::now();
        let mut failures = unpoisoned(&self.failures);
        if failures.len() >= Slow::KNOWN {
            failures.retain(|_, (_, last)| now.duration_since(*last) < Slow::FORGET);
            if failures.len() >= Slow::KNOWN {
                failures.clear();
            }
        }
        let (count, last) = failures.entry(from).or_insert((0, now));
        if now.duration_since(*last) >= Slow::FORGET {
            *count = 0;
        }
        *count = count.saturating_add(1);
        *last = now;
        *count
    }
}

/// One subscriber has at least a /64 of IPv6 addresses to come from.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves the value whole at each step.
    mutex.lock().unwrap_or_else(|p| p.into_inner())
}

/// Why a token file grants nothing. The token itself is never shown.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token file {}: {error}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It holds no token that could be used.
    #[error("the token file {} {why}", .file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

pub(crate) struct Token {
    name: Name,
    rights: Arc<[Right]>,
    file: PathBuf,
    kept: Mutex<Kept>,
}

struct Kept {
    token: Arc<SecretString>,
    /// What the file looked like when it was last read, whether that gave a token or not.
    seen: Option<Look>,
    /// Others could read the file when the token in use was read from it.
    open: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    open: bool,
}

impl Token {
    /// The token, read again if its file changed: one `stat` a call, so that a token that was replaced is void
    /// at once. A file that no longer holds one leaves the token in use and is complained of once.
    fn current(&self) -> Arc<SecretString> {
        let mut kept = unpoisoned(&self.kept);
        let now = look(&self.file).ok();
        if now != kept.seen {
            kept.seen = now;
            let open = now.is_some_and(|l| l.open);
            match read(&self.file) {
                Ok(_) if open && !kept.open => tracing::error!(
                    token = %self.name,
                    file = %self.file.display(),
                    "the token file became readable for everybody, so what it holds is not used: the token read \
                     before stays in use; set its mode to 0600 or 0640"
                ),
                Ok(token) => {
                    kept.token = Arc::new(token);
                    kept.open = open;
                    tracing::info!(token = %self.name, "the token file changed and was read again");
                }
                Err(error) => tracing::error!(
                    token = %self.name,
                    %error,
                    "the token file changed and cannot be used: the token read before stays in use"
                ),
            }
        }
        kept.token.clone()
    }
}

/// Reads all tokens; everything that is wrong with them.
pub(crate) fn load(specs: &[TokenSpec]) -> Result<Vec<Token>, Vec<AdminError>> {
    let mut wrong = Vec::new();
    let mut tokens: Vec<Token> = Vec::new();
    for spec in specs {
        let seen = look(&spec.file).ok();
        match read(&spec.file) {
            Ok(token) => {
                let twin = tokens
                    .iter()
                    .find(|t| unpoisoned(&t.kept).token.expose_secret() == token.expose_secret());
                if let Some(twin) = twin {
                    wrong.push(AdminError::SameToken(twin.name.to_string(), spec.name.clone()));
                }
                let open = seen.is_some_and(|l| l.open);
                if open {
                    tracing::warn!(
                        token = %spec.name,
                        file = %spec.file.display(),
                        "everybody on this machine can read the token file; set its mode to 0600 or 0640"
                    );
                }
                tokens.push(Token {
                    name: spec.name.as_str().into(),
                    rights: spec.allow.as_slice().into(),
                    file: spec.file.clone(),
                    kept: Mutex::new(Kept {
                        token: Arc::new(token),
                        seen,
                        open,
                    }),
                });
            }
            Err(error) => wrong.push(AdminError::TokenFile {
                name: spec.name.clone(),
                error,
            }),
        }
    }
    if wrong.is_empty() { Ok(tokens) } else { Err(wrong) }
}

fn look(file: &Path) -> io::Result<Look> {
    let meta = std::fs::metadata(file)?;
    Ok(Look {
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
        open: meta.mode() & 0o004 != 0,
    })
}

fn read(file: &Path) -> Result<SecretString, TokenFileError> {
    const SHORTEST: usize = 16;
    const LONGEST: u64 = 4096;
    let unusable = |why| TokenFileError::Unusable {
        file: file.into(),
        why,
    };
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|f| f.take(LONGEST + 1).read_to_string(&mut text))
        .map_err(|error| TokenFileError::Io {
            file: file.into(),
            error,
        })?;
    let text = SecretString::from(text);
    let token = text.expose_secret().trim();
    match token {
        _ if text.expose_secret().len() as u64 > LONGEST => Err(unusable("is longer than 4096 bytes")),
        "" => Err(unusable("is empty: it must hold a token of at least 16 bytes")),
        short if short.len() < SHORTEST => Err(unusable(
            "holds a token of fewer than 16 bytes, which can be guessed",
        )),
        token if !token.bytes().all(|b| b.is_ascii_graphic()) => Err(unusable(
            "holds something that a header cannot carry: a token is printable ASCII without spaces",
        )),
        token => Ok(SecretString::from(token)),
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
