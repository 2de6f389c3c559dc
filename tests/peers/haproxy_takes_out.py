"""A real HAProxy balances two gated apps under load, and asks each gate for its health as it would ask Spring.

Twenty times one of the two is held: HAProxy has to take it out, the gate has to drain, and then the app behind it is
down for maintenance: whoever sends it a request gets a 500. After it, HAProxy has to put it back. Not one request may
fail.

Needs TIDEGATE_PEER_BINARY and haproxy. Twins that must fail: TIDEGATE_PEER_HEALTH=/livez (a health that knows nothing
of the hold) and TIDEGATE_PEER_ON_HOLD=refuse (a gate that turns requests away before the balancer has noticed).
"""
import contextlib
import http.client
import http.server
import os
import socket
import sys
import tempfile
import threading
import time

from gated import PATIENCE, Process, Sidecar, call, eventually, free_port

HEALTH = os.environ.get("TIDEGATE_PEER_HEALTH", "/actuator/health")
ON_HOLD = os.environ.get("TIDEGATE_PEER_ON_HOLD", "serve")
CYCLES = 20
CLIENTS = 8

CONFIG = """
global
    nbthread 1
    stats socket {stats} mode 600
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout check 2s
    # Counted as a failure here, whoever's it is.
    retries 0
frontend in
    bind 127.0.0.1:{front}
    default_backend apps
backend apps
    balance roundrobin
    option httpchk GET {health}
    http-check expect status 200
    default-server check inter 50ms fall 1 rise 1
    server a 127.0.0.1:{a.gate} port {a.observe}
    server b 127.0.0.1:{b.gate} port {b.observe}
"""


class App(http.server.ThreadingHTTPServer):
    """Answers after a few milliseconds; while it is down, wrongly."""

    request_queue_size = 128
    down = False

    class RequestHandlerClass(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            time.sleep(0.005)
            self.send_response(500 if self.server.down else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Load:
    """Clients that ask without pause, each over a connection that it keeps."""

    def __init__(self, port):
        self.port, self.stopped, self.asked, self.failed = port, False, 0, []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        while not self.stopped:
            try:
                connection.request("GET", "/orders")
                answer = connection.getresponse()
                answer.read()
                failure = None if answer.status == 200 else answer.status
            except (OSError, http.client.HTTPException) as error:
                failure = repr(error)
                connection.close()
            with self.lock:
                self.asked += 1
                if failure is not None:
                    self.failed.append(failure)
        connection.close()

    def stop(self):
        self.stopped = True
        for thread in self.threads:
            thread.join()


def servers(stats):
    """What HAProxy says of each server: its word and the requests it has there now."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
        s.connect(stats)
        s.sendall(b"show stat\n")
        text = b"".join(iter(lambda: s.recv(65536), b"")).decode()
    lines = [line.split(",") for line in text.splitlines() if line]
    names = [name.lstrip("# ") for name in lines[0]]
    rows = [dict(zip(names, line)) for line in lines[1:]]
    return {r["svname"]: (r["status"].split()[0], int(r["scur"])) for r in rows if r["svname"] in ("a", "b")}


def main():
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        apps = {name: App() for name in "ab"}
        gated = {
            name: stack.enter_context(
                contextlib.closing(Sidecar(folder, app.server_port, f'on_hold = "{ON_HOLD}"'))
            )
            for name, app in apps.items()
        }
        front, stats = free_port(), os.path.join(folder, "stats")
        config = os.path.join(folder, "haproxy.cfg")
        with open(config, "w") as file:
            file.write(CONFIG.format(stats=stats, front=front, health=HEALTH, **gated))
        haproxy = stack.enter_context(contextlib.closing(Process("haproxy", "-db", "-f", config)))
        eventually("HAProxy runs", lambda: haproxy.alive() and os.path.exists(stats))
        everybody = lambda: all(word == "UP" for word, _ in servers(stats).values())
        eventually("both are in", everybody)
        load = Load(front)
        stack.callback(load.stop)
        try:
            for cycle in range(CYCLES):
                name = "ab"[cycle % 2]
                gate, app = gated[name], apps[name]
                assert call(gate.control, "POST", "/actuator/hiatus-on") == (200, "true")
                eventually(f"{name} is out and done", lambda: servers(stats)[name] == ("DOWN", 0))
                status, body = call(gate.control, "POST", "/drain?timeout=30s")
                assert status == 200, body
                before = gate.events()
                app.down = True
                asked = load.asked
                eventually("the other carries all of it", lambda: load.asked >= asked + 50)
                assert gate.events() == before, f"{name} was sent requests while it was out"
                app.down = False
                assert call(gate.control, "POST", "/actuator/hiatus-off") == (200, "true")
                eventually(f"{name} is back", lambda: servers(stats)[name][0] == "UP")
                eventually(f"{name} is given requests", lambda: gate.events() > before)
                assert not load.failed, f"cycle {cycle}: {load.failed[:5]}"
        finally:
            load.stop()
        assert not load.failed, f"{len(load.failed)} of {load.asked} requests failed: {load.failed[:5]}"
        print(f"{CYCLES} times out and back, {load.asked} requests, none failed")


if __name__ == "__main__":
    sys.exit(main())
