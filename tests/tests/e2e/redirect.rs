//! A redirect to another host never carries a token there: not the store's, not the control API's, not what a login sends.
use crate::harness::{Running, Site, run, tidegate, within_patience};
use secrecy::ExposeSecret;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tidegate_devstore::{Fault, Rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Another host, which answers anything and remembers what it heard.
struct Elsewhere {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Elsewhere {
    async fn start() -> Elsewhere {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let into = heard.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut piece = [0; 8192];
                let n = socket.read(&mut piece).await.unwrap_or(0);
                into.lock()
                    .unwrap()
                    .push(String::from_utf8_lossy(&piece[..n]).into_owned());
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                drop(socket.write_all(answer).await);
            }
        });
        Elsewhere { address, heard }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    fn rule(&self, status: u16) -> Rule {
        Rule::new(Fault::Redirect {
            status: status.try_into().unwrap(),
            location: format!("http://{}/v1/secret/data/streams/orders", self.address),
        })
    }
}

const STATUSES: [u16; 4] = [301, 302, 307, 308];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redirect_of_the_store_is_followed_by_a_read_or_a_login() {
    let elsewhere = Elsewhere::start().await;
    for status in STATUSES {
        let mut site = Site::new().await;
        site.flag("streams/orders", true);
        site.write("secret-id", "the-secret-id");
        let url = site.store.vault_url();
        site.vault_switch("ops", &["orders"], "streams/orders", "")
            .file_stream("orders")
            .add(&format!(
                "[[switch]]\nname = \"login\"\nstreams = [\"orders\"]\ninterval = \"100ms\"\n\
             vault = {{ address = \"{url}\", path = \"streams/orders\", \
             auth = {{ method = \"approle\", role_id = \"r\", secret_id_file = \"{{dir}}/secret-id\" }} }}\n"
            ));
        site.store.faults().add(elsewhere.rule(status));
        let running = Running::start(&site).await;
        let asked = site.store.requests();
        within_patience("three reads", asked.reached("/v1/secret/data/streams/orders", 3)).await;
        within_patience("three logins", asked.reached("/v1/auth/approle/login", 3)).await;
        let ops = running.client.reads("ops", "unavailable").await;
        assert!(ops["error"].as_str().unwrap().contains("redirect"), "{ops}");
        running.client.reads("login", "unavailable").await;
        running.stop().await;
    }
    assert_eq!(elsewhere.heard(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_follows_a_redirect_with_its_token() {
    let elsewhere = Elsewhere::start().await;
    let site = Site::new().await;
    let token = site.write("token", "the-token-of-the-control-api");
    let admin = site.store.vault_url();
    for status in STATUSES {
        site.store.faults().add(elsewhere.rule(status));
        for command in ["status", "pause", "resume", "watch", "drain"] {
            let ended = run(tidegate([
                command,
                "--admin",
                &admin,
                "--token-file",
                token.to_str().unwrap(),
            ]))
            .await;
            assert_eq!(ended.code, Some(69), "{command}: {ended:#?}");
        }
        site.store.faults().clear();
    }
    assert_eq!(elsewhere.heard(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twin_a_client_that_follows_redirects_is_heard_elsewhere_with_its_token() {
    let elsewhere = Elsewhere::start().await;
    let site = Site::new().await;
    site.store.faults().add(elsewhere.rule(307));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/v1/secret/data/streams/orders", site.store.vault_url());
    client
        .get(url)
        .header("X-Vault-Token", site.store.root_token().expose_secret())
        .send()
        .await
        .unwrap();
    let heard = elsewhere.heard();
    assert!(
        heard.iter().any(|request| request.contains(site.root_token())),
        "{heard:?}"
    );
}
