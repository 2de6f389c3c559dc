//! What stands beside an app that is not hosted: the state as a file, and what a service manager is told.
use crate::harness::{Process, Site, eventually, tidegate, within_patience};
use jiff::Timestamp;
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use tokio::net::UnixDatagram;
use tokio::process::Command;

/// What an app does with the file, in whatever language it is written: it may work if it is sure.
fn may_work(path: &Path, name: &str) -> bool {
    let counts = |state: &Value| {
        let until = state["valid_until"].as_str()?.parse::<Timestamp>().ok()?;
        (until > Timestamp::now()).then_some(())
    };
    read(path).is_some_and(|state| {
        counts(&state).is_some() && state["streams"][name]["paused"] == Value::Bool(false)
    })
}

/// The broken twin: it does not ask how old the file is.
fn careless(path: &Path, name: &str) -> bool {
    read(path).is_some_and(|state| state["streams"][name]["paused"] == Value::Bool(false))
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

async fn published() -> Site {
    let mut site = Site::new().await;
    site.write("flag", "false");
    site.add("[state_file]\npath = \"{dir}/state.json\"\npublish = [\"reports\"]")
        .file_switch("ops", &["*"], "flag", "");
    site
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_reads_the_state_file_stands_still_when_held_and_when_nobody_is_there_to_ask() {
    let site = published().await;
    let path = site.path("state.json");
    assert!(!may_work(&path, "reports"), "absent means paused");
    let (process, client) = Process::run(&site, &[]).await;
    eventually("it may work", async || may_work(&path, "reports").then_some(())).await;
    assert!(!may_work(&path, "unknown"));

    site.write("flag", "true");
    eventually("it may not", async || (!may_work(&path, "reports")).then_some(())).await;
    client.reaches("reports", "hiatus").await;
    assert_eq!(read(&path).unwrap()["paused"], Value::Bool(true));

    site.write("flag", "false");
    eventually("it may again", async || may_work(&path, "reports").then_some(())).await;
    process.signal(rustix::process::Signal::KILL);
    assert_eq!(process.end().await.code, None);
    assert!(
        careless(&path, "reports"),
        "what it left says that work may go on"
    );
    eventually("what it left has ended by itself", async || {
        (!may_work(&path, "reports")).then_some(())
    })
    .await;
    assert!(careless(&path, "reports"), "the careless reader works on");

    // A start is paused until it knows better, whatever the last process left.
    site.write("flag", "true");
    let (process, client) = Process::run(&site, &[]).await;
    assert!(!may_work(&path, "reports"));
    client.reads("ops", "paused").await;
    assert!(!may_work(&path, "reports"));
    process.terminate();
    assert_eq!(process.end().await.code, Some(0));
    assert!(!path.exists(), "it takes its word with it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_file_that_cannot_be_written_is_said_at_the_start() {
    let mut site = Site::new().await;
    site.add("[state_file]\npath = \"{dir}/no-folder/state.json\"\npublish = [\"reports\"]");
    let mut command = tidegate(["run", "--config"]);
    command.arg(site.config_file());
    let ended = crate::harness::run(command).await;
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("state_file") && ended.stderr.contains("no-folder"),
        "{}",
        ended.stderr
    );
}

/// Whatever is told over the notify socket, until a line is one of these.
async fn told(socket: &UnixDatagram, heard: &mut Vec<String>, what: &str) {
    let mut datagram = [0; 4096];
    while !heard.iter().any(|line| line.starts_with(what)) {
        let n = within_patience(what, socket.recv(&mut datagram)).await.unwrap();
        let text = std::str::from_utf8(&datagram[..n]).unwrap();
        heard.extend(text.lines().map(str::to_owned));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_is_told_ready_after_the_first_reading_and_the_watchdog_is_fed_before_that() {
    let mut site = Site::new().await;
    site.file_switch("ops", &["*"], "flag", "").file_stream("orders");
    let socket = UnixDatagram::bind(site.path("notify")).unwrap();
    let mut command: Command = tidegate(["run", "--config"]);
    command
        .arg(site.config_file())
        .env("NOTIFY_SOCKET", site.path("notify"))
        .env("WATCHDOG_USEC", "300000")
        .stdout(Stdio::null());
    let (process, client) = Process::listening(command).await;

    let mut heard = Vec::new();
    client.reads("ops", "missing").await;
    told(&socket, &mut heard, "WATCHDOG=1").await;
    told(
        &socket,
        &mut heard,
        "STATUS=1 streams and gates, 1 held: orders paused",
    )
    .await;
    // Everything that was told by now: an outage of the store is no reason to be started anew, and not ready either.
    assert!(!heard.contains(&"READY=1".to_owned()), "{heard:?}");

    site.write("flag", "false");
    told(&socket, &mut heard, "READY=1").await;
    told(&socket, &mut heard, "STATUS=1 streams and gates, none held").await;
    heard.clear();
    told(&socket, &mut heard, "WATCHDOG=1").await;
    process.terminate();
    told(&socket, &mut heard, "STOPPING=1").await;
    assert_eq!(process.end().await.code, Some(0));
    assert!(!heard.contains(&"READY=1".to_owned()), "told once: {heard:?}");
}
