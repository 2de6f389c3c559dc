//! `tidegate devstore`: only the embedded store.
use super::complain;
use super::signals::stop_on_signal;
use crate::cli::{DevstoreArgs, exit};
use anyhow::Result;
use secrecy::{ExposeSecret, SecretString};
use std::io::Write;
use std::net::SocketAddr;
use tidegate_devstore::{DevStore, Options, StartError};

pub(super) async fn devstore(args: &DevstoreArgs) -> Result<u8> {
    let stop = stop_on_signal()?;
    let store = match start(args.listen).await {
        Ok(store) => store,
        Err(why) => {
            complain(&why);
            return Ok(exit::UNAVAILABLE);
        }
    };
    let (url, token) = (store.vault_url(), store.root_token().expose_secret());
    // What it prints is for whoever tries it out by hand; where nobody reads, it runs on.
    let _ = write!(
        std::io::stdout(),
        "A dev secret store with the Vault API. Everything is in memory; it ends with this process.\n\n\
         export VAULT_ADDR={url} VAULT_TOKEN={token}\n\n\
         {}\n{}\n",
        write_flag(&store, "streams/orders", true),
        write_flag(&store, "streams/orders", false),
    );
    stop.cancelled().await;
    store.stop().await;
    Ok(exit::OK)
}

/// Starts a store; the error says who holds a port that is taken.
pub(super) async fn start(listen: SocketAddr) -> Result<DevStore, String> {
    let options = Options {
        vault_listen: listen,
        root_token: Some(SecretString::from("dev-only-token")),
        ..Options::default()
    };
    DevStore::start(options).await.map_err(|error| match error {
        StartError::Listen { address, source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            let by = tidegate_http::holder_of(address).map(|h| format!(" by {h}")).unwrap_or_default();
            format!("the dev store cannot listen on {address}: the port is taken{by}; stop that, or choose another port")
        }
        other => other.to_string(),
    })
}

/// The command that writes a flag, in one line.
pub(super) fn write_flag(store: &DevStore, path: &str, paused: bool) -> String {
    format!(
        "curl -sS -X POST -H 'X-Vault-Token: {}' -d '{{\"data\":{{\"IsPaused\":{paused}}}}}' {}/v1/secret/data/{path}",
        store.root_token().expose_secret(),
        store.vault_url(),
    )
}
