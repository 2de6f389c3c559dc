"""Drives the Key Vault side with Microsoft's own clients, azure-keyvault-secrets and azure-identity.

Needs TIDEGATE_PEER_KEY_VAULT_ADDR and TIDEGATE_PEER_IDENTITY_ADDR (host:port), TIDEGATE_PEER_CA_FILE,
TIDEGATE_PEER_TENANT_ID, TIDEGATE_PEER_CLIENT_ID and TIDEGATE_PEER_CLIENT_SECRET, TIDEGATE_PEER_WORKLOAD_CLIENT_ID with
TIDEGATE_PEER_WORKLOAD_JWT, TIDEGATE_PEER_MANAGED_CLIENT_ID, TIDEGATE_PEER_IDENTITY_HEADER, and for the faults
TIDEGATE_PEER_VAULT_ADDR with TIDEGATE_PEER_VAULT_TOKEN.

The clients speak to the real host names with every check on: only the resolver is told where those are, as a line in
/etc/hosts would (which cannot name a port, hence in here).
"""
import os
import socket
import sys
import tempfile
import time
import uuid
from importlib import metadata

import requests
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import ClientSecretCredential, ManagedIdentityCredential, WorkloadIdentityCredential
from azure.keyvault.secrets import SecretClient

VAULT_URL = "https://myvault.vault.azure.net"
CA_FILE = os.environ["TIDEGATE_PEER_CA_FILE"]
TENANT = os.environ["TIDEGATE_PEER_TENANT_ID"]
CLIENT_ID = os.environ["TIDEGATE_PEER_CLIENT_ID"]
CLIENT_SECRET = os.environ["TIDEGATE_PEER_CLIENT_SECRET"]

HOST, PORT = os.environ["TIDEGATE_PEER_KEY_VAULT_ADDR"].rsplit(":", 1)
RESOLVE = socket.getaddrinfo


def resolve(name, port, *args, **kwargs):
    if name in ("myvault.vault.azure.net", "login.microsoftonline.com"):
        return RESOLVE(HOST, int(PORT), *args, **kwargs)
    return RESOLVE(name, port, *args, **kwargs)


socket.getaddrinfo = resolve

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def credential(secret=CLIENT_SECRET, client_id=CLIENT_ID, tenant=TENANT):
    return ClientSecretCredential(tenant, client_id, secret, connection_verify=CA_FILE)


def client(who=None, **more):
    return SecretClient(VAULT_URL, who or credential(), connection_verify=CA_FILE, **more)


def refused(exception, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except exception as error:
        return error
    raise AssertionError(f"expected {exception.__name__}")


def fresh():
    return f"peer-{uuid.uuid4()}"


@check
def set_get_and_versions():
    vault = client()
    name = fresh()
    first = vault.set_secret(name, "true", content_type="text/plain", tags={"team": "a"})
    second = vault.set_secret(name, "false")
    assert first.properties.version != second.properties.version
    assert vault.get_secret(name).value == "false"
    old = vault.get_secret(name, first.properties.version)
    assert old.value == "true" and old.properties.tags == {"team": "a"} and old.properties.content_type == "text/plain"
    assert old.properties.vault_url == VAULT_URL and old.properties.enabled
    versions = {item.version for item in vault.list_properties_of_secret_versions(name)}
    assert versions == {first.properties.version, second.properties.version}
    missing = refused(ResourceNotFoundError, vault.get_secret, fresh())
    assert missing.error.code == "SecretNotFound", missing.error


@check
def disable_and_enable():
    vault = client()
    name = fresh()
    vault.set_secret(name, "true")
    properties = vault.update_secret_properties(name, enabled=False)
    assert properties.enabled is False
    disabled = refused(HttpResponseError, vault.get_secret, name)
    assert disabled.status_code == 403
    assert disabled.error.code == "Forbidden" and disabled.error.innererror["code"] == "SecretDisabled"
    vault.update_secret_properties(name, enabled=True)
    assert vault.get_secret(name).value == "true"


@check
def expiry_and_start_warn_and_do_not_hide():
    import datetime

    vault = client()
    name = fresh()
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    vault.set_secret(name, "true", expires_on=past)
    read = vault.get_secret(name)
    assert read.value == "true" and read.properties.expires_on == past
    future = datetime.datetime(2099, 1, 1, tzinfo=datetime.timezone.utc)
    vault.update_secret_properties(name, expires_on=future + datetime.timedelta(days=1), not_before=future)
    assert vault.get_secret(name).properties.not_before == future


@check
def delete_recover_purge():
    vault = client()
    name = fresh()
    vault.set_secret(name, "true")
    deleted = vault.begin_delete_secret(name).result()
    assert deleted.name == name and deleted.recovery_id.endswith("/deletedsecrets/" + name)
    refused(ResourceNotFoundError, vault.get_secret, name)
    assert vault.get_deleted_secret(name).scheduled_purge_date is not None
    assert name in {item.name for item in vault.list_deleted_secrets()}
    taken = refused(ResourceExistsError, vault.set_secret, name, "again")
    assert taken.error.innererror["code"] == "ObjectIsDeletedButRecoverable"
    recovering = vault.begin_recover_deleted_secret(name)
    recovering.wait(timeout=30)
    assert vault.get_secret(name).value == "true"
    vault.begin_delete_secret(name).wait(timeout=30)
    vault.purge_deleted_secret(name)
    refused(ResourceNotFoundError, vault.get_deleted_secret, name)
    vault.set_secret(name, "anew")


@check
def list_in_pages():
    vault = client()
    prefix = fresh()
    names = {f"{prefix}-{number}" for number in range(30)}
    for name in names:
        vault.set_secret(name, "v")
    assert names <= {item.name for item in vault.list_properties_of_secrets()}
    pages = list(vault.list_properties_of_secrets(max_page_size=7).by_page())
    assert len(pages) > 4
    assert names <= {item.name for item in vault.list_properties_of_secrets(max_page_size=7)}


@check
def wrong_credentials():
    def ask(**who):
        client(credential(**who)).get_secret("x")

    for who, code in [
        ({"secret": "wrong"}, "AADSTS7000215"),
        ({"client_id": str(uuid.uuid4())}, "AADSTS700016"),
    ]:
        error = refused(ClientAuthenticationError, ask, **who)
        assert code in str(error), error


@check
def workload_identity():
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(os.environ["TIDEGATE_PEER_WORKLOAD_JWT"])
        file.flush()
        who = {"tenant_id": TENANT, "client_id": os.environ["TIDEGATE_PEER_WORKLOAD_CLIENT_ID"]}
        workload = WorkloadIdentityCredential(**who, token_file_path=file.name, connection_verify=CA_FILE)
        refused(ResourceNotFoundError, client(workload).get_secret, fresh())
        # This identity may read and nothing else.
        denied = refused(HttpResponseError, client(workload).set_secret, fresh(), "v")
        assert denied.status_code == 403 and denied.error.innererror["code"] == "ForbiddenByRbac"
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(os.environ["TIDEGATE_PEER_WORKLOAD_JWT"][:-8] + "AAAAAAAA")
        file.flush()
        forged = WorkloadIdentityCredential(**who, token_file_path=file.name, connection_verify=CA_FILE)
        refused(ClientAuthenticationError, client(forged).get_secret, "x")


@check
def managed_identity_of_a_machine_and_of_an_app_service():
    address = "http://" + os.environ["TIDEGATE_PEER_IDENTITY_ADDR"]
    client_id = os.environ["TIDEGATE_PEER_MANAGED_CLIENT_ID"]
    os.environ["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = address
    refused(ResourceNotFoundError, client(ManagedIdentityCredential()).get_secret, fresh())
    refused(ResourceNotFoundError, client(ManagedIdentityCredential(client_id=client_id)).get_secret, fresh())
    refused(ClientAuthenticationError, client(ManagedIdentityCredential(client_id="nobody")).get_secret, "x")
    os.environ["IDENTITY_ENDPOINT"] = address + "/msi/token"
    os.environ["IDENTITY_HEADER"] = os.environ["TIDEGATE_PEER_IDENTITY_HEADER"]
    refused(ResourceNotFoundError, client(ManagedIdentityCredential()).get_secret, fresh())
    del os.environ["IDENTITY_ENDPOINT"], os.environ["IDENTITY_HEADER"]


@check
def throttling():
    faults = os.environ["TIDEGATE_PEER_VAULT_ADDR"] + "/devstore/faults"
    headers = {"X-Vault-Token": os.environ["TIDEGATE_PEER_VAULT_TOKEN"]}
    vault = client()
    name = fresh()
    vault.set_secret(name, "true")
    rule = {"fault": "status", "status": 429, "retry_after": 1, "path": "/secrets/" + name, "times": 1}
    requests.post(faults, headers=headers, json=rule, timeout=30).raise_for_status()
    begin = time.monotonic()
    assert vault.get_secret(name).value == "true"
    assert time.monotonic() - begin >= 1, "the client waits as it was told, and tries again"
    requests.post(faults, headers=headers, json=rule, timeout=30).raise_for_status()
    throttled = refused(HttpResponseError, client(retry_total=0).get_secret, name)
    assert throttled.status_code == 429 and throttled.error.code == "Throttled"


def main():
    for function in CHECKS:
        try:
            function()
        except Exception as error:  # every check is named by its failure, whatever kind it is
            print(f"key_vault_azure: {function.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
            raise
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("azure-keyvault-secrets", "azure-identity"))
    print(f"{len(CHECKS)} checks with {versions}")


if __name__ == "__main__":
    main()
