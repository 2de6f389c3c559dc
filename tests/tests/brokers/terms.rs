//! The terms that a broker sets: how long a delivery lasts, what is bound as it is, when it hears of an event's end, and
//! how large a message may be.
use crate::link;
use crate::post::Post;
use crate::server::{Server, free_port};
use crate::site::{Site, eventually, field};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, Context, stream};
use e2e::sidecar::Sidecar;
use futures_util::StreamExt;
use redis::{Client, Value, cmd};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const EVENTS: usize = 20;

// --- NATS ------------------------------------------------------------------------------------------------------------

struct Nats {
    server: Server,
    context: Context,
    _dir: TempDir,
}

impl Nats {
    async fn with(config: &str) -> Nats {
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let all = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"data\" }}\n{config}\n");
        std::fs::write(dir.path().join("nats.conf"), all).unwrap();
        let args = vec!["-c".to_owned(), "nats.conf".to_owned()];
        let server = Server::start("nats-server", args, dir.path().to_owned(), port).await;
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        let client = options.connect(server.address.to_string()).await.unwrap();
        let context = jetstream::new(client);
        Nats {
            server,
            context,
            _dir: dir,
        }
    }

    async fn stream(&self, name: &str, max_message_size: i32) {
        let config = stream::Config {
            name: name.into(),
            subjects: vec![format!("{name}.*")],
            max_message_size,
            ..stream::Config::default()
        };
        self.context.create_stream(config).await.unwrap();
    }

    async fn fill(&self) {
        for n in 0..EVENTS {
            let sent = self
                .context
                .publish("orders.new", n.to_string().into())
                .await
                .unwrap();
            sent.await.unwrap();
        }
    }

    async fn consumer(&self, config: pull::Config) -> PullConsumer {
        let stream = self.context.get_stream("orders").await.unwrap();
        stream.create_consumer(config).await.unwrap()
    }

    async fn info(&self) -> async_nats::jetstream::consumer::Info {
        let stream = self.context.get_stream("orders").await.unwrap();
        stream.consumer_info("tidegate").await.unwrap()
    }

    /// Everything in a stream, with its headers.
    async fn all(&self, name: &str) -> Vec<(Option<HeaderMap>, Vec<u8>)> {
        let mut stream = self.context.get_stream(name).await.unwrap();
        let n = stream.info().await.unwrap().state.messages as usize;
        let config = pull::Config {
            ack_policy: AckPolicy::None,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.unwrap();
        let messages = consumer.fetch().max_messages(n.max(1)).messages().await.unwrap();
        let messages: Vec<_> = messages.map(|m| m.unwrap()).collect().await;
        messages
            .into_iter()
            .map(|m| (m.headers.clone(), m.payload.to_vec()))
            .collect()
    }

    fn url(&self) -> String {
        format!("nats://{}", self.server.address)
    }

    fn source(&self, options: &str) -> String {
        format!(
            "type = \"nats\"\nurl = \"{}\"\nstream = \"orders\"\ndurable = \"tidegate\"\n{options}",
            self.url()
        )
    }

    fn sink(&self) -> String {
        format!(
            "type = \"nats\"\nurl = \"{}\"\nsubject = \"done.all\"",
            self.url()
        )
    }
}

/// The first delivery waits 2 s, the next ones longer, whatever `ack_wait` was asked for.
async fn with_a_backoff() -> Nats {
    let nats = Nats::with("").await;
    nats.stream("orders", -1).await;
    nats.fill().await;
    nats.consumer(pull::Config {
        durable_name: Some("tidegate".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: LONGEST,
        max_deliver: 50,
        backoff: vec![Duration::from_secs(2), LONGEST],
        ..pull::Config::default()
    })
    .await;
    nats
}

/// The longest wait of that backoff.
const LONGEST: Duration = Duration::from_secs(30);

#[tokio::test]
async fn nats_the_shortest_wait_of_a_backoff_sets_the_pace_of_renewals() {
    let nats = with_a_backoff().await;
    let site = Site::new();
    let post = Post::start(Duration::from_millis(50)).await;
    let sink = format!("type = \"http\"\nurl = \"{}\"", post.url());
    let sidecar = site.sidecar("one", &nats.source(""), &sink).await;
    eventually("events arrive", async || post.count() > 1).await;
    site.flip(&[&sidecar], true).await;
    let held = field(&sidecar, "held").await.as_u64().unwrap();
    assert!(held > 5, "{held} held: the pause shows nothing");
    eventually("the lease is known", async || {
        field(&sidecar, "lease_left_seconds").await.is_f64()
    })
    .await;
    let began = Instant::now();
    while began.elapsed() < LONGEST / 4 {
        let stream = sidecar.stream("orders").await.unwrap();
        let left = stream["lease_left_seconds"].as_f64().unwrap();
        assert!(0.0 < left && left <= 2.0, "{stream}");
        assert_eq!(stream["held"], held);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let delivered = nats.info().await.delivered.consumer_sequence;
    assert_eq!(delivered, EVENTS as u64, "what is held was delivered again");
    post.set_delay(Duration::ZERO);
    site.flip(&[&sidecar], false).await;
    eventually("everything is acknowledged", async || {
        let info = nats.info().await;
        info.num_ack_pending == 0 && info.num_pending == 0
    })
    .await;
    assert_eq!(post.count(), EVENTS);
    sidecar.stop().await.unwrap();
}

/// Renewed at the pace of a longer wait they are delivered again before the first renewal: else the check above sees
/// nothing.
#[tokio::test]
async fn nats_twin_renewing_at_the_pace_of_a_longer_wait_of_a_backoff_is_too_slow() {
    let nats = with_a_backoff().await;
    let stream = nats.context.get_stream("orders").await.unwrap();
    let consumer: PullConsumer = stream.get_consumer("tidegate").await.unwrap();
    let all = async |most: Duration| {
        let batch = consumer
            .fetch()
            .max_messages(EVENTS)
            .expires(most)
            .messages()
            .await;
        batch.unwrap().collect::<Vec<_>>().await.len()
    };
    assert_eq!(all(Duration::from_secs(1)).await, EVENTS);
    let began = Instant::now();
    let mut again = 0;
    while again == 0 && began.elapsed() < LONGEST / 3 {
        again += all(Duration::from_secs(1)).await;
    }
    assert!(again > 0, "nothing was delivered again before the first renewal");
}

#[tokio::test]
async fn nats_a_consumer_that_is_there_is_bound_as_it_is() {
    let nats = Nats::with("").await;
    nats.stream("orders", -1).await;
    nats.fill().await;
    // Nothing here is what tidegate would make, nor what its options say.
    nats.consumer(pull::Config {
        durable_name: Some("tidegate".into()),
        description: Some("somebody else's".into()),
        ack_policy: AckPolicy::Explicit,
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: 3 },
        ack_wait: Duration::from_secs(7),
        max_deliver: 9,
        max_ack_pending: 77,
        max_waiting: 33,
        max_batch: 5,
        max_expires: Duration::from_secs(1),
        filter_subject: "orders.new".into(),
        ..pull::Config::default()
    })
    .await;
    let before = nats.info().await.config;
    let site = Site::new();
    let out = site.path("out");
    let sink = format!("type = \"file\"\npath = \"{}\"", out.display());
    let source = nats.source("ack_wait = \"40s\"\nfilter_subject = \"orders.old\"\nprefetch = 500");
    let sidecar = site.sidecar("one", &source, &sink).await;
    eventually("everything from there on is through", async || {
        nats.info().await.ack_floor.stream_sequence == EVENTS as u64
    })
    .await;
    sidecar.stop().await.unwrap();
    assert_eq!(nats.info().await.config, before);
    let through = std::fs::read_to_string(&out).unwrap();
    assert_eq!(through.lines().count(), EVENTS - 2);
}

#[tokio::test]
async fn nats_nothing_is_acknowledged_before_the_sink_has_it() {
    let nats = Nats::with("").await;
    nats.stream("orders", -1).await;
    nats.fill().await;
    let site = Site::new();
    let post = Post::start(Duration::ZERO).await;
    post.answer(503);
    let sink = format!("type = \"http\"\nurl = \"{}\"", post.url());
    let sidecar = site.sidecar("one", &nats.source(""), &sink).await;
    eventually("it was tried", async || {
        field(&sidecar, "error")
            .await
            .as_str()
            .is_some_and(|e| e.contains("503"))
    })
    .await;
    let info = nats.info().await;
    assert_eq!(
        (info.num_ack_pending, info.ack_floor.stream_sequence),
        (EVENTS, 0)
    );
    post.answer(200);
    eventually("everything is acknowledged", async || {
        nats.info().await.ack_floor.stream_sequence == EVENTS as u64
    })
    .await;
    assert_eq!(post.count(), EVENTS);
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn nats_what_is_published_twice_is_stored_once() {
    let nats = Nats::with("").await;
    nats.stream("orders", -1).await;
    nats.stream("done", -1).await;
    nats.fill().await;
    let site = Site::new();
    let sidecar = site.sidecar("one", &nats.source(""), &nats.sink()).await;
    let stream = nats.context.get_stream("orders").await.unwrap();
    // The consumer is made by the sidecar.
    let settled = async || {
        let info = stream.consumer_info("tidegate").await;
        info.is_ok_and(|info| info.ack_floor.stream_sequence == EVENTS as u64)
    };
    eventually("everything is acknowledged", settled).await;
    sidecar.stop().await.unwrap();
    let ids = |all: Vec<(Option<HeaderMap>, Vec<u8>)>| -> Vec<String> {
        let id = |headers: Option<HeaderMap>| headers.unwrap().get("Nats-Msg-Id").unwrap().to_string();
        all.into_iter().map(|(headers, _)| id(headers)).collect()
    };
    let expected: Vec<String> = (1..=EVENTS).map(|n| format!("orders-0-{n}")).collect();
    assert_eq!(ids(nats.all("done").await), expected);

    // As after a kill between the sink's answer and the acknowledgement: the consumer begins again.
    stream.delete_consumer("tidegate").await.unwrap();
    let sidecar = site.sidecar("two", &nats.source(""), &nats.sink()).await;
    eventually("everything is acknowledged again", settled).await;
    assert_eq!(ids(nats.all("done").await), expected);
    sidecar.stop().await.unwrap();
}

/// A message over a limit is a dead letter with the reason; those before and after it pass.
async fn nats_too_large(config: &str, max_message_size: i32, large: usize, why: &str) {
    let nats = Nats::with(config).await;
    nats.stream("done", max_message_size).await;
    let site = Site::new();
    let lines = format!("one\ntwo\n{}\nthree\n", "x".repeat(large));
    std::fs::write(site.path("in"), lines).unwrap();
    let source = format!(
        "type = \"file\"\npath = \"{}\"\nfollow = true",
        site.path("in").display()
    );
    let sidecar = site.sidecar("one", &source, &nats.sink()).await;
    eventually("the large one is a dead letter", async || {
        field(&sidecar, "dead_letters").await == 1
    })
    .await;
    let payloads = async || -> Vec<Vec<u8>> { nats.all("done").await.into_iter().map(|(_, p)| p).collect() };
    eventually("the others are through", async || payloads().await.len() >= 3).await;
    assert_eq!(payloads().await, [&b"one"[..], b"two", b"three"]);
    let letters = std::fs::read_to_string(letters(&site, "one")).unwrap();
    assert!(letters.contains(why), "{}", &letters[..300]);
    sidecar.stop().await.unwrap();
}

fn letters(site: &Site, name: &str) -> std::path::PathBuf {
    site.path(&format!("{name}.state"))
        .join("dead_letters")
        .join("orders.jsonl")
}

#[tokio::test]
async fn nats_a_message_over_the_servers_limit_is_a_dead_letter() {
    nats_too_large(
        "max_payload: 65536",
        -1,
        100_000,
        "larger than the server's max_payload",
    )
    .await;
    // Only its headers make it too large.
    nats_too_large(
        "max_payload: 65536",
        -1,
        65_530,
        "larger than the server's max_payload",
    )
    .await;
}

#[tokio::test]
async fn nats_a_message_over_the_streams_limit_is_a_dead_letter() {
    nats_too_large("", 50_000, 60_000, "larger than the stream's max_msg_size").await;
}

// --- Redis -----------------------------------------------------------------------------------------------------------

struct Redis {
    server: Server,
    admin: Client,
    _dir: TempDir,
}

impl Redis {
    async fn with(options: &[&str]) -> Redis {
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let mut args: Vec<String> = ["--bind", "127.0.0.1", "--save", "", "--port"]
            .map(String::from)
            .into();
        args.push(port.to_string());
        args.extend(options.iter().map(|o| (*o).to_owned()));
        let server = Server::start("redis-server", args, dir.path().to_owned(), port).await;
        let admin = Client::open(format!("redis://{}", server.address)).unwrap();
        Redis {
            server,
            admin,
            _dir: dir,
        }
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.admin.get_multiplexed_async_connection().await.unwrap();
        let mut asked = cmd(command[0]);
        asked.arg(&command[1..]);
        asked.query_async(&mut connection).await.unwrap()
    }

    async fn add(&self, data: &str) {
        let _: Value = self.ask(&["XADD", "orders", "*", "data", data]).await;
    }

    async fn pending(&self) -> (usize, usize) {
        let groups: Vec<std::collections::HashMap<String, Value>> =
            self.ask(&["XINFO", "GROUPS", "orders"]).await;
        let number = |key: &str| match groups.first().map(|group| &group[key]) {
            Some(Value::Int(n)) => usize::try_from(*n).unwrap(),
            _ => usize::MAX,
        };
        (number("pending"), number("lag"))
    }

    fn url(&self) -> String {
        format!("redis://{}", self.server.address)
    }

    fn source(&self) -> String {
        format!(
            "type = \"redis\"\nurl = \"{}\"\nstream = \"orders\"\ngroup = \"tidegate\"",
            self.url()
        )
    }
}

#[tokio::test]
async fn redis_nothing_is_acknowledged_before_the_sink_has_it() {
    let redis = Redis::with(&[]).await;
    for n in 0..EVENTS {
        redis.add(&n.to_string()).await;
    }
    let site = Site::new();
    let post = Post::start(Duration::ZERO).await;
    post.answer(503);
    let sink = format!("type = \"http\"\nurl = \"{}\"", post.url());
    let sidecar = site.sidecar("one", &redis.source(), &sink).await;
    eventually("it was tried with all at hand", async || {
        field(&sidecar, "error")
            .await
            .as_str()
            .is_some_and(|e| e.contains("503"))
            && redis.pending().await == (EVENTS, 0)
    })
    .await;
    post.answer(200);
    eventually("everything is acknowledged", async || {
        redis.pending().await == (0, 0)
    })
    .await;
    assert_eq!(post.count(), EVENTS);
    sidecar.stop().await.unwrap();
}

/// Three values and one over the limit of the server of another stream, which the sink reaches over this address, as a
/// user who may ask for the limit or may not.
struct TooLarge {
    here: Redis,
    there: Redis,
    site: Site,
    sidecar: Sidecar,
}

impl TooLarge {
    async fn start<A: AsyncFnOnce(SocketAddr) -> SocketAddr>(config: &str, link: A) -> TooLarge {
        let here = Redis::with(&[]).await;
        // 1 MB is the least that it takes.
        let there = Redis::with(&["--proto-max-bulk-len", "1mb"]).await;
        let _: Value = there
            .ask(&[
                "ACL",
                "SETUSER",
                "tide",
                "on",
                ">the-password",
                "~*",
                "+@all",
                config,
            ])
            .await;
        let large = "x".repeat(3 << 20);
        for data in ["one", "two", &large, "three"] {
            here.add(data).await;
        }
        let site = Site::new();
        let password = site.path("password");
        std::fs::write(&password, "the-password").unwrap();
        let sink = format!(
            "type = \"redis\"\nurl = \"redis://{}\"\nstream = \"done\"\nuser = \"tide\"\npassword_file = \"{}\"",
            link(there.server.address).await,
            password.display()
        );
        let sidecar = site.sidecar("one", &here.source(), &sink).await;
        TooLarge {
            here,
            there,
            site,
            sidecar,
        }
    }

    /// What was added to the sink's stream.
    async fn done(&self) -> Vec<String> {
        let done: Vec<(String, Vec<String>)> = self.there.ask(&["XRANGE", "done", "-", "+"]).await;
        done.into_iter().map(|(_, mut fields)| fields.remove(1)).collect()
    }

    /// It is a dead letter with the reason; those before and after it pass, once.
    async fn ends_as_a_dead_letter(self) {
        eventually("the large one is a dead letter", async || {
            field(&self.sidecar, "dead_letters").await == 1
        })
        .await;
        eventually("everything is acknowledged", async || {
            self.here.pending().await == (0, 0)
        })
        .await;
        assert_eq!(self.done().await, ["one", "two", "three"]);
        let letters = std::fs::read_to_string(letters(&self.site, "one")).unwrap();
        assert!(
            letters.contains("larger than the server's proto-max-bulk-len"),
            "{}",
            &letters[..300]
        );
        self.sidecar.stop().await.unwrap();
    }
}

async fn straight(server: SocketAddr) -> SocketAddr {
    server
}

fn refuses_the_length(answer: &[u8]) -> bool {
    String::from_utf8_lossy(answer).contains("invalid bulk length")
}

#[tokio::test]
async fn redis_a_value_over_the_servers_limit_is_a_dead_letter() {
    TooLarge::start("+config", straight)
        .await
        .ends_as_a_dead_letter()
        .await;
}

#[tokio::test]
async fn redis_a_value_over_a_limit_that_nobody_tells_is_a_dead_letter_too() {
    TooLarge::start("-config", straight)
        .await
        .ends_as_a_dead_letter()
        .await;
}

#[tokio::test]
async fn redis_a_refusal_that_a_reset_overtakes_is_heard_all_the_same() {
    // More than all that is sent before the value.
    let lost = |sent, answer: &[u8]| sent > 4096 && refuses_the_length(answer);
    let link = async move |server| link::that_loses(server, lost).await;
    TooLarge::start("-config", link)
        .await
        .ends_as_a_dead_letter()
        .await;
}

/// The other side of the rule above: who took every lost connection for a refusal would put aside what nobody refused.
#[tokio::test]
async fn redis_a_lost_connection_is_no_refusal_of_a_value() {
    static LOST: AtomicUsize = AtomicUsize::new(0);
    let lost = |_, answer: &[u8]| {
        let lost = refuses_the_length(answer);
        LOST.fetch_add(lost.into(), Relaxed);
        lost
    };
    let link = async move |server| link::that_loses(server, lost).await;
    let stands = TooLarge::start("-config", link).await;
    eventually("it was tried twice, and twice asked for", async || {
        LOST.load(Relaxed) >= 4 && field(&stands.sidecar, "error").await.is_string()
    })
    .await;
    assert_eq!(field(&stands.sidecar, "dead_letters").await, 0);
    assert_eq!(stands.done().await, ["one", "two"]);
    let (pending, _) = stands.here.pending().await;
    assert!(pending >= 2, "the large one or the one after it was acknowledged");
    stands.sidecar.stop().await.unwrap();
}
