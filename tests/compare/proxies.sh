#!/usr/bin/env bash
# The HTTP gate beside nginx and HAProxy as plain reverse proxies: requests a second of one core, p50 and p99.
#
#   tests/compare/proxies.sh            builds the dist binary and compares (about 70 s)
#   TIDEGATE=path tests/compare/proxies.sh
#   ROUNDS=3 BODY=16384 tests/compare/proxies.sh
#
# Each proxy has core 0 to itself while it is asked; the load (wrk) and the app behind (another nginx, which answers from
# memory) share core 1. All keep connections alive on both sides, add the X-Forwarded headers, and write no access log.
# They take turns, so that whatever else the machine does falls on all; the figures are medians of the rounds. "CPU" is
# what the proxy's process used for each request, which says most on a busy machine. Needs nginx, haproxy, wrk, taskset.
set -euo pipefail

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
rounds="${ROUNDS:-5}"
body="${BODY:-128}"
busy_connections=64
calm_connections=4

for program in nginx haproxy wrk taskset; do
    command -v "$program" >/dev/null || { echo "$program is missing: install nginx, haproxy, wrk and util-linux" >&2; exit 69; }
done
[ "$(nproc)" -ge 2 ] || { echo "two cores are needed: one for the proxy, one for the load" >&2; exit 69; }
if [ -z "${TIDEGATE:-}" ]; then
    (cd "$repository" && cargo build --quiet --locked --profile dist --package tidegate)
    TIDEGATE="${CARGO_TARGET_DIR:-$repository/target}/dist/tidegate"
fi

work="$(mktemp -d)"
started=()
finish() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

free_ports() {
    python3 - "$1" <<'PY'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PY
}
read -r app_port nginx_port haproxy_port gate_port control_port observe_port < <(free_ports 6)

# --- the app and the three before it ---------------------------------------------------------------------------------

nginx_conf() { # core's name, body of http {}
    cat <<CONF
daemon off; master_process off; worker_processes 1; pid $work/$1.pid; error_log $work/$1.log;
events { worker_connections 4096; }
http {
    access_log off; keepalive_requests 1000000000; keepalive_timeout 75s;
    client_body_temp_path $work/$1.body; proxy_temp_path $work/$1.proxy; fastcgi_temp_path $work/$1.fastcgi;
    uwsgi_temp_path $work/$1.uwsgi; scgi_temp_path $work/$1.scgi;
$2
}
CONF
}
text="$(head -c "$body" /dev/zero | tr '\0' x)"
nginx_conf app "    server { listen 127.0.0.1:$app_port; location / { default_type text/plain; return 200 '$text'; } }" >"$work/app.conf"
nginx_conf nginx "
    upstream app { server 127.0.0.1:$app_port; keepalive 256; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:$nginx_port;
        location / {
            proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection '';
            proxy_set_header Host \$host:\$server_port;
            proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto \$scheme; proxy_set_header X-Forwarded-Host \$http_host;
        }
    }" >"$work/nginx.conf"
cat >"$work/haproxy.cfg" <<CONF
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 75s
    http-reuse always
frontend in
    bind 127.0.0.1:$haproxy_port
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    default_backend app
backend app
    server app 127.0.0.1:$app_port
CONF
cat >"$work/tidegate.toml" <<CONF
[control]
listen = "127.0.0.1:$control_port"
[observe]
listen = "127.0.0.1:$observe_port"
[[gate]]
name = "app"
listen = "127.0.0.1:$gate_port"
upstream = "http://127.0.0.1:$app_port"
CONF

taskset -c 1 nginx -c "$work/app.conf" &
started+=($!)
taskset -c 0 nginx -c "$work/nginx.conf" &
nginx_pid=$!
taskset -c 0 haproxy -db -f "$work/haproxy.cfg" &
haproxy_pid=$!
TOKIO_WORKER_THREADS=1 taskset -c 0 "$TIDEGATE" run --config "$work/tidegate.toml" 2>"$work/tidegate.log" &
gate_pid=$!
started+=("$nginx_pid" "$haproxy_pid" "$gate_pid")

for port in "$app_port" "$nginx_port" "$haproxy_port" "$gate_port"; do
    for _ in $(seq 100); do
        answer="$(curl --silent --max-time 2 "http://127.0.0.1:$port/" || true)"
        [ "$answer" = "$text" ] && continue 2
        sleep 0.1
    done
    echo "nothing answers rightly on port $port:" >&2
    cat "$work"/*.log >&2
    exit 69
done

# --- the rounds ------------------------------------------------------------------------------------------------------

cpu_ticks() { # of a process, its dead threads included
    awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"
}
ask() { # name, pid (or 0), port, connections, seconds: a line of the table of results
    local before=0 after=0
    [ "$2" = 0 ] || before="$(cpu_ticks "$2")"
    taskset -c 1 wrk -t1 -c"$4" -d"$5" --latency "http://127.0.0.1:$3/" >"$work/wrk"
    [ "$2" = 0 ] || after="$(cpu_ticks "$2")"
    awk -v who="$1" -v ticks="$((after - before))" -v hz="$(getconf CLK_TCK)" '
        function us(t) { return t ~ /us$/ ? t + 0 : t ~ /ms$/ ? t * 1e3 : t * 1e6 }
        $1 == "50%" { p50 = us($2) }
        $1 == "99%" { p99 = us($2) }
        /requests in/ { n = $1 }
        /Requests\/sec/ { rate = $2 }
        /Non-2xx|Socket errors/ { print "failed requests: " $0 > "/dev/stderr"; bad = 1 }
        END { print who, rate, p50, p99, ticks / hz * 1e6 / n; exit bad }' "$work/wrk"
}
for round in $(seq "$rounds"); do
    for connections in $busy_connections $calm_connections; do
        seconds=2; [ "$connections" = "$calm_connections" ] && seconds=1
        for who in $(shuf -e tidegate nginx haproxy --random-source=<(yes "$round")); do
            case $who in
                tidegate) ask "tidegate/$connections" "$gate_pid" "$gate_port" "$connections" "${seconds}s" ;;
                nginx) ask "nginx/$connections" "$nginx_pid" "$nginx_port" "$connections" "${seconds}s" ;;
                haproxy) ask "haproxy/$connections" "$haproxy_pid" "$haproxy_port" "$connections" "${seconds}s" ;;
            esac
        done
    done
    ask "direct/$busy_connections" 0 "$app_port" "$busy_connections" 1s
done >"$work/results"

python3 - "$work/results" <<'PY'
import statistics, sys
rows = {}
for line in open(sys.argv[1]):
    who, *figures = line.split()
    rows.setdefault(who, []).append([float(f) for f in figures])
print("| proxy / connections | requests a second | p50 µs | p99 µs | CPU µs a request |\n|---|---|---|---|---|")
for who in sorted(rows, key=lambda w: (w.split("/")[1], w)):
    rate, p50, p99, cpu = (statistics.median(column) for column in zip(*rows[who]))
    print(f"| {who} | {rate:,.0f} | {p50:,.0f} | {p99:,.0f} | {cpu:.1f} |")
PY
