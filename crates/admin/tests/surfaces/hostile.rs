//! The button under attack: real sockets, hostile neighbours, and an operator among them.
use crate::board::{Board, get, post, token};
use http::StatusCode;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tidegate_admin::{Right, limits};
use tidegate_gate::{Kind, Life, Phase};
use tidegate_http::{Limits, Listener, Tls, raise_descriptor_limit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

struct Served {
    board: Board,
    addr: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(board: Board, limits: Limits, tls: Option<Tls>) -> Served {
    raise_descriptor_limit().unwrap();
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), tls, limits)
        .await
        .unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(listener.serve(board.admin.control(), stop.clone()));
    let (admin, until) = (board.admin.clone(), stop.clone());
    tokio::spawn(async move { admin.run(until).await });
    Served { board, addr, stop }
}

/// What an operator's client does: one connection, one call; the whole answer, or nothing if it was cut.
async fn call(addr: SocketAddr, line: &str, fields: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
    let mut text = Vec::new();
    if stream.write_all(head.as_bytes()).await.is_ok() {
        let _ = stream.read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}

async fn the_button_works(served: &Served, fields: &str) {
    for _ in 0..10 {
        for (path, phase) in [("/pause", Phase::Paused), ("/resume", Phase::Open)] {
            let answer = timeout(PATIENCE, call(served.addr, &format!("POST {path}"), fields)).await;
            let answer = answer.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert_eq!(served.board.orders.gate().sight().phase, phase);
        }
    }
}

#[tokio::test]
async fn no_number_of_silent_connections_keeps_an_operator_out() {
    let served = serve(Board::new(), limits(), None).await;
    let mut silent = Vec::new();
    for _ in 0..2500 {
        silent.push(TcpStream::connect(served.addr).await.unwrap());
    }
    the_button_works(&served, "").await;
    // Nor do those that had asked for something and are now silent.
    let mut asked = Vec::new();
    for _ in 0..2500 {
        let mut stream = TcpStream::connect(served.addr).await.unwrap();
        stream
            .write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        asked.push(stream);
    }
    the_button_works(&served, "").await;

    // The twin gives a place to whoever comes and keeps it: full after as many as it has.
    let twin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = twin.local_addr().unwrap();
    let control = served.board.admin.control();
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(64));
        loop {
            let place = places.clone().acquire_owned().await.unwrap();
            let (mut stream, _) = twin.accept().await.unwrap();
            let control = control.clone();
            tokio::spawn(async move {
                let mut head = [0; 512];
                if stream.read(&mut head).await.unwrap_or(0) > 0 {
                    let answer = post("/pause").send(control).await;
                    let _ = stream
                        .write_all(format!("HTTP/1.1 {}\r\n\r\n", answer.status).as_bytes())
                        .await;
                }
                drop(place);
            });
        }
    });
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    assert!(
        timeout(Duration::from_secs(1), call(addr, "POST /pause", ""))
            .await
            .is_err(),
        "the twin works"
    );
}

/// Writes one byte every 20 ms until the other side has had enough.
async fn drip(addr: SocketAddr, start: &str, byte: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(start.as_bytes()).await.unwrap();
    let mut tick = interval(Duration::from_millis(20));
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let dripping = async {
        loop {
            tick.tick().await;
            if write.write_all(byte).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let cut = timeout(PATIENCE, async {
        tokio::select! {
            _ = read.read_to_end(&mut answer) => {}
            () = dripping => {}
        }
    });
    cut.await.expect("the listener to end it");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn slow_loris_is_cut_in_every_part_of_a_request() {
    let served = serve(Board::new(), limits(), None).await;
    let mut slow = JoinSet::new();
    for i in 0..300 {
        let (start, byte): (&str, &[u8]) = match i % 3 {
            0 => ("GET /sta", b"a"),
            1 => ("GET /status HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n"),
            _ => (
                "POST /pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n",
                b" ",
            ),
        };
        let addr = served.addr;
        slow.spawn(async move { (i, drip(addr, start, byte).await) });
    }
    the_button_works(&served, "").await;
    while let Some(ended) = slow.join_next().await {
        let (i, answer) = ended.unwrap();
        match i % 3 {
            0 => assert_eq!(answer, "", "half a line is answered by nothing"),
            // As many fields as fit in 5 s are too many or too late, whichever comes first.
            1 => assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
                "{answer}"
            ),
            _ => assert!(answer.starts_with("HTTP/1.1 408"), "{answer}"),
        }
    }
    assert_eq!(served.board.orders.gate().sight().phase, Phase::Open);
}

#[tokio::test]
async fn floods_of_headers_and_bodies_are_refused() {
    let served = serve(Board::new(), limits(), None).await;
    let addr = served.addr;
    let mut floods = JoinSet::new();
    for i in 0..200 {
        floods.spawn(async move {
            match i % 4 {
                0 => (
                    431,
                    call(addr, "GET /status", &format!("X: {}\r\n", "y".repeat(100_000))).await,
                ),
                1 => (431, call(addr, "GET /status", &"X: y\r\n".repeat(1000)).await),
                2 => (414, call(addr, &format!("GET /{}", "y".repeat(70_000)), "").await),
                _ => (
                    413,
                    call(addr, "POST /pause", "Content-Length: 10000000000\r\n").await,
                ),
            }
        });
    }
    the_button_works(&served, "").await;
    while let Some(answered) = floods.join_next().await {
        let (status, answer) = answered.unwrap();
        // A reset may overtake the answer when more was sent than was read.
        let refused = answer.starts_with(&format!("HTTP/1.1 {status}")) || answer.starts_with("HTTP/1.1 431");
        assert!(answer.is_empty() || refused, "{answer}");
    }
    for shape in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: +5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        "X: a\r\n b\r\n",
        "X : y\r\n",
        "X: \u{0}\r\n",
    ] {
        let answer = call(addr, "POST /streams/nobody/pause", shape).await;
        let refused = answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 408");
        // One that is not ambiguous may be read; then it is what it says: a stream that is not there.
        assert!(
            refused || answer.starts_with("HTTP/1.1 404"),
            "{shape:?}: {answer}"
        );
    }
}

/// With the least that a reader can offer, so that what it does not read is soon felt; or with what the system gives.
async fn watch(addr: SocketAddr, buffer: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(size) = buffer {
        socket.set_recv_buffer_size(size).unwrap();
    }
    let mut stream = socket.connect(addr).await.unwrap();
    stream
        .write_all(b"GET /watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    stream
}

fn metric(board: &Board, name: &str) -> u64 {
    let text = board.metrics.text();
    let lines = text.lines().filter_map(|l| l.strip_prefix(name));
    lines
        .filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[tokio::test]
async fn watchers_that_never_read_are_dropped_and_those_that_read_miss_nothing() {
    let impatient = Limits {
        write_timeout: Duration::from_secs(3),
        ..limits()
    };
    let served = serve(Board::new(), impatient, None).await;
    for i in 0..20 {
        let member = served
            .board
            .holds
            .register(format!("stream-{i}"), Kind::Stream)
            .unwrap();
        member.set_life(Life::Up);
    }
    let mut lazy = Vec::new();
    for _ in 0..100 {
        lazy.push(watch(served.addr, Some(4096)).await);
    }
    let mut keen = JoinSet::new();
    for _ in 0..5 {
        let mut stream = watch(served.addr, None).await;
        keen.spawn(async move {
            let (mut text, mut buf) = (Vec::new(), [0; 8192]);
            loop {
                let n = stream.read(&mut buf).await.unwrap();
                assert!(n > 0, "dropped");
                text.extend_from_slice(&buf[..n]);
                let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(20_000)..]).into_owned();
                // The end of an event, and of the chunk it came in.
                if tail.contains("the last reason") && tail.ends_with("\n\n\r\n") {
                    return String::from_utf8(text).unwrap();
                }
            }
        });
    }
    let all_there = async {
        while metric(&served.board, "tidegate_watchers ") < 105 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all_there).await.expect("105 watchers");
    let reason = "x".repeat(256);
    let mut tick = interval(Duration::from_millis(25));
    // The journal keeps 4,096 records; who makes them faster than they can be told of has to wait.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = 0;
    let storm = async {
        while metric(&served.board, "tidegate_watchers ") > 5 {
            tick.tick().await;
            served
                .board
                .control(post("/pause").json(&json!({"reason": reason})))
                .await;
            served.board.control(post("/resume")).await;
            changes += 1;
        }
    };
    timeout(PATIENCE, storm).await.expect("the lazy to be dropped");
    assert_eq!(metric(&served.board, "tidegate_watchers_dropped_total"), 100);
    served
        .board
        .control(post("/pause").json(&json!({"reason": "the last reason"})))
        .await;
    while let Some(text) = keen.join_next().await {
        let text = text.unwrap();
        let pauses = text
            .matches("\"kind\":\"hold_placed\",\"stream\":\"orders\"")
            .count();
        assert_eq!(pauses, changes + 1, "a reader that keeps up misses nothing");
    }
    drop(lazy);
}

#[tokio::test]
async fn a_flood_of_guesses_slows_nobody_but_the_guessers() {
    let board = Board::with_tokens(&[("oncall", &[Right::Read, Right::Pause, Right::Resume])]);
    let served = serve(board, limits(), None).await;
    let addr = served.addr;
    let mut guesses = JoinSet::new();
    for i in 0..1000 {
        guesses.spawn(async move {
            let field = format!("Authorization: Bearer guess-number-{i:08}\r\n");
            call(addr, "POST /pause", &field).await
        });
    }
    let right = format!("Authorization: Bearer {}\r\n", token("oncall"));
    the_button_works(&served, &right).await;
    while let Some(answer) = guesses.join_next().await {
        let answer = answer.unwrap();
        let refused = answer.starts_with("HTTP/1.1 401") || answer.starts_with("HTTP/1.1 429");
        assert!(refused || answer.is_empty(), "{answer}");
    }
    assert!(metric(&served.board, "tidegate_refused_calls_total") >= 500);
}

#[tokio::test]
async fn handshakes_that_never_end_keep_no_operator_out() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.path().join("cert"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("key"), made.signing_key.serialize_pem()).unwrap();
    let tls = Tls::load(dir.path().join("cert"), dir.path().join("key")).unwrap();
    let board = Board::with_tokens(&[("oncall", &[Right::Read, Right::Pause, Right::Resume])]);
    let few = Limits {
        max_connections: 128,
        ..limits()
    };
    let served = serve(board, few, Some(tls)).await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(TcpStream::connect(served.addr).await.unwrap());
    }
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap()])
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let url = format!("https://localhost:{}", served.addr.port());
    let paused = client
        .post(format!("{url}/pause"))
        .bearer_auth(token("oncall"))
        .send()
        .await
        .unwrap();
    assert_eq!(paused.status(), StatusCode::OK);
    assert_eq!(served.board.orders.gate().sight().phase, Phase::Paused);
    let bare = client.post(format!("{url}/resume")).send().await.unwrap();
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    let status: Value = client
        .get(format!("{url}/status"))
        .bearer_auth(token("oncall"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(status["streams"][0]["holds"][0]["actor"], "oncall");
    drop(silent);
    assert_eq!(
        served.board.control(get("/status").bearer("oncall")).await.status,
        StatusCode::OK
    );
}
