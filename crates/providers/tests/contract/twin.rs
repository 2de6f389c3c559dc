//! A provider as careless people write it: what cannot be read counts as "not paused". The suite must catch it.
use crate::bench::Bench;
use crate::fixed::Memory;
use secrecy::SecretString;
use tidegate_gate::{Name, Version};
use tidegate_providers::{Body, Provider, ReadFuture, Secret};

pub(crate) struct Careless(Memory);

struct Forgiving(Box<dyn Provider>);
impl Provider for Forgiving {
    fn id(&self) -> Name {
        self.0.id()
    }
    fn kind(&self) -> &'static str {
        self.0.kind()
    }
    fn read(&mut self) -> ReadFuture<'_> {
        Box::pin(async {
            Ok(self.0.read().await.unwrap_or_else(|_| Secret {
                body: Body::Text(SecretString::from("false")),
                version: Version {
                    id: "none".into(),
                    written: None,
                },
                serial: None,
                warnings: Vec::new(),
            }))
        })
    }
}

impl Bench for Careless {
    async fn open() -> Self {
        Careless(Memory::open().await)
    }
    fn provider(&self) -> Box<dyn Provider> {
        Box::new(Forgiving(self.0.provider()))
    }
    fn other(&self) -> Box<dyn Provider> {
        Box::new(Forgiving(self.0.other()))
    }
    async fn set(&self, fields: &[(&str, &str)]) {
        self.0.set(fields).await;
    }
    fn ailments(&self) -> Vec<(&'static str, &'static str)> {
        self.0.ailments()
    }
    async fn ail(&self, way: &str) {
        self.0.ail(way).await;
    }
    async fn heal(&self) {}
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "missing: Seen")]
async fn who_resumes_because_something_went_away_is_caught() {
    crate::reading::each_ailment_is_told_by_its_name_and_nothing_of_the_value::<Careless>().await;
}
