//! The dev store's Key Vault side, as a site has it: one application with its secret in a file, and the store's CA.
use super::Site;
use secrecy::SecretString;
use serde_json::{Value, json};
use tidegate_devstore::{Identity, KeyVault, KeyVaultOptions, Options, Proof, Rights};

/// What the application proves itself by; no output may show it.
pub(crate) const CLIENT_SECRET: &str = "MARKED-client-secret";
const CLIENT_ID: &str = "tidegate";
/// Who may read is told so by its name; the challenge leads there.
const AUTHORITY: &str = "localhost";

impl Site {
    /// A site whose store has a Key Vault side, with an application that may read every secret.
    pub(crate) async fn with_key_vault() -> Site {
        let options = Options {
            key_vault: Some(KeyVaultOptions {
                authority_host: AUTHORITY.to_owned(),
                ..KeyVaultOptions::default()
            }),
            ..Options::default()
        };
        let site = Site::over(super::site::FREE_PORTS, options).await;
        site.write("ca.pem", site.store.key_vault_ca_pem().unwrap());
        site.write("client-secret", CLIENT_SECRET);
        site.key_vault_rights(Rights::SECRETS_USER);
        site
    }

    pub(crate) fn key_vault(&self) -> &KeyVault {
        self.store.key_vault().unwrap()
    }

    /// What the application may do from now on.
    pub(crate) fn key_vault_rights(&self, rights: Rights) {
        let proof = Proof::Secret(SecretString::from(CLIENT_SECRET));
        self.key_vault()
            .register(Identity::new(CLIENT_ID, proof).rights(rights));
    }

    /// Nobody knows the application any more.
    pub(crate) fn key_vault_forgets_the_application(&self) {
        self.key_vault().unregister(CLIENT_ID);
    }

    /// A switch's provider, as the configuration names it.
    pub(crate) fn key_vault_provider(&self, secret: &str) -> String {
        let address = self.store.key_vault_addr().unwrap();
        format!(
            "[switch.azure_key_vault]\nvault_url = \"{}:{port}\"\nsecret = \"{secret}\"\nresolve_to = \"{}\"\n\
             ca_file = \"{{dir}}/ca.pem\"\n\
             credential = {{ method = \"client_secret\", tenant_id = \"{}\", client_id = \"{CLIENT_ID}\", \
             secret_file = \"{{dir}}/client-secret\", authority_host = \"https://{AUTHORITY}:{port}\" }}\n",
            self.key_vault().url(),
            address.ip(),
            self.key_vault().tenant_id(),
            port = address.port(),
        )
    }

    /// A switch on one of its secrets, polled as often as it may be.
    pub(crate) fn key_vault_switch(
        &mut self,
        name: &str,
        streams: &[&str],
        secret: &str,
        options: &str,
    ) -> &mut Site {
        let provider = self.key_vault_provider(secret);
        self.switch(name, streams, options, &provider)
    }

    /// Any request to it, past the wire.
    pub(crate) fn key_vault_call(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.key_vault().call(method, path, body);
        assert!(status.is_success(), "{method} {path}: {status} {answer}");
        answer
    }

    /// Writes a flag past the wire and returns its version.
    pub(crate) fn key_vault_flag(&self, secret: &str, paused: bool) -> String {
        let value = json!({ "IsPaused": paused }).to_string();
        self.key_vault().put(secret, &value).unwrap()
    }

    /// Changes the attributes of every version of a secret, so that none is left that reads otherwise.
    pub(crate) fn key_vault_attributes(&self, secret: &str, attributes: &Value) {
        let versions = self.key_vault_call("GET", &format!("secrets/{secret}/versions"), Value::Null);
        for version in versions["value"].as_array().unwrap() {
            let id = version["id"].as_str().unwrap().rsplit('/').next().unwrap();
            self.key_vault_call(
                "PATCH",
                &format!("secrets/{secret}/{id}"),
                json!({ "attributes": attributes }),
            );
        }
    }
}
