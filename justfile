# List the recipes.
default:
    @just --list --unsorted

# The two-minute tour: an embedded dev store, a stream of this host's readings, the control API.
demo:
    cargo run --release -- demo

# What a contributor runs before a commit.
check: fmt clippy doc test

# Formatting.
fmt:
    cargo fmt --all --check

# Lints, warnings as errors.
clippy:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# API documentation, warnings as errors.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# The README's test command: no root, no servers but those the tests start.
test:
    cargo test --workspace --locked

# Other people's clients and servers judge tidegate; installs what it needs, fails where one is missing.
test-peers:
    tests/peers/run.sh

# The README's picture: a real browser on a real process.
screenshot:
    tests/peers/run.sh page_picture

# Everything that lands must pass.
ci:
    .ci/run

# Speed, by hand: ratios to an ungated loop in the same run. Figures: docs/performance.md.
bench:
    cargo bench -p tidegate-gate

# Everything at once for so many minutes, and whether anything drifts. Figures: docs/reliability.md.
soak minutes="60":
    cargo bench -p e2e --profile release --bench soak -- --minutes {{minutes}}

# Ten million inputs that are made to break something, over nine targets. Figures: docs/reliability.md.
fuzz *options:
    fuzz/run.sh {{options}}

# Bans, sources and licences of dependencies (cargo install cargo-deny).
deny:
    cargo deny check bans sources licenses

# A CycloneDX bill of materials, target/sbom/tidegate.cdx.json, judged by CycloneDX's schema and by Cargo.lock.
sbom:
    tests/peers/run.sh sbom

# What is shipped: link-time optimisation, no debug info.
dist:
    cargo build --profile dist --locked -p tidegate
