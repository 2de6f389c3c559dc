//! The primitives the protocol is built on. `tests/loom.rs` replaces this module by loom's.
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
pub(crate) use std::sync::{Arc, Mutex};

/// Loom does not model SeqCst on read-modify-writes as hardware gives it, so there the fences are explicit.
pub(crate) const LOOM: bool = false;
