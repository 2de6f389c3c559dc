#!/usr/bin/env bash
# Fuzzes every target: coverage-guided, with the corpus that is kept, on stable Rust.
#
#   fuzz/run.sh                      ten million runs in all, shared out below; inputs that are new go to target/fuzz/found
#   fuzz/run.sh --runs N             N runs of each target
#   fuzz/run.sh --seconds N          N seconds of each target
#   fuzz/run.sh --smoke              two seconds of each, built without optimisation, which is quicker
#   fuzz/run.sh … TARGET…            of these only
#   fuzz/run.sh --minimise TARGET…   keeps in corpus/ the fewest of all inputs that reach as much
#
# Prints a line per target. Ends non-zero when a target fails, takes longer than 10 s for one input or more than 2 GB; the input is then in
# target/fuzz/failed: it becomes a file of the corpus, and with that a test.
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
target="${CARGO_TARGET_DIR:-$here/../target}/fuzz"
triple="$(rustc --version --verbose | sed -n 's/^host: //p')"

# How many of ten million: the more, the cheaper a run of it is.
declare -A SHARE=(
    [flag]=3500000 [headers]=2500000 [lines]=2500000 [vault]=700000 [jq]=500000 [key_vault]=150000 [state]=100000
    [control]=100000 [configuration]=60000
)
TARGETS=(flag headers lines vault jq key_vault state control configuration)

limit=""
mode=run
profile=release
chosen=()
while [ $# -gt 0 ]; do
    case "$1" in
        --runs) limit="-runs=$2"; shift ;;
        --seconds) limit="-max_total_time=$2"; shift ;;
        --smoke) limit="-max_total_time=2" profile=smoke ;;
        --minimise) mode=minimise ;;
        -*) echo "bad use: $1; see the head of $0" >&2; exit 64 ;;
        *) chosen+=("$1") ;;
    esac
    shift
done
[ ${#chosen[@]} -gt 0 ] || chosen=("${TARGETS[@]}")

# What cargo-fuzz builds with, but for the address sanitizer: there is no unsafe code for it to look at, and it needs a nightly
# compiler. With a target named, neither build scripts nor macros are instrumented.
flags=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 --cfg fuzzing)
build() {
    # What is fuzzed is built of what is shipped.
    cp "$here/../Cargo.lock" "$here/Cargo.lock" &&
        (cd "$here" && RUSTFLAGS="${flags[*]}" cargo build --quiet --profile "$profile" --target "$triple" --target-dir "$target" \
            $(printf -- '--bin %s ' "${chosen[@]}"))
}

build || exit 1
failed=0
total=0
for name in "${chosen[@]}"; do
    program="$target/$triple/$profile/$name"
    found="$target/found/$name"
    mkdir -p "$found" "$here/corpus/$name" "$target/failed"
    options=(-timeout=10 -rss_limit_mb=2048 -max_len=4096 -artifact_prefix="$target/failed/$name-" -print_final_stats=1)
    [ -s "$here/words/$name" ] && options+=(-dict="$here/words/$name")
    if [ "$mode" = minimise ]; then
        kept="$(mktemp -d)"
        "$program" "${options[@]}" -merge=1 "$kept" "$found" "$here/corpus/$name" >"$target/$name.log" 2>&1 ||
            { tail -n 40 "$target/$name.log"; exit 1; }
        rm -rf "$here/corpus/$name" && mv "$kept" "$here/corpus/$name" && chmod 755 "$here/corpus/$name"
        echo "$name: $(find "$here/corpus/$name" -type f | wc -l) inputs, $(du -sb "$here/corpus/$name" | cut -f1) bytes"
        continue
    fi
    began="$(date +%s)"
    if "$program" "${options[@]}" "${limit:--runs=${SHARE[$name]}}" "$found" "$here/corpus/$name" >"$target/$name.log" 2>&1; then
        verdict=ok
    else
        verdict=FAIL
        failed=1
        grep -vE '^#[0-9]' "$target/$name.log" | tail -n 60
    fi
    runs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$target/$name.log")"
    reached="$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$target/$name.log" | tail -n 1)"
    total=$((total + ${runs:-0}))
    echo "$verdict $name: ${runs:-?} runs in $(($(date +%s) - began)) s; $reached"
done
[ "$mode" = minimise ] || echo "$total runs in all"
exit "$failed"
