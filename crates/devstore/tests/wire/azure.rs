//! A plain HTTPS client in front of the Key Vault side: it resolves the real host names to the store and trusts its authority.
use crate::client::Got;
use reqwest::{Certificate, Client, Method, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::time::Duration;
use tidegate_devstore::{DevStore, Identity, KeyVault, KeyVaultOptions, Options, Proof, Rights};

pub(crate) const VAULT: &str = "https://myvault.vault.azure.net";
pub(crate) const AUTHORITY: &str = "https://login.microsoftonline.com";

pub(crate) struct Azure {
    pub(crate) store: DevStore,
    pub(crate) http: Client,
    pub(crate) token: String,
}

pub(crate) async fn start() -> Azure {
    // The second test to do so finds it done.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = Options {
        key_vault: Some(KeyVaultOptions::default()),
        ..Options::default()
    };
    let store = DevStore::start(options).await.unwrap();
    let address = store.key_vault_addr().unwrap();
    let authority = Certificate::from_pem(store.key_vault_ca_pem().unwrap().as_bytes()).unwrap();
    let http = Client::builder()
        .resolve("myvault.vault.azure.net", address)
        .resolve("login.microsoftonline.com", address)
        .tls_certs_only([authority])
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    let mut azure = Azure {
        store,
        http,
        token: String::new(),
    };
    azure.token = azure.member("admin", Rights::ALL, None).token;
    azure
}

impl Azure {
    pub(crate) fn vault(&self) -> &KeyVault {
        self.store.key_vault().unwrap()
    }

    /// The same vault, seen by a new application with these rights.
    pub(crate) fn member(&self, client_id: &str, rights: Rights, only: Option<&str>) -> Azure {
        let mut identity = Identity::new(client_id, Proof::Secret(SecretString::from("s"))).rights(rights);
        if let Some(secret) = only {
            identity = identity.only(secret);
        }
        self.vault().register(identity);
        let token = self.vault().issue_token(client_id, Duration::from_secs(3600));
        self.with_token(token.expose_secret())
    }

    pub(crate) fn with_token(&self, token: &str) -> Azure {
        Azure {
            store: self.store.clone(),
            http: self.http.clone(),
            token: token.to_owned(),
        }
    }

    /// A request to the vault; the API version is added.
    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let join = if path.contains('?') { '&' } else { '?' };
        let request = self
            .http
            .request(method, format!("{VAULT}/{path}{join}api-version=2025-07-01"));
        if self.token.is_empty() {
            return request;
        }
        request.bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> Got {
        send(self.request("GET", path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Got {
        send(self.request("DELETE", path)).await
    }

    pub(crate) async fn write(&self, method: &str, path: &str, body: Value) -> Got {
        let request = self
            .request(method, path)
            .header("Content-Type", "application/json");
        send(request.body(body.to_string())).await
    }
}

pub(crate) use crate::client::send;

impl Got {
    /// The body, of a request that must have worked.
    #[track_caller]
    pub(crate) fn ok(&self) -> &Value {
        assert_eq!(self.status, 200, "{self:?}");
        &self.body
    }

    /// The code and the inner code of a refusal, under the status that it must have.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> (&str, &str) {
        assert_eq!(self.status, status, "{self:?}");
        let error = &self.body["error"];
        assert!(error["message"].is_string(), "{self:?}");
        (
            error["code"].as_str().unwrap(),
            error["innererror"]["code"].as_str().unwrap_or_default(),
        )
    }
}
