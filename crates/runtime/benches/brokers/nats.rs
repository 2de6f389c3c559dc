//! NATS JetStream.
use crate::{Asked, BATCH, MESSAGES, ROUNDS, Server, median, member, ours, payload, report};
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, stream};
use futures_util::StreamExt;
use serde_json::json;
use std::time::{Duration, Instant};

pub(crate) async fn measure(asked: &Asked) {
    let server = Server::start("nats-server", &["-js", "-sd", "data", "-a", "127.0.0.1", "-p"]).await;
    let url = format!("nats://127.0.0.1:{}", server.port);
    let context = jetstream::new(async_nats::connect(&url).await.unwrap());
    // Seen again in the next round, an event would be dropped.
    for (name, window) in [
        ("in", Duration::from_secs(120)),
        ("out", Duration::from_millis(100)),
    ] {
        let config = stream::Config {
            name: name.into(),
            subjects: vec![format!("{name}.*")],
            duplicate_window: window,
            ..stream::Config::default()
        };
        context.create_stream(config).await.unwrap();
    }
    fill(&context, "in.a", MESSAGES, 100).await;
    if asked.for_part("rate") {
        rate(&context, &url).await;
    }
    if asked.for_part("group") {
        group(&context, &url).await;
    }
    if asked.for_part("held") {
        for (size, what) in [(1 << 10, "1 KB"), (1_000_000, "1 MB")] {
            let name = format!("held{size}");
            let config = stream::Config {
                name: name.clone(),
                subjects: vec![format!("{name}.*")],
                ..stream::Config::default()
            };
            context.create_stream(config).await.unwrap();
            fill(
                &context,
                &format!("{name}.a"),
                ((64 << 20) / size).min(20_000),
                size,
            )
            .await;
            let source = json!({ "type": "nats", "url": url, "stream": name, "durable": "d" });
            let what = format!("nats, prefetch = 1024, prefetch_bytes = 8 MiB, messages of {what}");
            member::held(&what, source).await;
        }
    }
}

async fn fill(context: &Context, subject: &str, n: usize, size: usize) {
    let mut sent = Vec::new();
    for k in 0..n {
        let message = PublishMessage::build().payload(payload(k, size).into());
        sent.push(context.send_publish(subject.to_owned(), message).await.unwrap());
        // More than some thousands the client does not let out.
        if sent.len() == BATCH || sent.len() * size >= 1 << 20 {
            for ack in sent.drain(..) {
                ack.await.unwrap();
            }
        }
    }
    for ack in sent {
        ack.await.unwrap();
    }
}

async fn rate(context: &Context, url: &str) {
    let (mut bare, mut with_ids, mut all, mut small) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bare.push(plain(context, &format!("bare{round}"), false).await);
        with_ids.push(plain(context, &format!("ids{round}"), true).await);
        // The plain loop has a batch at work and the next one on its way.
        for (rates, prefetch) in [(&mut all, 2 * BATCH), (&mut small, BATCH)] {
            let mut out = empty(context).await;
            let source = json!({
                "type": "nats", "url": url, "stream": "in", "durable": format!("ours{round}with{prefetch}"),
                "prefetch": prefetch,
            });
            let sink = json!({ "type": "nats", "url": url, "subject": "out.a" });
            let done = async || out.info().await.unwrap().state.messages as usize;
            rates.push(ours(source, sink, done).await);
        }
    }
    let what = format!("nats → nats, {MESSAGES} messages of 100 bytes");
    report(&format!("{what}: plain client with Nats-Msg-Id"), &with_ids, &all);
    report(
        &format!("{what}, prefetch as it is by default: plain client with Nats-Msg-Id"),
        &with_ids,
        &small,
    );
    report(&format!("{what}: plain client without"), &bare, &all);
}

async fn empty(context: &Context) -> stream::Stream {
    let out = context.get_stream("out").await.unwrap();
    out.purge().await.unwrap();
    // What was published before is forgotten.
    tokio::time::sleep(Duration::from_millis(300)).await;
    out
}

/// The client's own loop: a batch is sent, its answers awaited, the batch acknowledged and the last of that confirmed.
async fn plain(context: &Context, durable: &str, ids: bool) -> f64 {
    empty(context).await;
    let stream = context.get_stream("in").await.unwrap();
    let config = pull::Config {
        durable_name: Some(durable.to_owned()),
        max_ack_pending: 1_000_000,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
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
            let mut copy = PublishMessage::build().payload(message.payload.clone());
            if ids {
                copy = copy.message_id(format!("s-0-{}", message.info().unwrap().stream_sequence));
            }
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
    MESSAGES as f64 / started.elapsed().as_secs_f64()
}

/// One process and four of one group: once bound by the processor, once by a sink that takes its time.
async fn group(context: &Context, url: &str) {
    let (mut fast, mut slow) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let endpoint = member::endpoint(Duration::from_millis(2)).await;
    for round in 0..3 {
        for (which, processes) in [1, 4].into_iter().enumerate() {
            let durable = format!("fast{round}of{processes}");
            let mut out = empty(context).await;
            let source = json!({ "type": "nats", "url": url, "stream": "in", "durable": durable });
            let sink = json!({ "type": "nats", "url": url, "subject": "out.a" });
            let done = async || out.info().await.unwrap().state.messages as usize;
            fast[which].push(member::rate(processes, MESSAGES, &source, &sink, done).await);

            let durable = format!("slow{round}of{processes}");
            let stream = context.get_stream("in").await.unwrap();
            let source = json!({
                "type": "nats", "url": url, "stream": "in", "durable": durable, "prefetch": 64,
            });
            let sink = json!({ "type": "http", "url": endpoint });
            let done = async || match stream.consumer_info(&durable).await {
                Ok(info) => info.ack_floor.stream_sequence as usize,
                Err(_) => 0,
            };
            slow[which].push(member::rate(processes, 2000, &source, &sink, done).await);
        }
    }
    for (what, [one, four]) in [("nats → nats", fast), ("nats → an HTTP sink of 2 ms", slow)] {
        let (one, four) = (median(one), median(four));
        println!(
            "{what}: one process {one:.0}/s, four of one group {four:.0}/s, {:.2} times",
            four / one
        );
    }
}
