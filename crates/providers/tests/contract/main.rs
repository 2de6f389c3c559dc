//! What every provider promises, checked against the real thing: one line a provider, at the end of this file.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod azure_key_vault;
mod bench;
mod file;
mod fixed;
mod policy;
mod reading;
mod twin;
mod vault;
mod vault_logins;

/// All promises, for each provider.
macro_rules! contract {
    ($($name:ident: $bench:ty,)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn a_flag_is_read_as_it_was_written() {
                reading::a_flag_is_read_as_it_was_written::<$bench>().await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn the_version_changes_with_the_secret_and_only_then() {
                reading::the_version_changes_with_the_secret_and_only_then::<$bench>().await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn each_ailment_is_told_by_its_name_and_nothing_of_the_value() {
                reading::each_ailment_is_told_by_its_name_and_nothing_of_the_value::<$bench>().await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn a_read_that_is_dropped_leaves_the_provider_whole() {
                reading::a_read_that_is_dropped_leaves_the_provider_whole::<$bench>().await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn equal_secrets_have_equal_ids_and_others_do_not() {
                reading::equal_secrets_have_equal_ids_and_others_do_not::<$bench>().await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn every_cell_of_the_policy_has_the_documented_outcome() {
                policy::every_cell_of_the_policy_has_the_documented_outcome::<$bench>().await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn a_flip_pauses_and_a_flip_back_resumes() {
                policy::a_flip_pauses_and_a_flip_back_resumes::<$bench>().await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn an_unrelated_change_releases_nobodys_hold() {
                policy::an_unrelated_change_releases_nobodys_hold::<$bench>().await;
            }
        }
    )*};
}

contract! {
    a_file: file::OneFile,
    a_mounted_volume: file::Volume,
    vault_kv_2: vault::Kv2,
    vault_kv_1: vault::Kv1,
    azure_key_vault_secret: azure_key_vault::KeyVault,
    fixed_in_memory: fixed::Memory,
}
