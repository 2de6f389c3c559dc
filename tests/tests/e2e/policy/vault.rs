//! What can go wrong with a secret in Vault.
use super::{Kind, Store, all_cells};
use crate::harness::Site;
use serde_json::{Value, json};
use tidegate_devstore::{Fault, RetryAfter, Rule};

/// The mount that the switches read; its own, so that it can go away.
const MOUNT: &str = "ops";
const PATH: &str = "orders";

/// A trouble with a secret in a KV store of version 1 or 2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vault {
    kv: u8,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
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
    /// A replica that lags behind: an older version, which says the opposite.
    Lagging,
}

impl What {
    const ALL: &[What] = &[
        What::NeverWritten,
        What::MetadataDeleted,
        What::Deleted,
        What::Destroyed,
        What::KeyAbsent,
        What::NoSuchMount,
        What::Word,
        What::Number,
        What::Empty,
        What::List,
        What::TwoEqualNames,
        What::TwoMegabytes,
        What::PolicyTakenAway,
        What::TokensForgotten,
        What::Throttled,
        What::ThrottledForASecond,
        What::Sealed,
        What::Refused,
        What::Hangs,
        What::ResetAtOnce,
        What::ResetInHeaders,
        What::ResetInBody,
        What::Garbage,
        What::NotHttp,
        What::CutShort,
        What::Endless,
        What::ServerError,
        What::ProxyPage,
        What::Standby,
        What::Redirects,
        What::Lagging,
    ];

    fn fault(self) -> Option<Fault> {
        Some(match self {
            What::Throttled => Fault::status(429),
            What::ThrottledForASecond => Fault::status(429).retry_after(RetryAfter::Seconds(1)),
            What::Hangs => Fault::Hang,
            What::ResetAtOnce => Fault::ResetBeforeHeaders,
            What::ResetInHeaders => Fault::ResetInHeaders,
            What::ResetInBody => Fault::ResetInBody,
            What::Garbage => Fault::Garbage,
            What::NotHttp => Fault::NotHttp,
            What::CutShort => Fault::Truncated,
            What::Endless => Fault::Endless,
            What::ServerError => Fault::status(500),
            What::ProxyPage => Fault::status(503).body("text/html", "<html>Service Unavailable</html>"),
            What::Standby => Fault::status(473),
            What::Redirects => Fault::redirect("https://vault-1.internal:8200/v1/ops/data/orders"),
            _ => return None,
        })
    }

    fn malformed(self) -> Option<Value> {
        Some(match self {
            What::Word => json!({ "IsPaused": "yes" }),
            What::Number => json!({ "IsPaused": 1 }),
            What::Empty => json!({ "IsPaused": "" }),
            What::List => json!({ "IsPaused": [true] }),
            What::TwoEqualNames => json!({ "IsPaused": true, "ispaused": true }),
            What::TwoMegabytes => json!({ "IsPaused": true, "notes": "x".repeat(2 << 20) }),
            _ => return None,
        })
    }

    /// There is no such thing in a store without versions.
    fn needs_versions(self) -> bool {
        matches!(self, What::MetadataDeleted | What::Destroyed | What::Lagging)
    }
}

impl Vault {
    /// Of a store without versions those that stand for a reading: the ways through the network are the same.
    pub(super) fn all(kv: u8) -> Vec<Vault> {
        let all = What::ALL.iter().map(|&what| Vault { kv, what });
        all.filter(|it| kv == 2 || it.is_model() && !it.what.needs_versions())
            .collect()
    }

    fn call(site: &Site, method: &str, path: &str, body: Value) {
        let (status, answer) = site.store.vault().call(method, path, body);
        assert!(status.is_success(), "{method} {path}: {status} {answer}");
    }

    /// Where the secret is, below `/v1/`.
    fn data(self) -> &'static str {
        match self.kv {
            1 => "ops/orders",
            _ => "ops/data/orders",
        }
    }

    fn write(self, site: &Site, data: Value) {
        let body = match self.kv {
            1 => data,
            _ => json!({ "data": data }),
        };
        Vault::call(site, "POST", self.data(), body);
    }

    fn mount(self, site: &Site) {
        let version = self.kv.to_string();
        Vault::call(
            site,
            "POST",
            "sys/mounts/ops",
            json!({ "type": "kv", "options": { "version": version } }),
        );
    }

    /// The answer about the version before the current one, had it said the opposite.
    fn older(self, site: &Site) -> String {
        let (_, mut answer) = site.store.vault().call("GET", self.data(), Value::Null);
        let data = &mut answer["data"];
        data["data"]["IsPaused"] = json!(data["data"]["IsPaused"] == false);
        let version = data["metadata"]["version"].as_u64().unwrap();
        data["metadata"]["version"] = json!(version - 1);
        data["metadata"]["created_time"] = json!("2020-01-01T00:00:00.000000000Z");
        answer.to_string()
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
        match self.what {
            // Without versions there is nothing left of it.
            What::Deleted if self.kv == 1 => ("missing", Kind::Absent),
            What::NeverWritten | What::MetadataDeleted | What::KeyAbsent | What::NoSuchMount => {
                ("missing", Kind::Absent)
            }
            What::Deleted | What::Destroyed => ("deleted", Kind::Absent),
            What::Word
            | What::Number
            | What::Empty
            | What::List
            | What::TwoEqualNames
            | What::TwoMegabytes
            | What::Endless => ("malformed", Kind::Malformed),
            What::PolicyTakenAway | What::TokensForgotten => ("denied", Kind::NoHelp),
            What::Throttled | What::ThrottledForASecond => ("throttled", Kind::NoHelp),
            What::Sealed => ("sealed", Kind::NoHelp),
            What::Lagging => ("stale", Kind::NoHelp),
            _ => ("unavailable", Kind::NoHelp),
        }
    }

    fn is_model(&self) -> bool {
        matches!(
            self.what,
            What::Deleted
                | What::Destroyed
                | What::KeyAbsent
                | What::NoSuchMount
                | What::Word
                | What::PolicyTakenAway
                | What::Throttled
                | What::Sealed
                | What::Refused
                | What::Lagging
        )
    }

    fn needs_a_reading(&self) -> bool {
        self.what == What::Lagging
    }

    fn provider(&self, site: &Site) -> String {
        format!(
            "vault = {{ address = \"{}\", mount = \"{MOUNT}\", path = \"{PATH}\", kv = {}, auth = {{ method = \"token\", file = \"{{dir}}/vault-token\" }} }}",
            site.store.vault_url(),
            self.kv,
        )
    }

    fn patience(&self) -> &'static str {
        match self.what {
            What::Hangs => "500ms",
            _ => "5s",
        }
    }

    fn prepare(&self, site: &Site) {
        self.mount(site);
        Vault::policy(site, self.data());
        Vault::token(site);
        if self.kv == 2 {
            // So that there is one before it.
            self.write(site, json!({ "IsPaused": "" }));
        }
    }

    fn put(&self, site: &Site, paused: bool, text: &Value) {
        let mut flag = text.clone();
        flag["IsPaused"] = paused.into();
        self.write(site, flag);
    }

    async fn spoil(&self, site: &Site) {
        match self.what {
            What::NeverWritten if self.kv == 1 => Vault::call(site, "DELETE", self.data(), Value::Null),
            What::NeverWritten | What::MetadataDeleted => {
                Vault::call(site, "DELETE", "ops/metadata/orders", Value::Null);
            }
            What::Deleted => Vault::call(site, "DELETE", self.data(), Value::Null),
            What::Destroyed => {
                let (_, current) = site.store.vault().call("GET", self.data(), Value::Null);
                let version = &current["data"]["metadata"]["version"];
                let versions = json!({ "versions": [version] });
                Vault::call(site, "POST", "ops/destroy/orders", versions);
            }
            What::KeyAbsent => self.write(site, json!({ "Other": true })),
            What::NoSuchMount => Vault::call(site, "DELETE", "sys/mounts/ops", Value::Null),
            What::PolicyTakenAway => Vault::policy(site, "ops/data/another"),
            What::TokensForgotten => site.store.vault().forget_tokens(),
            What::Sealed => site.store.vault().seal(),
            What::Refused => site.store.vault_offline().await.unwrap(),
            What::Lagging => {
                let fault = Fault::status(200).body("application/json", &self.older(site));
                site.store.faults().add(Rule::new(fault));
            }
            other => {
                if let Some(data) = other.malformed() {
                    self.write(site, data);
                } else {
                    site.store.faults().add(Rule::new(other.fault().unwrap()));
                }
            }
        }
    }

    async fn mend(&self, site: &Site) -> bool {
        match self.what {
            What::NoSuchMount => {
                self.mount(site);
                return false;
            }
            What::PolicyTakenAway => Vault::policy(site, self.data()),
            What::TokensForgotten => Vault::token(site),
            What::Sealed => site.store.vault().unseal(),
            What::Refused => site.store.vault_online().await.unwrap(),
            _ => site.store.faults().clear(),
        }
        // Whatever was not done to the secret itself.
        self.shows().1 == Kind::NoHelp || self.what == What::Endless
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trouble_with_vault_ever_resumes_anything_and_only_the_option_that_is_meant_pauses() {
    Box::pin(all_cells(&Vault::all(2))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_any_with_a_store_that_has_no_versions() {
    Box::pin(all_cells(&Vault::all(1))).await;
}
