//! The way to a running tidegate: its URL, the token, and one request at a time.
use super::text::clean;
use reqwest::{Method, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(3);
const MOST_TOKEN_BYTES: u64 = 4096;
/// Far above what any number of streams needs; a wrong port may answer with a film.
const MOST_ANSWER_BYTES: usize = 16 << 20;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The command line cannot be used.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers.
    #[error(
        "no tidegate answers at {at} ({why}): start it with tidegate run --config FILE, or name its control listener with --admin URL or $TIDEGATE_ADMIN"
    )]
    Unreachable {
        /// Where it was looked for.
        at: String,
        /// What the system said.
        why: String,
    },
    /// Somebody answers, and it is not tidegate's control listener.
    #[error(
        "what answers at {at} is not tidegate's control listener ({why}): look at --admin and at base_path in its [control]"
    )]
    NotTidegate {
        /// Where.
        at: String,
        /// How that shows.
        why: String,
    },
    /// It refuses.
    #[error("{at} refuses: {why}; {advice}")]
    Denied {
        /// Where.
        at: String,
        /// In its words.
        why: String,
        /// What to do.
        advice: &'static str,
    },
    /// It answers that this cannot be done.
    #[error("{at} answers {status}: {why}")]
    Answer {
        /// Where.
        at: String,
        /// The status code.
        status: u16,
        /// In its words.
        why: String,
    },
    /// Nobody reads what is printed.
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

impl ClientError {
    /// What a script is told.
    pub fn code(&self) -> u8 {
        use crate::cli::exit;
        match self {
            ClientError::Usage(_) => exit::USAGE,
            ClientError::Unreachable { .. } | ClientError::NotTidegate { .. } => exit::UNAVAILABLE,
            ClientError::Denied { .. } => exit::DENIED,
            ClientError::Answer { status: 404, .. } => exit::USAGE,
            ClientError::Answer { status: 503, .. } => exit::UNAVAILABLE,
            ClientError::Answer { .. } => exit::NOT_YET,
            ClientError::Output(_) => exit::SOFTWARE,
        }
    }
}

/// A running tidegate.
#[derive(Clone)]
pub struct Link {
    http: reqwest::Client,
    /// Ends with a slash.
    base: Url,
    /// As the person named it.
    named: String,
    token: Option<SecretString>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("at", &self.named)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Reads the token file and the CA file; connects to nothing yet.
    pub fn new(admin: &str, token_file: Option<&Path>, ca_file: Option<&Path>) -> Result<Link, ClientError> {
        // Installed already where the whole program runs; a second time changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (base, socket) = target(admin)?;
        let token = token_file.map(read_token).transpose()?;
        if token.is_some() && base.scheme() == "http" && socket.is_none() && !is_loopback(&base) {
            return Err(ClientError::Usage(format!(
                "--admin {}: http:// would send the token in clear text to another machine; expected https://",
                clean(admin)
            )));
        }
        let mut client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT);
        if let Some(socket) = socket {
            client = client.unix_socket(socket);
        }
        if let Some(file) = ca_file {
            client = client.tls_certs_only(read_cas(file)?);
        } else if base.scheme() == "http" {
            // A minimal image has no CA store to load, and none is needed.
            client = client.tls_certs_only([]);
        }
        let http = client
            .build()
            .map_err(|e| ClientError::Usage(format!("--admin {}: {}", clean(admin), root_cause(&e))))?;
        Ok(Link {
            http,
            base,
            named: clean(admin).trim_end_matches('/').to_owned(),
            token,
        })
    }

    /// Where it is, as the person named it.
    pub fn at(&self) -> &str {
        &self.named
    }

    /// Sends a request and returns the answer with its body still to come. `path` is below `base_path`, one item for
    /// each segment.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&serde_json::Value>,
        timeout: Option<Duration>,
    ) -> Result<Response, ClientError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        for (key, value) in query {
            url.query_pairs_mut().append_pair(key, value);
        }
        let mut request = self.http.request(method, url);
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            let body = body.to_string();
            request = request
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(body);
        }
        request.send().await.map_err(|e| self.broken(&e))
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&serde_json::Value>,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let mut response = self.send(method, path, query, body, Some(timeout)).await?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.broken(&e))? {
            if bytes.len() + chunk.len() > MOST_ANSWER_BYTES {
                return Err(self.strange("its answer is larger than 16 MiB"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer { status, bytes })
    }

    /// Asks with GET for what has to be there.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.ask(Method::GET, &[path], &[], None, timeout).await?;
        match answer.status {
            StatusCode::OK => self.read(&answer),
            _ => Err(self.refusal(&answer)),
        }
    }

    pub(super) fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, ClientError> {
        serde_json::from_slice(&answer.bytes).map_err(|_| {
            self.strange(&format!(
                "it answers {} with something else than expected",
                answer.status.as_u16()
            ))
        })
    }

    /// What an answer means that is none of those a command knows.
    pub(super) fn refusal(&self, answer: &Answer) -> ClientError {
        let at = self.named.clone();
        let status = answer.status.as_u16();
        let said = answer.sentence();
        match (status, said) {
            (401, said) => ClientError::Denied {
                at,
                why: said.unwrap_or_else(|| "it does not know the token".into()),
                advice: "give --token-file with the file of a token that its [[control.token]] lists",
            },
            (403, said) => ClientError::Denied {
                at,
                why: said.unwrap_or_else(|| "the right is missing".into()),
                advice: "use a token whose allow in [[control.token]] has the right, or a Host that its hosts lists",
            },
            (_, Some(why)) => ClientError::Answer { at, status, why },
            (_, None) => self.strange(&format!("it answers {status}")),
        }
    }

    pub(super) fn strange(&self, why: &str) -> ClientError {
        ClientError::NotTidegate {
            at: self.named.clone(),
            why: why.to_owned(),
        }
    }

    pub(super) fn broken(&self, error: &reqwest::Error) -> ClientError {
        let why = if error.is_timeout() {
            "no answer in time".to_owned()
        } else {
            root_cause(error)
        };
        ClientError::Unreachable {
            at: self.named.clone(),
            why,
        }
    }
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) bytes: Vec<u8>,
}

impl Answer {
    /// The sentence in `error` or `message`, fit for a terminal.
    pub(super) fn sentence(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.bytes).ok()?;
        let text = body.get("error").or_else(|| body.get("message"))?.as_str()?;
        Some(clean(text))
    }
}

/// The innermost reason: the outer ones only say that there was an error, and name the URL again.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    clean(&deepest.to_string())
}

fn target(admin: &str) -> Result<(Url, Option<PathBuf>), ClientError> {
    let bad = || {
        ClientError::Usage(format!(
            "--admin {}: expected a URL such as http://127.0.0.1:9470, with the base_path if there is one, or unix:/path/to/socket",
            super::text::masked(admin)
        ))
    };
    if let Some(rest) = admin.strip_prefix("unix:") {
        // `unix:/run/tidegate.sock:/ui/stream`: what stands after the second colon is the base path.
        let (socket, base) = rest.split_once(':').unwrap_or((rest, ""));
        if !socket.starts_with('/') {
            return Err(bad());
        }
        let mut url = Url::parse("http://localhost/").map_err(|_| bad())?;
        url.set_path(base);
        return Ok((url, Some(socket.into())));
    }
    let url = Url::parse(admin).map_err(|_| bad())?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if plain { Ok((url, None)) } else { Err(bad()) }
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback()),
        None => false,
    }
}

fn read_token(file: &Path) -> Result<SecretString, ClientError> {
    let bad = |why: &str| {
        ClientError::Usage(format!(
            "--token-file {}: {why}",
            clean(&file.display().to_string())
        ))
    };
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|f| f.take(MOST_TOKEN_BYTES + 1).read_to_string(&mut text));
    let text = SecretString::from(text);
    read.map_err(|e| bad(&e.to_string()))?;
    let token = text.expose_secret().trim();
    if token.is_empty() {
        return Err(bad("it is empty; expected a token"));
    }
    if text.expose_secret().len() as u64 > MOST_TOKEN_BYTES || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad(
            "this is no token; expected one line of printable characters without spaces",
        ));
    }
    Ok(SecretString::from(token))
}

fn read_cas(file: &Path) -> Result<Vec<reqwest::Certificate>, ClientError> {
    let bad =
        |why: &str| ClientError::Usage(format!("--ca-file {}: {why}", clean(&file.display().to_string())));
    let pem = std::fs::read(file).map_err(|e| bad(&e.to_string()))?;
    match reqwest::Certificate::from_pem_bundle(&pem) {
        Ok(cas) if !cas.is_empty() => Ok(cas),
        _ => Err(bad("expected PEM with at least one CERTIFICATE")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    #[test]
    fn an_address_is_a_url_or_a_socket_with_perhaps_a_base_path() {
        let table = [
            ("http://127.0.0.1:9470", "http://127.0.0.1:9470/", None),
            ("https://h/ui/stream/", "https://h/ui/stream/", None),
            ("unix:/run/t.sock", "http://localhost/", Some("/run/t.sock")),
            (
                "unix:/run/t.sock:/ui/stream",
                "http://localhost/ui/stream",
                Some("/run/t.sock"),
            ),
        ];
        for (given, url, socket) in table {
            let (got, at) = target(given).unwrap();
            assert_eq!(
                (got.as_str(), at.as_deref()),
                (url, socket.map(Path::new)),
                "{given}"
            );
        }
        for bad in [
            "",
            "127.0.0.1:9470",
            "ftp://h",
            "unix:",
            "unix:t.sock",
            "http://",
            "http://u:secret@h/",
            "http://h/?a",
        ] {
            let error = target(bad).unwrap_err();
            assert_eq!(error.code(), crate::cli::exit::USAGE, "{bad}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_token_is_not_sent_in_clear_text_to_another_machine() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"0123456789abcdef\n").unwrap();
        let link = |at: &str| Link::new(at, Some(file.path()), None);
        assert!(
            link("http://10.0.0.1:9470")
                .unwrap_err()
                .to_string()
                .contains("clear text")
        );
        assert!(link("http://[::1]:9470").is_ok());
        assert!(link("unix:/run/t.sock").is_ok());
        assert!(!format!("{:?}", link("http://localhost:9470").unwrap()).contains("0123456789abcdef"));
    }
}
