//! Kubernetes logins.
use crate::client::{Got, Wire, start};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_devstore::Cluster;

const HOUR: Duration = Duration::from_secs(3600);

async fn with_role() -> Wire {
    let vault = start().await;
    vault
        .post("sys/auth/kubernetes", json!({"type": "kubernetes"}))
        .await
        .is(204);
    let config = json!({"kubernetes_host": "https://kubernetes.default.svc"});
    vault.post("auth/kubernetes/config", config).await.is(204);
    let role = json!({
        "bound_service_account_names": "app,worker-*",
        "bound_service_account_namespaces": ["prod"],
        "audience": "vault",
        "token_policies": ["read"],
        "token_ttl": "20m",
    });
    vault.post("auth/kubernetes/role/orders", role).await.is(204);
    vault
}

async fn log_in(vault: &Wire, role: &str, token: &SecretString) -> Got {
    let body = json!({"role": role, "jwt": token.expose_secret()});
    vault.with_token("").post("auth/kubernetes/login", body).await
}

#[tokio::test]
async fn a_service_account_logs_in_and_gets_the_roles_policies() {
    let vault = with_role().await;
    for name in ["app", "worker-7"] {
        let token = vault
            .store
            .cluster()
            .service_account_token("prod", name, "vault", HOUR);
        let got = log_in(&vault, "orders", &token).await;
        got.is(200);
        assert_eq!(got.body["auth"]["policies"], json!(["default", "read"]));
        assert_eq!(got.body["auth"]["lease_duration"], 1200);
        assert_eq!(got.body["auth"]["metadata"]["service_account_name"], name);
        assert_eq!(got.body["auth"]["metadata"]["role"], "orders");
        let member = vault.with_token(got.body["auth"]["client_token"].as_str().unwrap());
        let own = member.get("auth/token/lookup-self").await;
        assert_eq!(own.data()["path"], "auth/kubernetes/login");
        assert_eq!(own.data()["display_name"], format!("kubernetes-prod-{name}"));
        member.post("auth/token/renew-self", json!({})).await.is(200);
    }
}

#[tokio::test]
async fn whoever_is_not_meant_is_refused_with_the_reason() {
    let vault = with_role().await;
    let cluster = vault.store.cluster();
    let token = |namespace, name, audience| cluster.service_account_token(namespace, name, audience, HOUR);
    let good = token("prod", "app", "vault");
    for (role, token, status, why) in [
        ("nobody", good.clone(), 400, "invalid role name \"nobody\""),
        ("", good.clone(), 400, "missing role"),
        ("orders", SecretString::from(""), 400, "missing jwt"),
        (
            "orders",
            SecretString::from("nonsense"),
            403,
            "error parsing token",
        ),
        (
            "orders",
            token("prod", "app", "other"),
            403,
            "invalid audience (aud) claim: audience claim does not match any expected audience",
        ),
        (
            "orders",
            token("prod", "other", "vault"),
            403,
            "service account name not authorized",
        ),
        (
            "orders",
            token("dev", "app", "vault"),
            403,
            "namespace not authorized",
        ),
        (
            "orders",
            Cluster::new(vault.store.clock().clone()).service_account_token("prod", "app", "vault", HOUR),
            403,
            "permission denied",
        ),
    ] {
        assert_eq!(log_in(&vault, role, &token).await.error(status), why);
    }
    vault.get("auth/kubernetes/login").await.is(405);
}

#[tokio::test]
async fn an_expired_token_and_one_of_a_deleted_account_are_refused() {
    let vault = with_role().await;
    let cluster = vault.store.cluster();
    let token = cluster.service_account_token("prod", "app", "vault", HOUR);
    log_in(&vault, "orders", &token).await.is(200);

    cluster.delete_service_account("prod", "app");
    assert_eq!(
        log_in(&vault, "orders", &token).await.error(403),
        "permission denied"
    );
    // A new account of the same name is another one.
    let newer = cluster.service_account_token("prod", "app", "vault", HOUR);
    log_in(&vault, "orders", &newer).await.is(200);
    assert_eq!(
        log_in(&vault, "orders", &token).await.error(403),
        "permission denied"
    );

    vault.store.clock().advance(HOUR);
    assert_eq!(
        log_in(&vault, "orders", &newer).await.error(403),
        "permission denied"
    );
    vault.store.clock().advance(HOUR);
    let got = log_in(&vault, "orders", &newer).await;
    assert_eq!(
        got.error(403),
        "invalid expiration time (exp) claim: token is expired"
    );
}

#[tokio::test]
async fn keys_and_issuer_are_checked_when_they_are_configured() {
    let vault = with_role().await;
    let cluster = vault.store.cluster();
    let configure = |extra: Value| {
        let mut config = json!({"kubernetes_host": "https://k8s"});
        config
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        vault.post("auth/kubernetes/config", config)
    };
    let token = cluster.service_account_token("prod", "app", "vault", HOUR);
    configure(json!({"pem_keys": [cluster.public_key_pem()], "issuer": cluster.issuer(), "disable_iss_validation": false})).await.is(204);
    log_in(&vault, "orders", &token).await.is(200);
    configure(json!({"issuer": "https://elsewhere", "disable_iss_validation": false}))
        .await
        .is(204);
    assert_eq!(
        log_in(&vault, "orders", &token).await.error(403),
        "invalid issuer (iss) claim"
    );
    let other = Cluster::new(vault.store.clock().clone());
    configure(json!({"pem_keys": [other.public_key_pem()]}))
        .await
        .is(204);
    assert_eq!(
        log_in(&vault, "orders", &token).await.error(403),
        "permission denied"
    );
    configure(json!({"pem_keys": ["nonsense"]})).await.is(400);
    let without = vault.post("auth/kubernetes/config", json!({})).await;
    assert_eq!(without.error(400), "no host provided");
}

#[tokio::test]
async fn a_mount_without_configuration_and_a_role_without_bounds_do_not_work() {
    let vault = start().await;
    vault
        .post("sys/auth/k", json!({"type": "kubernetes"}))
        .await
        .is(204);
    for (role, why) in [
        (json!({}), "\"bound_service_account_names\" can not be empty"),
        (
            json!({"bound_service_account_names": "*"}),
            "\"bound_service_account_namespaces\" can not be empty",
        ),
        (
            json!({"bound_service_account_names": "*,a", "bound_service_account_namespaces": "*"}),
            "can not mix \"*\" with values",
        ),
    ] {
        assert_eq!(vault.post("auth/k/role/r", role).await.error(400), why);
    }
    let open = json!({"bound_service_account_names": "*", "bound_service_account_namespaces": "*"});
    vault.post("auth/k/role/R", open).await.is(204);
    assert_eq!(vault.list("auth/k/role").await.data()["keys"], json!(["r"]));
    assert_eq!(
        vault.get("auth/k/role/r").await.data()["bound_service_account_names"],
        json!(["*"])
    );
    let token = vault
        .store
        .cluster()
        .service_account_token("any", "one", "vault", HOUR);
    let body = json!({"role": "r", "jwt": token.expose_secret()});
    assert_eq!(
        vault.post("auth/k/login", body).await.error(500),
        "could not load backend configuration"
    );
    vault.get("auth/k/config").await.is(404);
    vault.delete("auth/k/role/r").await.is(204);
    vault.get("auth/k/role/r").await.is(404);
}
