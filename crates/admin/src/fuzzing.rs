//! What any bytes from outside are tried on; see `fuzz/README.md`.
use crate::{Admin, Hooks, Metrics, Options, Right, TokenSpec};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use axum::response::Response;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tidegate_gate::{Cause, Clock, Controller, Holds, Kind, Life, Moment, Scope, Wish};
use tidegate_http::Peer;
use tokio::runtime::Runtime;
use tower::ServiceExt;

const RIGHTS: [Right; 4] = [Right::Read, Right::Pause, Right::Resume, Right::Override];
/// For everything that concerns the request rather than the path.
const ANYWHERE: [u16; 9] = [400, 401, 403, 404, 405, 413, 421, 422, 429];

/// Who holds what.
type Standing = BTreeSet<(String, String)>;

struct Board {
    holds: Arc<Holds>,
    /// Without tokens, as on loopback; and with a token for each right.
    open: Admin,
    guarded: Admin,
    /// By path, its variable segments as `{…}`: method and statuses.
    documented: BTreeMap<String, BTreeMap<String, BTreeSet<u16>>>,
}

fn token(right: Right) -> String {
    format!("{}-token-of-16-bytes", right.word())
}

impl Board {
    async fn new() -> Board {
        let now = Moment {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_348_800),
            mono: Instant::now(),
        };
        let holds = Holds::new(Clock::new(move || now));
        for (name, kind) in [("orders", Kind::Stream), ("app", Kind::Gate { serves: true })] {
            holds
                .register(name, kind)
                .expect("the name is free")
                .set_life(Life::Up);
        }
        let metrics = Metrics::new(holds.clone(), "0.0.0-fuzz");
        let folder = std::env::temp_dir().join(format!("tidegate-tokens-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder can be made");
        let mut options = Options::default();
        let admin = |options| Admin::new(holds.clone(), metrics.clone(), options, Hooks::default());
        let open = admin(options.clone()).expect("the options are good");
        for right in RIGHTS {
            let file = folder.join(right.word());
            let mut new = OpenOptions::new();
            let new = new.create(true).write(true).truncate(true).mode(0o600);
            let mut new = new.open(&file).expect("a file can be made");
            new.write_all(token(right).as_bytes()).expect("there is room");
            options.control.tokens.push(TokenSpec {
                name: right.word().into(),
                file,
                allow: vec![right],
            });
        }
        let guarded = admin(options).expect("the options are good");
        let mut board = Board {
            holds,
            open,
            guarded,
            documented: BTreeMap::new(),
        };
        let asked = Request::get("/openapi.json").header("host", "127.0.0.1:9470");
        let asked = asked.body(Body::empty()).expect("it is a request");
        let (answer, text) = board.send(false, asked).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let document: Value = serde_json::from_slice(&text).expect("it is JSON");
        let paths = document["paths"].as_object().into_iter().flatten();
        for (path, methods) in paths {
            let statuses = |call: &Value| {
                let all = call["responses"].as_object().into_iter().flatten();
                all.filter_map(|(status, _)| status.parse().ok()).collect()
            };
            let methods = methods.as_object().into_iter().flatten();
            let methods = methods.map(|(method, call)| (method.to_uppercase(), statuses(call)));
            board.documented.insert(path.clone(), methods.collect());
        }
        assert!(board.documented.len() > 15);
        board
    }

    async fn send(&self, guarded: bool, mut request: Request<Body>) -> (Response, Vec<u8>) {
        request
            .extensions_mut()
            .insert(Peer::new(Some(([127, 0, 0, 1], 5000).into()), None, false));
        let admin = if guarded { &self.guarded } else { &self.open };
        let Ok(answer) = admin.control().oneshot(request).await;
        let (head, body) = answer.into_parts();
        let endless = head
            .headers
            .get("content-type")
            .is_some_and(|t| t == "text/event-stream");
        let text = match endless {
            true => Vec::new(),
            false => axum::body::to_bytes(body, usize::MAX)
                .await
                .expect("it comes from memory")
                .to_vec(),
        };
        (Response::from_parts(head, Body::empty()), text)
    }

    fn standing(&self) -> Standing {
        let snapshot = self.holds.snapshot();
        let of = |s: &tidegate_gate::StreamStatus| -> Vec<(String, String)> {
            s.holds
                .iter()
                .map(|(who, _)| (s.name.to_string(), who.to_string()))
                .collect()
        };
        snapshot.streams.iter().flat_map(of).collect()
    }

    /// What the document says of a call; nothing of a path that it does not name.
    fn documented(&self, method: &str, path: &str) -> Option<&BTreeSet<u16>> {
        let asked: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
        let is = |template: &str| {
            let segments: Vec<&str> = template.split('/').collect();
            let same = |(said, asked): (&&str, &&str)| said == asked || said.starts_with('{');
            segments.len() == asked.len() && segments.iter().zip(&asked).all(same)
        };
        // `/actuator/hiatus-on` also looks like nothing else.
        let (_, methods) = self.documented.iter().find(|(template, _)| is(template))?;
        methods.get(if method == "HEAD" { "GET" } else { method })
    }
}

/// `o` (no tokens, from this machine) or `g` (tokens), a request line, headers, an empty line, a body. Whatever it is: the answer is
/// one that the document names, only POST changes anything, a refusal changes nothing, and nobody changes what their token has no
/// right to.
pub fn control(data: &[u8]) {
    thread_local! {
        static BOARD: (Runtime, std::cell::RefCell<Option<Board>>) = {
            let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            (clock.expect("a runtime without sockets needs memory only"), None.into())
        };
    }
    let Some((guarded, request)) = request(data) else {
        return;
    };
    BOARD.with(|(runtime, board)| {
        let mut board = board.borrow_mut();
        runtime.block_on(async {
            if board.is_none() {
                *board = Some(Board::new().await);
            }
            let closed = match &*board {
                Some(board) => judge(board, guarded, request).await,
                None => false,
            };
            if closed {
                *board = None;
            }
        });
    });
}

/// True if the process is to end now, and so is of no more use.
async fn judge(board: &Board, guarded: bool, request: Request<Body>) -> bool {
    let ops = Controller::Switch("ops".into());
    let wish = || Wish {
        reason: Some("db maintenance".into()),
        ..Wish::default()
    };
    // A new version ends an override; only one of the two streams is held.
    board
        .holds
        .release(&ops, Scope::All, &Cause::default())
        .expect("all are known");
    board
        .holds
        .place(&ops, Scope::One("orders"), wish())
        .expect("it is known");
    board
        .holds
        .place(&Controller::Api, Scope::One("app"), wish())
        .expect("it is known");
    board
        .holds
        .release(&Controller::Api, Scope::One("orders"), &Cause::default())
        .expect("it is known");

    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let what = format!("{method} {} {:?}", request.uri(), request.headers());
    let shown = request
        .headers()
        .get("authorization")
        .map(|v| v.as_bytes().to_vec());
    let may: Vec<Right> = match (guarded, shown) {
        (false, _) => vec![Right::Read, Right::Pause, Right::Resume],
        (true, None) => Vec::new(),
        (true, Some(shown)) => {
            let has = |right: &Right| shown.ends_with(token(*right).as_bytes());
            RIGHTS.into_iter().filter(has).collect()
        }
    };
    let (before, revision) = (board.standing(), board.holds.snapshot().revision);
    let (answer, text) = board.send(guarded, request).await;
    let status = answer.status().as_u16();
    let after = board.standing();

    let documented = board.documented(method.as_str(), &path);
    let named = documented.is_some_and(|statuses| statuses.contains(&status));
    // The page and its session are for browsers, and in no document.
    let of_the_page = documented.is_none() && status < 500;
    assert!(
        named || ANYWHERE.contains(&status) || of_the_page,
        "{status}: {what}"
    );
    assert!(answer.headers().contains_key("cache-control"), "{what}");
    let json = answer
        .headers()
        .get("content-type")
        .is_some_and(|t| t == "application/json");
    if json && method != Method::HEAD {
        let body: Value = serde_json::from_slice(&text).expect("it says that it is JSON");
        if status >= 400 && !named {
            let only = body.as_object().filter(|body| body.len() == 1);
            let sentence = only.and_then(|body| body["error"].as_str());
            assert!(
                sentence.is_some_and(|text| !text.contains(char::is_control)),
                "{body}: {what}"
            );
        }
    }
    let resumed_partly = status == 409 && path.trim_end_matches('/').ends_with("/resume");
    let timed_out = status == 504;
    if method != Method::POST || (status >= 400 && !resumed_partly && !timed_out) {
        assert_eq!(after, before, "{status}: {what}");
        assert_eq!(board.holds.snapshot().revision, revision, "{status}: {what}");
    }
    for (stream, who) in after.symmetric_difference(&before) {
        let needed = match (who.as_str(), after.contains(&(stream.clone(), who.clone()))) {
            ("api" | "stop", true) => Right::Pause,
            ("api", false) => Right::Resume,
            ("switch:ops", false) => Right::Override,
            _ => panic!("{who} on {stream}: {what}"),
        };
        assert!(
            may.contains(&needed),
            "{who} on {stream} without {needed:?}: {what}"
        );
    }
    if guarded && may.is_empty() {
        assert!(
            matches!(status, 401 | 403 | 429 | 400 | 413 | 421) || of_the_page,
            "{status}: {what}"
        );
    }
    after.iter().any(|(_, who)| who == "stop") || path == "/login"
}

fn request(data: &[u8]) -> Option<(bool, Request<Body>)> {
    let end = data.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((data, &b""[..]), |end| (&data[..end], &data[end + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = std::str::from_utf8(lines.next()?).ok()?.splitn(3, ' ');
    let guarded = words.next()? == "g";
    let mut request = Request::new(Body::from(body.to_vec()));
    *request.method_mut() = Method::from_bytes(words.next()?.as_bytes()).ok()?;
    *request.uri_mut() = words.next()?.parse().ok()?;
    request
        .headers_mut()
        .insert("host", HeaderValue::from_static("127.0.0.1:9470"));
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        // The first one takes the place of ours.
        match name == "host" {
            true => request
                .headers_mut()
                .insert(name, value)
                .map(drop)
                .unwrap_or_default(),
            false => drop(request.headers_mut().try_append(name, value).ok()?),
        }
    }
    Some((guarded, request))
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn every_call_that_is_kept_gets_a_documented_answer_and_no_more_than_its_right() {
        super::replay::replay("control", super::control);
    }
}
