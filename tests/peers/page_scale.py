"""The page at scale: 200 streams, 50 switches, 20 open pages. Prints figures for docs/performance.md; judges nothing.

Reads TIDEGATE_PEER_BINARY (an optimised tidegate) and, if it is elsewhere than usual, TIDEGATE_PEER_CHROMIUM.
"""

import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

from playwright.sync_api import expect, sync_playwright

BINARY = os.environ["TIDEGATE_PEER_BINARY"]
STREAMS, SWITCHES, PAGES, SECONDS = 200, 50, 20, 8
TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def configure(folder, control, observe):
    text = f'[control]\nlisten = "127.0.0.1:{control}"\n[observe]\nlisten = "127.0.0.1:{observe}"\n'
    for n in range(STREAMS):
        (folder / f"{n}.in").touch()
        text += (
            f'[[stream]]\nname = "stream-{n:03}"\n'
            f'source = {{ type = "file", path = "{folder}/{n}.in", follow = true }}\n'
            f'sink = {{ type = "file", path = "{folder}/{n}.out" }}\n'
        )
    each = STREAMS // SWITCHES
    for n in range(SWITCHES):
        (folder / f"flag-{n}").write_text("false")
        names = json.dumps([f"stream-{m:03}" for m in range(n * each, (n + 1) * each)])
        text += f'[[switch]]\nname = "switch-{n:02}"\nstreams = {names}\n[switch.file]\npath = "{folder}/flag-{n}"\n'
    (folder / "tidegate.toml").write_text(text)


def status(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/status")
    return json.loads(connection.getresponse().read())


def ready(port):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if all(s["state"] == "running" for s in status(port)["streams"]):
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("the streams do not run")


def watch(port):
    """A raw watch: a socket behind its headers, and the time when it was asked for."""
    began = time.perf_counter()
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(f"GET /watch HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    return s, began


def first_state(port):
    s, began = watch(port)
    got = b""
    while b"\n\n" not in got:
        got += s.recv(65536)
    took = time.perf_counter() - began
    s.close()
    return took, len(got)


def drained(s, seconds):
    """Bytes that came in that time, and the transitions they told of."""
    s.settimeout(0.2)
    until, count, transitions, tail = time.monotonic() + seconds, 0, 0, b""
    while time.monotonic() < until:
        try:
            piece = s.recv(65536)
        except TimeoutError:
            continue
        count += len(piece)
        text = tail + piece
        transitions += text.count(b'"kind":"transition"')
        tail = text[-len(b'"kind":"transition"') + 1 :]
    return count / seconds, transitions / seconds


class Storm:
    """Pauses and resumes one stream after the other, so that 100 transitions happen in a second."""

    def __init__(self, port):
        self.stop, self.port = threading.Event(), port
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        n, due = 0, time.monotonic()
        while not self.stop.is_set():
            word = "pause" if n // STREAMS % 2 == 0 else "resume"
            connection.request("POST", f"/streams/stream-{n % STREAMS:03}/{word}")
            connection.getresponse().read()
            n, due = n + 1, due + 0.01
            time.sleep(max(0, due - time.monotonic()))

    def end(self):
        self.stop.set()
        self.thread.join()


def used(pid):
    """Processor time of a process and of those it started, in seconds."""
    total, todo = 0.0, [pid]
    while todo:
        pid = todo.pop()
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / TICK
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                todo += [int(p) for p in (task / "children").read_text().split()]
        except OSError:
            continue
    return total


def cores(pid, during=SECONDS):
    before, began = used(pid), time.monotonic()
    time.sleep(during)
    return (used(pid) - before) / (time.monotonic() - began)


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-scale-"))
    control, observe = free_port(), free_port()
    configure(folder, control, observe)
    log = open(folder / "log", "w")
    process = subprocess.Popen([BINARY, "run", "--config", str(folder / "tidegate.toml")], stdout=log, stderr=log)
    try:
        ready(control)
        time.sleep(3)
        firsts = [first_state(control) for _ in range(21)]
        print(f"first state: {statistics.median(t for t, _ in firsts) * 1e3:.1f} ms (p50 of 21, "
              f"{max(t for t, _ in firsts) * 1e3:.1f} ms at most), {firsts[-1][1] / 1000:.0f} kB")
        alone = cores(process.pid)
        print(f"nobody watches: {alone * 100:.2f} % of a core")
        s, _ = watch(control)
        drained(s, 1)
        idle, _ = drained(s, SECONDS)
        print(f"one watch, idle: {idle / 1000:.1f} kB/s")
        storm = Storm(control)
        drained(s, 1)
        rate, transitions = drained(s, SECONDS)
        storm.end()
        s.close()
        print(f"one watch, {transitions:.0f} transitions/s: {rate / 1000:.0f} kB/s")
        with sync_playwright() as play:
            arguments = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
            chromium = os.environ.get("TIDEGATE_PEER_CHROMIUM") or shutil.which("chromium")
            browser = play.chromium.launch(executable_path=chromium, args=arguments)
            pages, shown = [], []
            for _ in range(PAGES):
                page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
                began = time.perf_counter()
                page.goto(f"http://127.0.0.1:{control}/")
                expect(page.locator(".cards:not(.small) > li")).to_have_count(STREAMS, timeout=60_000)
                shown.append(time.perf_counter() - began)
                pages.append(page)
            print(f"a page shows {STREAMS} cards: {shown[0] * 1e3:.0f} ms alone, {shown[-1] * 1e3:.0f} ms as the {PAGES}th")
            print(f"{PAGES} pages, idle: {cores(process.pid) * 100:.1f} % of a core (tidegate)")
            storm = Storm(control)
            time.sleep(1)
            before, browsers = used(process.pid), used(os.getpid())
            began = time.monotonic()
            time.sleep(SECONDS)
            took = time.monotonic() - began
            tidegate = (used(process.pid) - before) / took
            everything = (used(os.getpid()) - browsers) / took
            storm.end()
            print(f"{PAGES} pages, 100 transitions/s: {tidegate * 100:.0f} % of a core (tidegate), "
                  f"{(everything - tidegate) * 100:.0f} % (the browser and this script)")
            browser.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        shutil.rmtree(folder)


main()
