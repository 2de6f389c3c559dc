//! The stages that a configuration can name.
mod count;
mod jq;

pub use count::Count;
pub use jq::{BadExpression, Filter, Map};
