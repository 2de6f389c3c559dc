//! What Key Vault's answers, and the errors of its SDK, mean.
//!
//! The SDK puts whole bodies into its messages, and with them whatever a proxy or a vault has put there. So no message
//! of it is ever shown: kinds, statuses and codes that are known here are looked at, and said in our own words.
use crate::http_client::{chain, retry_after_text};
use crate::{Body, ReadError, Secret};
use azure_core::error::{Error, ErrorKind};
use azure_core::http::RawResponse;
use azure_core::http::headers::RETRY_AFTER;
use azure_core::time::OffsetDateTime;
use azure_security_keyvault_secrets::ResourceExt as _;
use azure_security_keyvault_secrets::models;
use serde::Deserialize;
use std::time::{Duration, SystemTime};
use tidegate_gate::{Name, Version};

/// People are told this long before a secret's own expiry date; the value counts before and after.
const EXPIRY_NEAR: Duration = Duration::from_secs(7 * 24 * 3600);

/// Who asks for what, for people.
pub(super) struct Where<'a> {
    pub(super) place: &'a str,
    pub(super) reader: &'a str,
}

impl Where<'_> {
    fn says(&self, what: &str) -> Name {
        format!("{}: {what}", self.place).into()
    }

    /// A secret that was found.
    pub(super) fn secret(&self, found: models::Secret) -> Result<Secret, ReadError> {
        let version = found.resource_id().ok().and_then(|id| id.version);
        let attributes = found.attributes.unwrap_or_default();
        if attributes.enabled == Some(false) {
            return Err(self.disabled());
        }
        let (Some(version), Some(value)) = (version, found.value) else {
            return Err(ReadError::unavailable(
                self.says("the answer has no value or no version"),
            ));
        };
        let now = OffsetDateTime::now_utc();
        let mut warnings = Vec::new();
        if let Some(expires) = attributes.expires
            && expires <= now + EXPIRY_NEAR
        {
            let tense = if expires <= now { "expired" } else { "expires" };
            warnings.push(
                format!(
                    "the secret {tense} on {}; its value counts all the same",
                    day(expires)
                )
                .into(),
            );
        }
        if let Some(not_before) = attributes.not_before
            && not_before > now
        {
            let day = day(not_before);
            warnings.push(
                format!("the secret is not to be used before {day}; its value counts all the same").into(),
            );
        }
        Ok(Secret {
            body: Body::Text(value.into()),
            version: Version {
                id: version.into(),
                written: attributes.updated.or(attributes.created).map(SystemTime::from),
            },
            // Versions have no order, and Key Vault has no replicas that one could read behind its back.
            serial: None,
            warnings,
        })
    }

    /// Whether the vault refuses the token itself, rather than what it may do.
    pub(super) fn refuses_token(&self, error: &Error) -> bool {
        matches!(error.kind(), ErrorKind::HttpResponse { status, .. } if u16::from(*status) == 401)
    }

    /// Why a request came to nothing.
    pub(super) fn refusal(&self, error: &Error) -> ReadError {
        match error.kind() {
            ErrorKind::HttpResponse {
                status,
                raw_response,
                ..
            } => self.status(u16::from(*status), raw_response.as_deref()),
            ErrorKind::Credential => self.login(error),
            ErrorKind::Connection | ErrorKind::Io => ReadError::unavailable(self.says(&network(error, self.place))),
            ErrorKind::DataConversion => ReadError::unavailable(self.says(
                "the answer is not one of Key Vault's: check vault_url, and whether a proxy answers in its place",
            )),
            _ => ReadError::Denied(self.says(
                "the login challenge names another resource than vault_url's domain, or vault_url is not https: no token \
                 is sent there",
            )),
        }
    }

    fn status(&self, status: u16, answer: Option<&RawResponse>) -> ReadError {
        let codes = Codes::of(answer);
        let retry_after = answer.and_then(asked);
        match status {
            401 => ReadError::Denied(self.says(&format!(
                "Key Vault refuses the token of {} (401): is it of the vault's own tenant?",
                self.reader
            ))),
            403 if codes.has("SecretDisabled") => self.disabled(),
            403 if codes.has("ForbiddenByFirewall") => ReadError::Denied(self.says(
                "the vault's firewall refuses this address (403): allow it, or use a private endpoint",
            )),
            403 if codes.is_key_vaults() => ReadError::Denied(self.says(&format!(
                "{} may not read it (403): give it \"Key Vault Secrets User\" on this one secret",
                self.reader
            ))),
            403 => {
                ReadError::Denied(self.says("refused, and not by Key Vault (a proxy or a firewall answered)"))
            }
            404 if codes.has("SecretNotFound") => ReadError::Missing(
                self.says("there is no such secret, or it is deleted (404): check its name, or recover it"),
            ),
            429 => ReadError::Throttled {
                why: self.says(
                    "Key Vault asks for fewer requests (429): lengthen interval, or use fewer replicas",
                ),
                retry_after,
            },
            300..=399 => ReadError::unavailable(
                self.says("answered with a redirect, which is never followed with a token"),
            ),
            _ => ReadError::Unavailable {
                why: self.says(&format!("answered with status {status}")),
                retry_after,
            },
        }
    }

    fn disabled(&self) -> ReadError {
        ReadError::Disabled(self.says("its current version is disabled: enable it, or set a new one"))
    }

    /// Why there is no token.
    pub(super) fn login(&self, error: &Error) -> ReadError {
        let says = |what: &str| self.says(&format!("logging in by {}: {what}", self.reader));
        for cause in causes(error) {
            let Some(cause) = cause.downcast_ref::<Error>() else {
                continue;
            };
            match cause.kind() {
                ErrorKind::HttpResponse {
                    status,
                    error_code,
                    raw_response,
                } => {
                    let retry_after = raw_response.as_deref().and_then(asked);
                    return match u16::from(*status) {
                        400..=403 => ReadError::Denied(says(&format!(
                            "refused{}: check its ids, its secret and what it is federated with",
                            entra_code(error_code.as_deref())
                        ))),
                        429 => ReadError::Throttled {
                            why: says("asked for fewer requests (429)"),
                            retry_after,
                        },
                        status => ReadError::Unavailable {
                            why: says(&format!("answered with status {status}")),
                            retry_after,
                        },
                    };
                }
                ErrorKind::Connection | ErrorKind::Io => {
                    return ReadError::unavailable(says(&network(cause, self.place)));
                }
                _ => {}
            }
        }
        ReadError::Denied(says(
            "no token was given: is the identity assigned to this machine, or is anybody logged in?",
        ))
    }
}

/// The code of the error and those inside it.
#[derive(Default)]
struct Codes(Vec<String>);

impl Codes {
    fn of(answer: Option<&RawResponse>) -> Codes {
        #[derive(Deserialize)]
        struct Whole {
            error: Coded,
        }
        #[derive(Deserialize)]
        struct Coded {
            code: Option<String>,
            innererror: Option<Box<Coded>>,
        }
        let whole = answer.and_then(|answer| serde_json::from_slice::<Whole>(answer.body()).ok());
        let mut codes = Vec::new();
        let mut next = whole.map(|whole| whole.error);
        while let Some(one) = next {
            codes.extend(one.code);
            next = one.innererror.map(|inner| *inner);
        }
        Codes(codes)
    }

    fn has(&self, code: &str) -> bool {
        self.0.iter().any(|one| one == code)
    }

    fn is_key_vaults(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Entra's codes are numbers; anything else that stands there is not shown.
fn entra_code(code: Option<&str>) -> String {
    match code {
        Some(code) if code.len() <= 32 && code.bytes().all(|b| b.is_ascii_digit() || b == b',') => {
            format!(" (AADSTS{code})")
        }
        _ => String::new(),
    }
}

fn asked(answer: &RawResponse) -> Option<Duration> {
    answer
        .headers()
        .get_optional_str(&RETRY_AFTER)
        .and_then(retry_after_text)
}

/// What the network says, which knows of no body: without the path, but with the server that was asked where that is not
/// the vault, such as the authority that one logs in at.
fn network(error: &Error, vault: &str) -> String {
    let Some(said) = causes(error).find_map(|cause| cause.downcast_ref::<reqwest::Error>()) else {
        return "no usable answer came in time".to_owned();
    };
    let mut why = chain(said);
    let mut from = String::new();
    if let Some(url) = said.url() {
        why = why.replace(&format!(" for url ({url})"), "");
        let origin = url.origin().ascii_serialization();
        if !vault.ends_with(&origin) {
            from = format!(" from {origin}");
        }
    }
    format!("no usable answer{from}: {why}")
}

fn causes<'a>(error: &'a Error) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    let first: &'a (dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |cause| cause.source())
}

fn day(at: OffsetDateTime) -> String {
    jiff::Timestamp::from_second(at.unix_timestamp())
        .map_or_else(|_| "some day".to_owned(), |at| at.to_string())
}
