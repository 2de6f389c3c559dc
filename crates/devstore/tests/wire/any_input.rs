//! Whatever is sent, the store answers and goes on.
use crate::client::start;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_devstore::{DevStore, KeyVaultOptions, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SEGMENTS: &[&str] = &[
    "secret",
    "kv",
    "data",
    "metadata",
    "delete",
    "undelete",
    "destroy",
    "subkeys",
    "config",
    "sys",
    "auth",
    "token",
    "create",
    "lookup",
    "renew",
    "revoke",
    "approle",
    "kubernetes",
    "jwt",
    "role",
    "r",
    "secret-id",
    "login",
    "policies",
    "acl",
    "policy",
    "p",
    "mounts",
    "remount",
    "internal",
    "ui",
    "capabilities-self",
    "namespaces",
    "health",
    "unseal",
    "tune",
    "",
    "..",
    "+",
    "*",
    "a",
    "ü",
    "\u{0}",
];

const FIELDS: &[&str] = &[
    "data",
    "options",
    "cas",
    "versions",
    "version",
    "depth",
    "max_versions",
    "delete_version_after",
    "custom_metadata",
    "ttl",
    "period",
    "increment",
    "explicit_max_ttl",
    "num_uses",
    "policies",
    "policy",
    "rules",
    "token",
    "accessor",
    "type",
    "from",
    "to",
    "path",
    "paths",
    "key",
    "secret_id_ttl",
    "secret_id_num_uses",
    "role_id",
    "token_ttl",
    "activecode",
    "meta",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "-?[0-9]{1,20}(ns|us|ms|s|m|h|d|)".prop_map(Value::from),
        r#"path "[a-z/+*]{0,8}" \{ capabilities = \["(read|deny|list)"\] \}"#.prop_map(Value::from),
        Just(json!("kv")),
        Just(json!("approle")),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((proptest::sample::select(FIELDS), inner), 0..4).prop_map(|fields| fields
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

fn request() -> impl Strategy<Value = (&'static str, String, Value)> {
    let method = proptest::sample::select(&["GET", "LIST", "POST", "PATCH", "DELETE", "OPTIONS"][..]);
    let path = vec(proptest::sample::select(SEGMENTS), 1..6).prop_map(|segments| segments.join("/"));
    let fields = vec((proptest::sample::select(FIELDS), value()), 0..5).prop_map(|fields| {
        fields
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<Value>()
    });
    (method, path, fields)
}

#[test]
fn no_request_makes_it_panic_or_answer_with_nothing_known() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = Options {
        namespaces: true,
        ..Options::default()
    };
    let store = runtime.block_on(DevStore::start(options)).unwrap();
    let vault = store.vault();
    for (path, body) in [
        ("sys/auth/approle", json!({"type": "approle"})),
        ("sys/auth/kubernetes", json!({"type": "kubernetes"})),
        ("sys/auth/jwt", json!({"type": "jwt"})),
        ("auth/approle/role/r", json!({})),
        ("secret/data/a", json!({"data": {"v": 1}})),
        ("kv/a", json!({"v": 1})),
    ] {
        vault.call("POST", path, body);
    }
    proptest!(ProptestConfig::with_cases(2_000), |((method, path, fields) in request())| {
        let (status, body) = vault.call(method, &path, fields);
        let status = status.as_u16();
        // 500 is what Vault says where a renewal cannot be granted; it is never an accident here.
        prop_assert!(matches!(status, 200 | 204 | 400 | 403 | 404 | 405 | 500 | 503) || path.starts_with("sys/health"),
            "{method} {path}: {status} {body}");
        if status >= 400 && status != 404 && !path.starts_with("sys/health") {
            prop_assert!(body["errors"].is_array(), "{method} {path}: {status} {body}");
        }
        vault.unseal();
    });
}

#[test]
fn no_request_to_the_key_vault_makes_it_panic() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = Options {
        key_vault: Some(KeyVaultOptions::default()),
        ..Options::default()
    };
    let store = runtime.block_on(DevStore::start(options)).unwrap();
    let vault = store.key_vault().unwrap();
    let parts = [
        "secrets",
        "deletedsecrets",
        "a",
        "b",
        "versions",
        "recover",
        "backup",
        "restore",
        "",
        "x_y",
        "ü",
    ];
    let path = vec(proptest::sample::select(parts.to_vec()), 1..5).prop_map(|parts| parts.join("/"));
    let query = proptest::sample::select(
        &[
            "",
            "?maxresults=1",
            "?maxresults=-1",
            "?$skiptoken=YQ",
            "?$skiptoken=%ff",
        ][..],
    );
    let method = proptest::sample::select(&["GET", "PUT", "PATCH", "POST", "DELETE", "HEAD"][..]);
    let fields = [
        "value",
        "contentType",
        "attributes",
        "tags",
        "enabled",
        "nbf",
        "exp",
    ];
    let body = vec((proptest::sample::select(fields.to_vec()), value()), 0..4).prop_map(|fields| {
        fields
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<Value>()
    });
    proptest!(ProptestConfig::with_cases(2_000), |(method in method, path in path, query in query, body in body)| {
        let (status, body) = vault.call(method, &format!("{path}{query}"), body);
        let status = status.as_u16();
        prop_assert!(matches!(status, 200 | 204 | 400 | 403 | 404 | 405 | 409), "{method} {path}: {status} {body}");
        prop_assert!(status < 400 || body["error"]["code"].is_string(), "{method} {path}: {status} {body}");
    });
}

#[tokio::test]
async fn bytes_that_are_no_request_harm_nobody_else() {
    let vault = start().await;
    let mut seed = fastrand::Rng::with_seed(7);
    for round in 0..200 {
        let mut socket = TcpStream::connect(vault.store.vault_addr()).await.unwrap();
        let mut bytes = match round % 4 {
            0 => b"GET /v1/secret/data/a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n"
                .to_vec(),
            1 => b"POST /v1/secret/data/%ff%fe HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
            2 => b"POST /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
            _ => Vec::new(),
        };
        bytes.extend(std::iter::repeat_with(|| seed.u8(..)).take(64));
        // It may have hung up in the middle: that is an answer too.
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let _ = socket.read_to_end(&mut Vec::new()).await;
    }
    vault.get("sys/health").await.is(200);
}
