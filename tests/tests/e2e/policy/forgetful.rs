//! The broken twin: a store to which something that is gone means `false`, as systems that copy secrets into files or
//! into a configuration have it. The very same cells must fail over it.
use super::{Before, Kind, Options, Store, cell};
use crate::harness::Site;
use serde_json::Value;

#[derive(Clone, Copy, Debug)]
struct Forgetful;

impl Store for Forgetful {
    fn shows(&self) -> (&'static str, Kind) {
        ("running", Kind::Absent)
    }

    fn is_model(&self) -> bool {
        true
    }

    fn provider(&self, _: &Site) -> String {
        "file = { path = \"{dir}/copy\" }".into()
    }

    fn patience(&self) -> &'static str {
        "5s"
    }

    fn prepare(&self, _: &Site) {}

    fn put(&self, site: &Site, paused: bool, _: &Value) {
        site.write("copy", &paused.to_string());
    }

    async fn spoil(&self, site: &Site) {
        // The secret was deleted, and this is what is copied then.
        self.flag(site, false);
    }

    async fn mend(&self, _: &Site) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twin_a_store_to_which_gone_means_false_is_caught() {
    for before in Before::ALL {
        for options in Options::groups(before, false) {
            let caught = cell(Forgetful, before, options).await;
            let caught =
                caught.expect_err("the cells cannot tell a pause that was lost from one that was kept");
            assert!(caught.contains("expected to be held"), "{caught}");
        }
    }
}
