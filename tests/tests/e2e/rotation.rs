//! What happens to a store while a pause stands: its token is rotated, it is started anew, it fails over.
use crate::harness::{Client, Process, Site, append, eventually, rows, text_of};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_devstore::{DevStore, Identity, KeyVault, KeyVaultOptions, Options, Proof, Rights};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// One address, and behind it whichever store is active.
struct Front {
    address: SocketAddr,
    active: watch::Sender<SocketAddr>,
}

impl Front {
    async fn start(first: SocketAddr) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (active, _) = watch::channel(first);
        let switched = active.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut moved = switched.subscribe();
                let to = *moved.borrow_and_update();
                tokio::spawn(async move {
                    // A store that is down is a connection that ends: the sidecar sees what a balancer would show it.
                    let Ok(mut to) = TcpStream::connect(to).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut from, &mut to) => {}
                        _ = moved.changed() => {}
                    }
                });
            }
        });
        Front { address, active }
    }

    /// From now on every connection goes there, and those that are open end.
    fn fail_over(&self, to: SocketAddr) {
        self.active.send_replace(to);
    }
}

/// Seconds, as the configurations here have it.
const RETRY_MAX: f64 = 0.4;

async fn polls(client: &Client, outcome: &str) -> f64 {
    let series = format!("tidegate_polls_total{{switch=\"ops\",outcome=\"{outcome}\"}}");
    client.metric(&series).await.unwrap_or_default()
}

/// Waits for so many more polls that were read so. All along: `orders` is paused since the same moment, nothing moved, and
/// the next poll is never further away than the delay.
async fn settles_at(client: &Client, since: &Value, reading: &str, more: f64) {
    let before = polls(client, reading).await;
    eventually(&format!("{more} more polls read {reading}"), async || {
        let status = client.status().await;
        let streams = status["streams"].as_array().unwrap();
        let stream = streams.iter().find(|stream| stream["name"] == "orders").unwrap();
        assert_eq!(
            (&stream["state"], &stream["last_transition"]),
            (&json!("paused"), since)
        );
        assert_eq!((&stream["events"], &stream["in_flight"]), (&json!(0), &json!(0)));
        if let Some(delay) = status["switches"][0]["next_poll_seconds"].as_f64() {
            assert!(delay <= RETRY_MAX, "{delay} s until the next poll");
        }
        (polls(client, reading).await >= before + more).then_some(())
    })
    .await;
}

const ROTATED: &str = "rotated-token-that-no-log-may-show";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_restart_and_failover_during_a_pause_leave_it_paused_and_polled_and_no_token_in_any_log() {
    let mut site = Site::with_root_token(
        "[control]\nlisten = \"127.0.0.1:0\"\n[observe]\nlisten = \"127.0.0.1:0\"\n",
        "hvs.root-token-of-the-first-store",
    )
    .await;
    let second = DevStore::start(Options {
        root_token: Some(SecretString::from(ROTATED)),
        ..Options::default()
    })
    .await
    .unwrap();
    let flag = json!({ "IsPaused": true, "reason": "disk swap" });
    site.put("streams/orders", flag.clone());
    let front = Front::start(site.store.vault_addr()).await;
    site.write(
        "vault-token",
        &token(&site, "first-token-that-no-log-may-show").await,
    );
    site.add(&format!(
        "[[switch]]\nname = \"ops\"\nstreams = [\"*\"]\ninterval = \"100ms\"\ntimeout = \"2s\"\nretry_max = \"400ms\"\n\
         vault = {{ address = \"http://{}\", path = \"streams/orders\", \
         auth = {{ method = \"token\", file = \"{{dir}}/vault-token\" }} }}\n",
        front.address
    ))
    .file_stream("orders");
    append(&site.source("orders"), &rows(0..100));
    let (process, client) = Process::run(&site, &["-vv"]).await;
    client.reads("ops", "paused").await;
    let since = client.reaches("orders", "paused").await["last_transition"].clone();

    let settles_at = async |reading, more| settles_at(&client, &since, reading, more).await;
    settles_at("paused", 3.0).await;

    // The token is rotated: the new one is there before the old one is revoked, and then it is not.
    let new = token(&site, ROTATED).await;
    site.write("vault-token", &new);
    revoke(&site, "first-token-that-no-log-may-show").await;
    settles_at("paused", 5.0).await;

    // The store is started anew: a while during which nobody answers.
    site.store.vault_offline().await.unwrap();
    settles_at("unavailable", 5.0).await;
    site.store.vault_online().await.unwrap();
    settles_at("paused", 5.0).await;

    // It fails over to a replica whose version counts from one again, and was written later.
    second.vault().put("secret", "streams/orders", flag).unwrap();
    front.fail_over(second.vault_addr());
    let polled = second.requests().count("/v1/secret/data/streams/orders");
    second
        .requests()
        .reached("/v1/secret/data/streams/orders", polled + 5)
        .await;
    settles_at("paused", 3.0).await;
    assert_eq!(text_of(&site.sink("orders")), "");

    // And it is the new one that is obeyed.
    second
        .vault()
        .put("secret", "streams/orders", json!({ "IsPaused": false }))
        .unwrap();
    eventually("the rows", async || {
        (text_of(&site.sink("orders")) == rows(0..100)).then_some(())
    })
    .await;
    process.terminate();
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("tidegate_providers"), "it logged at all");
    for secret in ["hvs.root-token", "first-token", "rotated-token"] {
        let said = ended.stderr.contains(secret) || ended.stdout.contains(secret);
        assert!(!said, "{secret}… is in the log");
    }
    second.stop().await;
}

/// How a pod proves itself to Key Vault, and what changes when that is rotated.
#[derive(Clone, Copy, Debug)]
enum Proven {
    ClientSecret,
    WorkloadIdentity,
}

/// A Key Vault with one application, whose proof is the `number`th one.
struct Azure {
    store: DevStore,
    proven: Proven,
}

impl Azure {
    async fn start(proven: Proven) -> Azure {
        let key_vault = KeyVaultOptions {
            authority_host: "localhost".to_owned(),
            ..KeyVaultOptions::default()
        };
        let options = Options {
            key_vault: Some(key_vault),
            ..Options::default()
        };
        let store = DevStore::start(options).await.unwrap();
        Azure { store, proven }
    }

    fn vault(&self) -> &KeyVault {
        self.store.key_vault().unwrap()
    }

    fn flag(&self, paused: bool) {
        let value = json!({ "IsPaused": paused, "reason": "disk swap" }).to_string();
        self.vault().put("orders--IsPaused", &value).unwrap();
    }

    /// What the file holds that proves who one is; `signed_by` is the cluster that the pod is in.
    fn proof(&self, number: u32, signed_by: &DevStore) -> String {
        match self.proven {
            Proven::ClientSecret => format!("MARKED-client-secret-{number}"),
            Proven::WorkloadIdentity => signed_by
                .cluster()
                .service_account_token(
                    "orders",
                    &format!("pod-{number}"),
                    "api://AzureADTokenExchange",
                    Duration::from_secs(3600),
                )
                .expose_secret()
                .to_owned(),
        }
    }

    /// From now on only this proof counts, and what was issued for another is void.
    fn accepts(&self, number: u32, signed_by: &DevStore) {
        let proof = match self.proven {
            Proven::ClientSecret => Proof::Secret(self.proof(number, signed_by).into()),
            Proven::WorkloadIdentity => Proof::Federated {
                subject: format!("system:serviceaccount:orders:pod-{number}"),
            },
        };
        self.vault()
            .register(Identity::new("app", proof).rights(Rights::SECRETS_USER));
        self.vault().forget_tokens();
    }

    /// A switch `ops` on its flag, reached through `front`.
    fn switch(&self, front: SocketAddr) -> String {
        let (vault, port) = (self.vault(), front.port());
        let (method, file) = match self.proven {
            Proven::ClientSecret => ("client_secret", "secret_file"),
            Proven::WorkloadIdentity => ("workload_identity", "token_file"),
        };
        format!(
            "[[switch]]\nname = \"ops\"\nstreams = [\"orders\"]\ninterval = \"100ms\"\ntimeout = \"5s\"\n\
             retry_max = \"400ms\"\n[switch.azure_key_vault]\nvault_url = \"{}:{port}\"\n\
             secret = \"orders--IsPaused\"\nresolve_to = \"{}\"\nca_file = \"{{dir}}/ca.pem\"\n\
             credential = {{ method = \"{method}\", tenant_id = \"{}\", client_id = \"app\", \
             {file} = \"{{dir}}/proof\", authority_host = \"https://localhost:{port}\" }}\n",
            vault.url(),
            front.ip(),
            vault.tenant_id(),
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_do_those_of_a_client_secret_and_its_key_vault() {
    at_a_key_vault(Proven::ClientSecret).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_do_those_of_a_workload_identity_and_its_key_vault() {
    at_a_key_vault(Proven::WorkloadIdentity).await;
}

async fn at_a_key_vault(proven: Proven) {
    let mut site = Site::new().await;
    let first = Azure::start(proven).await;
    // Another machine, with a certificate and an authority of its own: it knows none of the first one's tokens.
    let second = Azure::start(proven).await;
    let ca = |azure: &Azure| azure.store.key_vault_ca_pem().unwrap().to_owned();
    site.write("ca.pem", &(ca(&first) + &ca(&second)));
    site.write("proof", &first.proof(1, &first.store));
    first.accepts(1, &first.store);
    first.flag(true);
    let front = Front::start(first.store.key_vault_addr().unwrap()).await;
    // The twin: a stream that no switch holds.
    site.add(&first.switch(front.address))
        .file_stream("orders")
        .file_stream("free");
    for stream in ["orders", "free"] {
        append(&site.source(stream), &rows(0..100));
    }
    let (process, client) = Process::run(&site, &["-vv"]).await;
    client.reads("ops", "paused").await;
    let since = client.reaches("orders", "paused").await["last_transition"].clone();
    let settles_at = async |reading, more| settles_at(&client, &since, reading, more).await;
    settles_at("paused", 3.0).await;

    // Rotated in good order: the new one is in the file before the old one counts no more. Nobody is ever refused.
    let refused = polls(&client, "denied").await;
    site.write("proof", &first.proof(2, &first.store));
    first.accepts(2, &first.store);
    settles_at("paused", 5.0).await;
    assert_eq!(
        polls(&client, "denied").await,
        refused,
        "{proven:?}: refused in a rotation"
    );

    // The twin of that: nobody writes the new one into the file. It is refused, and stands until somebody does.
    first.accepts(3, &first.store);
    settles_at("denied", 3.0).await;
    site.write("proof", &first.proof(3, &first.store));
    settles_at("paused", 5.0).await;

    // The vault is started anew: a while during which nobody answers.
    first.store.key_vault_offline().await.unwrap();
    settles_at("unavailable", 5.0).await;
    first.store.key_vault_online().await.unwrap();
    settles_at("paused", 5.0).await;

    // It fails over to another address with another certificate, and a version with another id.
    site.write("proof", &second.proof(3, &second.store));
    second.accepts(3, &second.store);
    second.flag(true);
    front.fail_over(second.store.key_vault_addr().unwrap());
    let asked = second.store.requests().count("/secrets/orders--IsPaused/");
    second
        .store
        .requests()
        .reached("/secrets/orders--IsPaused/", asked + 5)
        .await;
    settles_at("paused", 3.0).await;
    assert_eq!(text_of(&site.sink("orders")), "");
    assert_eq!(text_of(&site.sink("free")), rows(0..100), "the twin moves");

    // And it is the new one that is obeyed.
    second.flag(false);
    eventually("the rows", async || {
        (text_of(&site.sink("orders")) == rows(0..100)).then_some(())
    })
    .await;
    process.terminate();
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("tidegate_providers"), "it logged at all");
    // Secrets are marked; a JWT begins with its header.
    for secret in ["MARKED", "eyJ"] {
        let said = ended.stderr.contains(secret) || ended.stdout.contains(secret);
        assert!(!said, "{secret}… is in the log");
    }
    second.store.stop().await;
    first.store.stop().await;
}

/// A token with this text that may read the flag.
async fn token(site: &Site, id: &str) -> String {
    let body = json!({ "id": id, "policies": ["root"] });
    ask(site, "auth/token/create", &body).await["auth"]["client_token"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn revoke(site: &Site, id: &str) {
    ask(site, "auth/token/revoke", &json!({ "token": id })).await;
}

async fn ask(site: &Site, path: &str, body: &Value) -> Value {
    let answer = crate::harness::http_client()
        .post(format!("{}/v1/{path}", site.store.vault_url()))
        .timeout(Duration::from_secs(30))
        .header("X-Vault-Token", site.root_token())
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null)
}
