//! KV version 2, at `secret/`.
use crate::client::{send, start, start_with};
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_devstore::Options;

#[tokio::test]
async fn a_write_is_a_new_version_and_a_read_gives_the_last() {
    let vault = start().await;
    let first = vault
        .post("secret/data/orders", json!({"data": {"IsPaused": true}}))
        .await;
    let metadata = first.data();
    assert_eq!(metadata["version"], 1);
    assert_eq!(metadata["deletion_time"], "");
    assert_eq!(metadata["destroyed"], false);
    assert_eq!(metadata["custom_metadata"], Value::Null);
    vault
        .post(
            "secret/data/orders",
            json!({"data": {"IsPaused": false, "by": "ana"}, "options": {}}),
        )
        .await
        .is(200);
    let read = vault.get("secret/data/orders").await;
    assert_eq!(read.data()["data"], json!({"IsPaused": false, "by": "ana"}));
    assert_eq!(read.data()["metadata"]["version"], 2);
    let old = vault.get("secret/data/orders?version=1").await;
    assert_eq!(old.data()["data"], json!({"IsPaused": true}));
    assert_eq!(old.data()["metadata"]["created_time"], metadata["created_time"]);
    let put = send(
        vault
            .request("PUT", "secret/data/orders")
            .body(r#"{"data":{"v":3}}"#),
    )
    .await;
    assert_eq!(put.data()["version"], 3);
}

#[tokio::test]
async fn times_are_rfc3339_in_utc_and_ordered() {
    let vault = start().await;
    let mut last = String::new();
    for version in 0..3 {
        let written = vault.post("secret/data/t", json!({"data": {"n": version}})).await;
        let created = written.data()["created_time"].as_str().unwrap().to_owned();
        assert!(
            created.ends_with('Z') && created.contains('T') && created.contains('.'),
            "{created}"
        );
        let parsed: jiff::Timestamp = created.parse().unwrap();
        assert!(
            last.is_empty() || parsed > last.parse().unwrap(),
            "{last} {created}"
        );
        last = created;
    }
}

#[tokio::test]
async fn the_missing_and_the_deleted_are_different_404s() {
    let vault = start().await;
    let missing = vault.get("secret/data/orders").await;
    assert_eq!((missing.status, &missing.body), (404, &json!({"errors": []})));

    vault
        .post("secret/data/orders", json!({"data": {"v": 1}}))
        .await
        .is(200);
    vault.delete("secret/data/orders").await.is(204);
    let deleted = vault.get("secret/data/orders").await;
    assert_eq!(deleted.status, 404);
    assert_eq!(deleted.body["data"]["data"], Value::Null);
    assert_ne!(deleted.body["data"]["metadata"]["deletion_time"], "");
    assert_eq!(deleted.body["data"]["metadata"]["destroyed"], false);

    vault
        .post("secret/undelete/orders", json!({"versions": [1]}))
        .await
        .is(204);
    assert_eq!(
        vault.get("secret/data/orders").await.data()["data"],
        json!({"v": 1})
    );

    vault
        .post("secret/destroy/orders", json!({"versions": "1"}))
        .await
        .is(204);
    let destroyed = vault.get("secret/data/orders").await;
    assert_eq!(destroyed.status, 404);
    assert_eq!(destroyed.body["data"]["metadata"]["destroyed"], true);
    vault
        .post("secret/undelete/orders", json!({"versions": [1]}))
        .await
        .is(204);
    vault.get("secret/data/orders").await.is(404);

    let never = vault.get("secret/data/orders?version=7").await;
    assert_eq!((never.status, &never.body), (404, &json!({"errors": []})));
}

#[tokio::test]
async fn old_versions_are_deleted_by_number() {
    let vault = start().await;
    for version in 1..=3 {
        vault
            .post("secret/data/a", json!({"data": {"n": version}}))
            .await
            .is(200);
    }
    vault
        .post("secret/delete/a", json!({"versions": [1, 2]}))
        .await
        .is(204);
    vault.get("secret/data/a?version=1").await.is(404);
    assert_eq!(vault.get("secret/data/a").await.data()["data"], json!({"n": 3}));
    for path in ["secret/delete/a", "secret/undelete/a", "secret/destroy/a"] {
        assert!(
            vault
                .post(path, json!({}))
                .await
                .error(400)
                .contains("version number")
        );
    }
    // Of a key that nobody knows there is nothing to delete.
    vault
        .post("secret/delete/nobody", json!({"versions": [1]}))
        .await
        .is(204);
}

#[tokio::test]
async fn check_and_set_lets_one_of_two_writers_through() {
    let vault = start().await;
    let write = |cas: Value| {
        vault.post(
            "secret/data/a",
            json!({"data": {"v": 1}, "options": {"cas": cas}}),
        )
    };
    write(json!(0)).await.is(200);
    assert!(
        write(json!(0))
            .await
            .error(400)
            .contains("did not match the current version")
    );
    write(json!("1")).await.is(200);
    assert!(
        write(json!("x"))
            .await
            .error(400)
            .contains("error parsing check-and-set")
    );
    assert_eq!(vault.get("secret/data/a").await.data()["metadata"]["version"], 2);

    vault
        .post("secret/metadata/a", json!({"cas_required": true}))
        .await
        .is(204);
    let without = vault.post("secret/data/a", json!({"data": {"v": 1}})).await;
    assert!(without.error(400).contains("required for this call"));
    vault
        .post("secret/config", json!({"cas_required": true}))
        .await
        .is(204);
    let elsewhere = vault.post("secret/data/b", json!({"data": {"v": 1}})).await;
    assert!(elsewhere.error(400).contains("required for this call"));
    let warned = vault
        .post("secret/metadata/a", json!({"cas_required": false}))
        .await;
    assert!(
        warned.body["warnings"][0]
            .as_str()
            .unwrap()
            .contains("mandated by backend config")
    );
}

#[tokio::test]
async fn a_patch_changes_only_what_it_names() {
    let vault = start().await;
    let missing = vault.patch("secret/data/a", json!({"data": {"v": 1}})).await;
    assert_eq!((missing.status, &missing.body), (404, &Value::Null));

    let whole = json!({"IsPaused": false, "reason": "x", "nested": {"keep": 1, "drop": 2}});
    vault.post("secret/data/a", json!({"data": whole})).await.is(200);
    let change = json!({"data": {"IsPaused": true, "reason": null, "nested": {"drop": null}}});
    assert_eq!(vault.patch("secret/data/a", change).await.data()["version"], 2);
    let read = vault.get("secret/data/a").await;
    assert_eq!(
        read.data()["data"],
        json!({"IsPaused": true, "nested": {"keep": 1}})
    );

    let stale = json!({"data": {"v": 1}, "options": {"cas": 1}});
    assert!(
        vault
            .patch("secret/data/a", stale)
            .await
            .error(400)
            .contains("did not match")
    );
    vault.delete("secret/data/a").await.is(204);
    let deleted = vault.patch("secret/data/a", json!({"data": {"v": 1}})).await;
    deleted.is(404);
    assert_eq!(deleted.body["data"]["version"], 2);
}

#[tokio::test]
async fn a_patch_needs_its_content_type() {
    let vault = start().await;
    let request = |kind: &str| {
        vault
            .request("PATCH", "secret/data/a")
            .header("Content-Type", kind)
            .body("{}")
    };
    assert!(
        send(request("application/json"))
            .await
            .error(415)
            .contains("application/merge-patch+json")
    );
    send(vault.request("PATCH", "secret/data/a").body("{}"))
        .await
        .is(400);
    let got = send(request("application/merge-patch+json; charset=utf-8")).await;
    assert_eq!(got.error(400), "no data provided");
}

#[tokio::test]
async fn a_write_without_data_or_with_data_of_another_kind_is_refused() {
    let vault = start().await;
    assert_eq!(
        vault
            .post("secret/data/a", json!({"IsPaused": true}))
            .await
            .error(400),
        "no data provided"
    );
    for wrong in [json!("text"), json!(3), json!([1]), json!(true)] {
        let got = vault.post("secret/data/a", json!({"data": wrong})).await;
        assert!(got.error(400).contains("\"data\""), "{got:?}");
    }
    for (body, why) in [
        ("{", "failed to decode JSON"),
        ("[1]", "expected an object"),
        ("\u{0}", "failed to decode"),
    ] {
        let got = send(vault.request("POST", "secret/data/a").body(body)).await;
        assert!(got.error(400).contains(why), "{got:?}");
    }
    vault.get("secret/data/a").await.is(404);
    vault.post("secret/data/a", json!({"data": null})).await.is(200);
    assert_eq!(vault.get("secret/data/a").await.data()["data"], json!({}));
}

#[tokio::test]
async fn only_the_last_ten_versions_are_kept_unless_somebody_says_otherwise() {
    let vault = start().await;
    for version in 1..=12 {
        vault
            .post("secret/data/a", json!({"data": {"n": version}}))
            .await
            .is(200);
    }
    let metadata = vault.get("secret/metadata/a").await;
    assert_eq!(metadata.data()["current_version"], 12);
    assert_eq!(metadata.data()["oldest_version"], 3);
    assert_eq!(metadata.data()["versions"].as_object().unwrap().len(), 10);
    vault.get("secret/data/a?version=2").await.is(404);
    vault.get("secret/data/a?version=3").await.is(200);

    vault
        .post("secret/metadata/b", json!({"max_versions": 2}))
        .await
        .is(204);
    for version in 1..=4 {
        vault
            .post("secret/data/b", json!({"data": {"n": version}}))
            .await
            .is(200);
    }
    vault.get("secret/data/b?version=2").await.is(404);
    vault.get("secret/data/b?version=3").await.is(200);
}

#[tokio::test]
async fn metadata_is_written_read_patched_listed_and_deleted() {
    let vault = start().await;
    let custom = json!({"owner": "ana", "tier": "1"});
    vault
        .post(
            "secret/metadata/team/a",
            json!({"custom_metadata": custom, "max_versions": 5}),
        )
        .await
        .is(204);
    let read = vault.get("secret/metadata/team/a").await;
    assert_eq!(read.data()["custom_metadata"], custom);
    assert_eq!(read.data()["max_versions"], 5);
    assert_eq!(read.data()["current_version"], 0);
    assert_eq!(read.data()["delete_version_after"], "0s");
    // A key of which only the metadata exists has no value.
    let value = vault.get("secret/data/team/a").await;
    assert_eq!((value.status, &value.body), (404, &json!({"errors": []})));

    vault
        .patch(
            "secret/metadata/team/a",
            json!({"custom_metadata": {"tier": null, "on": "call"}}),
        )
        .await
        .is(204);
    let read = vault.get("secret/metadata/team/a").await;
    assert_eq!(
        read.data()["custom_metadata"],
        json!({"on": "call", "owner": "ana"})
    );
    vault
        .patch("secret/metadata/nobody", json!({"max_versions": 1}))
        .await
        .is(404);

    vault
        .post("secret/data/b", json!({"data": {"v": 1}}))
        .await
        .is(200);
    assert_eq!(
        vault.list("secret/metadata").await.data()["keys"],
        json!(["b", "team/"])
    );
    assert_eq!(
        vault.list("secret/metadata/team").await.data()["keys"],
        json!(["a"])
    );
    vault.delete("secret/metadata/b").await.is(204);
    vault.get("secret/metadata/b").await.is(404);
    vault.get("secret/data/b").await.is(404);
    // After that version 1 is new again: the number went down, the time did not.
    let again = vault.post("secret/data/b", json!({"data": {"v": 2}})).await;
    assert_eq!(again.data()["version"], 1);

    let long = "x".repeat(600);
    let refused = vault
        .post("secret/metadata/b", json!({"custom_metadata": {"k": long}}))
        .await;
    assert!(refused.error(400).contains("custom_metadata validation failed"));
}

#[tokio::test]
async fn a_version_deletes_itself_when_its_time_is_over() {
    let vault = start().await;
    vault
        .post("secret/metadata/a", json!({"delete_version_after": "1h"}))
        .await
        .is(204);
    vault
        .post("secret/config", json!({"delete_version_after": "30m"}))
        .await
        .is(204);
    vault
        .post("secret/data/a", json!({"data": {"v": 1}}))
        .await
        .is(200);
    let before = vault.get("secret/data/a").await;
    assert_ne!(before.data()["metadata"]["deletion_time"], "");
    vault.store.clock().advance(Duration::from_secs(29 * 60));
    vault.get("secret/data/a").await.is(200);
    vault.store.clock().advance(Duration::from_secs(60));
    let after = vault.get("secret/data/a").await;
    assert_eq!((after.status, &after.body["data"]["data"]), (404, &Value::Null));
}

#[tokio::test]
async fn subkeys_show_the_shape_and_no_value() {
    let vault = start().await;
    let data = json!({"a": "MARKED", "b": {"c": "MARKED", "d": {"e": "MARKED"}}, "f": {}});
    vault.post("secret/data/s", json!({"data": data})).await.is(200);
    let shape = vault.get("secret/subkeys/s").await;
    assert_eq!(
        shape.data()["subkeys"],
        json!({"a": null, "b": {"c": null, "d": {"e": null}}, "f": null})
    );
    let flat = vault.get("secret/subkeys/s?depth=1").await;
    assert_eq!(flat.data()["subkeys"], json!({"a": null, "b": null, "f": null}));
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_say_so() {
    let vault = start().await;
    let invalid = vault.get("secret/orders").await;
    assert_eq!(invalid.status, 404);
    assert!(
        invalid.body["warnings"][0]
            .as_str()
            .unwrap()
            .contains("vault kv get")
    );
    let root = vault.post("secret/data", json!({"data": {}})).await;
    assert!(
        root.body["warnings"][0]
            .as_str()
            .unwrap()
            .contains("Non-listing operations")
    );
    for (method, path) in [
        ("GET", "secret/destroy/a"),
        ("DELETE", "secret/undelete/a"),
        ("DELETE", "secret/config"),
    ] {
        let got = send(vault.request(method, path)).await;
        assert!(
            got.error(405).contains("unsupported operation"),
            "{method} {path}"
        );
    }
    send(vault.request("TRACE", "secret/data/a")).await.is(405);
    let route = vault.get("nowhere/a").await;
    assert_eq!(
        route.error(404),
        "no handler for route \"nowhere/a\". route entry not found."
    );
}

#[tokio::test]
async fn a_form_is_taken_where_json_is_expected_and_json_under_the_form_type_too() {
    let vault = start().await;
    let form = |body: &'static str| {
        let request = vault
            .request("POST", "kv/a")
            .header("Content-Type", "application/x-www-form-urlencoded");
        send(request.body(body))
    };
    form("IsPaused=true&reason=a+b").await.is(204);
    assert_eq!(
        vault.get("kv/a").await.data(),
        &json!({"IsPaused": "true", "reason": "a b"})
    );
    form(r#" {"IsPaused": false}"#).await.is(204);
    assert_eq!(vault.get("kv/a").await.data(), &json!({"IsPaused": false}));
}

#[tokio::test]
async fn names_with_escapes_are_the_names_they_stand_for() {
    let vault = start_with(Options::default()).await;
    vault
        .post("secret/data/orders--IsPaused%20x%2Fy", json!({"data": {"v": 1}}))
        .await
        .is(200);
    assert_eq!(
        vault.list("secret/metadata").await.data()["keys"],
        json!(["orders--IsPaused x/"])
    );
    let doubled = vault.get("secret/data//a").await;
    assert_eq!(doubled.status, 301);
    assert!(vault.get("secret/data/%2e%2e/a").await.status >= 400);
}

#[tokio::test]
async fn more_than_thirty_two_megabytes_are_refused_and_two_are_not() {
    let vault = start().await;
    let big = |size: usize| json!({"data": {"v": "x".repeat(size)}});
    vault.post("secret/data/a", big(2 * 1024 * 1024)).await.is(200);
    // The refusal may come while the client still sends: then it sees a broken connection.
    let request = vault
        .request("POST", "secret/data/b")
        .body(big(33 * 1024 * 1024).to_string());
    if let Ok(response) = request.send().await {
        assert_eq!(response.status(), 413);
    }
    vault.get("secret/data/b").await.is(404);
}
