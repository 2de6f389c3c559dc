#!/usr/bin/env bash
# What the counting layer costs, as `cargo bench -p tidegate-http --bench layer` measures it, over many orders in which the
# functions of that program may lie: where code happens to be moves its figures by more than what is measured, and one
# build has one order.
#
#   tests/compare/layer.sh              24 orders, 4 processes each (about 4 min)
#   ORDERS=6 tests/compare/layer.sh
#
# The program is compiled once and linked anew for each order, with lld, which rustc links with on x86-64 Linux. "±" is one
# standard error of the mean over the orders. Nothing else should run on the machine. Needs python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
orders="${ORDERS:-24}"
processes="${PROCESSES:-4}"

work="$(mktemp -d)"
finish() {
    # What `save-temps` has left: the folder of one file, and the object files beside the program.
    grep -o '"[^"]*/symbols.o"' "$work/link" | tr -d '"' | xargs -r dirname | xargs -r rm -rf
    grep -o '"[^"]*\.rcgu\.o"' "$work/link" | tr -d '"' | xargs -r rm -f
    rm -rf "$work"
}
trap finish EXIT
# `save-temps` keeps the object files, which are to be linked again.
cargo rustc --quiet --locked --package tidegate-http --profile bench --bench layer -- \
    -C save-temps --print link-args >"$work/link" || { echo "the bench does not build" >&2; exit 69; }
grep -q layer "$work/link" || {
    # Cargo had nothing to do, and so printed nothing.
    touch crates/http/benches/layer.rs
    cargo rustc --quiet --locked --package tidegate-http --profile bench --bench layer -- \
        -C save-temps --print link-args >"$work/link"
}

for order in $(seq "$orders"); do
    # The last -o wins. An option of the linker's is handed on by the compiler driver.
    (cd crates/http && eval "$(cat "$work/link") -Wl,--shuffle-sections=*=$order -o '$work/layer'") || {
        echo "linking failed: is the linker lld?" >&2
        exit 69
    }
    for process in $(seq "$processes"); do
        cp "$work/layer" "$work/layer.$process"
        echo "$order $("$work/layer.$process" --one-process)"
        rm "$work/layer.$process"
    done
done >"$work/results"

python3 - "$work/results" <<'PY'
import statistics, sys
orders = {}
for line in open(sys.argv[1]):
    order, *figures = line.split()
    orders.setdefault(order, []).append([float(f) for f in figures])
means = [[statistics.mean(column) for column in zip(*rows)] for rows in orders.values()]
columns = list(zip(*means))
services = [
    "the bare service beside its double",
    "the layer around the router",
    "the layer on the router",
    "a layer on the router that does nothing",
    "the layer on the router, beside the one that does nothing",
]
print(f"| on a trivial axum handler ({statistics.median(columns[0]):.1f} µs a request), {len(means)} orders | over sockets | without |")
print("|---|---|---|")
for at, service in enumerate(services):
    ratios, added = columns[1 + 2 * at], columns[2 + 2 * at]
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    print(f"| {service} | {100 * (statistics.mean(ratios) - 1):+.2f} ± {100 * error:.2f} % | {statistics.mean(added):+.0f} ns |")
PY
