//! What the configuration says about the two surfaces, and what of it cannot be.
use crate::auth::Right;
use crate::token::{self, TokenFileError};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tidegate_http::{Address, Limits, Tls};

/// One token of the control API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSpec {
    /// The actor in audit lines and holds.
    pub name: String,
    /// The file that holds the token and nothing else but white space around it.
    pub file: PathBuf,
    /// What it may do.
    pub allow: Vec<Right>,
}

/// `[control]`.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// Comes before every path but `/openapi.json`; with or without a slash at either end.
    pub base_path: String,
    /// Where there is one, every call needs one. Where there is none, whoever can connect may do everything but
    /// override.
    pub tokens: Vec<TokenSpec>,
    /// Host names that requests may carry besides `localhost`, IP addresses and the certificate's names. Any
    /// other is refused: it is how a web page reaches a listener of the machine its reader sits at.
    pub hosts: Vec<String>,
    /// The listener's TLS; here for the names of its certificate.
    pub tls: Option<Tls>,
    /// How many may watch at once; one more gets 503.
    pub max_watchers: usize,
}

impl Default for ControlOptions {
    fn default() -> ControlOptions {
        ControlOptions {
            base_path: String::new(),
            tokens: Vec::new(),
            hosts: Vec::new(),
            tls: None,
            max_watchers: 1024,
        }
    }
}

/// `[observe]`.
#[derive(Clone, Debug)]
pub struct ObserveOptions {
    /// Whether `/readyz` stays 200 while a stream is held. Gates that serve on while held never count.
    pub ready_while_paused: bool,
}

impl Default for ObserveOptions {
    fn default() -> ObserveOptions {
        ObserveOptions {
            ready_while_paused: true,
        }
    }
}

/// Both surfaces.
#[derive(Clone, Debug)]
pub struct Options {
    /// `[control]`.
    pub control: ControlOptions,
    /// `[observe]`.
    pub observe: ObserveOptions,
    /// How long HTTP gates serve on after a close began, so that balancers notice.
    pub drain_delay: Duration,
    /// The directory whose file system `/actuator/health` tells of: `state_dir`, or the working directory.
    pub disk: PathBuf,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            control: ControlOptions::default(),
            observe: ObserveOptions::default(),
            drain_delay: Duration::ZERO,
            disk: PathBuf::from("."),
        }
    }
}

/// Why the surfaces cannot be built as asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Whoever reaches the control listener holds the button.
    #[error(
        "[control] listen = \"{listen}\" can be reached from other machines, so it needs {missing}; set it, or \
         listen on 127.0.0.1"
    )]
    Exposed {
        /// Where it was to listen.
        listen: Address,
        /// What lacks.
        missing: &'static str,
    },
    /// Not a path.
    #[error(
        "[control] base_path = \"{0}\" is no path: write segments of letters, digits and -._~ between single \
         slashes, such as \"/ui/stream\""
    )]
    BasePath(String),
    /// Two tokens share a name, so an audit line could mean either.
    #[error(
        "[[control.token]] two tokens are named \"{0}\": give each its own name, it is the audited actor"
    )]
    TokenName(String),
    /// Two tokens are equal, so nobody could say who called.
    #[error("[[control.token]] \"{0}\" and \"{1}\" hold the same token: give each its own")]
    SameToken(String, String),
    /// A token that allows nothing.
    #[error(
        "[[control.token]] \"{0}\" allows nothing: allow is a list of \"read\", \"pause\", \"resume\", \"override\""
    )]
    AllowsNothing(String),
    /// A token file that cannot be used.
    #[error("[[control.token]] \"{name}\": {error}")]
    TokenFile {
        /// The token's name.
        name: String,
        /// What is wrong with its file.
        error: TokenFileError,
    },
}

/// The listeners' limits for both surfaces: their requests are small, and what a peer does not read is not kept for
/// it in megabytes.
pub fn limits() -> Limits {
    Limits {
        buffer: 32 * 1024,
        send_buffer: Some(64 * 1024),
        max_streams: 32,
        ..Limits::default()
    }
}

impl ControlOptions {
    /// Everything that is wrong with them for a listener at `listen`; reads the token files.
    pub fn check(&self, listen: &Address) -> Vec<AdminError> {
        let missing = match (self.tls.is_some(), !self.tokens.is_empty()) {
            (true, true) => None,
            (true, false) => Some("at least one [[control.token]]"),
            (false, true) => Some("tls"),
            (false, false) => Some("tls and at least one [[control.token]]"),
        };
        let exposed = missing
            .filter(|_| !listen.is_loopback())
            .map(|missing| AdminError::Exposed {
                listen: listen.clone(),
                missing,
            });
        let mut wrong: Vec<AdminError> = exposed.into_iter().collect();
        wrong.extend(self.base().err());
        let mut names = BTreeSet::new();
        for token in &self.tokens {
            if !names.insert(&token.name) {
                wrong.push(AdminError::TokenName(token.name.clone()));
            }
            if token.allow.is_empty() {
                wrong.push(AdminError::AllowsNothing(token.name.clone()));
            }
        }
        wrong.extend(token::load(&self.tokens).err().into_iter().flatten());
        wrong
    }

    /// The base path with a slash before every segment, or nothing.
    pub(crate) fn base(&self) -> Result<String, AdminError> {
        if matches!(self.base_path.as_str(), "" | "/") {
            return Ok(String::new());
        }
        let trimmed = self.base_path.strip_prefix('/').unwrap_or(&self.base_path);
        let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.chars().all(fits);
        if trimmed.split('/').all(segment) {
            Ok(format!("/{trimmed}"))
        } else {
            Err(AdminError::BasePath(self.base_path.clone()))
        }
    }
}
