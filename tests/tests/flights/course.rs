//! One run's folder, store and flag.
use e2e::flag::{Flag, KeyVaultFlag, VaultFlag};
use e2e::rows::Rows;
use e2e::sidecar::Sidecar;
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tidegate_devstore::{DevStore, Identity, KeyVaultOptions, Options, Proof, Rights};

/// Where the flag is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Vault,
    KeyVault,
}

impl Store {
    fn secret(self) -> &'static str {
        match self {
            Store::Vault => "streams/flights",
            // As .NET configuration names it.
            Store::KeyVault => "flights--IsPaused",
        }
    }

    async fn start(self) -> (DevStore, Flag) {
        let key_vault = (self == Store::KeyVault).then(|| KeyVaultOptions {
            // The challenge leads there, and whoever asks resolves it by himself.
            authority_host: "localhost".to_owned(),
            ..KeyVaultOptions::default()
        });
        let options = Options {
            key_vault,
            ..Options::default()
        };
        let store = DevStore::start(options).await.unwrap();
        let flag = match self {
            Store::Vault => Flag::Vault(VaultFlag::in_store(&store, self.secret()).unwrap()),
            Store::KeyVault => Flag::KeyVault(KeyVaultFlag::in_store(&store, self.secret()).unwrap()),
        };
        (store, flag)
    }

    /// What of the switch names the store; `dir` gets the files that it needs.
    fn provider(self, store: &DevStore, dir: &Path) -> String {
        let file = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        let (secret, at) = (self.secret(), dir.display());
        match self {
            Store::Vault => {
                file("token", store.root_token().expose_secret());
                format!(
                    "[switch.vault]\naddress = \"{}\"\npath = \"{secret}\"\n\
                     auth = {{ method = \"token\", file = \"{at}/token\" }}",
                    store.vault_url(),
                )
            }
            Store::KeyVault => {
                file("ca.pem", store.key_vault_ca_pem().unwrap());
                file("client-secret", "of-the-sidecar");
                let vault = store.key_vault().unwrap();
                let proof = Proof::Secret(SecretString::from("of-the-sidecar"));
                vault.register(Identity::new("sidecar", proof).rights(Rights::SECRETS_USER));
                let address = store.key_vault_addr().unwrap();
                format!(
                    "[switch.azure_key_vault]\nvault_url = \"{}:{port}\"\nsecret = \"{secret}\"\n\
                     resolve_to = \"{}\"\nca_file = \"{at}/ca.pem\"\n\
                     credential = {{ method = \"client_secret\", tenant_id = \"{}\", client_id = \"sidecar\", \
                     secret_file = \"{at}/client-secret\", authority_host = \"https://localhost:{port}\" }}",
                    vault.url(),
                    address.ip(),
                    vault.tenant_id(),
                    port = address.port(),
                )
            }
        }
    }
}

pub(crate) struct Course {
    pub(crate) rows: Arc<Rows>,
    pub(crate) store: DevStore,
    pub(crate) flag: Flag,
    dir: TempDir,
}

impl Course {
    /// With a switch `ops` that holds the stream `flights`, from file to file; `more` is the rest of the configuration.
    pub(crate) async fn new(store: Store, rows: Rows, more: impl Fn(&Path) -> String) -> Course {
        let to_file = |dir: &Path| {
            let flights = format!(
                r#"
                [[stream]]
                name = "flights"
                source = {{ type = "file", path = "{dir}/source.csv", follow = true }}
                sink = {{ type = "file", path = "{dir}/sink.csv" }}
                "#,
                dir = dir.display(),
            );
            more(dir) + &flights
        };
        Course::over(store, rows, to_file).await
    }

    /// With a switch `ops` that holds the stream `flights`, which is in `streams`.
    pub(crate) async fn over(kind: Store, rows: Rows, streams: impl Fn(&Path) -> String) -> Course {
        println!("{}", rows.what);
        let (store, flag) = kind.start().await;
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let config = format!(
            r#"
            [control]
            listen = "127.0.0.1:0"
            [observe]
            listen = "127.0.0.1:0"
            [[switch]]
            name = "ops"
            streams = ["flights"]
            interval = "100ms"
            {}
            "#,
            kind.provider(&store, at),
        );
        std::fs::write(at.join("tidegate.toml"), streams(at) + &config).unwrap();
        Course {
            rows: Arc::new(rows),
            store,
            flag,
            dir,
        }
    }

    pub(crate) fn start(&self) -> Sidecar {
        let program = Path::new(env!("CARGO_BIN_EXE_e2e-tidegate"));
        Sidecar::start(program, &self.path("tidegate.toml")).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// The length of a file; 0 where there is none yet.
    pub(crate) fn len(&self, name: &str) -> u64 {
        std::fs::metadata(self.path(name)).map_or(0, |m| m.len())
    }

    /// Waits until a file is longer than that.
    pub(crate) async fn outgrows(&self, name: &str, len: u64) {
        e2e::until(&format!("{name} outgrows {len} bytes"), || self.len(name) > len)
            .await
            .unwrap();
    }

    /// Waits until a file is longer than now; returns in the very moment, since it looks without a rest.
    pub(crate) fn grows(&self, name: &str) -> impl Future<Output = ()> + use<> {
        let (path, len) = (self.path(name), self.len(name));
        let looked = async move {
            while std::fs::metadata(&path).map_or(0, |m| m.len()) <= len {
                tokio::task::yield_now().await;
            }
        };
        async { tokio::time::timeout(e2e::PATIENCE, looked).await.unwrap() }
    }

    /// Waits until so many more polls have been answered.
    pub(crate) async fn polls(&self, more: u64) {
        let path = self.flag.api_path();
        let seen = self.store.requests().count(path);
        let reached = self.store.requests().reached(path, seen + more);
        tokio::time::timeout(e2e::PATIENCE, reached).await.unwrap();
    }
}
