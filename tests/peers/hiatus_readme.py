"""The demo of Hiatus for Spring Boot, with the curl lines of its README as they stand but for the port, against nginx as
Debian ships it: it serves a file named test so slowly that there is something in flight, and knows nothing of any of
this. tidegate stands before it.

Needs TIDEGATE_PEER_BINARY, curl and nginx. A twin that must fail: TIDEGATE_PEER_OPTIONS='bypass = ["/test"]', a gate
that does not count.
"""
import contextlib
import json
import os
import subprocess
import sys
import tempfile

from gated import PATIENCE, Process, Sidecar, answers, eventually, free_port

OPTIONS = os.environ.get("TIDEGATE_PEER_OPTIONS", "")
# At 1,000 bytes a second it takes as long as the handler of the original.
FILE = b"Done\n" * 1_000

NGINX = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
        limit_rate 1000;
    }}
}}
"""


def curl(line, **more):
    return subprocess.Popen(["curl", "--silent", "--max-time", str(PATIENCE), *line.split()], **more)


def said(line):
    """Status (where it is asked for with -i) and body."""
    out, _ = curl(line, stdout=subprocess.PIPE, text=True).communicate()
    if "-i" not in line.split():
        return out
    head, _, body = out.replace("\r\n", "\n").partition("\n\n")
    return int(head.split()[1]), body


def main():
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        # Where nginx starts as root, its workers are somebody else.
        os.chmod(folder, 0o755)
        os.mkdir(f"{folder}/www", 0o755)
        with open(f"{folder}/www/test", "wb") as file:
            file.write(FILE)
        port, config = free_port(), f"{folder}/nginx.conf"
        with open(config, "w") as file:
            file.write(NGINX.format(folder=folder, port=port))
        nginx = stack.enter_context(contextlib.closing(Process("nginx", "-c", config)))
        eventually("nginx listens", lambda: nginx.alive() and answers(port))
        tidegate = stack.enter_context(contextlib.closing(Sidecar(folder, port, OPTIONS)))
        app, actuator = f"http://127.0.0.1:{tidegate.gate}", f"http://127.0.0.1:{tidegate.control}"

        def hiatus(paused, count):
            return (503 if paused else 200, f'{{"paused":{str(paused).lower()},"count":{count}}}')

        def health(paused, count):
            status, body = said(f"-i {actuator}/actuator/health")
            body, word = json.loads(body), "OUT_OF_SERVICE" if paused else "UP"
            assert (status, body["status"]) == (503 if paused else 200, word), (status, body)
            assert body["hiatus"] == {"status": word, "paused": paused, "count": count}, body
            assert body["diskSpace"]["total"] >= body["diskSpace"]["free"] > 0, body

        health(False, 0)
        assert said(f"-i {actuator}/actuator/hiatus") == hiatus(False, 0)
        tests = [curl(f"-i {app}/test", stdout=subprocess.PIPE) for _ in range(3)]
        eventually("three are in flight", lambda: said(f"-i {actuator}/actuator/hiatus") == hiatus(False, 3))
        assert said(f"-X POST {actuator}/actuator/hiatus-on") == "true"
        assert said(f"-X POST {actuator}/actuator/hiatus-on") == "false"
        health(True, 3)
        assert said(f"-i {actuator}/actuator/hiatus") == hiatus(True, 3)
        for test in tests:
            out, _ = test.communicate()
            assert out.startswith(b"HTTP/1.1 200 OK\r\n") and out.endswith(FILE), out[:200]
        eventually("none is left", lambda: said(f"-i {actuator}/actuator/hiatus") == hiatus(True, 0))
        # On hiatus it serves on.
        assert said(f"-i -r 0-3 {app}/test") == (206, "Done")
        assert said(f"-X POST {actuator}/actuator/hiatus-off") == "true"
        assert said(f"-X POST {actuator}/actuator/hiatus-off") == "false"
        health(False, 0)
        assert said(f"-i {actuator}/actuator/hiatus") == hiatus(False, 0)
        print("the README of the original, step by step, before an nginx that knows nothing of it: 0, 3, 0 in flight")


if __name__ == "__main__":
    sys.exit(main())
