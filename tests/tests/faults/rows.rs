//! The table: every way of going wrong, and what it has to be read as at each store.
use e2e::fault_proxy::Fault;
use e2e::pki::Shown;
use std::time::Duration;

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Vault,
    KeyVault,
}

/// How it goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// On the wire.
    Wire(Fault),
    /// The name of the store is not known any more.
    DnsGone,
    /// The machine's clock jumps by so many seconds.
    Clock(i64),
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// This reading, with this (or what is after the `|`) in the line for people; what stood stands on.
    Kept(&'static str, &'static str),
    /// By turns this reading and a good one; what stood stands on.
    ByTurns(&'static str, &'static str),
    /// A good reading of what was written: nothing changes.
    Unmoved,
    /// A good reading of what the answer says.
    Follows,
}

pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) how: How,
    pub(crate) vault: Expect,
    pub(crate) key_vault: Expect,
    /// How long the store asks to be left alone, if it does: the next poll is not before that, and never later than a
    /// minute.
    pub(crate) asks: Option<Duration>,
    /// Its reads end by their timeout, which is shorter for this reason.
    pub(crate) silent: bool,
}

impl Row {
    pub(crate) fn expect(&self, kind: Kind) -> Expect {
        match kind {
            Kind::Vault => self.vault,
            Kind::KeyVault => self.key_vault,
        }
    }
}

fn row(name: impl Into<String>, how: How, vault: Expect, key_vault: Expect) -> Row {
    Row {
        name: name.into(),
        how,
        vault,
        key_vault,
        asks: None,
        silent: false,
    }
}

/// The same at both stores.
fn both(name: &str, fault: Fault, word: &'static str, told: &'static str) -> Row {
    let expect = Expect::Kept(word, told);
    row(name, How::Wire(fault), expect, expect)
}

fn silent(name: &str, fault: Fault) -> Row {
    // The limit of a connect is a little shorter than these reads': whichever is over first.
    let told = if matches!(fault, Fault::BlackHole) {
        "deadline has elapsed|operation timed out|no answer within"
    } else {
        "no answer within"
    };
    let both = both(name, fault, "unavailable", told);
    Row { silent: true, ..both }
}

fn http(status: u16, headers: &str, body: &str) -> Fault {
    let length = body.len();
    let text = format!("HTTP/1.1 {status} Some Reason\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    Fault::Bytes(text.into_bytes())
}

const JSON: &str = "Content-Type: application/json\r\n";
/// Both stores' kinds of error body at once: each reader finds its own in it.
const ERRORS: &str =
    r#"{"errors":["MARKED"],"error":{"code":"MARKED","message":"MARKED","innererror":{"code":"MARKED"}}}"#;

fn status(code: u16, vault: Expect, key_vault: Expect) -> Row {
    row(
        format!("status {code}"),
        How::Wire(http(code, JSON, ERRORS)),
        vault,
        key_vault,
    )
}

fn throttled(name: &str, retry_after: &str, asks: Duration) -> Row {
    let headers = format!("{JSON}Retry-After: {retry_after}\r\n");
    let expect = Expect::Kept("throttled", "fewer requests (429)");
    let name = format!("status 429, Retry-After {name}");
    let how = How::Wire(http(429, &headers, ERRORS));
    Row {
        asks: Some(asks),
        ..row(name, how, expect, expect)
    }
}

/// A date as a server writes it, so many seconds from now.
fn date_in(seconds: i64) -> String {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// What every row that is not listed here would have to say about itself: a fault with no row is not documented.
pub(crate) fn all() -> Vec<Row> {
    use Expect::{ByTurns, Follows, Kept, Unmoved};
    let unavailable = |told| Kept("unavailable", told);
    let denied = |told| Kept("denied", told);
    let garbage = "not one of";
    let html = "Content-Type: text/html\r\n";
    let page = "<html>MARKED: please log in</html>";
    let mut rows = vec![
        both("refused", Fault::Refuse, "unavailable", "refused"),
        both(
            "reset before the headers",
            Fault::ResetBeforeHeaders,
            "unavailable",
            "no usable answer",
        ),
        both(
            "reset in the headers",
            Fault::ResetInHeaders,
            "unavailable",
            "no usable answer",
        ),
        both(
            "reset after the headers",
            Fault::ResetAfterHeaders,
            "unavailable",
            "no usable answer",
        ),
        both(
            "reset in the body",
            Fault::ResetInBody,
            "unavailable",
            "no usable answer",
        ),
        both(
            "truncated body",
            Fault::Truncated,
            "unavailable",
            "no usable answer",
        ),
        silent("hang", Fault::Hang),
        silent("hang in the body", Fault::HangInBody),
        silent("slow drip", Fault::Drip(Duration::from_millis(40))),
        silent("black hole", Fault::BlackHole),
        silent("100 Continue for ever", Fault::EndlessInterim),
        row(
            "endless body",
            How::Wire(Fault::EndlessBody),
            Kept("malformed", "more than 1048576 bytes"),
            unavailable("not one of Key Vault's"),
        ),
        both(
            "endless headers",
            Fault::EndlessHeaders,
            "unavailable",
            "no usable answer",
        ),
        row(
            "garbage",
            How::Wire(http(200, JSON, "{\"data\":MARKED")),
            unavailable(garbage),
            unavailable(garbage),
        ),
        row(
            "JSON of another kind",
            How::Wire(http(200, JSON, "[\"MARKED\"]")),
            unavailable(garbage),
            unavailable(garbage),
        ),
        row(
            "nothing at all",
            How::Wire(http(200, JSON, "")),
            unavailable(garbage),
            unavailable(garbage),
        ),
        row(
            "no content",
            How::Wire(http(204, "", "")),
            unavailable("status 204"),
            unavailable("status 204"),
        ),
        both(
            "not HTTP",
            Fault::Bytes(b"SSH-2.0-MARKED\r\n\r\n".to_vec()),
            "unavailable",
            "no usable answer",
        ),
        row(
            "a login page",
            How::Wire(http(200, html, page)),
            unavailable(garbage),
            unavailable(garbage),
        ),
        // The body counts, not its label.
        row(
            "wrong content type",
            How::Wire(Fault::ContentType("text/plain")),
            Unmoved,
            Unmoved,
        ),
        row(
            "a page that says 403",
            How::Wire(http(403, html, page)),
            denied("proxy"),
            denied("proxy"),
        ),
        row(
            "a page that says 404",
            How::Wire(http(404, html, page)),
            unavailable(garbage),
            unavailable("status 404"),
        ),
        row(
            "a page that says 503",
            How::Wire(http(503, html, page)),
            unavailable("status 503"),
            unavailable("status 503"),
        ),
        row(
            "sealed",
            How::Wire(http(503, JSON, r#"{"errors":["Vault is sealed"]}"#)),
            Kept("sealed", "unseal it"),
            unavailable("status 503"),
        ),
        row(
            "never written",
            How::Wire(http(
                404,
                JSON,
                r#"{"errors":[],"error":{"code":"SecretNotFound","message":"MARKED"}}"#,
            )),
            Kept("missing", "404"),
            Kept("missing", "404"),
        ),
        both(
            "TLS: another name",
            Fault::Shows(Shown::WrongName),
            "unavailable",
            "certificate not valid for name",
        ),
        both(
            "TLS: expired",
            Fault::Shows(Shown::Expired),
            "unavailable",
            "certificate expired",
        ),
        both(
            "TLS: unknown CA",
            Fault::Shows(Shown::UnknownAuthority),
            "unavailable",
            "UnknownIssuer",
        ),
        row(
            "DNS gone",
            How::DnsGone,
            unavailable("dns error"),
            unavailable("dns error"),
        ),
        row(
            "the clock jumps a day ahead",
            How::Clock(86_400),
            Unmoved,
            Unmoved,
        ),
        row(
            "the clock jumps a year back",
            How::Clock(-31_536_000),
            Unmoved,
            Unmoved,
        ),
        // Versions of Key Vault have no order: what it serves is what counts.
        row(
            "the version goes backwards",
            How::Wire(Fault::Replay),
            Kept("stale", "older version"),
            Follows,
        ),
        row(
            "a replica that lags, by turns",
            How::Wire(Fault::ReplayByTurns),
            ByTurns("stale", "older version"),
            Follows,
        ),
        row(
            "a restored snapshot, written to",
            How::Wire(Fault::ReplayAsNew),
            Follows,
            Follows,
        ),
    ];
    for code in [301, 302, 303, 307, 308] {
        for (what, place) in [
            ("elsewhere", "https://127.0.0.1:1/v1/MARKED"),
            ("in a circle", "/v1/MARKED"),
        ] {
            let fault = http(code, &format!("Location: {place}\r\n"), "");
            let told = unavailable("never followed with a token");
            rows.push(row(
                format!("status {code}, a redirect {what}"),
                How::Wire(fault),
                told,
                told,
            ));
        }
    }
    rows.extend([
        status(400, unavailable("status 400"), unavailable("status 400")),
        status(401, denied("refused the token"), denied("refuses the token")),
        status(403, denied("refused the token"), denied("may not read it")),
        status(404, Kept("missing", "404"), unavailable("status 404")),
        status(
            429,
            Kept("throttled", "fewer requests"),
            Kept("throttled", "fewer requests"),
        ),
        status(
            472,
            unavailable("disaster recovery secondary"),
            unavailable("status 472"),
        ),
        status(473, unavailable("performance standby"), unavailable("status 473")),
    ]);
    for (code, told) in [
        (402, "status 402"),
        (405, "status 405"),
        (408, "status 408"),
        (409, "status 409"),
        (410, "status 410"),
        (412, "status 412"),
        (418, "status 418"),
        (421, "status 421"),
        (431, "status 431"),
        (451, "status 451"),
        (500, "status 500"),
        (501, "status 501"),
        (502, "status 502"),
        (503, "status 503"),
        (504, "status 504"),
        (511, "status 511"),
        (599, "status 599"),
    ] {
        rows.push(status(code, unavailable(told), unavailable(told)));
    }
    rows.extend([
        throttled("1 second", "1", Duration::from_secs(1)),
        throttled("2 seconds, as a date", &date_in(2), Duration::ZERO),
        throttled("absurd", "99999999999", Duration::from_secs(60)),
        throttled(
            "a date next century",
            "Sat, 01 Jan 2101 00:00:00 GMT",
            Duration::from_secs(60),
        ),
        throttled("yesterday", &date_in(-86_400), Duration::ZERO),
        throttled("no number", "soon", Duration::ZERO),
        throttled("negative", "-5", Duration::ZERO),
    ]);
    rows
}
