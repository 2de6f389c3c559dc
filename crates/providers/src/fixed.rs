//! A secret held in memory and set by hand: for embedders that have a switch of their own, and for tests.
use crate::{Body, Fields, Provider, ReadError, ReadFuture, Secret};
use secrecy::{ExposeSecret, SecretString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tidegate_gate::{Name, Version};

/// A provider that returns what its [`FixedHand`] last set.
#[derive(Clone, Debug)]
pub struct Fixed {
    id: Name,
    cell: Arc<Mutex<Cell>>,
}

/// Sets what a [`Fixed`] provider returns.
#[derive(Clone, Debug)]
pub struct FixedHand(Arc<Mutex<Cell>>);

#[derive(Debug)]
struct Cell {
    outcome: Result<SecretString, ReadError>,
    serial: u64,
    written: Option<SystemTime>,
}

impl Fixed {
    /// A provider that holds `text`, and the hand that changes it. `name` tells it from other secrets in memory.
    pub fn new(name: &str, text: &str) -> (Fixed, FixedHand) {
        let cell = Arc::new(Mutex::new(Cell {
            outcome: Ok(text.into()),
            serial: 1,
            written: None,
        }));
        let fixed = Fixed {
            id: format!("fixed {name}").into(),
            cell: cell.clone(),
        };
        (fixed, FixedHand(cell))
    }
}

impl FixedHand {
    /// Sets the secret's text, which is a new version: `true`, `false`, or an object as JSON.
    pub fn set_text(&self, text: &str) {
        let mut cell = lock(&self.0);
        cell.outcome = Ok(text.into());
        cell.serial += 1;
    }

    /// Sets the secret's text together with its version, which may be an older one, as a lagging replica serves it.
    pub fn set_version(&self, text: &str, serial: u64, written: Option<SystemTime>) {
        let mut cell = lock(&self.0);
        *cell = Cell {
            outcome: Ok(text.into()),
            serial,
            written,
        };
    }

    /// Makes every read fail until a text is set again.
    pub fn fail(&self, error: ReadError) {
        lock(&self.0).outcome = Err(error);
    }
}

impl Provider for Fixed {
    fn id(&self) -> Name {
        self.id.clone()
    }

    fn kind(&self) -> &'static str {
        "fixed"
    }

    fn read(&mut self) -> ReadFuture<'_> {
        let cell = lock(&self.cell);
        let outcome = cell.outcome.as_ref().map_err(Clone::clone).map(|text| Secret {
            // As a store with fields would hand it out, where it is an object.
            body: match serde_json::from_str::<Fields>(text.expose_secret()) {
                Ok(fields) => Body::Fields(fields),
                Err(_) => Body::Text(text.clone()),
            },
            version: Version {
                id: cell.serial.to_string().into(),
                written: cell.written,
            },
            serial: Some(cell.serial),
            warnings: Vec::new(),
        });
        Box::pin(std::future::ready(outcome))
    }
}

fn lock(cell: &Mutex<Cell>) -> MutexGuard<'_, Cell> {
    // Every critical section leaves the cell whole.
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}
