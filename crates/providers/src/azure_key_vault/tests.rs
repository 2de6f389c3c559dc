#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
//! The real SDK over a network in memory, so that every login can be seen, those of machines included.
use super::*;
use crate::{Seen, read_flag};
use azure_core::credentials::{AccessToken, TokenRequestOptions};
use azure_core::http::headers::Headers;
use azure_core::http::{AsyncRawResponse, Body, Method, Request, StatusCode};
use azure_core::time::OffsetDateTime;
use std::io::Write;
use std::sync::Mutex;
use tokio::time::Instant;

const HOST: &str = "https://ops.vault.azure.net";
const CHALLENGE: &str =
    "Bearer authorization=\"https://login.microsoftonline.com/tenant\", resource=\"https://vault.azure.net\"";

#[derive(Clone, Debug)]
struct Asked {
    url: String,
    token: Option<String>,
    body: String,
}

type Reply = (u16, Vec<(&'static str, String)>, String);
fn reply(status: u16, body: impl Into<String>) -> Reply {
    (status, Vec::new(), body.into())
}

type Answer = dyn Fn(&Asked) -> Option<Reply> + Send + Sync;

/// Answers by a function; no answer hangs.
#[derive(Clone)]
struct Cloud {
    answer: Arc<Answer>,
    asked: Arc<Mutex<Vec<Asked>>>,
}
impl std::fmt::Debug for Cloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cloud")
    }
}

#[async_trait::async_trait]
impl HttpClient for Cloud {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let header = |name: &'static str| request.headers().get_optional_string(&name.into());
        let asked = Asked {
            url: request.url().to_string(),
            token: header("authorization"),
            body: match request.body() {
                Body::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                Body::SeekableStream(_) => panic!("no stream is sent"),
            },
        };
        assert!(matches!(request.method(), Method::Get | Method::Post));
        self.asked.lock().unwrap().push(asked.clone());
        let Some((status, headers, body)) = (self.answer)(&asked) else {
            return std::future::pending().await;
        };
        let mut all = Headers::new();
        for (name, value) in headers {
            all.insert(name, value);
        }
        Ok(AsyncRawResponse::from_bytes(StatusCode::from(status), all, body))
    }
}

impl Cloud {
    /// The vault's side by `vault`; who has no token is challenged; logins succeed.
    fn new(vault: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> Cloud {
        Cloud::with_logins(|_, n| Some(reply(200, token(n))), vault)
    }

    fn with_logins(
        login: impl Fn(&Asked, usize) -> Option<Reply> + Send + Sync + 'static,
        vault: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> Cloud {
        let logins = Mutex::new(0);
        let answer = move |asked: &Asked| {
            if !asked.url.starts_with(HOST) {
                *logins.lock().unwrap() += 1;
                return login(asked, *logins.lock().unwrap());
            }
            if asked.token.is_none() {
                return Some((
                    401,
                    vec![("www-authenticate", CHALLENGE.to_owned())],
                    String::new(),
                ));
            }
            vault(asked)
        };
        Cloud {
            answer: Arc::new(answer),
            asked: Arc::default(),
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn logins(&self) -> Vec<Asked> {
        self.asked()
            .into_iter()
            .filter(|asked| !asked.url.starts_with(HOST))
            .collect()
    }

    fn provider(&self, credential: AzureCredential) -> AzureKeyVault {
        let config = AzureKeyVaultConfig {
            vault_url: HOST.into(),
            secret: "orders--IsPaused".into(),
            resolve_to: None,
            ca_file: None,
            credential,
        };
        AzureKeyVault::over(Arc::new(self.clone()), config).unwrap()
    }
}

/// As Entra and the metadata service of a machine write it.
fn token(n: usize) -> String {
    let expires_on = OffsetDateTime::now_utc().unix_timestamp() + 3600;
    format!(
        r#"{{"access_token":"MARKED-token-{n}","token_type":"Bearer","expires_in":3600,"ext_expires_in":3600,"expires_on":"{expires_on}","resource":"https://vault.azure.net"}}"#
    )
}

fn secret(value: &str, attributes: &str) -> Reply {
    let value = serde_json::Value::from(value);
    reply(
        200,
        format!(
            r#"{{"value":{value},"id":"{HOST}/secrets/orders--IsPaused/0123456789abcdef0123456789abcdef","attributes":{{"enabled":true,"created":1795370400,"updated":1795370460{attributes}}}}}"#
        ),
    )
}

/// A secret in a file, as the application's.
struct Application(tempfile::NamedTempFile);
impl Application {
    fn new() -> Application {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "MARKED-secret\n").unwrap();
        Application(file)
    }
    fn credential(&self) -> AzureCredential {
        AzureCredential::ClientSecret {
            tenant_id: "tenant".into(),
            client_id: "app".into(),
            secret_file: self.0.path().to_owned(),
            authority_host: None,
        }
    }
}

#[tokio::test]
async fn the_first_read_answers_a_challenge_and_every_other_is_one_request() {
    let cloud = Cloud::new(|_| Some(secret("true", "")));
    let app = Application::new();
    let mut provider = cloud.provider(app.credential());
    for _ in 0..5 {
        let secret = provider.read().await.unwrap();
        assert!(read_flag(&secret, "IsPaused").unwrap().paused);
        assert_eq!(&*secret.version.id, "0123456789abcdef0123456789abcdef");
        let updated = std::time::UNIX_EPOCH + Duration::from_secs(1_795_370_460);
        assert_eq!(secret.version.written, Some(updated));
        assert_eq!(secret.serial, None);
    }
    let asked = cloud.asked();
    let of_vault: Vec<_> = asked.iter().filter(|a| a.url.starts_with(HOST)).collect();
    assert_eq!((asked.len(), of_vault.len()), (7, 6));
    assert!(of_vault[0].token.is_none() && of_vault[1..].iter().all(|a| a.token.is_some()));
    assert!(
        of_vault[1]
            .url
            .starts_with(&format!("{HOST}/secrets/orders--IsPaused/?api-version=")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn every_way_to_log_in_asks_where_it_should() {
    let app = Application::new();
    let table = [
        (
            app.credential(),
            "https://login.microsoftonline.com/tenant/oauth2/v2.0/token",
            "client_secret=MARKED-secret&",
        ),
        (
            AzureCredential::WorkloadIdentity {
                tenant_id: Some("tenant".into()),
                client_id: Some("app".into()),
                token_file: Some(app.0.path().to_owned()),
                authority_host: Some("https://login.example".into()),
            },
            "https://login.example/tenant/oauth2/v2.0/token",
            "client_assertion=MARKED-secret",
        ),
        (
            AzureCredential::ManagedIdentity {
                client_id: Some("app".into()),
            },
            "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net&client_id=app",
            "",
        ),
    ];
    for (credential, url, body) in table {
        let cloud = Cloud::new(|_| Some(secret("false", "")));
        let mut provider = cloud.provider(credential);
        provider.read().await.unwrap();
        let logins = cloud.logins();
        assert_eq!(logins.len(), 1);
        assert_eq!(logins[0].url, url);
        assert!(logins[0].body.contains(body), "{}", logins[0].body);
        assert!(!format!("{provider:?} {}", provider.id()).contains("MARKED"));
    }
}

#[tokio::test]
async fn what_key_vault_answers_is_told_apart_and_never_shown() {
    let coded = |code: &str, inner: &str| {
        format!(
            r#"{{"error":{{"code":"{code}","message":"MARKED \"quoted\" MARKED","innererror":{{"code":"{inner}"}}}}}}"#
        )
    };
    let html = "<html>MARKED</html>".to_owned();
    let table: Vec<(u16, String, &str, &str)> = vec![
        (401, coded("Unauthorized", "AKV10032"), "denied", "tenant"),
        (403, coded("Forbidden", "SecretDisabled"), "disabled", "disabled"),
        (
            403,
            coded("Forbidden", "ForbiddenByRbac"),
            "denied",
            "Secrets User",
        ),
        (
            403,
            coded("Forbidden", "ForbiddenByFirewall"),
            "denied",
            "firewall",
        ),
        (403, html.clone(), "denied", "not by Key Vault"),
        (404, coded("SecretNotFound", "x"), "missing", "deleted"),
        (404, coded("MARKED", "x"), "unavailable", "404"),
        (404, html.clone(), "unavailable", "404"),
        (429, coded("Throttled", "x"), "throttled", "429"),
        (500, coded("InternalError", "x"), "unavailable", "500"),
        (503, html.clone(), "unavailable", "503"),
        (307, String::new(), "unavailable", "redirect"),
        (200, html, "unavailable", "not one of Key Vault's"),
        (200, "{}".into(), "unavailable", "no value or no version"),
        (
            200,
            r#"{"value":"MARKED"}"#.into(),
            "unavailable",
            "no value or no version",
        ),
    ];
    for (status, body, word, says) in table {
        let cloud = Cloud::new(move |_| Some((status, vec![("retry-after", "7".to_owned())], body.clone())));
        let app = Application::new();
        let mut provider = cloud.provider(app.credential());
        let outcome = provider.read().await;
        let seen = Seen::of(&outcome, "IsPaused", None);
        assert_eq!(seen.reading.word(), word, "{status} {seen:?}");
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains(says), "{status}: {error}");
        assert!(
            error
                .to_string()
                .contains("orders--IsPaused in https://ops.vault.azure.net"),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("MARKED"), "{error:?}");
        let waits = matches!(status, 429 | 500 | 503 | 404) && matches!(word, "throttled" | "unavailable");
        assert_eq!(
            error.retry_after(),
            waits.then_some(Duration::from_secs(7)),
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_secret_switched_off_expired_or_not_yet_valid_is_told_and_its_value_counts() {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let day = 24 * 3600;
    let table = [
        (String::new(), 0, ""),
        (format!(r#","exp":{}"#, now - day), 1, "expired on"),
        (format!(r#","exp":{}"#, now + day), 1, "expires on"),
        (format!(r#","exp":{}"#, now + 30 * day), 0, ""),
        (format!(r#","nbf":{}"#, now + day), 1, "not to be used before"),
        (format!(r#","nbf":{}"#, now - day), 0, ""),
        (
            format!(r#","nbf":{},"exp":{}"#, now + day, now - day),
            2,
            "expired on",
        ),
    ];
    for (attributes, warnings, says) in table {
        let sent = attributes.clone();
        let cloud = Cloud::new(move |_| Some(secret(r#"{"IsPaused": true, "reason": "db"}"#, &sent)));
        let app = Application::new();
        let found = cloud.provider(app.credential()).read().await.unwrap();
        let flag = read_flag(&found, "IsPaused").unwrap();
        assert!(flag.paused);
        assert_eq!(flag.warnings.len(), warnings, "{attributes}: {:?}", flag.warnings);
        assert!(
            warnings == 0 || flag.warnings[0].contains(says),
            "{:?}",
            flag.warnings
        );
    }
    let off =
        r#"{"value":"MARKED","id":"https://ops.vault.azure.net/secrets/a/b","attributes":{"enabled":false}}"#;
    let cloud = Cloud::new(move |_| Some(reply(200, off)));
    let app = Application::new();
    let error = cloud.provider(app.credential()).read().await.unwrap_err();
    assert_eq!(error.reading().word(), "disabled");
}

#[tokio::test]
async fn a_challenge_for_another_resource_is_given_no_token() {
    for resource in [
        "https://vault.azure.net.evil.example",
        "https://graph.microsoft.com",
        "https://azure.example",
        "x",
    ] {
        let challenge = format!("Bearer authorization=\"https://login.example/t\", resource=\"{resource}\"");
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let cloud = Cloud {
            answer: Arc::new(move |_| {
                Some((401, vec![("www-authenticate", challenge.clone())], String::new()))
            }),
            asked: asked.clone(),
        };
        let app = Application::new();
        assert!(cloud.provider(app.credential()).read().await.is_err());
        assert_eq!(
            asked.lock().unwrap().len(),
            1,
            "{resource}: no login, no second request"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_fails_is_told_by_its_code_and_not_by_its_body() {
    let refused =
        r#"{"error":"invalid_client","error_description":"AADSTS7000215: MARKED","error_codes":[7000215]}"#;
    type Row = (Option<Reply>, &'static str, &'static str);
    let table: [Row; 6] = [
        (Some(reply(401, refused)), "denied", "AADSTS7000215"),
        (Some(reply(400, "<html>MARKED</html>")), "denied", ""),
        (Some(reply(429, refused)), "throttled", "429"),
        (Some(reply(503, refused)), "unavailable", "503"),
        (Some(reply(200, "MARKED")), "denied", ""),
        (None, "unavailable", ""),
    ];
    for (answer, word, says) in table {
        let row = format!("{answer:?}");
        let cloud = Cloud::with_logins(move |_, _| answer.clone(), |_| Some(secret("true", "")));
        let app = Application::new();
        let mut provider = cloud.provider(app.credential());
        let outcome = provider.read().await;
        let error = outcome.unwrap_err();
        assert_eq!(error.reading().word(), word, "{row}: {error}");
        assert!(
            error.to_string().contains("logging in") && error.to_string().contains(says),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("MARKED"), "{error:?}");
    }
}

/// An authority that hangs on the first login and answers every other: what a read meets that comes after it is well.
fn hangs_once() -> Cloud {
    Cloud::with_logins(
        |_, n| (n > 1).then(|| reply(200, token(n))),
        |_| Some(secret("true", "")),
    )
}

#[tokio::test(start_paused = true)]
async fn the_first_read_after_an_authority_has_hung_does_not_wait_for_what_was_asked_before() {
    let limit = Duration::from_secs(2);
    let (cloud, app) = (hangs_once(), Application::new());
    let mut provider = cloud.provider(app.credential());
    assert!(tokio::time::timeout(limit, provider.read()).await.is_err());
    let again = Instant::now();
    provider.read().await.unwrap();
    assert_eq!(again.elapsed(), Duration::ZERO);
    assert_eq!(cloud.logins().len(), 2);
    // The twin: the source of the login that hangs, asked again, waits for that one.
    let cloud = hangs_once();
    let mut provider = cloud.provider(app.credential());
    assert!(tokio::time::timeout(limit, provider.read()).await.is_err());
    let asked = provider.client.get("orders--IsPaused");
    assert!(tokio::time::timeout(limit, asked).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_slower_than_a_read_may_be_comes_to_its_end_all_the_same() {
    let source = Source::default();
    let slow = Slow(source.clone(), Duration::from_secs(3));
    let tokens = Tokens::new(LONGEST_LOGIN);
    for read in 0.. {
        tokens.set_source(Arc::new(slow.clone()));
        let read_within = tokio::time::timeout(Duration::from_secs(2), tokens.get_token(&["scope"], None));
        if read_within.await.is_ok_and(|outcome| outcome.is_ok()) {
            assert_eq!(read, 1, "the second read has what the first one asked for");
            break;
        }
        assert!(tokens.is_stuck());
    }
    assert!(!tokens.is_stuck());
}

/// The SDK reads the file of a federated token once in ten minutes.
#[tokio::test]
async fn a_federated_token_that_was_mended_after_a_refusal_is_used_by_the_next_read() {
    let cloud = Cloud::with_logins(
        |asked, n| match asked.body.contains("client_assertion=MARKED-good") {
            true => Some(reply(200, token(n))),
            false => Some(reply(401, r#"{"error":"invalid_client","error_codes":[700024]}"#)),
        },
        |_| Some(secret("true", "")),
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "MARKED-old").unwrap();
    let mut provider = cloud.provider(AzureCredential::WorkloadIdentity {
        tenant_id: Some("tenant".into()),
        client_id: Some("app".into()),
        token_file: Some(file.path().to_owned()),
        authority_host: None,
    });
    for _ in 0..2 {
        assert_eq!(provider.read().await.unwrap_err().reading().word(), "denied");
    }
    std::fs::write(&file, "MARKED-good").unwrap();
    provider.read().await.unwrap();
}

/// A source that takes its time.
#[derive(Clone, Debug)]
struct Slow(Source, Duration);

#[async_trait::async_trait]
impl TokenCredential for Slow {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        tokio::time::sleep(self.1).await;
        self.0.get_token(scopes, options).await
    }
}

#[tokio::test]
async fn what_the_network_says_names_the_server_and_no_path() {
    let refuses = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let vault = format!("https://{refuses}");
    let app = Application::new();
    let config = AzureKeyVaultConfig {
        vault_url: vault.clone(),
        secret: "orders--IsPaused".into(),
        resolve_to: None,
        ca_file: None,
        credential: app.credential(),
    };
    let error = AzureKeyVault::new(config).unwrap().read().await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("no usable answer: ") && text.contains("refused"),
        "{text}"
    );
    assert_eq!(text.matches(&vault).count(), 1, "{text}");
    assert!(!text.contains("api-version"), "{text}");
    // A login: the server is another, and it is named.
    let said = build(builder(false, None).unwrap())
        .unwrap()
        .get(format!(
            "https://{refuses}/MARKED-tenant/oauth2/v2.0/token?x=MARKED"
        ))
        .send()
        .await
        .unwrap_err();
    let error = azure_core::Error::new(azure_core::error::ErrorKind::Connection, said);
    let at = Where {
        place: "azure_key_vault x in https://ops.vault.azure.net",
        reader: "app",
    };
    let text = at.login(&error).to_string();
    assert!(
        text.contains(&format!("no usable answer from {vault}: ")),
        "{text}"
    );
    assert!(!text.contains("MARKED"), "{text}");
}

#[tokio::test]
async fn what_is_missing_for_a_login_is_denied_and_named() {
    let cloud = Cloud::new(|_| Some(secret("true", "")));
    let gone = |file: &str| AzureCredential::ClientSecret {
        tenant_id: "tenant".into(),
        client_id: "app".into(),
        secret_file: file.into(),
        authority_host: None,
    };
    let error = cloud.provider(gone("/no/such/file")).read().await.unwrap_err();
    assert_eq!(error.reading().word(), "denied");
    assert!(error.to_string().contains("/no/such/file"), "{error}");
    let federated = AzureCredential::WorkloadIdentity {
        tenant_id: Some("tenant".into()),
        client_id: Some("app".into()),
        token_file: Some("/no/such/file".into()),
        authority_host: None,
    };
    assert_eq!(
        cloud
            .provider(federated)
            .read()
            .await
            .unwrap_err()
            .reading()
            .word(),
        "denied"
    );
    assert!(cloud.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_vault_forgets_is_replaced_within_the_same_read() {
    let valid: Arc<Mutex<usize>> = Arc::new(Mutex::new(1));
    let now_valid = valid.clone();
    let cloud = Cloud::new(move |asked| {
        let expected = format!("Bearer MARKED-token-{}", now_valid.lock().unwrap());
        match asked.token.as_deref() == Some(&expected) {
            true => Some(secret("true", "")),
            false => Some((
                401,
                vec![("www-authenticate", CHALLENGE.to_owned())],
                String::new(),
            )),
        }
    });
    let app = Application::new();
    let mut provider = cloud.provider(app.credential());
    provider.read().await.unwrap();
    for n in 2..6 {
        *valid.lock().unwrap() = n;
        provider.read().await.unwrap();
        assert_eq!(cloud.logins().len(), n);
    }
    // But one that is refused as soon as it comes is no reason to log in at each read.
    *valid.lock().unwrap() = 0;
    for _ in 0..10 {
        assert!(provider.read().await.is_err());
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert!(cloud.logins().len() <= 8, "{}", cloud.logins().len());
}

#[tokio::test]
async fn a_changed_secret_file_is_used_for_the_next_login() {
    let cloud = Cloud::new(|_| Some(secret("true", "")));
    let app = Application::new();
    let mut provider = cloud.provider(app.credential());
    provider.read().await.unwrap();
    std::fs::write(&app.0, "MARKED-rotated").unwrap();
    provider.read().await.unwrap();
    assert_eq!(cloud.logins().len(), 1, "the token in use stays in use");
    std::fs::write(&app.0, "").unwrap();
    provider.read().await.unwrap();
    std::fs::write(&app.0, "MARKED-again").unwrap();
    provider.read().await.unwrap();
    // As if the token had ended.
    let other = ["https://other/.default"];
    provider.tokens.get_token(&other, None).await.unwrap();
    assert!(cloud.logins().last().unwrap().body.contains("MARKED-again"));
}

/// A source of tokens that may fail or hang.
#[derive(Clone, Debug, Default)]
struct Source(Arc<Mutex<(usize, Option<&'static str>)>>);
const LIFE: Duration = Duration::from_secs(1200);

#[async_trait::async_trait]
impl TokenCredential for Source {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let ill = self.0.lock().unwrap().1;
        match ill {
            Some("hangs") => return std::future::pending().await,
            Some(_) => {
                let error = azure_core::Error::with_message(azure_core::error::ErrorKind::Io, "MARKED");
                return Err(error);
            }
            None => {}
        }
        self.0.lock().unwrap().0 += 1;
        Ok(AccessToken::new("MARKED", OffsetDateTime::now_utc() + LIFE))
    }
}

/// Reads each five seconds until `count` tokens were issued, while a third of the time logins fail or hang, though
/// never for longer than a token lives on after its time has come. Returns the longest that a read waited for a token.
async fn longest_wait(
    source: &Source,
    handed_out_by: &dyn TokenCredential,
    tokens: Option<&Tokens>,
) -> Duration {
    let at = Where {
        place: "here",
        reader: "somebody",
    };
    handed_out_by.get_token(&["scope"], None).await.unwrap();
    let (mut longest, mut reads) = (Duration::ZERO, 0);
    while source.0.lock().unwrap().0 < 1000 {
        reads += 1;
        source.0.lock().unwrap().1 = match (reads / 6) % 6 {
            0 => Some("fails"),
            1 => Some("hangs"),
            _ => None,
        };
        let began = Instant::now();
        let _ = tokio::time::timeout(Duration::from_secs(2), handed_out_by.get_token(&["scope"], None)).await;
        longest = longest.max(began.elapsed());
        let next_read = tokio::time::sleep(Duration::from_secs(5));
        tokio::pin!(next_read);
        loop {
            let tend = async {
                match tokens {
                    Some(tokens) => tokens.tend(&at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut next_read => break,
                () = tend => {}
            }
        }
    }
    longest
}

#[tokio::test(start_paused = true)]
async fn a_thousand_tokens_are_replaced_before_they_end_and_no_read_waits() {
    let log = Log::default();
    let _guard = log.capture();
    let source = Source::default();
    let tokens = Tokens::new(LONGEST_LOGIN);
    tokens.set_source(Arc::new(source.clone()));
    let longest = longest_wait(&source, &tokens, Some(&tokens)).await;
    assert_eq!(longest, Duration::ZERO, "a read waited for a login");
    assert!(!log.text().contains("MARKED"), "{}", log.text());
}

/// The twin: tokens that are asked for within reads, as the SDK does, must be caught by the same check.
#[tokio::test(start_paused = true)]
async fn tokens_that_are_fetched_within_reads_make_reads_wait() {
    let source = Source::default();
    assert!(longest_wait(&source, &source, None).await >= Duration::from_secs(2));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);
impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
impl Log {
    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn at_trace_nothing_of_a_value_a_token_or_a_secret_is_logged() {
    let log = Log::default();
    let _guard = log.capture();
    let bodies = [
        secret("MARKED-value", ""),
        reply(403, r#"{"error":{"code":"Forbidden","message":"MARKED"}}"#),
        reply(500, "MARKED"),
        reply(200, "MARKED"),
    ];
    for body in bodies {
        let cloud = Cloud::new(move |_| Some(body.clone()));
        let app = Application::new();
        let mut provider = cloud.provider(app.credential());
        for _ in 0..3 {
            let _ = provider.read().await;
        }
    }
    let refused = r#"{"error":"invalid_client","error_description":"MARKED","error_codes":[1]}"#;
    let cloud = Cloud::with_logins(move |_, _| Some(reply(401, refused)), |_| None);
    let app = Application::new();
    let _ = cloud.provider(app.credential()).read().await;
    let text = log.text();
    assert!(
        text.contains("azure") || text.contains("Request"),
        "the SDK logs something: {text}"
    );
    assert!(!text.contains("MARKED"), "{text}");
}
