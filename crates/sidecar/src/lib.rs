//! A pause switch for data streams, kept in the secret store you already run.
