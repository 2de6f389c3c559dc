//! A store on its own, for scripts: prints what a client needs as shell assignments (`VAULT_ADDR`, `VAULT_TOKEN` and
//! more), then a line `ready`, and serves until its standard input ends.
//!
//! ```text
//! cargo run -p tidegate-devstore --example serve -- --port 0
//! ```
#![allow(
    clippy::print_stdout,
    reason = "a program for scripts: its output is its interface"
)]
use secrecy::{ExposeSecret, SecretString};
use std::process::ExitCode;
use std::time::Duration;
use tidegate_devstore::{DevStore, Identity, KeyVaultOptions, Options, Proof, Rights};
use tokio::io::AsyncReadExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = Options {
        namespaces: true,
        key_vault: Some(KeyVaultOptions::default()),
        ..Options::default()
    };
    let mut ca_file = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--port" => options.vault_listen.set_port(value()?.parse()?),
            "--ca-file" => ca_file = Some(value()?),
            other => {
                return Err(format!("unknown argument {other}; known: --port NUMBER, --ca-file PATH").into());
            }
        }
    }
    let store = DevStore::start(options).await?;
    if let (Some(path), Some(pem)) = (ca_file, store.key_vault_ca_pem()) {
        std::fs::write(path, pem)?;
    }
    println!("VAULT_ADDR={}", store.vault_url());
    println!("VAULT_TOKEN={}", store.root_token().expose_secret());
    println!("VAULT_UNSEAL_KEY={}", store.vault().unseal_key().expose_secret());
    println!(
        "KUBERNETES_JWT={}",
        service_account(&store, "vault").expose_secret()
    );
    azure(&store);
    println!("ready");
    let mut ignored = [0_u8; 1024];
    let mut input = tokio::io::stdin();
    while input.read(&mut ignored).await? > 0 {}
    store.stop().await;
    Ok(())
}

fn service_account(store: &DevStore, audience: &str) -> SecretString {
    let hour = Duration::from_secs(3600);
    store
        .cluster()
        .service_account_token("peers", "judge", audience, hour)
}

/// One identity of each kind, and what each needs to prove itself.
fn azure(store: &DevStore) {
    let (Some(vault), Some(address), Some(identity)) =
        (store.key_vault(), store.key_vault_addr(), store.identity_addr())
    else {
        return;
    };
    let subject = "system:serviceaccount:peers:judge".to_owned();
    let managed = Proof::Managed {
        system_assigned: true,
    };
    vault.register(Identity::new(
        "secretive",
        Proof::Secret(SecretString::from("dev-only-secret")),
    ));
    vault.register(Identity::new("workload", Proof::Federated { subject }).rights(Rights::SECRETS_USER));
    vault.register(Identity::new("machine", managed));
    println!("KEY_VAULT_ADDR={address}");
    println!("IDENTITY_ADDR={identity}");
    println!("IDENTITY_HEADER={}", vault.identity_header().expose_secret());
    println!("TENANT_ID={}", vault.tenant_id());
    println!("CLIENT_ID=secretive");
    println!("CLIENT_SECRET=dev-only-secret");
    println!("WORKLOAD_CLIENT_ID=workload");
    println!(
        "WORKLOAD_JWT={}",
        service_account(store, "api://AzureADTokenExchange").expose_secret()
    );
    println!("MANAGED_CLIENT_ID=machine");
}
