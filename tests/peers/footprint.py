"""What the shipped binary costs beside an app: memory and processor time at rest and while it polls, and its start.

    tests/peers/run.sh footprint          not part of the suite: figures are written down by hand (docs/performance.md)

A Vault over plain HTTP on this machine, one followed file, control and observe up. Takes a minute and a half.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

BINARY = sys.argv[1]
STORE, TOKEN = os.environ["TIDEGATE_PEER_VAULT_ADDR"], os.environ["TIDEGATE_PEER_VAULT_TOKEN"]
SECONDS = 20


def put():
    request = urllib.request.Request(
        f"{STORE}/v1/secret/data/streams/footprint",
        data=b'{"data":{"IsPaused":false}}',
        headers={"X-Vault-Token": TOKEN},
    )
    urllib.request.urlopen(request, timeout=30).close()


def configure(folder, interval):
    (folder / "token").write_text(TOKEN)
    (folder / "in").touch()
    (folder / "tidegate.toml").write_text(
        f"""
[control]
listen = "127.0.0.1:0"
[observe]
listen = "127.0.0.1:0"
[[switch]]
name = "ops"
streams = ["*"]
interval = "{interval}"
[switch.vault]
address = "{STORE}"
path = "streams/footprint"
auth = {{ method = "token", file = "{folder}/token" }}
[[stream]]
name = "orders"
source = {{ type = "file", path = "{folder}/in", follow = true }}
sink = {{ type = "file", path = "{folder}/out" }}
"""
    )


def start(folder):
    """The process once its stream runs, and how long that took."""
    began = time.monotonic()
    process = subprocess.Popen(
        [BINARY, "run", "--config", folder / "tidegate.toml"], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if '"to":"running"' in line:
            return process, time.monotonic() - began
    sys.exit("it ended before its stream ran")


def stop(process):
    process.terminate()
    process.communicate(timeout=60)


def used(pid):
    """Processor time of all threads in seconds, to the nanosecond."""
    tasks = pathlib.Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def memory(pid, what):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def main():
    put()
    print(f"binary {pathlib.Path(BINARY).stat().st_size / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        configure(folder, "1s")
        starts = []
        for _ in range(15):
            process, took = start(folder)
            starts.append(took * 1e3)
            stop(process)
        print(f"start to first reading applied: p50 {statistics.median(starts):.1f} ms, max {max(starts):.1f} ms")
        for what, interval in [("at rest (a poll in five minutes)", "5m"), ("1/s", "1s"), ("10/s", "100ms")]:
            if interval == "5m":
                (folder / "tidegate.toml").write_text(
                    (folder / "tidegate.toml").read_text().replace('interval = "1s"', 'interval = "5m"\nmax_stale = "11m"')
                )
            else:
                configure(folder, interval)
            process, _ = start(folder)
            time.sleep(3)
            before, began = used(process.pid), time.monotonic()
            time.sleep(SECONDS)
            part = (used(process.pid) - before) / (time.monotonic() - began)
            print(
                f"{what}: resident {memory(process.pid, 'VmRSS:'):.1f} MiB "
                f"(its own {memory(process.pid, 'RssAnon:'):.1f}), {part * 100:.3f} % of a core"
            )
            stop(process)


main()
