//! The authority: access tokens for client secrets and for federated tokens.
use crate::azure::{AUTHORITY, Azure, send, start};
use crate::client::Got;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_devstore::{Cluster, Identity, Proof};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const SCOPE: &str = "https://vault.azure.net/.default";
const EXCHANGE: &str = "api://AzureADTokenExchange";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const HOUR: Duration = Duration::from_secs(3600);

async fn token(azure: &Azure, tenant: &str, form: &[(&str, &str)]) -> Got {
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish();
    let request = azure
        .http
        .post(format!("{AUTHORITY}/{tenant}/oauth2/v2.0/token"))
        .header("Content-Type", "application/x-www-form-urlencoded");
    send(request.body(body)).await
}

fn aadsts(got: &Got, status: u16, error: &str) -> u64 {
    assert_eq!(
        (got.status, got.body["error"].as_str()),
        (status, Some(error)),
        "{got:?}"
    );
    let code = got.body["error_codes"][0].as_u64().unwrap();
    let text = got.body["error_description"].as_str().unwrap();
    assert!(text.starts_with(&format!("AADSTS{code}: ")), "{text}");
    code
}

#[tokio::test]
async fn a_client_secret_is_traded_for_a_token_that_opens_the_vault_for_an_hour() {
    let azure = start().await;
    azure
        .vault()
        .register(Identity::new("app", Proof::Secret(SecretString::from("right"))));
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "app"),
        ("client_secret", "right"),
        ("scope", SCOPE),
    ];
    let got = token(&azure, TENANT, &form).await;
    assert_eq!(got.ok()["token_type"], "Bearer");
    assert_eq!(got.body["expires_in"], 3599);
    let app = azure.with_token(got.body["access_token"].as_str().unwrap());
    app.get("secrets").await.is(200);
    azure.store.clock().advance(Duration::from_secs(3598));
    app.get("secrets").await.is(200);
    azure.store.clock().advance(Duration::from_secs(1));
    app.get("secrets").await.is(401);
    azure.vault().forget_tokens();
}

#[tokio::test]
async fn every_wrong_credential_has_its_own_code() {
    let azure = start().await;
    azure
        .vault()
        .register(Identity::new("app", Proof::Secret(SecretString::from("right"))));
    azure.vault().register(Identity::new(
        "machine",
        Proof::Managed {
            system_assigned: true,
        },
    ));
    let good = [
        ("grant_type", "client_credentials"),
        ("client_id", "app"),
        ("client_secret", "right"),
        ("scope", SCOPE),
    ];
    let changed = |name: &'static str, value: &'static str| {
        good.map(|(key, old)| (key, if key == name { value } else { old }))
    };
    for (form, status, error, code) in [
        (
            changed("client_secret", "wrong"),
            401,
            "invalid_client",
            7_000_215,
        ),
        (changed("client_secret", ""), 401, "invalid_client", 7_000_218),
        (
            changed("client_id", "nobody"),
            400,
            "unauthorized_client",
            700_016,
        ),
        (
            changed("client_id", "machine"),
            400,
            "unauthorized_client",
            700_016,
        ),
        (changed("client_id", ""), 400, "invalid_request", 900_144),
        (
            changed("scope", "https://vault.azure.net"),
            400,
            "invalid_scope",
            1_002_012,
        ),
        (
            changed("scope", "nonsense/.default"),
            400,
            "invalid_resource",
            500_011,
        ),
        (
            changed("grant_type", "password"),
            400,
            "unsupported_grant_type",
            70003,
        ),
    ] {
        assert_eq!(
            aadsts(&token(&azure, TENANT, &form).await, status, error),
            code,
            "{form:?}"
        );
    }
    assert_eq!(
        aadsts(&token(&azure, "other", &good).await, 400, "invalid_request"),
        90002
    );
    let get = azure.http.get(format!("{AUTHORITY}/{TENANT}/oauth2/v2.0/token"));
    assert_eq!(get.send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn a_token_for_another_resource_does_not_open_the_vault() {
    let azure = start().await;
    azure
        .vault()
        .register(Identity::new("app", Proof::Secret(SecretString::from("right"))));
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "app"),
        ("client_secret", "right"),
        ("scope", "https://storage.azure.com/.default"),
    ];
    let got = token(&azure, TENANT, &form).await;
    let app = azure.with_token(got.ok()["access_token"].as_str().unwrap());
    let refused = app.get("secrets").await;
    assert_eq!(refused.problem(401).0, "Unauthorized");
    assert!(
        refused.body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("audience")
    );
}

#[tokio::test]
async fn a_federated_token_counts_only_for_its_subject_audience_and_time() {
    let azure = start().await;
    let subject = "system:serviceaccount:prod:app".to_owned();
    azure
        .vault()
        .register(Identity::new("workload", Proof::Federated { subject }));
    azure
        .vault()
        .register(Identity::new("secretly", Proof::Secret(SecretString::from("s"))));
    let cluster = azure.store.cluster();
    let trade = async |client: &str, assertion: &str, kind: &str| {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", client),
            ("client_assertion", assertion),
            ("client_assertion_type", kind),
            ("scope", SCOPE),
        ];
        token(&azure, TENANT, &form).await
    };
    let good = cluster.service_account_token("prod", "app", EXCHANGE, HOUR);
    let got = trade("workload", good.expose_secret(), JWT_BEARER).await;
    let workload = azure.with_token(got.ok()["access_token"].as_str().unwrap());
    workload.get("secrets").await.is(200);

    let other = Cluster::new(azure.store.clock().clone());
    let foreign = cluster.sign(&json!({"iss": "https://elsewhere", "sub": "x", "exp": i64::MAX / 4}));
    for (client, assertion, code) in [
        (
            "workload",
            cluster.service_account_token("prod", "other", EXCHANGE, HOUR),
            700_213,
        ),
        (
            "workload",
            cluster.service_account_token("prod", "app", "vault", HOUR),
            700_212,
        ),
        (
            "workload",
            other.service_account_token("prod", "app", EXCHANGE, HOUR),
            5_000_013,
        ),
        ("workload", foreign, 700_211),
        ("workload", SecretString::from("nonsense"), 50027),
        ("secretly", good.clone(), 70025),
    ] {
        let got = trade(client, assertion.expose_secret(), JWT_BEARER).await;
        assert_eq!(aadsts(&got, 401, "invalid_client"), code);
    }
    let got = trade("workload", good.expose_secret(), "other").await;
    assert_eq!(aadsts(&got, 400, "invalid_request"), 900_144);
    azure.store.clock().advance(HOUR);
    let got = trade("workload", good.expose_secret(), JWT_BEARER).await;
    assert_eq!(aadsts(&got, 401, "invalid_client"), 700_024);
}

#[tokio::test]
async fn discovery_leads_to_the_token_endpoint() {
    let azure = start().await;
    let get = async |path: &str| send(azure.http.get(format!("{AUTHORITY}/{path}"))).await;
    let instances = get("common/discovery/instance?api-version=1.1").await;
    let found: &Value = &instances.ok()["tenant_discovery_endpoint"];
    assert_eq!(
        found,
        "https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration"
    );
    let openid = get(&format!("{TENANT}/v2.0/.well-known/openid-configuration")).await;
    assert_eq!(
        openid.ok()["token_endpoint"],
        format!("{AUTHORITY}/{TENANT}/oauth2/v2.0/token")
    );
    let unknown = get("other/v2.0/.well-known/openid-configuration").await;
    assert_eq!(aadsts(&unknown, 400, "invalid_request"), 90002);
    assert_eq!(
        azure
            .http
            .get(format!("{AUTHORITY}/secrets/a"))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
}
