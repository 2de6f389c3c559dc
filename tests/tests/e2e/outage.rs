//! A flip that is made while nobody can see it.
use crate::harness::{Client, Running, Site, append, eventually, rows, text_of};
use std::time::Duration;
use tidegate_devstore::{Fault, Rule};
use tidegate_gate::Snapshot;

const RETRY_MAX: Duration = Duration::from_millis(400);
const OPTIONS: &str = "retry_max = \"400ms\"\ntimeout = \"300ms\"";

#[derive(Clone, Copy, Debug)]
enum Outage {
    Refused,
    Hangs,
    Garbage,
}

impl Outage {
    async fn begin(self, store: Store, site: &Site) {
        let fault = |fault| {
            site.store.faults().add(Rule::new(fault));
        };
        match (self, store) {
            (Outage::Refused, Store::Vault) => site.store.vault_offline().await.unwrap(),
            (Outage::Refused, Store::KeyVault) => site.store.key_vault_offline().await.unwrap(),
            (Outage::Hangs, _) => fault(Fault::Hang),
            (Outage::Garbage, _) => fault(Fault::Garbage),
        }
    }

    async fn end(self, store: Store, site: &Site) {
        match (self, store) {
            (Outage::Refused, Store::Vault) => site.store.vault_online().await.unwrap(),
            (Outage::Refused, Store::KeyVault) => site.store.key_vault_online().await.unwrap(),
            (Outage::Hangs | Outage::Garbage, _) => site.store.faults().clear(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Store {
    Vault,
    KeyVault,
}

impl Store {
    /// A site with a switch `ops` on a flag of this store, and a stream `orders`.
    async fn site(self, paused: bool) -> Site {
        let mut site = match self {
            Store::Vault => Site::new().await,
            Store::KeyVault => Site::with_key_vault().await,
        };
        self.flag(&site, paused);
        match self {
            Store::Vault => site.vault_switch("ops", &["orders"], "streams/orders", OPTIONS),
            Store::KeyVault => site.key_vault_switch("ops", &["orders"], "orders--IsPaused", OPTIONS),
        };
        site.file_stream("orders");
        site
    }

    /// Writes a flag past the wire and returns its version.
    fn flag(self, site: &Site, paused: bool) -> String {
        match self {
            Store::Vault => site.flag("streams/orders", paused).to_string(),
            Store::KeyVault => site.key_vault_flag("orders--IsPaused", paused),
        }
    }
}

async fn polls(client: &Client, outcome: &str) -> f64 {
    let series = format!("tidegate_polls_total{{switch=\"ops\",outcome=\"{outcome}\"}}");
    client.metric(&series).await.unwrap_or_default()
}

/// How long until the next poll, as the board says; nothing while one is under way.
fn until_next_poll(now: &Snapshot) -> Duration {
    let next = now.switch("ops").unwrap().next_poll.unwrap();
    next.saturating_duration_since(now.mono)
}

/// The delay before the next poll is never longer than `retry_max`, and the first poll that begins after the store is
/// back applies the flip: together, that is the current delay plus one `timeout`, said without a clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_during_an_outage_is_applied_by_the_first_poll_after_it_and_that_is_never_far() {
    flips_during_outages(Store::Vault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_is_one_during_an_outage_of_key_vault() {
    flips_during_outages(Store::KeyVault).await;
}

async fn flips_during_outages(store: Store) {
    for outage in [Outage::Refused, Outage::Hangs, Outage::Garbage] {
        for paused in [true, false] {
            let (before, after) = if paused {
                ("running", "paused")
            } else {
                ("paused", "running")
            };
            let site = store.site(!paused).await;
            let running = Running::start(&site).await;
            let client = &running.client;
            client.reads("ops", before).await;
            client.reaches("orders", before).await;

            outage.begin(store, &site).await;
            client.reads("ops", "unavailable").await;
            let version = store.flag(&site, paused);
            eventually("the delay has had time to grow", async || {
                let now = running.holds.snapshot();
                let delay = until_next_poll(&now);
                assert!(delay <= RETRY_MAX, "{outage:?}: {delay:?}");
                assert_eq!(now.stream("orders").unwrap().state.word(), before, "{outage:?}");
                (polls(client, "unavailable").await >= 5.0).then_some(())
            })
            .await;

            outage.end(store, &site).await;
            assert!(
                until_next_poll(&running.holds.snapshot()) <= RETRY_MAX,
                "{outage:?}"
            );
            let failures = polls(client, "unavailable").await;
            let status = client.reaches("orders", after).await;
            let switch = client.reads("ops", after).await;
            assert_eq!(switch["version"], version, "{outage:?}");
            // One may have been under way when the store came back, and may fail yet.
            let more = polls(client, "unavailable").await - failures;
            assert!(
                more <= 1.0,
                "{outage:?}: {more} polls in vain after the store was back; {status}"
            );
            running.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_that_is_taken_back_during_an_outage_moves_nothing() {
    let mut site = Site::new().await;
    site.flag("streams/orders", true);
    site.vault_switch("ops", &["orders"], "streams/orders", OPTIONS)
        .file_stream("orders");
    let running = Running::start(&site).await;
    let client = &running.client;
    client.reads("ops", "paused").await;
    append(&site.source("orders"), &rows(0..10));

    site.store.vault_offline().await.unwrap();
    client.reads("ops", "unavailable").await;
    site.flag("streams/orders", false);
    client.poll().await;
    let version = site.flag("streams/orders", true);
    site.store.vault_online().await.unwrap();
    let switch = client.reads("ops", "paused").await;
    assert_eq!(switch["version"], version.to_string());
    assert_eq!(polls(client, "running").await, 0.0);
    assert_eq!(client.stream("orders").await["state"], "paused");
    assert_eq!(text_of(&site.sink("orders")), "");
    running.stop().await;
}
