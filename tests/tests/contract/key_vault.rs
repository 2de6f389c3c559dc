//! What tidegate's own reader makes of a Key Vault's answers: at the dev store, or with `TIDEGATE_TEST_TARGET=key_vault` at
//! a real vault.
use crate::target::env;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;
use tidegate_devstore::{DevStore, Identity, KeyVaultOptions, Options, Proof, Rights};
use tidegate_providers::{AzureCredential, AzureKeyVault, AzureKeyVaultConfig, Provider, read_once};

const LIMIT: Duration = Duration::from_secs(30);

enum Behind {
    DevStore(DevStore),
    /// A vault over the wire, with a token that may write.
    Wire(reqwest::Client, String),
}

struct Vault {
    behind: Behind,
    config: AzureKeyVaultConfig,
    _dir: TempDir,
}

impl Vault {
    async fn open(secret: &str) -> Vault {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        if env("TIDEGATE_TEST_TARGET").as_deref() == Some("key_vault") {
            return Vault::given(dir, secret).await;
        }
        println!("the dev store");
        let options = Options {
            key_vault: Some(KeyVaultOptions {
                authority_host: "localhost".to_owned(),
                ..KeyVaultOptions::default()
            }),
            ..Options::default()
        };
        let store = DevStore::start(options).await.unwrap();
        let vault = store.key_vault().unwrap();
        let proof = Proof::Secret(SecretString::from("MARKED-secret"));
        vault.register(Identity::new("app", proof).rights(Rights::SECRETS_USER));
        let (ca, secret_file) = (dir.path().join("ca.pem"), dir.path().join("secret"));
        std::fs::write(&ca, store.key_vault_ca_pem().unwrap()).unwrap();
        std::fs::write(&secret_file, "MARKED-secret").unwrap();
        let address = store.key_vault_addr().unwrap();
        let config = AzureKeyVaultConfig {
            vault_url: format!("{}:{}", vault.url(), address.port()),
            secret: secret.to_owned(),
            resolve_to: Some(address.ip()),
            ca_file: Some(ca),
            credential: AzureCredential::ClientSecret {
                tenant_id: vault.tenant_id().to_owned(),
                client_id: "app".to_owned(),
                secret_file,
                authority_host: Some(format!("https://localhost:{}", address.port())),
            },
        };
        Vault {
            behind: Behind::DevStore(store),
            config,
            _dir: dir,
        }
    }

    /// `TIDEGATE_TEST_KEY_VAULT_URL`, trusted by `TIDEGATE_TEST_KEY_VAULT_CA` (a PEM file; the system's CAs where it is not
    /// given), at the address `TIDEGATE_TEST_KEY_VAULT_IP` where its name is not in the DNS. Read as the managed identity
    /// that the environment describes; written with `TIDEGATE_TEST_KEY_VAULT_TOKEN`.
    async fn given(dir: TempDir, secret: &str) -> Vault {
        let url = env("TIDEGATE_TEST_KEY_VAULT_URL").expect("TIDEGATE_TEST_KEY_VAULT_URL");
        let token = env("TIDEGATE_TEST_KEY_VAULT_TOKEN").expect("TIDEGATE_TEST_KEY_VAULT_TOKEN");
        println!("the vault at {url}");
        let ca_file = env("TIDEGATE_TEST_KEY_VAULT_CA").map(std::path::PathBuf::from);
        let ip = env("TIDEGATE_TEST_KEY_VAULT_IP").map(|ip| ip.parse::<std::net::IpAddr>().unwrap());
        let host = reqwest::Url::parse(&url).unwrap().host_str().unwrap().to_owned();
        let mut client = reqwest::Client::builder().timeout(LIMIT).no_proxy();
        if let Some(ip) = ip {
            client = client.resolve(&host, (ip, 0).into());
        }
        if let Some(file) = &ca_file {
            let pem = std::fs::read(file).unwrap();
            client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).unwrap());
        }
        let config = AzureKeyVaultConfig {
            vault_url: url,
            secret: secret.to_owned(),
            resolve_to: ip,
            ca_file,
            credential: AzureCredential::ManagedIdentity { client_id: None },
        };
        let vault = Vault {
            behind: Behind::Wire(client.build().unwrap(), token),
            config,
            _dir: dir,
        };
        // What an earlier run left.
        vault
            .call("DELETE", &format!("secrets/{secret}"), Value::Null)
            .await;
        vault
            .call("DELETE", &format!("deletedsecrets/{secret}"), Value::Null)
            .await;
        vault
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        match &self.behind {
            Behind::DevStore(store) => {
                let (status, body) = store.key_vault().unwrap().call(method, path, body);
                (status.as_u16(), body)
            }
            Behind::Wire(client, token) => {
                let base = self.config.vault_url.trim_end_matches('/');
                let url = format!("{base}/{path}?api-version=7.4");
                let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
                let mut request = client.request(method, url).bearer_auth(token);
                if !body.is_null() {
                    request = request
                        .header("content-type", "application/json")
                        .body(body.to_string());
                }
                let answer = request.send().await.unwrap();
                let status = answer.status().as_u16();
                let body = serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null);
                (status, body)
            }
        }
    }

    async fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Writes a version and returns its id.
    async fn put(&self, value: &str) -> String {
        let path = format!("secrets/{}", self.config.secret);
        let made = self.done("PUT", &path, json!({ "value": value })).await;
        made["id"]
            .as_str()
            .unwrap()
            .rsplit('/')
            .next()
            .unwrap()
            .to_owned()
    }
}

async fn reads(reader: &mut AzureKeyVault, word: &str, told: &str) {
    let seen = read_once(reader, &["IsPaused"], LIMIT).await.remove(0);
    assert_eq!(seen.reading.word(), word, "{seen:?}");
    let error = seen.error.unwrap_or_default();
    assert!(
        error.contains(told) && !error.contains("MARKED"),
        "expected {told:?} in: {error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_a_key_vault_secret_is_read_as_what_it_is() {
    let vault = Vault::open("contract--IsPaused").await;
    let path = "secrets/contract--IsPaused";
    let mut reader = AzureKeyVault::new(vault.config.clone()).unwrap();
    reads(&mut reader, "missing", "no such secret").await;
    vault.put("TRUE").await;
    reads(&mut reader, "paused", "").await;
    vault.put(r#"{"IsPaused": false, "reason": "done"}"#).await;
    reads(&mut reader, "running", "").await;
    vault.put(r#"{"password": "MARKED"}"#).await;
    reads(&mut reader, "missing", "IsPaused").await;
    vault.put("MARKED").await;
    reads(&mut reader, "malformed", "expected").await;
    let version = vault.put("true").await;
    reads(&mut reader, "paused", "").await;
    // The version is the store's own.
    assert_eq!(&*reader.read().await.unwrap().version.id, version.as_str());
    let attributes = |enabled: bool| json!({"attributes": {"enabled": enabled}});
    vault
        .done("PATCH", &format!("{path}/{version}"), attributes(false))
        .await;
    reads(&mut reader, "disabled", "enable it").await;
    vault
        .done("PATCH", &format!("{path}/{version}"), attributes(true))
        .await;
    reads(&mut reader, "paused", "").await;
    vault.done("DELETE", path, Value::Null).await;
    reads(&mut reader, "missing", "recover it").await;
    vault
        .done("POST", "deletedsecrets/contract--IsPaused/recover", Value::Null)
        .await;
    reads(&mut reader, "paused", "").await;
    vault.put("false").await;
    reads(&mut reader, "running", "").await;
}
