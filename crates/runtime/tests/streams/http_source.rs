//! A webhook that answers when the sink has the event, and turns peers away while it is held.
use crate::rig::*;
use std::net::SocketAddr;
use std::sync::Arc;
use tidegate_gate::{Life, Member, State};
use tidegate_runtime::{Accept, HttpSource, Outcome, StreamConfig, Supervisor, Webhook, build};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// A port that was free a moment ago. The system does not hand it out again soon.
fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn webhook() -> Webhook {
    Webhook {
        listen: tidegate_http::Address::Tcp(free_port()),
        path: "/events".into(),
        accept: Accept::Stored,
        max_body: 1000,
        max_waiting: 10,
        max_waiting_bytes: 100_000,
    }
}

struct House {
    board: Board,
    member: Member,
    sink: Scripted,
    permits: Arc<Semaphore>,
    addr: SocketAddr,
    supervisor: Supervisor,
}

impl House {
    async fn open(webhook: Webhook) -> House {
        let board = Board::new();
        let member = board.member();
        let mut sink = Scripted::willing(member.gate());
        let permits = Arc::new(Semaphore::new(0));
        sink.permits = Some(permits.clone());
        sink.batch = 1;
        let tidegate_http::Address::Tcp(addr) = webhook.listen else {
            panic!()
        };
        let source = HttpSource::new(webhook, member.gate());
        let supervisor = supervise(&board, &member, pipeline(source, (), sink.clone()));
        board.until("listening", |s| s.life == Life::Up).await;
        House {
            board,
            member,
            sink,
            permits,
            addr,
            supervisor,
        }
    }

    fn post(&self, body: &str) -> JoinHandle<Answer> {
        tokio::spawn(send(
            self.addr,
            format!(
                "POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ),
        ))
    }

    async fn ask(&self, request: &str) -> Answer {
        soon("an answer", send(self.addr, request.into())).await
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    text: String,
}

/// One request on a connection of its own.
async fn send(addr: SocketAddr, request: String) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("\r\n\r\n") || !text.ends_with('}') {
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "the connection ended after {text:?}");
        text += std::str::from_utf8(&buffer[..n]).unwrap();
    }
    Answer {
        status: text[9..12].parse().unwrap(),
        text: text.to_lowercase(),
    }
}

async fn answer(handle: JoinHandle<Answer>) -> Answer {
    soon("an answer", handle).await.unwrap()
}

#[tokio::test]
async fn a_peer_gets_200_once_the_sink_has_its_event_and_not_before() {
    let house = House::open(webhook()).await;
    let peer = house.post("one");
    house.sink.attempted(1).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!peer.is_finished());
    house.permits.add_permits(1);
    assert_eq!(answer(peer).await.status, 200);
    assert_eq!(house.sink.payloads(), ["one"]);
}

#[tokio::test]
async fn while_held_peers_get_503_at_once_and_may_come_again() {
    let house = House::open(webhook()).await;
    house.board.paused().await;
    let refused = answer(house.post("one")).await;
    assert_eq!(refused.status, 503);
    assert!(refused.text.contains("retry-after: 5"), "{}", refused.text);
    house.board.resume();
    house.permits.add_permits(1);
    assert_eq!(answer(house.post("one")).await.status, 200);
}

#[tokio::test]
async fn a_pause_turns_away_who_waits_before_the_gate_and_finishes_what_has_passed_it() {
    let house = House::open(webhook()).await;
    let first = house.post("first");
    house.sink.attempted(1).await;
    let waiting: Vec<_> = (0..5).map(|n| house.post(&format!("waiting {n}"))).collect();
    house.board.until("five are held", |s| s.held.events == 5).await;
    house.board.pause();
    for peer in waiting {
        assert_eq!(answer(peer).await.status, 503);
    }
    assert!(!first.is_finished());
    house.permits.add_permits(1);
    assert_eq!(answer(first).await.status, 200);
    house
        .board
        .until("what is nobody's is not held", |s| {
            s.state == State::Paused && s.held.events == 0
        })
        .await;
    house.board.resume();
    house.permits.add_permits(10);
    assert_eq!(answer(house.post("after")).await.status, 200);
    assert_eq!(
        house.sink.payloads(),
        ["first", "after"],
        "those who got 503 come again themselves"
    );
}

#[tokio::test]
async fn a_full_house_answers_429() {
    let house = House::open(Webhook {
        max_waiting: 3,
        ..webhook()
    })
    .await;
    let peers: Vec<_> = (0..3).map(|n| house.post(&n.to_string())).collect();
    house.sink.attempted(1).await;
    house.board.until("two are held", |s| s.held.events == 2).await;
    let refused = answer(house.post("4")).await;
    assert_eq!(refused.status, 429);
    assert!(refused.text.contains("retry-after: 1"), "{}", refused.text);
    house.permits.add_permits(100);
    for peer in peers {
        assert_eq!(answer(peer).await.status, 200);
    }
    assert_eq!(answer(house.post("4")).await.status, 200);
}

#[tokio::test]
async fn bodies_that_are_announced_count_before_they_come() {
    let house = House::open(Webhook {
        max_waiting_bytes: 1500,
        ..webhook()
    })
    .await;
    let mut slow = TcpStream::connect(house.addr).await.unwrap();
    slow.write_all(b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx")
        .await
        .unwrap();
    // Refused as soon as the slow one has its room.
    soon("429", async {
        loop {
            if answer_or_none(house.post(&"y".repeat(900))).await == Some(429) {
                break;
            }
        }
    })
    .await;
}

/// Nobody is let through here: whoever waits is dropped.
async fn answer_or_none(handle: JoinHandle<Answer>) -> Option<u16> {
    let mut handle = handle;
    match tokio::time::timeout(std::time::Duration::from_millis(50), &mut handle).await {
        Ok(answer) => Some(answer.unwrap().status),
        Err(_) => {
            handle.abort();
            None
        }
    }
}

#[tokio::test]
async fn what_is_no_event_is_refused_by_name() {
    let house = House::open(webhook()).await;
    let long = format!(
        "POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n{}",
        "x".repeat(1001)
    );
    let chunked = format!(
        "POST /events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n",
        "x".repeat(1001)
    );
    for (request, status, says) in [
        ("GET /events HTTP/1.1\r\nhost: x\r\n\r\n", 405, "allow: post"),
        (
            "POST /other HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx",
            404,
            "nothing here",
        ),
        (long.as_str(), 413, "1000 bytes"),
        (chunked.as_str(), 413, "1000 bytes"),
        (
            "POST /events HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: 1\r\n\r\nx",
            415,
            "one event",
        ),
    ] {
        let answer = house.ask(request).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(answer.text.contains(says), "{}", answer.text);
    }
    assert_eq!(house.sink.attempts(), 0);
}

#[tokio::test]
async fn the_event_of_a_peer_that_has_gone_is_dropped_unless_it_has_passed_the_gate() {
    let house = House::open(webhook()).await;
    let first = house.post("passed");
    house.sink.attempted(1).await;
    let gone = house.post("gone");
    house.board.until("one is held", |s| s.held.events == 1).await;
    gone.abort();
    house.board.until("nothing is held", |s| s.held.events == 0).await;
    first.abort();
    house.permits.add_permits(10);
    assert_eq!(answer(house.post("next")).await.status, 200);
    assert_eq!(house.sink.payloads(), ["passed", "next"]);
}

#[tokio::test]
async fn accepted_early_means_202_also_while_held_until_the_house_is_full() {
    let house = House::open(Webhook {
        accept: Accept::Early,
        max_waiting: 3,
        ..webhook()
    })
    .await;
    house.board.paused().await;
    for n in 0..3 {
        assert_eq!(answer(house.post(&n.to_string())).await.status, 202);
    }
    assert_eq!(answer(house.post("3")).await.status, 429);
    house.board.until("three are held", |s| s.held.events == 3).await;
    assert_eq!(house.board.status().state, State::Paused);
    house.permits.add_permits(10);
    house.board.resume();
    house.sink.has(3).await;
    assert_eq!(house.sink.payloads(), numbered(0..3));
    assert_eq!(answer(house.post("3")).await.status, 202);
}

#[tokio::test]
async fn what_was_accepted_early_and_is_held_at_the_end_is_reported_as_lost() {
    let house = House::open(Webhook {
        accept: Accept::Early,
        ..webhook()
    })
    .await;
    house.board.paused().await;
    for n in 0..3 {
        assert_eq!(answer(house.post(&n.to_string())).await.status, 202);
    }
    let reports = soon("stopped", house.supervisor.stop(LONG)).await;
    assert_eq!(
        (&reports[0].outcome, reports[0].unreturned),
        (&Outcome::Stopped, 3)
    );
    assert!(house.sink.payloads().is_empty());
}

#[tokio::test]
async fn stopping_answers_everybody() {
    let house = House::open(webhook()).await;
    let first = house.post("in flight");
    house.sink.attempted(1).await;
    let waiting = house.post("waiting");
    house.board.until("one is held", |s| s.held.events == 1).await;
    let gate = house.member.gate();
    let stopping = tokio::spawn(house.supervisor.stop(LONG));
    soon("the gate closes", gate.closed()).await;
    assert_eq!(answer(waiting).await.status, 503);
    house.permits.add_permits(1);
    assert_eq!(answer(first).await.status, 200, "the last answer is not lost");
    let reports = soon("stopped", stopping).await.unwrap();
    assert_eq!(
        (&reports[0].outcome, reports[0].unreturned),
        (&Outcome::Stopped, 0)
    );
    assert_eq!(house.sink.payloads(), ["in flight"]);
    assert!(
        TcpStream::connect(house.addr).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn a_taken_port_is_said_with_who_has_it_and_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let board = Board::new();
    let config: StreamConfig = serde_json::from_value(serde_json::json!({
        "name": "hook",
        "source": {"type": "http", "listen": taken.local_addr().unwrap().to_string(), "path": "/in"},
        "sink": {"type": "stdout"},
    }))
    .unwrap();
    let stream = build(&config, &board.holds, None).unwrap();
    let _supervisor = Supervisor::spawn(board.holds.clone(), vec![stream]);
    let status = board
        .until("a retry", |s| matches!(s.life, Life::Retrying { .. }))
        .await;
    let error = status.life.error().unwrap();
    assert!(
        error.contains("taken") && error.contains(&std::process::id().to_string()),
        "{error}"
    );
    drop(taken);
    board.until("listening", |s| s.life == Life::Up).await;
}

#[tokio::test]
async fn a_webhook_hands_on_to_another_endpoint() {
    let endpoint = crate::http_sink::Endpoint::new(|_, _| crate::http_sink::Reply::Say(200, "", "")).await;
    let board = Board::new();
    let addr = free_port();
    let config: StreamConfig = serde_json::from_value(serde_json::json!({
        "name": "hook",
        "source": {"type": "http", "listen": addr.to_string()},
        "stage": [{"type": "map", "jq": ".n + 1"}],
        "sink": {"type": "http", "url": format!("http://{}/", endpoint.addr), "timeout": "2s"},
    }))
    .unwrap();
    let stream = build(&config, &board.holds, None).unwrap();
    let _supervisor = Supervisor::spawn(board.holds.clone(), vec![stream]);
    board.until("listening", |s| s.life == Life::Up).await;
    for n in 0..3 {
        let body = format!("{{\"n\":{n}}}");
        let request = format!(
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(soon("an answer", send(addr, request)).await.status, 200);
    }
    assert_eq!(endpoint.bodies(), ["1", "2", "3"]);
    let keys: std::collections::BTreeSet<_> = endpoint
        .posted()
        .iter()
        .map(|p| p.headers["idempotency-key"].clone())
        .collect();
    assert_eq!(keys.len(), 3, "{keys:?}");
}

#[test]
fn a_source_or_sink_that_cannot_be_is_an_error_before_anything_runs() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    for (source, sink, says) in [
        (
            r#"{"type":"http","listen":"here"}"#,
            r#"{"type":"stdout"}"#,
            "no address",
        ),
        (
            r#"{"type":"http","listen":"127.0.0.1:0","path":"x"}"#,
            r#"{"type":"stdout"}"#,
            "slash",
        ),
        (
            r#"{"type":"stdin"}"#,
            r#"{"type":"http","url":"host/path"}"#,
            "no URL",
        ),
        (
            r#"{"type":"stdin"}"#,
            r#"{"type":"http","url":"http://u:MARK@host/"}"#,
            "password",
        ),
        (
            r#"{"type":"stdin"}"#,
            r#"{"type":"http","url":"http://host/","headers":{"content-length":"1"}}"#,
            "set by tidegate",
        ),
        (
            r#"{"type":"stdin"}"#,
            r#"{"type":"http","url":"http://host/","ca_file":"/nonexistent"}"#,
            "/nonexistent",
        ),
    ] {
        let board = Board::new();
        let json = format!(r#"{{"name":"a","source":{source},"sink":{sink}}}"#);
        let config: StreamConfig = serde_json::from_str(&json).unwrap();
        let error = build(&config, &board.holds, None).unwrap_err().to_string();
        assert!(error.contains("stream \"a\"") && error.contains(says), "{error}");
        assert!(!error.contains("MARK"), "{error}");
        assert!(board.holds.snapshot().streams.is_empty());
    }
    let json =
        r#"{"name":"a","source":{"type":"stdin"},"sink":{"type":"http","url":"http://h/","timeout":"soon"}}"#;
    let error = serde_json::from_str::<StreamConfig>(json)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no duration"), "{error}");
}
