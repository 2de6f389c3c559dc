//! May this stream move? The gate that every event passes, the holds that close it, and the decision that places
//! them.
//!
//! Pure: no sockets, no files, no clock of its own, no `unsafe`.
//!
//! ```
//! use tidegate_gate::{Gate, Phase};
//! let (gate, mut keeper) = Gate::new("orders");
//!
//! let unit = gate.try_enter().expect("a new gate is open");
//! keeper.close();
//! assert_eq!(gate.sight().phase, Phase::Pausing); // closed, but something still runs
//! assert!(gate.try_enter().is_none());
//!
//! drop(unit); // the last one out proves the pause
//! assert_eq!(gate.sight().phase, Phase::Paused);
//!
//! keeper.open();
//! assert!(gate.try_enter().is_some());
//! ```
mod clock;
mod decision;
mod gate;
mod gated;
mod holds;
mod journal;
mod names;
mod owner;
mod place;
mod protocol;
mod shard;
mod status;
mod sync;
mod unit_of_work;

pub use clock::{Clock, Moment, Since};
pub use decision::{Alarm, Decision, Flag, Last, OnAbsence, OnExpiry, Policy, Reading, Version, decide};
pub use gate::{Gate, Keeper, Lane, Phase, Run, Running, Sight, Unit};
pub use gated::{Admitted, Gated, GatedExt};
pub use holds::{
    Applied, Cause, Controller, Hold, Holds, Member, Meter, NameTaken, OverrideError, Scope, UnknownStream,
    Upgraded, Wish, plain,
};
pub use journal::{Act, Record};
pub use status::{Held, Kind, LeaseTerms, Life, Snapshot, State, StreamStatus, SwitchStatus};

pub use tidegate_macros::unit_of_work;
pub use unit_of_work::AsGate;
#[doc(hidden)]
pub use unit_of_work::macro_support;

/// A name that is shared rather than copied.
pub type Name = std::sync::Arc<str>;
