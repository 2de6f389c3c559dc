//! Every fault, as a client meets it.
use crate::client::{Wire, http, send, start};
use http::Method;
use serde_json::json;
use std::time::Duration;
use tidegate_devstore::{Fault, RetryAfter, Rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATH: &str = "/v1/secret/data/orders";

async fn with_secret() -> Wire {
    let vault = start().await;
    vault
        .store
        .vault()
        .put("secret", "orders", json!({"IsPaused": true}))
        .unwrap();
    vault
}

/// Everything that comes over a bare socket, and how it ends.
async fn raw(vault: &Wire) -> (String, std::io::Result<()>) {
    let mut socket = TcpStream::connect(vault.store.vault_addr()).await.unwrap();
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {}\r\n\r\n",
        vault.token
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let mut piece = [0_u8; 4096];
    let end = loop {
        match socket.read(&mut piece).await {
            Ok(0) => break Ok(()),
            Ok(n) => all.extend_from_slice(&piece[..n]),
            Err(error) => break Err(error),
        }
    };
    (String::from_utf8_lossy(&all).into_owned(), end)
}

fn was_reset(end: &std::io::Result<()>) -> bool {
    matches!(end, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_status_comes_with_the_stores_error_body_as_often_as_it_was_told() {
    let vault = with_secret().await;
    vault.store.faults().add(
        Rule::new(Fault::status(503))
            .path(PATH)
            .method(Method::GET)
            .times(2),
    );
    for _ in 0..2 {
        assert_eq!(
            vault.get("secret/data/orders").await.error(503),
            "service unavailable"
        );
    }
    vault.get("secret/data/orders").await.is(200);
}

#[tokio::test]
async fn retry_after_comes_as_seconds_as_a_date_and_as_nonsense() {
    let vault = with_secret().await;
    let slow = |when| Rule::new(Fault::status(429).retry_after(when)).times(1);
    vault.store.faults().add(slow(RetryAfter::Seconds(7)));
    vault
        .store
        .faults()
        .add(slow(RetryAfter::DateIn(Duration::from_secs(60))));
    vault
        .store
        .faults()
        .add(slow(RetryAfter::Verbatim("soon".to_owned())));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let response = vault.request("GET", "secret/data/orders").send().await.unwrap();
        assert_eq!(response.status(), 429);
        seen.push(response.headers()["retry-after"].to_str().unwrap().to_owned());
    }
    assert_eq!((seen[0].as_str(), seen[2].as_str()), ("7", "soon"));
    assert!(seen[1].ends_with(" GMT") && seen[1].len() == 29, "{seen:?}");
}

#[tokio::test]
async fn a_proxys_html_page_and_a_wrong_content_type() {
    let vault = with_secret().await;
    vault
        .store
        .faults()
        .add(Rule::new(Fault::status(503).body("text/html", "<html>down</html>")).times(1));
    vault
        .store
        .faults()
        .add(Rule::new(Fault::ContentType("text/plain".to_owned())).times(1));
    let page = vault.request("GET", "secret/data/orders").send().await.unwrap();
    assert_eq!(page.headers()["content-type"], "text/html");
    assert_eq!(page.text().await.unwrap(), "<html>down</html>");
    let plain = vault.request("GET", "secret/data/orders").send().await.unwrap();
    assert_eq!(
        (
            plain.status().as_u16(),
            plain.headers()["content-type"].to_str().unwrap()
        ),
        (200, "text/plain")
    );
    assert!(plain.text().await.unwrap().contains("IsPaused"));
}

#[tokio::test]
async fn a_redirect_names_the_other_place() {
    let vault = with_secret().await;
    vault
        .store
        .faults()
        .add(Rule::new(Fault::redirect("http://127.0.0.1:1/v1/x")));
    let response = vault.request("GET", "secret/data/orders").send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (307, &"http://127.0.0.1:1/v1/x".parse().unwrap())
    );
}

#[tokio::test]
async fn a_delay_holds_the_answer_back_and_then_gives_it() {
    let vault = with_secret().await;
    vault
        .store
        .faults()
        .add(Rule::new(Fault::Delay(Duration::from_millis(300))).times(1));
    let begin = std::time::Instant::now();
    vault.get("secret/data/orders").await.is(200);
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_hang_never_answers_and_does_not_hinder_others() {
    let vault = with_secret().await;
    vault.store.faults().add(Rule::new(Fault::Hang).path(PATH));
    let request = vault
        .request("GET", "secret/data/orders")
        .timeout(Duration::from_millis(200));
    assert!(request.send().await.unwrap_err().is_timeout());
    vault.get("sys/mounts").await.is(200);
    // Stopping ends what hangs.
    let hanging = tokio::spawn(vault.request("GET", "secret/data/orders").send());
    vault.store.requests().reached(PATH, 2).await;
    vault.store.stop().await;
    assert!(hanging.await.unwrap().is_err());
}

#[tokio::test]
async fn resets_come_before_the_headers_in_them_and_in_the_body() {
    let vault = with_secret().await;
    vault
        .store
        .faults()
        .add(Rule::new(Fault::ResetBeforeHeaders).times(1));
    let (text, end) = raw(&vault).await;
    assert!(text.is_empty() && was_reset(&end), "{text:?} {end:?}");

    vault
        .store
        .faults()
        .add(Rule::new(Fault::ResetInHeaders).times(1));
    let (text, end) = raw(&vault).await;
    assert!(
        text.starts_with("HTTP/1.1 200 OK") && !text.contains("\r\n\r\n") && was_reset(&end),
        "{text:?} {end:?}"
    );

    vault.store.faults().add(Rule::new(Fault::ResetInBody).times(1));
    let (text, end) = raw(&vault).await;
    assert!(
        text.contains("\r\n\r\n{") && !text.ends_with("}\n") && was_reset(&end),
        "{text:?} {end:?}"
    );
}

#[tokio::test]
async fn a_truncated_body_ends_in_order_and_too_early() {
    let vault = with_secret().await;
    vault.store.faults().add(Rule::new(Fault::Truncated).times(2));
    let (text, end) = raw(&vault).await;
    assert!(
        text.contains("\r\n\r\n{") && !text.ends_with("}\n") && end.is_ok(),
        "{text:?} {end:?}"
    );
    let response = vault.request("GET", "secret/data/orders").send().await.unwrap();
    assert!(response.text().await.is_err());
}

#[tokio::test]
async fn garbage_is_a_good_answer_with_a_body_that_is_none() {
    let vault = with_secret().await;
    vault.store.faults().add(Rule::new(Fault::Garbage).times(1));
    vault.store.faults().add(Rule::new(Fault::NotHttp).times(1));
    let response = vault.request("GET", "secret/data/orders").send().await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            response.headers()["content-type"].to_str().unwrap()
        ),
        (200, "application/json")
    );
    assert!(serde_json::from_slice::<serde_json::Value>(&response.bytes().await.unwrap()).is_err());
    assert!(vault.request("GET", "secret/data/orders").send().await.is_err());
}

#[tokio::test]
async fn an_endless_body_goes_on_until_the_client_leaves() {
    let vault = with_secret().await;
    vault.store.faults().add(Rule::new(Fault::Endless).times(1));
    let mut response = vault.request("GET", "secret/data/orders").send().await.unwrap();
    let mut size = 0;
    while size < 4 * 1024 * 1024 {
        size += response.chunk().await.unwrap().unwrap().len();
    }
    drop(response);
    vault.get("secret/data/orders").await.is(200);
}

#[tokio::test]
async fn a_drip_gives_the_whole_answer_in_many_pieces() {
    let vault = with_secret().await;
    vault
        .store
        .faults()
        .add(Rule::new(Fault::Drip(Duration::from_micros(10))).times(1));
    assert_eq!(
        vault.get("secret/data/orders").await.data()["data"],
        json!({"IsPaused": true})
    );
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_has_happened_and_one_that_was_refused_has_not() {
    let vault = with_secret().await;
    vault
        .store
        .faults()
        .add(Rule::new(Fault::ResetInHeaders).method(Method::POST).times(1));
    let write = |n: u64| {
        vault
            .request("POST", "secret/data/orders")
            .body(json!({"data": {"n": n}}).to_string())
    };
    assert!(write(2).send().await.is_err());
    assert_eq!(
        vault.get("secret/data/orders").await.data()["metadata"]["version"],
        2
    );
    vault
        .store
        .faults()
        .add(Rule::new(Fault::status(500)).method(Method::POST).times(1));
    send(write(3)).await.is(500);
    assert_eq!(
        vault.get("secret/data/orders").await.data()["metadata"]["version"],
        2
    );
}

#[tokio::test]
async fn forgetting_tokens_strikes_the_request_that_meets_it() {
    let vault = with_secret().await;
    let child = vault.child(json!({"policies": ["root"], "ttl": "1h"})).await;
    vault
        .store
        .faults()
        .add(Rule::new(Fault::ForgetTokens).path(PATH).times(1));
    child.get("sys/mounts").await.is(200);
    child.get("secret/data/orders").await.is(403);
    vault.get("secret/data/orders").await.is(200);
}

#[tokio::test]
async fn the_administration_path_sets_lists_and_takes_back_the_same_rules() {
    let vault = with_secret().await;
    let admin = format!("{}/devstore/faults", vault.store.vault_url());
    let client = http();
    let post = |body: &'static str| {
        let request = client.post(&admin).header("X-Vault-Token", &vault.token);
        send(request.body(body))
    };
    let made =
        post(r#"{"fault":"status","status":503,"retry_after":2,"path":"/v1/secret/","times":1}"#).await;
    assert_eq!((made.status, &made.body), (201, &json!({"id": 1})));
    let response = vault.request("GET", "secret/data/orders").send().await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            response.headers()["retry-after"].to_str().unwrap()
        ),
        (503, "2")
    );

    let rules = [
        r#"{"fault":"delay","seconds":0.5}"#,
        r#"{"fault":"drip","seconds":1.0}"#,
        r#"{"fault":"hang","method":"GET"}"#,
        r#"{"fault":"reset-before-headers"}"#,
        r#"{"fault":"reset-in-headers"}"#,
        r#"{"fault":"reset-in-body"}"#,
        r#"{"fault":"garbage"}"#,
        r#"{"fault":"not-http"}"#,
        r#"{"fault":"truncated"}"#,
        r#"{"fault":"endless"}"#,
        r#"{"fault":"forget-tokens","times":3}"#,
        r#"{"fault":"content-type","content_type":"text/html"}"#,
        r#"{"fault":"redirect","status":308,"location":"http://x/"}"#,
        r#"{"fault":"status","status":429,"retry_after":{"date_in":60}}"#,
        r#"{"fault":"status","status":429,"retry_after":"soon","body":"<html>","content_type":"text/html"}"#,
    ];
    for rule in rules {
        post(rule).await.is(201);
    }
    let listed = send(client.get(&admin).header("X-Vault-Token", &vault.token)).await;
    for (rule, shown) in rules.iter().zip(listed.body["faults"].as_array().unwrap()) {
        let rule: serde_json::Value = serde_json::from_str(rule).unwrap();
        for (key, value) in rule.as_object().unwrap() {
            assert_eq!(&shown[key], value, "{shown}");
        }
    }
    let one = client
        .delete(format!("{admin}/2"))
        .header("X-Vault-Token", &vault.token);
    send(one).await.is(204);
    let again = client
        .delete(format!("{admin}/2"))
        .header("X-Vault-Token", &vault.token);
    send(again).await.is(404);
    send(client.delete(&admin).header("X-Vault-Token", &vault.token))
        .await
        .is(204);
    assert!(vault.store.faults().standing().is_empty());

    for wrong in [
        "",
        "{}",
        r#"{"fault":"nonsense"}"#,
        r#"{"fault":"status"}"#,
        r#"{"fault":"status","status":7}"#,
        r#"{"fault":"delay","seconds":-1}"#,
        r#"{"fault":"redirect"}"#,
        r#"{"fault":"hang","pth":"x"}"#,
        r#"{"fault":"hang","method":"NO METHOD"}"#,
    ] {
        post(wrong).await.is(400);
    }
    send(client.get(&admin)).await.is(403);
    send(client.get(&admin).header("X-Vault-Token", "wrong"))
        .await
        .is(403);
    send(client.put(&admin).header("X-Vault-Token", &vault.token))
        .await
        .is(405);
}
