//! `tidegate devstore`: only the embedded store.
use super::complain;
use super::signals::stop_on_signal;
use crate::cli::{DevstoreArgs, exit};
use anyhow::{Context, Result};
use secrecy::{ExposeSecret, SecretString};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tidegate_devstore::{DevStore, Identity, KeyVaultOptions, Options, Proof, Rights, StartError};

/// The secret that the sample lines of the Key Vault side name, as .NET configuration would.
const KEY_VAULT_SECRET: &str = "orders--IsPaused";
const CLIENT_ID: &str = "tidegate";
const CLIENT_SECRET: &str = "dev-only-secret";
/// A working day.
const OPERATORS_TOKEN: Duration = Duration::from_secs(12 * 3600);

pub(super) async fn devstore(args: &DevstoreArgs) -> Result<u8> {
    let stop = stop_on_signal()?;
    let store = match start(args.listen, Some(args.key_vault_listen)).await {
        Ok(store) => store,
        Err(why) => {
            complain(&why);
            return Ok(exit::UNAVAILABLE);
        }
    };
    // Goes away with the process, unless that is killed.
    let files = tempfile::Builder::new()
        .prefix("tidegate-devstore-")
        .tempdir()
        .context("a folder for the CA of the Key Vault side")?;
    let key_vault = key_vault_lines(&store, files.path())?;
    let (url, token) = (store.vault_url(), store.root_token().expose_secret());
    // What it prints is for whoever tries it out by hand; where nobody reads, it runs on.
    let _ = write!(
        std::io::stdout(),
        "A dev secret store with the APIs of Vault and of Azure Key Vault. Everything is in memory; it ends with this \
         process.\n\n\
         Vault:\n\n\
         export VAULT_ADDR={url} VAULT_TOKEN={token}\n\n\
         {}\n{}\n\n\
         {key_vault}",
        write_flag(&store, "streams/orders", true),
        write_flag(&store, "streams/orders", false),
    );
    stop.cancelled().await;
    store.stop().await;
    Ok(exit::OK)
}

/// What a configuration and a person need for the Key Vault side; writes the files that they name.
fn key_vault_lines(store: &DevStore, files: &Path) -> Result<String> {
    let parts = store.key_vault().zip(store.key_vault_addr());
    let Some(((vault, address), ca)) = parts.zip(store.key_vault_ca_pem()) else {
        return Ok(String::new());
    };
    let (ca_file, secret_file) = (files.join("ca.pem"), files.join("client-secret"));
    std::fs::write(&ca_file, ca).context("writing the CA of the Key Vault side")?;
    std::fs::write(&secret_file, CLIENT_SECRET).context("writing the client secret")?;
    let proof = Proof::Secret(SecretString::from(CLIENT_SECRET));
    vault.register(Identity::new(CLIENT_ID, proof).rights(Rights::ALL));
    let token = vault.issue_token(CLIENT_ID, OPERATORS_TOKEN);
    let (url, port, ip) = (vault.url(), address.port(), address.ip());
    let host = url.trim_start_matches("https://");
    let put = |paused: bool| {
        format!(
            "curl -sS --cacert {ca} --resolve {host}:{port}:{ip} -X PUT -H 'Authorization: Bearer {token}' \
             -H 'Content-Type: application/json' -d '{{\"value\":\"{paused}\"}}' \
             '{url}:{port}/secrets/{KEY_VAULT_SECRET}?api-version=2025-07-01'",
            ca = ca_file.display(),
            token = token.expose_secret(),
        )
    };
    Ok(format!(
        "Azure Key Vault, over TLS with a CA of its own ({ca}):\n\n\
         [switch.azure_key_vault]\n\
         vault_url = \"{url}:{port}\"\n\
         secret = \"{KEY_VAULT_SECRET}\"\n\
         resolve_to = \"{ip}\"\n\
         ca_file = \"{ca}\"\n\
         credential = {{ method = \"client_secret\", tenant_id = \"{tenant}\", client_id = \"{CLIENT_ID}\", \
         secret_file = \"{secret}\", authority_host = \"https://{AUTHORITY}:{port}\" }}\n\n\
         {}\n{}\n",
        put(true),
        put(false),
        ca = ca_file.display(),
        secret = secret_file.display(),
        tenant = vault.tenant_id(),
    ))
}

/// Every machine resolves it to itself, so that logins need no help.
const AUTHORITY: &str = "localhost";

/// Starts a store, with a Key Vault side where that has an address; the error says who holds a port that is taken.
pub(super) async fn start(listen: SocketAddr, key_vault: Option<SocketAddr>) -> Result<DevStore, String> {
    let options = Options {
        vault_listen: listen,
        root_token: Some(SecretString::from("dev-only-token")),
        key_vault: key_vault.map(|listen| KeyVaultOptions {
            listen,
            authority_host: AUTHORITY.to_owned(),
            ..KeyVaultOptions::default()
        }),
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
