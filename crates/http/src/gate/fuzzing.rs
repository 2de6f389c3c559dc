//! Whatever a client may say in a request's head, on its way through the gate to the app and back.
use super::forward::Upstream;
use super::headers::{check, inbound, outbound};
use crate::connection::Peer;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::Full;

/// Never for the next hop, whatever the app or its client says.
const NEVER: [&str; 4] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
];
const APP: &str = "127.0.0.1:8081";

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}

/// A request line without its version (`1.0` and `2` before it choose another), headers, an empty line, a body: what is not
/// refused arrives with one host, one frame, nothing that was meant for us alone, and our client at the end of its way.
pub fn headers(data: &[u8]) {
    let Some((mut request, body)) = request(data) else {
        return;
    };
    if check(&request).is_err() {
        return;
    }
    let before = request.clone();
    let peer = Peer::new(Some(([203, 0, 113, 7], 5000).into()), None, false);
    request.extensions_mut().insert(peer);
    thread_local! {
        static APP_BESIDE: Upstream = Upstream::new("http://127.0.0.1:8081").expect("it is a host and a port");
    }
    let (sent, upgrade) = APP_BESIDE.with(|app| outbound(request, app));
    let headers = sent.headers();
    for name in NEVER {
        assert!(!headers.contains_key(name), "{name} of {before:?} is in {sent:?}");
    }
    assert!(!headers.contains_key(TRANSFER_ENCODING), "{sent:?}");
    assert_eq!(upgrade.is_some(), headers.contains_key(UPGRADE), "{sent:?}");
    assert!(values(headers, &UPGRADE).len() <= 1, "{sent:?}");
    assert!(
        matches!(values(headers, &TE).as_slice(), [] | [b"trailers"]),
        "{sent:?}"
    );
    let connection = values(headers, &CONNECTION);
    assert!(
        matches!(
            connection.as_slice(),
            [] | [b"te"] | [b"upgrade"] | [b"te, upgrade"]
        ),
        "{sent:?}"
    );
    // What frames the body and what it is called by stay as they are.
    assert_eq!(
        values(headers, &CONTENT_LENGTH),
        values(before.headers(), &CONTENT_LENGTH)
    );
    assert_eq!(sent.method(), before.method());
    assert_eq!(
        sent.uri().path_and_query().map(|p| p.as_str()),
        before.uri().path_and_query().map(|p| p.as_str()).or(Some("/"))
    );
    let host = match (before.uri().authority(), before.headers().get(HOST)) {
        (Some(authority), _) => authority.as_str().as_bytes(),
        (None, Some(host)) => host.as_bytes(),
        (None, None) => APP.as_bytes(),
    };
    match sent.version() {
        Version::HTTP_2 => {
            assert!(!headers.contains_key(HOST), "{sent:?}");
            assert_eq!(sent.uri().authority().map(|a| a.as_str()), Some(APP));
        }
        _ => assert_eq!(values(headers, &HOST), [host], "{before:?} is {sent:?}"),
    }
    let way = values(headers, &HeaderName::from_static("x-forwarded-for"));
    assert!(way.len() == 1 && way[0].ends_with(b"203.0.113.7"), "{sent:?}");
    assert!(headers.contains_key("x-forwarded-proto"), "{sent:?}");

    // The same head as an answer of the app's.
    for switches in [false, true] {
        let mut answer = Response::new(body.clone());
        *answer.headers_mut() = before.headers().clone();
        inbound(&mut answer, switches);
        let headers = answer.headers();
        for name in NEVER {
            assert!(
                !headers.contains_key(name),
                "{name} of {before:?} is in {answer:?}"
            );
        }
        assert!(
            !headers.contains_key(TRANSFER_ENCODING) && !headers.contains_key(TE),
            "{answer:?}"
        );
        let switched = switches && before.headers().contains_key(UPGRADE);
        assert_eq!(headers.contains_key(UPGRADE), switched, "{answer:?}");
        assert_eq!(headers.contains_key(CONNECTION), switched, "{answer:?}");
    }
}

fn request(data: &[u8]) -> Option<(Request<Full<Bytes>>, Full<Bytes>)> {
    let end = data.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((data, &b""[..]), |end| (&data[..end], &data[end + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = std::str::from_utf8(lines.next()?).ok()?;
    let (version, line) = match line.split_once(' ')? {
        ("1.0", rest) => (Version::HTTP_10, rest),
        ("2", rest) => (Version::HTTP_2, rest),
        _ => (Version::HTTP_11, line),
    };
    let (method, target) = line.split_once(' ')?;
    let body = Full::new(Bytes::copy_from_slice(body));
    let mut request = Request::new(body.clone());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).ok()?;
    *request.uri_mut() = target.parse().ok()?;
    *request.version_mut() = version;
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        request.headers_mut().try_append(name, value).ok()?;
    }
    Some((request, body))
}
