//! What the HTTP gate does while it is held: serves on, lets wait, or refuses.
use crate::support::{App, Gated, Raw, client, serve, until};
use std::time::Duration;
use tidegate_gate::{Life, State};
use tidegate_http::{BadGate, GateConfig, HttpGate, OnHold, OnHoldUpgraded};

async fn before(app: &App, on_hold: OnHold) -> Gated {
    Gated::before(serve(app.router()).await.addr, on_hold).await
}

#[tokio::test]
async fn a_gate_that_serves_goes_on_serving_while_it_is_held() {
    let app = App::default();
    let gated = before(&app, OnHold::Serve).await;
    let slow = tokio::spawn(client().get(gated.url("/slow")).send());
    gated.until_in_flight(1).await;
    gated.pause();
    assert_eq!((gated.state(), gated.status().in_flight), (State::Hiatus, 1));
    let answer = client().get(gated.url("/")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    app.leave(1);
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    gated.until_in_flight(0).await;
    assert_eq!(gated.state(), State::Hiatus);
    gated.resume();
    assert_eq!(gated.state(), State::Running);
}

#[tokio::test]
async fn a_gate_that_holds_is_paused_once_what_is_in_flight_has_ended() {
    let app = App::default();
    let gated = before(&app, OnHold::Hold).await;
    let slow = tokio::spawn(client().get(gated.url("/slow")).send());
    gated.until_in_flight(1).await;
    gated.pause();
    let status = gated.status();
    assert_eq!(status.state, State::Pausing);
    assert_eq!(status.running[0].name, "GET /slow");
    app.leave(1);
    slow.await.unwrap().unwrap();
    until("paused", || gated.state() == State::Paused).await;
}

#[tokio::test]
async fn a_thousand_requests_that_arrive_in_a_pause_all_succeed_after_it() {
    let app = App::default();
    let gated = before(&app, OnHold::Hold).await;
    gated.pause();
    let mut answers = tokio::task::JoinSet::new();
    let client = client();
    for n in 0..1_000 {
        // With and without a body, small and larger than what is read ahead.
        let request = match n % 3 {
            0 => client.get(gated.url("/")),
            1 => client.post(gated.url("/echo")).body("small"),
            _ => client.post(gated.url("/echo")).body(vec![b'x'; 200_000]),
        };
        answers.spawn(async move {
            let answer = request.send().await.unwrap();
            (n, answer.status(), answer.bytes().await.unwrap().len())
        });
    }
    gated.until_waiting(1_000).await;
    assert_eq!((gated.state(), app.seen()), (State::Paused, 0));
    gated.resume();
    let mut answered = 0;
    while let Some(answer) = answers.join_next().await {
        let (n, status, length) = answer.unwrap();
        assert_eq!((status.as_u16(), length), (200, [5, 5, 200_000][n % 3]));
        answered += 1;
    }
    assert_eq!((answered, app.seen()), (1_000, 1_000));
    gated.until_in_flight(0).await;
    assert_eq!(gated.status().waiting, 0);
}

#[tokio::test]
async fn beyond_the_bound_a_request_is_told_when_to_come_again() {
    let app = App::default();
    let upstream = serve(app.router()).await.addr;
    let gated = Gated::with(upstream, |c| {
        c.on_hold = OnHold::Hold;
        c.max_waiting = 2;
    })
    .await;
    gated.pause();
    let waiting: Vec<_> = (0..2)
        .map(|_| tokio::spawn(client().get(gated.url("/")).send()))
        .collect();
    gated.until_waiting(2).await;
    let refused = client().get(gated.url("/")).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    gated.resume();
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
    gated.pause();
    let next = tokio::spawn(client().get(gated.url("/")).send());
    gated.until_waiting(1).await;
    gated.resume();
    assert_eq!(
        next.await.unwrap().unwrap().status(),
        200,
        "the places are free again"
    );
}

#[tokio::test]
async fn who_has_waited_long_enough_is_told_when_to_come_again() {
    let app = App::default();
    let upstream = serve(app.router()).await.addr;
    let gated = Gated::with(upstream, |c| {
        c.on_hold = OnHold::Hold;
        c.max_wait = Duration::from_millis(50);
    })
    .await;
    gated.pause();
    for body in ["", "some"] {
        let refused = client().post(gated.url("/echo")).body(body).send().await.unwrap();
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers()["retry-after"], "1");
    }
    assert_eq!((gated.status().waiting, app.seen()), (0, 0));
    assert_eq!(gated.state(), State::Paused);
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_waits_leaves_nothing_behind() {
    let app = App::default();
    let upstream = serve(app.router()).await.addr;
    let gated = Gated::with(upstream, |c| {
        c.on_hold = OnHold::Hold;
        c.max_waiting = 3;
        c.max_wait = Duration::from_secs(3600);
    })
    .await;
    gated.pause();
    for _ in 0..2 {
        let mut clients = vec![];
        for request in [
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
            "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            let mut raw = gated.connect().await;
            raw.say(request).await;
            clients.push(raw);
        }
        gated.until_waiting(3).await;
        drop(clients);
        gated.until_waiting(0).await;
    }
    gated.resume();
    let answer = client().get(gated.url("/")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(app.seen(), 1, "the app never heard of those who left");
    gated.until_in_flight(0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_while_the_app_works_leaves_nothing_behind() {
    let app = App::default();
    let gated = before(&app, OnHold::Hold).await;
    for request in [
        "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
        // Gone in the middle of its body.
        "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\n\r\nbody",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
    ] {
        let mut raw = gated.connect().await;
        raw.say(request).await;
        until("the app works", || app.running() == 1).await;
        drop(raw);
        gated.until_in_flight(0).await;
        until("the app was told", || app.running() == 0).await;
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_in_the_middle_of_an_answer_leaves_nothing_behind() {
    let app = App::default();
    let gated = before(&app, OnHold::Hold).await;
    let mut raw = gated.connect().await;
    raw.say("GET /drip HTTP/1.1\r\nHost: x\r\n\r\n").await;
    app.leave(1);
    raw.hear("drip").await;
    gated.pause();
    assert_eq!((gated.state(), gated.status().in_flight), (State::Pausing, 1));
    drop(raw);
    app.leave(100_000);
    until("paused", || gated.state() == State::Paused).await;
    until("the app was told", || app.running() == 0).await;
}

#[tokio::test]
async fn a_gate_that_refuses_says_when_to_come_again() {
    let app = App::default();
    let gated = before(&app, OnHold::Refuse).await;
    gated.pause();
    let refused = client().post(gated.url("/echo")).body("x").send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "5");
    assert_eq!((gated.state(), app.seen()), (State::Paused, 0));
    gated.resume();
    let answer = client().post(gated.url("/echo")).body("x").send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn the_apps_own_probes_pass_a_closed_gate_and_are_never_counted() {
    let app = App::default();
    let upstream = serve(app.router()).await.addr;
    let gated = Gated::with(upstream, |c| {
        c.on_hold = OnHold::Refuse;
        c.bypass = vec!["/healthz".into(), "/drip".into()];
    })
    .await;
    gated.pause();
    let client = client();
    for (method, path, status) in [
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 200),
        ("GET", "/healthz?full=1", 200),
        ("POST", "/healthz", 503),
        ("GET", "/healthz/", 503),
        ("GET", "/Healthz", 503),
        ("GET", "/%68ealthz", 503),
        ("GET", "//healthz", 503),
        ("GET", "/healthz%2f..%2forders", 503),
    ] {
        let answer = client
            .request(method.parse().unwrap(), gated.url(path))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
    }
    let dots = Raw::exchange(
        gated.addr,
        "GET /healthz/../headers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(dots.starts_with("HTTP/1.1 503 "), "{dots}");
    let mut raw = gated.connect().await;
    raw.say("GET /drip HTTP/1.1\r\nHost: x\r\n\r\n").await;
    raw.hear("200 OK").await;
    assert_eq!((gated.state(), gated.status().in_flight), (State::Paused, 0));
    assert_eq!(gated.status().events, 0);
}

#[tokio::test]
async fn a_gate_that_closes_for_good_finishes_what_it_has_and_sends_the_others_away() {
    let app = App::default();
    let upstream = serve(app.router()).await.addr;
    let gated = Gated::with(upstream, |c| {
        c.on_hold = OnHold::Hold;
        c.bypass = vec!["/healthz".into()];
    })
    .await;
    let slow = tokio::spawn(client().get(gated.url("/slow")).send());
    gated.until_in_flight(1).await;
    gated.pause();
    let waiting = tokio::spawn(client().get(gated.url("/")).send());
    gated.until_waiting(1).await;

    gated.gate.close();
    let sent_away = waiting.await.unwrap().unwrap();
    assert_eq!(sent_away.status(), 503);
    assert_eq!(sent_away.headers()["connection"], "close");
    assert_eq!(sent_away.headers()["retry-after"], "1");
    let probe = client().get(gated.url("/healthz")).send().await.unwrap();
    assert_eq!(probe.status(), 200);
    app.leave(1);
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight_and_says_so() {
    let app = App::default();
    let gated = before(&app, OnHold::Serve).await;
    let slow = tokio::spawn(client().get(gated.url("/slow")).send());
    gated.until_in_flight(1).await;
    gated.stop.cancel();
    until("it drains", || gated.status().life == Life::Draining).await;
    assert_eq!(gated.status().running[0].name, "GET /slow");
    app.leave(1);
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    until("it has stopped", || gated.status().life == Life::Stopped).await;
    assert!(
        client().get(gated.url("/")).send().await.is_err(),
        "the port is closed"
    );
}

#[test]
fn an_upstream_that_cannot_be_forwarded_to_is_refused_by_name() {
    let holds = crate::support::board();
    for (n, upstream) in [
        "127.0.0.1:8081",
        "https://127.0.0.1:8081",
        "http://127.0.0.1:8081/path",
        "http://127.0.0.1/?q",
        "http://ana:secret@127.0.0.1",
        "http://",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        let kind = tidegate_gate::Kind::Gate { serves: true };
        let member = holds.register(format!("app{n}"), kind).unwrap();
        let config = GateConfig::new("app", crate::support::anywhere(), upstream);
        let error = HttpGate::new(member, &config).unwrap_err();
        assert_eq!(
            error,
            BadGate {
                upstream: upstream.into()
            }
        );
        assert!(error.to_string().contains("expected http://"), "{error}");
    }
}

#[test]
fn the_configuration_reads_as_it_is_documented() {
    let full = r#"{"name": "app", "listen": "0.0.0.0:8080", "upstream": "http://127.0.0.1:8081", "on_hold": "hold",
        "on_hold_upgraded": "close", "max_waiting": 7, "max_wait": "1m 30s", "bypass": ["/healthz"]}"#;
    let config: GateConfig = serde_json::from_str(full).unwrap();
    assert_eq!(
        (config.on_hold, config.on_hold_upgraded),
        (OnHold::Hold, OnHoldUpgraded::Close)
    );
    assert_eq!(
        (config.max_waiting, config.max_wait),
        (7, Duration::from_secs(90))
    );
    assert_eq!(
        (config.bypass.len(), config.listen.to_string().as_str()),
        (1, "0.0.0.0:8080")
    );

    let least = r#"{"name": "app", "listen": "127.0.0.1:1", "upstream": "http://127.0.0.1:8081"}"#;
    let config: GateConfig = serde_json::from_str(least).unwrap();
    assert_eq!(
        (config.on_hold, config.on_hold_upgraded),
        (OnHold::Serve, OnHoldUpgraded::Keep)
    );
    assert_eq!(
        (config.max_waiting, config.max_wait),
        (1024, Duration::from_secs(30))
    );

    for (bad, why) in [
        (
            r#"{"name": "a", "listen": "127.0.0.1:1", "upstream": "", "max_wait": "soon"}"#,
            "no span of time",
        ),
        (
            r#"{"name": "a", "listen": "everywhere", "upstream": ""}"#,
            "no address to listen on",
        ),
        (
            r#"{"name": "a", "listen": "127.0.0.1:1", "upstream": "", "on_hold": "wait"}"#,
            "unknown variant",
        ),
        (
            r#"{"name": "a", "listen": "127.0.0.1:1", "upstream": "", "maxwait": "1s"}"#,
            "unknown field",
        ),
    ] {
        let error = serde_json::from_str::<GateConfig>(bad).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
