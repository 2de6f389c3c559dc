//! A client of the two surfaces, and of the store's, with no type of theirs.
use super::eventually;
use serde_json::Value;
use std::time::Duration;

/// One client of the control and observe surfaces of a sidecar.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    pub(crate) control: String,
    pub(crate) observe: String,
    token: Option<String>,
}

/// A client with timeouts that follows no redirect and speaks no TLS.
pub(crate) fn http_client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(super::PATIENCE)
        .connect_timeout(Duration::from_secs(10))
        // A connection that idles may be ended by the listener just when it is used again.
        .pool_max_idle_per_host(0)
        // Plain HTTP: without this each client would read the system's CAs, which takes an unoptimised build long.
        .tls_certs_only([])
        .build()
        .unwrap()
}

impl Client {
    /// `control` and `observe` are addresses as the sidecar tells them.
    pub(crate) fn new(control: &str, observe: &str) -> Client {
        Client {
            http: http_client(),
            control: format!("http://{control}"),
            observe: format!("http://{observe}"),
            token: None,
        }
    }

    /// The same, with a bearer token.
    pub(crate) fn with_token(&self, token: &str) -> Client {
        Client {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// Status and body of a call to the control surface; null for a body that is not JSON.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let (status, text) = self.send(method, &format!("{}{path}", self.control), body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub(crate) async fn post(&self, path: &str) -> (u16, Value) {
        self.call("POST", path, None).await
    }

    /// Status and text of any URL.
    pub(crate) async fn send(&self, method: &str, url: &str, body: Option<&Value>) -> (u16, String) {
        let mut request = self.http.request(method.parse().unwrap(), url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let response = request
            .send()
            .await
            .unwrap_or_else(|e| panic!("{method} {url}: {e:?}"));
        let status = response.status().as_u16();
        (status, response.text().await.unwrap())
    }

    /// A path of the observe surface.
    pub(crate) async fn observe(&self, path: &str) -> (u16, String) {
        self.send("GET", &format!("{}{path}", self.observe), None).await
    }

    pub(crate) async fn status(&self) -> Value {
        let (status, body) = self.call("GET", "/status", None).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(crate) async fn stream(&self, name: &str) -> Value {
        named(&self.status().await["streams"], name)
    }

    pub(crate) async fn switch(&self, name: &str) -> Value {
        named(&self.status().await["switches"], name)
    }

    pub(crate) async fn metrics(&self) -> String {
        let (status, text) = self.observe("/metrics").await;
        assert_eq!(status, 200);
        text
    }

    /// The value of one series, named as in the text: `tidegate_polls_total{switch="ops",outcome="paused"}`.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics().await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(line.trim().parse().unwrap())
    }

    /// Has every switch read, and returns when the readings are applied.
    pub(crate) async fn poll(&self) {
        let (status, body) = self.post("/poll").await;
        assert_eq!(status, 200, "{body}");
    }

    /// Waits until the stream is in that state, and returns its status.
    pub(crate) async fn reaches(&self, stream: &str, state: &str) -> Value {
        eventually(&format!("{stream} is {state}"), || async {
            let now = self.stream(stream).await;
            (now["state"] == state).then_some(now)
        })
        .await
    }

    /// Waits until the switch's last reading is this word, and returns its status.
    pub(crate) async fn reads(&self, switch: &str, reading: &str) -> Value {
        eventually(&format!("{switch} reads {reading}"), || async {
            let now = self.switch(switch).await;
            (now["reading"] == reading).then_some(now)
        })
        .await
    }
}

/// The controllers that hold a stream, of its status.
pub(crate) fn controllers(stream: &Value) -> Vec<&str> {
    let holds = stream["holds"].as_array().unwrap();
    holds
        .iter()
        .map(|hold| hold["controller"].as_str().unwrap())
        .collect()
}

fn named(list: &Value, name: &str) -> Value {
    let found = list.as_array().unwrap().iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}")).clone()
}
