//! Azure Key Vault against the dev store: TLS with a CA of its own, the bearer challenge, and real logins.
use crate::bench::{Bench, set_paused};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_devstore::{DevStore, Fault, Identity, KeyVaultOptions, Options, Proof, Rights, Rule};
use tidegate_providers::{AzureCredential, AzureKeyVault, AzureKeyVaultConfig, Provider, read_once};

const SECRET: &str = "orders--IsPaused";

pub(crate) struct KeyVault {
    store: DevStore,
    ca_file: tempfile::NamedTempFile,
    secret_file: tempfile::NamedTempFile,
}

impl KeyVault {
    fn vault(&self) -> &tidegate_devstore::KeyVault {
        self.store.key_vault().unwrap()
    }

    /// As the manifests tell operators to: the role on the one secret and nothing else.
    fn register(&self) {
        let identity = Identity::new("app", Proof::Secret(SecretString::from("MARKED-secret")));
        self.vault()
            .register(identity.rights(Rights::SECRETS_USER).only(SECRET));
    }

    fn config(&self, secret: &str) -> AzureKeyVaultConfig {
        let port = self.store.key_vault_addr().unwrap().port();
        AzureKeyVaultConfig {
            vault_url: format!("{}:{port}", self.vault().url()),
            secret: secret.to_owned(),
            resolve_to: Some(self.store.key_vault_addr().unwrap().ip()),
            ca_file: Some(self.ca_file.path().to_owned()),
            credential: AzureCredential::ClientSecret {
                tenant_id: self.vault().tenant_id().to_owned(),
                client_id: "app".to_owned(),
                secret_file: self.secret_file.path().to_owned(),
                authority_host: Some(format!("https://localhost:{port}")),
            },
        }
    }

    fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, body) = self.vault().call(method, path, body);
        assert!(status.is_success(), "{method} {path}: {status} {body}");
        body
    }

    fn enable(&self, enabled: bool) {
        let versions = self.call("GET", &format!("secrets/{SECRET}/versions"), Value::Null);
        for version in versions["value"].as_array().unwrap() {
            let id = version["id"].as_str().unwrap().rsplit('/').next().unwrap();
            self.call(
                "PATCH",
                &format!("secrets/{SECRET}/{id}"),
                json!({"attributes": {"enabled": enabled}}),
            );
        }
    }
}

impl Bench for KeyVault {
    async fn open() -> Self {
        let options = Options {
            key_vault: Some(KeyVaultOptions {
                authority_host: "localhost".to_owned(),
                ..KeyVaultOptions::default()
            }),
            ..Options::default()
        };
        let store = DevStore::start(options).await.unwrap();
        let ca_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&ca_file, store.key_vault_ca_pem().unwrap()).unwrap();
        let secret_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&secret_file, "MARKED-secret\n").unwrap();
        let bench = KeyVault {
            store,
            ca_file,
            secret_file,
        };
        bench.register();
        bench
    }

    fn provider(&self) -> Box<dyn Provider> {
        Box::new(AzureKeyVault::new(self.config(SECRET)).unwrap())
    }

    fn other(&self) -> Box<dyn Provider> {
        // The role on the one secret does not say whether another exists, so this one may read all.
        let identity = Identity::new("app", Proof::Secret(SecretString::from("MARKED-secret")));
        self.vault().register(identity);
        Box::new(AzureKeyVault::new(self.config("other")).unwrap())
    }

    async fn set(&self, fields: &[(&str, &str)]) {
        let object: serde_json::Map<_, _> = fields
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).into()))
            .collect();
        self.vault()
            .put(SECRET, &Value::Object(object).to_string())
            .unwrap();
    }

    fn ailments(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            ("missing", "deleted"),
            ("missing", "the key taken out"),
            ("disabled", "disabled"),
            ("malformed", "a word"),
            ("malformed", "a JSON number"),
            ("denied", "role taken away"),
            ("denied", "identity gone"),
            ("throttled", "429"),
            ("unavailable", "offline"),
            ("unavailable", "hang"),
            ("unavailable", "reset"),
            ("unavailable", "reset in body"),
            ("unavailable", "truncated"),
            ("unavailable", "garbage"),
            ("unavailable", "endless"),
            ("unavailable", "500"),
            ("unavailable", "proxy page"),
            ("unavailable", "redirect"),
        ]
    }

    async fn ail(&self, way: &str) {
        let fault = |fault| {
            self.store.faults().add(Rule::new(fault).path("/secrets/"));
        };
        match way {
            "deleted" => drop(self.call("DELETE", &format!("secrets/{SECRET}"), Value::Null)),
            "the key taken out" => self.set(&[("password", "MARKED")]).await,
            "disabled" => self.enable(false),
            "a word" => drop(self.vault().put(SECRET, "MARKED").unwrap()),
            "a JSON number" => drop(self.vault().put(SECRET, "1").unwrap()),
            "role taken away" => {
                let identity = Identity::new("app", Proof::Secret(SecretString::from("MARKED-secret")));
                self.vault().register(identity.rights(Rights::NONE));
            }
            "identity gone" => self.vault().unregister("app"),
            "offline" => self.store.key_vault_offline().await.unwrap(),
            "429" => fault(Fault::status(429)),
            "hang" => fault(Fault::Hang),
            "reset" => fault(Fault::ResetBeforeHeaders),
            "reset in body" => fault(Fault::ResetInBody),
            "truncated" => fault(Fault::Truncated),
            "garbage" => fault(Fault::Garbage),
            "endless" => fault(Fault::Endless),
            "500" => fault(Fault::status(500)),
            "proxy page" => fault(Fault::status(404).body("text/html", "<html>MARKED</html>")),
            "redirect" => fault(Fault::redirect("https://127.0.0.1:1/secrets/x")),
            other => panic!("{other}"),
        }
    }

    async fn heal(&self) {
        self.store.faults().clear();
        self.store.key_vault_online().await.unwrap();
        self.register();
        // Deleted or not.
        self.vault()
            .call("POST", &format!("deletedsecrets/{SECRET}/recover"), Value::Null);
        self.enable(true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgets_all_tokens_costs_no_reading() {
    let bench = KeyVault::open().await;
    set_paused(&bench, true).await;
    let mut provider = bench.provider();
    for _ in 0..5 {
        provider.read().await.unwrap();
        bench.vault().forget_tokens();
        provider.read().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_per_read_once_it_is_logged_in() {
    let bench = KeyVault::open().await;
    set_paused(&bench, true).await;
    let mut provider = bench.provider();
    provider.read().await.unwrap();
    bench.store.requests().clear();
    for _ in 0..10 {
        provider.read().await.unwrap();
    }
    assert_eq!(bench.store.requests().total(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_identity_logs_in_with_its_service_accounts_token() {
    let bench = KeyVault::open().await;
    set_paused(&bench, true).await;
    let subject = "system:serviceaccount:prod:orders".to_owned();
    let identity = Identity::new("pod", Proof::Federated { subject });
    bench
        .vault()
        .register(identity.rights(Rights::SECRETS_USER).only(SECRET));
    let port = bench.store.key_vault_addr().unwrap().port();
    for (audience, word) in [("api://AzureADTokenExchange", "paused"), ("vault", "denied")] {
        let hour = Duration::from_secs(3600);
        let token = bench
            .store
            .cluster()
            .service_account_token("prod", "orders", audience, hour);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, token.expose_secret()).unwrap();
        let credential = AzureCredential::WorkloadIdentity {
            tenant_id: Some(bench.vault().tenant_id().to_owned()),
            client_id: Some("pod".to_owned()),
            token_file: Some(file.path().to_owned()),
            authority_host: Some(format!("https://localhost:{port}")),
        };
        let config = AzureKeyVaultConfig {
            credential,
            ..bench.config(SECRET)
        };
        let mut provider = AzureKeyVault::new(config).unwrap();
        let seen = read_once(&mut provider, &["IsPaused"], Duration::from_secs(20)).await;
        assert_eq!(seen[0].reading.word(), word, "{seen:?}");
    }
}
