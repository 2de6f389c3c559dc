//! Peers that mean harm, on every listener of one process: the control API, the observe surface, the HTTP gate and a
//! webhook. Whatever they send is refused or timed out, never read in two ways, and never counted for ever.
use crate::harness::{Client, Process, Site, eventually, text_of, within_patience};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// An app that keeps every byte, answers `/early` as soon as it has the head, and nothing else.
async fn recorder() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(vec![]));
    let all = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let all = all.clone();
            tokio::spawn(async move {
                let mut piece = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut piece).await {
                    all.lock().unwrap().extend_from_slice(&piece[..n]);
                    if piece[..n].starts_with(b"POST /early ") {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        let _ = stream.write_all(answer).await;
                    }
                }
            });
        }
    });
    (addr, seen)
}

struct House {
    site: Site,
    process: Process,
    client: Client,
    /// What the app behind the gate was sent.
    seen: Arc<Mutex<Vec<u8>>>,
    control: Listener,
    observe: Listener,
    gate: Listener,
    webhook: Listener,
}

#[derive(Clone, Debug)]
struct Listener {
    name: &'static str,
    addr: String,
    /// A path that takes bodies there.
    path: &'static str,
}

impl House {
    async fn open() -> House {
        let (app, seen) = recorder().await;
        let mut site = Site::new().await;
        site.add(&format!(
            "[[gate]]\nname = \"app\"\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{app}\"\n\
             [[stream]]\nname = \"hooks\"\nsource = {{ type = \"http\", listen = \"127.0.0.1:0\", path = \"/events\" }}\n\
             sink = {{ type = \"file\", path = \"{{dir}}/hooks.out\" }}"
        ));
        let (process, client) = Process::run(&site, &[]).await;
        let told = async |message: &str| {
            eventually(message, || {
                let log = process.log();
                let line = log.into_iter().find(|line| line["message"] == message);
                std::future::ready(line.map(|line| line["listen"].as_str().unwrap().to_owned()))
            })
            .await
        };
        let listener = |name, addr: &str, path| Listener {
            name,
            addr: addr.trim_start_matches("http://").to_owned(),
            path,
        };
        let house = House {
            gate: listener("gate", &told("takes requests").await, "/echo"),
            webhook: listener("webhook", &told("takes events").await, "/events"),
            control: listener("control", &client.control, "/pause"),
            observe: listener("observe", &client.observe, "/status"),
            site,
            process,
            client,
            seen,
        };
        house.is_quiet().await;
        house
    }

    fn listeners(&self) -> [&Listener; 4] {
        [&self.control, &self.observe, &self.gate, &self.webhook]
    }

    /// Nothing is in flight, nothing waits, nothing was done, and everybody else is served.
    async fn is_quiet(&self) {
        for name in ["app", "hooks"] {
            let idle = async || {
                let now = self.client.stream(name).await;
                let zero = |field: &str| now[field] == 0;
                (zero("in_flight") && zero("held") && now["state"] == "running").then_some(())
            };
            eventually(&format!("{name} runs and nothing is in flight"), idle).await;
        }
        assert_eq!(text_of(&self.site.path("hooks.out")), "", "an event came of it");
        assert_eq!(self.client.observe("/readyz").await.0, 200);
    }

    async fn close(self) {
        self.process.terminate();
        let ended = self.process.end().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}

/// All that comes back; a reset is an end.
async fn exchange(addr: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // It may hang up before all has been said.
    let _ = stream.write_all(request).await;
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> String {
    let (mut all, mut piece) = (vec![], [0; 4096]);
    while let Ok(n @ 1..) = within_patience("the listener ends it", stream.read(&mut piece)).await {
        all.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_readers_could_read_in_two_ways_is_refused_by_every_listener() {
    // After the request line and the host.
    let shapes = [
        (
            "two lengths",
            "Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        ),
        ("a list of lengths", "Content-Length: 3, 5\r\n\r\nabcde"),
        ("a signed length", "Content-Length: +3\r\n\r\nabc"),
        (
            "a length beyond all",
            "Content-Length: 99999999999999999999999\r\n\r\nabc",
        ),
        ("a coding that is not known", "Transfer-Encoding: gzip\r\n\r\nabc"),
        (
            "chunks, but not last",
            "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        ),
        ("a space before the colon", "Content-Length : 3\r\n\r\nabc"),
        ("a folded header", "X-A: 1\r\n  2\r\nContent-Length: 3\r\n\r\nabc"),
        (
            "a folded coding",
            "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        ),
        ("a nul in a value", "X-A: a\0b\r\nContent-Length: 3\r\n\r\nabc"),
        (
            "a bare return in a value",
            "X-A: a\rX-B: b\r\nContent-Length: 3\r\n\r\nabc",
        ),
        (
            "a chunk without a size",
            "Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "a chunk with a sign",
            "Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "a chunk longer than its size",
            "Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "a chunk beyond all",
            "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc",
        ),
    ];
    let house = House::open().await;
    for (what, rest) in shapes {
        for listener in house.listeners() {
            let request = format!("POST {} HTTP/1.1\r\nHost: localhost\r\n{rest}", listener.path);
            let answer = exchange(&listener.addr, request.as_bytes()).await;
            // 405 is the observe surface's to any POST, 408 a body that broke off; both end the connection or say so.
            let refused = matches!(status(&answer), "400" | "405" | "408" | "502");
            assert!(
                refused || answer.is_empty(),
                "{what} on {}: {answer:?}",
                listener.name
            );
            assert!(
                answer.matches("HTTP/1.1 ").count() <= 1 || listener.name == "observe",
                "{what} on {} was read as two requests: {answer:?}",
                listener.name
            );
        }
    }
    let seen = house.seen.lock().unwrap().clone();
    let seen = String::from_utf8_lossy(&seen).to_lowercase();
    assert!(
        !seen.contains("0\r\n\r\n") && !seen.contains("content-length"),
        "the app was sent a whole request: {seen:?}"
    );
    house.is_quiet().await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_bodies_beyond_the_bound_are_refused_by_every_listener() {
    let house = House::open().await;
    for listener in house.listeners() {
        let head = format!("POST {} HTTP/1.1\r\nHost: localhost\r\n", listener.path);
        for (what, request) in [
            (
                "a large field",
                format!("{head}X: {}\r\n\r\n", "x".repeat(200_000)),
            ),
            ("many fields", format!("{head}{}\r\n", "X: y\r\n".repeat(2_000))),
            (
                "a long target",
                format!(
                    "POST /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                    "x".repeat(200_000)
                ),
            ),
        ] {
            let answer = exchange(&listener.addr, request.as_bytes()).await;
            let refused = matches!(status(&answer), "431" | "414");
            // A reset may overtake the answer where more was sent than was read.
            assert!(
                refused || answer.is_empty(),
                "{what} on {}: {answer:?}",
                listener.name
            );
        }
    }
    assert!(
        house.seen.lock().unwrap().is_empty(),
        "none of them reached the app"
    );
    // Whoever keeps bodies bounds them; the gate keeps none and hands each piece on.
    for (listener, expected) in [
        (&house.control, "413"),
        (&house.observe, "405"),
        (&house.webhook, "413"),
    ] {
        let head = format!("POST {} HTTP/1.1\r\nHost: localhost\r\n", listener.path);
        let announced = format!("{head}Content-Length: 100000000000\r\n\r\nx");
        let answer = exchange(&listener.addr, announced.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{}: {answer}", listener.name);
        let mut chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        for _ in 0..40 {
            chunked.extend_from_slice(b"10000\r\n");
            chunked.resize(chunked.len() + 0x10000, b'x');
            chunked.extend_from_slice(b"\r\n");
        }
        let answer = exchange(&listener.addr, &chunked).await;
        assert!(
            status(&answer) == expected || answer.is_empty(),
            "{}: {answer}",
            listener.name
        );
    }
    house.is_quiet().await;
    house.close().await;
}

/// Says the beginning, then a piece every now and then, until the listener has had enough; what it said.
async fn drip(addr: String, start: String, piece: &'static [u8], every: Duration) -> String {
    let mut stream = TcpStream::connect(&addr).await.unwrap();
    stream.write_all(start.as_bytes()).await.unwrap();
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut read, mut write) = stream.split();
    let dripping = async {
        loop {
            tick.tick().await;
            if write.write_all(piece).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut answer = vec![];
    let cut = async {
        tokio::select! {
            _ = read.read_to_end(&mut answer) => {}
            () = dripping => {}
        }
    };
    within_patience("the listener ends it", cut).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_loris_is_cut_by_every_listener_in_every_part_of_a_request() {
    let house = House::open().await;
    let mut slow = JoinSet::new();
    // An app that answers without waiting for the body buys it no time.
    let early = Listener {
        name: "gate, early",
        path: "/early",
        ..house.gate.clone()
    };
    for listener in house.listeners().into_iter().chain([&early]) {
        let head = format!("POST {} HTTP/1.1\r\nHost: localhost\r\n", listener.path);
        // A piece every second is well below the timeout between pieces: it is the whole that takes too long.
        for (part, start, piece) in [
            ("silence", String::new(), &b""[..]),
            ("the line", "GET /sta".into(), b"a"),
            ("the fields", head.clone(), b"X: y\r\n"),
            ("half a head and no more", head.clone(), b""),
            ("a body", format!("{head}Content-Length: 9999\r\n\r\n"), b" "),
            (
                "a body that never comes",
                format!("{head}Content-Length: 9999\r\n\r\n"),
                b"",
            ),
            (
                "chunks",
                format!("{head}Transfer-Encoding: chunked\r\n\r\n"),
                b"1\r\n \r\n",
            ),
        ] {
            for _ in 0..5 {
                let listener = listener.clone();
                let start = start.clone();
                slow.spawn(async move {
                    let answer = drip(listener.addr.clone(), start, piece, Duration::from_secs(1)).await;
                    (listener.name, part, answer)
                });
            }
        }
    }
    while let Some(ended) = slow.join_next().await {
        let (listener, part, answer) = ended.unwrap();
        // The observe surface takes no body, and says so without waiting for it.
        let fair = match (listener, part) {
            ("observe", "a body" | "a body that never comes" | "chunks") => status(&answer) == "405",
            ("gate, early", "a body" | "a body that never comes" | "chunks") => status(&answer) == "200",
            (_, "a body" | "a body that never comes" | "chunks") => status(&answer) == "408",
            _ => answer.is_empty(),
        };
        assert!(fair, "{part} on {listener}: {answer:?}");
    }
    let seen = house.seen.lock().unwrap().clone();
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(
        !seen.contains("0\r\n\r\n"),
        "the app was sent a whole request: {seen:?}"
    );
    house.is_quiet().await;
    house.close().await;
}
