#!/bin/sh
# What Azure has to know, once: an identity for the pods, and the right to read one secret. The vault uses role-based
# access. Run by whoever administers it: GROUP, CLUSTER_ISSUER (the cluster's OIDC issuer) and VAULT are theirs.
set -eu
: "${GROUP:?}" "${CLUSTER_ISSUER:?}" "${VAULT:?}"
secret=$(az keyvault show --name "$VAULT" --query id --output tsv)/secrets/orders--IsPaused

# identity NAME SERVICE_ACCOUNT ROLE: pods that run as that service account have ROLE on the one secret.
identity() {
    az identity create --resource-group "$GROUP" --name "$1" --output none
    az identity federated-credential create --resource-group "$GROUP" --identity-name "$1" --name kubernetes \
        --issuer "$CLUSTER_ISSUER" --subject "system:serviceaccount:orders:$2" \
        --audiences api://AzureADTokenExchange --output none
    principal=$(az identity show --resource-group "$GROUP" --name "$1" --query principalId --output tsv)
    az role assignment create --assignee-object-id "$principal" --assignee-principal-type ServicePrincipal \
        --role "$3" --scope "$secret" --output none
    az identity show --resource-group "$GROUP" --name "$1" --query clientId --output tsv
}

# Reads, on this one secret only. The client id that it prints goes into tidegate.toml.
identity orders-flag orders "Key Vault Secrets User"
# For the maintenance Job, which flips it.
identity orders-flag-write orders-maintenance "Key Vault Secrets Officer"
