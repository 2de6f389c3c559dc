//! A dev double of the secret stores that tidegate watches. Everything is in memory and ends with the process.
//!
//! - **HashiCorp Vault**: KV 1 and 2, tokens, policies, namespaces, logins (AppRole, Kubernetes, JWT), seal and health.
//! - **Azure Key Vault** ([`Options::key_vault`]): secrets with their versions, deletion and paging, over HTTPS with a
//!   certificate authority of its own; the authority that trades client secrets and federated tokens for access tokens; and
//!   the endpoints of managed identities.
//! - A **Kubernetes cluster** ([`Cluster`]) as far as these two see one: it signs service account tokens and reviews them.
//!
//! It is **strict**: what a real server refuses it refuses, with the same status and the same words where clients match on
//! them, and what it does not have it refuses instead of ignoring it. It shares no code with the clients of this
//! repository, so that one misreading cannot pass on both sides; other people's clients judge it (`tests/peers`).
//!
//! For tests it can also fail in every way that matters ([`Fault`]), be cut off and come back
//! ([`DevStore::vault_offline`]), move its own time ([`Clock`]), and say what it was asked ([`Requests`]). The same faults
//! can be set over HTTP, at the Vault address:
//!
//! ```text
//! curl -H "X-Vault-Token: $TOKEN" -d '{"fault":"status","status":503,"retry_after":2,"times":3}' $VAULT_ADDR/devstore/faults
//! curl -H "X-Vault-Token: $TOKEN" -X DELETE $VAULT_ADDR/devstore/faults
//! ```
//!
//! What it is not: storage, high availability, response wrapping, leases of other engines, identity, audit devices, backups.
//! A policy with conditions on parameters is refused, not half enforced.
//!
//! Limits: 32 MiB a request, Vault's own default. It is meant for loopback: the Vault side speaks plain HTTP.
mod administration;
mod clock;
mod cluster;
mod endpoint;
mod faults;
mod identifiers;
mod jws;
mod key_vault;
mod requests;
mod sabotage;
mod serve;
mod store;
mod vault;

pub use clock::Clock;
pub use cluster::Cluster;
pub use faults::{Fault, Faults, RetryAfter, Rule, Standing};
pub use key_vault::{Identity, KeyVault, KeyVaultOptions, Proof, Rights};
pub use requests::{Requests, Seen, Side};
pub use store::{DevStore, Options, StartError};
pub use vault::{Issued, Refused, Vault};
