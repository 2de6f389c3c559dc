//! Nothing that is secret is printed, at any level.
use crate::client::{send, start_with};
use reqwest::{Certificate, Client};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_devstore::{Fault, Identity, KeyVaultOptions, Options, Proof, Rule};
use tracing_subscriber::layer::SubscriberExt;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_value_and_no_token_is_in_any_log_or_debug_output() {
    let captured = Captured::default();
    let writer = captured.clone();
    let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry().with(layer);
    let _guard = tracing::subscriber::set_default(subscriber);

    let vault = start_with(Options {
        root_token: Some(SecretString::from("MARKED-root")),
        key_vault: Some(KeyVaultOptions::default()),
        ..Options::default()
    })
    .await;
    vault
        .post("secret/data/a", json!({"data": {"v": "MARKED-value"}}))
        .await
        .is(200);
    // A place that logs for the first time just while the subscriber above is made, by another test on another thread,
    // may never hear of it: by now those of a request are known, and are told.
    tracing::callsite::rebuild_interest_cache();
    vault.get("secret/data/a").await.is(200);
    vault.post("kv/a", json!({"v": "MARKED-value"})).await.is(204);
    vault.with_token("MARKED-bad").get("kv/a").await.is(403);
    let mut answers = String::new();
    for body in [
        "MARKED",
        "\"MARKED\"",
        "[\"MARKED\"]",
        "{\"data\":\"MARKED\"}",
        "{\"data\":{\"v\":MARKED}}",
    ] {
        let got = send(vault.request("POST", "secret/data/a").body(body)).await;
        got.is(400);
        answers.push_str(&got.body.to_string());
    }
    let cas = vault
        .post("secret/data/a", json!({"data": {}, "options": {"cas": "MARKED"}}))
        .await;
    answers.push_str(&cas.body.to_string());
    vault
        .post("auth/token/create", json!({"policies": ["x"], "ttl": "MARKED"}))
        .await
        .is(400);
    vault.store.faults().add(Rule::new(Fault::status(500)));
    vault.get("secret/data/a").await.is(500);

    let azure = vault.store.key_vault().unwrap();
    azure.put("a", "MARKED-value").unwrap();
    let identity = Identity::new("app", Proof::Secret(SecretString::from("MARKED-secret")));
    azure.register(identity.clone());
    let token = azure.issue_token("app", Duration::from_secs(60));
    let address = vault.store.key_vault_addr().unwrap();
    let authority = Certificate::from_pem(vault.store.key_vault_ca_pem().unwrap().as_bytes()).unwrap();
    let https = Client::builder()
        .resolve("myvault.vault.azure.net", address)
        .tls_certs_only([authority])
        .build()
        .unwrap();
    for bearer in [token.expose_secret(), "MARKED-bearer"] {
        let url = "https://myvault.vault.azure.net/secrets/a?api-version=7.4";
        https.get(url).bearer_auth(bearer).send().await.unwrap();
    }

    let debug = format!("{azure:?} {identity:?} {token:?} {:?} ", vault.store.cluster())
        + &format!(
            "{:?} {:?} {:?} {:?} {:?} {:?}",
            vault.store,
            vault.store.vault(),
            vault.store.requests().seen(),
            vault.store.faults(),
            vault.store.root_token(),
            Options {
                root_token: Some(SecretString::from("MARKED")),
                ..Options::default()
            },
        );
    let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("/v1/secret/data/a"), "the log was captured: {log}");
    for text in [&log, &debug, &answers] {
        assert!(
            !text.contains("MARKED") && !text.contains(token.expose_secret()),
            "{text}"
        );
    }
    // The twin: had it been logged, it would have been found.
    tracing::debug!("MARKED");
    assert!(String::from_utf8_lossy(&captured.0.lock().unwrap()).contains("MARKED"));
}
