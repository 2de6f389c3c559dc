//! Both stores behind the proxies, shared by all cells: each cell has a secret and a proxy of its own.
use crate::rows::Kind;
use e2e::fault_proxy::{Behind, FaultProxy};
use e2e::pki::Pki;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tidegate_devstore::{DevStore, Identity, KeyVaultOptions, Options, Proof, Rights};
use tidegate_providers::{
    AzureCredential, AzureKeyVault, AzureKeyVaultConfig, Provider, Vault, VaultAuth, VaultConfig,
};

/// In every credential, and in every value but the flag: where it shows, something leaks.
pub(crate) const MARK: &str = "MARKED";

pub(crate) struct Stores {
    store: DevStore,
    pki: Arc<Pki>,
    upstream: Arc<rustls::ClientConfig>,
    dir: TempDir,
}

/// One secret behind one proxy.
pub(crate) struct Place {
    kind: Kind,
    name: String,
    pub(crate) proxy: FaultProxy,
    stores: Arc<Stores>,
}

impl Stores {
    pub(crate) async fn open() -> Arc<Stores> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = Options {
            key_vault: Some(KeyVaultOptions {
                authority_host: "localhost".to_owned(),
                ..KeyVaultOptions::default()
            }),
            ..Options::default()
        };
        let store = DevStore::start(options).await.unwrap();
        let secret = SecretString::from("MARKED-client-secret");
        let vault = store.key_vault().unwrap();
        vault.register(Identity::new("app", Proof::Secret(secret)).rights(Rights::SECRETS_USER));
        let pki = Arc::new(Pki::new(&["localhost", &vault.url()["https://".len()..]]).unwrap());

        let dir = tempfile::tempdir().unwrap();
        let theirs = store.key_vault_ca_pem().unwrap();
        std::fs::write(dir.path().join("ca.pem"), format!("{}{theirs}", pki.ca)).unwrap();
        std::fs::write(dir.path().join("client-secret"), "MARKED-client-secret").unwrap();
        let policy = "path \"secret/data/*\" { capabilities = [\"read\"] }";
        store.vault().put_policy("reader", policy).unwrap();
        let fields = json!({"policies": ["reader"], "ttl": "1h", "id": "MARKED-vault-token"});
        let issued = store.vault().create_token(fields).unwrap();
        std::fs::write(dir.path().join("token"), issued.token.expose_secret()).unwrap();

        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(theirs.as_bytes()).unwrap())
            .unwrap();
        let upstream = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(Stores {
            store,
            pki,
            upstream: Arc::new(upstream),
            dir,
        })
    }

    pub(crate) async fn place(self: &Arc<Stores>, kind: Kind, number: usize) -> Place {
        let name = format!("cell-{number}");
        let (behind, watched) = match kind {
            Kind::Vault => (
                Behind::Plain(self.store.vault_addr()),
                format!("/v1/secret/data/{name}"),
            ),
            Kind::KeyVault => {
                let host = self.store.key_vault().unwrap().url()["https://".len()..].to_owned();
                let behind = Behind::Tls(self.store.key_vault_addr().unwrap(), host, self.upstream.clone());
                (behind, format!("/secrets/{name}"))
            }
        };
        Place {
            kind,
            name,
            proxy: FaultProxy::start(self.pki.clone(), behind, &watched)
                .await
                .unwrap(),
            stores: self.clone(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Place {
    pub(crate) fn write(&self, paused: bool) {
        let fields = json!({"IsPaused": paused, "reason": "a test", "password": "MARKED-value"});
        match self.kind {
            Kind::Vault => drop(
                self.stores
                    .store
                    .vault()
                    .put("secret", &self.name, fields)
                    .unwrap(),
            ),
            Kind::KeyVault => {
                let vault = self.stores.store.key_vault().unwrap();
                vault.put(&self.name, &fields.to_string()).unwrap();
            }
        }
    }

    /// The store as errors name it.
    pub(crate) fn told_as(&self) -> String {
        match self.kind {
            Kind::Vault => format!("vault kv2 secret/{} at ", self.name),
            Kind::KeyVault => format!("azure_key_vault {} in ", self.name),
        }
    }

    pub(crate) fn reader(&self) -> Box<dyn Provider> {
        self.reader_at(None)
    }

    /// The same, at a name that nobody knows.
    pub(crate) fn lost(&self) -> Box<dyn Provider> {
        self.reader_at(Some("nowhere.invalid"))
    }

    fn reader_at(&self, host: Option<&str>) -> Box<dyn Provider> {
        let port = self.proxy.address.port();
        let stores = &self.stores;
        let ca_file = Some(stores.file("ca.pem"));
        match self.kind {
            Kind::Vault => Box::new(
                Vault::new(VaultConfig {
                    address: format!("https://{}:{port}", host.unwrap_or("localhost")),
                    namespace: None,
                    mount: "secret".to_owned(),
                    path: self.name.clone(),
                    kv: 2,
                    ca_file,
                    allow_plaintext: false,
                    auth: VaultAuth::Token {
                        env: None,
                        file: Some(stores.file("token")),
                    },
                })
                .unwrap(),
            ),
            Kind::KeyVault => {
                let vault = stores.store.key_vault().unwrap();
                let authority = stores.store.key_vault_addr().unwrap().port();
                let url = match host {
                    None => format!("{}:{port}", vault.url()),
                    Some(host) => format!("https://{host}:{port}"),
                };
                Box::new(
                    AzureKeyVault::new(AzureKeyVaultConfig {
                        vault_url: url,
                        secret: self.name.clone(),
                        resolve_to: host.is_none().then(|| self.proxy.address.ip()),
                        ca_file,
                        credential: AzureCredential::ClientSecret {
                            tenant_id: vault.tenant_id().to_owned(),
                            client_id: "app".to_owned(),
                            secret_file: stores.file("client-secret"),
                            authority_host: Some(format!("https://localhost:{authority}")),
                        },
                    })
                    .unwrap(),
                )
            }
        }
    }
}
