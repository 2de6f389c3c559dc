//! Asking Vault what our token may do to the secret besides reading it.
use super::client::Client;
use super::read::SecretAt;
use crate::Access;
use http::StatusCode;
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use secrecy::SecretString;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Whoever has one of these on a path of the secret can flip the switch, or take the flag away.
const WRITES: [&str; 6] = ["root", "sudo", "create", "update", "patch", "delete"];

/// `sys/capabilities-self`, which `vaultrs` does not have.
struct CapabilitiesSelf {
    paths: Vec<String>,
}

impl Endpoint for CapabilitiesSelf {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        "sys/capabilities-self".into()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::POST
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        Ok(Some(
            serde_json::json!({ "paths": self.paths })
                .to_string()
                .into_bytes(),
        ))
    }
}

#[derive(Deserialize)]
struct Answered {
    data: BTreeMap<String, Vec<String>>,
}

/// One request; nothing is written.
pub(super) async fn ask(client: &Client, secret: &SecretAt, token: &SecretString) -> Access {
    let unknown = |why: String| Access::Unknown(why.into());
    let paths = secret.ways_in();
    let request = CapabilitiesSelf { paths: paths.clone() };
    let answer = match client.send(&request, Some(token)).await {
        Ok(answer) => answer,
        Err(error) => return unknown(error.to_string()),
    };
    let at = client.address();
    match answer.status {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN => {
            return unknown(format!(
                "Vault at {at} refused sys/capabilities-self (403): the token is not valid, or lacks the policy \
                 \"default\""
            ));
        }
        status => {
            return unknown(format!(
                "Vault at {at} answered sys/capabilities-self with status {}",
                status.as_u16()
            ));
        }
    }
    let Ok(Answered { data }) = serde_json::from_slice(&answer.body) else {
        return unknown(format!(
            "Vault at {at} answered sys/capabilities-self with something else than capabilities"
        ));
    };
    // A path that is not answered for is not known, whatever the others say.
    if let Some(path) = paths.iter().find(|path| !data.contains_key(*path)) {
        return unknown(format!(
            "Vault at {at} did not say what the token may do on {path}"
        ));
    }
    let words = |path: &String| -> Vec<&str> {
        let has = |word: &&str| data[path].iter().any(|c| c == word);
        WRITES.into_iter().filter(has).collect()
    };
    let mut can = paths
        .iter()
        .map(|p| (p, words(p)))
        .filter(|(_, words)| !words.is_empty());
    let Some((path, words)) = can.next() else {
        return Access::ReadOnly;
    };
    let others = match can.count() {
        0 => String::new(),
        n => format!(", and on {n} more of the secret's paths"),
    };
    Access::Writes(
        format!(
            "the token may do more than read: {} on {path}{others}; give it a policy with nothing but \"read\" on {}",
            words.join(", "),
            paths[0]
        )
        .into(),
    )
}
