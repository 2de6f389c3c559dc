//! The Key Vault contract: what a vault answers, and what tidegate's own reader makes of it.
//!
//! `cargo test` judges the dev store. `TIDEGATE_TEST_TARGET=key_vault` judges a vault over the wire: a real one
//! ([`Vault::given`]) or the emulator Lowkey Vault, which is started from `TIDEGATE_TEST_LOWKEY_JAR` or given by its URL.
//! Lowkey words some refusals in its own way; each such difference stands in a column of its own, and Microsoft's
//! documentation decides who is right (docs/reliability.md).
use crate::target::{PATIENCE, env};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tidegate_devstore::{DevStore, Fault, Identity, KeyVaultOptions, Options, Proof, Rights, Rule};
use tidegate_providers::{AzureCredential, AzureKeyVault, AzureKeyVaultConfig, Provider, read_once};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const LIMIT: Duration = Duration::from_secs(30);
/// The one that writes; the one that is judged may only read.
const WRITER: &str = "writer";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Product {
    KeyVault,
    /// The emulator: it says no code that a client could match, and calls what is disabled not found.
    Lowkey,
}

/// A vault over the wire, with a token that may do everything, and how tidegate is to read from it.
struct Vault {
    product: Product,
    client: reqwest::Client,
    token: String,
    config: AzureKeyVaultConfig,
    /// The vault, or where one logs in for it.
    devstore: Option<DevStore>,
    _server: Option<Child>,
    _dir: TempDir,
}

impl Vault {
    async fn open(secret: &str) -> Vault {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let vault = if env("TIDEGATE_TEST_TARGET").as_deref() != Some("key_vault") {
            println!("the dev store");
            Vault::devstore(dir, secret).await
        } else if let Some(jar) = env("TIDEGATE_TEST_LOWKEY_JAR") {
            Vault::started(dir, secret, &jar).await
        } else {
            Vault::given(dir, secret).await
        };
        // What an earlier run left.
        for place in ["secrets", "deletedsecrets"] {
            vault
                .call("DELETE", &format!("{place}/{secret}"), Value::Null)
                .await;
        }
        vault
    }

    /// The dev store is asked over the wire like the others.
    async fn devstore(dir: TempDir, secret: &str) -> Vault {
        let store = dev_store().await;
        let vault = store.key_vault().unwrap();
        let address = store.key_vault_addr().unwrap();
        let url = format!("{}:{}", vault.url(), address.port());
        let ca = store.key_vault_ca_pem().unwrap().to_owned();
        let token = vault.issue_token(WRITER, Duration::from_secs(3600));
        let token = token.expose_secret().to_owned();
        Vault::at(dir, secret, url, Some(address.ip()), Some(ca), Some(store), token).await
    }

    /// `TIDEGATE_TEST_KEY_VAULT_URL`, trusted by `TIDEGATE_TEST_KEY_VAULT_CA` (a PEM file; the system's CAs where it is not
    /// given), at the address `TIDEGATE_TEST_KEY_VAULT_IP` where its name is not in the DNS. Read as the managed identity
    /// that the environment describes; written with `TIDEGATE_TEST_KEY_VAULT_TOKEN`. At a Lowkey Vault, which takes any
    /// token, neither is needed.
    async fn given(dir: TempDir, secret: &str) -> Vault {
        let url = env("TIDEGATE_TEST_KEY_VAULT_URL")
            .expect("TIDEGATE_TEST_KEY_VAULT_URL or TIDEGATE_TEST_LOWKEY_JAR");
        println!("the vault at {url}");
        let ca = env("TIDEGATE_TEST_KEY_VAULT_CA").map(|file| std::fs::read_to_string(file).unwrap());
        let ip = env("TIDEGATE_TEST_KEY_VAULT_IP").map(|ip| ip.parse().unwrap());
        match env("TIDEGATE_TEST_KEY_VAULT_TOKEN") {
            Some(token) => Vault::at(dir, secret, url, ip, ca, None, token).await,
            None => {
                Vault::at(
                    dir,
                    secret,
                    url,
                    ip,
                    ca,
                    Some(dev_store().await),
                    "any".to_owned(),
                )
                .await
            }
        }
    }

    /// Lowkey Vault on free ports, with a certificate made here. `TIDEGATE_TEST_JAVA` says which Java (its newest
    /// releases want 25); otherwise it is the one on PATH.
    async fn started(dir: TempDir, secret: &str, jar: &str) -> Vault {
        println!("the vault of {jar}");
        let made = rcgen::generate_simple_self_signed(["localhost", "primary.localhost"].map(str::to_owned))
            .unwrap();
        let (certificate, key) = (dir.path().join("server.pem"), dir.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        // Two at once, so that they are two; another may take one in between, and the test says so.
        let free = [(), ()].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, plain] = free.map(|socket| socket.local_addr().unwrap().port());
        let mut server = Command::new(env("TIDEGATE_TEST_JAVA").unwrap_or_else(|| "java".to_owned()))
            .arg("-jar")
            .arg(jar)
            .arg(format!("--server.port={port}"))
            .arg(format!("--app.token.port={plain}"))
            .arg(format!("--server.ssl.certificate=file:{}", certificate.display()))
            .arg(format!(
                "--server.ssl.certificate-private-key=file:{}",
                key.display()
            ))
            .args(["--server.ssl.key-store=", "--server.ssl.key-store-password="])
            // Its own list has no suite of TLS 1.2 for this kind of key.
            .arg("--server.ssl.enabled-protocols=TLSv1.3")
            // As a vault's name stands below the domain that its tokens are for.
            .env("LOWKEY_AUTH_RESOURCE", "localhost")
            .env("LOWKEY_VAULT_NAMES", "primary")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("a Java that starts");
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let started = tokio::time::timeout(4 * PATIENCE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("Started LowkeyVaultApp") {
                    return;
                }
            }
            panic!("{jar} ended before it had started");
        });
        started.await.expect("Lowkey Vault, started");
        // Whoever writes into a pipe that nobody reads stops.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let url = format!("https://primary.localhost:{port}");
        let ip = Some([127, 0, 0, 1].into());
        let (ca, login) = (Some(made.cert.pem()), Some(dev_store().await));
        Vault {
            _server: Some(server),
            ..Vault::at(dir, secret, url, ip, ca, login, "any".to_owned()).await
        }
    }

    /// One logs in at `login`, and without one as the managed identity.
    async fn at(
        dir: TempDir,
        secret: &str,
        url: String,
        ip: Option<IpAddr>,
        ca: Option<String>,
        login: Option<DevStore>,
        token: String,
    ) -> Vault {
        let mut client = reqwest::Client::builder().timeout(LIMIT).no_proxy();
        if let Some(ip) = ip {
            let host = reqwest::Url::parse(&url).unwrap().host_str().unwrap().to_owned();
            client = client.resolve(&host, (ip, 0).into());
        }
        if let Some(pem) = &ca {
            client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.as_bytes()).unwrap());
        }
        let client = client.build().unwrap();
        let url = url.trim_end_matches('/').to_owned();
        // Nobody else answers this path so.
        let pong = client.get(format!("{url}/ping")).send().await.unwrap();
        let product = match pong.text().await.unwrap().as_str() {
            "pong" => Product::Lowkey,
            _ => Product::KeyVault,
        };
        let credential = match &login {
            None => AzureCredential::ManagedIdentity { client_id: None },
            Some(store) => {
                let secret_file = dir.path().join("secret");
                std::fs::write(&secret_file, "MARKED-secret").unwrap();
                let port = store.key_vault_addr().unwrap().port();
                AzureCredential::ClientSecret {
                    tenant_id: store.key_vault().unwrap().tenant_id().to_owned(),
                    client_id: "app".to_owned(),
                    secret_file,
                    authority_host: Some(format!("https://localhost:{port}")),
                }
            }
        };
        let theirs = login
            .as_ref()
            .and_then(DevStore::key_vault_ca_pem)
            .map(str::to_owned);
        let trusted: String = [ca, theirs].into_iter().flatten().collect();
        let ca_file: Option<PathBuf> = (!trusted.is_empty()).then(|| dir.path().join("ca.pem"));
        if let Some(file) = &ca_file {
            std::fs::write(file, trusted).unwrap();
        }
        let config = AzureKeyVaultConfig {
            vault_url: url,
            secret: secret.to_owned(),
            resolve_to: ip,
            ca_file,
            credential,
        };
        Vault {
            product,
            client,
            token,
            config,
            devstore: login,
            _server: None,
            _dir: dir,
        }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.ask(method, path, Some(&self.token), body).await
    }

    async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: Value) -> (u16, Value) {
        let url = format!("{}/{path}?api-version=7.4", self.config.vault_url);
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
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

    async fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Writes a version and returns its id.
    async fn put(&self, value: &str) -> String {
        let path = format!("secrets/{}", self.config.secret);
        let made = self.done("PUT", &path, json!({ "value": value })).await;
        version_of(&made).to_owned()
    }

    /// What cannot be read: as Key Vault says it; Lowkey's answers are no such thing, so that the state is kept there as
    /// well, and the line says less.
    async fn reads_none(&self, reader: &mut AzureKeyVault, word: &str, told: &str) {
        match self.product {
            Product::KeyVault => reads(reader, word, told).await,
            Product::Lowkey => reads(reader, "unavailable", "status 404").await,
        }
    }
}

async fn dev_store() -> DevStore {
    let options = Options {
        key_vault: Some(KeyVaultOptions {
            authority_host: "localhost".to_owned(),
            ..KeyVaultOptions::default()
        }),
        ..Options::default()
    };
    let store = DevStore::start(options).await.unwrap();
    let vault = store.key_vault().unwrap();
    let proof = || Proof::Secret(SecretString::from("MARKED-secret"));
    vault.register(Identity::new("app", proof()).rights(Rights::SECRETS_USER));
    vault.register(Identity::new(WRITER, proof()));
    store
}

fn version_of(answer: &Value) -> &str {
    answer["id"].as_str().unwrap().rsplit('/').next().unwrap()
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
    vault.reads_none(&mut reader, "missing", "no such secret").await;
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
    vault.reads_none(&mut reader, "disabled", "enable it").await;
    vault
        .done("PATCH", &format!("{path}/{version}"), attributes(true))
        .await;
    reads(&mut reader, "paused", "").await;
    vault.done("DELETE", path, Value::Null).await;
    vault.reads_none(&mut reader, "missing", "recover it").await;
    vault
        .done("POST", "deletedsecrets/contract--IsPaused/recover", Value::Null)
        .await;
    reads(&mut reader, "paused", "").await;
    vault.put("false").await;
    reads(&mut reader, "running", "").await;
}

/// One exchange: what a Key Vault answers by its documentation, and the status that Lowkey gives instead.
struct Exchange {
    what: &'static str,
    method: &'static str,
    /// `{name}` is the secret, `{version}` the version that was written last.
    path: &'static str,
    body: Value,
    status: u16,
    /// The code of the error, and the one within it, if any.
    code: &'static str,
    /// Fields that the answer has (`name`) and has not (`!name`).
    fields: &'static str,
    lowkey: u16,
    /// Fields that Lowkey has against the documentation, or has not.
    lowkey_fields: &'static str,
}

#[rustfmt::skip] // a table
fn exchanges() -> Vec<Exchange> {
    let secret = "secrets/{name}";
    let exact = "secrets/{name}/{version}";
    let deleted = "deletedsecrets/{name}";
    let not_found = "SecretNotFound";
    let bundle = "value id attributes.created attributes.updated attributes.recoveryLevel";
    let big = "x".repeat(26_000);
    let row = |what, method, path, body, status, code, fields| Exchange {
        what, method, path, body, status, code, fields, lowkey: status, lowkey_fields: fields,
    };
    let null = || Value::Null;
    let lowkey = |lowkey, row: Exchange| Exchange { lowkey, lowkey_fields: "", ..row };
    let has = |lowkey_fields, row: Exchange| Exchange { lowkey_fields, ..row };
    vec![
        row("never written",            "GET",    secret,  null(),                                 404, not_found, ""),
        row("its versions",             "GET",    "secrets/{name}/versions", null(),               404, not_found, ""),
        row("written",                  "PUT",    secret,  json!({"value": "true", "tags": {"a": "b"}}), 200, "", bundle),
        row("read",                     "GET",    secret,  null(),                                 200, "", bundle),
        row("read with a slash",        "GET",    "secrets/{name}/", null(),                       200, "", bundle),
        row("read by version",          "GET",    exact,   null(),                                 200, "", bundle),
        row("another version",          "GET",    "secrets/{name}/00000000000000000000000000000000", null(), 404, not_found, ""),
        row("written again",            "PUT",    secret,  json!({"value": "false"}),              200, "", bundle),
        row("the list of versions",     "GET",    "secrets/{name}/versions", null(),               200, "", "value"),
        // An update answers without the value; Lowkey shows it.
        has("value id",
        row("disabled",                 "PATCH",  exact,   json!({"attributes": {"enabled": false}}), 200, "", "id !value")),
        lowkey(404,
        row("read while disabled",      "GET",    secret,  null(),                                 403, "Forbidden SecretDisabled", "")),
        has("value id !contentType",
        row("enabled, with dates",      "PATCH",  exact,   json!({"attributes": {"enabled": true, "exp": 1_000_000_000, "nbf": 900_000_000}, "contentType": "text/plain"}),
                                                                                                   200, "", "id contentType attributes.exp attributes.nbf !value")),
        // Dates are advice: what has expired is read all the same.
        row("read outside its dates",   "GET",    secret,  null(),                                 200, "", "value attributes.exp attributes.nbf"),
        row("no value",                 "PUT",    secret,  json!({}),                              400, "BadParameter", ""),
        row("a value of null",          "PUT",    secret,  json!({"value": null}),                 400, "BadParameter", ""),
        lowkey(200,
        row("a value that is a number", "PUT",    secret,  json!({"value": 5}),                    400, "BadParameter", "")),
        lowkey(200,
        row("more than 25 KB",          "PUT",    secret,  json!({"value": big}),                  400, "BadParameter", "")),
        lowkey(500,
        row("a name that is none",      "PUT",    "secrets/a_b", json!({"value": "x"}),            400, "BadParameter", "")),
        row("no such method",           "POST",   secret,  json!({"value": "x"}),                  405, "", ""),
        has("id recoveryId deletedDate scheduledPurgeDate value",
        row("deleted",                  "DELETE", secret,  null(),                                 200, "", "id recoveryId deletedDate scheduledPurgeDate !value")),
        row("read while deleted",       "GET",    secret,  null(),                                 404, not_found, ""),
        row("deleted twice",            "DELETE", secret,  null(),                                 404, not_found, ""),
        row("written while deleted",    "PUT",    secret,  json!({"value": "x"}),                  409, "Conflict ObjectIsDeletedButRecoverable", ""),
        has("id recoveryId value",
        row("read as deleted",          "GET",    deleted, null(),                                 200, "", "id recoveryId !value")),
        has("id value !recoveryId",
        row("recovered",                "POST",   "deletedsecrets/{name}/recover", null(),         200, "", "id !value !recoveryId")),
        row("read again",               "GET",    secret,  null(),                                 200, "", bundle),
        row("recovered twice",          "POST",   "deletedsecrets/{name}/recover", null(),         404, not_found, ""),
        row("not deleted",              "GET",    deleted, null(),                                 404, not_found, ""),
        row("deleted for good",         "DELETE", secret,  null(),                                 200, "", "recoveryId"),
        // Lowkey protects everything from being purged, and says so with 500.
        lowkey(500,
        row("purged",                   "DELETE", deleted, null(),                                 204, "", "")),
        row("gone",                     "GET",    secret,  null(),                                 404, not_found, ""),
    ]
}

/// What is wrong with an answer.
fn wrong(row: &Exchange, product: Product, status: u16, answer: &Value) -> Vec<String> {
    let (expected, fields) = match product {
        Product::KeyVault => (row.status, row.fields),
        Product::Lowkey => (row.lowkey, row.lowkey_fields),
    };
    let mut wrong = Vec::new();
    if status != expected {
        wrong.push(format!("{}: {status}, not {expected}: {answer}", row.what));
    }
    let at = |path: &str| path.split('.').fold(answer, |value, key| &value[key]);
    for field in fields.split_whitespace() {
        let (name, there) = match field.strip_prefix('!') {
            Some(name) => (name, false),
            None => (field, true),
        };
        if at(name).is_null() == there {
            wrong.push(format!("{}: {name} is {}: {answer}", row.what, at(name)));
        }
    }
    if product == Product::KeyVault {
        let codes = ["error.code", "error.innererror.code"].map(|path| at(path).as_str());
        for (code, expected) in codes.into_iter().zip(row.code.split_whitespace()) {
            if code != Some(expected) {
                wrong.push(format!("{}: {code:?}, not {expected}: {answer}", row.what));
            }
        }
    }
    wrong
}

async fn answers_to(vault: &Vault, name: &str) -> Vec<String> {
    let mut version = String::new();
    let mut found = Vec::new();
    for row in exchanges() {
        let path = row.path.replace("{name}", name).replace("{version}", &version);
        let (status, answer) = vault.call(row.method, &path, row.body.clone()).await;
        if row.method == "PUT" && status == 200 {
            version = version_of(&answer).to_owned();
        }
        found.extend(wrong(&row, vault.product, status, &answer));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exchange_with_a_key_vault_goes_as_it_is_documented() {
    // A name of its own each time: what is protected cannot be purged.
    let name = format!("exchange-{:016x}", fastrand::u64(..));
    let vault = Vault::open("exchange").await;
    assert_eq!(answers_to(&vault, &name).await, [""; 0]);
    let answer = vault.ask("GET", "secrets/exchange", None, Value::Null).await;
    assert_eq!(answer.0, 401, "nobody: {answer:?}");
    println!("{:?}: {} exchanges", vault.product, exchanges().len());
}

/// The judge itself: a vault that calls what is disabled not found is no Key Vault.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_answers_as_the_emulator_does_is_not_taken_for_a_key_vault() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let vault = Vault::devstore(tempfile::tempdir().unwrap(), "twin").await;
    let forgets = Fault::status(404).body("application/json", r#"{"error":{"code":"NotFoundException"}}"#);
    let rule = Rule::new(forgets)
        .path("/secrets/twin")
        .method(reqwest::Method::GET);
    vault.devstore.as_ref().unwrap().faults().add(rule);
    let found = answers_to(&vault, "twin").await.join("\n");
    for what in [
        "read while disabled: 404, not 403",
        "never written: Some(\"NotFoundException\")",
    ] {
        assert!(found.contains(what), "{what} passes for right: {found}");
    }
}
