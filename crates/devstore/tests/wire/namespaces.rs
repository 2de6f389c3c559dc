//! `X-Vault-Namespace`.
use crate::client::{send, start, start_with};
use serde_json::json;
use tidegate_devstore::Options;

#[tokio::test]
async fn without_the_feature_the_header_is_repeated_and_means_nothing() {
    let vault = start().await;
    vault
        .post("secret/data/a", json!({"data": {"v": 1}}))
        .await
        .is(200);
    let team = vault.in_namespace("team");
    assert_eq!(team.get("secret/data/a").await.data()["data"], json!({"v": 1}));
    let response = team.request("GET", "secret/data/a").send().await.unwrap();
    assert_eq!(response.headers()["x-vault-namespace"], "team");
    assert!(
        vault
            .list("sys/namespaces")
            .await
            .error(404)
            .contains("unsupported path")
    );
    assert!(vault.store.vault().create_namespace("team").is_err());
}

#[tokio::test]
async fn with_the_feature_namespaces_are_apart() {
    let vault = start_with(Options {
        namespaces: true,
        ..Options::default()
    })
    .await;
    vault.store.vault().create_namespace("team").unwrap();
    let team = vault.in_namespace("team");
    vault
        .post("secret/data/a", json!({"data": {"of": "root"}}))
        .await
        .is(200);
    team.get("secret/data/a").await.is(404);
    team.post("secret/data/a", json!({"data": {"of": "team"}}))
        .await
        .is(200);
    assert_eq!(
        vault.get("secret/data/a").await.data()["data"],
        json!({"of": "root"})
    );
    // The namespace may stand in the path, too.
    assert_eq!(
        vault.get("team/secret/data/a").await.data()["data"],
        json!({"of": "team"})
    );
    let unknown = vault.in_namespace("nobody").get("secret/data/a").await;
    assert_eq!(unknown.error(404), "namespace not found");

    team.post("sys/namespaces/inner", json!({})).await.is(200);
    assert_eq!(
        vault.list("sys/namespaces").await.data()["keys"],
        json!(["team/"])
    );
    assert_eq!(
        team.list("sys/namespaces").await.data()["keys"],
        json!(["inner/"])
    );
    vault.in_namespace("team/inner").get("sys/mounts").await.is(200);
    vault.delete("sys/namespaces/team").await.is(400);
    vault.post("sys/namespaces/no/parent", json!({})).await.is(400);
    vault.post("sys/namespaces/sys", json!({})).await.is(400);
}

#[tokio::test]
async fn a_token_works_in_its_namespace_and_below_and_not_beside() {
    let vault = start_with(Options {
        namespaces: true,
        ..Options::default()
    })
    .await;
    for name in ["a", "b"] {
        vault.store.vault().create_namespace(name).unwrap();
    }
    let text = r#"
        path "secret/data/*" { capabilities = ["read", "create", "update"] }
        path "auth/token/lookup-self" { capabilities = ["read"] }
    "#;
    let a = vault.in_namespace("a");
    a.post("sys/policies/acl/rw", json!({"policy": text}))
        .await
        .is(204);
    let member = a.child(json!({"policies": ["rw"], "ttl": "1h"})).await;
    member
        .post("secret/data/x", json!({"data": {"v": 1}}))
        .await
        .is(200);
    assert_eq!(
        member.get("auth/token/lookup-self").await.data()["namespace_path"],
        "a/"
    );
    let beside = vault.in_namespace("b").with_token(&member.token);
    beside.get("secret/data/x").await.is(403);
    let above = vault.with_token(&member.token);
    above.get("secret/data/x").await.is(403);

    vault.delete("sys/namespaces/a").await.is(204);
    let gone = send(member.request("GET", "secret/data/x")).await;
    assert_eq!(gone.error(404), "namespace not found");
    vault
        .post("auth/token/lookup", json!({"token": member.token}))
        .await
        .is(403);
}
