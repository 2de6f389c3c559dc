//! What a sidecar costs that does nothing but poll: memory, processor time of a poll, and the time from its start to its
//! first reading. The store is asked over TLS, the control API is up, one stream follows a file.
//!
//! ```text
//! cargo bench -p e2e --bench footprint
//! ```
#![allow(clippy::print_stdout)] // its output is its purpose
use anyhow::{Context, Result, ensure};
use e2e::proc::{anonymous_kib, processor_time, resident_kib};
use e2e::setup::Setup;
use e2e::sidecar::Sidecar;
use e2e::spread::Spread;
use e2e::tls_front::TlsFront;
use secrecy::SecretString;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate_devstore::{DevStore, Identity, KeyVaultOptions, Options, Proof, Rights};

const STARTS: usize = 21;
const POLLS: u64 = 30;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<()> {
    let setup = Setup::new().await?;
    File::create(setup.path("orders.in"))?;
    let front = TlsFront::start(setup.store.vault_addr()).await?;
    std::fs::write(setup.path("ca.pem"), &front.ca)?;
    let over_tls = format!(
        "address = \"{}\"\nca_file = \"{}\"",
        front.url,
        setup.path("ca.pem").display()
    );
    let second = Duration::from_secs(1);
    for (what, store) in [("plain HTTP", setup.plain()), ("TLS", over_tls)] {
        let config = setup.configure(second, &store, &setup.file_to_file("orders"))?;
        let starts = starts(&config).await?;
        println!("{what}: start of the process -> first reading applied   {starts}");
        polls(&setup, &config, what).await?;
    }
    both(&setup, &front, second).await
}

/// Vault and Key Vault, each over TLS with a CA of its own, a switch on each.
async fn both(setup: &Setup, front: &TlsFront, interval: Duration) -> Result<()> {
    let options = Options {
        key_vault: Some(KeyVaultOptions {
            authority_host: "localhost".to_owned(),
            ..KeyVaultOptions::default()
        }),
        ..Options::default()
    };
    let store = DevStore::start(options).await?;
    let (vault, address, ca) = (
        store.key_vault().context("a Key Vault side")?,
        store.key_vault_addr().context("its address")?,
        store.key_vault_ca_pem().context("its CA")?,
    );
    let proof = Proof::Secret(SecretString::from("of-the-sidecar"));
    vault.register(Identity::new("sidecar", proof).rights(Rights::SECRETS_USER));
    vault.put("orders", "false")?;
    std::fs::write(setup.path("key-vault-ca.pem"), ca)?;
    std::fs::write(setup.path("client-secret"), "of-the-sidecar")?;
    let (dir, port) = (setup.dir.path().display(), address.port());
    let key_vault = format!(
        "[[switch]]\nname = \"azure\"\nstreams = [\"*\"]\ninterval = \"1s\"\n\
         [switch.azure_key_vault]\nvault_url = \"{}:{port}\"\nsecret = \"orders\"\nresolve_to = \"{}\"\n\
         ca_file = \"{dir}/key-vault-ca.pem\"\n\
         credential = {{ method = \"client_secret\", tenant_id = \"{}\", client_id = \"sidecar\", \
         secret_file = \"{dir}/client-secret\", authority_host = \"https://localhost:{port}\" }}\n",
        vault.url(),
        address.ip(),
        vault.tenant_id(),
    );
    let over_tls = format!("address = \"{}\"\nca_file = \"{dir}/ca.pem\"", front.url);
    let config = setup.configure(interval, &over_tls, &(key_vault + &setup.file_to_file("orders")))?;
    polls(setup, &config, "TLS to Vault and Key Vault").await
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_e2e-tidegate"))
}

/// From the start of the process to the line that says that its stream runs.
async fn starts(config: &Path) -> Result<Spread> {
    let mut spread = Spread::default();
    for _ in 0..STARTS {
        let began = Instant::now();
        let sidecar = Sidecar::start(program(), config)?;
        sidecar.heard(|line| line.contains("\"to\":\"running\"")).await?;
        spread.add(began.elapsed());
        ensure!(sidecar.stop().await?.success(), "tidegate did not end well");
    }
    Ok(spread)
}

async fn polls(setup: &Setup, config: &Path, what: &str) -> Result<()> {
    let sidecar = Sidecar::start(program(), config)?;
    sidecar.becomes("orders", "running").await?;
    let path = setup.flag.api_path();
    let polled = |more| {
        let seen = setup.store.requests().count(path);
        setup.store.requests().reached(path, seen + more)
    };
    polled(5).await;
    let pid = sidecar.pid()?;
    let (began, before) = (Instant::now(), processor_time(pid)?);
    polled(POLLS).await;
    let (took, used) = (began.elapsed(), processor_time(pid)? - before);
    println!(
        "{what}: {POLLS} polls in {:.1} s used {:.1} ms: {:.0} us a poll, {:.3} % of a core",
        took.as_secs_f64(),
        used.as_secs_f64() * 1e3,
        used.as_secs_f64() * 1e6 / POLLS as f64,
        used.as_secs_f64() / took.as_secs_f64() * 100.0
    );
    println!(
        "{what}: resident {:.1} MiB, of which {:.1} MiB is its own memory and the rest its program",
        resident_kib(pid)? as f64 / 1024.0,
        anonymous_kib(pid)? as f64 / 1024.0
    );
    ensure!(sidecar.stop().await?.success(), "tidegate did not end well");
    Ok(())
}
