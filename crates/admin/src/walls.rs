//! The walls against browsers that were led astray: foreign names, and pages of another origin.
use crate::error::ApiError;
use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode, Uri, Version};
use std::net::IpAddr;
use tidegate_http::Tls;

/// The names that requests may carry besides `localhost` and IP addresses.
pub(crate) struct Names {
    pub(crate) hosts: Vec<String>,
    pub(crate) tls: Option<Tls>,
}

impl Names {
    /// Refuses what comes under a name that is not ours, or from a page that is not ours.
    pub(crate) fn check(&self, request: &Request, tls: bool) -> Result<(), ApiError> {
        let host = host(request)?;
        if let Some(host) = &host {
            self.known(host)?;
        }
        if follows_a_link(request) {
            return Ok(());
        }
        same_origin(request.headers(), host.as_deref(), tls)
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
}

/// Somebody followed a link to the page, from a chat for example. It is answered with nothing but a way to the page,
/// on which the browser then comes from here.
pub(crate) fn follows_a_link(request: &Request) -> bool {
    let is = |name: &str, value: &[u8]| request.headers().get(name).is_some_and(|v| v.as_bytes() == value);
    request.method() == Method::GET
        && request.uri().path() == "/"
        && request.headers().get(ORIGIN).is_none()
        && (is("sec-fetch-site", b"cross-site") || is("sec-fetch-site", b"same-site"))
        && is("sec-fetch-mode", b"navigate")
        && is("sec-fetch-dest", b"document")
}

/// A browser that sends a cookie also says where it comes from; whoever does not is none, or an old one.
pub(crate) fn says_where_from(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site")
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
