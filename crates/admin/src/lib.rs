//! The control and observe surfaces.
