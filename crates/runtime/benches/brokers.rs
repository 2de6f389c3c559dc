//! Each broker's source → sink rate beside the plain client's own loop in the same run, and what holding costs.
//!
//! `cargo bench -p tidegate-runtime --bench brokers` needs `nats-server` and `redis-server` on the path; they are started
//! on free ports with their data in a temporary folder. The plain loops read batches, send a whole batch, wait for its
//! answers and acknowledge it: what somebody writes who wants both speed and at-least-once.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a measurement stops at the first surprise, and prints"
)]
use async_nats::jetstream::{self, consumer::pull, stream};
use futures_util::StreamExt;
use redis::{Value, cmd};
use serde_json::json;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_gate::{Clock, Holds, Kind, Moment, Name};
use tidegate_runtime::{
    DeadLetters, Event, Limits, NatsConsumer, NatsSource, NatsTarget, Pipeline, RedisConsumer, RedisSource,
    RedisTarget, Sink, SinkError, Source, StreamConfig, Supervisor, build, drive,
};

const MESSAGES: usize = 40_000;
const ROUNDS: usize = 3;
const BATCH: usize = 1024;

struct Server {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    async fn start(program: &str, args: &[&str]) -> Server {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let dir = TempDir::new().unwrap();
        let child = Command::new(program)
            .args(args)
            .arg(port.to_string())
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Server {
            child,
            port,
            _dir: dir,
        }
    }
}

fn board() -> std::sync::Arc<Holds> {
    Holds::new(Clock::new(|| Moment {
        wall: std::time::SystemTime::now(),
        mono: Instant::now(),
    }))
}

/// Events a second from `source` to `sink` by tidegate, until `done` says that so many arrived.
async fn ours(
    source: serde_json::Value,
    sink: serde_json::Value,
    mut done: impl AsyncFnMut() -> usize,
    n: usize,
) -> f64 {
    let config: StreamConfig =
        serde_json::from_value(json!({ "name": "s", "source": source, "sink": sink })).unwrap();
    let holds = board();
    let stream = build(&config, &holds, None).unwrap();
    let started = Instant::now();
    let supervisor = Supervisor::spawn(holds, vec![stream]);
    while done().await < n {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = started.elapsed();
    supervisor.stop(Duration::from_secs(10)).await;
    n as f64 / took.as_secs_f64()
}

fn report(broker: &str, mut plain: Vec<f64>, mut ours: Vec<f64>) {
    plain.sort_by(f64::total_cmp);
    ours.sort_by(f64::total_cmp);
    let (plain, ours) = (plain[ROUNDS / 2], ours[ROUNDS / 2]);
    println!(
        "{broker} → {broker}, {MESSAGES} messages of 100 bytes: plain client {plain:.0}/s, tidegate {ours:.0}/s, ratio {:.2}",
        ours / plain
    );
}

async fn nats() {
    let server = Server::start("nats-server", &["-js", "-sd", "data", "-a", "127.0.0.1", "-p"]).await;
    let url = format!("nats://127.0.0.1:{}", server.port);
    let context = jetstream::new(async_nats::connect(&url).await.unwrap());
    for name in ["in", "out"] {
        context
            .create_stream(stream::Config {
                name: name.into(),
                subjects: vec![format!("{name}.*")],
                ..stream::Config::default()
            })
            .await
            .unwrap();
    }
    let mut sent = Vec::new();
    for n in 0..MESSAGES {
        let message = format!("{n:0100}");
        sent.push(context.send_publish("in.a", message_of(message)).await.unwrap());
        if sent.len() == BATCH {
            for ack in sent.drain(..) {
                ack.await.unwrap();
            }
        }
    }
    for ack in sent {
        ack.await.unwrap();
    }
    let (mut plains, mut all) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut out = context.get_stream("out").await.unwrap();
        out.purge().await.unwrap();
        let consumer = context
            .get_stream("in")
            .await
            .unwrap()
            .create_consumer(pull::Config {
                durable_name: Some(format!("plain{round}")),
                max_ack_pending: 1_000_000,
                ..pull::Config::default()
            })
            .await
            .unwrap();
        let started = Instant::now();
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .messages()
            .await
            .unwrap();
        let mut batches = messages.ready_chunks(BATCH);
        let mut done = 0;
        while done < MESSAGES {
            let batch = batches.next().await.unwrap();
            let mut sent = Vec::with_capacity(batch.len());
            for message in &batch {
                let message = message.as_ref().unwrap();
                let copy = jetstream::message::PublishMessage::build().payload(message.payload.clone());
                sent.push(context.send_publish("out.a", copy).await.unwrap());
            }
            for ack in sent {
                ack.await.unwrap();
            }
            let (last, rest) = batch.split_last().unwrap();
            for message in rest {
                message.as_ref().unwrap().ack().await.unwrap();
            }
            last.as_ref().unwrap().double_ack().await.unwrap();
            done += batch.len();
        }
        plains.push(MESSAGES as f64 / started.elapsed().as_secs_f64());
        out.purge().await.unwrap();
        let source = json!({ "type": "nats", "url": url, "stream": "in", "durable": format!("ours{round}") });
        // Another id in each round: the server would drop what it has seen in the round before.
        let sink = json!({ "type": "nats", "url": url, "subject": "out.a" });
        out.purge().await.unwrap();
        context
            .update_stream(stream::Config {
                name: "out".into(),
                subjects: vec!["out.*".into()],
                duplicate_window: Duration::from_millis(100),
                ..stream::Config::default()
            })
            .await
            .unwrap();
        let done = async || out.info().await.unwrap().state.messages as usize;
        all.push(ours(source, sink, done, MESSAGES).await);
    }
    report("nats", plains, all);
    for (size, what) in [(1 << 10, "1 KB"), (1_000_000, "1 MB")] {
        let name = format!("held{size}");
        context
            .create_stream(stream::Config {
                name: name.clone(),
                subjects: vec![format!("{name}.*")],
                ..stream::Config::default()
            })
            .await
            .unwrap();
        let n = ((64 << 20) / size).min(20_000);
        for _ in 0..n {
            let message = vec![b'x'; size];
            context
                .publish(format!("{name}.a"), message.into())
                .await
                .unwrap()
                .await
                .unwrap();
        }
        let source = NatsSource::new(NatsConsumer {
            target: NatsTarget {
                url: url.clone(),
                auth: None,
                ca_file: None,
                client_cert: None,
            },
            stream: name,
            durable: "d".into(),
            filter_subject: None,
            ack_wait: Duration::from_secs(30),
            prefetch: 1024,
            prefetch_bytes: 8 << 20,
            max_hold: None,
            max_deliver: None,
        });
        held("nats", what, source.unwrap()).await;
    }
}

fn message_of(text: String) -> jetstream::message::PublishMessage {
    jetstream::message::PublishMessage::build().payload(text.into())
}

async fn redis() {
    let server = Server::start(
        "redis-server",
        &[
            "--bind",
            "127.0.0.1",
            "--appendonly",
            "yes",
            "--save",
            "",
            "--port",
        ],
    )
    .await;
    let url = format!("redis://127.0.0.1:{}", server.port);
    let client = redis::Client::open(url.as_str()).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap();
    for some in 0..MESSAGES / 1000 {
        let mut adds = redis::pipe();
        for n in some * 1000..(some + 1) * 1000 {
            adds.cmd("XADD")
                .arg(&["in", "*", "data"])
                .arg(format!("{n:0100}"));
        }
        adds.query_async::<Value>(&mut connection).await.unwrap();
    }
    let (mut plains, mut all) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let group = format!("plain{round}");
        cmd("XGROUP")
            .arg(&["CREATE", "in", &group, "0"])
            .query_async::<Value>(&mut connection)
            .await
            .unwrap();
        let started = Instant::now();
        let mut done = 0;
        while done < MESSAGES {
            let read: redis::streams::StreamReadReply = cmd("XREADGROUP")
                .arg(&[
                    "GROUP", &group, "c", "COUNT", "1024", "BLOCK", "500", "STREAMS", "in", ">",
                ])
                .query_async(&mut connection)
                .await
                .unwrap();
            let mut adds = redis::pipe();
            let mut acks = cmd("XACK");
            acks.arg("in").arg(&group);
            for entry in &read.keys[0].ids {
                let data: Vec<u8> = entry.get("data").unwrap();
                adds.cmd("XADD").arg(&["out", "*", "data"]).arg(data);
                acks.arg(&entry.id);
            }
            adds.query_async::<Value>(&mut connection).await.unwrap();
            acks.query_async::<Value>(&mut connection).await.unwrap();
            done += read.keys[0].ids.len();
        }
        plains.push(MESSAGES as f64 / started.elapsed().as_secs_f64());
        cmd("DEL")
            .arg("out")
            .query_async::<Value>(&mut connection)
            .await
            .unwrap();
        let source = json!({ "type": "redis", "url": url, "stream": "in", "group": format!("ours{round}") });
        let sink = json!({ "type": "redis", "url": url, "stream": "out" });
        let mut look = connection.clone();
        let done = async || {
            cmd("XLEN")
                .arg("out")
                .query_async::<usize>(&mut look)
                .await
                .unwrap()
        };
        all.push(ours(source, sink, done, MESSAGES).await);
        cmd("DEL")
            .arg("out")
            .query_async::<Value>(&mut connection)
            .await
            .unwrap();
    }
    report("redis", plains, all);
    for (size, what) in [(1 << 10, "1 KB"), (1 << 20, "1 MB")] {
        let name = format!("held{size}");
        for _ in 0..((64 << 20) / size).min(20_000) {
            cmd("XADD")
                .arg(&[name.as_str(), "*", "data"])
                .arg(vec![b'x'; size])
                .query_async::<Value>(&mut connection)
                .await
                .unwrap();
        }
        let source = RedisSource::new(RedisConsumer {
            target: RedisTarget {
                url: url.clone(),
                user: None,
                password_file: None,
                ca_file: None,
                client_cert: None,
            },
            stream: name,
            group: "g".into(),
            consumer: None,
            field: None,
            min_idle: Duration::from_secs(30),
            prefetch_bytes: 8 << 20,
            max_hold: None,
            max_deliver: None,
        });
        held("redis", what, source.unwrap()).await;
    }
}

/// A sink that has it all and never says so.
struct Stuck;

impl Sink for Stuck {
    fn describe(&self) -> Name {
        "stuck".into()
    }

    fn batch(&self) -> usize {
        1
    }

    fn timeout(&self) -> Option<Duration> {
        None
    }

    async fn write(&mut self, _: &[Event]) -> Result<(), SinkError> {
        std::future::pending().await
    }
}

async fn held<S: Source>(broker: &str, size: &str, source: S) {
    let before = resident_kib();
    let holds = board();
    let member = holds.register("s", Kind::Stream).unwrap();
    let pipeline = Pipeline {
        source,
        stages: (),
        sink: Stuck,
        dead_letters: DeadLetters::none(),
        limits: Limits {
            events: 1024,
            bytes: 8 << 20,
            ..Limits::default()
        },
    };
    let seen = member.clone();
    let driven = tokio::spawn(async move { drive(&seen, pipeline, Default::default()).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let held = holds.snapshot().streams[0].held.events;
    println!(
        "{broker}: prefetch = 1024, prefetch_bytes = 8 MiB, messages of {size}: {held} held, resident memory grew {} KiB",
        resident_kib().saturating_sub(before)
    );
    driven.abort();
    let _ = driven.await;
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        nats().await;
        redis().await;
    });
}
