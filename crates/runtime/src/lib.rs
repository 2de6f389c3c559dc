//! What gets paused: streams hosted behind a gate, from source through stages to sink.
