#!/bin/sh
# What Vault has to know, once: who may read the flag, and who may write it. Run by whoever administers Vault.
set -eu

# Read, on the one data path, and nothing else: tidegate neither lists nor writes, and needs no metadata.
vault policy write orders-flag - <<'POLICY'
path "secret/data/streams/orders" {
  capabilities = ["read"]
}
POLICY

vault write auth/kubernetes/role/orders \
    bound_service_account_names=orders \
    bound_service_account_namespaces=orders \
    audience=vault \
    token_policies=orders-flag \
    token_ttl=20m

# For the maintenance Job, which flips it.
vault policy write orders-flag-write - <<'POLICY'
path "secret/data/streams/orders" {
  capabilities = ["create", "update", "patch"]
}
POLICY

vault write auth/kubernetes/role/orders-maintenance \
    bound_service_account_names=orders-maintenance \
    bound_service_account_namespaces=orders \
    audience=vault \
    token_policies=orders-flag-write \
    token_ttl=10m
