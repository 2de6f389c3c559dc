//! What is counted, forwarded, held and refused: the layer, the HTTP gate, and both under storm.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod actuator;
mod demo;
mod forwarding;
mod framing;
mod grpc;
mod holding;
mod layer;
mod storm;
mod support;
mod upgrades;
