//! Seal, health, mounts.
use crate::client::{send, start};
use secrecy::ExposeSecret;
use serde_json::json;

#[tokio::test]
async fn a_sealed_store_answers_503_until_it_is_unsealed_and_has_forgotten_nothing() {
    let vault = start().await;
    vault
        .post("secret/data/a", json!({"data": {"v": 1}}))
        .await
        .is(200);
    let child = vault.child(json!({"policies": ["root"], "ttl": "1h"})).await;
    send(vault.request("PUT", "sys/seal")).await.is(204);
    for got in [
        vault.get("secret/data/a").await,
        vault.with_token("hvs.bad").get("secret/data/a").await,
        vault.get("auth/token/lookup-self").await,
        vault.post("auth/token/create", json!({})).await,
    ] {
        assert_eq!(got.error(503), "Vault is sealed");
    }
    let status = vault.with_token("").get("sys/seal-status").await;
    assert_eq!((status.status, &status.body["sealed"]), (200, &json!(true)));
    send(vault.with_token("").request("PUT", "sys/seal"))
        .await
        .is(204);

    assert!(
        vault
            .post("sys/unseal", json!({}))
            .await
            .error(400)
            .contains("'key' must be specified")
    );
    vault.post("sys/unseal", json!({"key": "00"})).await.is(400);
    let key = vault.store.vault().unseal_key();
    let open = vault
        .with_token("")
        .post("sys/unseal", json!({"key": key.expose_secret()}))
        .await;
    assert_eq!((open.status, &open.body["sealed"]), (200, &json!(false)));
    assert_eq!(child.get("secret/data/a").await.data()["data"], json!({"v": 1}));
}

#[tokio::test]
async fn health_tells_the_state_by_its_status() {
    let vault = start().await;
    let nobody = vault.with_token("");
    let health = nobody.get("sys/health").await;
    assert_eq!(
        (health.status, &health.body["sealed"], &health.body["initialized"]),
        (200, &json!(false), &json!(true))
    );
    nobody.get("sys/health?activecode=299").await.is(299);
    nobody.get("sys/health?sealedcode=x").await.is(400);
    nobody.get("sys/health?standbyok=maybe").await.is(400);
    send(nobody.request("POST", "sys/health")).await.is(405);
    assert_eq!(
        nobody
            .request("HEAD", "sys/health")
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    vault.store.vault().seal();
    nobody.get("sys/health").await.is(503);
    nobody
        .get("sys/health?sealedcode=203&standbyok=true")
        .await
        .is(203);
    let head = nobody.request("HEAD", "sys/health").send().await.unwrap();
    assert_eq!(head.status(), 503);
    assert_eq!(head.text().await.unwrap(), "");
}

#[tokio::test]
async fn the_small_questions_before_login_are_answered() {
    let vault = start().await.with_token("");
    assert_eq!(vault.get("sys/init").await.body, json!({"initialized": true}));
    assert_eq!(vault.get("sys/leader").await.body["ha_enabled"], json!(false));
    vault.post("sys/init", json!({})).await.is(400);
    vault.get("elsewhere").await.is(403);
    let outside = vault.http.get(format!("{}/ui/", vault.store.vault_url()));
    send(outside).await.is(404);
}

#[tokio::test]
async fn mounts_are_made_listed_moved_and_removed() {
    let vault = start().await;
    vault
        .post(
            "sys/mounts/team/kv",
            json!({"type": "kv", "options": {"version": "2"}}),
        )
        .await
        .is(204);
    vault
        .post("sys/mounts/old", json!({"type": "kv", "description": "one"}))
        .await
        .is(204);
    let mounts = vault.get("sys/mounts").await;
    assert_eq!(mounts.data()["team/kv/"]["options"]["version"], "2");
    assert_eq!(mounts.body["old/"]["description"], "one");
    assert_eq!(mounts.data()["secret/"]["type"], "kv");
    vault
        .post("team/kv/data/a", json!({"data": {"v": 1}}))
        .await
        .is(200);
    assert_eq!(vault.get("team/kv/data/a").await.data()["data"], json!({"v": 1}));
    for (path, body, why) in [
        ("sys/mounts/secret", json!({"type": "kv"}), "already in use"),
        ("sys/mounts/secret/inner", json!({"type": "kv"}), "already in use"),
        ("sys/mounts/team", json!({"type": "kv"}), "already in use"),
        ("sys/mounts/sys/x", json!({"type": "kv"}), "cannot mount"),
        ("sys/mounts/pki", json!({"type": "pki"}), "plugin not found"),
        ("sys/mounts/x", json!({}), "missing type"),
        (
            "sys/mounts/x",
            json!({"type": "kv", "options": {"version": "3"}}),
            "1 or 2",
        ),
    ] {
        let got = vault.post(path, body).await;
        assert!(got.error(400).contains(why), "{path} {got:?}");
    }

    vault.post("old/a", json!({"v": 1})).await.is(204);
    let moved = vault
        .post("sys/remount", json!({"from": "old", "to": "new/place"}))
        .await;
    let id = moved.body["migration_id"].as_str().unwrap();
    let status = vault.get(&format!("sys/remount/status/{id}")).await;
    assert_eq!(status.data()["migration_info"]["status"], "success");
    assert_eq!(vault.get("new/place/a").await.data(), &json!({"v": 1}));
    assert!(
        vault
            .get("old/a")
            .await
            .error(404)
            .contains("no handler for route")
    );
    vault
        .post("sys/remount", json!({"from": "old", "to": "elsewhere"}))
        .await
        .is(400);
    vault
        .post("sys/remount", json!({"from": "kv", "to": "secret"}))
        .await
        .is(400);

    vault.delete("sys/mounts/new/place").await.is(204);
    vault.delete("sys/mounts/new/place").await.is(204);
    vault.get("new/place/a").await.is(404);
    assert_eq!(
        vault.get("sys/mounts/secret/tune").await.data()["max_lease_ttl"],
        2_764_800
    );
}
