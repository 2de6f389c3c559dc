"""The bill of materials of the binary, made by cargo-cyclonedx and judged: valid by the schema of CycloneDX, naming everything
that Cargo builds the binary from, with the checksums of Cargo.lock. Usage: sbom.py REPOSITORY FILE."""

import copy
import json
import pathlib
import subprocess
import sys
import tomllib

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

TARGET = "x86_64-unknown-linux-gnu"


def main(repository: pathlib.Path, out: pathlib.Path) -> None:
    bom = made(repository)
    lock = tomllib.loads((repository / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    built = built_from(repository)
    wrong = judged(bom, built, checksums)
    if wrong:
        sys.exit("\n".join(wrong))

    # The judge itself: it must see what is missing, what is foreign, and what is not the same.
    for spoil in (missing, foreign, other_bytes, no_bom):
        twin = copy.deepcopy(bom)
        spoil(twin)
        if not judged(twin, built, checksums):
            sys.exit(f"the judge accepts a bill with this done to it: {spoil.__name__}")

    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(bom, indent=2) + "\n")
    ours = sum(1 for name, version in built if checksums.get((name, version)) is None)
    named = len(bom["components"]) + 1
    print(f"{out.name}: CycloneDX {bom['specVersion']}, {named} packages; {len(built)} are built in, {ours} of them ours")


def made(repository: pathlib.Path) -> dict:
    """The tool writes a file beside each manifest of the workspace; one is kept."""
    name = "sbom-of-a-run"
    command = ["cargo", "cyclonedx", "--quiet", "--manifest-path", str(repository / "crates/sidecar/Cargo.toml")]
    command += ["--format", "json", "--spec-version", "1.5", "--all-features", "--target", TARGET]
    try:
        subprocess.run([*command, "--override-filename", name], check=True, cwd=repository)
        text = (repository / f"crates/sidecar/{name}.json").read_text()
    finally:
        for folder in ("crates/*", "tests", "tests/*"):
            for left in repository.glob(f"{folder}/{name}.json"):
                left.unlink()
    bom = json.loads(text)
    # Where somebody's working copy is, is nobody's business, and would make every bill another.
    refs = {}
    for component in [bom["metadata"]["component"], *bom["components"]]:
        if component["bom-ref"].startswith("path+file:"):
            refs[component["bom-ref"]] = component["purl"] = component["purl"].partition("?")[0]
            component["bom-ref"] = component["purl"]
    # Its targets are no packages.
    bom["metadata"]["component"].pop("components", None)
    for entry in bom["dependencies"]:
        entry["ref"] = refs.get(entry["ref"], entry["ref"])
        if "dependsOn" in entry:
            entry["dependsOn"] = [refs.get(ref, ref) for ref in entry["dependsOn"]]
    return bom


def built_from(repository: pathlib.Path) -> set[tuple[str, str]]:
    command = ["cargo", "tree", "--locked", "--package", "tidegate", "--all-features", "--target", TARGET]
    command += ["--edges", "normal,build", "--prefix", "none", "--format", "{p}"]
    tree = subprocess.run(command, check=True, cwd=repository, capture_output=True, text=True).stdout
    lines = (line.split() for line in tree.splitlines() if line.strip())
    return {(words[0], words[1].removeprefix("v")) for words in lines}


def judged(bom: dict, built: set, checksums: dict) -> list[str]:
    wrong = []
    error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(json.dumps(bom))
    if error is not None:
        wrong.append(f"not a bill by the schema: {str(error)[:300]}")
    components = [bom["metadata"]["component"], *bom["components"]]
    named = {(c["name"], c["version"]) for c in components}
    wrong += [f"{name} {version} is built in and not named" for name, version in sorted(built - named)]
    # Some more are named: the tool takes what any member of the workspace asks of a package for what all do.
    wrong += [f"{name} {version} is named and not in Cargo.lock" for name, version in sorted(named - set(checksums))]
    for component in components:
        expected = checksums.get((component["name"], component["version"]))
        hashes = [h["content"] for h in component.get("hashes", []) if h["alg"] == "SHA-256"]
        if hashes != ([expected] if expected else []):
            wrong.append(f"{component['name']}: checksum {hashes}, Cargo.lock has {expected}")
        if not component.get("licenses"):
            wrong.append(f"{component['name']}: no licence")
    if "file:" in json.dumps(bom):
        wrong.append("it tells of somebody's disk")
    return wrong


def missing(bom: dict) -> None:
    del bom["components"][0]


def foreign(bom: dict) -> None:
    bom["components"].append({**bom["components"][-1], "name": "not-ours", "bom-ref": "not-ours"})


def other_bytes(bom: dict) -> None:
    next(c for c in bom["components"] if c.get("hashes"))["hashes"][0]["content"] = "0" * 64


def no_bom(bom: dict) -> None:
    bom["bomFormat"] = "none"


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
