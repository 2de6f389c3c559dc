//! Who may do what.
use crate::client::{send, start};
use serde_json::json;

#[tokio::test]
async fn a_token_may_do_what_its_policies_say_and_no_more() {
    let vault = start().await;
    vault
        .post("secret/data/orders", json!({"data": {"v": 1}}))
        .await
        .is(200);
    let text = r#"path "secret/data/orders" { capabilities = ["read"] }"#;
    vault
        .post("sys/policies/acl/read", json!({"policy": text}))
        .await
        .is(204);
    let reader = vault.child(json!({"policies": ["read"], "ttl": "1h"})).await;
    reader.get("secret/data/orders").await.is(200);
    for got in [
        reader.get("secret/data/others").await,
        reader.get("nowhere/at/all").await,
        reader.post("secret/data/orders", json!({"data": {"v": 2}})).await,
        reader
            .patch("secret/data/orders", json!({"data": {"v": 2}}))
            .await,
        reader.delete("secret/data/orders").await,
        reader.list("secret/metadata").await,
        reader.get("sys/mounts").await,
        reader.post("sys/seal", json!({})).await,
    ] {
        assert_eq!(got.error(403), "1 error occurred:\n\t* permission denied\n\n");
    }
    // A policy that changes changes the tokens that have it.
    let text = r#"path "secret/data/orders" { capabilities = ["deny"] }"#;
    vault
        .post("sys/policies/acl/read", json!({"policy": text}))
        .await
        .is(204);
    reader.get("secret/data/orders").await.is(403);
    vault.delete("sys/policies/acl/read").await.is(204);
    reader.get("secret/data/orders").await.is(403);
}

#[tokio::test]
async fn create_and_update_are_different_rights() {
    let vault = start().await;
    let text = r#"
        path "secret/data/*" { capabilities = ["create"] }
        path "kv/*" { capabilities = ["update"] }
    "#;
    vault
        .post("sys/policies/acl/w", json!({"policy": text}))
        .await
        .is(204);
    let writer = vault.child(json!({"policies": ["w"], "ttl": "1h"})).await;
    writer
        .post("secret/data/a", json!({"data": {"v": 1}}))
        .await
        .is(200);
    writer
        .post("secret/data/a", json!({"data": {"v": 2}}))
        .await
        .is(403);
    writer.post("kv/a", json!({"v": 1})).await.is(403);
    vault.post("kv/a", json!({"v": 1})).await.is(204);
    writer.post("kv/a", json!({"v": 2})).await.is(204);
}

#[tokio::test]
async fn some_paths_ask_for_sudo() {
    let vault = start().await;
    let text = r#"
        path "sys/seal" { capabilities = ["update"] }
        path "sys/auth/*" { capabilities = ["update", "sudo"] }
    "#;
    vault
        .post("sys/policies/acl/ops", json!({"policy": text}))
        .await
        .is(204);
    let ops = vault.child(json!({"policies": ["ops"], "ttl": "1h"})).await;
    ops.post("sys/seal", json!({})).await.is(403);
    ops.post("sys/auth/app", json!({"type": "approle"})).await.is(204);
}

#[tokio::test]
async fn capabilities_are_told_for_oneself_and_for_others() {
    let vault = start().await;
    let text = r#"
        path "secret/data/*" { capabilities = ["read", "list"] }
        path "secret/data/x" { capabilities = ["deny"] }
    "#;
    vault
        .post("sys/policies/acl/c", json!({"policy": text}))
        .await
        .is(204);
    let child = vault.child(json!({"policies": ["c"], "ttl": "1h"})).await;
    let paths = json!({"paths": ["secret/data/a", "secret/data/x", "kv/a"]});
    let own = child.post("sys/capabilities-self", paths.clone()).await;
    assert_eq!(own.data()["secret/data/a"], json!(["read", "list"]));
    assert_eq!(own.data()["secret/data/x"], json!(["deny"]));
    assert_eq!(own.body["kv/a"], json!(["deny"]));
    let one = child
        .post("sys/capabilities-self", json!({"path": "secret/data/a"}))
        .await;
    assert_eq!(one.data()["capabilities"], json!(["read", "list"]));
    let other = vault
        .post("sys/capabilities", json!({"token": child.token, "path": "kv/a"}))
        .await;
    assert_eq!(other.data()["capabilities"], json!(["deny"]));
    let root = vault.post("sys/capabilities-self", json!({"path": "kv/a"})).await;
    assert_eq!(root.data()["capabilities"], json!(["root"]));
    assert_eq!(
        vault.post("sys/capabilities-self", json!({})).await.error(400),
        "paths must be supplied"
    );
    vault
        .post("sys/capabilities", json!({"token": "hvs.x", "path": "a"}))
        .await
        .is(400);
}

#[tokio::test]
async fn policies_are_written_read_listed_and_deleted_under_both_names() {
    let vault = start().await;
    let text = "path \"a\" { capabilities = [\"read\"] }";
    let upper = vault.post("sys/policies/acl/Mine", json!({"policy": text})).await;
    assert!(
        upper.body["warnings"][0]
            .as_str()
            .unwrap()
            .contains("converted to mine")
    );
    assert_eq!(vault.get("sys/policies/acl/mine").await.data()["policy"], text);
    send(
        vault
            .request("PUT", "sys/policy/old")
            .body(json!({"rules": text}).to_string()),
    )
    .await
    .is(204);
    let old = vault.get("sys/policy/old").await;
    assert_eq!(
        (&old.data()["rules"], &old.body["rules"]),
        (&json!(text), &json!(text))
    );
    assert_eq!(
        vault.list("sys/policies/acl").await.data()["keys"],
        json!(["default", "mine", "old", "root"])
    );
    assert_eq!(
        vault.get("sys/policy").await.body["policies"],
        json!(["default", "mine", "old", "root"])
    );
    vault.delete("sys/policies/acl/mine").await.is(204);
    vault.get("sys/policies/acl/mine").await.is(404);
    vault.delete("sys/policies/acl/default").await.is(400);
    vault
        .post("sys/policies/acl/root", json!({"policy": text}))
        .await
        .is(400);
    for bad in ["", "nonsense", "path \"a\" { capabilities = [\"fly\"] }"] {
        vault
            .post("sys/policies/acl/bad", json!({"policy": bad}))
            .await
            .is(400);
    }
    vault.get("sys/policies/acl/bad").await.is(404);
}

#[tokio::test]
async fn a_token_with_a_policy_that_does_not_exist_is_made_with_a_warning() {
    let vault = start().await;
    let made = vault
        .post("auth/token/create", json!({"policies": ["nobody"], "ttl": "1h"}))
        .await;
    assert_eq!(made.body["warnings"], json!(["Policy \"nobody\" does not exist"]));
    assert_eq!(made.body["auth"]["policies"], json!(["default", "nobody"]));
}
