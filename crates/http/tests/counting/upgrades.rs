//! Connections that are upgraded: forwarded, counted apart, ended or waited for.
use crate::support::{App, Gated, Raw, UPGRADE, serve, until};
use tidegate_gate::State;
use tidegate_http::{OnHold, OnHoldUpgraded};

async fn before(app: &App, on_hold: OnHold, upgraded: OnHoldUpgraded) -> Gated {
    let upstream = serve(app.router()).await.addr;
    Gated::with(upstream, |c| {
        c.on_hold = on_hold;
        c.on_hold_upgraded = upgraded;
    })
    .await
}

async fn socket(gated: &Gated) -> Raw {
    let mut raw = gated.connect().await;
    raw.say(UPGRADE).await;
    let head = raw.hear("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(
        head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"),
        "{head}"
    );
    raw.say("ping").await;
    raw.hear("ping").await;
    raw
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_connection_is_counted_apart() {
    let app = App::default();
    let gated = before(&app, OnHold::Serve, OnHoldUpgraded::Keep).await;
    let mut raw = socket(&gated).await;
    gated.until_in_flight(0).await;
    let status = gated.status();
    assert_eq!(status.upgraded, 1);
    assert_eq!(status.running[0].name, "GET /socket");
    raw.forget();
    let long = "0123456789".repeat(10_000);
    raw.say(&long).await;
    raw.hear(&long).await;
    drop(raw);
    until("it is closed", || gated.status().upgraded == 0).await;
    until("the app was told", || app.running() == 0).await;
}

#[tokio::test]
async fn a_held_gate_keeps_connections_and_is_pausing_until_the_last_has_ended() {
    let app = App::default();
    let gated = before(&app, OnHold::Hold, OnHoldUpgraded::Keep).await;
    let (mut first, second) = (socket(&gated).await, socket(&gated).await);
    gated.until_in_flight(0).await;
    gated.pause();
    assert_eq!((gated.state(), gated.status().upgraded), (State::Pausing, 2));
    drop(second);
    until("one is left", || gated.status().upgraded == 1).await;
    assert_eq!(gated.state(), State::Pausing);
    first.forget();
    first.say("still here").await;
    first.hear("still here").await;
    drop(first);
    until("paused", || gated.state() == State::Paused).await;
}

#[tokio::test]
async fn a_held_gate_closes_connections_if_it_is_told_to() {
    let app = App::default();
    let gated = before(&app, OnHold::Refuse, OnHoldUpgraded::Close).await;
    let mut sockets = vec![socket(&gated).await, socket(&gated).await];
    gated.pause();
    for raw in &mut sockets {
        raw.rest().await;
    }
    until("paused", || gated.state() == State::Paused).await;
    until("the app was told", || app.running() == 0).await;
    let answer = Raw::exchange(gated.addr, &UPGRADE.replace("Upgrade\r\n", "Upgrade, close\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn stopping_ends_connections() {
    let app = App::default();
    let gated = before(&app, OnHold::Serve, OnHoldUpgraded::Keep).await;
    let mut raw = socket(&gated).await;
    gated.stop.cancel();
    raw.rest().await;
    until("it has stopped", || gated.state() == State::Stopped).await;
    assert_eq!(gated.status().upgraded, 0);
}

#[tokio::test]
async fn an_app_that_does_not_want_to_upgrade_answers_as_ever() {
    let app = App::default();
    let gated = before(&app, OnHold::Serve, OnHoldUpgraded::Keep).await;
    let mut raw = gated.connect().await;
    raw.say(&UPGRADE.replace("/socket", "/")).await;
    let answer = raw.hear("hello").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    raw.forget();
    raw.say("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    raw.hear("hello").await;
    gated.until_in_flight(0).await;
    assert_eq!(gated.status().upgraded, 0);
}

#[tokio::test]
async fn a_tunnel_in_which_requests_would_go_round_the_gate_is_not_dug() {
    let app = App::default();
    let gated = before(&app, OnHold::Serve, OnHoldUpgraded::Keep).await;
    for protocol in [
        "h2c",
        "H2C",
        "websocket, h2c",
        "HTTP/2.0",
        "TLS/1.0",
        "websocket\r\nUpgrade: h2c",
    ] {
        let seen = Raw::exchange(
            gated.addr,
            &format!(
                "GET /headers HTTP/1.1\r\nHost: app\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\nUpgrade: {protocol}\r\n\r\n"
            ),
        )
        .await;
        assert!(seen.starts_with("HTTP/1.1 200 "), "{seen}");
        assert!(
            !seen.contains("\nupgrade:") && !seen.contains("http2-settings"),
            "{seen}"
        );
    }
    // Nor by an app that switches without being asked: what it says then is not HTTP any more.
    let switches = crate::support::serve(axum::Router::new().fallback(|| async {
        http::Response::builder()
            .status(101)
            .body(axum::body::Body::empty())
            .unwrap()
    }))
    .await;
    let gated = Gated::before(switches.addr, OnHold::Serve).await;
    let answer = Raw::exchange(
        gated.addr,
        "GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
    gated.until_in_flight(0).await;
}
