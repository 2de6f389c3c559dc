//! Logins to Vault against the dev store, which checks roles, audiences and times as strictly as Vault does.
use crate::bench::{Bench, set_paused};
use crate::vault::Kv2;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_providers::{Provider, Vault, VaultAuth};

const HOUR: Duration = Duration::from_secs(3600);

struct Login {
    bench: Kv2,
    file: tempfile::NamedTempFile,
}

impl Login {
    async fn new() -> Login {
        let bench = Kv2::open().await;
        set_paused(&bench, true).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        Login { bench, file }
    }

    fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.bench.0.store.vault().call(method, path, body);
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    fn put(&self, credential: &str) {
        std::fs::write(&self.file, format!("{credential}\n")).unwrap();
    }

    /// A service account's token as the kubelet projects it.
    fn put_token(&self, audience: &str, lifetime: Duration) {
        let cluster = self.bench.0.store.cluster();
        let token: SecretString = cluster.service_account_token("prod", "orders", audience, lifetime);
        self.put(token.expose_secret());
    }

    fn vault(&self, auth: VaultAuth) -> Vault {
        self.bench.0.vault_by("streams/orders", auth)
    }

    fn kubernetes(&self, role: &str) -> VaultAuth {
        VaultAuth::Kubernetes {
            mount: None,
            role: role.to_owned(),
            token_file: Some(self.file.path().to_owned()),
        }
    }

    fn enable_kubernetes(&self) {
        self.call("POST", "sys/auth/kubernetes", json!({"type": "kubernetes"}));
        let config = json!({"kubernetes_host": "https://kubernetes.default.svc"});
        self.call("POST", "auth/kubernetes/config", config);
        let role = json!({
            "bound_service_account_names": "orders",
            "bound_service_account_namespaces": "prod",
            "audience": "vault",
            "token_policies": ["orders"],
            "token_ttl": "1h",
        });
        self.call("POST", "auth/kubernetes/role/orders", role);
    }

    /// Reads, loses all tokens, and reads on: a login each time, and not one more.
    async fn outlives_a_store_that_forgets(&self, mut vault: Vault, login: &str) {
        for _ in 0..5 {
            vault.read().await.unwrap();
            vault.read().await.unwrap();
            self.bench.0.store.vault().forget_tokens();
        }
        vault.read().await.unwrap();
        assert_eq!(self.bench.0.store.requests().count(login), 6);
    }
}

async fn is_denied(mut vault: Vault) {
    let error = vault.read().await.unwrap_err();
    assert_eq!(error.reading().word(), "denied");
    assert!(error.to_string().contains("logging in"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approle_logs_in_and_outlives_a_store_that_forgets_all_tokens() {
    let login = Login::new().await;
    login.call("POST", "sys/auth/approle", json!({"type": "approle"}));
    let role = json!({"token_policies": ["orders"], "token_ttl": "1h"});
    login.call("POST", "auth/approle/role/orders", role);
    let role_id = login.call("GET", "auth/approle/role/orders/role-id", json!({}));
    let secret_id = login.call("POST", "auth/approle/role/orders/secret-id", json!({}));
    login.put(secret_id["data"]["secret_id"].as_str().unwrap());
    let approle = |role_id: &str| VaultAuth::Approle {
        mount: None,
        role_id: role_id.into(),
        secret_id_file: login.file.path().to_owned(),
    };
    let role_id = role_id["data"]["role_id"].as_str().unwrap();
    let vault = login.vault(approle(role_id));
    login
        .outlives_a_store_that_forgets(vault, "/v1/auth/approle/login")
        .await;
    is_denied(login.vault(approle("nobody"))).await;
    login.put("no-such-secret-id");
    is_denied(login.vault(approle(role_id))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_logs_in_and_outlives_a_store_that_forgets_all_tokens() {
    let login = Login::new().await;
    login.enable_kubernetes();
    login.put_token("vault", HOUR);
    let vault = login.vault(login.kubernetes("orders"));
    login
        .outlives_a_store_that_forgets(vault, "/v1/auth/kubernetes/login")
        .await;
    is_denied(login.vault(login.kubernetes("nobody"))).await;
    login.put_token("another audience", HOUR);
    is_denied(login.vault(login.kubernetes("orders"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_service_account_token_is_read_again_at_the_next_login() {
    let login = Login::new().await;
    login.enable_kubernetes();
    login.put_token("vault", HOUR);
    let mut vault = login.vault(login.kubernetes("orders"));
    vault.read().await.unwrap();
    // What was mounted first is over; the kubelet has put another in its place.
    let store = &login.bench.0.store;
    store.clock().advance(HOUR * 2);
    assert!(
        vault.read().await.is_err(),
        "neither the token nor the one it was got with counts any more"
    );
    login.put_token("vault", HOUR);
    vault.read().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_token_logs_in_and_outlives_a_store_that_forgets_all_tokens() {
    let login = Login::new().await;
    login.call("POST", "sys/auth/ci", json!({"type": "jwt"}));
    let cluster = login.bench.0.store.cluster();
    let config = json!({
        "jwt_validation_pubkeys": [cluster.public_key_pem()],
        "bound_issuer": cluster.issuer(),
    });
    login.call("POST", "auth/ci/config", config);
    let role = json!({
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": "vault",
        "token_policies": "orders",
        "token_ttl": "1h",
    });
    login.call("POST", "auth/ci/role/orders", role);
    login.put_token("vault", HOUR);
    let jwt = |role: &str| VaultAuth::Jwt {
        mount: Some("ci".to_owned()),
        role: role.to_owned(),
        token_file: login.file.path().to_owned(),
    };
    let vault = login.vault(jwt("orders"));
    login
        .outlives_a_store_that_forgets(vault, "/v1/auth/ci/login")
        .await;
    is_denied(login.vault(jwt("nobody"))).await;
    login.put_token("another audience", HOUR);
    is_denied(login.vault(jwt("orders"))).await;
}
