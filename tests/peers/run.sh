#!/usr/bin/env bash
# Other people's programs judge this repository: one function per peer, one line per peer.
#
#   tests/peers/run.sh             all peers
#   tests/peers/run.sh NAME…       some of them
#
# Installs what it needs into tests/peers/.venv (kept for the next run). A peer that cannot be had is a failure, never a
# skip. Exits non-zero when a peer fails or is missing.
set -uo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repository="$(cd "$here/../.." && pwd)"
venv="$here/.venv"
work="$(mktemp -d)"
store_pid=""
trap 'stop_store; rm -rf "$work"' EXIT

PEERS=(vault_hvac)

# --- what peers need -------------------------------------------------------------------------------------------------

# The Python clients, once: the stamp is the list of what was installed.
need_python_clients() {
    cmp -s "$here/requirements.txt" "$venv/installed.txt" && return 0
    command -v python3 >/dev/null || { echo "python3 is missing: install it" >&2; return 1; }
    python3 -m venv "$venv" &&
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" &&
        cp "$here/requirements.txt" "$venv/installed.txt"
}

# A store of its own on free ports; sets VAULT_ADDR, VAULT_TOKEN and the rest. It ends with its standard input.
need_store() {
    [ -n "$store_pid" ] && return 0
    (cd "$repository" && cargo build --quiet --package tidegate-devstore --example serve) || return 1
    local target="${CARGO_TARGET_DIR:-$repository/target}"
    mkfifo "$work/stdin"
    "$target/debug/examples/serve" --port 0 <"$work/stdin" >"$work/store" 2>&1 &
    store_pid=$!
    exec 9>"$work/stdin"
    local waited=0
    until grep -q '^ready$' "$work/store"; do
        if ! kill -0 "$store_pid" 2>/dev/null || [ "$waited" -ge 300 ]; then
            echo "the dev store does not start:" >&2
            grep -v TOKEN "$work/store" >&2
            return 1
        fi
        waited=$((waited + 1))
        sleep 0.1
    done
    # shellcheck disable=SC1090
    source <(grep '=' "$work/store")
}

stop_store() {
    [ -n "$store_pid" ] || return 0
    exec 9>&-
    wait "$store_pid"
    store_pid=""
}

# --- the peers -------------------------------------------------------------------------------------------------------

# hvac, the Python client of Vault.
vault_hvac() {
    need_python_clients && need_store &&
        TIDEGATE_PEER_VAULT_ADDR="$VAULT_ADDR" TIDEGATE_PEER_VAULT_TOKEN="$VAULT_TOKEN" \
            TIDEGATE_PEER_VAULT_UNSEAL_KEY="$VAULT_UNSEAL_KEY" TIDEGATE_PEER_KUBERNETES_JWT="$KUBERNETES_JWT" \
            "$venv/bin/python" "$here/vault_hvac.py"
}

# --- all of them -----------------------------------------------------------------------------------------------------

failed=0
for peer in "${@:-${PEERS[@]}}"; do
    if ! declare -F "$peer" >/dev/null; then
        echo "FAIL $peer: there is no such peer; known: ${PEERS[*]}"
        failed=1
    elif "$peer" >"$work/$peer.out" 2>"$work/$peer.err"; then
        echo "ok   $peer: $(tail -n 1 "$work/$peer.out")"
    else
        echo "FAIL $peer"
        cat "$work/$peer.out" "$work/$peer.err"
        failed=1
    fi
done
exit "$failed"
