//! The requests of the official command line, as it sends them.
use crate::client::{Got, Wire, send, start};
use serde_json::{Value, json};

/// What `vault kv …` asks first: which version is mounted there?
async fn preflight(vault: &Wire, path: &str) -> Got {
    let request = vault.request("GET", &format!("sys/internal/ui/mounts/{path}"));
    send(request.header("X-Vault-Request", "true")).await
}

async fn cli(vault: &Wire, method: &str, path: &str, body: &Value) -> Got {
    let mut request = vault.request(method, path).header("X-Vault-Request", "true");
    if method == "PATCH" {
        request = request.header("Content-Type", "application/merge-patch+json");
    }
    send(request.body(body.to_string())).await
}

#[tokio::test]
async fn kv_put_get_patch_list_and_delete_on_version_2() {
    let vault = start().await;
    let mount = preflight(&vault, "secret/streams/orders").await;
    assert_eq!(mount.data()["path"], "secret/");
    assert_eq!(mount.data()["options"]["version"], "2");
    assert_eq!(mount.data()["type"], "kv");

    let body = json!({"data": {"IsPaused": "true"}, "options": {}});
    cli(&vault, "PUT", "secret/data/streams/orders", &body)
        .await
        .is(200);
    let read = cli(&vault, "GET", "secret/data/streams/orders", &Value::Null).await;
    assert_eq!(read.data()["data"], json!({"IsPaused": "true"}));
    let change = json!({"data": {"IsPaused": "false", "by": "ana"}, "options": {}});
    assert_eq!(
        cli(&vault, "PATCH", "secret/data/streams/orders", &change)
            .await
            .data()["version"],
        2
    );
    let listed = send(vault.request("GET", "secret/metadata/streams?list=true")).await;
    assert_eq!(listed.data()["keys"], json!(["orders"]));
    send(vault.request("DELETE", "secret/data/streams/orders"))
        .await
        .is(204);
}

#[tokio::test]
async fn kv_put_and_get_on_version_1() {
    let vault = start().await;
    assert_eq!(
        preflight(&vault, "kv/orders").await.data()["options"]["version"],
        "1"
    );
    cli(&vault, "PUT", "kv/orders", &json!({"IsPaused": "true"}))
        .await
        .is(204);
    assert_eq!(
        cli(&vault, "GET", "kv/orders", &Value::Null).await.data(),
        &json!({"IsPaused": "true"})
    );
}

#[tokio::test]
async fn the_preflight_shows_a_mount_only_to_who_may_do_something_in_it() {
    let vault = start().await;
    let text = r#"path "secret/data/orders" { capabilities = ["read"] }"#;
    vault
        .post("sys/policies/acl/r", json!({"policy": text}))
        .await
        .is(204);
    let reader = vault.child(json!({"policies": ["r"], "ttl": "1h"})).await;
    preflight(&reader, "secret/orders").await.is(200);
    assert!(
        preflight(&reader, "kv/orders")
            .await
            .error(403)
            .contains("preflight capability check returned 403")
    );
    let nowhere = preflight(&vault, "nowhere/orders").await;
    assert!(
        nowhere
            .error(403)
            .contains("preflight capability check returned 403")
    );
    let all = reader.get("sys/internal/ui/mounts").await;
    assert!(all.data()["secret"].get("secret/").is_some() && all.data()["secret"].get("kv/").is_none());
}

#[tokio::test]
async fn status_and_token_lookup() {
    let vault = start().await;
    let status = vault.with_token("").get("sys/seal-status").await;
    for key in [
        "type",
        "initialized",
        "sealed",
        "t",
        "n",
        "progress",
        "nonce",
        "version",
        "storage_type",
    ] {
        assert!(status.body.get(key).is_some(), "{key}");
    }
    vault.get("auth/token/lookup-self").await.is(200);
}
