//! What happens to a store while a pause stands: its token is rotated, it is started anew, it fails over.
use crate::harness::{Process, Site, append, eventually, rows, text_of};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_devstore::{DevStore, Options};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// One address, and behind it whichever store is active.
struct Front {
    address: SocketAddr,
    active: watch::Sender<SocketAddr>,
}

impl Front {
    async fn start(first: SocketAddr) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (active, _) = watch::channel(first);
        let switched = active.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut moved = switched.subscribe();
                let to = *moved.borrow_and_update();
                tokio::spawn(async move {
                    // A store that is down is a connection that ends: the sidecar sees what a balancer would show it.
                    let Ok(mut to) = TcpStream::connect(to).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut from, &mut to) => {}
                        _ = moved.changed() => {}
                    }
                });
            }
        });
        Front { address, active }
    }

    /// From now on every connection goes there, and those that are open end.
    fn fail_over(&self, to: SocketAddr) {
        self.active.send_replace(to);
    }
}

const ROTATED: &str = "rotated-token-that-no-log-may-show";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_restart_and_failover_during_a_pause_leave_it_paused_and_polled_and_no_token_in_any_log() {
    const RETRY_MAX: f64 = 0.4;
    let mut site = Site::with_root_token(
        "[control]\nlisten = \"127.0.0.1:0\"\n[observe]\nlisten = \"127.0.0.1:0\"\n",
        "hvs.root-token-of-the-first-store",
    )
    .await;
    let second = DevStore::start(Options {
        root_token: Some(SecretString::from(ROTATED)),
        ..Options::default()
    })
    .await
    .unwrap();
    let flag = json!({ "IsPaused": true, "reason": "disk swap" });
    site.put("streams/orders", flag.clone());
    let front = Front::start(site.store.vault_addr()).await;
    site.write(
        "vault-token",
        &token(&site, "first-token-that-no-log-may-show").await,
    );
    site.add(&format!(
        "[[switch]]\nname = \"ops\"\nstreams = [\"*\"]\ninterval = \"100ms\"\ntimeout = \"2s\"\nretry_max = \"400ms\"\n\
         vault = {{ address = \"http://{}\", path = \"streams/orders\", \
         auth = {{ method = \"token\", file = \"{{dir}}/vault-token\" }} }}\n",
        front.address
    ))
    .file_stream("orders");
    append(&site.source("orders"), &rows(0..100));
    let (process, client) = Process::run(&site, &["-vv"]).await;
    client.reads("ops", "paused").await;
    let since = client.reaches("orders", "paused").await["last_transition"].clone();

    // All along: paused since the same moment, nothing moved, and the next poll is never further away than the delay.
    let stands = async || {
        let status = client.status().await;
        let (stream, switch) = (&status["streams"][0], &status["switches"][0]);
        assert_eq!(
            (&stream["state"], &stream["last_transition"]),
            (&json!("paused"), &since)
        );
        assert_eq!((&stream["events"], &stream["in_flight"]), (&json!(0), &json!(0)));
        if let Some(delay) = switch["next_poll_seconds"].as_f64() {
            assert!(delay <= RETRY_MAX, "{delay} s until the next poll");
        }
        switch["reading"].as_str().unwrap().to_owned()
    };
    let settles_at = async |reading: &str, more: f64| {
        let series = format!("tidegate_polls_total{{switch=\"ops\",outcome=\"{reading}\"}}");
        let before = client.metric(&series).await.unwrap_or_default();
        eventually(&format!("{more} more polls read {reading}"), async || {
            stands().await;
            (client.metric(&series).await.unwrap_or_default() >= before + more).then_some(())
        })
        .await;
    };
    settles_at("paused", 3.0).await;

    // The token is rotated: the new one is there before the old one is revoked, and then it is not.
    let new = token(&site, ROTATED).await;
    site.write("vault-token", &new);
    revoke(&site, "first-token-that-no-log-may-show").await;
    settles_at("paused", 5.0).await;

    // The store is started anew: a while during which nobody answers.
    site.store.vault_offline().await.unwrap();
    settles_at("unavailable", 5.0).await;
    site.store.vault_online().await.unwrap();
    settles_at("paused", 5.0).await;

    // It fails over to a replica whose version counts from one again, and was written later.
    second.vault().put("secret", "streams/orders", flag).unwrap();
    front.fail_over(second.vault_addr());
    let polled = second.requests().count("/v1/secret/data/streams/orders");
    second
        .requests()
        .reached("/v1/secret/data/streams/orders", polled + 5)
        .await;
    settles_at("paused", 3.0).await;
    assert_eq!(text_of(&site.sink("orders")), "");

    // And it is the new one that is obeyed.
    second
        .vault()
        .put("secret", "streams/orders", json!({ "IsPaused": false }))
        .unwrap();
    eventually("the rows", async || {
        (text_of(&site.sink("orders")) == rows(0..100)).then_some(())
    })
    .await;
    process.terminate();
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("tidegate_providers"), "it logged at all");
    for secret in ["hvs.root-token", "first-token", "rotated-token"] {
        let said = ended.stderr.contains(secret) || ended.stdout.contains(secret);
        assert!(!said, "{secret}… is in the log");
    }
    second.stop().await;
}

/// A token with this text that may read the flag.
async fn token(site: &Site, id: &str) -> String {
    let body = json!({ "id": id, "policies": ["root"] });
    ask(site, "auth/token/create", &body).await["auth"]["client_token"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn revoke(site: &Site, id: &str) {
    ask(site, "auth/token/revoke", &json!({ "token": id })).await;
}

async fn ask(site: &Site, path: &str, body: &Value) -> Value {
    let answer = crate::harness::http_client()
        .post(format!("{}/v1/{path}", site.store.vault_url()))
        .timeout(Duration::from_secs(30))
        .header("X-Vault-Token", site.root_token())
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null)
}
