//! The hardened listener, the layer that counts requests, and the HTTP gate.
