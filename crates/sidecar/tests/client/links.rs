//! Whom a command talks to, and what it says when that is nobody, somebody else, or somebody who refuses.
use crate::board::{Board, noon, run, start, token};
use crate::stub;
use serde_json::json;
use tidegate::client::Look;
use tidegate_admin::Right;
use tidegate_http::Tls;

const EVERY: [&str; 7] = [
    "pause",
    "resume",
    "status",
    "watch",
    "drain",
    "override orders --switch ops --reason r",
    "status --json",
];

/// An address at which nobody listens, while it is kept.
fn nobody() -> (std::net::TcpListener, String) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("http://{}", taken.local_addr().unwrap());
    (taken, at)
}

#[tokio::test]
async fn nobody_there_is_one_clear_line_with_the_address_and_what_to_do() {
    let (taken, at) = nobody();
    drop(taken);
    for line in EVERY {
        let ended = run(&at, line).await;
        assert_eq!(ended.code, 69, "{line}: {}", ended.text);
        assert!(
            ended
                .text
                .starts_with(&format!("no tidegate answers at {at} (Connection refused")),
            "{line}: {}",
            ended.text
        );
        assert_eq!(ended.text.trim_end().lines().count(), 1, "{line}: {}", ended.text);
        assert!(
            ended.text.contains("tidegate run --config FILE") && ended.text.contains("--admin URL"),
            "{}",
            ended.text
        );
    }
}

#[tokio::test]
async fn somebody_else_is_told_from_tidegate() {
    let pages = [
        stub::answer(200, "text/html", "<html>hello</html>").await,
        stub::answer(404, "text/html", "<html>not here</html>").await,
        stub::answer(500, "text/plain", "oops").await,
        stub::answer(200, "application/json", "[]").await,
        stub::raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: hello\n\nevent: state\ndata: {}\n\n").await,
        stub::raw("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n").await,
        stub::raw("SSH-2.0-OpenSSH_9.2\r\n").await,
    ];
    for page in &pages {
        for line in EVERY {
            let ended = run(&page.at, line).await;
            assert_eq!(ended.code, 69, "{line}: {ended:?}");
            assert!(ended.text.contains("control listener"), "{line}: {ended:?}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_carries_no_token() {
    let elsewhere = stub::json(200, &json!({})).await;
    let here = stub::raw(format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {}/status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        elsewhere.at
    ))
    .await;
    let board = Board::with_tokens(&[("oncall", &[Right::Read])]).await;
    let ended = run(
        &here.at,
        &format!("status --token-file {}", board.file("oncall").display()),
    )
    .await;
    assert_eq!(ended.code, 69, "{}", ended.text);
    assert!(
        here.asked.lock().unwrap()[0].contains(&token("oncall")),
        "the token goes to where it was told to go"
    );
    assert!(elsewhere.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_missing_token_a_wrong_one_and_a_missing_right_are_told_apart() {
    let board = Board::with_tokens(&[
        ("oncall", &[Right::Read, Right::Pause]),
        ("blind", &[Right::Pause]),
    ])
    .await;
    let wrong = board.file("wrong");
    std::fs::write(&wrong, "hunter2hunter2hunter2").unwrap();
    let with = |line: &str, who: &str| format!("{line} --token-file {}", board.file(who).display());
    for line in EVERY {
        let ended = board.run(line).await;
        assert_eq!(ended.code, 77, "{line}: {}", ended.text);
        assert!(ended.text.contains("--token-file"), "{line}: {}", ended.text);
    }
    // Guesses are slowed, so only two of them.
    for line in ["pause", "status"] {
        let ended = board.run(&with(line, "wrong")).await;
        assert_eq!(ended.code, 77, "{line}: {}", ended.text);
        assert!(!ended.text.contains("hunter2"), "{line}: {}", ended.text);
    }
    assert_eq!(board.run(&with("pause", "oncall")).await.code, 0);
    let ended = board.run(&with("resume", "oncall")).await;
    assert_eq!(ended.code, 77);
    assert!(ended.text.contains("use a token whose allow"), "{}", ended.text);
    // Placing the hold needs no right to read; seeing the proof does.
    assert_eq!(board.run(&with("pause --no-wait", "blind")).await.code, 0);
    let ended = board.run(&with("pause", "blind")).await;
    assert_eq!(ended.code, 77);
    assert!(
        ended
            .text
            .contains("The hold stands; only the proof cannot be seen"),
        "{}",
        ended.text
    );
    assert!(!ended.text.contains("token-of-16-bytes"));
}

#[tokio::test]
async fn a_token_file_that_holds_none_is_bad_use() {
    let dir = tempfile::tempdir().unwrap();
    let table: [(&str, &[u8]); 4] = [
        ("empty", b" \n"),
        ("two", b"hunter2 hunter2"),
        ("binary", b"hunter2\xff"),
        ("long", &[b'x'; 5000]),
    ];
    for (name, bytes) in table {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let ended = run(
            "http://127.0.0.1:1",
            &format!("status --token-file {}", file.display()),
        )
        .await;
        assert_eq!(ended.code, 64, "{name}: {}", ended.text);
        assert!(
            ended.text.starts_with("--token-file ") && !ended.text.contains("hunter2"),
            "{}",
            ended.text
        );
    }
    let ended = run("http://127.0.0.1:1", "status --token-file /no/such/file").await;
    assert!(
        ended.code == 64 && ended.text.contains("No such file"),
        "{}",
        ended.text
    );
}

#[tokio::test]
async fn a_unix_socket_and_a_base_path_are_ways_too() {
    let board = Board::with("unix:DIR/control.sock", |options, _| {
        options.control.base_path = "/ui/stream".into();
        None
    })
    .await;
    assert!(
        board.at.starts_with("unix:/") && board.at.ends_with(".sock:/ui/stream"),
        "{}",
        board.at
    );
    assert_eq!(board.run("pause").await.code, 0);
    assert_eq!(board.state("orders"), "paused");
    assert_eq!(board.run("resume").await.code, 0);
    assert_eq!(board.run("status").await.code, 0);
    let without = board.at.replace(":/ui/stream", "");
    let ended = run(&without, "pause").await;
    assert_eq!(ended.code, 69);
    assert!(
        ended.text.contains("look at --admin and at base_path"),
        "{}",
        ended.text
    );
    let ended = run("unix:/no/such.sock", "status").await;
    assert!(
        ended.code == 69 && ended.text.contains("No such file"),
        "{}",
        ended.text
    );
}

#[tokio::test]
async fn a_private_ca_is_trusted_when_it_is_named_and_only_then() {
    let board = Board::with("127.0.0.1:0", |_, dir| {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Some(Tls::load(cert, key).unwrap())
    })
    .await;
    assert!(board.at.starts_with("https://"));
    let ended = board
        .run(&format!("status --ca-file {}", board.file("cert.pem").display()))
        .await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    let ended = board.run("status").await;
    assert_eq!(ended.code, 69, "{}", ended.text);
    let ended = board
        .run(&format!("status --ca-file {}", board.file("key.pem").display()))
        .await;
    assert!(
        ended.code == 64 && ended.text.contains("CERTIFICATE"),
        "{}",
        ended.text
    );
}

#[tokio::test]
async fn wait_waits_for_a_process_that_does_not_answer_yet() {
    let (taken, at) = nobody();
    let address = taken.local_addr().unwrap().to_string();
    drop(taken);
    let ended = run(&at, "wait --until running --timeout 1ms").await;
    assert_eq!(ended.code, 69, "{}", ended.text);
    let mut wait = start(&at, "wait --until running", Look::PLAIN);
    wait.shows(&format!("Waiting for {at} to answer")).await;
    let _board = Board::with(&address, |_, _| None).await;
    assert_eq!(wait.end().await.code, 0);
}

#[tokio::test]
async fn nothing_that_a_server_says_moves_the_cursor() {
    let nasty = "a\u{1b}[2J\u{1b}]0;x\u{7}\r\nb\u{9b}\u{202e}c";
    let at = jiff::Timestamp::try_from(noon()).unwrap().to_string();
    let hold = json!({"controller": nasty, "reason": nasty, "by": nasty, "since": at, "until": nasty, "actor": nasty});
    let stream = json!({"name": nasty, "kind": nasty, "state": nasty, "in_flight": 1, "held": 0, "holds": [hold], "events": 0,
        "last_transition": at, "error": nasty, "attempts": 3, "set_aside": [hold], "waiting": 1, "dead_letters": 1,
        "upgraded": 1, "held_oldest_seconds": 1.0, "lease_left_seconds": 1e300, "parked": false,
        "running": [{"name": nasty, "age_seconds": -1.0}]});
    let switch = json!({"name": nasty, "provider": nasty, "reading": nasty, "version": nasty, "age_seconds": 1e300, "error": nasty,
        "written": nasty, "streams": [nasty], "warnings": [nasty], "next_poll_seconds": 0.0, "stale": true, "settled": true});
    let status = json!({"at": at, "revision": 1, "closing": true, "streams": [stream], "switches": [switch], "alarms": [nasty],
        "message": "Stream paused"});
    let events = [
        json!({"time": nasty, "seq": 1, "kind": "transition", "stream": nasty, "from": nasty, "to": nasty, "controller": nasty,
            "by": nasty, "reason": nasty}),
        json!({"time": at, "seq": 2, "kind": "hold_placed", "stream": nasty}),
    ];
    let change = json!({"at": at, "revision": 2, "closing": false, "streams": [stream], "switches": [switch], "alarms": [],
        "ages": {}, "next_polls": {}, "events": events});
    let watch = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\nevent: state\ndata: {status}\n\n\
         event: change\ndata: {change}\n\nevent: end\ndata: {}\n\n",
        json!({"reason": nasty})
    );
    let mut servers = vec![
        (stub::json(200, &status).await, "status"),
        (stub::json(200, &status).await, "wait --until paused --timeout 0s"),
        (stub::json(200, &status).await, "pause --timeout 0s"),
        (
            stub::json(409, &json!({"message": nasty, "holds": [hold]})).await,
            "drain",
        ),
        (
            stub::json(
                504,
                &json!({"in_flight": 1, "streams": [{"name": nasty, "in_flight": 1,
            "running": [{"name": nasty, "age_seconds": 1.0}]}]}),
            )
            .await,
            "drain",
        ),
        (stub::json(403, &json!({"error": nasty})).await, "resume"),
        (stub::json(422, &json!({"error": nasty})).await, "pause"),
        (
            stub::json(409, &json!({"error": nasty})).await,
            "override orders --switch ops --reason r",
        ),
    ];
    let fleet = stub::json(200, &status).await;
    servers.push((
        stub::json(200, &status).await,
        Box::leak(format!("status --fleet {}", fleet.at).into_boxed_str()),
    ));
    let harmless = |text: &str, line: &str| {
        let bad = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!text.contains(bad), "{line}: {text:?}");
        assert!(
            text.contains("[2J"),
            "the words themselves are shown: {line}: {text:?}"
        );
    };
    for (server, line) in &servers {
        let ended = run(&server.at, line).await;
        harmless(&ended.text, line);
    }
    let server = stub::raw(watch).await;
    let mut watching = start(&server.at, "watch", Look::PLAIN);
    watching.shows("the watch ends").await;
    harmless(&watching.screen(), "watch");
    watching.abort();
}
