//! Whatever a Vault, or what stands in its place, may answer: to logins, reads, lookups, renewals and questions about
//! rights.
use super::Vault;
use super::client::{Answer, Carried, Client, Wire};
use crate::fuzzing::{block_on, kind, says_nothing, script, tells_nothing};
use crate::http_client::retry_after;
use crate::{Body, Provider, ReadError, Secret, VaultAuth, VaultConfig};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use zeroize::Zeroizing;

/// Answers one after the other, and what the last one to a read was.
struct Wired(Mutex<State>);

struct State {
    answers: std::vec::IntoIter<(StatusCode, Option<Duration>, Vec<u8>)>,
    read: Option<(StatusCode, Option<Duration>, Vec<u8>)>,
}

impl Wired {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire for Wired {
    fn carry(&self, request: reqwest::Request) -> Carried<'_> {
        let mut state = self.state();
        let answer = state.answers.next();
        if request.url().path().starts_with("/v1/secret/") {
            state.read.clone_from(&answer);
        }
        let answer = answer.map(|(status, retry_after, body)| Answer {
            status,
            retry_after,
            body: Zeroizing::new(body),
        });
        Box::pin(std::future::ready(
            answer.ok_or_else(|| ReadError::unavailable("the script has ended")),
        ))
    }
}

/// Options (`1` for KV 1, `approle` for a login), then answers: every outcome is of a kind that its status allows, one
/// line, and shows nothing of a body.
pub fn vault(data: &[u8]) {
    let (options, answers) = script(data);
    let kv = if options.contains(&b'1') { 1 } else { 2 };
    let count = answers.len();
    let answers: Vec<_> = answers
        .iter()
        .map(|answer| {
            let mut headers = HeaderMap::new();
            for (name, value) in &answer.headers {
                if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                    headers.insert(name, value);
                }
            }
            let status = StatusCode::from_u16(answer.status).unwrap_or_default();
            (status, retry_after(&headers), answer.body.to_vec())
        })
        .collect();
    let credential = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/credential").into();
    let auth = if options.ends_with(b"approle") {
        VaultAuth::Approle {
            mount: None,
            role_id: "role".into(),
            secret_id_file: credential,
        }
    } else {
        VaultAuth::Token {
            env: None,
            file: Some(credential),
        }
    };
    let config = VaultConfig {
        address: "https://vault.example:8200".into(),
        namespace: None,
        mount: "secret".into(),
        path: "streams/orders".into(),
        kv,
        ca_file: None,
        allow_plaintext: false,
        auth,
    };
    let wire = Arc::new(Wired(Mutex::new(State {
        answers: answers.into_iter(),
        read: None,
    })));
    let client = Client::over(wire.clone(), &config).expect("the address is one");
    let mut vault = Vault::over(client, config).expect("the configuration is one");
    for _ in 0..count.max(1) {
        wire.state().read = None;
        let outcome = block_on(vault.read());
        tells_nothing(&outcome);
        if let Some((status, retry_after, body)) = wire.state().read.take() {
            assert!(
                fits(kv, status, &body, &outcome),
                "{status} is {:?}: {}",
                kind(&outcome),
                String::from_utf8_lossy(&body)
            );
            if let Err(ReadError::Throttled { .. } | ReadError::Sealed { .. }) = &outcome {
                assert_eq!(outcome.err().and_then(|error| error.retry_after()), retry_after);
            }
        }
        let _ = block_on(async { vault.tend().now_or_never() });
        if wire.state().answers.as_slice().is_empty() {
            break;
        }
    }
    says_nothing(&format!("{:?}", block_on(vault.access())));
    says_nothing(&format!("{vault:?}"));
}

/// Whether a reading can be what an answer means.
fn fits(kv: u8, status: StatusCode, body: &[u8], outcome: &Result<Secret, ReadError>) -> bool {
    use ReadError::{Deleted, Denied, Missing, Sealed, Throttled, Unavailable};
    match (status.as_u16(), outcome) {
        (200, Ok(secret)) => {
            let Ok(whole) = serde_json::from_slice::<serde_json::Value>(body) else {
                // What we do not look at, we do not read: a number that is out of range, say.
                return true;
            };
            let version = whole["data"]["metadata"]["version"].as_u64();
            match kv {
                1 => secret.serial.is_none() && whole["data"].is_object(),
                _ => {
                    matches!(secret.body, Body::Fields(_))
                        && secret.serial.is_some()
                        && secret.serial == version
                }
            }
        }
        (200, Err(Deleted(_))) => kv == 2,
        (400, Err(Denied(_))) => true,
        (401 | 403, Err(error)) => matches!(error, Denied(_)),
        (404, Err(error)) => matches!(error, Missing(_) | Deleted(_) | Unavailable { .. }),
        (429, Err(error)) => matches!(error, Throttled { .. }),
        (503, Err(error)) => matches!(error, Sealed { .. } | Unavailable { .. }),
        (_, Err(error)) => matches!(error, Unavailable { .. }),
        (_, Ok(_)) => false,
    }
}
