//! The fault rules over HTTP, for scripts and for a curl line:
//!
//! ```text
//! curl -H "X-Vault-Token: $TOKEN" -d '{"fault":"status","status":503,"retry_after":2,"path":"/v1/secret/","times":3}' $ADDR/devstore/faults
//! curl -H "X-Vault-Token: $TOKEN" $ADDR/devstore/faults
//! curl -H "X-Vault-Token: $TOKEN" -X DELETE $ADDR/devstore/faults
//! ```
use crate::faults::{Fault, Faults, RetryAfter, Rule};
use crate::identifiers;
use crate::serve::{Answer, Asked};
use http::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Nothing of either store lies under this path. It is not subject to faults and not in the request log.
pub(crate) const PATH: &str = "/devstore/";

/// Takes rules from whoever has the root token, sealed or not: a test must always get back out.
pub(crate) struct Administration {
    pub(crate) faults: Faults,
    pub(crate) root_token: SecretString,
}

/// A rule as JSON. Durations are seconds, with fractions.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleBody {
    fault: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    times: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after: Option<RetryAfterBody>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

/// A number of seconds; or `{"date_in": seconds}`; or any text.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RetryAfterBody {
    Seconds(u64),
    Date { date_in: u64 },
    Verbatim(String),
}

#[derive(Serialize)]
struct StandingBody {
    id: u64,
    hits: u64,
    #[serde(flatten)]
    rule: RuleBody,
}

impl Administration {
    pub(crate) fn answer(&self, asked: &Asked) -> Answer {
        let bearer = asked
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        let token = asked.header("x-vault-token").or(bearer).unwrap_or_default();
        if !identifiers::same(token, self.root_token.expose_secret()) {
            return refuse(StatusCode::FORBIDDEN, "the root token opens this path");
        }
        let rest = asked.path[PATH.len()..].trim_end_matches('/');
        match (&asked.method, rest.split_once('/').unwrap_or((rest, ""))) {
            (&Method::GET, ("faults", "")) => self.list(),
            (&Method::POST, ("faults", "")) => self.add(&asked.body),
            (&Method::DELETE, ("faults", "")) => {
                self.faults.clear();
                Answer::empty(StatusCode::NO_CONTENT)
            }
            (&Method::DELETE, ("faults", id)) => {
                if id.parse().is_ok_and(|id| self.faults.remove(id)) {
                    Answer::empty(StatusCode::NO_CONTENT)
                } else {
                    refuse(StatusCode::NOT_FOUND, "no rule has this id")
                }
            }
            (_, ("faults", _)) => refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "GET and POST /devstore/faults, DELETE /devstore/faults or /devstore/faults/ID",
            ),
            _ => refuse(StatusCode::NOT_FOUND, "only /devstore/faults is here"),
        }
    }

    fn list(&self) -> Answer {
        let standing: Vec<StandingBody> = self
            .faults
            .standing()
            .into_iter()
            .map(|standing| StandingBody {
                id: standing.id,
                hits: standing.hits,
                rule: RuleBody::from(&standing.rule),
            })
            .collect();
        json(StatusCode::OK, &serde_json::json!({ "faults": standing }))
    }

    fn add(&self, body: &[u8]) -> Answer {
        let rule = serde_json::from_slice::<RuleBody>(body)
            .map_err(|error| error.to_string())
            .and_then(Rule::try_from);
        match rule {
            Ok(rule) => json(
                StatusCode::CREATED,
                &serde_json::json!({ "id": self.faults.add(rule) }),
            ),
            Err(reason) => refuse(StatusCode::BAD_REQUEST, &reason),
        }
    }
}

fn refuse(status: StatusCode, reason: &str) -> Answer {
    json(status, &serde_json::json!({ "errors": [reason] }))
}

fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    Answer::new(status, "application/json", value.to_string())
}

impl TryFrom<RuleBody> for Rule {
    type Error = String;

    fn try_from(body: RuleBody) -> Result<Rule, String> {
        let needs = |field: &str| format!("the fault {:?} needs {field:?}", body.fault);
        let seconds = || {
            let seconds = body.seconds.ok_or_else(|| needs("seconds"))?;
            Duration::try_from_secs_f64(seconds).map_err(|error| format!("seconds: {error}"))
        };
        let status = |default: Option<u16>| {
            let code = body.status.or(default).ok_or_else(|| needs("status"))?;
            StatusCode::from_u16(code).map_err(|_| format!("status: {code} is not between 100 and 999"))
        };
        let fault = match body.fault.as_str() {
            "status" => Fault::Status {
                status: status(None)?,
                retry_after: body.retry_after.map(|when| match when {
                    RetryAfterBody::Seconds(seconds) => RetryAfter::Seconds(seconds),
                    RetryAfterBody::Date { date_in } => RetryAfter::DateIn(Duration::from_secs(date_in)),
                    RetryAfterBody::Verbatim(text) => RetryAfter::Verbatim(text),
                }),
                body: body
                    .body
                    .map(|text| (body.content_type.unwrap_or_else(|| "text/html".to_owned()), text)),
            },
            "delay" => Fault::Delay(seconds()?),
            "drip" => Fault::Drip(seconds()?),
            "hang" => Fault::Hang,
            "reset-before-headers" => Fault::ResetBeforeHeaders,
            "reset-in-headers" => Fault::ResetInHeaders,
            "reset-in-body" => Fault::ResetInBody,
            "garbage" => Fault::Garbage,
            "not-http" => Fault::NotHttp,
            "truncated" => Fault::Truncated,
            "endless" => Fault::Endless,
            "forget-tokens" => Fault::ForgetTokens,
            "content-type" => {
                Fault::ContentType(body.content_type.clone().ok_or_else(|| needs("content_type"))?)
            }
            "redirect" => Fault::Redirect {
                status: status(Some(307))?,
                location: body.location.clone().ok_or_else(|| needs("location"))?,
            },
            other => return Err(format!("no fault is called {other:?}")),
        };
        let mut rule = Rule::new(fault).path(&body.path);
        if let Some(method) = &body.method {
            rule = rule.method(
                method
                    .parse()
                    .map_err(|_| "method: not an HTTP method".to_owned())?,
            );
        }
        Ok(match body.times {
            Some(times) => rule.times(times),
            None => rule,
        })
    }
}

impl From<&Rule> for RuleBody {
    fn from(rule: &Rule) -> RuleBody {
        let (path, method, times) = rule.scope();
        let mut body = RuleBody {
            fault: rule.fault().name().to_owned(),
            path: path.to_owned(),
            method: method.map(ToString::to_string),
            times,
            status: None,
            retry_after: None,
            body: None,
            content_type: None,
            location: None,
            seconds: None,
        };
        match rule.fault().clone() {
            Fault::Status {
                status,
                retry_after,
                body: text,
            } => {
                body.status = Some(status.as_u16());
                body.retry_after = retry_after.map(|when| match when {
                    RetryAfter::Seconds(seconds) => RetryAfterBody::Seconds(seconds),
                    RetryAfter::DateIn(wait) => RetryAfterBody::Date {
                        date_in: wait.as_secs(),
                    },
                    RetryAfter::Verbatim(text) => RetryAfterBody::Verbatim(text),
                });
                (body.content_type, body.body) = text.unzip();
            }
            Fault::Delay(wait) | Fault::Drip(wait) => body.seconds = Some(wait.as_secs_f64()),
            Fault::ContentType(text) => body.content_type = Some(text),
            Fault::Redirect { status, location } => {
                body.status = Some(status.as_u16());
                body.location = Some(location);
            }
            _ => {}
        }
        body
    }
}
