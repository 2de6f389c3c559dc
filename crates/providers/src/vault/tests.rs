#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use super::stub::{Reply, Request, Stub, reply};
use super::*;
use crate::{Seen, VaultAuth, read_flag};
use std::time::{Duration, SystemTime};

fn config(address: &str) -> VaultConfig {
    let text = format!(
        "address = \"{address}\"\npath = \"streams/orders\"\nauth = {{ method = \"token\", file = \"\" }}"
    );
    toml::from_str(&text).unwrap()
}

/// A token in a file, as most people have it.
struct Token(tempfile::NamedTempFile);
impl Token {
    fn new(text: &str) -> Token {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        Token(file)
    }
    fn set(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }
    fn vault(&self, config: VaultConfig) -> Vault {
        Vault::new(VaultConfig {
            auth: VaultAuth::Token {
                env: None,
                file: Some(self.0.path().to_owned()),
            },
            ..config
        })
        .unwrap()
    }
}

fn kv2(fields: &str, version: u64) -> String {
    format!(
        r#"{{"request_id":"r","lease_id":"","renewable":false,"lease_duration":0,"data":{{"data":{fields},"metadata":{{"created_time":"2026-11-22T18:00:00.123456789Z","custom_metadata":null,"deletion_time":"","destroyed":false,"version":{version}}}}},"wrap_info":null,"warnings":null,"auth":null}}"#
    )
}
/// Vault, as far as a secret that pauses and an endless token go.
fn paused(request: &Request) -> Reply {
    if request.line.contains("lookup-self") {
        return reply(200, "", r#"{"data":{"ttl":0,"renewable":false}}"#);
    }
    reply(200, "", &kv2(r#"{"IsPaused":"true","by":"ana"}"#, 7))
}

#[tokio::test]
async fn value_and_version_come_in_one_request_on_one_connection() {
    let stub = Stub::new(paused).await;
    let token = Token::new("s.good\n");
    let mut vault = token.vault(VaultConfig {
        namespace: Some("team-a".into()),
        ..config(&stub.address)
    });
    for _ in 0..5 {
        let secret = vault.read().await.unwrap();
        assert_eq!((&*secret.version.id, secret.serial), ("7", Some(7)));
        let written = "2026-11-22T18:00:00.123456789Z"
            .parse::<jiff::Timestamp>()
            .unwrap();
        assert_eq!(secret.version.written, Some(SystemTime::from(written)));
        assert!(read_flag(&secret, "IsPaused").unwrap().paused);
    }
    let reads: Vec<_> = stub
        .requests()
        .into_iter()
        .filter(|r| !r.line.contains("lookup-self"))
        .collect();
    assert_eq!(reads.len(), 5);
    assert_eq!(reads[0].line, "GET /v1/secret/data/streams/orders HTTP/1.1");
    assert_eq!(reads[0].header("x-vault-token"), Some("s.good"));
    assert_eq!(reads[0].header("x-vault-namespace"), Some("team-a"));
    assert_eq!(reads[0].header("x-vault-request"), Some("true"));
    let looked = stub
        .requests()
        .into_iter()
        .filter(|r| r.line.contains("lookup-self"))
        .count();
    assert_eq!(looked, 1, "the token is looked up once");
    assert!(
        reads.iter().all(|r| r.connection <= 2),
        "the connection stays open"
    );
}

#[tokio::test]
async fn kv_version_1_has_no_versions_so_a_change_makes_one() {
    let fields = std::sync::Arc::new(std::sync::Mutex::new(r#"{"IsPaused":"true"}"#));
    let served = fields.clone();
    let count = std::sync::atomic::AtomicU64::new(0);
    let stub = Stub::new(move |r| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert!(
            r.line.starts_with("GET /v1/kv/streams/orders ") || r.line.contains("lookup-self"),
            "{}",
            r.line
        );
        reply(
            200,
            "",
            &format!(r#"{{"request_id":"{n}","data":{}}}"#, served.lock().unwrap()),
        )
    })
    .await;
    let token = Token::new("t");
    let mut vault = token.vault(VaultConfig {
        kv: 1,
        mount: "kv".into(),
        ..config(&stub.address)
    });
    let first = vault.read().await.unwrap();
    assert!(read_flag(&first, "ispaused").unwrap().paused);
    assert_eq!(first.serial, None);
    assert_eq!(first.version, vault.read().await.unwrap().version);
    *fields.lock().unwrap() = r#"{"IsPaused":"false"}"#;
    assert_ne!(first.version, vault.read().await.unwrap().version);
}

#[tokio::test]
async fn what_vault_answers_is_told_apart() {
    let deleted = r#"{"data":{"data":null,"metadata":{"created_time":"2026-11-22T18:00:00Z","deletion_time":"2026-11-22T19:00:00Z","destroyed":false,"version":3}}}"#;
    let destroyed = deleted.replace("\"destroyed\":false", "\"destroyed\":true");
    let errors = |text: &str| format!(r#"{{"errors":["{text}"]}}"#);
    let html = "<html>MARKED</html>";
    let table: Vec<(u16, &str, String, &str, &str)> = vec![
        (404, "", r#"{"errors":[]}"#.into(), "missing", "no such secret"),
        (404, "", r#"{"errors":null}"#.into(), "missing", "no such secret"),
        (
            404,
            "",
            errors("no handler for route \\\"x/data/y\\\". route entry not found."),
            "missing",
            "nothing is mounted",
        ),
        (404, "", deleted.into(), "deleted", "undelete"),
        (404, "", destroyed, "deleted", "destroyed"),
        (404, "", html.into(), "unavailable", "not one of Vault's"),
        (403, "", errors("permission denied"), "denied", "policy"),
        (403, "", html.into(), "denied", "not by Vault"),
        (400, "", errors("missing client token"), "denied", "proxy"),
        (400, "", errors("something else"), "unavailable", "400"),
        (
            429,
            "Retry-After: 7\r\n",
            errors("request path MARKED: rate limit quota exceeded"),
            "throttled",
            "429",
        ),
        (472, "", errors("x"), "unavailable", "disaster recovery"),
        (473, "", errors("x"), "unavailable", "standby"),
        (500, "", errors("MARKED"), "unavailable", "500"),
        (502, "", html.into(), "unavailable", "502"),
        (503, "", errors("Vault is sealed"), "sealed", "unseal"),
        (503, "Retry-After: 7\r\n", html.into(), "unavailable", "503"),
        (200, "", html.into(), "unavailable", "not one of Vault's"),
        (200, "", "{}".into(), "unavailable", "not one of Vault's"),
        (
            200,
            "",
            r#"{"data":{"IsPaused":"MARKED"}}"#.into(),
            "unavailable",
            "check address, mount and kv",
        ),
        (200, "", String::new(), "unavailable", "not one of Vault's"),
        (204, "", String::new(), "unavailable", "204"),
        (
            307,
            "Location: http://127.0.0.1:1/\r\n",
            String::new(),
            "unavailable",
            "redirect",
        ),
    ];
    for (status, headers, body, word, says) in table {
        let (headers, sent) = (headers.to_owned(), body.clone());
        let stub = Stub::new(move |_| reply(status, &headers, &sent)).await;
        let token = Token::new("t");
        let outcome = token.vault(config(&stub.address)).read().await;
        let seen = Seen::of(&outcome, "IsPaused", None);
        assert_eq!(seen.reading.word(), word, "{status} {body}");
        let error = outcome.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(says), "{status}: {text}");
        assert!(
            text.contains("streams/orders") && text.contains("http://127.0.0.1"),
            "{text}"
        );
        assert!(!format!("{error:?} {text}").contains("MARKED"), "{error:?}");
        let asked = body.contains("quota") || status == 503 && body == html;
        assert_eq!(
            error.retry_after(),
            asked.then_some(Duration::from_secs(7)),
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_carries_no_token_anywhere() {
    let thief = Stub::new(|_| reply(200, "", &kv2(r#"{"IsPaused":"false"}"#, 9))).await;
    let location = format!("Location: {}/v1/secret/data/streams/orders\r\n", thief.address);
    for status in [301, 302, 303, 307, 308] {
        let location = location.clone();
        let stub = Stub::new(move |_| reply(status, &location, "")).await;
        assert!(
            Token::new("s.good")
                .vault(config(&stub.address))
                .read()
                .await
                .is_err()
        );
        assert_eq!(stub.requests().len(), 1);
    }
    assert!(thief.requests().is_empty());
}

#[tokio::test]
async fn a_broken_connection_is_unavailable_and_the_next_read_makes_a_new_one() {
    let count = std::sync::atomic::AtomicU64::new(0);
    let stub = Stub::new(move |request| {
        if request.line.contains("lookup-self") {
            return paused(request);
        }
        match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => Reply::Reset,
            1 => Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec()),
            2 => Reply::Hang,
            3 => Reply::Bytes(b"garbage\r\n\r\n".to_vec()),
            _ => paused(request),
        }
    })
    .await;
    let token = Token::new("t");
    let mut vault = token.vault(config(&stub.address));
    for _ in 0..4 {
        let seen = crate::read_once(&mut vault, &["IsPaused"], Duration::from_millis(300)).await;
        assert_eq!(seen[0].reading.word(), "unavailable");
        assert!(seen[0].error.as_ref().unwrap().contains("127.0.0.1"), "{seen:?}");
    }
    assert!(vault.read().await.is_ok());
}

#[tokio::test]
async fn nobody_listening_is_unavailable_and_says_where() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let outcome = Token::new("t")
        .vault(config(&format!("http://{free}")))
        .read()
        .await;
    let error = outcome.unwrap_err();
    assert_eq!(error.reading().word(), "unavailable");
    let text = error.to_string().to_lowercase();
    assert!(
        text.contains(&free.to_string()) && text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let stub = Stub::new(|_| {
        let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n".to_vec();
        bytes.resize(2 << 20, b' ');
        Reply::Bytes(bytes)
    })
    .await;
    let error = Token::new("t")
        .vault(config(&stub.address))
        .read()
        .await
        .unwrap_err();
    assert_eq!(error.reading().word(), "malformed");
}

#[tokio::test]
async fn a_path_in_front_of_vault_stays_in_front() {
    let stub = Stub::new(paused).await;
    let token = Token::new("t");
    let mut vault = token.vault(config(&format!("{}/behind/proxy/", stub.address)));
    vault.read().await.unwrap();
    assert_eq!(
        stub.requests()[0].line,
        "GET /behind/proxy/v1/secret/data/streams/orders HTTP/1.1"
    );
}

#[tokio::test]
async fn odd_names_are_escaped_and_stay_one_segment() {
    let stub = Stub::new(paused).await;
    let token = Token::new("t");
    let mut vault = token.vault(VaultConfig {
        path: "a b/ö?x#y%2F".into(),
        ..config(&stub.address)
    });
    vault.read().await.unwrap();
    assert_eq!(
        stub.requests()[0].line,
        "GET /v1/secret/data/a%20b/%C3%B6%3Fx%23y%252F HTTP/1.1"
    );
}

#[tokio::test]
async fn a_token_that_no_header_may_hold_is_an_error_and_no_panic() {
    let stub = Stub::new(paused).await;
    for text in ["", "  \n", "two tokens", "a\nb", "tök", "nul\0"] {
        let error = Token::new(text)
            .vault(config(&stub.address))
            .read()
            .await
            .unwrap_err();
        assert_eq!(error.reading().word(), "denied", "{text:?}");
        assert!(
            text.trim().is_empty() || !error.to_string().contains(text),
            "{error}"
        );
    }
    assert!(stub.requests().is_empty());
}

#[tokio::test]
async fn a_token_file_is_read_again_when_it_changes_and_a_bad_one_costs_nothing() {
    let stub = Stub::new(|request| match request.header("x-vault-token") {
        Some("good" | "better") => paused(request),
        _ => reply(403, "", r#"{"errors":["permission denied"]}"#),
    })
    .await;
    let token = Token::new("good");
    let mut vault = token.vault(config(&stub.address));
    vault.read().await.unwrap();
    for wrong in ["wrong", "", "not a token"] {
        token.set(wrong);
        vault
            .read()
            .await
            .unwrap_or_else(|e| panic!("{wrong:?}: the old token still works: {e}"));
        vault.read().await.unwrap();
    }
    token.set("better!");
    token.set("better");
    vault.read().await.unwrap();
    assert_eq!(
        stub.requests().last().unwrap().header("x-vault-token"),
        Some("better")
    );
    std::fs::remove_file(token.0.path()).unwrap();
    vault.read().await.unwrap();
}

#[tokio::test]
async fn a_missing_token_file_is_denied_until_it_appears() {
    let stub = Stub::new(paused).await;
    let token = Token::new("good");
    let mut vault = token.vault(config(&stub.address));
    std::fs::remove_file(token.0.path()).unwrap();
    let error = vault.read().await.unwrap_err();
    assert_eq!(error.reading().word(), "denied");
    assert!(
        error.to_string().contains(token.0.path().to_str().unwrap()),
        "{error}"
    );
    token.set("good");
    vault.read().await.unwrap();
}

#[tokio::test]
async fn a_lookup_that_hangs_or_fails_never_delays_a_reading() {
    let stub = Stub::new(|request| match request.line.contains("lookup-self") {
        true => Reply::Hang,
        false => paused(request),
    })
    .await;
    let token = Token::new("good");
    let mut vault = token.vault(config(&stub.address));
    for _ in 0..20 {
        let seen = crate::read_once(&mut vault, &["IsPaused"], Duration::from_secs(5)).await;
        assert_eq!(seen[0].reading.word(), "paused");
    }
    assert_eq!(
        stub.requests()
            .iter()
            .filter(|r| r.line.contains("lookup-self"))
            .count(),
        1
    );
}

#[tokio::test]
async fn a_renewable_token_is_renewed_at_its_own_path() {
    let stub = Stub::new(|request| {
        if request.line.contains("lookup-self") {
            return reply(200, "", r#"{"data":{"ttl":1,"renewable":true}}"#);
        }
        if request.line.contains("renew") {
            return reply(
                200,
                "",
                r#"{"auth":{"client_token":"MARKED","lease_duration":3600,"renewable":true}}"#,
            );
        }
        paused(request)
    })
    .await;
    let token = Token::new("good");
    let mut vault = token.vault(config(&stub.address));
    let renewed = || stub.requests().into_iter().find(|r| r.line.contains("renew"));
    let found = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            vault.read().await.unwrap();
            if let Some(found) = renewed() {
                return found;
            }
        }
    });
    let found = found.await.expect("never renewed");
    assert_eq!(found.line, "POST /v1/auth/token/renew-self HTTP/1.1");
    assert_eq!(found.header("x-vault-token"), Some("good"));
    assert_eq!(found.body, "", "no increment: the token's own period");
}

#[test]
fn no_debug_output_shows_a_token() {
    let token = Token::new("MARKED");
    let vault = token.vault(config("http://127.0.0.1:1"));
    assert!(!format!("{vault:?}").contains("MARKED"));
}

/// A certificate authority of our own, and the stub behind TLS with a certificate of it for `localhost`.
async fn behind_tls(plain: &Stub) -> (String, tempfile::NamedTempFile) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let ca_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&ca_file, authority_pem).unwrap();

    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let behind = plain.address.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                if let Ok(mut outside) = acceptor.accept(stream).await {
                    let mut inside = tokio::net::TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                }
            });
        }
    });
    (format!("https://localhost:{port}"), ca_file)
}

#[tokio::test]
async fn a_private_ca_is_trusted_if_it_is_named_and_nothing_else_is_then() {
    let stub = Stub::new(paused).await;
    let (address, ca_file) = behind_tls(&stub).await;
    let (_, another_ca) = behind_tls(&stub).await;
    let token = Token::new("s.good");
    let with_ca = |address: &str, file: &tempfile::NamedTempFile| {
        token.vault(VaultConfig {
            ca_file: Some(file.path().to_owned()),
            ..config(address)
        })
    };
    for _ in 0..2 {
        with_ca(&address, &ca_file).read().await.unwrap();
    }
    let sent = stub.requests().len();
    let wrong_name = address.replace("localhost", "127.0.0.1");
    for mut vault in [with_ca(&address, &another_ca), with_ca(&wrong_name, &ca_file)] {
        let error = vault.read().await.unwrap_err();
        assert_eq!(error.reading().word(), "unavailable");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    assert_eq!(
        stub.requests().len(),
        sent,
        "no token went to whom it was not meant for"
    );
}

#[tokio::test]
async fn at_trace_the_network_logs_no_token_and_no_value() {
    let (log, _guard) = super::life_tests::Log::capture();
    let bodies = [
        kv2(r#"{"IsPaused":"MARKED"}"#, 1),
        "MARKED".to_owned(),
        r#"{"errors":["MARKED"]}"#.to_owned(),
    ];
    for status in [200, 403, 404, 500] {
        for body in bodies.clone() {
            let stub = Stub::new(move |_| reply(status, "", &body)).await;
            let token = Token::new("MARKED-token");
            let mut vault = token.vault(config(&stub.address));
            for _ in 0..2 {
                let _ = crate::read_once(&mut vault, &["IsPaused"], Duration::from_secs(5)).await;
            }
        }
    }
    let text = log.text();
    assert!(
        text.contains("TRACE") || text.contains("DEBUG"),
        "the client logs something: {text}"
    );
    assert!(!text.contains("MARKED"), "{text}");
}
