//! What is asked of a Vault, scene by scene. Each scene has mounts, policies and paths of its own.
use crate::target::Target;
use crate::transcript::Transcript;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_devstore::{Clock, Cluster};

const NULL: Value = Value::Null;

/// All scenes that the target has, with their transcripts.
pub(crate) async fn all(target: &Target) -> Vec<(&'static str, String)> {
    // What an earlier run left on a server that stays.
    for mount in ["c-kv1", "c-kv2", "c-moved", "c-home", "c-old"] {
        let (_, _) = target
            .ask(
                "DELETE",
                &format!("sys/mounts/{mount}"),
                Some(&target.token),
                &[],
                &NULL,
            )
            .await;
    }
    for login in ["sys/auth/c-approle", "sys/auth/c-jwt"] {
        let (_, _) = target.ask("DELETE", login, Some(&target.token), &[], &NULL).await;
    }
    let mut scenes = vec![
        ("kv_1", kv_1(target).await),
        ("kv_2_versions", kv_2_versions(target).await),
        ("kv_2_deletion", kv_2_deletion(target).await),
        ("policies", policies(target).await),
        ("tokens", tokens(target).await),
        ("approle", approle(target).await),
        ("jwt", jwt(target).await),
        ("a_mount_that_moves", a_mount_that_moves(target).await),
    ];
    let (status, _) = target
        .ask("LIST", "sys/namespaces", Some(&target.token), &[], &NULL)
        .await;
    // 404 with no errors is an empty list; a product without them has no such path.
    let (_, made) = target
        .ask(
            "POST",
            "sys/namespaces/c-team",
            Some(&target.token),
            &[],
            &json!({}),
        )
        .await;
    if status != 405 && made["errors"].is_null() {
        scenes.push(("namespaces", namespaces(target).await));
    } else {
        println!(
            "{}: it has no namespaces, so that scene is not played",
            target.name()
        );
    }
    match &target.unseal_key {
        Some(key) => scenes.push(("seal", seal(target, key).await)),
        None => println!(
            "{}: not sealed, since TIDEGATE_TEST_VAULT_UNSEAL_KEY does not say how to unseal it",
            target.name()
        ),
    }
    scenes
}

async fn kv_1(target: &Target) -> String {
    let mut t = Transcript::new(target);
    t.root(
        "POST",
        "sys/mounts/c-kv1",
        json!({"type": "kv", "options": {"version": "1"}}),
    )
    .await;
    t.say("never written");
    t.root("GET", "c-kv1/orders", NULL).await;
    t.root("LIST", "c-kv1", NULL).await;
    t.say("written and read");
    t.root(
        "PUT",
        "c-kv1/orders",
        json!({"IsPaused": "true", "n": 1, "list": [1], "object": {"a": null}}),
    )
    .await;
    t.root("GET", "c-kv1/orders", NULL).await;
    t.root("GET", "c-kv1/orders/", NULL).await;
    t.root("POST", "c-kv1/team/a", json!({"IsPaused": false})).await;
    t.root("LIST", "c-kv1", NULL).await;
    t.root("GET", "c-kv1/?list=true", NULL).await;
    t.say("what it does not take");
    t.root("POST", "c-kv1/orders", json!({})).await;
    t.root("PATCH", "c-kv1/orders", json!({"n": 2})).await;
    t.root("GET", "c-kv1/data/orders", NULL).await;
    t.say("deleted");
    t.root("DELETE", "c-kv1/orders", NULL).await;
    t.root("GET", "c-kv1/orders", NULL).await;
    t.root("DELETE", "c-kv1/orders", NULL).await;
    t.end()
}

async fn make_kv_2(t: &mut Transcript<'_>) {
    let token = Some(t.target.token.as_str());
    t.target
        .ask("DELETE", "sys/mounts/c-kv2", token, &[], &NULL)
        .await;
    t.root(
        "POST",
        "sys/mounts/c-kv2",
        json!({"type": "kv", "options": {"version": "2"}}),
    )
    .await;
    // A new mount may still be setting itself up: its first answers say so.
    while t.target.ask("GET", "c-kv2/config", token, &[], &NULL).await.0 != 200 {}
}

async fn kv_2_versions(target: &Target) -> String {
    let mut t = Transcript::new(target);
    make_kv_2(&mut t).await;
    t.say("never written");
    t.root("GET", "c-kv2/data/orders", NULL).await;
    t.root("GET", "c-kv2/metadata/orders", NULL).await;
    t.root("LIST", "c-kv2/metadata", NULL).await;
    t.say("three versions");
    for n in 1..=3 {
        t.root(
            "POST",
            "c-kv2/data/orders",
            json!({"data": {"IsPaused": n == 2, "n": n}}),
        )
        .await;
    }
    t.root("GET", "c-kv2/data/orders", NULL).await;
    t.root("GET", "c-kv2/data/orders?version=1", NULL).await;
    t.root("GET", "c-kv2/data/orders?version=0", NULL).await;
    t.root("GET", "c-kv2/data/orders?version=9", NULL).await;
    t.root("GET", "c-kv2/metadata/orders", NULL).await;
    t.say("check and set");
    t.root(
        "POST",
        "c-kv2/data/orders",
        json!({"options": {"cas": 0}, "data": {"n": 4}}),
    )
    .await;
    t.root(
        "POST",
        "c-kv2/data/orders",
        json!({"options": {"cas": 3}, "data": {"n": 4}}),
    )
    .await;
    t.root(
        "POST",
        "c-kv2/data/new",
        json!({"options": {"cas": 0}, "data": {"n": 1}}),
    )
    .await;
    t.say("patch");
    let merge = [("Content-Type", "application/merge-patch+json")];
    t.root("GET", "c-kv2/data/orders", NULL).await;
    t.ask(
        "root",
        "PATCH",
        "c-kv2/data/orders",
        &merge,
        json!({"data": {"by": "ana", "n": null}}),
    )
    .await;
    t.root("GET", "c-kv2/data/orders", NULL).await;
    t.root("PATCH", "c-kv2/data/orders", json!({"data": {"n": 1}}))
        .await;
    t.ask(
        "root",
        "PATCH",
        "c-kv2/data/nobody",
        &merge,
        json!({"data": {"n": 1}}),
    )
    .await;
    t.say("what it does not take");
    t.root("POST", "c-kv2/data/orders", json!({"IsPaused": true}))
        .await;
    t.root("POST", "c-kv2/data/orders", json!({"data": "text"})).await;
    t.root("POST", "c-kv2/data/orders", json!({"data": null})).await;
    t.root("GET", "c-kv2/data", NULL).await;
    t.root("GET", "c-kv2/orders", NULL).await;
    t.root("POST", "c-kv2/orders", json!({"data": {"n": 1}})).await;
    t.say("an empty object is a version");
    t.root("POST", "c-kv2/data/empty", json!({"data": {}})).await;
    t.root("GET", "c-kv2/data/empty", NULL).await;
    t.say("only so many are kept");
    t.root(
        "POST",
        "c-kv2/metadata/few",
        json!({"max_versions": 2, "custom_metadata": {"team": "a"}}),
    )
    .await;
    for n in 1..=3 {
        t.root("POST", "c-kv2/data/few", json!({"data": {"n": n}})).await;
    }
    t.root("GET", "c-kv2/data/few?version=1", NULL).await;
    t.root("GET", "c-kv2/metadata/few", NULL).await;
    t.root("LIST", "c-kv2/metadata/", NULL).await;
    t.end()
}

pub(crate) async fn kv_2_deletion(target: &Target) -> String {
    let mut t = Transcript::new(target);
    make_kv_2(&mut t).await;
    let token = &target.token;
    for n in 1..=2 {
        let body = json!({"data": {"n": n}});
        target
            .ask("POST", "c-kv2/data/gone", Some(token), &[], &body)
            .await;
    }
    t.say("the newest, deleted: 404 with a body");
    t.root("DELETE", "c-kv2/data/gone", NULL).await;
    t.root("GET", "c-kv2/data/gone", NULL).await;
    t.root("GET", "c-kv2/data/gone?version=1", NULL).await;
    t.root("GET", "c-kv2/metadata/gone", NULL).await;
    t.root("LIST", "c-kv2/metadata/", NULL).await;
    t.say("undeleted");
    t.root("POST", "c-kv2/undelete/gone", json!({"versions": [2]}))
        .await;
    t.root("GET", "c-kv2/data/gone", NULL).await;
    t.say("deleted by number");
    t.root("POST", "c-kv2/delete/gone", json!({"versions": [1, 2]}))
        .await;
    t.root("GET", "c-kv2/data/gone?version=1", NULL).await;
    t.say("destroyed");
    t.root("PUT", "c-kv2/destroy/gone", json!({"versions": [2]}))
        .await;
    t.root("GET", "c-kv2/data/gone", NULL).await;
    t.root("POST", "c-kv2/undelete/gone", json!({"versions": [1, 2]}))
        .await;
    t.root("GET", "c-kv2/data/gone", NULL).await;
    t.root("GET", "c-kv2/data/gone?version=1", NULL).await;
    t.say("a new version after that");
    t.root("POST", "c-kv2/data/gone", json!({"data": {"n": 3}})).await;
    t.root("GET", "c-kv2/data/gone", NULL).await;
    t.say("the metadata, deleted: as if it had never been");
    t.root("DELETE", "c-kv2/metadata/gone", NULL).await;
    t.root("GET", "c-kv2/data/gone", NULL).await;
    t.root("GET", "c-kv2/metadata/gone", NULL).await;
    t.say("and version 1 again");
    t.root("POST", "c-kv2/data/gone", json!({"data": {"n": 1}})).await;
    t.root("GET", "c-kv2/data/gone", NULL).await;
    t.say("what it does not take");
    t.root("POST", "c-kv2/undelete/gone", json!({})).await;
    t.root("POST", "c-kv2/destroy/gone", json!({"versions": []}))
        .await;
    t.root("POST", "c-kv2/delete/nobody", json!({"versions": [1]}))
        .await;
    t.root("POST", "c-kv2/undelete/nobody", json!({"versions": [1]}))
        .await;
    t.root("DELETE", "c-kv2/data/nobody", NULL).await;
    t.end()
}

async fn token_of(t: &mut Transcript<'_>, name: &str, fields: Value) {
    let made = t.root("POST", "auth/token/create", fields).await;
    t.name(name, &made["auth"]["client_token"]);
    t.name(&format!("{name}-accessor"), &made["auth"]["accessor"]);
}

async fn policies(target: &Target) -> String {
    let mut t = Transcript::new(target);
    let read = |path: &str| json!({"policy": format!("path \"{path}\" {{ capabilities = [\"read\"] }}")});
    t.root("PUT", "sys/policies/acl/c-reader", read("c-kv2/data/allowed"))
        .await;
    t.root("POST", "c-kv2/data/allowed", json!({"data": {"IsPaused": true}}))
        .await;
    t.root("POST", "c-kv2/data/secret", json!({"data": {"IsPaused": true}}))
        .await;
    token_of(&mut t, "reader", json!({"policies": ["c-reader"], "ttl": "1h"})).await;
    t.say("what it may");
    t.ask("reader", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.ask("reader", "GET", "auth/token/lookup-self", &[], NULL).await;
    t.say("what it may not");
    t.ask(
        "reader",
        "POST",
        "c-kv2/data/allowed",
        &[],
        json!({"data": {"IsPaused": false}}),
    )
    .await;
    t.ask("reader", "DELETE", "c-kv2/data/allowed", &[], NULL).await;
    t.ask("reader", "GET", "c-kv2/data/secret", &[], NULL).await;
    t.ask("reader", "GET", "c-kv2/data/nobody", &[], NULL).await;
    t.ask("reader", "GET", "c-kv2/metadata/allowed", &[], NULL).await;
    t.ask("reader", "LIST", "c-kv2/metadata", &[], NULL).await;
    t.ask("reader", "GET", "c-nowhere/data/x", &[], NULL).await;
    t.ask("reader", "GET", "sys/mounts", &[], NULL).await;
    t.ask("reader", "PUT", "sys/seal", &[], NULL).await;
    t.say("nobody");
    t.ask("-", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.name("stranger", &json!("hvs.nobody-knows-this-one"));
    t.ask("stranger", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.say("root, where nothing is");
    t.root("GET", "c-nowhere/data/x", NULL).await;
    t.root("GET", "c-kv2/nowhere/x", NULL).await;
    t.say("a policy that is changed counts at once");
    t.root("PUT", "sys/policies/acl/c-reader", read("c-kv2/data/secret"))
        .await;
    t.ask("reader", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.ask("reader", "GET", "c-kv2/data/secret", &[], NULL).await;
    let deny = "path \"c-kv2/data/*\" { capabilities = [\"read\"] }\npath \"c-kv2/data/secret\" { capabilities = [\"deny\"] }";
    t.root("PUT", "sys/policies/acl/c-reader", json!({"policy": deny}))
        .await;
    t.ask("reader", "GET", "c-kv2/data/secret", &[], NULL).await;
    t.ask("reader", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.ask(
        "reader",
        "POST",
        "sys/capabilities-self",
        &[],
        json!({"paths": ["c-kv2/data/allowed", "c-kv2/data/secret", "sys/seal"]}),
    )
    .await;
    t.say("with + for one segment");
    let plus = "path \"+/data/allowed\" { capabilities = [\"read\"] }";
    t.root("PUT", "sys/policies/acl/c-reader", json!({"policy": plus}))
        .await;
    t.ask("reader", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.root(
        "PUT",
        "sys/policies/acl/c-reader",
        json!({"policy": "path \"x\" { capabilities = [\"fly\"] }"}),
    )
    .await;
    t.root("DELETE", "sys/policies/acl/c-reader", NULL).await;
    t.ask("reader", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.end()
}

async fn tokens(target: &Target) -> String {
    let mut t = Transcript::new(target);
    t.root(
        "PUT",
        "sys/policies/acl/c-reader",
        json!({"policy": "path \"c-kv2/data/*\" { capabilities = [\"read\"] }"}),
    )
    .await;
    t.say("one that lasts an hour and can be renewed");
    token_of(&mut t, "hour", json!({"policies": ["c-reader"], "ttl": "1h"})).await;
    t.ask("hour", "GET", "auth/token/lookup-self", &[], NULL).await;
    t.ask("hour", "POST", "auth/token/renew-self", &[], json!({}))
        .await;
    t.ask(
        "hour",
        "POST",
        "auth/token/renew-self",
        &[],
        json!({"increment": "2h"}),
    )
    .await;
    t.ask("hour", "GET", "auth/token/lookup-self", &[], NULL).await;
    t.ask("hour", "POST", "auth/token/renew-self", &[], json!({}))
        .await;
    t.say("one that cannot");
    token_of(
        &mut t,
        "fixed",
        json!({"policies": ["c-reader"], "ttl": "1h", "renewable": false}),
    )
    .await;
    t.ask("fixed", "POST", "auth/token/renew-self", &[], json!({}))
        .await;
    t.say("one with a period");
    token_of(
        &mut t,
        "periodic",
        json!({"policies": ["c-reader"], "period": "1h"}),
    )
    .await;
    t.ask("periodic", "POST", "auth/token/renew-self", &[], json!({}))
        .await;
    t.say("one without the default policy may not look itself up");
    token_of(
        &mut t,
        "bare",
        json!({"policies": ["c-reader"], "ttl": "1h", "no_default_policy": true}),
    )
    .await;
    t.ask("bare", "GET", "auth/token/lookup-self", &[], NULL).await;
    t.ask("bare", "POST", "auth/token/renew-self", &[], json!({}))
        .await;
    t.ask("bare", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.say("one for two uses");
    token_of(
        &mut t,
        "twice",
        json!({"policies": ["c-reader"], "ttl": "1h", "num_uses": 2}),
    )
    .await;
    t.ask("twice", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.ask("twice", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.ask("twice", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.say("revoked by itself, by its accessor, with its parent");
    t.ask("fixed", "POST", "auth/token/revoke-self", &[], NULL).await;
    t.ask("fixed", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.root(
        "POST",
        "auth/token/lookup-accessor",
        json!({"accessor": "{hour-accessor}"}),
    )
    .await;
    t.root(
        "POST",
        "auth/token/revoke-accessor",
        json!({"accessor": "{hour-accessor}"}),
    )
    .await;
    t.ask("hour", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.root(
        "POST",
        "auth/token/revoke-accessor",
        json!({"accessor": "{hour-accessor}"}),
    )
    .await;
    t.root("POST", "auth/token/revoke", json!({"token": "{periodic}"}))
        .await;
    t.ask("periodic", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.ask("periodic", "POST", "auth/token/renew-self", &[], json!({}))
        .await;
    t.say("a token that nobody made");
    t.root(
        "POST",
        "auth/token/create",
        json!({"policies": ["c-reader"], "ttl": "soon"}),
    )
    .await;
    t.end()
}

async fn approle(target: &Target) -> String {
    let mut t = Transcript::new(target);
    t.root("POST", "sys/auth/c-approle", json!({"type": "approle"}))
        .await;
    t.root("POST", "auth/c-approle/role/orders", json!({"token_policies": "c-reader", "token_ttl": "1h", "token_max_ttl": "4h", "secret_id_num_uses": 0})).await;
    let id = t.root("GET", "auth/c-approle/role/orders/role-id", NULL).await;
    t.name("role-id", &id["data"]["role_id"]);
    let id = t
        .root("POST", "auth/c-approle/role/orders/secret-id", json!({}))
        .await;
    t.name("secret-id", &id["data"]["secret_id"]);
    t.name("secret-id-accessor", &id["data"]["secret_id_accessor"]);
    t.say("a login");
    let login = json!({"role_id": "{role-id}", "secret_id": "{secret-id}"});
    let made = t
        .ask("-", "POST", "auth/c-approle/login", &[], login.clone())
        .await;
    t.name("app", &made["auth"]["client_token"]);
    t.name("app-accessor", &made["auth"]["accessor"]);
    t.ask("app", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.ask("app", "GET", "auth/token/lookup-self", &[], NULL).await;
    t.ask("app", "POST", "auth/token/renew-self", &[], json!({}))
        .await;
    t.say("refused logins");
    t.ask(
        "-",
        "POST",
        "auth/c-approle/login",
        &[],
        json!({"role_id": "{role-id}", "secret_id": "wrong"}),
    )
    .await;
    t.ask(
        "-",
        "POST",
        "auth/c-approle/login",
        &[],
        json!({"role_id": "wrong", "secret_id": "{secret-id}"}),
    )
    .await;
    t.ask(
        "-",
        "POST",
        "auth/c-approle/login",
        &[],
        json!({"role_id": "{role-id}"}),
    )
    .await;
    t.ask(
        "-",
        "POST",
        "auth/c-approle/login",
        &[],
        json!({"secret_id": "{secret-id}"}),
    )
    .await;
    t.ask("-", "POST", "auth/c-nowhere/login", &[], login.clone())
        .await;
    t.say("the secret id, destroyed: no new token, and the old one lives");
    t.root(
        "POST",
        "auth/c-approle/role/orders/secret-id-accessor/destroy",
        json!({"secret_id_accessor": "{secret-id-accessor}"}),
    )
    .await;
    t.ask("-", "POST", "auth/c-approle/login", &[], login.clone())
        .await;
    t.ask("app", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.say("a secret id for one use");
    t.root(
        "POST",
        "auth/c-approle/role/orders",
        json!({"secret_id_num_uses": 1}),
    )
    .await;
    let id = t
        .root("POST", "auth/c-approle/role/orders/secret-id", json!({}))
        .await;
    t.name("once", &id["data"]["secret_id"]);
    let once = json!({"role_id": "{role-id}", "secret_id": "{once}"});
    t.ask("-", "POST", "auth/c-approle/login", &[], once.clone())
        .await;
    t.ask("-", "POST", "auth/c-approle/login", &[], once).await;
    t.say("the role, deleted");
    t.root("DELETE", "auth/c-approle/role/orders", NULL).await;
    t.ask("-", "POST", "auth/c-approle/login", &[], login).await;
    t.root("GET", "auth/c-approle/role/orders", NULL).await;
    t.end()
}

async fn jwt(target: &Target) -> String {
    let mut t = Transcript::new(target);
    let (ours, theirs) = (Cluster::new(Clock::system()), Cluster::new(Clock::system()));
    let token = |by: &Cluster, name: &str, audience: &str| {
        let token = by.service_account_token("orders", name, audience, Duration::from_secs(600));
        json!(token.expose_secret())
    };
    t.name("key", &json!(ours.public_key_pem().trim().replace('\n', "\\n")));
    t.name("jwt", &token(&ours, "tidegate", "vault"));
    t.name("of-another", &token(&ours, "nobody", "vault"));
    t.name("for-another", &token(&ours, "tidegate", "elsewhere"));
    t.name("forged", &token(&theirs, "tidegate", "vault"));
    t.name(
        "old",
        &json!(
            ours.sign(&json!({
                "iss": ours.issuer(), "aud": ["vault"], "sub": "system:serviceaccount:orders:tidegate",
                "iat": 1_000_000_000, "nbf": 1_000_000_000, "exp": 1_000_000_600,
            }))
            .expose_secret()
        ),
    );
    // With an end and no beginning: it counts only in the last minutes before its end.
    let soon = jiff::Timestamp::now().as_second() + 600;
    let claims = json!({"iss": ours.issuer(), "aud": ["vault"], "exp": soon, "sub": "system:serviceaccount:orders:tidegate"});
    t.name("bare", &json!(ours.sign(&claims).expose_secret()));
    t.root("POST", "sys/auth/c-jwt", json!({"type": "jwt"})).await;
    t.say("before it is configured");
    t.ask(
        "-",
        "POST",
        "auth/c-jwt/login",
        &[],
        json!({"role": "orders", "jwt": "{jwt}"}),
    )
    .await;
    t.root(
        "POST",
        "auth/c-jwt/config",
        json!({"jwt_validation_pubkeys": ["{key}"], "bound_issuer": ours.issuer()}),
    )
    .await;
    t.root("POST", "auth/c-jwt/role/orders", json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
        "bound_subject": "system:serviceaccount:orders:tidegate", "token_policies": "c-reader", "token_ttl": "1h",
    }))
    .await;
    t.say("a login");
    let login = |jwt: &str| json!({"role": "orders", "jwt": jwt});
    let made = t.ask("-", "POST", "auth/c-jwt/login", &[], login("{jwt}")).await;
    t.name("app", &made["auth"]["client_token"]);
    t.ask("app", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.ask("app", "POST", "auth/token/renew-self", &[], json!({}))
        .await;
    t.say("refused logins");
    for jwt in [
        "{of-another}",
        "{for-another}",
        "{forged}",
        "{old}",
        "{bare}",
        "no.token.at-all",
    ] {
        t.ask("-", "POST", "auth/c-jwt/login", &[], login(jwt)).await;
    }
    t.ask(
        "-",
        "POST",
        "auth/c-jwt/login",
        &[],
        json!({"role": "nobody", "jwt": "{jwt}"}),
    )
    .await;
    t.ask("-", "POST", "auth/c-jwt/login", &[], json!({"role": "orders"}))
        .await;
    t.say("the role, deleted: no new token, and the old one lives");
    t.root("DELETE", "auth/c-jwt/role/orders", NULL).await;
    t.ask("-", "POST", "auth/c-jwt/login", &[], login("{jwt}")).await;
    t.ask("app", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.end()
}

async fn a_mount_that_moves(target: &Target) -> String {
    let mut t = Transcript::new(target);
    t.root(
        "POST",
        "sys/mounts/c-old",
        json!({"type": "kv", "options": {"version": "1"}}),
    )
    .await;
    t.root("PUT", "c-old/orders", json!({"IsPaused": true})).await;
    t.root(
        "PUT",
        "sys/policies/acl/c-mover",
        json!({"policy": "path \"c-old/*\" { capabilities = [\"read\"] }"}),
    )
    .await;
    token_of(&mut t, "mover", json!({"policies": ["c-mover"], "ttl": "1h"})).await;
    t.ask("mover", "GET", "c-old/orders", &[], NULL).await;
    let moved = t
        .root("POST", "sys/remount", json!({"from": "c-old", "to": "c-moved"}))
        .await;
    let migration = moved["data"]["migration_id"].as_str().unwrap().to_owned();
    t.name("migration", &json!(migration));
    loop {
        let path = format!("sys/remount/status/{migration}");
        let (_, at) = target.ask("GET", &path, Some(&target.token), &[], &NULL).await;
        match at["data"]["migration_info"]["status"].as_str() {
            Some("success") => break,
            Some("in-progress") => {}
            other => panic!("the mount does not move: {other:?}: {at}"),
        }
    }
    t.root("GET", "sys/remount/status/{migration}", NULL).await;
    t.say("moved away under a reader");
    t.ask("mover", "GET", "c-old/orders", &[], NULL).await;
    t.ask("mover", "GET", "c-moved/orders", &[], NULL).await;
    t.root("GET", "c-old/orders", NULL).await;
    t.root("GET", "c-moved/orders", NULL).await;
    t.say("unmounted, and mounted anew: empty");
    t.root("DELETE", "sys/mounts/c-moved", NULL).await;
    t.root("GET", "c-moved/orders", NULL).await;
    t.root(
        "POST",
        "sys/mounts/c-moved",
        json!({"type": "kv", "options": {"version": "1"}}),
    )
    .await;
    t.root("GET", "c-moved/orders", NULL).await;
    t.say("what is not moved");
    t.root("POST", "sys/mounts/c-moved", json!({"type": "kv"})).await;
    t.root("POST", "sys/mounts/c-other", json!({"type": "nonsense"}))
        .await;
    t.root(
        "POST",
        "sys/remount",
        json!({"from": "c-nowhere", "to": "c-somewhere"}),
    )
    .await;
    t.root("DELETE", "sys/mounts/c-nowhere", NULL).await;
    t.root("DELETE", "sys/mounts/c-moved", NULL).await;
    t.end()
}

async fn namespaces(target: &Target) -> String {
    let mut t = Transcript::new(target);
    let team = [("X-Vault-Namespace", "c-team")];
    t.ask_root(
        &team,
        "POST",
        "sys/mounts/c-home",
        json!({"type": "kv", "options": {"version": "1"}}),
    )
    .await;
    t.ask_root(&team, "PUT", "c-home/orders", json!({"IsPaused": true}))
        .await;
    t.say("by header, by path, and not from outside");
    t.ask_root(&team, "GET", "c-home/orders", NULL).await;
    t.ask_root(&[("X-Vault-Namespace", "c-team/")], "GET", "c-home/orders", NULL)
        .await;
    t.root("GET", "c-team/c-home/orders", NULL).await;
    t.root("GET", "c-home/orders", NULL).await;
    t.say("no such namespace");
    t.ask_root(&[("X-Vault-Namespace", "c-nobody")], "GET", "c-home/orders", NULL)
        .await;
    t.say("a token of the namespace sees nothing outside");
    t.ask_root(
        &team,
        "PUT",
        "sys/policies/acl/c-reader",
        json!({"policy": "path \"c-home/*\" { capabilities = [\"read\"] }"}),
    )
    .await;
    let made = t
        .ask_root(
            &team,
            "POST",
            "auth/token/create",
            json!({"policies": ["c-reader"], "ttl": "1h"}),
        )
        .await;
    t.name("member", &made["auth"]["client_token"]);
    t.ask("member", "GET", "c-home/orders", &team, NULL).await;
    t.ask("member", "GET", "c-home/orders", &[], NULL).await;
    t.ask("member", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.end()
}

async fn seal(target: &Target, key: &str) -> String {
    let mut t = Transcript::new(target);
    t.name("key", &json!(key));
    t.ask("-", "GET", "sys/seal-status", &[], NULL).await;
    t.root("PUT", "sys/seal", NULL).await;
    t.say("sealed");
    t.root("GET", "c-kv2/data/allowed", NULL).await;
    t.ask("-", "GET", "c-kv2/data/allowed", &[], NULL).await;
    t.ask("-", "GET", "sys/seal-status", &[], NULL).await;
    t.ask(
        "-",
        "POST",
        "auth/c-approle/login",
        &[],
        json!({"role_id": "x", "secret_id": "y"}),
    )
    .await;
    t.say("the wrong key, then the right one");
    t.ask("-", "PUT", "sys/unseal", &[], json!({"key": "zzzz"})).await;
    t.ask("-", "PUT", "sys/unseal", &[], json!({"key": "{key}"}))
        .await;
    // A server that has just been unsealed answers 500 or 503 until it is active again.
    while target
        .ask("GET", "c-kv2/data/allowed", Some(&target.token), &[], &NULL)
        .await
        .0
        != 200
    {}
    t.say("as it was");
    t.root("GET", "c-kv2/data/allowed", NULL).await;
    t.end()
}
