//! Redis Streams, by `redis-server` with its append-only file, synced before each answer.
use crate::post::Post;
use crate::scenes::{self, Broker, Rival, error_of, http};
use crate::server::{Server, free_port};
use crate::site::{Site, eventually, field};
use crate::tally::Tally;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Value, cmd};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;

struct Redis {
    server: Server,
    _dir: TempDir,
}

impl Redis {
    async fn with(options: &[&str]) -> Redis {
        let dir = TempDir::new().unwrap();
        let port = free_port();
        let mut args: Vec<String> = [
            "--bind",
            "127.0.0.1",
            "--appendonly",
            "yes",
            // With "everysec" a server whose disk is busy answers before it has written, and a kill loses that.
            "--appendfsync",
            "always",
            "--save",
            "",
            "--port",
        ]
        .map(String::from)
        .into();
        args.push(port.to_string());
        args.extend(options.iter().map(|o| (*o).to_owned()));
        let server = Server::start("redis-server", args, dir.path().to_owned(), port).await;
        let redis = Redis { server, _dir: dir };
        // It takes connections before it has read its file.
        if options.is_empty() {
            redis.ready().await;
        }
        redis
    }

    async fn ready(&self) {
        eventually("redis-server has read its file", async || {
            let connection = self.connection().await;
            match connection {
                Some(mut connection) => cmd("PING").query_async::<Value>(&mut connection).await.is_ok(),
                None => false,
            }
        })
        .await;
    }

    async fn connection(&self) -> Option<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        let client = Client::open(format!("redis://{}", self.server.address)).unwrap();
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .ok()
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        let mut connection = self.connection().await.unwrap();
        command.query_async(&mut connection).await.unwrap()
    }

    async fn groups(&self) -> Vec<std::collections::HashMap<String, Value>> {
        self.ask(cmd("XINFO").arg("GROUPS").arg("orders")).await
    }

    /// Entries that were handed out and not acknowledged.
    async fn pending(&self) -> usize {
        self.group("pending").await
    }

    async fn group(&self, key: &str) -> usize {
        let groups = self.groups().await;
        let Some(group) = groups.first() else {
            return usize::MAX;
        };
        match &group[key] {
            Value::Int(n) => usize::try_from(*n).unwrap(),
            _ => usize::MAX,
        }
    }
}

/// `[[id, [field, value]], …]`.
fn values(entries: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| String::from_redis_value(value.clone()).unwrap();
    let Value::Array(entries) = entries else {
        return Vec::new();
    };
    let entry = |entry: &Value| match entry {
        Value::Array(parts) => match (&parts[0], parts.get(1)) {
            (id, Some(Value::Array(fields))) => Some((text(id), text(&fields[1]))),
            _ => None,
        },
        _ => None,
    };
    entries.iter().filter_map(entry).collect()
}

/// A member of the group by the name `rival`.
struct Member {
    connection: MultiplexedConnection,
}

impl Member {
    async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> T {
        command.query_async(&mut self.connection).await.unwrap()
    }
}

impl Rival for Member {
    async fn take(&mut self, most: usize) -> (Vec<String>, usize) {
        // What looks abandoned first, as a member does that takes over from the dead; then what is new.
        let claimed: Vec<Value> = self
            .ask(
                cmd("XAUTOCLAIM")
                    .arg(&["orders", "tidegate", "rival"])
                    .arg(Redis::LEASE.as_millis() as u64)
                    .arg("0-0")
                    .arg("COUNT")
                    .arg(most),
            )
            .await;
        let mut entries = values(&claimed[1]);
        let again = entries.len();
        if entries.len() < most {
            let read: Value = self
                .ask(
                    cmd("XREADGROUP")
                        .arg(&["GROUP", "tidegate", "rival", "COUNT"])
                        .arg(most - entries.len())
                        .arg(&["STREAMS", "orders", ">"]),
                )
                .await;
            if let Value::Array(streams) = read
                && let Some(Value::Array(stream)) = streams.first()
            {
                entries.extend(values(&stream[1]));
            }
        }
        for (id, _) in &entries {
            let _: Value = self.ask(cmd("XACK").arg(&["orders", "tidegate"]).arg(id)).await;
        }
        (entries.into_iter().map(|(_, value)| value).collect(), again)
    }
}

impl Broker for Redis {
    const NAME: &'static str = "redis";
    const LEASE: Duration = Duration::from_secs(2);
    const SEQUENCES: usize = 1;
    type Rival = Member;

    async fn start() -> Redis {
        let redis = Redis::with(&[]).await;
        let made = cmd("XGROUP")
            .arg(&["CREATE", "orders", "tidegate", "0", "MKSTREAM"])
            .to_owned();
        let _: Value = redis.ask(&made).await;
        redis
    }

    fn address(&self) -> SocketAddr {
        self.server.address
    }

    async fn kill(&mut self) {
        self.server.kill().await;
    }

    async fn start_again(&mut self) {
        self.server.start_again().await;
        self.ready().await;
    }

    fn source(&self, at: SocketAddr, options: &str) -> String {
        format!(
            "type = \"redis\"\nurl = \"redis://{at}\"\nstream = \"orders\"\ngroup = \"tidegate\"\nmin_idle = \"2s\"\n{options}"
        )
    }

    fn sink(&self, at: SocketAddr) -> String {
        format!("type = \"redis\"\nurl = \"redis://{at}\"\nstream = \"done\"")
    }

    async fn produce(&self, numbers: std::ops::Range<usize>) {
        let mut connection = self.connection().await.unwrap();
        let numbers: Vec<usize> = numbers.collect();
        for some in numbers.chunks(1000) {
            let mut adds = redis::pipe();
            for n in some {
                adds.cmd("XADD").arg("orders").arg("*").arg("data").arg(*n);
            }
            adds.query_async::<Value>(&mut connection).await.unwrap();
        }
    }

    async fn rival(&self) -> Member {
        let connection = self.connection().await.unwrap();
        Member { connection }
    }

    async fn left(&self) -> usize {
        self.pending().await.saturating_add(self.group("lag").await)
    }

    async fn sunk(&self) -> Vec<String> {
        let all: Value = self.ask(cmd("XRANGE").arg(&["done", "-", "+"])).await;
        values(&all).into_iter().map(|(_, value)| value).collect()
    }
}

#[tokio::test]
async fn redis_a_long_pause_costs_no_redelivery() {
    scenes::long_pause::<Redis>().await;
}

#[tokio::test]
async fn redis_what_is_held_too_long_is_given_back_and_arrives_once() {
    scenes::beyond_the_lease::<Redis>().await;
}

#[tokio::test]
async fn redis_kills_of_sidecar_broker_and_link_lose_nothing() {
    scenes::chaos::<Redis>().await;
}

#[tokio::test]
async fn redis_one_flip_pauses_a_whole_group() {
    scenes::scale_out::<Redis>().await;
}

#[tokio::test]
async fn redis_to_redis_keeps_the_order_and_repeats_nothing() {
    scenes::broker_to_broker::<Redis>().await;
}

#[tokio::test]
async fn redis_a_sink_that_refuses_for_ever_stops_the_stream_and_not_the_controls() {
    scenes::refused_for_ever::<Redis>().await;
}

#[tokio::test]
async fn redis_an_event_that_the_sink_refuses_goes_to_the_dead_letter_with_the_reason() {
    scenes::poison::<Redis>().await;
}

#[tokio::test]
async fn redis_a_broker_that_is_down_at_the_start_is_waited_for() {
    scenes::down_at_start::<Redis>().await;
}

/// Another member takes over what a member that does not claim again holds: else the check above sees nothing.
#[tokio::test]
async fn redis_twin_entries_that_are_held_without_a_claim_are_taken_over() {
    let redis = Redis::start().await;
    redis.produce(0..100).await;
    let _: Value = redis
        .ask(cmd("XREADGROUP").arg(&[
            "GROUP", "tidegate", "careless", "COUNT", "100", "STREAMS", "orders", ">",
        ]))
        .await;
    let mut rival = redis.rival().await;
    let mut again = 0;
    eventually("they are taken over", async || {
        again += rival.take(100).await.1;
        again > 0
    })
    .await;
}

#[tokio::test]
async fn redis_a_restart_takes_up_its_own_first_and_a_dead_consumers_after_min_idle() {
    let redis = Redis::start().await;
    redis.produce(0..50).await;
    for (name, count) in [("me", "20"), ("dead", "10")] {
        let _: Value = redis
            .ask(cmd("XREADGROUP").arg(&[
                "GROUP", "tidegate", name, "COUNT", count, "STREAMS", "orders", ">",
            ]))
            .await;
    }
    let site = Site::new();
    let post = Post::start(Duration::ZERO).await;
    let source = redis.source(redis.address(), "consumer = \"me\"");
    let sink = http(&post);
    let sidecar = site.sidecar("one", &source, &sink).await;
    eventually("everything is through", async || post.count() >= 50).await;
    let seen = post.seen();
    let own: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(seen[..20], own);
    let tally = Tally::of(seen.iter().map(String::as_str));
    assert_eq!((tally.lost(50), tally.repeated()), (0, 0));
    eventually("everything is acknowledged", async || redis.pending().await == 0).await;
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn redis_a_claim_is_never_taken_back_from_who_has_it_now() {
    let redis = Redis::start().await;
    let site = Site::new();
    let post = Post::start(Duration::from_millis(5)).await;
    let sink = http(&post);
    let source = redis.source(redis.address(), "prefetch = 100");
    let sidecar = site.sidecar("one", &source, &sink).await;
    redis.produce(0..100).await;
    eventually("events arrive", async || post.count() > 5).await;
    site.flip(&[&sidecar], true).await;
    let held = field(&sidecar, "held").await.as_u64().unwrap();
    assert!(held > 10);
    // An operator gives the last ten to somebody else, by hand.
    let all: Value = redis
        .ask(cmd("XREVRANGE").arg(&["orders", "+", "-", "COUNT", "10"]))
        .await;
    let taken = values(&all);
    for (id, _) in &taken {
        let _: Value = redis
            .ask(
                cmd("XCLAIM")
                    .arg(&["orders", "tidegate", "somebody", "0"])
                    .arg(id),
            )
            .await;
    }
    eventually("they are dropped here", async || {
        field(&sidecar, "held").await.as_u64().unwrap() == held - 10
    })
    .await;
    for (id, _) in &taken {
        let pending: Vec<(String, String, u64, u64)> = redis
            .ask(cmd("XPENDING").arg(&["orders", "tidegate", id, id, "1"]))
            .await;
        assert_eq!(pending[0].1, "somebody");
        let _: Value = redis.ask(cmd("XACK").arg(&["orders", "tidegate"]).arg(id)).await;
    }
    site.flip(&[&sidecar], false).await;
    eventually("the rest is through", async || {
        post.count() >= 90 && redis.pending().await == 0
    })
    .await;
    let seen = post.seen();
    assert!(taken.iter().all(|(_, value)| !seen.contains(value)));
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn redis_trimming_under_held_entries_is_told_and_loses_nothing_that_is_held() {
    let redis = Redis::start().await;
    let site = Site::new();
    let post = Post::start(Duration::from_millis(5)).await;
    let sink = http(&post);
    let sidecar = site
        .sidecar("one", &redis.source(redis.address(), "prefetch = 100"), &sink)
        .await;
    redis.produce(0..50).await;
    eventually("events arrive", async || post.count() > 5).await;
    site.flip(&[&sidecar], true).await;
    assert!(field(&sidecar, "held").await.as_u64().unwrap() > 10);
    let _: Value = redis.ask(cmd("XTRIM").arg(&["orders", "MAXLEN", "0"])).await;
    sidecar
        .heard(|line| line.contains("trimmed while entries are held"))
        .await
        .unwrap();
    site.flip(&[&sidecar], false).await;
    eventually("all is through", async || post.count() >= 50).await;
    let tally = Tally::of(post.seen().iter().map(String::as_str));
    assert_eq!((tally.lost(50), tally.repeated()), (0, 0));
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn redis_what_is_wrong_with_a_source_is_said_and_no_secret_shown() {
    let redis = Redis::with(&[]).await;
    let source = redis.source(redis.address(), "");
    let error = error_of(&source).await;
    assert!(error.contains("there is no stream \"orders\""), "{error}");

    let _: Value = redis.ask(cmd("SET").arg(&["orders", "a string"])).await;
    let error = error_of(&source).await;
    assert!(error.contains("WRONGTYPE"), "{error}");

    let locked = Redis::with(&["--requirepass", "the-right-one"]).await;
    let dir = TempDir::new().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "the-wrong-one\n").unwrap();
    let option = format!("password_file = \"{}\"", password.display());
    let error = error_of(&locked.source(locked.server.address, &option)).await;
    assert!(error.contains("authentication failed"), "{error}");
    assert!(!error.contains("wrong-one"), "{error}");
}
