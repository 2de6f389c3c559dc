//! Posting events to an HTTP endpoint.
use super::encode::line;
use crate::event::{Event, Sink, SinkError, Token};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{StatusCode, Uri};
use reqwest::{Certificate, Client, Response, redirect};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tidegate_gate::Name;

/// So much of an answer is read: for the dead letter, and to use the connection again.
const ANSWER: usize = 4 << 10;

const CONNECT: Duration = Duration::from_secs(5);

/// Posts one event per request, or several as NDJSON.
///
/// Each request carries an `Idempotency-Key` made of the stream's name and the event's position at its source:
/// a repeated attempt has the key of the first. 2xx means that the endpoint has it. 400, 413, 415 and 422 refuse an
/// event for good; a refused batch is posted again one by one, to find which. Everything else is tried again,
/// redirects included: they are not followed, since they would carry the events elsewhere. `Retry-After` is
/// honoured. No proxy from the environment is used.
#[derive(Debug)]
pub struct HttpSink {
    client: Client,
    url: String,
    shown: String,
    headers: HeaderMap,
    batch: usize,
    timeout: Duration,
    key: String,
    /// So many from this event on are at the endpoint, though the attempt was dropped before it could say so.
    progress: Option<(Token, usize)>,
    /// A batch with this first event was refused as a whole.
    refused: Option<Token>,
}

/// What an [`HttpSink`] is made of.
#[derive(Clone, Debug)]
pub struct HttpTarget {
    /// Where to post.
    pub url: String,
    /// How many events one request may carry; above 1 they are lines of NDJSON.
    pub batch: usize,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Further headers, such as `Authorization`.
    pub headers: BTreeMap<String, SecretString>,
    /// Certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// Why an [`HttpSink`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BadTarget {
    /// The URL.
    #[error(
        "\"{0}\" is no URL to post to: expected http:// or https://, a host, and neither user nor password"
    )]
    Url(String),
    /// A header.
    #[error("the header \"{0}\" has a name or value that no header may have")]
    Header(String),
    /// A header that is the sink's own.
    #[error("the header \"{0}\" is set by tidegate itself")]
    OwnHeader(String),
    /// The certificate authorities.
    #[error("cannot use ca_file {path}: {why}", path = .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The client.
    #[error("cannot make an HTTP client: {0}")]
    Client(String),
}

impl HttpSink {
    /// Posts to `target`; `stream` is the first part of each `Idempotency-Key`.
    ///
    /// # Errors
    /// [`BadTarget`]; nothing is connected yet.
    pub fn new(stream: &str, target: &HttpTarget) -> Result<HttpSink, BadTarget> {
        let shown = show(&target.url).ok_or_else(|| BadTarget::Url(without_user(&target.url)))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &target.headers {
            let bad = || BadTarget::Header(name.clone());
            let header = HeaderName::try_from(name.as_str()).map_err(|_| bad())?;
            let own = [
                "content-length",
                "content-type",
                "idempotency-key",
                "transfer-encoding",
            ];
            if own.contains(&header.as_str()) {
                return Err(BadTarget::OwnHeader(name.clone()));
            }
            let mut value = HeaderValue::try_from(value.expose_secret()).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        // Without a provider the client panics; whoever has set one has set this one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &target.ca_file {
            client = client.tls_certs_only(authorities(path)?);
        } else if shown.starts_with("http://") {
            // Most apps are on loopback. Without this the system's CAs are loaded for nothing, and where there are none the
            // app could not even be spoken to.
            client = client.tls_certs_only([]);
        }
        Ok(HttpSink {
            client: client.build().map_err(|e| BadTarget::Client(reason(&e)))?,
            url: target.url.clone(),
            shown,
            headers,
            batch: target.batch.max(1),
            timeout: target.timeout,
            key: key_part(stream),
            progress: None,
            refused: None,
        })
    }

    async fn post(&self, body: Bytes, kind: &'static str, key: String) -> Result<(), Answer> {
        let request = self
            .client
            .post(&self.url)
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, kind)
            .header("idempotency-key", key)
            .body(body);
        let response = request.send().await.map_err(|error| Answer::Later {
            after: None,
            why: reason(&error),
        })?;
        let status = response.status();
        if status.is_success() {
            read_some(response).await;
            return Ok(());
        }
        let why = format!("answered {status}");
        match status {
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY => Err(Answer::Never {
                why,
                said: read_some(response).await,
            }),
            _ => {
                let after = response
                    .headers()
                    .get(RETRY_AFTER)
                    .and_then(|v| retry_after(v.to_str().ok()?, SystemTime::now()));
                read_some(response).await;
                let why = match status.is_redirection() {
                    true => format!("{why}, and redirects are not followed"),
                    false => why,
                };
                Err(Answer::Later { after, why })
            }
        }
    }

    async fn post_one(&self, event: &Event) -> Result<(), Answer> {
        self.post(
            event.payload.clone(),
            "application/json",
            self.key_of(event.token),
        )
        .await
    }

    /// The same for each attempt at the same event, and no other event's.
    fn key_of(&self, token: Token) -> String {
        let mut key = format!("{}-{}-{}", self.key, token.partition, token.position);
        if token.part > 0 {
            // Writing to memory cannot fail.
            let _ = write!(key, "-{}", token.part);
        }
        key
    }
}

/// What came of one request that did not succeed.
enum Answer {
    Never { why: String, said: String },
    Later { after: Option<Duration>, why: String },
}

impl Answer {
    /// The batch as a whole, for no fault of the endpoint's.
    fn refused() -> Answer {
        Answer::Never {
            why: String::new(),
            said: String::new(),
        }
    }

    fn at(self, taken: usize) -> SinkError {
        match self {
            Answer::Never { why, said } => SinkError::Reject {
                taken,
                why: why.into(),
                detail: (!said.is_empty()).then(|| said.into()),
            },
            Answer::Later { after, why } => SinkError::Retry {
                taken,
                after,
                why: why.into(),
            },
        }
    }
}

impl Sink for HttpSink {
    fn describe(&self) -> Name {
        format!("POST {}", self.shown).into()
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.timeout)
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        let Some(first) = events.first().map(|e| e.token) else {
            return Ok(());
        };
        let mut taken = match self.progress.take() {
            Some((token, taken)) if token == first => taken.min(events.len()),
            _ => 0,
        };
        if events.len() - taken > 1 && self.refused != Some(first) {
            let mut body = Vec::with_capacity(events.iter().map(|e| e.payload.len() + 1).sum());
            // One that has several lines and is not JSON goes alone, and with it the others of its batch.
            let fits = events.iter().all(|event| line(&event.payload, &mut body).is_ok());
            let last = events[events.len() - 1].token;
            let key = format!("{}..{}", self.key_of(first), self.key_of(last));
            let posted = match fits {
                true => self.post(body.into(), "application/x-ndjson", key).await,
                false => Err(Answer::refused()),
            };
            match posted {
                Ok(()) => return Ok(()),
                Err(later @ Answer::Later { .. }) => return Err(later.at(0)),
                Err(Answer::Never { .. }) => self.refused = Some(first),
            }
        }
        while taken < events.len() {
            // Remembered before anything is awaited: if the attempt's time is over, the next one goes on here.
            self.progress = Some((first, taken));
            if let Err(answer) = self.post_one(&events[taken]).await {
                (self.progress, self.refused) = (None, None);
                return Err(answer.at(taken));
            }
            taken += 1;
        }
        (self.progress, self.refused) = (None, None);
        Ok(())
    }
}

/// The beginning of an answer's body; the rest is dropped with its connection.
async fn read_some(mut response: Response) -> String {
    let mut body = Vec::new();
    while body.len() < ANSWER {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(ANSWER - body.len())]),
            Ok(None) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&body).trim().to_owned()
}

/// The whole chain of causes, without the URL: it may hold a token.
fn reason(error: &reqwest::Error) -> String {
    let mut said = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        said.push(error.to_string());
        cause = error.source();
    }
    let what = if error.is_connect() {
        "cannot connect"
    } else if error.is_timeout() {
        "timed out"
    } else {
        "the request failed"
    };
    // The last cause is the system's own word; those between say "client error".
    match said.last() {
        Some(last) => format!("{what}: {last}"),
        None => what.to_owned(),
    }
}

/// `Retry-After` in either form; a time that has passed is none.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(value.trim())
        .ok()?;
    SystemTime::from(at).duration_since(now).ok()
}

/// Scheme, host, port and path: user, password and query may be secrets.
fn show(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|s| matches!(*s, "http" | "https"))?;
    let authority = uri.authority()?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return None;
    }
    Some(format!("{scheme}://{authority}{}", uri.path()))
}

fn without_user(url: &str) -> String {
    let head = url.split(['?', '#']).next().unwrap_or_default();
    match (head.split_once("://"), head.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        (None, Some((_, rest))) => format!("…@{rest}"),
        _ => head.to_owned(),
    }
}

/// A stream's name as a part of a header.
pub(super) fn key_part(name: &str) -> String {
    let mut part = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-') {
            part.push(char::from(byte));
        } else {
            // Writing to memory cannot fail.
            let _ = write!(part, "%{byte:02x}");
        }
    }
    part
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, BadTarget> {
    let bad = |why: String| BadTarget::CaFile {
        path: path.to_owned(),
        why,
    };
    let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|e| bad(reason(&e)))?;
    if certificates.is_empty() {
        return Err(bad("it has no PEM certificate".into()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", None),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(
                retry_after(value, now),
                seconds.map(Duration::from_secs),
                "{value:?}"
            );
        }
    }

    #[test]
    fn what_is_shown_of_a_url_holds_no_secret() {
        assert_eq!(show("https://h:1/p?token=s").unwrap(), "https://h:1/p");
        for bad in [
            "",
            "h/p",
            "ftp://h/p",
            "/p",
            "https://u:secret@h/p",
            "https://u@h/",
        ] {
            assert_eq!(show(bad), None, "{bad}");
        }
        let target = |url: &str| HttpTarget {
            url: url.into(),
            batch: 1,
            timeout: Duration::from_secs(1),
            headers: BTreeMap::from([("authorization".into(), SecretString::from("Bearer secret"))]),
            ca_file: None,
        };
        let error = HttpSink::new("s", &target("https://u:secret@h/p?q=secret"))
            .unwrap_err()
            .to_string();
        assert!(!error.contains("secret") && error.contains("h/p"), "{error}");
        let sink = HttpSink::new("s", &target("http://h/p")).unwrap();
        assert!(!format!("{sink:?}{:?}", target("http://h/p")).contains("secret"));
    }

    #[test]
    fn no_two_streams_share_a_key() {
        let keys: Vec<String> = ["a-b", "a b", "ö", "a%20b"].map(key_part).into();
        assert_eq!(keys, ["a-b", "a%20b", "%c3%b6", "a%2520b"]);
    }
}
