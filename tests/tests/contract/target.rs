//! What is judged: the dev store, or a real server.
use secrecy::ExposeSecret;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tidegate_devstore::{DevStore, Options};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Starting a real server takes seconds; a wait that is this long has found a fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A Vault with a root token. It ends with this, unless it was there before.
pub(crate) struct Target {
    name: String,
    pub(crate) url: String,
    pub(crate) token: String,
    /// Nobody seals a server that cannot be unsealed again.
    pub(crate) unseal_key: Option<String>,
    client: reqwest::Client,
    pub(crate) devstore: Option<DevStore>,
    _server: Option<Child>,
}

pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

impl Target {
    /// The one that `TIDEGATE_TEST_TARGET` names: `devstore` (or nothing), or `vault`, which is the server at
    /// `TIDEGATE_TEST_VAULT_ADDR` with the root token `TIDEGATE_TEST_VAULT_TOKEN`, or else one that is started here from
    /// `TIDEGATE_TEST_VAULT_BIN`, `vault` or `bao`.
    pub(crate) async fn vault() -> Target {
        match env("TIDEGATE_TEST_TARGET").as_deref() {
            None | Some("devstore" | "key_vault") => Target::devstore().await,
            Some("vault") => match (env("TIDEGATE_TEST_VAULT_ADDR"), env("TIDEGATE_TEST_VAULT_TOKEN")) {
                (Some(url), Some(token)) => Target::new(
                    format!("the server at {url}"),
                    url,
                    token,
                    env("TIDEGATE_TEST_VAULT_UNSEAL_KEY"),
                ),
                (None, None) => Target::started().await,
                _ => panic!("TIDEGATE_TEST_VAULT_ADDR and TIDEGATE_TEST_VAULT_TOKEN come together"),
            },
            Some(other) => panic!("TIDEGATE_TEST_TARGET={other}: expected devstore, vault or key_vault"),
        }
    }

    fn new(name: String, url: String, token: String, unseal_key: Option<String>) -> Target {
        Target {
            name,
            url: url.trim_end_matches('/').to_owned(),
            token,
            unseal_key,
            client: e2e::flag::client().unwrap(),
            devstore: None,
            _server: None,
        }
    }

    pub(crate) async fn devstore() -> Target {
        let options = Options {
            namespaces: true,
            ..Options::default()
        };
        let store = DevStore::start(options).await.unwrap();
        Target {
            devstore: Some(store.clone()),
            ..Target::new(
                "the dev store".to_owned(),
                store.vault_url(),
                store.root_token().expose_secret().to_owned(),
                Some(store.vault().unseal_key().expose_secret().to_owned()),
            )
        }
    }

    /// A server of our own in dev mode: in memory, on loopback.
    async fn started() -> Target {
        let program = program();
        // Dev mode takes no port 0: another may take this one in between, and the test says so.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .unwrap()
            .port();
        let token = "root-token-of-the-contract";
        let mut server = Command::new(&program)
            .arg("server")
            .args(["-dev", "-dev-no-store-token"])
            .arg(format!("-dev-root-token-id={token}"))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let key = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(key) = line.trim().strip_prefix("Unseal Key:") {
                    return key.trim().to_owned();
                }
            }
            panic!("{} ended before it told its unseal key", program.display());
        });
        let key = key.await.expect("the unseal key");
        // Whoever writes into a pipe that nobody reads stops.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Target {
            _server: Some(server),
            ..Target::new(
                program.display().to_string(),
                format!("http://127.0.0.1:{port}"),
                token.to_owned(),
                Some(key),
            )
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// One request: the status, and the body if it is JSON.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}/v1/{path}", self.url));
        if let Some(token) = token {
            request = request.header("X-Vault-Token", token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// A request with the root token that has to succeed.
    pub(crate) async fn root(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(method, path, Some(&self.token), &[], &body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }
}

fn program() -> PathBuf {
    if let Some(program) = env("TIDEGATE_TEST_VAULT_BIN") {
        return program.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|dir| ["vault", "bao"].map(|name| dir.join(name)))
        .find(|program| program.is_file());
    found.expect(
        "a real Vault: name one with TIDEGATE_TEST_VAULT_ADDR and _TOKEN or with TIDEGATE_TEST_VAULT_BIN, or put vault or \
         bao on PATH",
    )
}
