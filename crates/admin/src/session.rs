//! Logins of the page: a cookie that names a session, never a token.
use crate::token::Token;
use rustix::rand::{GetRandomFlags, getrandom};
use secrecy::SecretString;
use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// A cookie goes to every port of a host, so that it must be of no use but here, and not for long.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// One more ends the one that would end soonest.
const AT_ONCE: usize = 256;
pub(crate) const COOKIE: &str = "tidegate_session";

#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Session>>);

struct Session {
    /// The token that was shown: a session ends with it.
    token: Arc<SecretString>,
    ends: Instant,
}

impl Sessions {
    /// A new session of whoever showed the token; its name, which is its only key.
    pub(crate) fn start(&self, token: &Token) -> io::Result<String> {
        let mut random = [0_u8; 32];
        getrandom(&mut random[..], GetRandomFlags::empty())?;
        let name = random.iter().fold(String::new(), |mut name, byte| {
            let _ = write!(name, "{byte:02x}");
            name
        });
        let mut sessions = self.sessions();
        let now = Instant::now();
        sessions.retain(|_, s| s.ends > now);
        if sessions.len() >= AT_ONCE {
            let oldest = sessions
                .iter()
                .min_by_key(|(_, s)| s.ends)
                .map(|(n, _)| n.clone());
            oldest.and_then(|n| sessions.remove(&n));
        }
        let session = Session {
            token: token.current(),
            ends: now + LIFE,
        };
        sessions.insert(name.clone(), session);
        Ok(name)
    }

    pub(crate) fn end(&self, name: &str) {
        self.sessions().remove(name);
    }

    /// Whose session it is, if it still is one.
    pub(crate) fn of<'t>(&self, name: &str, tokens: &'t [Token]) -> Option<&'t Token> {
        let sessions = self.sessions();
        let session = sessions.get(name).filter(|s| s.ends > Instant::now())?;
        tokens.iter().find(|t| Arc::ptr_eq(&t.current(), &session.token))
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        // Nothing inside the lock can panic half way.
        self.0.lock().unwrap_or_else(|p| p.into_inner())
    }
}

/// The session that a request's cookies name.
pub(crate) fn named(headers: &axum::http::HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(axum::http::header::COOKIE).iter();
    cookies
        .filter_map(|c| c.to_str().ok())
        .flat_map(|c| c.split(';'))
        .find_map(|c| c.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}
