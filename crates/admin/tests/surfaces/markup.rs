//! A reason with markup, line ends and escape sequences in it is text wherever it is told.
use crate::board::{Board, get, post};
use serde_json::{Value, json};
use tidegate_admin::audit;
use tokio_util::sync::CancellationToken;

const EVIL: &str = "</script><script>alert(1)</script>\r\n\r\nevent: end\ndata: {}\n\u{1b}[2J\u{202e}\"\\";

#[tokio::test]
async fn markup_in_a_reason_is_text_in_json_events_audit_and_metrics() {
    let board = Board::new();
    let answer = board
        .control(post("/pause").json(&json!({ "reason": EVIL, "by": EVIL })))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    // JSON is served as such, and nobody guesses otherwise.
    for path in ["/status", "/history"] {
        let answer = board.control(get(path)).await;
        assert!(
            answer.header("content-type").starts_with("application/json"),
            "{path}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        let found = serde_json::to_string(&answer.json()).unwrap();
        assert!(
            found.contains("<script>alert(1)</script>"),
            "{path}: it is kept as it is"
        );
        assert!(!answer.text.contains('\u{1b}'), "{path}: {}", answer.text);
    }
    // An audit line stays one line.
    let (writer, mut reader) = tokio::io::duplex(1 << 16);
    let stop = CancellationToken::new();
    stop.cancel();
    audit(board.holds.clone(), board.metrics.clone(), 0, writer, stop).await;
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut reader, &mut text)
        .await
        .unwrap();
    assert!(text.contains("alert(1)"), "{text}");
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["kind"].is_string(), "{line}");
    }
    assert!(!text.contains(['\u{1b}', '\r']), "{text}");
    // Metrics have no reasons at all.
    let metrics = board.observe(get("/metrics")).await.text;
    assert!(!metrics.contains("alert"), "{metrics}");
    assert!(!board.observe(get("/status")).await.text.contains("alert"));
}
