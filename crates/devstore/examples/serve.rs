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
use secrecy::ExposeSecret;
use std::process::ExitCode;
use std::time::Duration;
use tidegate_devstore::{DevStore, Options};
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
        ..Options::default()
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--port" => options.vault_listen.set_port(value()?.parse()?),
            other => return Err(format!("unknown argument {other}; known: --port NUMBER").into()),
        }
    }
    let store = DevStore::start(options).await?;
    println!("VAULT_ADDR={}", store.vault_url());
    println!("VAULT_TOKEN={}", store.root_token().expose_secret());
    println!("VAULT_UNSEAL_KEY={}", store.vault().unseal_key().expose_secret());
    let service_account =
        store
            .cluster()
            .service_account_token("peers", "judge", "vault", Duration::from_secs(3600));
    println!("KUBERNETES_JWT={}", service_account.expose_secret());
    println!("ready");
    let mut ignored = [0_u8; 1024];
    let mut input = tokio::io::stdin();
    while input.read(&mut ignored).await? > 0 {}
    store.stop().await;
    Ok(())
}
