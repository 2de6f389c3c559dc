//! What a test can make go wrong, on which path, how often.
use http::{Method, StatusCode};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One way to fail.
///
/// *Before the store*: [`Status`](Fault::Status), [`Hang`](Fault::Hang), [`ResetBeforeHeaders`](Fault::ResetBeforeHeaders),
/// [`Garbage`](Fault::Garbage), [`NotHttp`](Fault::NotHttp), [`Endless`](Fault::Endless) and [`Redirect`](Fault::Redirect)
/// answer instead of the store, which never sees the request. *After it*: [`ResetInHeaders`](Fault::ResetInHeaders),
/// [`ResetInBody`](Fault::ResetInBody), [`Truncated`](Fault::Truncated), [`Drip`](Fault::Drip) and
/// [`ContentType`](Fault::ContentType) spoil the store's own answer, so that a write has happened although its answer is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status, with an error body of the store's kind.
    Status {
        /// The status code.
        status: StatusCode,
        /// The `Retry-After` header.
        retry_after: Option<RetryAfter>,
        /// Content type and text to send instead of the store's kind of error body: a proxy's HTML page, say.
        body: Option<(String, String)>,
    },
    /// Waits this long (tokio's time), then answers as usual; rules after it still apply.
    Delay(Duration),
    /// Takes the request and never answers, until the client leaves or the store stops.
    Hang,
    /// TCP reset without a byte of an answer.
    ResetBeforeHeaders,
    /// TCP reset in the middle of the headers.
    ResetInHeaders,
    /// TCP reset after half of the body.
    ResetInBody,
    /// 200 with a JSON content type and a body that is not JSON.
    Garbage,
    /// Bytes that are not HTTP.
    NotHttp,
    /// Half of the body, then an orderly end of the connection, against the announced length.
    Truncated,
    /// 200 and a JSON string that never ends.
    Endless,
    /// The answer one byte at a time, this long apart (tokio's time): every single wait is short, the whole is not.
    Drip(Duration),
    /// The store's answer under another content type.
    ContentType(String),
    /// A redirect to another place, with the status that says so.
    Redirect {
        /// 301, 302, 307 or 308.
        status: StatusCode,
        /// The `Location` header.
        location: String,
    },
    /// Forgets every token that was issued (Vault: all but the root token), then answers as usual; rules after it still apply.
    ForgetTokens,
}

impl Fault {
    /// A status without `Retry-After` and with the store's kind of error body.
    ///
    /// # Panics
    /// When the number is not a status code (100 to 999): a fixed number in a test.
    pub fn status(status: u16) -> Fault {
        Fault::Status {
            status: StatusCode::from_u16(status).expect("a status code is between 100 and 999"),
            retry_after: None,
            body: None,
        }
    }

    /// The same status with a `Retry-After`; other faults are unchanged.
    pub fn retry_after(self, when: RetryAfter) -> Fault {
        match self {
            Fault::Status { status, body, .. } => Fault::Status {
                status,
                retry_after: Some(when),
                body,
            },
            other => other,
        }
    }

    /// The same status with this body; other faults are unchanged.
    pub fn body(self, content_type: &str, text: &str) -> Fault {
        match self {
            Fault::Status {
                status, retry_after, ..
            } => Fault::Status {
                status,
                retry_after,
                body: Some((content_type.to_owned(), text.to_owned())),
            },
            other => other,
        }
    }

    /// 307 to another place.
    pub fn redirect(location: &str) -> Fault {
        Fault::Redirect {
            status: StatusCode::TEMPORARY_REDIRECT,
            location: location.to_owned(),
        }
    }

    /// Its name in listings, in the request log and in the JSON of the administration path.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Status { .. } => "status",
            Fault::Delay(_) => "delay",
            Fault::Hang => "hang",
            Fault::ResetBeforeHeaders => "reset-before-headers",
            Fault::ResetInHeaders => "reset-in-headers",
            Fault::ResetInBody => "reset-in-body",
            Fault::Garbage => "garbage",
            Fault::NotHttp => "not-http",
            Fault::Truncated => "truncated",
            Fault::Endless => "endless",
            Fault::Drip(_) => "drip",
            Fault::ContentType(_) => "content-type",
            Fault::Redirect { .. } => "redirect",
            Fault::ForgetTokens => "forget-tokens",
        }
    }

    /// Faults that leave the store's answer as it is: the next rule is asked too.
    fn goes_on(&self) -> bool {
        matches!(self, Fault::Delay(_) | Fault::ForgetTokens)
    }
}

/// The three things a server may write into `Retry-After`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// A number of seconds.
    Seconds(u64),
    /// An HTTP date, this far from the store's now.
    DateIn(Duration),
    /// Any text, for what a client must not choke on.
    Verbatim(String),
}

/// Which requests fail, how, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    fault: Fault,
    path: String,
    method: Option<Method>,
    times: Option<u64>,
}

impl Rule {
    /// Every request of both stores fails like this, until the rule is removed.
    pub fn new(fault: Fault) -> Rule {
        Rule {
            fault,
            path: String::new(),
            method: None,
            times: None,
        }
    }

    /// Only requests whose decoded path starts with this (`/v1/secret/data/orders`, `/secrets/`, `/tenant/oauth2`).
    pub fn path(mut self, prefix: &str) -> Rule {
        prefix.clone_into(&mut self.path);
        self
    }

    /// Only requests with this method.
    pub fn method(mut self, method: Method) -> Rule {
        self.method = Some(method);
        self
    }

    /// Only this many requests; then the rule is gone.
    pub fn times(mut self, times: u64) -> Rule {
        self.times = Some(times);
        self
    }

    /// What it does.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// Path prefix, method and what is left of its times.
    pub(crate) fn scope(&self) -> (&str, Option<&Method>, Option<u64>) {
        (&self.path, self.method.as_ref(), self.times)
    }

    fn matches(&self, method: &Method, path: &str) -> bool {
        path.starts_with(&self.path) && self.method.as_ref().is_none_or(|only| only == method)
    }
}

/// The rules in force. Clones share them.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    rules: Vec<Active>,
}

struct Active {
    id: u64,
    rule: Rule,
    hits: u64,
}

/// A rule as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// For [`Faults::remove`].
    pub id: u64,
    /// The rule; `times` is what is left of it.
    pub rule: Rule,
    /// How many requests it has hit.
    pub hits: u64,
}

impl Faults {
    /// Adds a rule after those that stand; the first that matches a request applies. Returns its id.
    pub fn add(&self, rule: Rule) -> u64 {
        let mut table = self.table();
        table.next += 1;
        let id = table.next;
        if rule.times != Some(0) {
            table.rules.push(Active { id, rule, hits: 0 });
        }
        id
    }

    /// Takes one rule back; `false` when it is already gone.
    pub fn remove(&self, id: u64) -> bool {
        let mut table = self.table();
        let before = table.rules.len();
        table.rules.retain(|active| active.id != id);
        table.rules.len() != before
    }

    /// Takes all rules back. Connections that already hang go on hanging.
    pub fn clear(&self) {
        self.table().rules.clear();
    }

    /// The rules in force, in their order.
    pub fn standing(&self) -> Vec<Standing> {
        self.table()
            .rules
            .iter()
            .map(|active| Standing {
                id: active.id,
                rule: active.rule.clone(),
                hits: active.hits,
            })
            .collect()
    }

    /// What happens to this request: the faults that let it go on, then at most one that does not.
    pub(crate) fn strike(&self, method: &Method, path: &str) -> Vec<Fault> {
        let mut table = self.table();
        let mut struck = Vec::new();
        for active in &mut table.rules {
            if !active.rule.matches(method, path) {
                continue;
            }
            active.hits += 1;
            if let Some(left) = &mut active.rule.times {
                *left = left.saturating_sub(1);
            }
            struck.push(active.rule.fault.clone());
            if !active.rule.fault.goes_on() {
                break;
            }
        }
        table.rules.retain(|active| active.rule.times != Some(0));
        struck
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is consistent between any two statements: a panic elsewhere does not make it wrong.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.standing()).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_rule_hits_its_path_prefix_and_method_as_often_as_it_says() {
        let faults = Faults::default();
        faults.add(
            Rule::new(Fault::status(503))
                .path("/v1/secret")
                .method(Method::GET)
                .times(2),
        );
        assert!(faults.strike(&Method::GET, "/v1/kv/a").is_empty());
        assert!(faults.strike(&Method::PUT, "/v1/secret/data/a").is_empty());
        assert_eq!(
            faults.strike(&Method::GET, "/v1/secret/data/a"),
            [Fault::status(503)]
        );
        assert_eq!(faults.standing()[0].hits, 1);
        assert_eq!(
            faults.strike(&Method::GET, "/v1/secret/data/a"),
            [Fault::status(503)]
        );
        assert!(faults.strike(&Method::GET, "/v1/secret/data/a").is_empty());
        assert!(faults.standing().is_empty());
    }

    #[test]
    fn a_delay_lets_the_next_rule_apply_and_a_status_does_not() {
        let faults = Faults::default();
        faults.add(Rule::new(Fault::Delay(Duration::from_secs(1))));
        let status = faults.add(Rule::new(Fault::status(429)));
        faults.add(Rule::new(Fault::Hang));
        assert_eq!(
            faults.strike(&Method::GET, "/v1/x"),
            [Fault::Delay(Duration::from_secs(1)), Fault::status(429)]
        );
        assert!(faults.remove(status));
        assert!(!faults.remove(status));
        assert_eq!(faults.strike(&Method::GET, "/v1/x").last(), Some(&Fault::Hang));
        faults.clear();
        assert!(faults.strike(&Method::GET, "/v1/x").is_empty());
    }
}
