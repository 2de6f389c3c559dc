//! Tokens: their lifetimes, uses, children.
use crate::client::{send, start};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn no_token_and_a_bad_token_are_403() {
    let vault = start().await;
    for path in [
        "secret/data/a",
        "nowhere/a",
        "sys/mounts",
        "auth/token/lookup-self",
    ] {
        assert_eq!(
            vault.with_token("").get(path).await.error(403),
            "permission denied",
            "{path}"
        );
        assert_eq!(
            vault.with_token("hvs.nobody").get(path).await.error(403),
            "permission denied",
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_token_may_come_as_a_bearer() {
    let vault = start().await;
    let bare = vault.with_token("");
    let bearer = bare
        .request("GET", "sys/mounts")
        .header("Authorization", format!("Bearer {}", vault.token));
    send(bearer).await.is(200);
    let basic = bare
        .request("GET", "sys/mounts")
        .header("Authorization", format!("Basic {}", vault.token));
    send(basic).await.is(403);
}

#[tokio::test]
async fn a_token_expires_when_its_time_is_over_and_not_before() {
    let vault = start().await;
    let child = vault.child(json!({"policies": ["root"], "ttl": "10m"})).await;
    let own = child.get("auth/token/lookup-self").await;
    assert_eq!(own.data()["creation_ttl"], 600);
    assert_eq!(own.data()["renewable"], true);
    assert_eq!(own.data()["type"], "service");
    assert_eq!(own.data()["orphan"], false);
    vault.store.clock().advance(Duration::from_secs(599));
    let left = child.get("auth/token/lookup-self").await.data()["ttl"]
        .as_i64()
        .unwrap();
    assert!((0..=1).contains(&left), "{left}");
    vault.store.clock().advance(Duration::from_secs(1));
    assert_eq!(
        child.get("auth/token/lookup-self").await.error(403),
        "permission denied"
    );
}

#[tokio::test]
async fn renewal_gives_new_time_up_to_the_maximum() {
    let vault = start().await;
    let child = vault
        .child(json!({"policies": ["p"], "ttl": "10m", "explicit_max_ttl": "15m"}))
        .await;
    vault.store.clock().advance(Duration::from_secs(300));
    let renewed = child
        .post("auth/token/renew-self", json!({"increment": "8m"}))
        .await;
    renewed.is(200);
    assert_eq!(renewed.body["auth"]["lease_duration"], 480);
    assert_eq!(
        renewed.body["auth"]["client_token"].as_str(),
        Some(child.token.as_str())
    );
    let capped = child
        .post("auth/token/renew-self", json!({"increment": "1h"}))
        .await;
    let granted = capped.body["auth"]["lease_duration"].as_i64().unwrap();
    assert!((599..=600).contains(&granted), "{granted}");
    assert!(
        capped.body["warnings"][0]
            .as_str()
            .unwrap()
            .contains("exceeded the effective max_ttl")
    );
    vault.store.clock().advance(Duration::from_secs(600));
    child.post("auth/token/renew-self", json!({})).await.is(403);
}

#[tokio::test]
async fn a_periodic_token_lives_as_long_as_it_is_renewed() {
    let vault = start().await;
    let child = vault.child(json!({"policies": ["p"], "period": "1m"})).await;
    for _ in 0..100 {
        vault.store.clock().advance(Duration::from_secs(50));
        let renewed = child
            .post("auth/token/renew-self", json!({"increment": "1h"}))
            .await;
        assert_eq!(renewed.body["auth"]["lease_duration"], 60);
    }
    assert_eq!(child.get("auth/token/lookup-self").await.data()["period"], 60);
    vault.store.clock().advance(Duration::from_secs(60));
    child.get("auth/token/lookup-self").await.is(403);
}

#[tokio::test]
async fn what_cannot_be_renewed_says_so() {
    let vault = start().await;
    assert_eq!(
        vault.post("auth/token/renew-self", json!({})).await.error(400),
        "lease is not renewable"
    );
    let fixed = vault
        .child(json!({"policies": ["p"], "ttl": "1m", "renewable": false}))
        .await;
    assert_eq!(
        fixed.post("auth/token/renew-self", json!({})).await.error(400),
        "lease is not renewable"
    );
    let unknown = vault
        .post("auth/token/renew", json!({"token": "hvs.nobody"}))
        .await;
    assert_eq!(unknown.error(400), "token not found");
}

#[tokio::test]
async fn revoking_a_token_takes_its_children_along() {
    let vault = start().await;
    let parent = vault.child(json!({"policies": ["root"]})).await;
    let child = parent.child(json!({"ttl": "1h"})).await;
    let grandchild = child.child(json!({"ttl": "1h"})).await;
    let orphan = parent.child(json!({"ttl": "1h", "no_parent": true})).await;
    assert_eq!(orphan.get("auth/token/lookup-self").await.data()["orphan"], true);
    parent.post("auth/token/revoke-self", json!({})).await.is(204);
    for dead in [&parent, &child, &grandchild] {
        dead.get("auth/token/lookup-self").await.is(403);
    }
    orphan.get("auth/token/lookup-self").await.is(200);
    let left_alone = orphan.child(json!({"ttl": "1h"})).await;
    vault
        .post("auth/token/revoke-orphan", json!({"token": orphan.token}))
        .await
        .is(204);
    orphan.get("auth/token/lookup-self").await.is(403);
    left_alone.get("auth/token/lookup-self").await.is(200);
    vault
        .post("auth/token/revoke", json!({"token": left_alone.token}))
        .await
        .is(204);
    left_alone.get("auth/token/lookup-self").await.is(403);
    vault
        .post("auth/token/revoke", json!({"token": "hvs.nobody"}))
        .await
        .is(204);
}

#[tokio::test]
async fn an_expired_parent_takes_its_children_along() {
    let vault = start().await;
    let parent = vault.child(json!({"policies": ["root"], "ttl": "1m"})).await;
    let child = parent.child(json!({"ttl": "1h"})).await;
    vault.store.clock().advance(Duration::from_secs(61));
    child.get("auth/token/lookup-self").await.is(403);
}

#[tokio::test]
async fn a_token_of_two_uses_works_twice_and_a_refused_use_counts() {
    let vault = start().await;
    let twice = vault
        .child(json!({"policies": ["default"], "num_uses": 2, "ttl": "1h"}))
        .await;
    assert_eq!(twice.post("auth/token/create", json!({})).await.status, 403);
    twice.get("auth/token/lookup-self").await.is(200);
    twice.get("auth/token/lookup-self").await.is(403);
    let again = vault
        .child(json!({"policies": ["root"], "num_uses": 5, "ttl": "1h"}))
        .await;
    let refused = again.post("auth/token/create", json!({})).await;
    assert_eq!(
        refused.error(400),
        "restricted use token cannot generate child tokens"
    );
}

#[tokio::test]
async fn a_child_never_gets_more_than_its_parent() {
    let vault = start().await;
    let text = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    vault
        .post("sys/policies/acl/maker", json!({"policy": text}))
        .await
        .is(204);
    let maker = vault.child(json!({"policies": ["maker"], "ttl": "1h"})).await;
    for (fields, why) in [
        (
            json!({"policies": ["root"]}),
            "child policies must be subset of parent",
        ),
        (
            json!({"policies": ["other"]}),
            "child policies must be subset of parent",
        ),
        (json!({"no_parent": true}), "root or sudo privileges required"),
        (json!({"id": "chosen"}), "root or sudo privileges required"),
        (json!({"period": "1h"}), "root or sudo privileges required"),
        (json!({"num_uses": -1}), "cannot be negative"),
        (json!({"type": "batch"}), "service tokens only"),
    ] {
        let got = maker.post("auth/token/create", fields.clone()).await;
        assert!(got.error(400).contains(why), "{fields} {got:?}");
    }
    let child = maker.child(json!({})).await;
    assert_eq!(
        child.get("auth/token/lookup-self").await.data()["policies"],
        json!(["default", "maker"])
    );
    let expiring_root = vault.child(json!({"policies": ["root"], "ttl": "1h"})).await;
    let refused = expiring_root
        .post("auth/token/create", json!({"policies": ["root"]}))
        .await;
    assert!(refused.error(400).contains("expiring root tokens"));
}

#[tokio::test]
async fn an_accessor_names_a_token_and_never_shows_it() {
    let vault = start().await;
    let made = vault
        .post(
            "auth/token/create",
            json!({"policies": ["default"], "ttl": "1h", "meta": {"who": "ana"}}),
        )
        .await;
    let accessor = made.body["auth"]["accessor"].clone();
    let seen = vault
        .post("auth/token/lookup-accessor", json!({"accessor": accessor}))
        .await;
    assert_eq!(seen.data()["id"], "");
    assert_eq!(seen.data()["meta"], json!({"who": "ana"}));
    let renewed = vault
        .post("auth/token/renew-accessor", json!({"accessor": accessor}))
        .await;
    assert_eq!(renewed.body["auth"]["client_token"], "");
    vault
        .post("auth/token/revoke-accessor", json!({"accessor": accessor}))
        .await
        .is(204);
    let gone = vault
        .post("auth/token/lookup-accessor", json!({"accessor": accessor}))
        .await;
    assert_eq!(gone.error(400), "invalid accessor");
}

#[tokio::test]
async fn lookup_shows_any_token_to_root() {
    let vault = start().await;
    let child = vault
        .child(json!({"policies": ["default"], "ttl": "1h", "display_name": "a b"}))
        .await;
    let seen = vault
        .post("auth/token/lookup", json!({"token": child.token}))
        .await;
    assert_eq!(seen.data()["display_name"], "token-a-b");
    assert_eq!(seen.data()["path"], "auth/token/create");
    assert_eq!(
        vault
            .post("auth/token/lookup", json!({"token": "hvs.x"}))
            .await
            .error(403),
        "bad token"
    );
    let root = vault.get("auth/token/lookup-self").await;
    assert_eq!(root.data()["expire_time"], Value::Null);
    assert_eq!(
        (&root.data()["ttl"], &root.data()["policies"]),
        (&json!(0), &json!(["root"]))
    );
    assert!(root.data().get("renewable").is_none());
}

#[tokio::test]
async fn a_store_that_forgot_its_tokens_refuses_them_all_but_root() {
    let vault = start().await;
    let child = vault.child(json!({"policies": ["root"], "ttl": "1h"})).await;
    vault.store.vault().forget_tokens();
    child.get("sys/mounts").await.is(403);
    vault.get("sys/mounts").await.is(200);
}

#[tokio::test]
async fn wrong_methods_and_unknown_paths_are_told_apart() {
    let vault = start().await;
    assert!(
        vault
            .get("auth/token/create")
            .await
            .error(405)
            .contains("unsupported operation")
    );
    assert!(
        vault
            .get("auth/token/nothing")
            .await
            .error(404)
            .contains("unsupported path")
    );
    assert!(
        vault
            .get("auth/nowhere/role/x")
            .await
            .error(404)
            .contains("no handler for route")
    );
}
