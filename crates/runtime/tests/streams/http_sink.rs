//! Posting to an endpoint that does what a test says, over a real socket.
use crate::rig::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidegate_gate::{Life, Phase, State};
use tidegate_runtime::{
    DeadLetters, HttpSink, HttpTarget, MemorySource, Outcome, Pipeline, Supervisor, memory,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Debug)]
pub(crate) struct Posted {
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    pub(crate) at: Instant,
}

#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A status with further header lines and a body.
    Say(u16, &'static str, &'static str),
    Hang,
    /// Ends the connection without a word.
    Reset,
}

type Script = dyn Fn(usize, &Posted) -> Reply + Send + Sync;

#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Endpoint {
    pub(crate) async fn new(script: impl Fn(usize, &Posted) -> Reply + Send + Sync + 'static) -> Endpoint {
        Endpoint::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    fn on(
        listener: TcpListener,
        script: impl Fn(usize, &Posted) -> Reply + Send + Sync + 'static,
    ) -> Endpoint {
        let endpoint = Endpoint {
            addr: listener.local_addr().unwrap(),
            posted: Arc::default(),
        };
        let (posted, script) = (endpoint.posted.clone(), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, posted.clone(), script.clone()));
            }
        });
        endpoint
    }

    pub(crate) fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap().clone()
    }

    pub(crate) fn bodies(&self) -> Vec<String> {
        self.posted().into_iter().map(|p| p.body).collect()
    }

    fn url(&self) -> String {
        format!("http://{}/events", self.addr)
    }

    fn sink(&self) -> HttpSink {
        HttpSink::new("s", &self.target()).unwrap()
    }

    fn target(&self) -> HttpTarget {
        HttpTarget {
            url: self.url(),
            batch: 1,
            timeout: Duration::from_secs(10),
            headers: BTreeMap::new(),
            ca_file: None,
        }
    }

    async fn has(&self, n: usize) {
        soon(&format!("{n} requests"), async {
            while self.posted().len() < n {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

async fn serve(stream: TcpStream, posted: Arc<Mutex<Vec<Posted>>>, script: Arc<Script>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let number = {
            let mut posted = posted.lock().unwrap();
            posted.push(request.clone());
            posted.len() - 1
        };
        match script(number, &request) {
            Reply::Say(status, headers, body) => {
                let text = format!(
                    "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}",
                    body.len()
                );
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
            Reply::Hang => std::future::pending().await,
            Reply::Reset => {
                let _ = stream.get_ref().set_zero_linger();
                return;
            }
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Posted> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.trim().split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length").map_or(0, |l| l.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(Posted {
        line: line.trim().into(),
        headers,
        body: String::from_utf8(body).unwrap(),
        at: Instant::now(),
    })
}

async fn ok() -> Endpoint {
    Endpoint::new(|_, _| Reply::Say(200, "", "")).await
}

async fn fed(events: impl IntoIterator<Item = String>) -> (tidegate_runtime::Feeder, MemorySource) {
    let (feeder, source) = memory(100_000);
    for payload in events {
        feeder.send(payload).await;
    }
    (feeder, source)
}

fn json(n: usize) -> String {
    format!("{{\"n\":{n}}}")
}

#[tokio::test]
async fn each_event_is_one_post_with_its_length_type_and_key() {
    let (board, endpoint) = (Board::new(), ok().await);
    let member = board.member();
    let (_feeder, source) = fed((0..3).map(json)).await;
    let (_stop, _task) = run(&member, pipeline(source, (), endpoint.sink()));
    board.until("all posted", |s| s.events == 3).await;
    assert_eq!(endpoint.bodies(), [json(0), json(1), json(2)]);
    let first = &endpoint.posted()[0];
    assert_eq!(first.line, "POST /events HTTP/1.1");
    assert_eq!(first.headers["content-type"], "application/json");
    assert_eq!(first.headers["content-length"], "7");
    assert_eq!(first.headers["idempotency-key"], "s-0-0");
    assert_eq!(endpoint.posted()[2].headers["idempotency-key"], "s-0-2");
}

#[tokio::test]
async fn batches_are_ndjson() {
    let (board, endpoint) = (Board::new(), ok().await);
    let member = board.member();
    let target = HttpTarget {
        batch: 3,
        ..endpoint.target()
    };
    let (_feeder, source) = fed((0..7).map(json)).await;
    let (_stop, _task) = run(
        &member,
        pipeline(source, (), HttpSink::new("s", &target).unwrap()),
    );
    board.until("all posted", |s| s.events == 7).await;
    let posted = endpoint.posted();
    assert_eq!(posted.len(), 3);
    assert_eq!(posted[0].body, "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n");
    assert_eq!(posted[0].headers["content-type"], "application/x-ndjson");
    assert_eq!(posted[0].headers["idempotency-key"], "s-0-0..s-0-2");
    assert_eq!(posted[2].body, "{\"n\":6}", "one alone is one event");
    assert_eq!(posted[2].headers["content-type"], "application/json");
}

#[tokio::test]
async fn four_statuses_are_dead_letters_with_the_answer_and_all_others_are_tried_again() {
    for status in [400, 413, 415, 422] {
        let board = Board::new();
        let member = board.member();
        let endpoint = Endpoint::new(move |n, _| match n {
            0 => Reply::Say(status, "", "no field \"id\""),
            _ => Reply::Say(200, "", ""),
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let letters = dir.path().join("dead.jsonl");
        let (feeder, source) = fed((0..2).map(json)).await;
        let (_stop, _task) = run(
            &member,
            Pipeline {
                dead_letters: DeadLetters::at(&letters),
                ..pipeline(source, (), endpoint.sink())
            },
        );
        soon("both settled", feeder.acked().wait_for(|n| *n == 2))
            .await
            .unwrap();
        assert_eq!(
            endpoint.bodies(),
            [json(0), json(1)],
            "{status} is not tried again"
        );
        let text = std::fs::read_to_string(&letters).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["payload"], json(0));
        assert!(
            line["reason"].as_str().unwrap().contains(&status.to_string()),
            "{line}"
        );
        assert_eq!(line["detail"], "no field \"id\"");
    }
    for status in [301, 302, 307, 401, 403, 404, 408, 409, 429, 500, 502, 503] {
        let board = Board::new();
        let member = board.member();
        let endpoint = Endpoint::new(move |n, _| match n {
            0 => Reply::Say(status, "location: http://127.0.0.1:9/\r\n", "x"),
            _ => Reply::Say(202, "", ""),
        })
        .await;
        let (_feeder, source) = fed((0..2).map(json)).await;
        let (_stop, _task) = run(&member, pipeline(source, (), endpoint.sink()));
        board.until("both posted", |s| s.events == 2).await;
        assert_eq!(endpoint.bodies(), [json(0), json(0), json(1)], "{status}");
        let keys: Vec<_> = endpoint
            .posted()
            .iter()
            .map(|p| p.headers["idempotency-key"].clone())
            .collect();
        assert_eq!(
            keys,
            ["s-0-0", "s-0-0", "s-0-1"],
            "a repeated attempt has the key of the first"
        );
    }
}

#[tokio::test]
async fn the_endpoint_gets_the_time_that_it_asks_for() {
    let board = Board::new();
    let member = board.member();
    let endpoint = Endpoint::new(|n, _| match n {
        0 => Reply::Say(429, "retry-after: 1\r\n", ""),
        _ => Reply::Say(200, "", ""),
    })
    .await;
    let (_feeder, source) = fed((0..1).map(json)).await;
    let (_stop, _task) = run(&member, pipeline(source, (), endpoint.sink()));
    board.until("posted", |s| s.events == 1).await;
    let posted = endpoint.posted();
    assert!(posted[1].at - posted[0].at >= Duration::from_secs(1));
}

#[tokio::test]
async fn of_a_refused_batch_only_the_refused_event_goes_to_the_dead_letter() {
    let board = Board::new();
    let member = board.member();
    let endpoint = Endpoint::new(|_, posted| match posted.body.contains("\"n\":4") {
        true => Reply::Say(422, "", ""),
        false => Reply::Say(200, "", ""),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let letters = dir.path().join("dead.jsonl");
    let target = HttpTarget {
        batch: 10,
        ..endpoint.target()
    };
    let (feeder, source) = fed((0..10).map(json)).await;
    let (_stop, _task) = run(
        &member,
        Pipeline {
            dead_letters: DeadLetters::at(&letters),
            ..pipeline(source, (), HttpSink::new("s", &target).unwrap())
        },
    );
    soon("all settled", feeder.acked().wait_for(|n| *n == 10))
        .await
        .unwrap();
    let good: Vec<String> = endpoint
        .posted()
        .iter()
        .filter(|p| !p.body.contains("\"n\":4"))
        .flat_map(|p| p.body.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let expected: Vec<String> = (0..10).filter(|n| *n != 4).map(json).collect();
    assert_eq!(good, expected, "each once and in order");
    assert_eq!(std::fs::read_to_string(&letters).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_dead_destination_does_not_keep_a_pause_from_its_proof_and_resuming_goes_on_with_the_very_event() {
    let board = Board::new();
    let member = board.member();
    let alive = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = alive.clone();
    let endpoint = Endpoint::new(
        move |_, _| match asked.load(std::sync::atomic::Ordering::SeqCst) {
            true => Reply::Say(200, "", ""),
            false => Reply::Hang,
        },
    )
    .await;
    let target = HttpTarget {
        timeout: Duration::from_millis(500),
        ..endpoint.target()
    };
    let (feeder, source) = memory(1000);
    let (_stop, _task) = run(
        &member,
        pipeline(source, (), HttpSink::new("s", &target).unwrap()),
    );
    for n in 0..5 {
        feeder.send(json(n)).await;
    }
    board.until("five", |s| s.events == 5).await;
    alive.store(false, std::sync::atomic::Ordering::SeqCst);
    for n in 5..10 {
        feeder.send(json(n)).await;
    }
    endpoint.has(6).await;
    let status = board.paused().await;
    assert_eq!((status.events, status.held.events), (5, 5));
    let stopped_at = endpoint.bodies().last().unwrap().clone();
    assert_eq!(stopped_at, json(5));
    let requests = endpoint.posted().len();
    alive.store(true, std::sync::atomic::Ordering::SeqCst);
    board.resume();
    board.until("ten", |s| s.events == 10).await;
    assert_eq!(
        endpoint.bodies()[requests..],
        (5..10).map(json).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_destination_that_refuses_connections_gives_its_work_back_at_once_when_stopped() {
    let board = Board::new();
    let member = board.member();
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let target = HttpTarget {
        url: format!("http://{gone}/"),
        batch: 1,
        timeout: Duration::from_secs(10),
        headers: BTreeMap::new(),
        ca_file: None,
    };
    let (_feeder, source) = fed((0..3).map(json)).await;
    let supervisor: Supervisor = supervise(
        &board,
        &member,
        pipeline(source, (), HttpSink::new("s", &target).unwrap()),
    );
    let status = board
        .until("a retry", |s| matches!(s.life, Life::Retrying { .. }))
        .await;
    let error = status.life.error().unwrap();
    assert!(
        error.contains("cannot connect") && error.contains("refused"),
        "{error}"
    );
    let reports = soon("stopped", supervisor.stop(LONG)).await;
    assert_eq!(
        (&reports[0].outcome, reports[0].given_back),
        (&Outcome::Stopped, 3)
    );
}

#[tokio::test]
async fn a_redirect_carries_neither_events_nor_credentials_elsewhere() {
    let board = Board::new();
    let member = board.member();
    let elsewhere = ok().await;
    let location: &'static str =
        Box::leak(format!("location: http://{}/\r\n", elsewhere.addr).into_boxed_str());
    let endpoint = Endpoint::new(move |_, _| Reply::Say(307, location, "")).await;
    let target = HttpTarget {
        headers: BTreeMap::from([("authorization".into(), "Bearer MARK".to_owned().into())]),
        ..endpoint.target()
    };
    let sink = HttpSink::new("s", &target).unwrap();
    assert!(!format!("{sink:?}").contains("MARK"));
    let (_feeder, source) = fed((0..1).map(json)).await;
    let (_stop, _task) = run(&member, pipeline(source, (), sink));
    endpoint.has(2).await;
    assert_eq!(endpoint.posted()[0].headers["authorization"], "Bearer MARK");
    let status = board
        .until("a retry", |s| matches!(s.life, Life::Retrying { .. }))
        .await;
    let error = status.life.error().unwrap();
    assert!(
        error.contains("redirects are not followed") && !error.contains("MARK"),
        "{error}"
    );
    assert!(elsewhere.posted().is_empty());
}

/// 5xx, resets, hangs and good answers, told by a generator that is the same in each run.
#[tokio::test]
async fn through_an_endpoint_that_fails_at_random_every_event_arrives_and_none_in_a_pause() {
    let board = Arc::new(Board::new());
    let member = board.member();
    let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(7)));
    let gate = member.gate();
    let accepted: Arc<Mutex<Vec<String>>> = Arc::default();
    let failed: Arc<Mutex<Vec<String>>> = Arc::default();
    let (good, bad) = (accepted.clone(), failed.clone());
    let endpoint = Endpoint::new(move |_, posted| {
        assert_ne!(
            gate.sight().phase,
            Phase::Paused,
            "a request came in a proven pause"
        );
        let dice = random.lock().unwrap().u32(0..20);
        let reply = match dice {
            0 => Reply::Say(500, "", ""),
            1 => Reply::Reset,
            2 => Reply::Hang,
            _ => Reply::Say(200, "", ""),
        };
        let to = match &reply {
            Reply::Say(200, ..) => &good,
            _ => &bad,
        };
        to.lock().unwrap().extend(posted.body.lines().map(str::to_owned));
        reply
    })
    .await;
    let target = HttpTarget {
        timeout: Duration::from_millis(100),
        batch: 5,
        ..endpoint.target()
    };
    let (feeder, source) = fed((0..50).map(json)).await;
    let (_stop, _task) = run(
        &member,
        pipeline(source, (), HttpSink::new("s", &target).unwrap()),
    );
    for round in 0..10 {
        board.paused().await;
        let requests = endpoint.posted().len();
        // However fast it was so far, this pause holds something back.
        for n in 50 + round * 10..60 + round * 10 {
            feeder.send(json(n)).await;
        }
        tokio::task::yield_now().await;
        assert_eq!(endpoint.posted().len(), requests);
        board.resume();
        endpoint.has(requests + 1).await;
    }
    soon("all acknowledged", feeder.acked().wait_for(|n| *n == 150))
        .await
        .unwrap();
    assert_eq!(board.status().state, State::Running);
    let (accepted, failed) = (accepted.lock().unwrap().clone(), failed.lock().unwrap().clone());
    for n in 0..150 {
        let times = accepted.iter().filter(|e| **e == json(n)).count();
        assert!(times >= 1, "{n} is lost");
        assert!(
            times == 1 || failed.contains(&json(n)),
            "{n} came twice without a failed attempt"
        );
    }
    assert!(!failed.is_empty());
}
