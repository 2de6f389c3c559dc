//! A plain HTTP client that knows nothing of Vault: what it sends and what comes back is in plain sight.
use reqwest::{Client, Method, RequestBuilder};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::time::Duration;
use tidegate_devstore::{DevStore, Options};

pub(crate) struct Wire {
    pub(crate) store: DevStore,
    pub(crate) http: Client,
    pub(crate) token: String,
    namespace: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Got {
    /// The data, of a request that must have worked.
    #[track_caller]
    pub(crate) fn data(&self) -> &Value {
        assert_eq!(self.status, 200, "{self:?}");
        &self.body["data"]
    }

    /// The only error, under the status that it must have.
    #[track_caller]
    pub(crate) fn error(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{self:?}");
        let errors = self.body["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 1, "{self:?}");
        errors[0].as_str().unwrap()
    }

    #[track_caller]
    pub(crate) fn is(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
    }
}

pub(crate) fn http() -> Client {
    // The second test to do so finds it done.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(30))
        // Plain HTTP: without this each client would read the system's CAs, which takes an unoptimised build long.
        .tls_certs_only([])
        .build()
        .unwrap()
}

pub(crate) async fn start() -> Wire {
    start_with(Options::default()).await
}

pub(crate) async fn start_with(options: Options) -> Wire {
    let store = DevStore::start(options).await.unwrap();
    let token = store.root_token().expose_secret().to_owned();
    Wire {
        store,
        http: http(),
        token,
        namespace: None,
    }
}

impl Wire {
    /// The same store, seen with another token.
    pub(crate) fn with_token(&self, token: &str) -> Wire {
        Wire {
            store: self.store.clone(),
            http: self.http.clone(),
            token: token.to_owned(),
            namespace: self.namespace.clone(),
        }
    }

    /// The same store, seen from a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Wire {
        Wire {
            namespace: Some(namespace.to_owned()),
            ..self.with_token(&self.token)
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.store.vault_url())
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, self.url(path));
        if !self.token.is_empty() {
            request = request.header("X-Vault-Token", &self.token);
        }
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        request
    }

    pub(crate) async fn get(&self, path: &str) -> Got {
        send(self.request("GET", path)).await
    }

    pub(crate) async fn list(&self, path: &str) -> Got {
        send(self.request("LIST", path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Got {
        send(self.request("DELETE", path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Got {
        send(self.request("POST", path).body(body.to_string())).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Got {
        let request = self
            .request("PATCH", path)
            .header("Content-Type", "application/merge-patch+json");
        send(request.body(body.to_string())).await
    }

    /// A new token, made by the one of this client.
    pub(crate) async fn child(&self, fields: Value) -> Wire {
        let made = self.post("auth/token/create", fields).await;
        made.is(200);
        self.with_token(made.body["auth"]["client_token"].as_str().unwrap())
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Got {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).unwrap()
    };
    Got { status, body }
}
