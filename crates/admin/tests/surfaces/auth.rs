//! Who may do what, and who is not even asked.
use crate::board::{Answer, Board, Call, call, get, post, token};
use crate::routes::CONTROL;
use http::{Method, StatusCode};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tidegate_admin::{ControlOptions, Right, TokenSpec};
use tidegate_gate::Act;
use tidegate_http::{Address, Tls};
use tokio::time::Instant;

const ALL: [(&str, Right); 4] = [
    ("read", Right::Read),
    ("pause", Right::Pause),
    ("resume", Right::Resume),
    ("override", Right::Override),
];

fn each_right() -> Board {
    Board::with_tokens(
        &ALL.each_ref()
            .map(|(name, right)| (*name, std::slice::from_ref(right))),
    )
}

fn called(method: &str, path: &str) -> Call {
    call(method.parse().unwrap(), path)
}

#[tokio::test]
async fn every_call_needs_its_right_and_no_other() {
    for (method, path, needed) in CONTROL {
        let board = each_right();
        let bare = board.control(called(method, path)).await;
        assert_eq!(bare.refused().0, 401, "{method} {path}");
        assert_eq!(bare.header("www-authenticate"), "Bearer");
        for (name, _) in ALL {
            if name == needed && path == "/watch" {
                continue;
            }
            let answer = board.control(called(method, path).bearer(name)).await;
            let refused = answer.status == StatusCode::FORBIDDEN;
            assert_eq!(
                refused,
                name != needed,
                "{method} {path} as {name}: {}",
                answer.text
            );
            if refused {
                assert!(
                    answer.refused().1.contains(&format!("\"{needed}\"")),
                    "{}",
                    answer.text
                );
            }
        }
    }
}

#[tokio::test]
async fn closing_needs_the_right_to_pause_and_draining_does_not() {
    let board = each_right();
    let close = post("/drain?close=true").bearer("read");
    assert_eq!(board.control(close).await.refused().0, 403);
    assert!(board.holds.snapshot().streams[0].holds.is_empty());
}

#[tokio::test]
async fn where_a_token_is_set_nothing_answers_without_one_not_even_what_is_not_there() {
    let board = each_right();
    for path in ["/nothing", "/pause/x", "/actuator/nothing"] {
        assert_eq!(board.control(get(path)).await.refused().0, 401, "{path}");
        assert_eq!(
            board.control(get(path).bearer("read")).await.refused().0,
            404,
            "{path}"
        );
    }
}

#[tokio::test]
async fn without_tokens_this_machine_may_do_everything_but_override() {
    let board = Board::new();
    let body = json!({"controller": "switch:ops", "reason": "x"});
    board.flip(true, "8");
    let answer = board.control(post("/streams/orders/override").json(&body)).await;
    assert_eq!(answer.refused().0, 401);
    assert!(board.orders.gate().is_closed());
    board.control(post("/pause")).await;
    assert_eq!(&*board.holds.snapshot().streams[0].holds[0].1.actor, "loopback");
    let unix = board
        .control(post("/pause").from(None).header("host", "anything"))
        .await;
    assert_eq!(unix.status, StatusCode::OK);
}

#[tokio::test]
async fn without_tokens_other_machines_may_do_nothing() {
    let board = Board::new();
    for far in ["10.0.0.9:4000", "[2001:db8::1]:4000"] {
        assert_eq!(
            board.control(post("/pause").from(Some(far))).await.refused().0,
            401,
            "{far}"
        );
    }
    let mut unknown = post("/pause");
    unknown.request.extensions_mut().clear();
    assert_eq!(board.control(unknown).await.refused().0, 401);
    assert!(!board.orders.gate().is_closed());
}

#[tokio::test]
async fn the_actor_is_the_tokens_name_and_by_stays_a_claim() {
    let board = each_right();
    let body = json!({"by": "root"});
    board.control(post("/pause").bearer("pause").json(&body)).await;
    let snapshot = board.holds.snapshot();
    let hold = &snapshot.streams[0].holds[0].1;
    assert_eq!((&*hold.actor, hold.by.as_deref()), ("pause", Some("root")));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_token_is_refused() {
    let board = each_right();
    let right = token("pause");
    for wrong in [
        String::new(),
        "Bearer".into(),
        "Bearer ".into(),
        format!("Bearer {}", &right[1..]),
        format!("Bearer {}", &right[..right.len() - 1]),
        format!("Bearer {right}x"),
        format!("Bearer {}", right.to_uppercase()),
        format!("Basic {right}"),
        right.clone(),
        format!("Bearer {right},{right}"),
    ] {
        let answer = board
            .control(post("/pause").header("authorization", &wrong))
            .await;
        assert_eq!(answer.refused().0, 401, "{wrong}");
    }
    let answer = board
        .control(post("/pause").header("authorization", &format!("bearer  {right}")))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn only_who_guesses_is_slowed() {
    let board = each_right();
    let guess = |from: &str| {
        let call = post("/pause")
            .from(Some(from))
            .header("authorization", "Bearer 0123456789abcdef0123");
        board.control(call)
    };
    let start = Instant::now();
    for _ in 0..8 {
        assert_eq!(guess("10.0.0.9:1").await.refused().0, 401);
    }
    assert!(
        start.elapsed() >= Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    // From the same address: a valid token waits for nothing.
    let start = Instant::now();
    let valid = post("/pause").from(Some("10.0.0.9:2")).bearer("pause");
    assert_eq!(board.control(valid).await.status, StatusCode::OK);
    assert_eq!(start.elapsed(), Duration::ZERO);
    // Another address is not slowed by this one.
    assert_eq!(guess("10.0.0.10:1").await.refused().0, 401);
    assert_eq!(start.elapsed(), Duration::from_millis(100));
    // Nor is a call without a token, which guesses nothing.
    let start = Instant::now();
    assert_eq!(
        board
            .control(post("/pause").from(Some("10.0.0.9:3")))
            .await
            .refused()
            .0,
        401
    );
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_guessers_is_turned_away_without_waiting() {
    let board = each_right();
    let router = board.admin.control();
    let mut crowd = tokio::task::JoinSet::new();
    for i in 0..1000 {
        let call = post("/pause")
            .from(Some(&format!("10.0.{}.9:1", i % 250)))
            .header("authorization", "Bearer 0123456789abcdef0123");
        crowd.spawn(call.send(router.clone()));
    }
    let answers: Vec<Answer> = crowd.join_all().await;
    let count = |status: u16| answers.iter().filter(|a| a.status.as_u16() == status).count();
    assert_eq!(count(401) + count(429), 1000);
    assert!(count(429) >= 500, "{}", count(429));
    // A flood is written down as few lines that say how many they stand for; the metric counts all.
    let refused: Vec<_> = board
        .holds
        .journal_after(0)
        .into_iter()
        .filter(|r| r.act == Act::Refused)
        .collect();
    assert!((1..100).contains(&refused.len()), "{}", refused.len());
    let metrics = board.metrics.text();
    let total: u64 = [401, 429]
        .map(|s| format!("tidegate_refused_calls_total{{status=\"{s}\"}} "))
        .map(|name| {
            metrics
                .lines()
                .find_map(|l| l.strip_prefix(&name))
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .iter()
        .sum();
    assert_eq!(total, 1000);
}

#[tokio::test]
async fn a_refused_call_is_a_line_in_the_journal() {
    let board = each_right();
    board.control(post("/streams/orders/pause").bearer("read")).await;
    let records = board.holds.journal_after(0);
    let record = records.iter().find(|r| r.act == Act::Refused).unwrap();
    assert_eq!(record.actor.as_deref(), Some("read"));
    assert_eq!(record.stream.as_deref(), Some("orders"));
    let reason = record.reason.as_deref().unwrap();
    assert!(
        reason.starts_with("403 POST /streams/orders/pause from 127.0.0.1:"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_browser_of_another_origin_is_refused() {
    let board = Board::new();
    let table = [
        ("origin", "http://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "http://127.0.0.1:3000", 403),
        ("origin", "https://127.0.0.1:9470", 403),
        ("origin", "http://127.0.0.1:9470.evil.example", 403),
        ("origin", "http://127.0.0.1:9470", 200),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
        ("sec-fetch-site", "same-origin", 200),
        ("sec-fetch-site", "none", 200),
    ];
    for (name, value, status) in table {
        let answer = board.control(post("/resume").header(name, value)).await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {value}");
        let answer = board.control(get("/status").header(name, value)).await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {value}");
    }
    let mut two = post("/resume").header("origin", "http://127.0.0.1:9470");
    two.request
        .headers_mut()
        .append("origin", "http://evil.example".parse().unwrap());
    assert_eq!(board.control(two).await.refused().0, 403);
}

#[tokio::test]
async fn a_foreign_host_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["gate.internal".to_owned()]).unwrap();
    std::fs::write(dir.path().join("cert"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("key"), made.signing_key.serialize_pem()).unwrap();
    let board = Board::with(|options, _| {
        options.control.hosts = vec!["Tidegate.ops".into()];
        options.control.tls = Some(Tls::load(dir.path().join("cert"), dir.path().join("key")).unwrap());
    });
    let table = [
        ("127.0.0.1:9470", 200),
        ("127.0.0.1", 200),
        ("[::1]:9470", 200),
        ("[::1]", 200),
        ("10.1.2.3:80", 200),
        ("localhost", 200),
        ("LOCALHOST:9470", 200),
        ("tidegate.ops:9470", 200),
        ("gate.internal", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.1:9470@evil.example", 403),
        ("localhost:x", 403),
        ("", 403),
    ];
    for (host, status) in table {
        let answer = board.control(get("/status").header("host", host)).await;
        assert_eq!(answer.status.as_u16(), status, "{host}: {}", answer.text);
    }
    assert_eq!(
        board.control(get("/status").without("host")).await.refused().0,
        400
    );
    let mut two = get("/status");
    two.request
        .headers_mut()
        .append("host", "localhost".parse().unwrap());
    assert_eq!(board.control(two).await.refused().0, 400);
    let mut old = get("/status").without("host");
    *old.request.version_mut() = http::Version::HTTP_10;
    assert_eq!(board.control(old).await.status, StatusCode::OK);
    // What anybody may see has no such walls: a scraper uses what name it likes.
    let seen = board.observe(get("/status").header("host", "evil.example")).await;
    assert_eq!(seen.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_replaced_is_void_at_once() {
    let board = each_right();
    let file = board.token_file("pause");
    let new = "another-token-of-24-byte";
    std::fs::write(file.with_extension("new"), new).unwrap();
    std::fs::rename(file.with_extension("new"), &file).unwrap();
    assert_eq!(
        board.control(post("/pause").bearer("pause")).await.refused().0,
        401
    );
    let answer = board
        .control(post("/pause").header("authorization", &format!("Bearer {new}")))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_token_file_that_goes_bad_leaves_the_token_read_before() {
    type Spoil = fn(&std::path::Path);
    let bad: [(&str, Spoil); 6] = [
        ("empty", |f| std::fs::write(f, "").unwrap()),
        ("white space", |f| std::fs::write(f, " \n").unwrap()),
        ("short", |f| std::fs::write(f, "fifteen-bytes-x").unwrap()),
        ("two lines", |f| {
            std::fs::write(f, "sixteen-bytes-of\nsixteen-bytes-of").unwrap()
        }),
        ("gone", |f| std::fs::remove_file(f).unwrap()),
        ("open", |f| {
            std::fs::write(f, "0123456789abcdef-new").unwrap();
            std::fs::set_permissions(f, std::fs::Permissions::from_mode(0o644)).unwrap();
        }),
    ];
    for (what, spoil) in bad {
        let board = Board::with(|options, dir| {
            let file = dir.path().join("pause");
            std::fs::write(&file, token("pause")).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            options.control.tokens.push(TokenSpec {
                name: "pause".into(),
                file,
                allow: vec![Right::Pause],
            });
        });
        spoil(&board.token_file("pause"));
        for wrong in [
            "",
            " ",
            "fifteen-bytes-x",
            "sixteen-bytes-of",
            "0123456789abcdef-new",
        ] {
            let call = post("/pause").header("authorization", &format!("Bearer {wrong}"));
            assert_eq!(board.control(call).await.refused().0, 401, "{what}: {wrong:?}");
        }
        assert_eq!(
            board.control(post("/pause").bearer("pause")).await.status,
            StatusCode::OK,
            "{what}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_is_told_at_start_and_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let spec = |name: &str, content: Option<&str>| {
        let file = dir.path().join(name);
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        TokenSpec {
            name: name.into(),
            file,
            allow: vec![Right::Read],
        }
    };
    let good = "a-token-of-enough-bytes";
    let mut options = ControlOptions {
        tokens: vec![
            spec("empty", Some("")),
            spec("short", Some("secret-of-15-by")),
            spec("missing", None),
            spec("good", Some(good)),
            spec("twin", Some(good)),
            spec("good", Some(good)),
        ],
        base_path: "a//b".into(),
        ..ControlOptions::default()
    };
    options.tokens[3].allow.clear();
    let anywhere: Address = "0.0.0.0:9470".parse().unwrap();
    let wrong: Vec<String> = options.check(&anywhere).iter().map(ToString::to_string).collect();
    for part in [
        "\"0.0.0.0:9470\" can be reached from other machines, so it needs tls",
        "base_path = \"a//b\"",
        "two tokens are named \"good\"",
        "\"good\" allows nothing",
        "is empty",
        "fewer than 16 bytes",
        "cannot read the token file",
        "\"good\" and \"twin\" hold the same token",
    ] {
        assert!(
            wrong.iter().any(|w| w.contains(part)),
            "{part} is not in {wrong:#?}"
        );
    }
    assert!(!wrong.concat().contains("secret-of-15"), "{wrong:#?}");
    assert!(!format!("{options:?}").contains(good));
    let near: Address = "127.0.0.1:0".parse().unwrap();
    assert!(ControlOptions::default().check(&near).is_empty());
    assert!(
        ControlOptions::default()
            .check(&"unix:/x".parse().unwrap())
            .is_empty()
    );
    let open = ControlOptions::default().check(&anywhere);
    assert!(
        open[0]
            .to_string()
            .contains("tls and at least one [[control.token]]"),
        "{}",
        open[0]
    );
}

#[tokio::test]
async fn options_is_no_way_in() {
    let board = Board::new();
    let preflight = call(Method::OPTIONS, "/pause")
        .header("origin", "http://evil.example")
        .header("access-control-request-method", "POST");
    let answer = board.control(preflight).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(
        !answer
            .headers
            .keys()
            .any(|k| k.as_str().starts_with("access-control"))
    );
}
