//! What is refused before it can be misread, and what a proxy takes from and adds to the headers.
use super::Answer;
use super::forward::Upstream;
use crate::connection::Peer;
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Meant for the next hop only, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// A request that is not forwarded, and the sentence its client gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal(StatusCode, &'static str);

impl From<Refusal> for Answer {
    fn from(Refusal(status, sentence): Refusal) -> Answer {
        let mut answer = super::text(status, sentence, None);
        let headers = answer.headers_mut();
        // Nobody knows where this request ends, so nobody knows where the next one begins.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(
                ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
        answer
    }
}

/// Refuses what the app could read in another way than we do. Hyper has refused broken framing before, and has
/// dropped a length that stood beside chunks.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), Refusal> {
    let bad = |sentence| Err(Refusal(StatusCode::BAD_REQUEST, sentence));
    if request.method() == Method::CONNECT {
        return Err(Refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "CONNECT is refused: this is no forward proxy\n",
        ));
    }
    // One pass: of the few headers that a request has, none is looked up.
    let (mut codings, mut lengths, mut hosts) = (0, 0, 0);
    let (mut chunked, mut underscore, mut host) = (true, false, None);
    for (name, value) in request.headers() {
        match name.as_str() {
            "transfer-encoding" => {
                codings += 1;
                chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            }
            "content-length" => lengths += 1,
            "host" => {
                hosts += 1;
                host = Some(value);
            }
            // CGI and its heirs take `_` for `-`.
            "content_length" | "transfer_encoding" => underscore = true,
            _ => {}
        }
    }
    if codings > 1 || !chunked {
        return bad("Transfer-Encoding is not exactly \"chunked\"\n");
    }
    if lengths > 1 {
        return bad("more than one Content-Length\n");
    }
    if underscore {
        return bad("an underscore in a header that frames the body\n");
    }
    if hosts > 1 {
        return bad("more than one Host\n");
    }
    match (request.uri().authority(), host) {
        (Some(authority), _) if authority.as_str().contains('@') => {
            bad("a user name in the request's target\n")
        }
        (Some(authority), Some(host)) if *host != *authority.as_str() => {
            bad("Host differs from the request's target\n")
        }
        (None, None) if request.version() == Version::HTTP_11 => bad("no Host\n"),
        _ => Ok(()),
    }
}

/// The request as the app gets it; with it our client's end of an upgrade, if it asked for one that may pass.
pub(super) fn outbound<B: http_body::Body>(
    mut request: Request<B>,
    upstream: &Upstream,
) -> (Request<B>, Option<OnUpgrade>) {
    let protocol = upgrade(&request);
    let client = protocol.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let peer = request.extensions_mut().remove::<Peer>();
    // Ours, and not for the client that forwards.
    request.extensions_mut().clear();
    let http2 = upstream.speaks_http2(request.headers());
    let version = request.version();
    let authority = request.uri().authority().cloned();
    let headers = request.headers_mut();
    let trailers = version == Version::HTTP_2 && headers.contains_key(TE) || names(headers, &TE, "trailers");
    strip(headers);
    headers.remove(HTTP2_SETTINGS);
    if let Some(authority) = authority {
        // In HTTP/2 and in a target of absolute form this is the host, whatever `Host` says.
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            headers.insert(HOST, host);
        }
    } else if !headers.contains_key(HOST) {
        // HTTP/1.0 needs none, and what we send does.
        headers.insert(HOST, upstream.host());
    }
    forwarded(headers, peer.as_ref());
    let mut connection = Vec::new();
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        connection.push("te");
    }
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        connection.push("upgrade");
    }
    if http2 {
        // The authority of the connection takes its place; two that differ make a request malformed.
        headers.remove(HOST);
    } else if let Ok(connection) = HeaderValue::from_str(&connection.join(", "))
        && !connection.is_empty()
    {
        headers.insert(CONNECTION, connection);
    }
    *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let uri = upstream.uri(request.uri(), http2);
    *request.uri_mut() = uri;
    (request, client)
}

/// The answer as our client gets it.
pub(super) fn inbound<B>(response: &mut Response<B>, switches: bool) {
    let headers = response.headers_mut();
    let protocol = switches.then(|| headers.get(UPGRADE).cloned()).flatten();
    strip(headers);
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    // What goes to the client is framed by the version it speaks.
    *response.version_mut() = Version::default();
}

/// The protocol that the client asks to upgrade to. HTTP itself is not one that may pass: requests inside the
/// tunnel would go round the gate.
fn upgrade<B: http_body::Body>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    let asks = request.version() == Version::HTTP_11
        && names(headers, &CONNECTION, "upgrade")
        && request.body().is_end_stream();
    let mut protocols = headers.get_all(UPGRADE).iter();
    let protocol = protocols.next().filter(|_| asks && protocols.next().is_none())?;
    let another_http = |token: &str| {
        let token = token.trim().to_ascii_lowercase();
        ["h2", "http", "tls"].iter().any(|p| token.starts_with(p))
    };
    let text = protocol.to_str().ok()?;
    (!text.split(',').any(another_http)).then(|| protocol.clone())
}

/// Whether a header that is a list of tokens names one.
fn names(headers: &HeaderMap, header: &HeaderName, token: &str) -> bool {
    headers
        .get_all(header)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| {
            v.split(';')
                .next()
                .is_some_and(|v| v.trim().eq_ignore_ascii_case(token))
        })
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // A client could have us drop what the app relies on.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in &named {
        headers.remove(name);
    }
    // Of the few that are there, rarely one is such: looking at all costs less than asking for each of these.
    while let Some(name) = headers.keys().find(|name| HOP_BY_HOP.contains(name)).cloned() {
        headers.remove(name);
    }
}

/// Adds ourselves to the way that the request has come. What a balancer before us has said of the client's host and
/// protocol stands: we do not know better.
fn forwarded(headers: &mut HeaderMap, peer: Option<&Peer>) {
    if let Some(last) = peer.and_then(|p| p.forwarded.as_ref()) {
        let way = if headers.contains_key(FORWARDED_FOR) {
            let hops = headers.get_all(FORWARDED_FOR).iter().chain([last]);
            let hops: Vec<&str> = hops.filter_map(|v| v.to_str().ok()).collect();
            HeaderValue::from_str(&hops.join(", "))
        } else {
            Ok(last.clone())
        };
        if let Ok(way) = way {
            headers.insert(FORWARDED_FOR, way);
        }
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        let proto = if peer.is_some_and(|p| p.tls) {
            "https"
        } else {
            "http"
        };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

impl Upstream {
    /// HTTP/1 is told the path, HTTP/2 the whole.
    fn uri(&self, asked: &Uri, http2: bool) -> Uri {
        let path = asked
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
        if !http2 {
            return path.into();
        }
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(self.authority().clone());
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).expect("a scheme, an authority and a path are a URI")
    }
}
