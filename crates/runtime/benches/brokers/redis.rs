//! Redis Streams.
use crate::{Asked, BATCH, MESSAGES, ROUNDS, Server, median, member, ours, payload, report};
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Value, cmd};
use serde_json::json;
use std::time::{Duration, Instant};

pub(crate) async fn measure(asked: &Asked) {
    let args = [
        "--bind",
        "127.0.0.1",
        "--appendonly",
        "yes",
        "--save",
        "",
        "--port",
    ];
    let server = Server::start("redis-server", &args).await;
    let url = format!("redis://127.0.0.1:{}", server.port);
    let client = redis::Client::open(url.as_str()).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connected = client.get_multiplexed_async_connection_with_config(&config);
    let mut connection = connected.await.unwrap();
    fill(&mut connection, "in", MESSAGES, 100).await;
    if asked.for_part("rate") {
        rate(&mut connection, &url).await;
    }
    if asked.for_part("group") {
        group(&mut connection, &url).await;
    }
    if asked.for_part("held") {
        for (size, what) in [(1 << 10, "1 KB"), (1 << 20, "1 MB")] {
            let name = format!("held{size}");
            fill(&mut connection, &name, ((64 << 20) / size).min(20_000), size).await;
            let source = json!({ "type": "redis", "url": url, "stream": name, "group": "g" });
            let what = format!("redis, prefetch = 1024, prefetch_bytes = 8 MiB, messages of {what}");
            member::held(&what, source).await;
        }
    }
}

async fn ask<T: FromRedisValue>(connection: &mut MultiplexedConnection, words: &[&str]) -> T {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(connection).await.unwrap()
}

async fn fill(connection: &mut MultiplexedConnection, stream: &str, n: usize, size: usize) {
    for from in (0..n).step_by(1000) {
        let mut adds = redis::pipe();
        for k in from..n.min(from + 1000) {
            adds.cmd("XADD").arg(&[stream, "*", "data"]).arg(payload(k, size));
        }
        adds.query_async::<Value>(connection).await.unwrap();
    }
}

async fn rate(connection: &mut MultiplexedConnection, url: &str) {
    let (mut plains, mut all) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        plains.push(plain(connection, &format!("plain{round}")).await);
        let _: Value = ask(connection, &["DEL", "out"]).await;
        let source = json!({ "type": "redis", "url": url, "stream": "in", "group": format!("ours{round}") });
        let sink = json!({ "type": "redis", "url": url, "stream": "out" });
        let done = async || ask(connection, &["XLEN", "out"]).await;
        all.push(ours(source, sink, done).await);
        let _: Value = ask(connection, &["DEL", "out"]).await;
    }
    let what = format!("redis → redis, {MESSAGES} messages of 100 bytes: plain client");
    report(&what, &plains, &all);
}

/// The client's own loop: a batch is read, sent on, and acknowledged.
async fn plain(connection: &mut MultiplexedConnection, group: &str) -> f64 {
    let _: Value = ask(connection, &["XGROUP", "CREATE", "in", group, "0"]).await;
    let count = BATCH.to_string();
    let read = [
        "XREADGROUP",
        "GROUP",
        group,
        "c",
        "COUNT",
        &count,
        "BLOCK",
        "500",
        "STREAMS",
        "in",
        ">",
    ];
    let started = Instant::now();
    let mut done = 0;
    while done < MESSAGES {
        let read: redis::streams::StreamReadReply = ask(connection, &read).await;
        let mut adds = redis::pipe();
        let mut acks = cmd("XACK");
        acks.arg("in").arg(group);
        for entry in &read.keys[0].ids {
            let data: Vec<u8> = entry.get("data").unwrap();
            adds.cmd("XADD").arg(&["out", "*", "data"]).arg(data);
            acks.arg(&entry.id);
        }
        adds.query_async::<Value>(connection).await.unwrap();
        acks.query_async::<Value>(connection).await.unwrap();
        done += read.keys[0].ids.len();
    }
    MESSAGES as f64 / started.elapsed().as_secs_f64()
}

/// One process and four of one group: once bound by the processor, once by a sink that takes its time.
async fn group(connection: &mut MultiplexedConnection, url: &str) {
    let (mut fast, mut slow) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let endpoint = member::endpoint(Duration::from_millis(2)).await;
    fill(connection, "few", 2000, 100).await;
    for round in 0..3 {
        for (which, processes) in [1, 4].into_iter().enumerate() {
            let group = format!("fast{round}of{processes}");
            let _: Value = ask(connection, &["DEL", "out"]).await;
            let source = json!({ "type": "redis", "url": url, "stream": "in", "group": group });
            let sink = json!({ "type": "redis", "url": url, "stream": "out" });
            let done = async || ask(connection, &["XLEN", "out"]).await;
            fast[which].push(member::rate(processes, MESSAGES, &source, &sink, done).await);

            let group = format!("slow{round}of{processes}");
            let _: Value = ask(connection, &["XGROUP", "CREATE", "few", &group, "0"]).await;
            let source = json!({
                "type": "redis", "url": url, "stream": "few", "group": group, "prefetch": 64,
            });
            let sink = json!({ "type": "http", "url": endpoint });
            let done = async || {
                let pending: (usize, Value, Value, Value) =
                    ask(connection, &["XPENDING", "few", &group]).await;
                let lag: Vec<std::collections::HashMap<String, Value>> =
                    ask(connection, &["XINFO", "GROUPS", "few"]).await;
                let this = lag
                    .iter()
                    .find(|one| one["name"] == Value::BulkString(group.clone().into()));
                match this.map(|one| &one["lag"]) {
                    Some(Value::Int(0)) => 2000 - pending.0,
                    _ => 0,
                }
            };
            slow[which].push(member::rate(processes, 2000, &source, &sink, done).await);
        }
    }
    let _: Value = ask(connection, &["DEL", "out"]).await;
    for (what, [one, four]) in [("redis → redis", fast), ("redis → an HTTP sink of 2 ms", slow)] {
        let (one, four) = (median(one), median(four));
        println!(
            "{what}: one process {one:.0}/s, four of one group {four:.0}/s, {:.2} times",
            four / one
        );
    }
}
