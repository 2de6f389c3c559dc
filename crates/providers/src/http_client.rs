//! The one way in which stores are spoken to: no redirects, no proxies from the environment, verification always on.
use crate::ConfigError;
use reqwest::redirect::Policy;
use std::path::Path;
use std::time::Duration;

/// A read is bounded by its switch's timeout; these bound what runs beside reads, such as a login.
const CONNECT: Duration = Duration::from_secs(5);
const TOTAL: Duration = Duration::from_secs(60);

/// A client for one store. With `ca_file` only what that file holds is trusted, otherwise the system's CA bundle
/// (`SSL_CERT_FILE` is honoured): a sidecar's image brings the bundle that its operators chose.
pub(crate) fn builder(
    plaintext: bool,
    ca_file: Option<&Path>,
) -> Result<reqwest::ClientBuilder, ConfigError> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Lost only against another thread that installs one at this very moment, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let builder = reqwest::Client::builder()
        .tls_backend_rustls()
        // A redirect would carry the token to wherever it points.
        .redirect(Policy::none())
        // "No other variable overrides anything": HTTP_PROXY would see the token of a plaintext store.
        .no_proxy()
        // A read that is dropped at its timeout closes an HTTP/1 connection. It would leave an HTTP/2 connection in
        // the pool, and behind a dead peer every later read would time out on it again.
        .http1_only()
        .connect_timeout(CONNECT)
        .timeout(TOTAL)
        // Requests to one store follow one another. A firewall may have forgotten a connection that is kept for the next
        // one: that costs one poll, its timeout, and the next dials anew. Each more that is kept would cost one more.
        .pool_max_idle_per_host(1)
        .tcp_keepalive(Duration::from_secs(30))
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")));
    match ca_file {
        // Without this the system's bundle is loaded, and an image without one could not even speak plaintext.
        _ if plaintext => Ok(builder.tls_certs_only([])),
        None => Ok(builder),
        Some(path) => {
            let wrong = |why: String| ConfigError::new("ca_file", format!("{}: {why}", path.display()));
            let pem = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|found| !found.is_empty())
                .ok_or_else(|| wrong("expected certificates in PEM form".into()))?;
            Ok(builder.tls_certs_only(certificates))
        }
    }
}

/// Builds it, telling what is wrong in the words of the configuration.
pub(crate) fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, ConfigError> {
    builder.build().map_err(|error| {
        let why = format!(
            "no TLS client can be made ({}): name the store's CA in ca_file, or install the system's CA bundle",
            chain(&error)
        );
        ConfigError::new("ca_file", why)
    })
}

/// An error and its causes on one line; the outermost of reqwest's says least.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The header `Retry-After`.
pub(crate) fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    retry_after_text(headers.get(http::header::RETRY_AFTER)?.to_str().ok()?)
}

/// Its text: seconds, or a date.
pub(crate) fn retry_after_text(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let left = at.duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(left).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use http::{HeaderMap, HeaderValue};

    fn asked(text: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static(text));
        retry_after(&headers)
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked(" 0 "), Some(Duration::ZERO));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(asked("Fri, 01 Jan 2100 00:00:00 GMT").unwrap() > Duration::from_secs(1_000_000));
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-1"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
