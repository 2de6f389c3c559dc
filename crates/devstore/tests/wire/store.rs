//! Starting, stopping, cutting off; the log of requests; the store in process.
use crate::client::{http, start, start_with};
use secrecy::SecretString;
use serde_json::{Value, json};
use tidegate_devstore::{DevStore, Options, Side, StartError};

#[tokio::test]
async fn a_taken_address_is_named() {
    let first = DevStore::start(Options::default()).await.unwrap();
    let options = Options {
        vault_listen: first.vault_addr(),
        ..Options::default()
    };
    let error = DevStore::start(options).await.unwrap_err();
    assert!(
        error.to_string().contains(&first.vault_addr().to_string()),
        "{error}"
    );
    let StartError::Listen {
        side,
        address,
        source,
    } = error
    else {
        panic!("another error");
    };
    assert_eq!((side, address), (Side::Vault, first.vault_addr()));
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_root_token_that_no_header_can_carry_is_refused() {
    for token in ["", "with space", "with\nnewline", "ümlaut"] {
        let options = Options {
            root_token: Some(SecretString::from(token)),
            ..Options::default()
        };
        assert!(
            matches!(DevStore::start(options).await, Err(StartError::RootToken)),
            "{token:?}"
        );
    }
}

#[tokio::test]
async fn offline_refuses_connections_and_online_has_kept_port_and_secrets() {
    let vault = start().await;
    vault
        .post("secret/data/a", json!({"data": {"v": 1}}))
        .await
        .is(200);
    let address = vault.store.vault_addr();
    vault.store.vault_offline().await.unwrap();
    vault.store.vault_offline().await.unwrap();
    let refused = vault.request("GET", "secret/data/a").send().await.unwrap_err();
    assert!(refused.is_connect(), "{refused:?}");
    // A flip in the outage is seen after it.
    assert_eq!(
        vault.store.vault().put("secret", "a", json!({"v": 2})).unwrap(),
        2
    );
    vault.store.vault_online().await.unwrap();
    vault.store.vault_online().await.unwrap();
    assert_eq!(vault.store.vault_addr(), address);
    assert_eq!(vault.get("secret/data/a").await.data()["data"], json!({"v": 2}));
}

#[tokio::test]
async fn stop_frees_the_port_and_may_be_called_twice() {
    let store = DevStore::start(Options::default()).await.unwrap();
    let address = store.vault_addr();
    store.stop().await;
    store.stop().await;
    let again = DevStore::start(Options {
        vault_listen: address,
        ..Options::default()
    });
    assert_eq!(again.await.unwrap().vault_addr(), address);
    assert!(
        http()
            .get(format!("{}/v1/sys/health", store.vault_url()))
            .send()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_last_handle_takes_the_store_along() {
    let store = DevStore::start(Options::default()).await.unwrap();
    let address = store.vault_addr();
    let other = store.clone();
    drop(store);
    let url = format!("{}/v1/sys/health", other.vault_url());
    assert_eq!(http().get(&url).send().await.unwrap().status(), 200);
    drop(other);
    // The listener ends a moment later: its port can be had again then.
    loop {
        let options = Options {
            vault_listen: address,
            ..Options::default()
        };
        if DevStore::start(options).await.is_ok() {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_log_counts_by_path_and_names_tokens_by_accessor() {
    let vault = start().await;
    let issued = vault
        .store
        .vault()
        .create_token(json!({"policies": ["root"], "ttl": "1h"}))
        .unwrap();
    assert_eq!(
        vault.store.requests().total(),
        0,
        "what is done in process is not a request"
    );
    let child = {
        use secrecy::ExposeSecret;
        vault.with_token(issued.token.expose_secret())
    };
    for _ in 0..3 {
        child.get("secret/data/a?version=1").await.is(404);
    }
    vault.post("secret/data/b", json!({"data": {}})).await.is(200);
    let requests = vault.store.requests();
    assert_eq!(requests.count("/v1/secret/data/a"), 3);
    assert_eq!(requests.count("/v1/secret"), 0);
    assert_eq!(requests.count_under("/v1/secret/"), 4);
    assert_eq!(requests.total(), 4);
    requests.reached("/v1/secret/data/a", 3).await;
    let seen = requests.seen();
    assert_eq!(seen.len(), 4);
    let first = &seen[0];
    assert_eq!(
        (first.number, first.side, first.method.as_str()),
        (1, Side::Vault, "GET")
    );
    assert_eq!(
        (first.path.as_str(), first.query.as_str()),
        ("/v1/secret/data/a", "version=1")
    );
    assert_eq!(first.status, Some(404));
    assert_eq!(first.accessor.as_deref(), Some(issued.accessor.as_str()));
    assert!(!format!("{seen:?}").contains(&child.token));
    requests.clear();
    assert_eq!((requests.total(), requests.count("/v1/secret/data/a")), (0, 0));
    child.get("secret/data/a").await.is(404);
    assert_eq!(requests.seen()[0].number, 5);
}

#[tokio::test]
async fn a_wait_for_requests_ends_with_the_request() {
    let vault = start().await;
    let requests = vault.store.requests().clone();
    let waiting = tokio::spawn(async move { requests.reached("/v1/sys/health", 2).await });
    vault.get("sys/health").await.is(200);
    vault.get("sys/health").await.is(200);
    waiting.await.unwrap();
}

#[tokio::test]
async fn the_store_in_process_does_what_the_wire_does() {
    let vault = start().await;
    let inside = vault.store.vault();
    assert_eq!(inside.put("secret", "a", json!({"v": 1})).unwrap(), 1);
    assert_eq!(inside.put("/secret/", "a", json!({"v": 2})).unwrap(), 2);
    assert_eq!(inside.put("kv", "a", json!({"v": 3})).unwrap(), 0);
    assert_eq!(vault.get("secret/data/a").await.data()["data"], json!({"v": 2}));
    assert_eq!(vault.get("kv/a").await.data(), &json!({"v": 3}));
    let refused = inside.put("nowhere", "a", json!({})).unwrap_err();
    assert_eq!(refused.status, 404);
    let (status, body) = inside.call("DELETE", "secret/data/a", Value::Null);
    assert_eq!((status.as_u16(), body), (204, Value::Null));
    assert_eq!(inside.call("FLY", "secret/data/a", Value::Null).0, 405);
    inside.seal();
    assert!(inside.is_sealed());
    let refused = inside.put("secret", "a", json!({})).unwrap_err();
    assert_eq!(
        (refused.status.as_u16(), refused.to_string().as_str()),
        (
            503,
            "the dev store answers 503 Service Unavailable: Vault is sealed"
        )
    );
    inside.unseal();
    inside
        .put_policy("p", "path \"a\" { capabilities = [\"read\"] }")
        .unwrap();
    assert!(inside.put_policy("p", "nonsense").is_err());
}

#[tokio::test]
async fn a_given_root_token_is_the_root_token() {
    let vault = start_with(Options {
        root_token: Some(SecretString::from("root")),
        ..Options::default()
    })
    .await;
    assert_eq!(vault.token, "root");
    vault.get("sys/mounts").await.is(200);
}

#[tokio::test]
async fn hundreds_of_connections_stand_at_once() {
    let vault = start().await;
    let mut sockets = Vec::new();
    for _ in 0..300 {
        sockets.push(
            tokio::net::TcpStream::connect(vault.store.vault_addr())
                .await
                .unwrap(),
        );
    }
    vault.get("sys/health").await.is(200);
}
