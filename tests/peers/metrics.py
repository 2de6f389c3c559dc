"""Runs tidegate, flips it once, and prints what /metrics says, as Prometheus' own tools take it.

What tidegate serves is OpenMetrics. The reference parser reads it here, strictly, and what it has understood is written in
the older text format, which is the one that `promtool check metrics` reads.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families


def get(address, path, method="GET"):
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def awaited(what, look):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if look():
            return
        time.sleep(0.1)
    sys.exit(f"waited in vain: {what}")


def label(name, value):
    value = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{value}"'


def older(families):
    for family in families:
        kind = {"info": "gauge", "stateset": "gauge", "unknown": "untyped", "gaugehistogram": "histogram"}.get(
            family.type, family.type
        )
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        yield f"# HELP {name} {family.documentation}"
        yield f"# TYPE {name} {kind}"
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            labels = ",".join(label(*pair) for pair in sample.labels.items())
            yield f"{sample.name}{{{labels}}} {sample.value}"


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "flag").write_text("false")
        (folder / "in").touch()
        (folder / "tidegate.toml").write_text(
            f"""
state_dir = "{folder}/state"
[control]
listen = "127.0.0.1:0"
[observe]
listen = "127.0.0.1:0"
[[switch]]
name = "ops"
streams = ["*"]
interval = "100ms"
file = {{ path = "{folder}/flag" }}
[[stream]]
name = "orders"
source = {{ type = "file", path = "{folder}/in", follow = true }}
sink = {{ type = "file", path = "{folder}/out" }}
"""
        )
        process = subprocess.Popen(
            [sys.argv[1], "run", "--config", folder / "tidegate.toml"], stderr=subprocess.PIPE, text=True
        )
        try:
            for line in process.stderr:
                said = json.loads(line)
                if said.get("message") == "listening":
                    break
            state = lambda: json.loads(get(said["control"], "/status")[0])["streams"][0]["state"]
            awaited("running", lambda: state() == "running")
            with (folder / "in").open("a") as rows:
                rows.write('{"row":1}\n{"row":2}\n')
            (folder / "flag").write_text("true")
            awaited("paused", lambda: state() == "paused")
            get(said["control"], "/pause", "POST")
            text, kind = get(said["observe"], "/metrics")
            if not kind.startswith("application/openmetrics-text"):
                sys.exit(f"served as {kind}")
            print("\n".join(older(text_string_to_metric_families(text))))
        finally:
            process.terminate()
            process.wait(timeout=60)


main()
