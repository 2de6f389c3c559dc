//! JWT logins.
use crate::client::{Got, Wire, start};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_devstore::Cluster;

const HOUR: Duration = Duration::from_secs(3600);

async fn with_role(role: Value) -> Wire {
    let vault = start().await;
    vault.post("sys/auth/ci", json!({"type": "jwt"})).await.is(204);
    let cluster = vault.store.cluster();
    let config = json!({
        "jwt_validation_pubkeys": [cluster.public_key_pem()],
        "bound_issuer": cluster.issuer(),
        "default_role": "orders",
    });
    vault.post("auth/ci/config", config).await.is(204);
    let mut fields = json!({"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "token_policies": "read"});
    fields
        .as_object_mut()
        .unwrap()
        .extend(role.as_object().unwrap().clone());
    vault.post("auth/ci/role/orders", fields).await.is(204);
    vault
}

async fn log_in(vault: &Wire, token: &SecretString) -> Got {
    let body = json!({"role": "orders", "jwt": token.expose_secret()});
    vault.with_token("").post("auth/ci/login", body).await
}

#[tokio::test]
async fn a_signed_token_logs_in_under_its_role_or_the_default_one() {
    let vault = with_role(json!({})).await;
    let token = vault
        .store
        .cluster()
        .service_account_token("prod", "app", "vault", HOUR);
    let got = log_in(&vault, &token).await;
    got.is(200);
    assert_eq!(got.body["auth"]["policies"], json!(["default", "read"]));
    assert_eq!(got.body["auth"]["metadata"], json!({"role": "orders"}));
    let body = json!({"jwt": token.expose_secret()});
    vault.with_token("").post("auth/ci/login", body).await.is(200);
}

#[tokio::test]
async fn what_does_not_fit_the_role_is_refused_with_the_reason() {
    let vault = with_role(json!({"bound_subject": "system:serviceaccount:prod:app"})).await;
    let cluster = vault.store.cluster();
    let now = vault.store.clock().now().as_second();
    let claims = |change: Value| {
        let mut claims = json!({
            "iss": cluster.issuer(), "aud": "vault", "sub": "system:serviceaccount:prod:app",
            "iat": now, "exp": now + 600,
        });
        claims
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        cluster.sign(&claims)
    };
    log_in(&vault, &claims(json!({}))).await.is(200);
    let other = Cluster::new(vault.store.clock().clone());
    for (token, why) in [
        (
            claims(json!({"aud": ["a", "b"]})),
            "error validating token: invalid audience (aud) claim: audience claim does not match any expected audience",
        ),
        (
            claims(json!({"aud": null})),
            "error validating token: invalid audience (aud) claim: audience claim does not match any expected audience",
        ),
        (
            claims(json!({"iss": "https://elsewhere"})),
            "error validating token: invalid issuer (iss) claim",
        ),
        (
            claims(json!({"sub": "else"})),
            "error validating token: invalid subject (sub) claim",
        ),
        (
            claims(json!({"exp": now - 61})),
            "error validating token: invalid expiration time (exp) claim: token is expired",
        ),
        (
            claims(json!({"nbf": now + 600})),
            "error validating token: invalid not before (nbf) claim: token not yet valid",
        ),
        // A beginning that is not told is when it was issued.
        (
            claims(json!({"iat": now + 600})),
            "error validating token: invalid not before (nbf) claim: token not yet valid",
        ),
        (
            claims(json!({"iat": now + 600, "nbf": now})),
            "error validating token: invalid issued at (iat) claim: token issued in the future",
        ),
        (
            claims(json!({"iat": null, "exp": null})),
            "error validating token: no issued at (iat), not before (nbf), or expiration time (exp) claims in token",
        ),
        (
            other.service_account_token("prod", "app", "vault", HOUR),
            "error validating token: error verifying token signature: no known key successfully validated the token signature",
        ),
        (
            SecretString::from("nonsense"),
            "error validating token: malformed token",
        ),
        (SecretString::from(""), "missing token"),
    ] {
        assert_eq!(log_in(&vault, &token).await.error(400), why);
    }
    let unknown = json!({"role": "nobody", "jwt": "x"});
    assert_eq!(
        vault.post("auth/ci/login", unknown).await.error(400),
        "role \"nobody\" could not be found"
    );
}

#[tokio::test]
async fn bound_claims_are_matched_by_name_and_by_pointer() {
    let bound = json!({"branch": ["main", "release"], "/kubernetes.io/namespace": "prod"});
    let vault = with_role(json!({"bound_claims": bound})).await;
    let cluster = vault.store.cluster();
    let now = vault.store.clock().now().as_second();
    let token = |branch: Value, namespace: &str| {
        cluster.sign(&json!({
            "iss": cluster.issuer(), "aud": "vault", "sub": "x", "iat": now, "exp": now + 600,
            "branch": branch, "kubernetes.io": {"namespace": namespace},
        }))
    };
    log_in(&vault, &token(json!("main"), "prod")).await.is(200);
    log_in(&vault, &token(json!(["dev", "release"]), "prod"))
        .await
        .is(200);
    let got = log_in(&vault, &token(json!("dev"), "prod")).await;
    assert_eq!(
        got.error(400),
        "error validating claims: claim \"branch\" does not match any associated bound claim values"
    );
    assert!(
        log_in(&vault, &token(json!("main"), "dev"))
            .await
            .error(400)
            .contains("/kubernetes.io/namespace")
    );
}

#[tokio::test]
async fn an_audience_nobody_asked_for_is_refused() {
    let vault = with_role(json!({"bound_audiences": [], "bound_subject": "x"})).await;
    let now = vault.store.clock().now().as_second();
    let claims = json!({"iss": vault.store.cluster().issuer(), "aud": "vault", "sub": "x", "iat": now, "exp": now + 600});
    let got = log_in(&vault, &vault.store.cluster().sign(&claims)).await;
    assert_eq!(
        got.error(400),
        "audience claim found in JWT but no audiences bound to the role"
    );
}

#[tokio::test]
async fn a_configuration_or_a_role_that_cannot_work_is_refused() {
    let vault = start().await;
    vault.post("sys/auth/ci", json!({"type": "jwt"})).await.is(204);
    for (config, why) in [
        (json!({}), "must be set"),
        (json!({"jwks_url": "https://x"}), "fetches no keys"),
        (
            json!({"jwt_validation_pubkeys": "nonsense"}),
            "error parsing public key",
        ),
    ] {
        assert!(
            vault
                .post("auth/ci/config", config)
                .await
                .error(400)
                .contains(why)
        );
    }
    for (role, why) in [
        (json!({"user_claim": "sub", "bound_subject": "x"}), "role_type"),
        (
            json!({"role_type": "jwt", "bound_subject": "x"}),
            "user claim must be defined",
        ),
        (
            json!({"role_type": "jwt", "user_claim": "sub"}),
            "at least one bound constraint",
        ),
        (
            json!({"role_type": "jwt", "user_claim": "sub", "bound_claims": {"a": "b"}, "bound_claims_type": "glob"}),
            "bound_claims_type",
        ),
    ] {
        assert!(vault.post("auth/ci/role/r", role).await.error(400).contains(why));
    }
    assert_eq!(
        vault.post("auth/ci/login", json!({"jwt": "x"})).await.error(400),
        "could not load configuration"
    );
    vault.get("auth/ci/config").await.is(404);
    vault.list("auth/ci/role").await.is(404);
}
