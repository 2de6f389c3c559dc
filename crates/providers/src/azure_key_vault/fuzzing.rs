//! Whatever a Key Vault, a login service, or what stands in their place, may answer, through the vendor's whole SDK.
use super::AzureKeyVault;
use crate::fuzzing::{block_on, kind, says_nothing, script, tells_nothing};
use crate::{AzureCredential, AzureKeyVaultConfig, Provider, ReadError, Secret};
use azure_core::error::ErrorKind;
use azure_core::http::headers::Headers;
use azure_core::http::{AsyncRawResponse, HttpClient, Request, StatusCode};
use futures_util::FutureExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const HOST: &str = "https://ops.vault.azure.net";
const CHALLENGE: &str =
    "Bearer authorization=\"https://login.microsoftonline.com/tenant\", resource=\"https://vault.azure.net\"";
/// Both of its ends are far from now: the SDK looks at a clock that is not tokio's.
const TOKEN: &str = r#"{"access_token":"hunter2-token","token_type":"Bearer","expires_in":"86399","ext_expires_in":"86399","expires_on":"4102444800","resource":"https://vault.azure.net"}"#;

type Reply = (u16, Vec<(String, String)>, Vec<u8>);

#[derive(Debug)]
struct Scene {
    state: Mutex<State>,
    /// The script answers challenges and logins too, which else go well.
    everything: bool,
}

#[derive(Debug)]
struct State {
    answers: std::vec::IntoIter<Reply>,
    /// The last answer to a request that carried a token.
    read: Option<u16>,
}

impl Scene {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reply(&self, request: &Request) -> Option<Reply> {
        let at_vault = request.url().as_str().starts_with(HOST);
        let token = request.headers().get_optional_string(&"authorization".into());
        if !self.everything && !at_vault {
            return Some((200, Vec::new(), TOKEN.into()));
        }
        if !self.everything && token.is_none() {
            let challenge = ("www-authenticate".to_owned(), CHALLENGE.to_owned());
            return Some((401, vec![challenge], Vec::new()));
        }
        let mut state = self.state();
        let answer = state.answers.next();
        if at_vault {
            assert!(request.url().path().starts_with("/secrets/orders--IsPaused"));
            state.read = answer.as_ref().map(|(status, ..)| *status);
        }
        answer
    }
}

#[async_trait::async_trait]
impl HttpClient for Scene {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let Some((status, headers, body)) = self.reply(request) else {
            let why = "the script has ended";
            return Err(azure_core::Error::with_message(ErrorKind::Connection, why));
        };
        let mut all = Headers::new();
        for (name, value) in headers {
            all.insert(name, value);
        }
        Ok(AsyncRawResponse::from_bytes(StatusCode::from(status), all, body))
    }
}

/// Options (`e` lets the script answer challenges and logins too), then answers: every outcome is of a kind that its status
/// allows, one line, and shows nothing of a body or a token.
pub fn key_vault(data: &[u8]) {
    let (options, answers) = script(data);
    let count = answers.len();
    let answers: Vec<Reply> = answers
        .iter()
        .map(|answer| {
            // No other name comes out of an HTTP client.
            let text = |(name, value): &(&str, &str)| {
                let name = name.parse::<http::HeaderName>().ok()?;
                Some((name.as_str().to_owned(), (*value).to_owned()))
            };
            let headers = answer.headers.iter().filter_map(text).collect();
            (answer.status, headers, answer.body.to_vec())
        })
        .collect();
    let scene = Arc::new(Scene {
        state: Mutex::new(State {
            answers: answers.into_iter(),
            read: None,
        }),
        everything: options.contains(&b'e'),
    });
    let config = AzureKeyVaultConfig {
        vault_url: HOST.into(),
        secret: "orders--IsPaused".into(),
        resolve_to: None,
        ca_file: None,
        credential: AzureCredential::ManagedIdentity { client_id: None },
    };
    let mut vault = AzureKeyVault::over(scene.clone(), config).expect("the configuration is one");
    for _ in 0..count.max(1) {
        scene.state().read = None;
        let outcome = block_on(vault.read());
        tells_nothing(&outcome);
        if let Some(status) = scene.state().read.filter(|_| !scene.everything) {
            assert!(fits(status, &outcome), "{status} is {:?}", kind(&outcome));
        }
        let _ = block_on(async { vault.tend().now_or_never() });
        if scene.state().answers.as_slice().is_empty() {
            break;
        }
    }
    says_nothing(&format!("{vault:?}"));
}

/// Whether a reading can be what a status means.
fn fits(status: u16, outcome: &Result<Secret, ReadError>) -> bool {
    use ReadError::{Denied, Disabled, Missing, Throttled, Unavailable};
    match (status, outcome) {
        (200..=299, Ok(_) | Err(Disabled(_) | Unavailable { .. })) => true,
        (401, Err(error)) => matches!(error, Denied(_) | Unavailable { .. }),
        (403, Err(error)) => matches!(error, Denied(_) | Disabled(_)),
        (404, Err(error)) => matches!(error, Missing(_) | Unavailable { .. }),
        (429, Err(error)) => matches!(error, Throttled { .. }),
        (_, Err(error)) => matches!(error, Unavailable { .. }),
        (_, Ok(_)) => false,
    }
}
