//! The whole of `tidegate run` at a Vault, whichever it is: logged in with a JWT, a stream is flipped to paused and back,
//! while the login's token is revoked and the server is sealed.
use crate::readings::{logins, revoke_logins};
use crate::target::{PATIENCE, Target};
use e2e::sidecar::Sidecar;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate_devstore::{Clock, Cluster};

const NULL: Value = Value::Null;
const RIGHTS: &str = "path \"p-kv/data/orders\" { capabilities = [\"read\"] }";

/// Mounts a flag and a login for whom `cluster` vouches.
async fn prepare(target: &Target, cluster: &Cluster) {
    for gone in ["sys/mounts/p-kv", "sys/auth/p-jwt"] {
        target.root("DELETE", gone, NULL).await;
    }
    let kv = json!({"type": "kv", "options": {"version": "2"}});
    target.root("POST", "sys/mounts/p-kv", kv).await;
    target
        .root("PUT", "sys/policies/acl/p-reader", json!({ "policy": RIGHTS }))
        .await;
    target
        .root("POST", "sys/auth/p-jwt", json!({"type": "jwt"}))
        .await;
    let keys =
        json!({"jwt_validation_pubkeys": [cluster.public_key_pem()], "bound_issuer": cluster.issuer()});
    target.root("POST", "auth/p-jwt/config", keys).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
        "bound_subject": "system:serviceaccount:orders:tidegate",
        "token_policies": "p-reader", "token_ttl": "1h",
    });
    target.root("POST", "auth/p-jwt/role/orders", role).await;
}

/// Until it is taken: a mount that was just made, or a server that was just unsealed, may not be ready.
async fn flip(target: &Target, paused: bool) {
    let body = json!({"data": {"IsPaused": paused, "reason": "a test"}});
    let started = Instant::now();
    loop {
        let root = Some(target.token.as_str());
        let (status, answer) = target.ask("POST", "p-kv/data/orders", root, &[], &body).await;
        if status < 300 {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{status} {answer}");
    }
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let all = async { while !is().await {} };
    tokio::time::timeout(PATIENCE, all).await.expect(what);
}

async fn reads(sidecar: &Sidecar, word: &str) {
    until(&format!("never read as {word}"), async || {
        sidecar.get("/status").await.unwrap()["switches"][0]["reading"] == word
    })
    .await;
}

fn len(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |meta| meta.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_process_is_paused_and_resumed_by_a_flip_in_it() {
    let target = Target::vault().await;
    let cluster = Cluster::new(Clock::system());
    prepare(&target, &cluster).await;
    flip(&target, false).await;
    let dir = tempfile::tempdir().unwrap();
    let (source, sink) = (dir.path().join("in"), dir.path().join("out"));
    let rows = |numbers: Range<u32>| numbers.map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>();
    let (first, all) = (rows(0..500), rows(0..1000));
    std::fs::write(&source, &first).unwrap();
    let jwt = cluster.service_account_token("orders", "tidegate", "vault", Duration::from_secs(3600));
    std::fs::write(dir.path().join("jwt"), jwt.expose_secret()).unwrap();
    let config = dir.path().join("tidegate.toml");
    let text = format!(
        "[control]\nlisten = \"127.0.0.1:0\"\n[observe]\nlisten = \"127.0.0.1:0\"\n\
         [[switch]]\nname = \"ops\"\nstreams = [\"*\"]\ninterval = \"100ms\"\nretry_max = \"200ms\"\n\
         [switch.vault]\naddress = \"{}\"\nmount = \"p-kv\"\npath = \"orders\"\n\
         auth = {{ method = \"jwt\", role = \"orders\", mount = \"p-jwt\", token_file = \"{dir}/jwt\" }}\n\
         [[stream]]\nname = \"orders\"\nsource = {{ type = \"file\", path = \"{dir}/in\", follow = true }}\n\
         sink = {{ type = \"file\", path = \"{dir}/out\" }}\n",
        target.url,
        dir = dir.path().display(),
    );
    std::fs::write(&config, text).unwrap();
    let sidecar = Sidecar::start(Path::new(env!("CARGO_BIN_EXE_e2e-tidegate")), &config).unwrap();
    sidecar.becomes("orders", "running").await.unwrap();
    until("the first rows", async || len(&sink) == first.len() as u64).await;

    flip(&target, true).await;
    let told = sidecar.becomes("orders", "paused").await.unwrap();
    assert_eq!(
        (&told["in_flight"], &told["holds"][0]["controller"]),
        (&json!(0), &json!("switch:ops"))
    );
    let mut more = OpenOptions::new().append(true).open(&source).unwrap();
    more.write_all(&all.as_bytes()[first.len()..]).unwrap();

    // Revoked in mid-flight: it logs in again.
    let login = "auth/p-jwt/login";
    let before = logins(&target, login).await;
    assert!(!before.is_empty(), "it has logged in");
    revoke_logins(&target, login).await;
    until("another login", async || {
        logins(&target, login)
            .await
            .iter()
            .any(|(accessor, _)| before.iter().all(|(b, _)| b != accessor))
    })
    .await;
    reads(&sidecar, "paused").await;
    // Sealed and unsealed: it stands all along.
    if let Some(key) = &target.unseal_key {
        target.root("PUT", "sys/seal", NULL).await;
        reads(&sidecar, "sealed").await;
        assert_eq!(sidecar.stream("orders").await.unwrap()["state"], "paused");
        let body = json!({ "key": key });
        target.ask("PUT", "sys/unseal", None, &[], &body).await;
        reads(&sidecar, "paused").await;
    }
    assert_eq!(len(&sink), first.len() as u64, "nothing moved while paused");

    flip(&target, false).await;
    sidecar.becomes("orders", "running").await.unwrap();
    until("every row", async || len(&sink) == all.len() as u64).await;
    assert_eq!(
        std::fs::read_to_string(&sink).unwrap(),
        all,
        "each once, in order"
    );
    let said = sidecar.said().join("\n");
    assert!(!said.contains(jwt.expose_secret()), "the JWT is in the log");
    assert!(sidecar.stop().await.unwrap().success());
    println!("{}: the whole process was paused and resumed", target.name());
}
