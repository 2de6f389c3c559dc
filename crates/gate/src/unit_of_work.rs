//! What `#[unit_of_work]` stands on.
use crate::gate::{Gate, Unit};
use crate::holds::Member;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

/// Names a gate: what [`unit_of_work`](crate::unit_of_work) takes for its argument.
pub trait AsGate {
    /// The gate.
    fn as_gate(&self) -> Gate;
}

impl AsGate for Gate {
    fn as_gate(&self) -> Gate {
        *self
    }
}
impl AsGate for Member {
    fn as_gate(&self) -> Gate {
        self.gate()
    }
}
impl<T: AsGate + ?Sized> AsGate for &T {
    fn as_gate(&self) -> Gate {
        (**self).as_gate()
    }
}
impl<T: AsGate + ?Sized> AsGate for Arc<T> {
    fn as_gate(&self) -> Gate {
        (**self).as_gate()
    }
}
impl<T: AsGate, F: FnOnce() -> T> AsGate for LazyLock<T, F> {
    fn as_gate(&self) -> Gate {
        self.deref().as_gate()
    }
}

/// For what the attribute writes; not for people.
#[doc(hidden)]
pub mod macro_support {
    use super::{AsGate, Gate, Unit};
    use std::time::Instant;

    // The one clock of this crate: it is read in the caller's function, on behalf of its author.
    pub fn count(gate: Gate, name: &'static str) -> Unit {
        gate.admit().named(name, Instant::now())
    }

    /// A function of its own, so that what names the gate is not kept while the future waits.
    pub fn gate(of: &impl AsGate) -> Gate {
        of.as_gate()
    }

    pub async fn pass(gate: Gate, name: &'static str) -> Unit {
        gate.enter().await.named(name, Instant::now())
    }

    /// A type for which both hold has no one implementation, so that a future cannot be named here.
    pub trait ReturnsNoFuture<Ambiguous> {
        const CHECKED: bool = true;
    }
    pub enum ThisIsAFuture {}
    impl<T: ?Sized> ReturnsNoFuture<()> for T {}
    impl<T: ?Sized + Future> ReturnsNoFuture<ThisIsAFuture> for T {}
}
