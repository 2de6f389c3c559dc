//! One contract, judged at three targets: the dev store, a real Vault or OpenBao, a real Key Vault.
//!
//! `cargo test` runs it at the dev store. `TIDEGATE_TEST_TARGET=vault` runs the Vault half at a real server (`target.rs` says
//! which), `TIDEGATE_TEST_TARGET=key_vault` the Key Vault half; `tests/peers/run.sh` does both. The transcripts in
//! `snapshots/` are what real servers answered: where the dev store differs from them, the dev store is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says which target it judged"
)]

mod key_vault;
mod process;
mod readings;
mod scenes;
mod target;
mod transcript;

use reqwest::Method;
use target::Target;
use tidegate_devstore::{Fault, Rule};

#[tokio::test(flavor = "multi_thread")]
async fn every_exchange_with_a_vault_goes_as_it_went_with_a_real_one() {
    let target = Target::vault().await;
    for (name, transcript) in scenes::all(&target).await {
        println!("{}: {name}", target.name());
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, transcript);
        });
    }
}

/// The judge itself: a store that gets one answer wrong must not pass.
#[tokio::test(flavor = "multi_thread")]
async fn the_transcript_of_a_store_that_forgets_a_deletion_is_another() {
    let target = Target::devstore().await;
    let right = scenes::kv_2_deletion(&target).await;
    let twin = Target::devstore().await;
    let forgets = Fault::status(404).body("application/json", r#"{"errors":[]}"#);
    let rule = Rule::new(forgets)
        .path("/v1/c-kv2/data/gone")
        .method(Method::GET)
        .times(1);
    twin.devstore.as_ref().unwrap().faults().add(rule);
    let wrong = scenes::kv_2_deletion(&twin).await;
    assert_ne!(
        right, wrong,
        "a deleted version without its body passes for one that never was"
    );
}
