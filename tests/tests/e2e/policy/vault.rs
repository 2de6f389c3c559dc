//! What can go wrong with a secret in Vault.
use super::{Kind, Store, all_cells};
use crate::harness::Site;
use serde_json::{Value, json};
use tidegate_devstore::{Fault, RetryAfter, Rule};

/// The mount that the switches read; its own, so that it can go away.
const MOUNT: &str = "ops";
const PATH: &str = "orders";

#[derive(Clone, Copy, Debug)]
enum Vault {
    NeverWritten,
    MetadataDeleted,
    Deleted,
    Destroyed,
    KeyAbsent,
    NoSuchMount,
    Word,
    Number,
    Empty,
    List,
    TwoEqualNames,
    TwoMegabytes,
    PolicyTakenAway,
    TokensForgotten,
    Throttled,
    ThrottledForASecond,
    Sealed,
    Refused,
    Hangs,
    ResetAtOnce,
    ResetInHeaders,
    ResetInBody,
    Garbage,
    NotHttp,
    CutShort,
    Endless,
    ServerError,
    ProxyPage,
    Standby,
    Redirects,
}

impl Vault {
    const ALL: &[Vault] = &[
        Vault::NeverWritten,
        Vault::MetadataDeleted,
        Vault::Deleted,
        Vault::Destroyed,
        Vault::KeyAbsent,
        Vault::NoSuchMount,
        Vault::Word,
        Vault::Number,
        Vault::Empty,
        Vault::List,
        Vault::TwoEqualNames,
        Vault::TwoMegabytes,
        Vault::PolicyTakenAway,
        Vault::TokensForgotten,
        Vault::Throttled,
        Vault::ThrottledForASecond,
        Vault::Sealed,
        Vault::Refused,
        Vault::Hangs,
        Vault::ResetAtOnce,
        Vault::ResetInHeaders,
        Vault::ResetInBody,
        Vault::Garbage,
        Vault::NotHttp,
        Vault::CutShort,
        Vault::Endless,
        Vault::ServerError,
        Vault::ProxyPage,
        Vault::Standby,
        Vault::Redirects,
    ];

    fn fault(self) -> Option<Fault> {
        Some(match self {
            Vault::Throttled => Fault::status(429),
            Vault::ThrottledForASecond => Fault::status(429).retry_after(RetryAfter::Seconds(1)),
            Vault::Hangs => Fault::Hang,
            Vault::ResetAtOnce => Fault::ResetBeforeHeaders,
            Vault::ResetInHeaders => Fault::ResetInHeaders,
            Vault::ResetInBody => Fault::ResetInBody,
            Vault::Garbage => Fault::Garbage,
            Vault::NotHttp => Fault::NotHttp,
            Vault::CutShort => Fault::Truncated,
            Vault::Endless => Fault::Endless,
            Vault::ServerError => Fault::status(500),
            Vault::ProxyPage => Fault::status(503).body("text/html", "<html>Service Unavailable</html>"),
            Vault::Standby => Fault::status(473),
            Vault::Redirects => Fault::redirect("https://vault-1.internal:8200/v1/ops/data/orders"),
            _ => return None,
        })
    }

    fn malformed(self) -> Option<Value> {
        Some(match self {
            Vault::Word => json!({ "IsPaused": "yes" }),
            Vault::Number => json!({ "IsPaused": 1 }),
            Vault::Empty => json!({ "IsPaused": "" }),
            Vault::List => json!({ "IsPaused": [true] }),
            Vault::TwoEqualNames => json!({ "IsPaused": true, "ispaused": true }),
            Vault::TwoMegabytes => json!({ "IsPaused": true, "notes": "x".repeat(2 << 20) }),
            _ => return None,
        })
    }

    fn call(site: &Site, method: &str, path: &str, body: Value) {
        let (status, answer) = site.store.vault().call(method, path, body);
        assert!(status.is_success(), "{method} {path}: {status} {answer}");
    }

    fn put(site: &Site, data: Value) -> u64 {
        site.store.vault().put(MOUNT, PATH, data).unwrap()
    }

    fn mount(site: &Site) {
        Vault::call(
            site,
            "POST",
            "sys/mounts/ops",
            json!({ "type": "kv", "options": { "version": "2" } }),
        );
    }

    fn policy(site: &Site, path: &str) {
        let text = format!("path \"{path}\" {{ capabilities = [\"read\"] }}");
        site.store.vault().put_policy("switches", &text).unwrap();
    }

    fn token(site: &Site) {
        use secrecy::ExposeSecret;
        let issued = site
            .store
            .vault()
            .create_token(json!({ "policies": ["switches"], "ttl": "1h" }))
            .unwrap();
        site.write("vault-token", issued.token.expose_secret());
    }
}

impl Store for Vault {
    fn shows(&self) -> (&'static str, Kind) {
        match self {
            Vault::NeverWritten | Vault::MetadataDeleted | Vault::KeyAbsent | Vault::NoSuchMount => {
                ("missing", Kind::Absent)
            }
            Vault::Deleted | Vault::Destroyed => ("deleted", Kind::Absent),
            Vault::Word
            | Vault::Number
            | Vault::Empty
            | Vault::List
            | Vault::TwoEqualNames
            | Vault::TwoMegabytes
            | Vault::Endless => ("malformed", Kind::Malformed),
            Vault::PolicyTakenAway | Vault::TokensForgotten => ("denied", Kind::NoHelp),
            Vault::Throttled | Vault::ThrottledForASecond => ("throttled", Kind::NoHelp),
            Vault::Sealed => ("sealed", Kind::NoHelp),
            _ => ("unavailable", Kind::NoHelp),
        }
    }

    fn provider(&self, site: &Site) -> String {
        format!(
            "vault = {{ address = \"{}\", mount = \"{MOUNT}\", path = \"{PATH}\", auth = {{ method = \"token\", file = \"{{dir}}/vault-token\" }} }}",
            site.store.vault_url()
        )
    }

    fn patience(&self) -> &'static str {
        match self {
            Vault::Hangs => "500ms",
            _ => "5s",
        }
    }

    fn prepare(&self, site: &Site) {
        Vault::mount(site);
        Vault::policy(site, "ops/data/orders");
        Vault::token(site);
    }

    fn flag(&self, site: &Site, paused: bool) {
        Vault::put(site, json!({ "IsPaused": paused }));
    }

    async fn spoil(&self, site: &Site) {
        match self {
            Vault::NeverWritten | Vault::MetadataDeleted => {
                Vault::call(site, "DELETE", "ops/metadata/orders", Value::Null);
            }
            Vault::Deleted => Vault::call(site, "DELETE", "ops/data/orders", Value::Null),
            Vault::Destroyed => {
                let version = Vault::put(site, json!({ "IsPaused": false }));
                Vault::call(
                    site,
                    "POST",
                    "ops/destroy/orders",
                    json!({ "versions": [version] }),
                );
            }
            Vault::KeyAbsent => drop(Vault::put(site, json!({ "Other": true }))),
            Vault::NoSuchMount => Vault::call(site, "DELETE", "sys/mounts/ops", Value::Null),
            Vault::PolicyTakenAway => Vault::policy(site, "ops/data/another"),
            Vault::TokensForgotten => site.store.vault().forget_tokens(),
            Vault::Sealed => site.store.vault().seal(),
            Vault::Refused => site.store.vault_offline().await.unwrap(),
            other => {
                if let Some(data) = other.malformed() {
                    Vault::put(site, data);
                } else {
                    site.store.faults().add(Rule::new(other.fault().unwrap()));
                }
            }
        }
    }

    async fn mend(&self, site: &Site) {
        match self {
            Vault::NoSuchMount => Vault::mount(site),
            Vault::PolicyTakenAway => Vault::policy(site, "ops/data/orders"),
            Vault::TokensForgotten => Vault::token(site),
            Vault::Sealed => site.store.vault().unseal(),
            Vault::Refused => site.store.vault_online().await.unwrap(),
            _ => site.store.faults().clear(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trouble_with_vault_ever_resumes_anything_and_only_the_option_that_is_meant_pauses() {
    Box::pin(all_cells(Vault::ALL)).await;
}
