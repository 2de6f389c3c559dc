//! The HTTP gate of the sidecar, before an app that knows nothing of it.
use crate::harness::{Client, Process, Site, eventually, http_client};
use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// An app; each permit lets one `/test` answer.
#[derive(Clone)]
struct App {
    leave: Arc<Semaphore>,
    seen: Arc<AtomicU64>,
    /// When it was first asked for something, in nanoseconds of the wall.
    first: Arc<AtomicU64>,
    addr: SocketAddr,
}

impl App {
    async fn start() -> App {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = App {
            leave: Arc::new(Semaphore::new(0)),
            seen: Arc::default(),
            first: Arc::default(),
            addr: listener.local_addr().unwrap(),
        };
        let router = Router::new()
            .route("/test", get(App::test))
            .route("/echo", post(App::echo))
            .with_state(app.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        app
    }

    fn note(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = u64::try_from(now.as_nanos()).unwrap();
        let _ = self.first.compare_exchange(0, now, SeqCst, SeqCst);
        self.seen.fetch_add(1, SeqCst);
    }

    async fn test(State(app): State<App>) -> &'static str {
        app.note();
        app.leave.acquire().await.unwrap().forget();
        "Done"
    }

    async fn echo(State(app): State<App>, body: String) -> String {
        app.note();
        body
    }

    fn first_asked(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.first.load(SeqCst))
    }
}

/// A sidecar with a gate before the app; the gate's address.
async fn before(app: &App, options: &str, top: &str) -> (Site, Process, Client, String) {
    // A thousand connections, both ends of each in this process.
    tidegate_http::raise_descriptor_limit().unwrap();
    let mut site = Site::new().await;
    site.add_top(top).add(&format!(
        "[[gate]]\nname = \"app\"\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{}\"\n{options}\n",
        app.addr
    ));
    let (process, client) = Process::run(&site, &[]).await;
    let line = eventually("the gate takes requests", async || {
        let log = process.log();
        log.into_iter().find(|line| line["message"] == "takes requests")
    })
    .await;
    let gate = line["listen"].as_str().unwrap().to_owned();
    client.reaches("app", "running").await;
    (site, process, client, gate)
}

async fn until(client: &Client, field: &str, number: u64) {
    eventually(&format!("{field} is {number}"), async || {
        (client.stream("app").await[field] == number).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_that_arrive_in_a_pause_of_five_seconds_all_succeed_after_it() {
    const ALL: usize = 1_000;
    let app = App::start().await;
    let options = format!("on_hold = \"hold\"\nmax_waiting = {ALL}\nmax_wait = \"10m\"");
    let (_site, process, client, gate) = before(&app, &options, "").await;
    // Each call strengthens the hold: it stands for five seconds after the last one.
    let pause = async || {
        let until = SystemTime::now() + Duration::from_secs(5);
        let body = json!({ "until": jiff::Timestamp::try_from(until).unwrap().to_string() });
        let (status, answer) = client.call("POST", "/pause", Some(&body)).await;
        assert_eq!(status, 200, "{answer}");
        until
    };
    pause().await;
    client.reaches("app", "paused").await;

    // Clients that wait and go away leave nothing behind: not a place, not a connection that the app hears of.
    let mut gone = vec![];
    for n in 0..200 {
        let mut stream = TcpStream::connect(&gate).await.unwrap();
        let request: &[u8] = match n % 2 {
            0 => b"GET /test HTTP/1.1\r\nHost: app\r\n\r\n",
            _ => b"POST /echo HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\n\r\ngone",
        };
        stream.write_all(request).await.unwrap();
        gone.push(stream);
    }
    eventually("all of them wait", async || {
        pause().await;
        (client.stream("app").await["waiting"] == 200).then_some(())
    })
    .await;
    drop(gone);
    eventually("nobody waits", async || {
        pause().await;
        (client.stream("app").await["waiting"] == 0).then_some(())
    })
    .await;

    let http = http_client();
    let mut answers = JoinSet::new();
    for n in 0..ALL {
        let request = http.post(format!("http://{gate}/echo")).body(format!("{n}"));
        answers.spawn(async move {
            let answer = request.send().await.unwrap();
            (n, answer.status().as_u16(), answer.text().await.unwrap())
        });
    }
    let until_then = eventually("all of them wait", async || {
        let until = pause().await;
        (client.stream("app").await["waiting"] == ALL).then_some(until)
    })
    .await;
    // One more than the bound.
    let refused = http.get(format!("http://{gate}/test")).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(app.seen.load(SeqCst), 0, "nothing has passed the gate");

    let mut answered = 0;
    while let Some(answer) = answers.join_next().await {
        let (n, status, text) = answer.unwrap();
        assert_eq!((status, text), (200, n.to_string()));
        answered += 1;
    }
    assert_eq!((answered, app.seen.load(SeqCst)), (ALL, ALL as u64));
    assert!(
        app.first_asked() >= until_then,
        "the pause was as long as it was asked to be"
    );
    let status = client.reaches("app", "running").await;
    assert_eq!(
        (&status["waiting"], &status["in_flight"], &status["events"]),
        (&json!(0), &json!(0), &json!(ALL))
    );
    process.terminate();
    assert_eq!(process.end().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_originals_readme_works_before_an_app_that_knows_nothing_of_it() {
    let app = App::start().await;
    let (_site, process, client, gate) = before(&app, "", "").await;
    let ask = async |path: &str| {
        let (status, text) = client.observe(path).await;
        let (status_too, text_too) = client
            .send("GET", &format!("{}{path}", client.control), None)
            .await;
        assert_eq!(status, status_too);
        if path == "/actuator/hiatus" {
            assert_eq!(text, text_too, "both listeners say the same");
        }
        (status, text)
    };
    let hiatus = |paused: bool, count: u64| {
        let status = if paused { 503 } else { 200 };
        (status, format!("{{\"paused\":{paused},\"count\":{count}}}"))
    };
    let health = async |status: u16, word: &str, count: u64| {
        let (answered, text) = ask("/actuator/health").await;
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((answered, &body["status"]), (status, &json!(word)));
        assert_eq!(body["diskSpace"]["status"], "UP");
        assert_eq!(
            body["hiatus"],
            json!({"status": word, "paused": status == 503, "count": count})
        );
    };
    let turn = async |which: &str| client.post(&format!("/actuator/hiatus-{which}")).await;

    health(200, "UP", 0).await;
    assert_eq!(ask("/actuator/hiatus").await, hiatus(false, 0));
    let http = http_client();
    let mut tests = JoinSet::new();
    for _ in 0..3 {
        tests.spawn(http.get(format!("http://{gate}/test")).send());
    }
    until(&client, "in_flight", 3).await;
    assert_eq!(ask("/actuator/hiatus").await, hiatus(false, 3));

    assert_eq!(turn("on").await, (200, json!(true)));
    assert_eq!(turn("on").await, (200, json!(false)), "it is on already");
    health(503, "OUT_OF_SERVICE", 3).await;
    assert_eq!(ask("/actuator/hiatus").await, hiatus(true, 3));
    assert_eq!(client.stream("app").await["state"], "hiatus");

    app.leave.add_permits(3);
    while let Some(answer) = tests.join_next().await {
        let answer = answer.unwrap().unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.unwrap().as_str()),
            (200, "Done")
        );
    }
    until(&client, "in_flight", 0).await;
    assert_eq!(ask("/actuator/hiatus").await, hiatus(true, 0));
    // On hiatus new requests are served: taking the instance out is the balancer's part.
    app.leave.add_permits(1);
    let answer = http.get(format!("http://{gate}/test")).send().await.unwrap();
    assert_eq!(answer.status(), 200);

    assert_eq!(turn("off").await, (200, json!(true)));
    assert_eq!(turn("off").await, (200, json!(false)), "it is off already");
    until(&client, "in_flight", 0).await;
    assert_eq!(ask("/actuator/hiatus").await, hiatus(false, 0));
    health(200, "UP", 0).await;
    process.terminate();
    assert_eq!(process.end().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sigterm_health_turns_first_then_the_gate_and_what_is_in_flight_finishes() {
    let app = App::start().await;
    // Long against a look of this test on a busy machine.
    let (_site, process, client, gate) = before(&app, "", "drain_delay = \"8s\"").await;
    let http = http_client();
    let slow = tokio::spawn(http.get(format!("http://{gate}/test")).send());
    until(&client, "in_flight", 1).await;

    process.terminate();
    eventually("health says that it goes", async || {
        (client.observe("/actuator/health").await.0 == 503).then_some(())
    })
    .await;
    assert_eq!(client.observe("/readyz").await.0, 503);
    assert_eq!(client.observe("/livez").await.0, 200);
    // Balancers have not noticed yet, so it goes on serving.
    let answer = http
        .post(format!("http://{gate}/echo"))
        .body("on")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.text().await.unwrap().as_str()),
        (200, "on")
    );

    eventually("the gate takes no more", async || {
        match http.post(format!("http://{gate}/echo")).body("late").send().await {
            Ok(answer) => (answer.status() == 503).then_some(()),
            Err(_) => Some(()),
        }
    })
    .await;
    assert!(!slow.is_finished());
    app.leave.add_permits(1);
    let answer = slow.await.unwrap().unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.text().await.unwrap().as_str()),
        (200, "Done")
    );
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
