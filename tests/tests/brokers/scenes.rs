//! What every broker has to show, once for all of them.
use crate::link::Link;
use crate::post::Post;
use crate::site::{Site, eventually, field, setting};
use crate::tally::Tally;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// A broker with one stream and one group, and the plain client of its own people.
pub(crate) trait Broker {
    /// What it is called, for people.
    const NAME: &'static str;
    /// When the broker takes back what a silent consumer has.
    const LEASE: Duration;
    /// Numbers that are equal modulo this keep their order.
    const SEQUENCES: usize;
    /// Killed, it may hand out again what it had confirmed that it need not.
    const FORGETS: bool = false;
    type Rival: Rival;
    async fn start() -> Self;
    /// Where sidecars run that can talk to it.
    fn site(&self) -> Site {
        Site::new()
    }
    fn address(&self) -> SocketAddr;
    /// A way to it that can be cut.
    async fn link(&self) -> Link {
        Link::to(self.address()).await
    }
    async fn kill(&mut self);
    async fn start_again(&mut self);
    /// `[stream.source]` for a broker behind this address, with more options.
    fn source(&self, at: SocketAddr, options: &str) -> String;
    /// `[stream.sink]`.
    fn sink(&self, at: SocketAddr) -> String;
    /// Publishes these numbers.
    async fn produce(&self, numbers: std::ops::Range<usize>);
    /// Another member of the group, which has its share of the work once this returns.
    async fn rival(&self) -> Self::Rival;
    /// Waits until so many members share the work.
    async fn shared_by(&self, _members: usize) {}
    /// Who shares the work, in the words of the broker: another answer means that it shared anew. Empty for a broker
    /// that knows no shares.
    async fn shares(&self) -> String {
        String::new()
    }
    /// Messages that the group has not acknowledged.
    async fn left(&self) -> usize;
    /// What is in the stream that the sink writes to.
    async fn sunk(&self) -> Vec<String>;
}

/// A member of the group that is not tidegate.
pub(crate) trait Rival {
    /// Asks for work, takes up to `most` and acknowledges them; what it got, and how many of these had been handed to
    /// another before.
    async fn take(&mut self, most: usize) -> (Vec<String>, usize);
}

/// Events are held, the leases are short, the pause is long, and another member asks for work all the while.
pub(crate) async fn long_pause<B: Broker>() {
    let pause = Duration::from_secs(setting("PAUSE", 12));
    let broker = B::start().await;
    let site = broker.site();
    let post = Post::start(Duration::from_millis(2)).await;
    let sidecar = site
        .sidecar(
            "one",
            &broker.source(broker.address(), "prefetch = 300"),
            &http(&post),
        )
        .await;
    broker.shared_by(1).await;
    let mut rival = broker.rival().await;
    broker.shared_by(2).await;
    broker.produce(0..2000).await;
    eventually("events arrive", async || post.count() > 50).await;
    let paused_in = site.flip(&[&sidecar], true).await;
    eventually("the outstanding request is over", async || {
        let before = field(&sidecar, "held").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        before == field(&sidecar, "held").await
    })
    .await;
    let held = field(&sidecar, "held").await.as_u64().unwrap();
    assert!(held >= 100, "{held} held: the pause shows nothing");
    let (at_pause, began) = (post.count(), Instant::now());

    let shares = broker.shares().await;
    let mut rivals = Vec::new();
    let mut again = 0;
    let mut least_left = f64::MAX;
    while began.elapsed() < pause {
        let (got, redelivered) = rival.take(5).await;
        rivals.extend(got);
        again += redelivered;
        let stream = sidecar.stream("orders").await.unwrap();
        assert_eq!(stream["state"], "paused");
        assert_eq!(stream["held"].as_u64().unwrap(), held);
        assert_eq!(stream["parked"], false);
        assert!(stream["held_oldest_seconds"].as_f64().unwrap() >= began.elapsed().as_secs_f64() - 1.0);
        least_left = least_left.min(stream["lease_left_seconds"].as_f64().unwrap());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(post.count(), at_pause, "something moved while paused");
    assert_eq!(again, 0, "messages that are held were handed out again");
    assert_eq!(broker.shares().await, shares, "the group noticed the pause");

    post.set_delay(Duration::ZERO);
    let flipped = Instant::now();
    site.flip(&[&sidecar], false).await;
    let n = 2000;
    eventually("everything is through", async || {
        rivals.extend(rival.take(100).await.0);
        post.count() + rivals.len() >= n
    })
    .await;
    acknowledged(&broker).await;
    let seen = post.seen();
    let tally = Tally::of(seen.iter().chain(&rivals).map(String::as_str));
    assert_eq!((tally.lost(n), tally.repeated()), (0, 0));
    let first = post.first_after(flipped).unwrap() - flipped;
    let resumed = sidecar.get("/status").await.unwrap();
    assert_eq!(resumed["streams"][0]["dead_letters"], 0);
    eprintln!(
        "{}: {held} events held for {} s under leases of {} s, another member asking (it got {}): 0 redelivered, 0 \
         lost, 0 repeated; a lease never had less than {least_left:.2} s left; paused within {} ms, first event {} ms \
         after the flip was written (poll interval 100 ms)",
        B::NAME,
        pause.as_secs(),
        B::LEASE.as_secs(),
        rivals.len(),
        paused_in.as_millis(),
        first.as_millis(),
    );
    sidecar.stop().await.unwrap();
}

/// Held longer than `max_hold`: given back, and the other member gets it at once. The sink sees each of the rest once.
pub(crate) async fn beyond_the_lease<B: Broker>() {
    let broker = B::start().await;
    let site = broker.site();
    let post = Post::start(Duration::from_millis(2)).await;
    let options = "prefetch = 300\nmax_hold = \"5s\"";
    let sidecar = site
        .sidecar("one", &broker.source(broker.address(), options), &http(&post))
        .await;
    broker.produce(0..1000).await;
    eventually("events arrive", async || post.count() > 50).await;
    site.flip(&[&sidecar], true).await;
    assert!(field(&sidecar, "held").await.as_u64().unwrap() >= 100);
    eventually("it is parked", async || {
        let stream = sidecar.stream("orders").await.unwrap();
        assert_eq!(stream["state"], "paused");
        stream["parked"] == true && stream["held"] == 0
    })
    .await;
    let mut rival = broker.rival().await;
    let mut got = Vec::new();
    eventually("what was given back is to be had", async || {
        got.extend(rival.take(10).await.0);
        !got.is_empty()
    })
    .await;
    drop(rival);
    post.set_delay(Duration::ZERO);
    site.flip(&[&sidecar], false).await;
    eventually("everything is through", async || post.count() + got.len() >= 1000).await;
    acknowledged(&broker).await;
    let seen = post.seen();
    let tally = Tally::of(seen.iter().chain(&got).map(String::as_str));
    assert_eq!((tally.lost(1000), tally.repeated()), (0, 0));
    assert_eq!(field(&sidecar, "parked").await, false);
    sidecar.stop().await.unwrap();
}

/// Random kills of the sidecar, of the broker and of the link between them.
pub(crate) async fn chaos<B: Broker>() {
    let rounds = setting("ROUNDS", 6) as usize;
    let n = setting("MESSAGES", 20_000) as usize;
    let mut broker = B::start().await;
    let link = broker.link().await;
    let site = broker.site();
    let out = site.path("out");
    let source = broker.source(link.address, "prefetch = 500");
    let sink = file(&out);
    let mut sidecar = site.sidecar("one", &source, &sink).await;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut produced = 0;
    // As many of each as can be, however few rounds there are.
    let mut targets: Vec<usize> = (0..rounds).map(|round| round % 3).collect();
    random.shuffle(&mut targets);
    let mut kills = [0usize; 3];
    for (round, target) in targets.into_iter().enumerate() {
        let next = n * (round + 1) / rounds;
        broker.produce(produced..next).await;
        produced = next;
        let moment = Duration::from_millis(random.u64(0..400));
        // Run, pausing, pause, resume.
        match random.u8(0..4) {
            0 => tokio::time::sleep(moment).await,
            1 => {
                site.flag(true);
                tokio::time::sleep(moment / 4).await;
            }
            2 => {
                site.flag(true);
                tokio::time::sleep(moment * 3).await;
            }
            _ => {
                site.flag(true);
                tokio::time::sleep(moment).await;
                site.flag(false);
                tokio::time::sleep(moment / 4).await;
            }
        }
        let what = match setting("KILL", 3) as usize {
            3 => target,
            one => one,
        };
        kills[what] += 1;
        match what {
            0 => {
                sidecar.kill_after(Duration::ZERO).await.unwrap();
                sidecar = site.sidecar("one", &source, &sink).await;
            }
            1 => {
                broker.kill().await;
                tokio::time::sleep(moment).await;
                broker.start_again().await;
            }
            _ => {
                link.cut();
                tokio::time::sleep(moment * 8).await;
                link.mend();
            }
        }
        site.flag(false);
    }
    let lines = || std::fs::read_to_string(&out).unwrap_or_default();
    let missing = |text: &str| {
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let seen: BTreeSet<&str> = whole.lines().collect();
        n - seen.len().min(n)
    };
    let started = Instant::now();
    while missing(&lines()) > 0 {
        assert!(
            started.elapsed() < e2e::PATIENCE * 2,
            "{} of {n} never came (seed {seed}); status: {}",
            missing(&lines()),
            sidecar.get("/status").await.unwrap()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // What a kill brings again comes within a lease.
    acknowledged(&broker).await;
    let text = lines();
    let tally = Tally::of(text.lines());
    assert_eq!(tally.lost(n), 0);
    // At most the attempt that was under way at each kill. A broker that forgets hands out again some tenths of a second
    // of what it had confirmed, in which more than a round may have passed.
    let by_broker = match B::FORGETS {
        true => 2 * (n / rounds).max(512),
        false => 1024,
    };
    let most = kills[0] * 1024 + kills[1] * by_broker;
    assert!(
        tally.repeated() <= most,
        "{} repeated by {kills:?} kills (seed {seed})",
        tally.repeated()
    );
    eprintln!(
        "{}: {n} messages, {} kills of the sidecar, {} of the broker, {} of the link: 0 lost, {} repeated",
        B::NAME,
        kills[0],
        kills[1],
        kills[2],
        tally.repeated()
    );
    sidecar.stop().await.unwrap();
}

/// Four processes in one group: one flip pauses all, and nothing else has to know of a fifth.
pub(crate) async fn scale_out<B: Broker>() {
    let broker = B::start().await;
    let site = broker.site();
    let post = Post::start(Duration::from_millis(2)).await;
    let source = broker.source(broker.address(), "prefetch = 64");
    let mut sidecars = Vec::new();
    for name in ["a", "b", "c", "d"] {
        sidecars.push(site.sidecar(name, &source, &http(&post)).await);
    }
    let all: Vec<_> = sidecars.iter().collect();
    broker.shared_by(4).await;
    broker.produce(0..4000).await;
    eventually("all of them work", async || {
        for sidecar in &all {
            if field(sidecar, "events").await.as_u64().unwrap() < 20 {
                return false;
            }
        }
        true
    })
    .await;
    let took = site.flip(&all, true).await;
    let mut fleet = tokio::process::Command::new(env!("CARGO_BIN_EXE_e2e-tidegate"));
    fleet.args(["status", "--fleet"]);
    for sidecar in &all {
        fleet.arg(format!("http://{}", sidecar.addresses().await.unwrap().0));
    }
    let told = String::from_utf8(fleet.output().await.unwrap().stdout).unwrap();
    assert!(told.ends_with("4 of 4 paused\n"), "{told}");
    let at_pause = post.count();
    tokio::time::sleep(B::LEASE * 2).await;
    assert_eq!(post.count(), at_pause, "something moved while all were paused");
    post.set_delay(Duration::ZERO);
    site.flip(&all, false).await;
    eventually("everything is through", async || post.count() >= 4000).await;
    acknowledged(&broker).await;
    // A fifth, of the same configuration: nobody else is told.
    sidecars.push(site.sidecar("e", &source, &http(&post)).await);
    broker.shared_by(5).await;
    post.set_delay(Duration::from_millis(2));
    broker.produce(4000..6000).await;
    eventually("the fifth works too", async || {
        field(&sidecars[4], "events").await != 0
    })
    .await;
    post.set_delay(Duration::ZERO);
    eventually("everything is through", async || post.count() >= 6000).await;
    acknowledged(&broker).await;
    let seen = post.seen();
    let tally = Tally::of(seen.iter().map(String::as_str));
    assert_eq!((tally.lost(6000), tally.repeated()), (0, 0));
    eprintln!(
        "{}: one flip paused 4 of 4 processes of a group within {} ms (poll interval 100 ms)",
        B::NAME,
        took.as_millis()
    );
    for sidecar in sidecars {
        sidecar.stop().await.unwrap();
    }
}

/// From the broker to the broker: what one stream of it is, is another of it.
pub(crate) async fn broker_to_broker<B: Broker>() {
    let broker = B::start().await;
    let site = broker.site();
    let at = broker.address();
    let sidecar = site
        .sidecar("one", &broker.source(at, ""), &broker.sink(at))
        .await;
    broker.produce(0..5000).await;
    eventually("some are through", async || broker.sunk().await.len() > 100).await;
    site.flip(&[&sidecar], true).await;
    site.flip(&[&sidecar], false).await;
    eventually("everything is through", async || {
        broker.sunk().await.len() >= 5000 && broker.left().await == 0
    })
    .await;
    let sunk = broker.sunk().await;
    let tally = Tally::of(sunk.iter().map(String::as_str));
    assert_eq!((tally.lost(5000), tally.repeated()), (0, 0));
    for sequence in 0..B::SEQUENCES {
        let of_it = sunk.iter().map(|body| body.parse::<usize>().unwrap());
        let of_it: Vec<usize> = of_it.filter(|n| n % B::SEQUENCES == sequence).collect();
        assert!(of_it.is_sorted(), "{} does not keep the order", B::NAME);
    }
    sidecar.stop().await.unwrap();
}

/// A destination that refuses for ever: dead letters, and the control plane answers all the while.
pub(crate) async fn refused_for_ever<B: Broker>() {
    let broker = B::start().await;
    let site = broker.site();
    let post = Post::start(Duration::ZERO).await;
    post.answer(422);
    let sidecar = site
        .sidecar("one", &broker.source(broker.address(), ""), &http(&post))
        .await;
    broker.produce(0..30).await;
    let stream = sidecar.becomes("orders", "failed").await.unwrap();
    assert_eq!(stream["dead_letters"], 20);
    assert!(
        stream["error"]
            .as_str()
            .unwrap()
            .contains("20 dead letters in a row"),
        "{stream}"
    );
    // The other ten are the group's again.
    let mut rival = broker.rival().await;
    let mut got = BTreeSet::new();
    eventually("the rest is to be had", async || {
        got.extend(rival.take(30).await.0);
        got.len() >= 10
    })
    .await;
    assert_eq!(got.len(), 10);
    sidecar.stop().await.unwrap();
}

/// An event that the destination refuses each time: dead letter, with the reason, and the others pass.
pub(crate) async fn poison<B: Broker>() {
    let broker = B::start().await;
    let site = broker.site();
    let post = Post::start(Duration::ZERO).await;
    post.refuse("7");
    let sidecar = site
        .sidecar("one", &broker.source(broker.address(), ""), &http(&post))
        .await;
    broker.produce(0..100).await;
    eventually("the others are through", async || post.count() >= 99).await;
    acknowledged(&broker).await;
    let seen = post.seen();
    let tally = Tally::of(seen.iter().map(String::as_str));
    assert_eq!((tally.lost(100), tally.repeated()), (1, 0));
    let stream = sidecar.stream("orders").await.unwrap();
    assert_eq!(
        (&stream["dead_letters"], &stream["state"]),
        (&1.into(), &"running".into())
    );
    let letters = std::fs::read_to_string(site.path("one.state/dead_letters/orders.jsonl")).unwrap();
    assert!(letters.contains("422"), "{letters}");
    sidecar.stop().await.unwrap();
}

/// Down at the start, and there later.
pub(crate) async fn down_at_start<B: Broker>() {
    let mut broker = B::start().await;
    broker.produce(0..100).await;
    broker.kill().await;
    let site = broker.site();
    let post = Post::start(Duration::ZERO).await;
    let sidecar = site
        .sidecar("one", &broker.source(broker.address(), ""), &http(&post))
        .await;
    eventually("it says so", async || {
        let stream = sidecar.stream("orders").await.unwrap();
        stream["error"]
            .as_str()
            .is_some_and(|e| e.to_lowercase().contains("connect"))
    })
    .await;
    // A pause is proven though nothing is there.
    site.flip(&[&sidecar], true).await;
    site.flag(false);
    broker.start_again().await;
    eventually("everything is through", async || post.count() >= 100).await;
    assert_eq!(field(&sidecar, "error").await, serde_json::Value::Null);
    sidecar.stop().await.unwrap();
}

/// The error that a stream of this source shows, with the control plane answering all the while.
pub(crate) async fn error_of(source: &str) -> String {
    let site = Site::new();
    let sidecar = site.sidecar("one", source, &file(&site.path("out"))).await;
    let mut error = String::new();
    eventually("it says what is wrong", async || {
        let stream = sidecar.stream("orders").await.unwrap();
        error = stream["error"].as_str().unwrap_or_default().to_owned();
        !error.is_empty()
    })
    .await;
    site.flip(&[&sidecar], true).await;
    sidecar.stop().await.unwrap();
    error
}

async fn acknowledged<B: Broker>(broker: &B) {
    eventually("everything is acknowledged", async || broker.left().await == 0).await;
}

/// `[stream.sink]` of a file.
pub(crate) fn file(path: &Path) -> String {
    format!("type = \"file\"\npath = \"{}\"", path.display())
}

/// `[stream.sink]` of an HTTP endpoint.
pub(crate) fn http(post: &Post) -> String {
    format!("type = \"http\"\nurl = \"{}\"", post.url())
}
