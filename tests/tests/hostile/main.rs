//! Hostile neighbours: the sidecar as a process, a flood on its listeners, and meanwhile the secret is flipped. Whatever the
//! neighbours do, a flip is late by no more than one interval, and the operator's button works.
//!
//! `TIDEGATE_TEST_HOSTILE=10000` says how many of them there are; 1,000 without it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says how many there were"
)]

use e2e::setup::{SECRET, Setup};
use e2e::sidecar::Sidecar;
use jiff::Timestamp;
use serde_json::Value;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Far longer than a crowd may keep the sidecar from a processor: what is counted is polls.
const INTERVAL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(90);
const TOKEN: &str = "oncall-token-of-16-bytes";
/// Connections that are opened at a time: the queue of a listener is no place to wait in for this many.
const AT_A_TIME: usize = 100;

fn neighbours() -> usize {
    let given = std::env::var("TIDEGATE_TEST_HOSTILE").ok();
    given.map_or(1_000, |text| text.parse().expect("a number of neighbours"))
}

struct Site {
    setup: Setup,
    sidecar: Sidecar,
    control: SocketAddr,
    observe: SocketAddr,
}

impl Site {
    /// A sidecar with a token, one stream and one switch; `wrapped` is what a shell does before it becomes it.
    async fn start(wrapped: &str, more: &str) -> Site {
        let setup = Setup::new().await.unwrap();
        std::fs::write(setup.path("oncall"), TOKEN).unwrap();
        std::fs::write(setup.path("orders.in"), "").unwrap();
        let dir = setup.dir.path().display();
        let token = format!(
            "[[control.token]]\nname = \"oncall\"\nfile = \"{dir}/oncall\"\nallow = [\"read\", \"pause\", \"resume\"]\n"
        );
        let streams = format!("{}\n{token}", setup.file_to_file("orders"));
        let file = setup.configure(INTERVAL, &setup.plain(), &streams).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(
            &file,
            format!("{}\n{text}", more.replace("{dir}", &dir.to_string())),
        )
        .unwrap();
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("{wrapped}exec \"$0\" run --config \"$1\""))
            .arg(env!("CARGO_BIN_EXE_e2e-tidegate"))
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let sidecar = Sidecar::from(command).unwrap();
        let (control, observe) = sidecar.addresses().await.unwrap();
        let site = Site {
            setup,
            sidecar,
            control: control.parse().unwrap(),
            observe: observe.parse().unwrap(),
        };
        site.transition_after(Timestamp::UNIX_EPOCH, "running").await;
        site
    }

    /// The moment of the first transition of the stream to this state after `since`, from the audit.
    async fn transition_after(&self, since: Timestamp, to: &str) -> Timestamp {
        let at = |line: &str| -> Option<Timestamp> {
            let line: Value = serde_json::from_str(line).ok()?;
            let is = line["kind"] == "transition" && line["stream"] == "orders" && line["to"] == to;
            let at = line["time"].as_str()?.parse::<Timestamp>().ok()?;
            (is && at >= since).then_some(at)
        };
        self.sidecar.heard(|line| at(line).is_some()).await.unwrap();
        self.sidecar.said().iter().find_map(|line| at(line)).unwrap()
    }

    /// Flips the secret twice; returns how many polls each flip took to be followed.
    async fn flips(&self, under: &str) -> Vec<usize> {
        let path = format!("/v1/secret/data/{SECRET}");
        let mut all = Vec::new();
        for (paused, to) in [(true, "paused"), (false, "running")] {
            let since = Timestamp::now();
            self.setup.flag.write(paused).await.unwrap();
            let written = Timestamp::now();
            let at = self.transition_after(since, to).await;
            let seen = self.setup.store.requests().seen();
            let polls = seen.iter().filter(|asked| {
                asked.path == path && asked.method == "GET" && asked.at >= written && asked.at <= at
            });
            let polls = polls.count();
            // The first poll after it sees it; one more is the interval that it may be late. And a poll that was on its way
            // while the flag was written.
            assert!(polls <= 2, "under {under} a flip took {polls} polls");
            all.push(polls);
        }
        all
    }

    /// What an operator does: one call on a connection of its own.
    async fn call(&self, line: &str) -> String {
        let fields = format!("Authorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n");
        timeout(PATIENCE, ask(self.control, line, &fields))
            .await
            .expect("an answer")
    }

    async fn the_button_works(&self) {
        for path in ["/pause", "/resume"] {
            let answer = self.call(&format!("POST {path}")).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        }
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = self.sidecar.metrics().await.unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        lines
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

/// The whole answer, or what there was of it when the connection was cut.
async fn ask(to: SocketAddr, line: &str, fields: &str) -> String {
    let mut text = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(to).await
        && stream
            .write_all(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}").as_bytes())
            .await
            .is_ok()
    {
        let _ = stream.read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Neighbours that connect, say this, and stay.
async fn crowd(to: SocketAddr, count: usize, says: impl Fn(usize) -> Vec<u8>) -> Vec<TcpStream> {
    let mut connected = Vec::with_capacity(count);
    for first in (0..count).step_by(AT_A_TIME) {
        let mut batch = JoinSet::new();
        for i in first..count.min(first + AT_A_TIME) {
            let said = says(i);
            batch.spawn(async move {
                // From many addresses, as neighbours come.
                let from = SocketAddr::from(([127, 0, 1, u8::try_from(i % 200).unwrap_or(0) + 1], 0));
                let socket = TcpSocket::new_v4().ok()?;
                socket.bind(from).ok()?;
                let mut stream = timeout(PATIENCE, socket.connect(to)).await.ok()?.ok()?;
                // One that is refused in the middle of it has been answered.
                let _ = timeout(Duration::from_secs(1), stream.write_all(&said)).await;
                Some(stream)
            });
        }
        while let Some(stream) = batch.join_next().await {
            connected.extend(stream.unwrap());
        }
    }
    connected
}

#[tokio::test(flavor = "multi_thread")]
async fn no_crowd_on_any_listener_delays_a_flip() {
    tidegate_http::raise_descriptor_limit().unwrap();
    // As most shells would have it; the sidecar raises it to the hard limit by itself.
    let site = Site::start("ulimit -S -n 256; ", "").await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", site.sidecar.pid().unwrap())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert!(!files.split_whitespace().any(|word| word == "256"), "{files}");
    let count = neighbours();
    type Says = fn(usize) -> Vec<u8>;
    let crowds: [(&str, Says); 5] = [
        ("silence", |_| Vec::new()),
        ("half a head", |_| b"GET /status HTTP/1.1\r\nHost: local".to_vec()),
        ("too many headers", |_| {
            let mut head = b"GET /status HTTP/1.1\r\nHost: localhost\r\n".to_vec();
            head.extend(b"X-Padding: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(400));
            head
        }),
        ("bodies of 10 GB", |_| {
            b"POST /pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n".to_vec()
        }),
        ("guesses", |i| {
            format!(
                "POST /pause HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer guess-number-{i:08}\r\n\r\n"
            )
            .into_bytes()
        }),
    ];
    for (name, says) in crowds {
        for (listener, to) in [("control", site.control), ("observe", site.observe)] {
            let crowd = crowd(to, count, says).await;
            let polls = site.flips(&format!("{name} on {listener}")).await;
            site.the_button_works().await;
            println!(
                "{name} on {listener}: {} of {count} connected, flips seen after {polls:?} polls",
                crowd.len()
            );
            drop(crowd);
        }
    }
    // No line of the audit is missing, and if one were, a counter would say so.
    let numbers: Vec<u64> = site
        .sidecar
        .said()
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["seq"].as_u64())
        .collect();
    let lost = site.metric("tidegate_audit_lines_lost_total").await;
    let missing = numbers.last().unwrap() - numbers.len() as u64;
    assert_eq!(missing as f64, lost, "a line was lost silently");
    let kib = e2e::proc::resident_kib(site.sidecar.pid().unwrap()).unwrap();
    println!(
        "memory after it: {} MiB; audit lines: {}, lost: {lost}",
        kib >> 10,
        numbers.len()
    );
    assert!(kib >> 10 < 1024, "{kib} KiB for {count} neighbours");
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_who_never_read_are_bounded_and_delay_no_flip() {
    tidegate_http::raise_descriptor_limit().unwrap();
    let site = Site::start("", "").await;
    let count = neighbours();
    let request = format!("GET /watch HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let mut watchers = crowd(site.control, count, |_| request.clone().into_bytes()).await;
    // Half of them read; the others never do.
    let readers = watchers.split_off(watchers.len() / 2);
    let mut reading = JoinSet::new();
    for mut stream in readers {
        reading.spawn(async move {
            let mut first = [0; 12];
            let told = timeout(PATIENCE, stream.read_exact(&mut first)).await;
            let told = matches!(told, Ok(Ok(_))).then(|| String::from_utf8_lossy(&first).into_owned());
            (told, stream)
        });
    }
    let mut answers = std::collections::BTreeMap::<String, usize>::new();
    let mut kept = Vec::new();
    while let Some(told) = reading.join_next().await {
        let (told, stream) = told.unwrap();
        *answers
            .entry(told.unwrap_or_else(|| "cut".to_owned()))
            .or_default() += 1;
        kept.push(stream);
    }
    let polls = site.flips("watchers").await;
    site.the_button_works().await;
    let watching = site.metric("tidegate_watchers ").await;
    println!(
        "{count} watchers: {watching} have a place, half of them were answered {answers:?}, flips seen after {polls:?} polls"
    );
    assert!(watching <= 1024.0, "{watching} watchers have a place");
    for answer in answers.keys() {
        let right = ["HTTP/1.1 200", "HTTP/1.1 503", "HTTP/1.1 429", "cut"].contains(&answer.as_str());
        assert!(right, "{answer}");
    }
    drop((watchers, kept));
}

#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_descriptors_delays_no_flip() {
    let site = Site::start("ulimit -n 80; ", "").await;
    let crowd = crowd(site.control, 300, |_| b"GET /st".to_vec()).await;
    let polls = site.flips("too few descriptors").await;
    site.the_button_works().await;
    println!(
        "80 descriptors, {} connections: flips seen after {polls:?} polls",
        crowd.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_more_delays_no_flip() {
    // Every file ends after half a KiB from now on: what is written beyond it fails.
    let site = Site::start("trap '' XFSZ; ulimit -f 1; ", "state_dir = \"{dir}/state\"\n").await;
    let mut polls = Vec::new();
    for _ in 0..3 {
        polls.extend(site.flips("a full disk").await);
        site.the_button_works().await;
    }
    println!("a full disk: flips seen after {polls:?} polls");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_that_cannot_be_written_is_counted_and_delays_no_pause() {
    let setup = Setup::new().await.unwrap();
    std::fs::write(setup.path("orders.in"), "").unwrap();
    let streams = setup.file_to_file("orders");
    let file = setup
        .configure(Duration::from_millis(200), &setup.plain(), &streams)
        .unwrap();
    let port = |n: u16| {
        std::net::TcpListener::bind(("127.0.0.1", n))
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (control, observe) = (port(0), port(0));
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replacen("127.0.0.1:0", &control.to_string(), 1).replacen(
        "127.0.0.1:0",
        &observe.to_string(),
        1,
    );
    std::fs::write(&file, text).unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let _child = Command::new(env!("CARGO_BIN_EXE_e2e-tidegate"))
        .arg("run")
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(full)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let close = "Connection: close\r\n\r\n";
    e2e::until("it listens", || std::net::TcpStream::connect(control).is_ok())
        .await
        .unwrap();
    for (paused, word) in [(true, "\"state\":\"paused\""), (false, "\"state\":\"running\"")] {
        setup.flag.write(paused).await.unwrap();
        let followed = async { while !ask(control, "GET /status", close).await.contains(word) {} };
        timeout(PATIENCE, followed)
            .await
            .expect("the flip to be followed");
    }
    let metrics = ask(observe, "GET /metrics", close).await;
    let lost = metrics
        .lines()
        .find_map(|l| l.strip_prefix("tidegate_audit_lines_lost_total "))
        .unwrap();
    assert!(lost.trim().parse::<f64>().unwrap() >= 2.0, "{lost}");
}
