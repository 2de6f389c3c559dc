#!/usr/bin/env bash
# The image, really built and run: read-only root, nobody's user, no capability. It hosts a stream, is flipped in a Vault,
# pauses, is drained as its preStop drains it, and stops on SIGTERM within its grace.
#
# Where no container engine can be had a line says so, and the binary is tried under the same constraints without one. The
# last stage is built from a binary that run.sh has built, since the first one begins with an image from a registry.
#
# Wants what is shipped, and a store: TIDEGATE_PEER_VAULT_ADDR and TIDEGATE_PEER_VAULT_TOKEN (run.sh has both).
#
#   tests/peers/image.sh BINARY
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repository="$(cd "$here/../.." && pwd)"
work="$(mktemp -d)"
user=65532
name="tidegate-peer-$$"
pid=""
engine=()

say() { printf '%s\n' "$*"; }
fail() {
    say "$*" >&2
    [ -s "$work/log" ] && tail -n 20 "$work/log" >&2
    exit 1
}
finish() {
    [ "${#engine[@]}" -gt 0 ] && "${engine[@]}" rm --force "$name" >/dev/null 2>&1
    [ -n "$pid" ] && kill -KILL "$pid" 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT

# eventually WHAT COMMAND…: awaits a condition, for half a minute.
eventually() {
    local what="$1" waited=0
    shift
    until "$@"; do
        waited=$((waited + 1))
        [ "$waited" -lt 300 ] || fail "waited in vain: $what"
        sleep 0.1
    done
}

# --- the binary ------------------------------------------------------------------------------------------------------

commit="$(git -C "$repository" rev-parse --short=12 HEAD 2>/dev/null || echo archive)"
mkdir -p "$work/context/rootfs/etc/ssl/certs" "$work/etc" "$work/data"
cp "$1" "$work/context/rootfs/tidegate"
cp /etc/ssl/certs/ca-certificates.crt "$work/context/rootfs/etc/ssl/certs/"
binary="$work/context/rootfs/tidegate"

"$binary" --version | grep -qF "$commit" || fail "--version does not name the commit: $("$binary" --version)"
"$binary" devstore >/dev/null 2>&1 && fail "the dev store is in it"
[ "$(strings -n 12 "$binary" | grep -c 'dev secret store')" -eq 0 ] || fail "the dev store is in it"
if readelf --program-headers "$binary" | grep -q INTERP; then fail "it is not static"; fi

# --- the scene -------------------------------------------------------------------------------------------------------

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
control="127.0.0.1:$(port)" observe="127.0.0.1:$(port)"
secret="$TIDEGATE_PEER_VAULT_ADDR/v1/secret/data/streams/image-$$"
flip() {
    curl --fail --silent --show-error --header "X-Vault-Token: $TIDEGATE_PEER_VAULT_TOKEN" \
        --data "{\"data\":{\"IsPaused\":$1}}" "$secret" >/dev/null
}
flip false
printf '%s' "$TIDEGATE_PEER_VAULT_TOKEN" >"$work/etc/vault-token"
touch "$work/data/orders.in"
cat >"$work/etc/tidegate.toml" <<TOML
shutdown_grace = "10s"
state_dir = "/data/state"
[control]
listen = "$control"
[observe]
listen = "$observe"
[[switch]]
name = "ops"
streams = ["*"]
interval = "200ms"
[switch.vault]
address = "$TIDEGATE_PEER_VAULT_ADDR"
path = "streams/image-$$"
auth = { method = "token", file = "/etc/tidegate/vault-token" }
[[stream]]
name = "orders"
source = { type = "file", path = "/data/orders.in", follow = true }
sink = { type = "file", path = "/data/orders.out" }
TOML
chown -R "$user:$user" "$work/etc" "$work/data" 2>/dev/null || chmod -R a+rwX "$work/etc" "$work/data"
chmod a+rx "$work"

state() {
    curl --silent "http://$control/status" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["streams"][0]["state"])' 2>/dev/null
}
is() { [ "$(state)" = "$1" ]; }
arrived() { [ "$(wc -l <"$work/data/orders.out" 2>/dev/null || echo 0)" -eq "$1" ]; }
rows() { seq -f '{"row":%.0f}' "$1" "$2" >>"$work/data/orders.in"; }

# --- how it is run ---------------------------------------------------------------------------------------------------

# An engine that answers. podman without crun, which wants more than many a machine gives to it.
find_engine() {
    if docker info >/dev/null 2>&1; then
        engine=(docker)
        limits=()
        return
    fi
    if ! command -v podman >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get install --yes --no-install-recommends podman runc crun- ||
            { apt-get update && apt-get install --yes --no-install-recommends podman runc crun-; }; } >"$work/apt" 2>&1 || true
    fi
    command -v podman >/dev/null && command -v runc >/dev/null || return 0
    local own=(podman --runtime runc --cgroup-manager cgroupfs --events-backend file --storage-driver vfs
        --root "$work/storage" --runroot "$work/runroot")
    # What the engine would set by itself is more than a machine may give.
    limits=(--ulimit nofile=1024:1024 --ulimit nproc=1024:1024)
    "${own[@]}" info >/dev/null 2>&1 && engine=("${own[@]}")
}

in_a_container() {
    "${engine[@]}" build --quiet --file "$repository/deploy/Dockerfile" --target prebuilt --tag "$name" \
        "$work/context" >/dev/null || fail "the image cannot be built"
    bytes="$("${engine[@]}" image inspect --format '{{.Size}}' "$name")"
    "${engine[@]}" run --detach --name "$name" --network host "${limits[@]}" --read-only --cap-drop ALL \
        --security-opt no-new-privileges --volume "$work/etc:/etc/tidegate:ro" --volume "$work/data:/data" \
        "$name" >/dev/null || return 1
    pid="$("${engine[@]}" inspect --format '{{.State.Pid}}' "$name")"
}
inside() { "${engine[@]}" exec "$name" "$@"; }
ended() { "${engine[@]}" inspect --format '{{.State.Status}}' "$name" | grep -qx exited; }
code() { "${engine[@]}" inspect --format '{{.State.ExitCode}}' "$name"; }

# The same walls without an engine: a root of its own, read-only, nobody's user, no capability and no way to gain one.
between_walls() {
    [ "$(id -u)" = 0 ] || fail "no container engine, and not root: neither can be tried"
    bytes="$(du --bytes --summarize "$work/context/rootfs" | cut -f 1)"
    local root="$work/context/rootfs"
    mkdir -p "$root/etc/tidegate" "$root/data" "$root/proc"
    # shellcheck disable=SC2016 # expanded by the inner shell
    unshare --mount sh -euc '
        mount --bind "$1" "$1"
        mount --bind "$2/etc" "$1/etc/tidegate"
        mount --bind "$2/data" "$1/data"
        mount --bind /proc "$1/proc"
        mount -o remount,bind,ro "$1"
        exec setpriv --no-new-privs unshare --root="$1" --wd=/ --setgid="$3" --setuid="$3" \
            /tidegate run --config /etc/tidegate/tidegate.toml
    ' sh "$root" "$work" "$user" >"$work/log" 2>&1 &
    pid=$!
}

find_engine
if [ "${#engine[@]}" -gt 0 ] && in_a_container; then
    how="in a container (${engine[0]})"
else
    [ "${#engine[@]}" -gt 0 ] && "${engine[@]}" logs "$name" 2>&1 | tail -n 5 >&2
    engine=()
    say "no container engine runs here: the binary is tried under the same constraints without one"
    how="without an engine, between the same walls"
    between_walls
    inside() { "$binary" "${@:2}"; }
    ended() { ! kill -0 "$pid" 2>/dev/null; }
    code() {
        local status=0
        wait "$pid" || status=$?
        echo "$status"
    }
fi

# --- what it does ----------------------------------------------------------------------------------------------------

eventually "ready" curl --fail --silent --output /dev/null "http://$observe/readyz"
rows 1 100
eventually "100 rows" arrived 100

status="$(cat "/proc/$pid/status")"
grep -qE "^Uid:\s+$user\s+$user\s+$user\s+$user$" <<<"$status" || fail "it does not run as $user"
grep -qE '^CapEff:\s+0+$' <<<"$status" && grep -qE '^CapPrm:\s+0+$' <<<"$status" || fail "it has capabilities"
grep -qE '^NoNewPrivs:\s+1$' <<<"$status" || fail "it may gain privileges"
awk '$5 == "/" { split($6, options, ","); found = options[1] } END { exit found != "ro" }' "/proc/$pid/mountinfo" ||
    fail "its root can be written to"
if [ "${#engine[@]}" -gt 0 ]; then
    inside /bin/sh -c true >/dev/null 2>&1 && fail "there is a shell in it"
fi

flip true
eventually "paused" is paused
rows 101 200
curl --fail --silent --request POST --output /dev/null "http://$control/poll"
arrived 100 || fail "something moved while paused"
flip false
eventually "200 rows" arrived 200

inside /tidegate --admin "http://$control" drain --close --timeout 10s >/dev/null || fail "preStop"
rows 201 300
arrived 200 || fail "something moved after drain --close"
if [ "${#engine[@]}" -gt 0 ]; then "${engine[@]}" kill --signal TERM "$name" >/dev/null; else kill -TERM "$pid"; fi
began="$(date +%s)"
eventually "its end" ended
took=$(($(date +%s) - began)) ended_with="$(code)"
[ "$ended_with" = 0 ] || fail "it ended with $ended_with"
[ "$took" -le 10 ] || fail "it took $took s, longer than its grace"
pid=""

limit=$((25 * 1000 * 1000))
[ "$bytes" -le "$limit" ] || fail "the image has $bytes bytes, more than $limit"
say "$how: uid $user, read-only, no capability; hosted, flipped, paused, drained, ended with 0 within its grace;" \
    "$((bytes / 1000000)).$((bytes % 1000000 / 100000)) MB, static, no dev store, commit $commit"
