"""Drives the Vault side with hvac, as its users would.

Needs TIDEGATE_PEER_VAULT_ADDR, TIDEGATE_PEER_VAULT_TOKEN, TIDEGATE_PEER_VAULT_UNSEAL_KEY, and in
TIDEGATE_PEER_KUBERNETES_JWT a token of the service account peers/judge for the audience "vault".
"""
import os
import sys
import time
import uuid
from importlib import metadata

import hvac
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hvac import exceptions

ADDR = os.environ["TIDEGATE_PEER_VAULT_ADDR"]
TOKEN = os.environ["TIDEGATE_PEER_VAULT_TOKEN"]
UNSEAL_KEY = os.environ["TIDEGATE_PEER_VAULT_UNSEAL_KEY"]
# A real server asks a cluster about it, so without one it is not given.
KUBERNETES_JWT = os.environ.get("TIDEGATE_PEER_KUBERNETES_JWT")

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def client(token=TOKEN, **more):
    return hvac.Client(url=ADDR, token=token, **more)


def refused(exception, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except exception as error:
        return error
    raise AssertionError(f"expected {exception.__name__}")


def fresh():
    return f"peer/{uuid.uuid4()}"


@check
def kv_1_write_read_list_delete():
    kv = client().secrets.kv.v1
    path = fresh()
    kv.create_or_update_secret(path, secret={"IsPaused": "true"}, mount_point="kv")
    assert kv.read_secret(path, mount_point="kv")["data"] == {"IsPaused": "true"}
    assert path.split("/")[1] in kv.list_secrets("peer", mount_point="kv")["data"]["keys"]
    kv.delete_secret(path, mount_point="kv")
    refused(exceptions.InvalidPath, kv.read_secret, path, mount_point="kv")


@check
def kv_2_versions():
    kv = client().secrets.kv.v2
    path = fresh()
    for number in (1, 2, 3):
        written = kv.create_or_update_secret(path, secret={"n": number})
        assert written["data"]["version"] == number
    last = kv.read_secret_version(path, raise_on_deleted_version=True)
    assert last["data"]["data"] == {"n": 3} and last["data"]["metadata"]["version"] == 3
    assert kv.read_secret_version(path, version=1, raise_on_deleted_version=True)["data"]["data"] == {"n": 1}
    assert kv.read_secret_metadata(path)["data"]["current_version"] == 3
    refused(exceptions.InvalidPath, kv.read_secret_version, fresh(), raise_on_deleted_version=True)


@check
def kv_2_check_and_set():
    kv = client().secrets.kv.v2
    path = fresh()
    kv.create_or_update_secret(path, secret={"v": 1}, cas=0)
    refused(exceptions.InvalidRequest, kv.create_or_update_secret, path, secret={"v": 2}, cas=0)
    kv.create_or_update_secret(path, secret={"v": 2}, cas=1)
    kv.update_metadata(path, cas_required=True)
    refused(exceptions.InvalidRequest, kv.create_or_update_secret, path, secret={"v": 3})
    config = kv.read_configuration()["data"]
    assert set(config) >= {"max_versions", "cas_required", "delete_version_after"}


@check
def kv_2_patch():
    kv = client().secrets.kv.v2
    path = fresh()
    # hvac reads, merges and writes with check-and-set.
    refused(exceptions.InvalidPath, kv.patch, path, secret={"v": 1})
    kv.create_or_update_secret(path, secret={"IsPaused": False, "by": "ana"})
    kv.patch(path, secret={"IsPaused": True})
    assert kv.read_secret_version(path, raise_on_deleted_version=True)["data"]["data"] == {"IsPaused": True, "by": "ana"}


@check
def kv_2_delete_undelete_destroy():
    kv = client().secrets.kv.v2
    path = fresh()
    for number in (1, 2):
        kv.create_or_update_secret(path, secret={"n": number})
    kv.delete_latest_version_of_secret(path)
    gone = refused(exceptions.InvalidPath, kv.read_secret_version, path, raise_on_deleted_version=True)
    assert gone is not None
    # hvac tells a deleted version from a missing one by the body of the 404.
    deleted = kv.read_secret_version(path, raise_on_deleted_version=False)
    assert deleted["data"]["data"] is None and deleted["data"]["metadata"]["deletion_time"] != ""
    kv.undelete_secret_versions(path, versions=[2])
    assert kv.read_secret_version(path, raise_on_deleted_version=True)["data"]["data"] == {"n": 2}
    kv.delete_secret_versions(path, versions=[1])
    kv.destroy_secret_versions(path, versions=[1])
    versions = kv.read_secret_metadata(path)["data"]["versions"]
    assert versions["1"]["destroyed"] and not versions["2"]["destroyed"]
    kv.delete_metadata_and_all_versions(path)
    refused(exceptions.InvalidPath, kv.read_secret_metadata, path)


@check
def kv_2_metadata_and_list():
    kv = client().secrets.kv.v2
    path = fresh()
    kv.update_metadata(path, max_versions=2, delete_version_after="1h", custom_metadata={"owner": "ana"})
    settings = kv.read_secret_metadata(path)["data"]
    assert settings["max_versions"] == 2 and settings["custom_metadata"] == {"owner": "ana"}
    assert settings["delete_version_after"] == "1h0m0s"
    for number in range(4):
        kv.create_or_update_secret(path, secret={"n": number})
    assert sorted(kv.read_secret_metadata(path)["data"]["versions"]) == ["3", "4"]
    assert path.split("/")[1] in kv.list_secrets("peer")["data"]["keys"]
    refused(exceptions.InvalidPath, kv.list_secrets, "nobody/here")


@check
def tokens_lookup_renew_revoke():
    root = client()
    assert root.is_authenticated()
    made = root.auth.token.create(policies=["default"], ttl="1h", renewable=True, meta={"who": "ana"})
    child = client(made["auth"]["client_token"])
    own = child.auth.token.lookup_self()["data"]
    assert own["meta"] == {"who": "ana"} and 0 < own["ttl"] <= 3600 and own["renewable"]
    assert child.auth.token.renew_self(increment="30m")["auth"]["lease_duration"] == 1800
    accessor = made["auth"]["accessor"]
    assert root.auth.token.lookup_accessor(accessor)["data"]["display_name"].startswith("token")
    assert accessor in root.auth.token.list_accessors()["data"]["keys"]
    refused(exceptions.Forbidden, child.auth.token.list_accessors)
    child.auth.token.revoke_self()
    assert not child.is_authenticated()
    refused(exceptions.Forbidden, client("hvs.nobody").auth.token.lookup_self)
    orphan = root.auth.token.create_orphan(policies=["default"], ttl="1h")
    assert orphan["auth"]["orphan"]
    root.auth.token.revoke_accessor(orphan["auth"]["accessor"])
    refused(exceptions.Forbidden, root.auth.token.lookup, orphan["auth"]["client_token"])


@check
def policies_and_capabilities():
    root = client()
    root.sys.create_or_update_policy("peer-read", 'path "secret/data/peer/*" { capabilities = ["read"] }')
    assert "peer-read" in root.sys.list_policies()["data"]["policies"]
    assert "capabilities" in root.sys.read_policy("peer-read")["data"]["rules"]
    root.sys.create_or_update_acl_policy("peer-acl", 'path "kv/*" { capabilities = ["list"] }')
    assert "peer-acl" in root.sys.list_acl_policies()["data"]["keys"]
    reader = client(root.auth.token.create(policies=["peer-read"], ttl="1h")["auth"]["client_token"])
    path = fresh()
    root.secrets.kv.v2.create_or_update_secret(path, secret={"v": 1})
    assert reader.secrets.kv.v2.read_secret_version(path, raise_on_deleted_version=True)["data"]["data"] == {"v": 1}
    refused(exceptions.Forbidden, reader.secrets.kv.v2.create_or_update_secret, path, secret={"v": 2})
    told = reader.sys.get_capabilities(["secret/data/" + path, "kv/x"])["data"]
    assert told["secret/data/" + path] == ["read"] and told["kv/x"] == ["deny"]
    root.sys.delete_policy("peer-read")
    refused(exceptions.Forbidden, reader.secrets.kv.v2.read_secret_version, path, raise_on_deleted_version=True)


@check
def mounts():
    root = client()
    mount = f"peer-{uuid.uuid4()}"
    root.sys.enable_secrets_engine("kv", path=mount, options={"version": "2"})
    assert root.sys.list_mounted_secrets_engines()["data"][mount + "/"]["options"]["version"] == "2"
    root.secrets.kv.v2.create_or_update_secret("a", secret={"v": 1}, mount_point=mount)
    moved = mount + "-moved"
    migration = root.sys.move_backend(mount, moved)["data"]["migration_id"]
    deadline = time.monotonic() + 30
    # A real server moves in its own time.
    while root.read(f"sys/remount/status/{migration}")["data"]["migration_info"]["status"] != "success":
        assert time.monotonic() < deadline, "the mount does not move"
    read = root.secrets.kv.v2.read_secret_version("a", mount_point=moved, raise_on_deleted_version=True)
    assert read["data"]["data"] == {"v": 1}
    assert root.sys.read_mount_configuration(moved)["data"]["max_lease_ttl"] > 0
    root.sys.disable_secrets_engine(moved)
    refused(exceptions.InvalidPath, root.secrets.kv.v2.read_secret_version, "a", mount_point=moved, raise_on_deleted_version=True)


@check
def namespaces_are_apart():
    root = client()
    name = f"peer-{uuid.uuid4()}"
    root.sys.create_namespace(name)
    assert name + "/" in root.sys.list_namespaces()["data"]["keys"]
    inside = client(namespace=name)
    inside.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
    inside.secrets.kv.v2.create_or_update_secret("a", secret={"v": 1})
    refused(exceptions.InvalidPath, root.secrets.kv.v2.read_secret_version, "a", raise_on_deleted_version=True)
    root.sys.delete_namespace(name)


@check
def approle_logins():
    root = client()
    mount = f"peer-{uuid.uuid4()}"
    root.sys.enable_auth_method("approle", path=mount)
    approle = root.auth.approle
    approle.create_or_update_approle("orders", token_policies=["default"], token_ttl="20m", mount_point=mount)
    assert approle.list_roles(mount_point=mount)["data"]["keys"] == ["orders"]
    assert approle.read_role("orders", mount_point=mount)["data"]["token_ttl"] == 1200
    role_id = approle.read_role_id("orders", mount_point=mount)["data"]["role_id"]
    made = approle.generate_secret_id("orders", metadata={"who": "ana"}, mount_point=mount)["data"]
    member = client(token=None)
    login = member.auth.approle.login(role_id, made["secret_id"], mount_point=mount)
    assert login["auth"]["lease_duration"] == 1200 and login["auth"]["metadata"]["who"] == "ana"
    assert member.is_authenticated()
    nobody = client(token=None).auth.approle
    refused(exceptions.InvalidRequest, nobody.login, role_id, "wrong", mount_point=mount)
    refused(exceptions.InvalidRequest, nobody.login, "wrong", made["secret_id"], mount_point=mount)
    assert approle.read_secret_id("orders", made["secret_id"], mount_point=mount)["data"]["metadata"] == {"who": "ana"}
    approle.destroy_secret_id_accessor("orders", made["secret_id_accessor"], mount_point=mount)
    refused(exceptions.InvalidRequest, nobody.login, role_id, made["secret_id"], mount_point=mount)
    assert mount + "/" in root.sys.list_auth_methods()["data"]
    root.sys.disable_auth_method(mount)
    assert not member.is_authenticated()


@check
def kubernetes_logins():
    if KUBERNETES_JWT is None:
        print("NOT CHECKED: logins of a cluster (TIDEGATE_PEER_KUBERNETES_JWT)", file=sys.stderr)
        return
    root = client()
    mount = f"peer-{uuid.uuid4()}"
    root.sys.enable_auth_method("kubernetes", path=mount)
    kubernetes = root.auth.kubernetes
    kubernetes.configure(kubernetes_host="https://kubernetes.default.svc", mount_point=mount)
    bounds = {"bound_service_account_names": ["judge"], "bound_service_account_namespaces": ["peers"]}
    kubernetes.create_role("judge", policies=["default"], ttl="10m", audience="vault", mount_point=mount, **bounds)
    kubernetes.create_role("deaf", policies=["default"], audience="other", mount_point=mount, **bounds)
    assert sorted(kubernetes.list_roles(mount_point=mount)["keys"]) == ["deaf", "judge"]
    member = client(token=None)
    login = member.auth.kubernetes.login("judge", KUBERNETES_JWT, mount_point=mount)
    assert login["auth"]["metadata"]["service_account_name"] == "judge" and login["auth"]["lease_duration"] == 600
    assert member.is_authenticated()
    nobody = client(token=None).auth.kubernetes
    refused(exceptions.Forbidden, nobody.login, "deaf", KUBERNETES_JWT, mount_point=mount)
    refused(exceptions.InvalidRequest, nobody.login, "nobody", KUBERNETES_JWT, mount_point=mount)
    refused(exceptions.Forbidden, nobody.login, "judge", KUBERNETES_JWT[:-8] + "AAAAAAAA", mount_point=mount)
    root.sys.disable_auth_method(mount)


@check
def jwt_logins():
    root = client()
    mount = f"peer-{uuid.uuid4()}"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    root.sys.enable_auth_method("jwt", path=mount)
    root.auth.jwt.configure(jwt_validation_pubkeys=[pem.decode()], bound_issuer="https://ci.example", path=mount)
    root.auth.jwt.create_role(
        "build",
        user_claim="sub",
        allowed_redirect_uris=[],
        role_type="jwt",
        bound_audiences=["vault"],
        token_policies=["default"],
        path=mount,
    )

    def log_in(who, **changes):
        now = int(time.time())
        claims = {"iss": "https://ci.example", "aud": "vault", "sub": "x", "iat": now, "exp": now + 600, **changes}
        claims = {name: value for name, value in claims.items() if value is not None}
        return who.auth.jwt.jwt_login("build", jwt.encode(claims, key, algorithm="RS256"), path=mount)

    member = client(token=None)
    log_in(member)
    assert member.is_authenticated()
    nobody = client(token=None)
    refused(exceptions.InvalidRequest, log_in, nobody, aud="other")
    refused(exceptions.InvalidRequest, log_in, nobody, iss="https://elsewhere")
    refused(exceptions.InvalidRequest, log_in, nobody, exp=int(time.time()) - 600)
    # With an end alone it begins 150 seconds before that.
    refused(exceptions.InvalidRequest, log_in, nobody, iat=None)
    root.sys.disable_auth_method(mount)


@check
def seal_unseal_and_health():
    root = client()
    assert root.sys.is_initialized() and not root.sys.is_sealed()
    assert root.sys.read_health_status(method="GET")["sealed"] is False
    assert root.sys.read_health_status(method="HEAD").status_code == 200
    assert root.sys.read_leader_status()["ha_enabled"] in (True, False)
    root.sys.seal()
    try:
        assert root.sys.is_sealed()
        assert root.sys.read_health_status(method="HEAD").status_code == 503
        refused(exceptions.VaultDown, root.secrets.kv.v2.read_secret_version, "a", raise_on_deleted_version=True)
    finally:
        assert root.sys.submit_unseal_key(UNSEAL_KEY)["sealed"] is False


def main():
    for function in CHECKS:
        try:
            function()
        except Exception as error:  # every check is named by its failure, whatever kind it is
            print(f"vault_hvac: {function.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
            raise
    print(f"{len(CHECKS)} checks with hvac {metadata.version('hvac')}")


if __name__ == "__main__":
    main()
