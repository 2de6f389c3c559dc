//! KV version 1, at `kv/`.
use crate::client::start;
use serde_json::json;

#[tokio::test]
async fn a_value_is_replaced_as_a_whole() {
    let vault = start().await;
    vault
        .post("kv/orders", json!({"IsPaused": "true", "reason": "x"}))
        .await
        .is(204);
    vault
        .post("kv/orders", json!({"IsPaused": "false"}))
        .await
        .is(204);
    let read = vault.get("kv/orders").await;
    assert_eq!(read.data(), &json!({"IsPaused": "false"}));
    assert_eq!(read.body["lease_duration"], 2_764_800);
    assert_eq!(read.body["renewable"], false);
    assert_eq!(read.body["lease_id"], "");
    assert_eq!(read.body["mount_type"], "kv");
    assert_eq!(read.body["request_id"].as_str().unwrap().len(), 36);
}

#[tokio::test]
async fn a_ttl_in_the_value_is_the_lease_duration() {
    let vault = start().await;
    vault.post("kv/a", json!({"ttl": "30m", "v": 1})).await.is(204);
    assert_eq!(vault.get("kv/a").await.body["lease_duration"], 1800);
    vault.post("kv/a", json!({"lease": "nonsense"})).await.is(204);
    assert_eq!(vault.get("kv/a").await.body["lease_duration"], 2_764_800);
}

#[tokio::test]
async fn what_is_missing_is_404_with_an_empty_list_of_errors() {
    let vault = start().await;
    let missing = vault.get("kv/nobody").await;
    assert_eq!((missing.status, &missing.body), (404, &json!({"errors": []})));
    let empty = vault.list("kv/").await;
    assert_eq!((empty.status, &empty.body), (404, &json!({"errors": []})));
}

#[tokio::test]
async fn lists_show_keys_and_folders_of_one_level() {
    let vault = start().await;
    for key in ["a", "team/b", "team/deep/c", "team", "z"] {
        vault.post(&format!("kv/{key}"), json!({"v": 1})).await.is(204);
    }
    assert_eq!(
        vault.list("kv").await.data()["keys"],
        json!(["a", "team", "team/", "z"])
    );
    assert_eq!(
        vault.get("kv/team?list=true").await.data()["keys"],
        json!(["b", "deep/"])
    );
    vault.delete("kv/team/b").await.is(204);
    vault.delete("kv/team/b").await.is(204);
    assert_eq!(vault.list("kv/team/").await.data()["keys"], json!(["deep/"]));
}

#[tokio::test]
async fn what_vault_refuses_is_refused() {
    let vault = start().await;
    assert_eq!(
        vault.post("kv/a", json!({})).await.error(400),
        "missing data fields"
    );
    assert!(
        vault
            .post("kv/a/", json!({"v": 1}))
            .await
            .error(400)
            .contains("ending in '/'")
    );
    assert!(
        vault
            .patch("kv/a", json!({"v": 1}))
            .await
            .error(405)
            .contains("unsupported operation")
    );
    vault.get("kv/a?list=perhaps").await.is(400);
}
