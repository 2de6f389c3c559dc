"""The names of both stores go away while a pause stands, in a network of this process's own: real lookups, a real DNS server.

Has to run where 127.0.0.1:53 and /etc/resolv.conf are its own: `unshare --user --map-root-user --net --mount`. Needs
TIDEGATE_PEER_BINARY and TIDEGATE_PEER_SERVE, the programs of tidegate and of the dev store.

For each way of failing (no such name, a server that fails, a server that is silent) the stores cut their connections, so that
each poll has to look their names up: what is held stays held, and the first poll after the names are back reads again. With
TIDEGATE_PEER_TWIN=moves the names come back with an address where nobody is, which must fail.
"""
import fcntl
import http.client
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

PATIENCE = float(os.environ.get("TIDEGATE_PEER_PATIENCE", "60"))
VAULT, KEY_VAULT, AUTHORITY = "vault.test", "myvault.vault.azure.net", "login.microsoftonline.com"
HOME = "127.0.0.1"
BACK = "127.0.0.9" if os.environ.get("TIDEGATE_PEER_TWIN") == "moves" else HOME


def await_(what, look):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise SystemExit(f"waited in vain: {what}")


class Dns(threading.Thread):
    """Answers for every name with one address, or fails as `mode` says; counts what it was asked."""

    def __init__(self):
        super().__init__(daemon=True)
        self.mode, self.address, self.asked = "answers", HOME, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((HOME, 53))

    def run(self):
        while True:
            query, who = self.socket.recvfrom(4096)
            self.asked += 1
            if self.mode == "is silent":
                continue
            end = query.index(b"\0", 12) + 5
            kind = struct.unpack("!H", query[end - 4 : end - 2])[0]
            code = {"answers": 0, "knows no such name": 3, "fails": 2}[self.mode]
            answers = b""
            if code == 0 and kind == 1:
                answers = b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04" + socket.inet_aton(self.address)
            head = query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, 1 if answers else 0, 0, 0)
            self.socket.sendto(head + query[12:end] + answers, who)


def own_network(folder):
    lo = socket.socket()
    request = struct.pack("16sh14x", b"lo", 0)
    flags = struct.unpack("16sh14x", fcntl.ioctl(lo, 0x8913, request))[1]
    fcntl.ioctl(lo, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))
    resolv = os.path.join(folder, "resolv.conf")
    with open(resolv, "w") as file:
        file.write(f"nameserver {HOME}\n")
    subprocess.run(["mount", "--bind", resolv, os.path.realpath("/etc/resolv.conf")], check=True)


CHILDREN = []


def start(*command, **more):
    child = subprocess.Popen(command, **more)
    CHILDREN.append(child)
    return child


def main():
    folder = tempfile.mkdtemp()
    own_network(folder)
    dns = Dns()
    dns.start()
    ca = os.path.join(folder, "ca.pem")
    serve = start(
        os.environ["TIDEGATE_PEER_SERVE"],
        "--port",
        "0",
        "--ca-file",
        ca,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    store = {}
    for line in serve.stdout:
        if line.strip() == "ready":
            break
        name, _, value = line.strip().partition("=")
        store[name] = value
    vault, key_vault_port = store["VAULT_ADDR"], store["KEY_VAULT_ADDR"].rsplit(":", 1)[1]

    def ask(path, body=None, method=None):
        request = urllib.request.Request(f"{vault}{path}", method=method, headers={"X-Vault-Token": store["VAULT_TOKEN"]})
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, data) as answer:
            return answer.read()

    def azure(method, host, path, body, headers):
        # The stub's own names are not for this program.
        wire = http.client.HTTPSConnection(HOME, int(key_vault_port), context=ssl._create_unverified_context())
        wire.request(method, path, body, {"Host": host, **headers})
        answer = wire.getresponse()
        assert answer.status == 200, answer.read()
        return json.load(answer)

    def flag(paused):
        ask("/v1/secret/data/orders", {"data": {"IsPaused": paused}})
        form = {
            "grant_type": "client_credentials",
            "client_id": store["CLIENT_ID"],
            "client_secret": store["CLIENT_SECRET"],
            "scope": "https://vault.azure.net/.default",
        }
        path = f"/{store['TENANT_ID']}/oauth2/v2.0/token"
        form_type = {"Content-Type": "application/x-www-form-urlencoded"}
        token = azure("POST", AUTHORITY, path, urllib.parse.urlencode(form), form_type)["access_token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = json.dumps({"value": str(paused).lower()})
        azure("PUT", KEY_VAULT, "/secrets/orders?api-version=7.4", body, headers)

    for name, text in (("token", store["VAULT_TOKEN"]), ("secret", store["CLIENT_SECRET"])):
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
    open(os.path.join(folder, "in"), "w").close()
    timing = 'interval = "200ms"\ntimeout = "1s"\nretry_max = "400ms"'
    with open(os.path.join(folder, "tidegate.toml"), "w") as file:
        file.write(f"""
[control]
listen = "127.0.0.1:0"
[observe]
listen = "127.0.0.1:0"
[[switch]]
name = "vault"
streams = ["*"]
{timing}
[switch.vault]
address = "http://{VAULT}:{vault.rsplit(":", 1)[1]}"
allow_plaintext = true
path = "orders"
auth = {{ method = "token", file = "{folder}/token" }}
[[switch]]
name = "azure"
streams = ["*"]
{timing}
[switch.azure_key_vault]
vault_url = "https://{KEY_VAULT}:{key_vault_port}"
secret = "orders"
ca_file = "{ca}"
credential = {{ method = "client_secret", tenant_id = "{store["TENANT_ID"]}", client_id = "{store["CLIENT_ID"]}", secret_file = "{folder}/secret", authority_host = "https://{AUTHORITY}:{key_vault_port}" }}
[[stream]]
name = "orders"
source = {{ type = "file", path = "{folder}/in", follow = true }}
sink = {{ type = "file", path = "{folder}/out" }}
""")
    flag(True)
    log = open(os.path.join(folder, "log"), "w+")
    command = [os.environ["TIDEGATE_PEER_BINARY"], "run", "--config", os.path.join(folder, "tidegate.toml")]
    sidecar = start(*command, stdin=subprocess.DEVNULL, stderr=log)

    def listening():
        assert sidecar.poll() is None, open(log.name).read()
        lines = [json.loads(line) for line in open(log.name) if line.endswith("\n")]
        return next((line for line in lines if line.get("message") == "listening"), None)

    found = await_("the listeners", listening)
    control, observe = found["control"], found["observe"]

    def status():
        with urllib.request.urlopen(f"http://{control}/status") as answer:
            return json.load(answer)

    def switches():
        return {switch["name"]: switch for switch in status()["switches"]}

    def all_read(word):
        return lambda: all(switch["reading"] == word for switch in switches().values())

    await_("both stores are read", all_read("paused"))
    await_("paused", lambda: status()["streams"][0]["state"] == "paused")
    since = status()["streams"][0]["last_transition"]
    told = {"knows no such name": "dns error", "fails": "dns error", "is silent": "no answer within"}
    for mode, says in told.items():
        dns.mode = mode
        # Without this the connections that are open would go on: nobody looks a name up for those.
        ask("/devstore/faults", {"fault": "reset-before-headers"})
        await_(f"DNS {mode}: unavailable", all_read("unavailable"))
        asked = dns.asked
        await_("they go on looking", lambda: dns.asked > asked + 8)
        for name, switch in switches().items():
            assert says in switch["error"], f"{name}, DNS {mode}: {switch['error']}"
            assert store["CLIENT_SECRET"] not in switch["error"] and store["VAULT_TOKEN"] not in switch["error"]
        ask("/devstore/faults", method="DELETE")
        dns.address = BACK
        dns.mode = "answers"
        before = {name: polls_in_vain(observe, name) for name in switches()}
        await_(f"DNS {mode}, and is back", all_read("paused"))
        for name, failed in before.items():
            more = polls_in_vain(observe, name) - failed
            # One may have been under way.
            assert more <= 1, f"{name}: {more} polls in vain after DNS was back"
        stream = status()["streams"][0]
        assert (stream["state"], stream["last_transition"]) == ("paused", since), stream
    flag(False)
    await_("it runs", lambda: status()["streams"][0]["state"] == "running")
    sidecar.terminate()
    assert sidecar.wait(PATIENCE) == 0
    serve.stdin.close()
    serve.wait(PATIENCE)
    print(f"{len(told)} ways of DNS to fail, at both stores: held all along, read again by the first poll after it")


def polls_in_vain(observe, switch):
    with urllib.request.urlopen(f"http://{observe}/metrics") as answer:
        series = f'tidegate_polls_total{{switch="{switch}",outcome="unavailable"}} '
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"dns_gone: {error}")
    finally:
        for child in CHILDREN:
            child.kill()
