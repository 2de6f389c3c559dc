//! What can go wrong with a secret in Azure Key Vault. Whatever the store answers is marked, and none of it is shown.
use super::{Kind, Store, all_cells};
use crate::harness::{CLIENT_SECRET, Running, Site, append, controllers, eventually, rows, text_of};
use serde_json::{Value, json};
use tidegate_devstore::{Fault, RetryAfter, Rights, Rule};

/// As .NET configuration names it.
const SECRET: &str = "orders--IsPaused";
/// In every body of an error.
const MARK: &str = "MARKED";

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum KeyVault {
    Deleted,
    DeletedAndPurged,
    KeyAbsent,
    Disabled,
    Word,
    Number,
    Empty,
    List,
    TwoEqualNames,
    RightsTakenAway,
    ApplicationGone,
    Throttled,
    ThrottledForASecond,
    Refused,
    Hangs,
    ResetAtOnce,
    ResetInHeaders,
    ResetInBody,
    Garbage,
    NotHttp,
    CutShort,
    Endless,
    ServerError,
    ErrorWithEscapes,
    ProxyPage,
    Redirects,
}

impl KeyVault {
    pub(super) const ALL: &[KeyVault] = &[
        KeyVault::Deleted,
        KeyVault::DeletedAndPurged,
        KeyVault::KeyAbsent,
        KeyVault::Disabled,
        KeyVault::Word,
        KeyVault::Number,
        KeyVault::Empty,
        KeyVault::List,
        KeyVault::TwoEqualNames,
        KeyVault::RightsTakenAway,
        KeyVault::ApplicationGone,
        KeyVault::Throttled,
        KeyVault::ThrottledForASecond,
        KeyVault::Refused,
        KeyVault::Hangs,
        KeyVault::ResetAtOnce,
        KeyVault::ResetInHeaders,
        KeyVault::ResetInBody,
        KeyVault::Garbage,
        KeyVault::NotHttp,
        KeyVault::CutShort,
        KeyVault::Endless,
        KeyVault::ServerError,
        KeyVault::ErrorWithEscapes,
        KeyVault::ProxyPage,
        KeyVault::Redirects,
    ];

    fn fault(self) -> Option<Fault> {
        let error = |status: u16, code: &str, message: &str| {
            let body = json!({ "error": { "code": code, "message": message } });
            Fault::status(status).body("application/json", &body.to_string())
        };
        let escapes = "MARKED \"quoted\" \\ \u{1b}[31m MARKED";
        Some(match self {
            KeyVault::Throttled => error(429, "Throttled", "MARKED: request was not processed"),
            KeyVault::ThrottledForASecond => {
                error(429, "Throttled", MARK).retry_after(RetryAfter::Seconds(1))
            }
            KeyVault::Hangs => Fault::Hang,
            KeyVault::ResetAtOnce => Fault::ResetBeforeHeaders,
            KeyVault::ResetInHeaders => Fault::ResetInHeaders,
            KeyVault::ResetInBody => Fault::ResetInBody,
            KeyVault::Garbage => Fault::Garbage,
            KeyVault::NotHttp => Fault::NotHttp,
            KeyVault::CutShort => Fault::Truncated,
            KeyVault::Endless => Fault::Endless,
            KeyVault::ServerError => error(500, "InternalError", "MARKED"),
            // A body that the SDK's own parser gives up on, and then prints whole.
            KeyVault::ErrorWithEscapes => error(503, MARK, escapes),
            KeyVault::ProxyPage => Fault::status(404).body("text/html", "<html>MARKED</html>"),
            KeyVault::Redirects => Fault::redirect("https://MARKED.internal/secrets/orders"),
            _ => return None,
        })
    }

    fn malformed(self) -> Option<String> {
        Some(match self {
            KeyVault::Word => MARK.to_owned(),
            KeyVault::Number => "1".to_owned(),
            KeyVault::Empty => String::new(),
            KeyVault::List => "[true]".to_owned(),
            KeyVault::TwoEqualNames => r#"{"IsPaused": true, "ispaused": true, "x": "MARKED"}"#.to_owned(),
            _ => return None,
        })
    }

    fn is_of_the_wire(self) -> bool {
        self.fault().is_some() || self == KeyVault::Refused
    }
}

impl Store for KeyVault {
    fn shows(&self) -> (&'static str, Kind) {
        match self {
            // A role on the one secret cannot see whether it can be recovered.
            KeyVault::Deleted | KeyVault::DeletedAndPurged | KeyVault::KeyAbsent => ("missing", Kind::Absent),
            KeyVault::Disabled => ("disabled", Kind::NoHelp),
            KeyVault::Word
            | KeyVault::Number
            | KeyVault::Empty
            | KeyVault::List
            | KeyVault::TwoEqualNames => ("malformed", Kind::Malformed),
            KeyVault::RightsTakenAway | KeyVault::ApplicationGone => ("denied", Kind::NoHelp),
            KeyVault::Throttled | KeyVault::ThrottledForASecond => ("throttled", Kind::NoHelp),
            _ => ("unavailable", Kind::NoHelp),
        }
    }

    fn is_model(&self) -> bool {
        matches!(
            self,
            KeyVault::Deleted
                | KeyVault::KeyAbsent
                | KeyVault::Disabled
                | KeyVault::Word
                | KeyVault::RightsTakenAway
                | KeyVault::Throttled
                | KeyVault::Refused
        )
    }

    fn provider(&self, site: &Site) -> String {
        site.key_vault_provider(SECRET)
    }

    fn patience(&self) -> &'static str {
        match self {
            KeyVault::Hangs => "500ms",
            _ => "5s",
        }
    }

    async fn site(&self) -> Site {
        Site::with_key_vault().await
    }

    fn prepare(&self, _: &Site) {}

    fn put(&self, site: &Site, paused: bool, text: &Value) {
        let mut flag = text.clone();
        flag["IsPaused"] = paused.into();
        site.key_vault().put(SECRET, &flag.to_string()).unwrap();
    }

    async fn spoil(&self, site: &Site) {
        match self {
            KeyVault::Deleted => {
                drop(site.key_vault_call("DELETE", &format!("secrets/{SECRET}"), Value::Null))
            }
            KeyVault::DeletedAndPurged => {
                site.key_vault_call("DELETE", &format!("secrets/{SECRET}"), Value::Null);
                site.key_vault_call("DELETE", &format!("deletedsecrets/{SECRET}"), Value::Null);
            }
            KeyVault::KeyAbsent => {
                let other = json!({ "Other": true, "password": MARK });
                site.key_vault().put(SECRET, &other.to_string()).unwrap();
            }
            KeyVault::Disabled => site.key_vault_attributes(SECRET, &json!({ "enabled": false })),
            KeyVault::RightsTakenAway => site.key_vault_rights(Rights::NONE),
            KeyVault::ApplicationGone => site.key_vault_forgets_the_application(),
            KeyVault::Refused => site.store.key_vault_offline().await.unwrap(),
            other => {
                if let Some(value) = other.malformed() {
                    site.key_vault().put(SECRET, &value).unwrap();
                } else {
                    // Logins go on: they are another service's.
                    let rule = Rule::new(other.fault().unwrap()).path("/secrets/");
                    site.store.faults().add(rule);
                }
            }
        }
    }

    async fn mend(&self, site: &Site) -> bool {
        match self {
            KeyVault::Deleted => {
                let path = format!("deletedsecrets/{SECRET}/recover");
                site.key_vault_call("POST", &path, Value::Null);
            }
            KeyVault::Disabled => site.key_vault_attributes(SECRET, &json!({ "enabled": true })),
            KeyVault::RightsTakenAway | KeyVault::ApplicationGone => {
                site.key_vault_rights(Rights::SECRETS_USER);
            }
            KeyVault::Refused => site.store.key_vault_online().await.unwrap(),
            _ => site.store.faults().clear(),
        }
        self.is_of_the_wire()
            || matches!(
                self,
                KeyVault::Deleted
                    | KeyVault::Disabled
                    | KeyVault::RightsTakenAway
                    | KeyVault::ApplicationGone
            )
    }

    fn shows_nothing_of(&self) -> &'static [&'static str] {
        &[MARK, CLIENT_SECRET]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trouble_with_key_vault_ever_resumes_anything_and_only_the_option_that_is_meant_pauses() {
    Box::pin(all_cells(KeyVault::ALL)).await;
}

/// Attributes of a secret that warn, and what is said of them.
const DATED: [(&str, i64, &str); 3] = [
    ("exp", -24, "expired on"),
    ("exp", 24, "expires on"),
    ("nbf", 24, "not to be used before"),
];

/// Each kind of date × each flag, on a secret of its own, before the start and put there later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_has_expired_or_is_not_yet_valid_counts_and_warns() {
    let mut site = Site::with_key_vault().await;
    let now = jiff::Timestamp::now().as_second();
    let mut all = Vec::new();
    for (attribute, hours, says) in DATED {
        for (from_start, paused) in [(true, true), (true, false), (false, true), (false, false)] {
            let name = format!("s{}", all.len());
            let secret = format!("{name}--IsPaused");
            let dated = json!({ attribute: now + hours * 3600 });
            let put = json!({ "value": paused.to_string(), "attributes": dated });
            if from_start {
                site.key_vault_call("PUT", &format!("secrets/{secret}"), put.clone());
            } else {
                // What the date comes with is a change of the flag.
                site.key_vault_flag(&secret, !paused);
            }
            let provider = site.key_vault_provider(&secret);
            site.add(&format!(
                "[[switch]]\nname = \"{name}\"\nstreams = [\"{name}\"]\ninterval = \"100ms\"\n{provider}"
            ));
            site.file_stream(&name);
            append(&site.source(&name), &rows(0..1));
            all.push((name, secret, from_start, paused, put, says));
        }
    }
    let running = Running::start(&site).await;
    let client = &running.client;
    for (name, secret, from_start, paused, put, _) in &all {
        if !from_start {
            let before = if *paused { "running" } else { "paused" };
            client.reads(name, before).await;
            site.key_vault_call("PUT", &format!("secrets/{secret}"), put.clone());
        }
    }
    for (name, _, _, paused, put, says) in &all {
        let word = if *paused { "paused" } else { "running" };
        let switch = client.reads(name, word).await;
        let warnings = switch["warnings"].to_string();
        assert!(warnings.contains(says), "{put}: {switch}");
        assert_eq!(switch["error"], Value::Null, "{put}");
        let stream = client.reaches(name, word).await;
        let own = format!("switch:{name}");
        let expected = if *paused { vec![own.as_str()] } else { vec![] };
        assert_eq!(controllers(&stream), expected, "{put}");
        if !paused {
            eventually("its row moves", async || {
                (text_of(&site.sink(name)) == rows(0..1)).then_some(())
            })
            .await;
        }
    }
    running.stop().await;
}
