//! The configuration: read raw, validated once.
