"""Judges the manifests: what the kubelet would be given, whichever of kustomize and Helm made it.

    manifests.py FOLDER    every *.yaml in it is the output of one overlay or one set of values
    manifests.py rules FILE.yaml OUT.yaml    the groups of the PrometheusRule in it, as promtool takes them
"""

import json
import pathlib
import re
import sys

import kubernetes_validate
import yaml

VERSIONS = sorted(
    {
        ".".join(path.name.removeprefix("v").split("-")[0].split(".")[:2])
        for path in (
            pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
        ).iterdir()
        if path.name.endswith("-local-strict")
    },
    key=lambda version: [int(part) for part in version.split(".")],
)[-3:]
# Custom resources, which the offline schemas do not know: Prometheus itself judges what is in them.
CUSTOM = {"PodMonitor", "PrometheusRule"}
SECRETS = re.compile(
    r"hvs\.|s\.[A-Za-z0-9]{24}|eyJ[A-Za-z0-9_-]{10,}\.|-----BEGIN|AccountKey=|password\s*[:=]\s*\S",
    re.IGNORECASE,
)


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def validated(document):
    """The judge's words for each of the last three versions; none if it has no complaint."""
    complaints = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError as error:
            if document["kind"] not in CUSTOM:
                complaints.append(f"{version}: {error}")
        except kubernetes_validate.ValidationError as error:
            complaints.append(f"{version}: {error.message}")
    return complaints


def pods(document):
    template = document.get("spec", {}).get("template")
    return [template["spec"]] if isinstance(template, dict) and "spec" in template else []


def restricted(pod):
    """The Pod Security Standard "restricted", as https://kubernetes.io/docs/concepts/security/pod-security-standards/ has it."""
    whole = pod.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key} is set"
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    for volume in pod.get("volumes", []):
        if not allowed & (set(volume) - {"name"}):
            yield f"volume {volume['name']} is of a kind that is not allowed"
    for container in pod.get("initContainers", []) + pod["containers"]:
        own, name = container.get("securityContext", {}), container["name"]
        if own.get("privileged"):
            yield f"{name} is privileged"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may escalate its privileges"
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
            yield f"{name} has capabilities"
        if own.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True:
            yield f"{name} may run as root"
        if own.get("runAsUser", whole.get("runAsUser")) == 0:
            yield f"{name} runs as root"
        profile = own.get("seccompProfile", whole.get("seccompProfile", {}))
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name} has no seccomp profile"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name} takes a port of the node"


def promised(pod):
    """What the product promises beyond the standard."""
    containers = pod.get("initContainers", []) + pod["containers"]
    if pod.get("automountServiceAccountToken") is not False:
        yield "the pod mounts a token for the Kubernetes API"
    for container in containers:
        if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            yield f"{container['name']} can write to its root file system"
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield f"{container['name']} has no limit of memory"
    sidecars = [c for c in containers if c["name"] == "tidegate"]
    if not sidecars:
        return
    if pod["initContainers"][0] is not sidecars[0] or sidecars[0].get("restartPolicy") != "Always":
        yield "tidegate is not a native sidecar that starts first"
    sidecar = sidecars[0]
    probes = {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    for probe, path in probes.items():
        if sidecar.get(probe, {}).get("httpGet", {}).get("path") != path:
            yield f"its {probe} does not ask {path}"
    stop = sidecar.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    if stop[:3] != ["/tidegate", "drain", "--close"]:
        yield "its preStop does not drain and close"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    if not volumes["tidegate-state"].get("emptyDir", {}).get("sizeLimit"):
        yield "its state has no limit"
    tokens = [
        source["serviceAccountToken"]
        for volume in volumes.values()
        for source in volume.get("projected", {}).get("sources", [])
        if "serviceAccountToken" in source
    ]
    if [token["audience"] for token in tokens] not in (["vault"], ["api://AzureADTokenExchange"]):
        yield "there is not one projected token for the store's audience"
    for container in containers:
        mounts = [mount["name"] for mount in container.get("volumeMounts", [])]
        if ("tidegate-token" in mounts) != (container is sidecar):
            yield f"{container['name']}: the token is for the sidecar alone"
    app = pod["containers"][0].get("lifecycle", {}).get("preStop", {})
    delay = app.get("sleep", {}).get("seconds", 0)
    if delay < 1:
        yield "the app is told to stop at once"
    wait = int(stop[-1].removesuffix("s")) if stop else 0
    # The formula: max(the sidecar's drain, the app's preStop and stop) + shutdown_grace (25 s by default) + 5 s.
    if pod.get("terminationGracePeriodSeconds", 30) < delay + wait + 25 + 5:
        yield "terminationGracePeriodSeconds is shorter than what has to fit into it"


def faults(text):
    found = []
    for document in documents(text):
        what = f"{document['kind']}/{document['metadata']['name']}"
        found += [f"{what}: {complaint}" for complaint in validated(document)]
        if document["kind"] == "Secret":
            found.append(f"{what}: a secret in a manifest")
        for pod in pods(document):
            found += [f"{what}: {fault}" for fault in [*restricted(pod), *promised(pod)]]
    if SECRETS.search(text):
        found.append(f"looks like a secret: {SECRETS.search(text).group()[:12]}…")
    return found


def twins(text):
    """Each is one step away from what is right, and has to be refused."""
    steps = [
        ("runAsNonRoot: true", "runAsNonRoot: false"),
        ("type: RuntimeDefault", "type: Unconfined"),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
        ("automountServiceAccountToken: false\n      ", "automountServiceAccountToken: true\n      "),
        ("restartPolicy: Always", "restartPolicy: Alway"),
        ("path: /readyz", "path: /livez"),
        ("- --close", "- --open"),
        ("audience: vault", "audience: https://kubernetes.default.svc"),
        ("mountPath: /etc/tidegate", "mountPaths: /etc/tidegate"),
        ("terminationGracePeriodSeconds: ", "terminationGracePeriodSeconds: 1 #"),
        ("kind: ServiceAccount", "kind: Secret"),
        ('address = "https://vault', 'token = "hvs.CAESIJ" # "https://vault'),
    ]
    for right, wrong in steps:
        changed = text.replace(right, wrong)
        if changed == text:
            yield f"cannot be made: {right}"
        elif not faults(changed):
            yield f"accepts {wrong}"
    return


def rule_groups(text):
    rules = [d["spec"] for d in documents(text) if d["kind"] == "PrometheusRule"]
    return rules[0] if rules else None


def main():
    if sys.argv[1] == "rules":
        with open(sys.argv[2], encoding="utf-8") as file:
            groups = rule_groups(file.read())
        with open(sys.argv[3], "w", encoding="utf-8") as file:
            yaml.safe_dump(groups, file, sort_keys=False)
        return 0
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(pathlib.Path(sys.argv[1]).glob("*.yaml"))}
    wrong = [f"{name}: {fault}" for name, text in texts.items() for fault in faults(text)]
    rules = {json.dumps(groups, sort_keys=True) for groups in map(rule_groups, texts.values()) if groups}
    if len(rules) != 1:
        wrong.append("kustomize and Helm do not have the same alerts")
    right = next(text for name, text in texts.items() if name.startswith("kustomize-http-gate-vault"))
    accepted = list(twins(right))
    wrong += [f"broken twin: {twin}" for twin in accepted]
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{len(texts)} sets of manifests hold for Kubernetes {', '.join(VERSIONS)}, and 13 broken twins do not")
    return 1 if wrong or len(texts) < 12 else 0


if __name__ == "__main__":
    sys.exit(main())
