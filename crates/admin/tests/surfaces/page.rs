//! The page: who sees it, what it may load, and what of the world outside gets into it.
use crate::board::{Answer, Board, Call, get, post, token};
use http::StatusCode;
use serde_json::json;
use std::time::Duration;
use tidegate_admin::Right;
use tidegate_gate::{Kind, Phase};
use tidegate_http::Peer;

const ALL: &[Right] = &[Right::Read, Right::Pause, Right::Resume];

fn guarded() -> Board {
    Board::with_tokens(&[
        ("oncall", ALL),
        ("viewer", &[Right::Read]),
        ("button", &[Right::Pause]),
    ])
}

fn browse(path: &str) -> Call {
    get(path).header("accept", "text/html,application/xhtml+xml")
}

async fn log_in(board: &Board, given: &str) -> Answer {
    let body = form_urlencoded::Serializer::new(String::new())
        .append_pair("token", given)
        .finish();
    let call = post("/login")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("origin", "http://127.0.0.1:9470")
        .body(body);
    board.control(call).await
}

/// The cookie as a browser sends it back.
async fn session(board: &Board, name: &str) -> String {
    let answer = log_in(board, &token(name)).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    assert_eq!(answer.header("location"), "/");
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline() {
    let board = Board::new();
    let page = board.control(browse("/")).await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"),
        "{policy}"
    );
    assert!(
        policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(page.header("x-frame-options"), "DENY");
    // Under no-referrer the form's own POST would carry `Origin: null`, and be refused.
    assert_eq!(page.header("referrer-policy"), "same-origin");
    for inline in [
        " style=",
        "<style",
        " onclick=",
        " onload=",
        "javascript:",
        "http://",
        "https://",
        "//",
    ] {
        assert!(!page.text.contains(inline), "{inline} in {}", page.text);
    }
    for script in page.text.split("<script").skip(1) {
        assert!(script.starts_with(" src=\"/"), "{script}");
    }
    let mut files = 0;
    for part in page
        .text
        .split(['"', '\''])
        .filter(|p| p.ends_with(".js") || p.ends_with(".css"))
    {
        let file = board.control(get(part)).await;
        assert_eq!(file.status, StatusCode::OK, "{part}");
        assert_eq!(file.header("x-content-type-options"), "nosniff");
        files += 1;
    }
    assert_eq!(files, 4);
}

#[tokio::test]
async fn without_a_script_the_page_is_a_table_of_how_things_stand() {
    let board = Board::new();
    board
        .control(post("/streams/orders/pause").json(&json!({"reason": "db maintenance"})))
        .await;
    let page = board.control(browse("/")).await.text;
    for part in [
        "<th scope=\"row\">orders</th>",
        ">paused</span>",
        "api: db maintenance",
        "<th scope=\"row\">ops</th>",
        "data-rights=\"read pause resume\"",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
}

#[tokio::test]
async fn what_comes_from_outside_is_text() {
    let board = Board::new();
    let evil = "</td><script>alert('x')</script><img src=x onerror=\"y\">&amp;";
    board.holds.register(format!("a<b>{evil}"), Kind::Stream).unwrap();
    board
        .control(post("/pause").json(&json!({"reason": evil, "by": evil})))
        .await;
    let mut switch = crate::board::switch();
    switch.error = Some(evil.into());
    board.holds.put_switch(switch);
    board.holds.set_alarm("x", Some(evil.into()));
    let page = board.control(browse("/")).await.text;
    assert!(
        !page.contains("<script>") && !page.contains("<img") && !page.contains("<b>"),
        "{page}"
    );
    assert!(
        page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"),
        "{page}"
    );
    // The script itself never makes markup out of text.
    let script = board.control(get("/page.js")).await.text;
    for sink in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "localStorage",
        "sessionStorage",
    ] {
        assert!(!script.contains(sink), "{sink}");
    }
}

#[tokio::test]
async fn who_has_not_logged_in_sees_a_form_and_nothing_else() {
    let board = guarded();
    board
        .control(
            post("/pause")
                .bearer("oncall")
                .json(&json!({"reason": "a secret reason"})),
        )
        .await;
    let form = board.control(browse("/")).await;
    assert_eq!(form.status, StatusCode::OK);
    assert!(form.text.contains("name=\"token\"") && form.text.contains("type=\"password\""));
    for told in ["orders", "paused", "secret reason", "ops"] {
        assert!(!form.text.contains(told), "{told}");
    }
    assert_eq!(
        board.control(get("/")).await.refused().0,
        401,
        "who is no browser is told so"
    );
    for path in ["/page.js", "/page.css", "/uplot.js", "/uplot.css"] {
        assert_eq!(board.control(get(path)).await.status, StatusCode::OK, "{path}");
    }
    for path in ["/status", "/watch", "/openapi.json"] {
        assert_eq!(board.control(browse(path)).await.refused().0, 401, "{path}");
    }
}

#[tokio::test]
async fn a_login_is_a_cookie_that_holds_no_token() {
    let board = guarded();
    let answer = log_in(&board, &format!(" {} ", token("oncall"))).await;
    let cookie = answer.header("set-cookie").to_owned();
    for part in ["Path=/", "HttpOnly", "SameSite=Strict"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(
        !cookie.contains("oncall") && !cookie.contains("Secure"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let page = board
        .control(browse("/").header("cookie", &format!("other=1; {cookie}")))
        .await;
    assert!(
        page.text.contains("orders") && page.text.contains(">oncall<"),
        "{}",
        page.text
    );
    assert!(!page.text.contains("-token-of-16-bytes"));

    let from_the_page = || {
        post("/pause")
            .header("cookie", &cookie)
            .header("origin", "http://127.0.0.1:9470")
    };
    assert_eq!(board.control(from_the_page()).await.status, StatusCode::OK);
    assert_eq!(&*board.holds.snapshot().streams[0].holds[0].1.actor, "oncall");

    // Over TLS it never leaves it.
    let mut tls = post("/login")
        .header("origin", "https://127.0.0.1:9470")
        .body(format!("token={}", token("oncall")));
    let peer = Peer::new(Some("127.0.0.1:5000".parse().unwrap()), None, true);
    tls.request.extensions_mut().insert(peer);
    assert!(board.control(tls).await.header("set-cookie").contains("; Secure"));

    let out = board
        .control(
            post("/logout")
                .header("cookie", &cookie)
                .header("sec-fetch-site", "same-origin"),
        )
        .await;
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(
        board
            .control(get("/status").header("cookie", &cookie))
            .await
            .refused()
            .0,
        401
    );
}

#[tokio::test]
async fn a_cookie_gives_the_rights_of_its_token_and_no_more() {
    let board = guarded();
    let viewer = session(&board, "viewer").await;
    let page = board.control(browse("/").header("cookie", &viewer)).await.text;
    assert!(page.contains("data-rights=\"read\""), "{page}");
    let pause = post("/pause")
        .header("cookie", &viewer)
        .header("origin", "http://127.0.0.1:9470");
    assert_eq!(board.control(pause).await.refused().0, 403);
    let button = session(&board, "button").await;
    let page = board.control(browse("/").header("cookie", &button)).await.text;
    assert!(!page.contains("orders"), "{page}");
    assert_eq!(
        board
            .control(get("/status").header("cookie", &button))
            .await
            .refused()
            .0,
        403
    );
}

#[tokio::test]
async fn a_page_elsewhere_can_do_nothing_with_the_cookie() {
    let board = guarded();
    let cookie = session(&board, "oncall").await;
    let pause = || post("/pause").header("cookie", &cookie);
    let table: [(&str, &str); 5] = [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:3000"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ];
    for (name, value) in table {
        assert_eq!(
            board.control(pause().header(name, value)).await.refused().0,
            403,
            "{name}: {value}"
        );
    }
    assert_eq!(
        board.control(pause()).await.refused().0,
        403,
        "who says nothing is not the page"
    );
    assert_eq!(board.orders.gate().sight().phase, Phase::Open);
    let login = post("/login")
        .header("origin", "http://evil.example")
        .body(format!("token={}", token("oncall")));
    assert_eq!(board.control(login).await.refused().0, 403);
}

#[tokio::test]
async fn a_link_from_elsewhere_leads_to_the_page_by_a_step_that_tells_nothing() {
    let board = Board::new();
    let link = |dest: &str| {
        browse("/")
            .header("sec-fetch-site", "cross-site")
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", dest)
    };
    let step = board.control(link("document")).await;
    assert_eq!(step.status, StatusCode::OK);
    assert!(
        step.text.contains("url=/") && !step.text.contains("orders"),
        "{}",
        step.text
    );
    for framed in ["iframe", "frame", "embed", "object"] {
        assert_eq!(board.control(link(framed)).await.refused().0, 403, "{framed}");
    }
    let other = get("/status")
        .header("sec-fetch-site", "cross-site")
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-dest", "document");
    assert_eq!(board.control(other).await.refused().0, 403);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_token_and_after_twelve_hours() {
    let board = guarded();
    let (oncall, viewer) = (session(&board, "oncall").await, session(&board, "viewer").await);
    let read = |cookie: &str| board.control(get("/status").header("cookie", cookie));
    std::fs::write(board.token_file("oncall"), "a-new-token-of-26-bytes-xy").unwrap();
    assert_eq!(read(&oncall).await.refused().0, 401);
    assert_eq!(read(&viewer).await.status, StatusCode::OK);
    tokio::time::advance(Duration::from_secs(12 * 3600 + 1)).await;
    assert_eq!(read(&viewer).await.refused().0, 401);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_in_the_form_is_slow_told_and_written_down() {
    let board = guarded();
    let start = tokio::time::Instant::now();
    let answer = log_in(&board, "not-a-token-at-all-0").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.text.contains("role=\"alert\"") && answer.header("set-cookie").is_empty());
    assert!(!answer.text.contains("not-a-token-at-all-0"));
    assert!(start.elapsed() >= Duration::from_millis(100));
    let records = board.holds.journal_after(0);
    assert!(
        records
            .iter()
            .any(|r| r.reason.as_deref().is_some_and(|w| w.contains("401 POST /login")))
    );
    for cookie in [
        "tidegate_session=",
        "tidegate_session=00",
        "tidegate_session",
        "x",
    ] {
        assert_eq!(
            board
                .control(get("/status").header("cookie", cookie))
                .await
                .refused()
                .0,
            401,
            "{cookie}"
        );
    }
}
