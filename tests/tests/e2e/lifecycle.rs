//! The life of a pod, with real processes and signals in the kubelet's order: a native sidecar starts before the app, all
//! preStops run at once, the app is told to stop when its own has ended, and the sidecar last.
//!
//! The app is a process of its own that writes down what reaches it. `TIDEGATE_ROLLING_RESTARTS` says how often the pods
//! are replaced; the peers suite does it 50 times.
use crate::harness::{
    Client, Process, Site, append, eventually, http_client, text_of, tidegate, within_patience,
};
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

fn restarts() -> usize {
    match std::env::var("TIDEGATE_ROLLING_RESTARTS") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => 3,
    }
}

/// An address of its own, as every pod has one: all of 127/8 is loopback.
fn pod_ip() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let (process, pod) = (std::process::id().to_be_bytes(), NEXT.fetch_add(1, SeqCst));
    Ipv4Addr::new(
        127,
        64 | (process[2] & 63),
        process[3],
        u8::try_from(pod).unwrap(),
    )
}

/// The app: what is posted to its `/events` is in its file when it answers 200. It listens once it can take events.
struct App {
    process: Process,
    client: Client,
}

impl App {
    async fn start(site: &Site, ip: Ipv4Addr, out: &str) -> App {
        let config = format!(
            "[control]\nlisten = \"127.0.0.1:0\"\n[observe]\nlisten = \"127.0.0.1:0\"\n\
             [[stream]]\nname = \"app\"\n\
             source = {{ type = \"http\", listen = \"{ip}:8081\", path = \"/events\" }}\n\
             sink = {{ type = \"file\", path = \"{}\" }}\n",
            site.path(out).display()
        );
        let file = site.write(&format!("{out}.toml"), &config);
        let mut command = tidegate(["run", "--config"]);
        command.arg(file);
        let (process, client) = Process::listening(command).await;
        client.reaches("app", "running").await;
        App { process, client }
    }

    /// What reached it: rows that it has, and requests that it has not answered.
    async fn reached(&self, site: &Site, out: &str) -> (usize, u64) {
        let stream = self.client.stream("app").await;
        (
            text_of(&site.path(out)).len(),
            stream["in_flight"].as_u64().unwrap() + stream["held"].as_u64().unwrap(),
        )
    }

    async fn stop(self) {
        self.process.terminate();
        let ended = self.process.end().await;
        assert_eq!(ended.code, Some(0), "the app: {}", ended.stderr);
    }
}

/// A sidecar, up to its startup probe.
async fn sidecar(config: PathBuf) -> (Process, Client) {
    let mut command = tidegate(["run", "--config"]);
    command.arg(config);
    let (process, client) = Process::listening(command).await;
    assert_eq!(client.observe("/livez").await.0, 200, "startupProbe");
    (process, client)
}

/// The sidecar's preStop, as the manifests have it.
async fn pre_stop(client: &Client) {
    let command = tidegate(["drain", "--close", "--timeout", "60s", "--admin", &client.control]);
    let drained = crate::harness::run(command).await;
    assert_eq!(drained.code, Some(0), "{}{}", drained.stdout, drained.stderr);
}

async fn told_last(process: Process) {
    process.terminate();
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0), "the sidecar: {}", ended.stderr);
}

/// A hosted stream on a volume that outlives its pods.
async fn hosted(ip: Ipv4Addr) -> Site {
    let mut site = Site::new().await;
    site.write("flag", "false");
    append(&site.source("orders"), "");
    site.add_top("state_dir = \"{dir}/state\"")
        .file_switch("ops", &["*"], "flag", "")
        .add(&format!(
            "[[stream]]\nname = \"orders\"\n\
             source = {{ type = \"file\", path = \"{{dir}}/orders.in\", follow = true }}\n\
             sink = {{ type = \"http\", url = \"http://{ip}:8081/events\", timeout = \"10s\" }}\n"
        ));
    site
}

/// Appends rows until it is stopped, and says how many.
fn appending(site: &Site) -> (CancellationToken, JoinHandle<usize>) {
    let (stop, path) = (CancellationToken::new(), site.source("orders"));
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let mut rows = 0;
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stopped.is_cancelled() {
            ticks.tick().await;
            append(&path, &row(rows));
            rows += 1;
        }
        rows
    });
    (stop, task)
}

fn row(n: usize) -> String {
    format!("{{\"row\":{n}}}\n")
}

/// It has events, its app is not there, and it has tried.
async fn tried(client: &Client) {
    eventually("an attempt at an app that is not there", async || {
        let stream = client.stream("orders").await;
        (stream["attempts"].as_u64() > Some(0) || stream["error"].is_string()).then_some(())
    })
    .await;
}

/// Something arrives that was not there.
async fn grows(site: &Site, out: &str) {
    let before = text_of(&site.path(out)).len();
    eventually("events reach the app", async || {
        (text_of(&site.path(out)).len() > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_reaches_the_app_before_it_is_ready_or_after_its_pre_stop_and_none_is_lost() {
    let ip = pod_ip();
    let site = hosted(ip).await;
    let (stop, load) = appending(&site);
    for _ in 0..restarts() {
        let before = text_of(&site.path("app.out")).len();
        let (process, client) = sidecar(site.config_file()).await;
        tried(&client).await;
        assert_eq!(text_of(&site.path("app.out")).len(), before);
        let app = App::start(&site, ip, "app.out").await;
        assert_eq!(client.observe("/readyz").await.0, 200);
        grows(&site, "app.out").await;

        // The kubelet runs all preStops at once. The app's sleeps; here it ends when the sidecar's has, or the load would
        // say nothing of the order.
        pre_stop(&client).await;
        assert_eq!(client.observe("/readyz").await.0, 503);
        let at_the_end_of_pre_stop = app.reached(&site, "app.out").await;
        assert_eq!(at_the_end_of_pre_stop.1, 0, "nothing is under way");
        app.stop().await;
        assert_eq!(text_of(&site.path("app.out")).len(), at_the_end_of_pre_stop.0);
        told_last(process).await;
        assert_eq!(text_of(&site.path("app.out")).len(), at_the_end_of_pre_stop.0);
    }
    let (process, _) = sidecar(site.config_file()).await;
    let app = App::start(&site, ip, "app.out").await;
    stop.cancel();
    let written = load.await.unwrap();
    let all: String = (0..written).map(row).collect();
    eventually("the rest", async || {
        (text_of(&site.path("app.out")).len() >= all.len()).then_some(())
    })
    .await;
    assert!(
        text_of(&site.path("app.out")) == all,
        "a row is lost, repeated or out of order"
    );
    app.stop().await;
    told_last(process).await;
    eprintln!(
        "{written} rows through {} restarts of a hosted stream: each once, in order",
        restarts()
    );
}

/// The broken twin: without the preStop, what the test above calls still is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_drain_close_events_go_on_reaching_an_app_whose_pre_stop_has_ended() {
    let ip = pod_ip();
    let site = hosted(ip).await;
    let (stop, load) = appending(&site);
    let (process, _) = sidecar(site.config_file()).await;
    let app = App::start(&site, ip, "app.out").await;
    grows(&site, "app.out").await;
    // Here its preStop has ended, and nobody has told the sidecar.
    grows(&site, "app.out").await;
    stop.cancel();
    load.await.unwrap();
    app.stop().await;
    told_last(process).await;
}

/// A gate before the app's port, on a pod's address; state ends with the pod.
fn gate_config(ip: Ipv4Addr) -> String {
    format!(
        "shutdown_grace = \"25s\"\ndrain_delay = \"1s\"\n\
         [control]\nlisten = \"127.0.0.1:0\"\n[observe]\nlisten = \"127.0.0.1:0\"\n\
         [[gate]]\nname = \"app\"\nlisten = \"{ip}:8080\"\nupstream = \"http://{ip}:8081\"\non_hold = \"hold\"\n"
    )
}

struct Pod {
    ip: Ipv4Addr,
    out: String,
    process: Process,
    client: Client,
    app: App,
}

impl Pod {
    async fn start(site: &Site, number: usize) -> Pod {
        let ip = pod_ip();
        let out = format!("app-{number}.out");
        let config = site.write(&format!("pod-{number}.toml"), &gate_config(ip));
        let (process, client) = sidecar(config).await;
        let app = App::start(site, ip, &out).await;
        assert_eq!(
            client.observe("/readyz").await.0,
            200,
            "a pod is ready when both are"
        );
        Pod {
            ip,
            out,
            process,
            client,
            app,
        }
    }

    /// Ends as the kubelet ends it, and as the endpoints controller sees it: the address goes when readiness has turned.
    async fn end(self, site: &Site, endpoints: &watch::Sender<Vec<Ipv4Addr>>) -> String {
        let noticed = async {
            eventually("readiness turns", async || {
                (self.client.observe("/readyz").await.0 == 503).then_some(())
            })
            .await;
            endpoints.send_modify(|all| all.retain(|ip| *ip != self.ip));
        };
        tokio::join!(pre_stop(&self.client), noticed);
        let at_the_end_of_pre_stop = self.app.reached(site, &self.out).await;
        assert_eq!(at_the_end_of_pre_stop.1, 0, "nothing is under way");
        self.app.stop().await;
        assert_eq!(text_of(&site.path(&self.out)).len(), at_the_end_of_pre_stop.0);
        told_last(self.process).await;
        self.out
    }
}

/// Posts rows through whatever endpoints there are, each until it is taken.
struct Load {
    stop: CancellationToken,
    workers: JoinSet<()>,
    taken: Arc<AtomicUsize>,
    tried_again: Arc<AtomicUsize>,
}

impl Load {
    fn start(endpoints: &watch::Receiver<Vec<Ipv4Addr>>) -> Load {
        const WORKERS: usize = 4;
        let load = Load {
            stop: CancellationToken::new(),
            workers: JoinSet::new(),
            taken: Arc::default(),
            tried_again: Arc::default(),
        };
        let (next, http) = (Arc::new(AtomicUsize::new(0)), http_client());
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let (stop, taken, again) = (load.stop.clone(), load.taken.clone(), load.tried_again.clone());
            let (next, http, mut endpoints) = (next.clone(), http.clone(), endpoints.clone());
            workers.spawn(async move {
                while !stop.is_cancelled() {
                    let row = format!("{{\"row\":{}}}", next.fetch_add(1, SeqCst));
                    loop {
                        let ip = endpoints.wait_for(|all| !all.is_empty()).await.unwrap()[0];
                        let url = format!("http://{ip}:8080/events");
                        let answer = http.post(url).body(row.clone()).send().await;
                        if answer.is_ok_and(|a| a.status() == 200) {
                            break;
                        }
                        again.fetch_add(1, SeqCst);
                    }
                    taken.fetch_add(1, SeqCst);
                }
            });
        }
        Load { workers, ..load }
    }

    /// So many more are taken.
    async fn moves(&self) {
        let before = self.taken.load(SeqCst);
        eventually("requests are answered", async || {
            (self.taken.load(SeqCst) >= before + 20).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restarts_behind_a_gate_lose_no_request_that_was_answered() {
    let site = Site::new().await;
    let first = Pod::start(&site, 0).await;
    let (endpoints, seen) = watch::channel(vec![first.ip]);
    let load = Load::start(&seen);
    let mut outs = Vec::new();
    let mut old = first;
    for number in 1..=restarts() {
        load.moves().await;
        let new = Pod::start(&site, number).await;
        endpoints.send_modify(|all| all.push(new.ip));
        outs.push(old.end(&site, &endpoints).await);
        old = new;
    }
    load.moves().await;
    load.stop.cancel();
    let Load {
        workers,
        taken,
        tried_again,
        ..
    } = load;
    within_patience("the workers end", workers.join_all()).await;
    outs.push(old.end(&site, &endpoints).await);

    let texts: Vec<String> = outs.iter().map(|out| text_of(&site.path(out))).collect();
    let found = verdict(&texts, taken.load(SeqCst));
    assert_eq!(found, Ok(()));
    // The broken twin of the verdict: one answered row that is nowhere.
    let mut robbed = texts.clone();
    let last = robbed.last_mut().unwrap();
    last.truncate(last.trim_end().rfind('\n').unwrap() + 1);
    assert!(verdict(&robbed, taken.load(SeqCst)).is_err());
    eprintln!(
        "{} requests through {} rolling restarts of a gate: each is with an app, {} attempts were refused and made again",
        taken.load(SeqCst),
        restarts(),
        tried_again.load(SeqCst)
    );
}

/// Rows are numbered without a gap, and each was answered 200 in the end: so all of them are with one app or another.
fn verdict(texts: &[String], taken: usize) -> Result<(), String> {
    let rows: HashSet<&str> = texts.iter().flat_map(|text| text.lines()).collect();
    let missing: Vec<usize> = (0..taken)
        .filter(|n| !rows.contains(row(*n).trim_end()))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("answered and nowhere: {missing:?}"))
    }
}

/// Told to stop before its app has ever come: nothing is lost, and it does not hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_ends_before_its_app_is_there_gives_everything_back() {
    let ip = pod_ip();
    let site = hosted(ip).await;
    append(&site.source("orders"), &(0..100).map(row).collect::<String>());
    let (process, client) = sidecar(site.config_file()).await;
    tried(&client).await;
    pre_stop(&client).await;
    told_last(process).await;
    let (process, _) = sidecar(site.config_file()).await;
    let app = App::start(&site, ip, "app.out").await;
    let all: String = (0..100).map(row).collect();
    eventually("all of them", async || {
        (text_of(&site.path("app.out")) == all).then_some(())
    })
    .await;
    app.stop().await;
    told_last(process).await;
}
