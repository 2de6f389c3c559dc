//! Who may speak: tokens with their lifetimes, uses and children.
use super::fields::go_duration;
use super::response::Refusal;
use crate::identifiers;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Vault's default and maximum lifetime: 32 days, in seconds.
pub(crate) const LONGEST: i64 = 32 * 24 * 3600;

/// What a token is made from.
pub(crate) struct NewToken {
    /// `None`: a new one is made up.
    pub(crate) id: Option<String>,
    pub(crate) policies: Vec<String>,
    /// The endpoint that made it, `auth/token/create` say.
    pub(crate) path: String,
    pub(crate) meta: Option<BTreeMap<String, String>>,
    pub(crate) display_name: String,
    /// 0: as often as one likes.
    pub(crate) uses: u64,
    pub(crate) parent: Option<String>,
    pub(crate) namespace: String,
    pub(crate) life: Lifetime,
    /// 0: for ever, for root only.
    pub(crate) ttl: i64,
    pub(crate) renewable: bool,
    pub(crate) login: Option<Login>,
}

/// How long a token may live, in seconds; 0 where it does not say.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lifetime {
    pub(crate) period: i64,
    pub(crate) explicit_max: i64,
    /// What the role gives at login and at each renewal that asks for nothing.
    pub(crate) role_ttl: i64,
    pub(crate) role_max: i64,
}

/// The login a token comes from: a renewal needs the role to be there still.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) mount: String,
    pub(crate) role: String,
}

/// A token. It has no `Debug`: nothing prints one.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) accessor: String,
    pub(crate) policies: Vec<String>,
    pub(crate) path: String,
    pub(crate) meta: Option<BTreeMap<String, String>>,
    pub(crate) display_name: String,
    pub(crate) uses: u64,
    pub(crate) parent: Option<String>,
    pub(crate) namespace: String,
    pub(crate) life: Lifetime,
    pub(crate) created: Timestamp,
    pub(crate) creation_ttl: i64,
    /// What a renewal that asks for nothing gives: what the role says, or else what was given last.
    pub(crate) granted: i64,
    pub(crate) renewable: bool,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) renewed: Option<Timestamp>,
    pub(crate) login: Option<Login>,
}

impl Token {
    pub(crate) fn is_root(&self) -> bool {
        self.policies.iter().any(|policy| policy == "root")
    }

    /// Seconds left; 0 for one that never expires, as Vault says it.
    pub(crate) fn ttl(&self, now: Timestamp) -> i64 {
        self.expires
            .map_or(0, |expires| now.duration_until(expires).as_secs().max(0))
    }
}

/// All tokens of the store.
#[derive(Default)]
pub(crate) struct Tokens {
    by_id: HashMap<String, Token>,
    /// Nothing expires before this.
    next_expiry: Option<Timestamp>,
}

impl Tokens {
    /// Adds a token and returns its id.
    pub(crate) fn issue(&mut self, new: NewToken, now: Timestamp) -> String {
        let id = new
            .id
            .unwrap_or_else(|| format!("hvs.{}", identifiers::letters(24)));
        let expires = (new.ttl > 0).then(|| after(now, new.ttl));
        let token = Token {
            accessor: identifiers::letters(24),
            policies: new.policies,
            path: new.path,
            meta: new.meta,
            display_name: new.display_name,
            uses: new.uses,
            parent: new.parent,
            namespace: new.namespace,
            life: new.life,
            created: now,
            creation_ttl: new.ttl,
            granted: if new.life.role_ttl > 0 {
                new.life.role_ttl
            } else {
                new.ttl
            },
            renewable: new.renewable && expires.is_some(),
            expires,
            renewed: None,
            login: new.login,
        };
        self.by_id.insert(id.clone(), token);
        self.note_expiry(expires);
        id
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Token> {
        self.by_id.get(id)
    }

    pub(crate) fn id_of(&self, accessor: &str) -> Option<String> {
        self.by_id
            .iter()
            .find(|(_, token)| token.accessor == accessor)
            .map(|(id, _)| id.clone())
    }

    pub(crate) fn accessors(&self, namespace: &str) -> Vec<String> {
        self.by_id
            .values()
            .filter(|token| token.namespace == namespace)
            .map(|token| token.accessor.clone())
            .collect()
    }

    /// Takes one use of a token that may be used only so often. `true`: it was the last, revoke it once the request is
    /// through.
    pub(crate) fn take_use(&mut self, id: &str) -> bool {
        match self.by_id.get_mut(id) {
            Some(token) if token.uses > 1 => {
                token.uses -= 1;
                false
            }
            Some(token) => token.uses == 1,
            None => false,
        }
    }

    /// Removes what has expired, with all children.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        if self.next_expiry.is_none_or(|next| now < next) {
            return;
        }
        let dead: Vec<String> = self
            .by_id
            .iter()
            .filter(|(_, token)| token.expires.is_some_and(|expires| expires <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in dead {
            self.revoke(&id);
        }
        self.next_expiry = self.by_id.values().filter_map(|token| token.expires).min();
    }

    /// Removes a token and all that were made with it, and with those.
    pub(crate) fn revoke(&mut self, id: &str) {
        let mut dead = HashSet::from([id.to_owned()]);
        let mut last = 0;
        while dead.len() != last {
            last = dead.len();
            for (id, token) in &self.by_id {
                if token.parent.as_ref().is_some_and(|parent| dead.contains(parent)) {
                    dead.insert(id.clone());
                }
            }
        }
        self.by_id.retain(|id, _| !dead.contains(id));
    }

    /// Removes a token; its children live on without a parent.
    pub(crate) fn revoke_alone(&mut self, id: &str) {
        self.by_id.remove(id);
        for token in self.by_id.values_mut() {
            if token.parent.as_deref() == Some(id) {
                token.parent = None;
            }
        }
    }

    /// Removes the tokens that came from a login mount.
    pub(crate) fn revoke_logins(&mut self, namespace: &str, mount: &str) {
        let from_there: Vec<String> = self
            .by_id
            .iter()
            .filter(|(_, token)| token.namespace == namespace)
            .filter(|(_, token)| token.login.as_ref().is_some_and(|login| login.mount == mount))
            .map(|(id, _)| id.clone())
            .collect();
        for id in from_there {
            self.revoke(&id);
        }
    }

    pub(crate) fn keep_only(&mut self, id: &str) {
        self.by_id.retain(|known, _| known == id);
    }

    /// Removes the tokens of a namespace and of those below it.
    pub(crate) fn remove_namespace(&mut self, path: &str) {
        self.by_id.retain(|_, token| !token.namespace.starts_with(path));
    }

    /// Lets a token live longer. Returns its new lifetime and warnings.
    pub(crate) fn renew(
        &mut self,
        id: &str,
        increment: i64,
        now: Timestamp,
    ) -> Result<(i64, Vec<String>), Refusal> {
        let token = self
            .by_id
            .get_mut(id)
            .ok_or_else(|| Refusal::bad_request("token not found"))?;
        if !token.renewable || token.expires.is_none() {
            return Err(Refusal::bad_request("lease is not renewable"));
        }
        // What asks for nothing gets what it got last.
        let (ttl, warnings) = lifetime(token.life, increment, token.granted, token.created, now)?;
        if token.life.role_ttl == 0 {
            token.granted = ttl;
        }
        token.expires = Some(after(now, ttl));
        token.renewed = Some(now);
        let expires = token.expires;
        self.note_expiry(expires);
        Ok((ttl, warnings))
    }

    fn note_expiry(&mut self, expires: Option<Timestamp>) {
        self.next_expiry = [self.next_expiry, expires].into_iter().flatten().min();
    }
}

/// What is granted of a lifetime that was asked for (0: none was): never past a maximum, counted from `start`.
pub(crate) fn lifetime(
    life: Lifetime,
    asked: i64,
    default: i64,
    start: Timestamp,
    now: Timestamp,
) -> Result<(i64, Vec<String>), Refusal> {
    let cap = [life.role_max, life.explicit_max]
        .into_iter()
        .filter(|max| *max > 0)
        .fold(LONGEST, i64::min);
    let mut warnings = Vec::new();
    let (ttl, last) = if life.period > 0 {
        if life.period > cap {
            warnings.push(capped("period", life.period, cap));
        }
        let last = (life.explicit_max > 0).then(|| after(start, life.explicit_max));
        (life.period.min(cap), last)
    } else {
        let ttl = [asked, default]
            .into_iter()
            .find(|ttl| *ttl > 0)
            .unwrap_or(LONGEST);
        (ttl, Some(after(start, cap)))
    };
    let Some(last) = last else {
        return Ok((ttl, warnings));
    };
    let left = now.duration_until(last).as_secs();
    if left <= 0 {
        return Err(Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "past the max TTL, cannot renew",
        ));
    }
    if ttl > left {
        warnings.push(capped("TTL", ttl, left));
    }
    Ok((ttl.min(left), warnings))
}

fn capped(what: &str, asked: i64, cap: i64) -> String {
    format!(
        "{what} of {:?} exceeded the effective max_ttl of {:?}; {what} value is capped accordingly",
        go_duration(asked),
        go_duration(cap)
    )
}

pub(crate) fn after(from: Timestamp, seconds: i64) -> Timestamp {
    from.checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}
