//! AppRole logins.
use crate::client::{Wire, start};
use serde_json::{Value, json};
use std::time::Duration;

async fn with_role(role: Value) -> (Wire, String) {
    let vault = start().await;
    vault
        .post("sys/auth/approle", json!({"type": "approle"}))
        .await
        .is(204);
    vault.post("auth/approle/role/orders", role).await.is(204);
    let id = vault.get("auth/approle/role/orders/role-id").await;
    let id = id.data()["role_id"].as_str().unwrap().to_owned();
    (vault, id)
}

async fn secret_id(vault: &Wire, fields: Value) -> String {
    let made = vault.post("auth/approle/role/orders/secret-id", fields).await;
    made.data()["secret_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_login_gives_a_token_with_the_roles_policies_and_lifetime() {
    let role = json!({"token_policies": ["read"], "token_ttl": "20m", "token_max_ttl": "30m"});
    let (vault, role_id) = with_role(role).await;
    let secret = secret_id(&vault, json!({"metadata": "{\"who\":\"ana\"}"})).await;
    let nobody = vault.with_token("");
    let got = nobody
        .post(
            "auth/approle/login",
            json!({"role_id": role_id, "secret_id": secret}),
        )
        .await;
    got.is(200);
    let auth = &got.body["auth"];
    assert_eq!(auth["policies"], json!(["default", "read"]));
    assert_eq!(auth["lease_duration"], 1200);
    assert_eq!(auth["renewable"], true);
    assert_eq!(auth["metadata"], json!({"role_name": "orders", "who": "ana"}));
    let member = vault.with_token(auth["client_token"].as_str().unwrap());
    let own = member.get("auth/token/lookup-self").await;
    assert_eq!(own.data()["path"], "auth/approle/login");
    assert_eq!(own.data()["orphan"], true);

    // A renewal without increment gives the role's ttl, up to its maximum.
    vault.store.clock().advance(Duration::from_secs(15 * 60));
    let renewed = member.post("auth/token/renew-self", json!({})).await;
    let granted = renewed.body["auth"]["lease_duration"].as_i64().unwrap();
    assert!((899..=900).contains(&granted), "{granted}");
    vault.store.clock().advance(Duration::from_secs(15 * 60));
    member.get("auth/token/lookup-self").await.is(403);
}

#[tokio::test]
async fn a_wrong_role_id_and_a_wrong_secret_id_look_the_same() {
    let (vault, role_id) = with_role(json!({})).await;
    let secret = secret_id(&vault, json!({})).await;
    let login = |body: Value| async { vault.with_token("").post("auth/approle/login", body).await };
    for body in [
        json!({"role_id": "nobody", "secret_id": secret}),
        json!({"role_id": role_id, "secret_id": "wrong"}),
    ] {
        assert_eq!(login(body).await.error(400), "invalid role or secret ID");
    }
    assert_eq!(
        login(json!({"secret_id": secret})).await.error(500),
        "missing role_id"
    );
    assert_eq!(
        login(json!({"role_id": role_id})).await.error(400),
        "missing secret_id"
    );
    assert!(
        vault
            .get("auth/approle/login")
            .await
            .error(405)
            .contains("unsupported operation")
    );
    assert_eq!(
        vault
            .with_token("")
            .post("auth/nowhere/login", json!({}))
            .await
            .error(403),
        "permission denied"
    );
}

#[tokio::test]
async fn a_secret_id_ends_by_time_by_use_and_by_hand() {
    let (vault, role_id) = with_role(json!({"secret_id_ttl": "10m", "secret_id_num_uses": 2})).await;
    let login = |secret: String| {
        let (nobody, role_id) = (vault.with_token(""), role_id.clone());
        async move {
            let body = json!({"role_id": role_id, "secret_id": secret});
            nobody.post("auth/approle/login", body).await.status
        }
    };
    let used_up = secret_id(&vault, json!({})).await;
    assert_eq!(login(used_up.clone()).await, 200);
    assert_eq!(login(used_up.clone()).await, 200);
    assert_eq!(login(used_up).await, 400);

    let destroyed = secret_id(&vault, json!({})).await;
    let path = "auth/approle/role/orders/secret-id";
    let seen = vault
        .post(&format!("{path}/lookup"), json!({"secret_id": destroyed}))
        .await;
    assert_eq!(seen.data()["secret_id_num_uses"], 2);
    let accessor = seen.data()["secret_id_accessor"].clone();
    assert_eq!(vault.list(path).await.data()["keys"], json!([accessor]));
    vault
        .post(
            &format!("{path}-accessor/destroy"),
            json!({"secret_id_accessor": accessor}),
        )
        .await
        .is(204);
    assert_eq!(login(destroyed.clone()).await, 400);
    vault
        .post(
            &format!("{path}-accessor/lookup"),
            json!({"secret_id_accessor": accessor}),
        )
        .await
        .is(404);
    vault
        .post(&format!("{path}/lookup"), json!({"secret_id": destroyed}))
        .await
        .is(204);

    let old = secret_id(&vault, json!({})).await;
    vault.store.clock().advance(Duration::from_secs(600));
    assert_eq!(login(old).await, 400);
}

#[tokio::test]
async fn a_token_outlives_its_secret_id_but_is_not_renewed_without_its_role() {
    let (vault, role_id) = with_role(json!({"token_ttl": "1h"})).await;
    vault
        .post(
            "auth/approle/role/orders/custom-secret-id",
            json!({"secret_id": "chosen"}),
        )
        .await
        .is(200);
    let login = vault
        .with_token("")
        .post(
            "auth/approle/login",
            json!({"role_id": role_id, "secret_id": "chosen"}),
        )
        .await;
    let member = vault.with_token(login.body["auth"]["client_token"].as_str().unwrap());
    vault
        .post(
            "auth/approle/role/orders/secret-id/destroy",
            json!({"secret_id": "chosen"}),
        )
        .await
        .is(204);
    member.post("auth/token/renew-self", json!({})).await.is(200);
    vault.delete("auth/approle/role/orders").await.is(204);
    let refused = member.post("auth/token/renew-self", json!({})).await;
    assert!(refused.error(500).contains("does not exist during renewal"));
    member.get("auth/token/lookup-self").await.is(200);
    vault.delete("sys/auth/approle").await.is(204);
    member.get("auth/token/lookup-self").await.is(403);
}

#[tokio::test]
async fn roles_are_shown_listed_and_guarded() {
    let (vault, _) = with_role(json!({"policies": "a,b", "token_num_uses": 3, "role_id": "fixed"})).await;
    let role = vault.get("auth/approle/role/orders").await;
    assert_eq!(role.data()["token_policies"], json!(["a", "b"]));
    assert_eq!(role.data()["token_num_uses"], 3);
    assert_eq!(
        vault.get("auth/approle/role/orders/role-id").await.data()["role_id"],
        "fixed"
    );
    assert_eq!(
        vault.list("auth/approle/role").await.data()["keys"],
        json!(["orders"])
    );
    vault.get("auth/approle/role/nobody").await.is(404);
    for (fields, why) in [
        (json!({"token_policies": ["root"]}), "root policy"),
        (json!({"token_bound_cidrs": ["10.0.0.0/8"]}), "does not enforce"),
        (json!({"bind_secret_id": false}), "at least one constraint"),
        (
            json!({"token_ttl": "2h", "token_max_ttl": "1h"}),
            "should not be greater",
        ),
        (json!({"token_ttl": "soon"}), "expected a duration"),
        (json!({"token_type": "batch"}), "service tokens only"),
    ] {
        let got = vault.post("auth/approle/role/orders", fields.clone()).await;
        assert!(got.error(400).contains(why), "{fields} {got:?}");
    }
    let mounts = vault.get("sys/auth").await;
    assert_eq!(mounts.data()["approle/"]["type"], "approle");
    assert_eq!(mounts.body["token/"]["type"], "token");
}
