//! What any bytes from outside are tried on; see `fuzz/README.md`.
pub use crate::gate::fuzzing::headers;

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn every_head_that_is_kept_passes_the_gate_as_it_should() {
        super::replay::replay("headers", super::headers);
    }
}
