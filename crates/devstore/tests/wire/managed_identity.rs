//! Managed identities, as on a machine and in an app service.
use crate::azure::{Azure, start};
use crate::client::{Got, send};
use secrecy::ExposeSecret;
use serde_json::json;
use tidegate_devstore::{Identity, Proof, Side};

const RESOURCE: &str = "https%3A%2F%2Fvault.azure.net";

async fn machine(azure: &Azure, query: &str) -> Got {
    let address = azure.store.identity_addr().unwrap();
    let url = format!("http://{address}/metadata/identity/oauth2/token?{query}");
    send(azure.http.get(url).header("Metadata", "true")).await
}

fn register(azure: &Azure, client_id: &str, system_assigned: bool) {
    let identity = Identity::new(client_id, Proof::Managed { system_assigned });
    azure.vault().register(identity);
}

#[tokio::test]
async fn a_machine_gets_a_token_that_opens_the_vault() {
    let azure = start().await;
    register(&azure, "vm", true);
    let got = machine(&azure, &format!("api-version=2018-02-01&resource={RESOURCE}")).await;
    assert_eq!(got.ok()["client_id"], "vm");
    assert_eq!(got.body["resource"], "https://vault.azure.net");
    let expires: i64 = got.body["expires_on"].as_str().unwrap().parse().unwrap();
    assert!(expires > azure.store.clock().now().as_second() + 86_000);
    azure
        .with_token(got.body["access_token"].as_str().unwrap())
        .get("secrets")
        .await
        .is(200);
    let seen = azure.store.requests().seen();
    assert_eq!(
        (seen[0].side, seen[0].accessor.as_deref()),
        (Side::ManagedIdentity, Some("vm"))
    );
}

#[tokio::test]
async fn an_app_service_shows_its_header() {
    let azure = start().await;
    register(&azure, "app", true);
    let address = azure.store.identity_addr().unwrap();
    let url = format!("http://{address}/msi/token?api-version=2019-08-01&resource={RESOURCE}");
    let header = azure.vault().identity_header();
    let good = azure
        .http
        .get(&url)
        .header("X-IDENTITY-HEADER", header.expose_secret());
    assert_eq!(send(good).await.ok()["client_id"], "app");
    send(azure.http.get(&url)).await.is(401);
    send(azure.http.get(&url).header("X-IDENTITY-HEADER", "wrong"))
        .await
        .is(401);
}

#[tokio::test]
async fn which_identity_it_is_must_be_clear() {
    let azure = start().await;
    let ask = async |extra: &str| {
        machine(
            &azure,
            &format!("api-version=2018-02-01&resource={RESOURCE}{extra}"),
        )
        .await
    };
    assert_eq!(ask("").await.body["error_description"], "Identity not found");
    register(&azure, "one", false);
    assert_eq!(ask("").await.ok()["client_id"], "one");
    register(&azure, "two", false);
    let unclear = ask("").await;
    unclear.is(400);
    assert!(
        unclear.body["error_description"]
            .as_str()
            .unwrap()
            .starts_with("Multiple user assigned identities")
    );
    assert_eq!(ask("&client_id=two").await.ok()["client_id"], "two");
    assert_eq!(
        ask("&client_id=nobody").await.body["error_description"],
        "Identity not found"
    );
    ask("&object_id=x").await.is(400);
    register(&azure, "system", true);
    assert_eq!(ask("").await.ok()["client_id"], "system");
}

#[tokio::test]
async fn what_a_tricked_client_would_send_is_refused() {
    let azure = start().await;
    register(&azure, "vm", true);
    let address = azure.store.identity_addr().unwrap();
    let url =
        format!("http://{address}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={RESOURCE}");
    let without = send(azure.http.get(&url)).await;
    assert_eq!(
        (without.status, &without.body["error"]),
        (400, &json!("invalid_request"))
    );
    let forwarded = azure
        .http
        .get(&url)
        .header("Metadata", "true")
        .header("X-Forwarded-For", "1.2.3.4");
    send(forwarded).await.is(403);
    send(azure.http.post(&url).header("Metadata", "true"))
        .await
        .is(405);
    for query in [
        "resource=https%3A%2F%2Fx",
        "api-version=1&resource=https%3A%2F%2Fx",
        "api-version=2018-02-01",
        "api-version=2018-02-01&resource=x",
    ] {
        machine(&azure, query).await.is(400);
    }
    assert_eq!(
        azure
            .http
            .get(format!("http://{address}/secrets"))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
}
