"""What the judges of the HTTP gate share: ports, processes that end with the judge, and a sidecar before an app.

Needs TIDEGATE_PEER_BINARY.
"""
import contextlib
import http.client
import json
import os
import socket
import subprocess
import tempfile
import time

PATIENCE = float(os.environ.get("TIDEGATE_PEER_PATIENCE", 60))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def eventually(what, look):
    """Looks until there is something, and returns it."""
    end = time.monotonic() + PATIENCE
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain: {what}")
        time.sleep(0.01)


def call(port, method, path):
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def answers(port, path="/"):
    try:
        return call(port, "GET", path)[0] < 500
    except (OSError, http.client.HTTPException):
        return False


class Process:
    """A program that runs until it is closed; what it says is shown if it ends by itself."""

    def __init__(self, *command):
        self.said = tempfile.TemporaryFile()
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.said, stderr=subprocess.STDOUT
        )
        self.name = os.path.basename(command[0])

    def alive(self):
        if self.child.poll() is None:
            return True
        self.said.seek(0)
        raise AssertionError(f"{self.name} has ended: {self.said.read().decode(errors='replace')}")

    def close(self):
        self.child.terminate()
        try:
            self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Sidecar(Process):
    """tidegate with one HTTP gate, named app."""

    def __init__(self, folder, upstream, options):
        self.gate, self.control, self.observe = free_port(), free_port(), free_port()
        config = os.path.join(folder, f"tidegate-{self.gate}.toml")
        with open(config, "w") as file:
            file.write(
                f'[control]\nlisten = "127.0.0.1:{self.control}"\n'
                f'[observe]\nlisten = "127.0.0.1:{self.observe}"\n'
                f'[[gate]]\nname = "app"\nlisten = "127.0.0.1:{self.gate}"\n'
                f'upstream = "http://127.0.0.1:{upstream}"\n{options}\n'
            )
        super().__init__(os.environ["TIDEGATE_PEER_BINARY"], "run", "--config", config)
        eventually("tidegate is ready", lambda: self.alive() and answers(self.observe, "/readyz"))

    def events(self):
        """Requests that are over."""
        return json.loads(call(self.control, "GET", "/status")[1])["streams"][0]["events"]
