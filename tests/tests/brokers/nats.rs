//! NATS JetStream, by `nats-server`.
use crate::scenes::{self, Broker, Rival, error_of, file};
use crate::server::{Server, free_port};
use crate::site::{Site, eventually};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, Context, stream};
use futures_util::StreamExt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Nats {
    server: Server,
    _dir: TempDir,
}

impl Nats {
    async fn with(options: &[&str]) -> Nats {
        let dir = TempDir::new().unwrap();
        let port = free_port();
        let mut args: Vec<String> = ["-js", "-a", "127.0.0.1", "-sd", "data", "-p"]
            .map(String::from)
            .into();
        args.push(port.to_string());
        args.extend(options.iter().map(|o| (*o).to_owned()));
        let server = Server::start("nats-server", args, dir.path().to_owned(), port).await;
        Nats { server, _dir: dir }
    }

    async fn client(&self) -> Context {
        let client = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .connect(format!("nats://{}", self.server.address))
            .await
            .unwrap();
        jetstream::new(client)
    }

    async fn consumer(&self) -> PullConsumer {
        let stream = self.client().await.get_stream("orders").await.unwrap();
        stream.get_consumer("tidegate").await.unwrap()
    }
}

impl Rival for PullConsumer {
    async fn take(&mut self, most: usize) -> (Vec<String>, usize) {
        let mut batch = self
            .fetch()
            .max_messages(most)
            .expires(Duration::from_secs(1))
            .messages()
            .await
            .unwrap();
        let (mut got, mut again) = (Vec::new(), 0);
        while let Some(message) = batch.next().await {
            let message = message.unwrap();
            again += usize::from(message.info().unwrap().delivered > 1);
            message.double_ack().await.unwrap();
            got.push(String::from_utf8(message.payload.to_vec()).unwrap());
        }
        (got, again)
    }
}

impl Broker for Nats {
    const NAME: &'static str = "nats";
    const LEASE: Duration = Duration::from_secs(2);
    const SEQUENCES: usize = 1;
    const FORGETS: bool = true;
    type Rival = PullConsumer;

    async fn start() -> Nats {
        let nats = Nats::with(&[]).await;
        let client = nats.client().await;
        for name in ["orders", "done"] {
            client
                .create_stream(stream::Config {
                    name: name.into(),
                    subjects: vec![format!("{name}.*")],
                    ..stream::Config::default()
                })
                .await
                .unwrap();
        }
        let stream = client.get_stream("orders").await.unwrap();
        stream
            .create_consumer(pull::Config {
                durable_name: Some("tidegate".into()),
                ack_policy: AckPolicy::Explicit,
                ack_wait: Self::LEASE,
                max_ack_pending: 10_000,
                ..pull::Config::default()
            })
            .await
            .unwrap();
        nats
    }

    fn address(&self) -> SocketAddr {
        self.server.address
    }

    async fn kill(&mut self) {
        self.server.kill().await;
    }

    async fn start_again(&mut self) {
        self.server.start_again().await;
    }

    fn source(&self, at: SocketAddr, options: &str) -> String {
        format!(
            "type = \"nats\"\nurl = \"nats://{at}\"\nstream = \"orders\"\ndurable = \"tidegate\"\n{options}"
        )
    }

    fn sink(&self, at: SocketAddr) -> String {
        format!("type = \"nats\"\nurl = \"nats://{at}\"\nsubject = \"done.all\"")
    }

    async fn produce(&self, numbers: std::ops::Range<usize>) {
        let client = self.client().await;
        let mut sent = Vec::new();
        for n in numbers {
            sent.push(client.publish("orders.new", n.to_string().into()).await.unwrap());
            if sent.len() == 500 {
                for ack in sent.drain(..) {
                    ack.await.unwrap();
                }
            }
        }
        for ack in sent {
            ack.await.unwrap();
        }
    }

    async fn rival(&self) -> PullConsumer {
        self.consumer().await
    }

    async fn left(&self) -> usize {
        let mut consumer = self.consumer().await;
        let info = consumer.info().await.unwrap();
        info.num_ack_pending + info.num_pending as usize
    }

    async fn sunk(&self) -> Vec<String> {
        let mut stream = self.client().await.get_stream("done").await.unwrap();
        let n = stream.info().await.unwrap().state.messages as usize;
        let consumer = stream
            .create_consumer(pull::Config {
                ack_policy: AckPolicy::None,
                ..pull::Config::default()
            })
            .await
            .unwrap();
        let messages = consumer.fetch().max_messages(n.max(1)).messages().await.unwrap();
        messages
            .map(|m| String::from_utf8(m.unwrap().payload.to_vec()).unwrap())
            .collect()
            .await
    }
}

#[tokio::test]
async fn nats_a_long_pause_costs_no_redelivery() {
    scenes::long_pause::<Nats>().await;
}

#[tokio::test]
async fn nats_what_is_held_too_long_is_given_back_and_arrives_once() {
    scenes::beyond_the_lease::<Nats>().await;
}

#[tokio::test]
async fn nats_kills_of_sidecar_broker_and_link_lose_nothing() {
    scenes::chaos::<Nats>().await;
}

#[tokio::test]
async fn nats_one_flip_pauses_a_whole_group() {
    scenes::scale_out::<Nats>().await;
}

#[tokio::test]
async fn nats_to_nats_keeps_the_order_and_repeats_nothing() {
    scenes::broker_to_broker::<Nats>().await;
}

#[tokio::test]
async fn nats_a_sink_that_refuses_for_ever_stops_the_stream_and_not_the_controls() {
    scenes::refused_for_ever::<Nats>().await;
}

#[tokio::test]
async fn nats_an_event_that_the_sink_refuses_goes_to_the_dead_letter_with_the_reason() {
    scenes::poison::<Nats>().await;
}

#[tokio::test]
async fn nats_a_broker_that_is_down_at_the_start_is_waited_for() {
    scenes::down_at_start::<Nats>().await;
}

/// What plain clients do wrong in a pause. Each has to be redelivered, else the check above sees nothing.
async fn redelivered_after(hold: impl AsyncFnOnce(PullConsumer)) -> usize {
    let nats = Nats::start().await;
    nats.produce(0..200).await;
    hold(nats.consumer().await).await;
    let mut rival = nats.rival().await;
    let mut again = 0;
    let started = Instant::now();
    while again == 0 && started.elapsed() < Nats::LEASE * 5 {
        again += rival.take(200).await.1;
    }
    again
}

#[tokio::test]
async fn nats_twin_messages_that_are_held_without_a_heartbeat_are_redelivered() {
    let again = redelivered_after(async |consumer: PullConsumer| {
        let held: Vec<_> = consumer
            .fetch()
            .max_messages(200)
            .messages()
            .await
            .unwrap()
            .collect()
            .await;
        assert_eq!(held.len(), 200);
    })
    .await;
    assert!(again > 0);
}

#[tokio::test]
async fn nats_twin_a_fetch_that_is_dropped_is_redelivered() {
    let again = redelivered_after(async |consumer: PullConsumer| {
        let mut fetch = consumer.fetch().max_messages(200).messages().await.unwrap();
        for _ in 0..10 {
            fetch.next().await.unwrap().unwrap().double_ack().await.unwrap();
        }
        drop(fetch);
    })
    .await;
    assert!(again > 0);
}

#[tokio::test]
async fn nats_twin_messages_that_nobody_polls_are_redelivered() {
    let again = redelivered_after(async |consumer: PullConsumer| {
        let mut messages = consumer.messages().await.unwrap();
        messages
            .next()
            .await
            .unwrap()
            .unwrap()
            .double_ack()
            .await
            .unwrap();
        tokio::time::sleep(Nats::LEASE + Nats::LEASE / 2).await;
        drop(messages);
    })
    .await;
    assert!(again > 0);
}

#[tokio::test]
async fn nats_what_is_wrong_with_a_source_is_said() {
    let nats = Nats::start().await;
    let at = nats.address();
    let of = |stream: &str, durable: &str| {
        format!("type = \"nats\"\nurl = \"nats://{at}\"\nstream = \"{stream}\"\ndurable = \"{durable}\"")
    };
    let error = error_of(&of("missing", "d")).await;
    assert!(error.contains("there is no stream \"missing\""), "{error}");

    let stream = nats.client().await.get_stream("orders").await.unwrap();
    stream
        .create_consumer(pull::Config {
            durable_name: Some("careless".into()),
            ack_policy: AckPolicy::None,
            ..pull::Config::default()
        })
        .await
        .unwrap();
    let site = Site::new();
    let sink = file(&site.path("out"));
    let sidecar = site.sidecar("one", &of("orders", "careless"), &sink).await;
    let stream = sidecar.becomes("orders", "failed").await.unwrap();
    assert!(
        stream["error"].as_str().unwrap().contains("expected explicit"),
        "{stream}"
    );
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn nats_wrong_credentials_are_said_and_never_shown() {
    let nats = Nats::with(&["--user", "ana", "--pass", "the-right-one"]).await;
    let site = Site::new();
    std::fs::write(site.path("password"), "the-wrong-one\n").unwrap();
    let source = format!(
        "type = \"nats\"\nurl = \"nats://{}\"\nstream = \"orders\"\ndurable = \"d\"\n\
         auth = {{ method = \"password\", user = \"ana\", file = \"{}\" }}",
        nats.server.address,
        site.path("password").display()
    );
    let error = error_of(&source).await;
    assert!(error.contains("authorization violation"), "{error}");
    assert!(!error.contains("wrong-one"), "{error}");
}

#[tokio::test]
async fn nats_an_event_that_was_delivered_too_often_goes_to_the_dead_letter() {
    let nats = Nats::start().await;
    nats.produce(0..10).await;
    let consumer = nats.consumer().await;
    for _ in 0..3 {
        let mut batch = consumer.fetch().max_messages(1).messages().await.unwrap();
        let message = batch.next().await.unwrap().unwrap();
        assert_eq!(message.payload, "0");
        message.ack_with(jetstream::AckKind::Nak(None)).await.unwrap();
        nats.client().await.client().flush().await.unwrap();
    }
    let site = Site::new();
    let out = site.path("out");
    let sink = file(&out);
    let sidecar = site
        .sidecar("one", &nats.source(nats.address(), "max_deliver = 3"), &sink)
        .await;
    eventually("everything is settled", async || nats.left().await == 0).await;
    let mut through: Vec<usize> = std::fs::read_to_string(&out)
        .unwrap()
        .lines()
        .map(|l| l.parse().unwrap())
        .collect();
    through.sort_unstable();
    assert_eq!(through, (1..10).collect::<Vec<_>>());
    let stream = sidecar.stream("orders").await.unwrap();
    assert_eq!(stream["dead_letters"], 1);
    sidecar.stop().await.unwrap();
}
