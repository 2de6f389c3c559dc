//! A loop of your own, paused by a secret: the crates without the sidecar.
//!
//! ```text
//! cargo run -- devstore                                        # a store; prints VAULT_ADDR, VAULT_TOKEN
//! VAULT_ADDR=… VAULT_TOKEN=… cargo run -p tidegate --example embed
//! vault kv put secret/streams/orders IsPaused=true             # or the curl line that devstore prints
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
use futures_util::{Stream, StreamExt, stream};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tidegate_gate::{Clock, GatedExt, Holds, Kind, Life, Moment};
use tidegate_providers::{Poller, Switch, Vault, VaultAuth, VaultConfig};
use tidegate_runtime::herald;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Every TLS connection needs one; a process chooses it once.
    let _ = rustls::crypto::ring::default_provider().install_default();

    // The board: which streams there are and who holds them.
    let holds = Holds::new(Clock::new(|| Moment {
        wall: SystemTime::now(),
        mono: tokio::time::Instant::now().into_std(),
    }));
    let orders = holds.register("orders", Kind::Stream)?;

    // One switch: a secret that is polled each second. Until its first good reading it holds the stream.
    let store = Vault::new(VaultConfig {
        address: std::env::var("VAULT_ADDR").unwrap_or_else(|_| "http://127.0.0.1:8200".into()),
        namespace: None,
        mount: "secret".into(),
        path: "streams/orders".into(),
        kv: 2,
        ca_file: None,
        allow_plaintext: false,
        auth: VaultAuth::Token {
            env: Some("VAULT_TOKEN".into()),
            file: None,
        },
    })?;
    let switch = Switch::new("ops", ["orders"]);
    let poller = Poller::bind(
        holds.clone(),
        vec![(switch, Box::new(store))],
        fastrand::u64(..),
        (),
    )?;
    let stop = CancellationToken::new();
    for task in poller.tasks(&stop) {
        tokio::spawn(task);
    }
    // Turns the proofs of pauses into states, and ends holds whose time has come.
    tokio::spawn(herald(holds.clone(), stop.clone()));
    tokio::spawn(tell(holds.clone()));

    // Until then its state is `starting`.
    orders.set_life(Life::Up);
    // Any `futures` stream; here a tick. Each item carries the unit of work that counts it: drop both together, when the
    // item's effect is done, and `paused` means that nothing of it is still running.
    let mut events = std::pin::pin!(ticks().gated(orders.gate()));
    while let Some(event) = events.next().await {
        println!("event {}", *event);
    }
    Ok(())
}

fn ticks() -> impl Stream<Item = u64> {
    stream::unfold(0, async |n| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Some((n, n + 1))
    })
}

/// A line for each change of state, and who holds.
async fn tell(holds: Arc<Holds>) {
    let mut board = holds.watch();
    let mut said = String::new();
    loop {
        for stream in &board.borrow_and_update().streams {
            let who: Vec<String> = stream.holds.iter().map(|(who, _)| who.to_string()).collect();
            let line = format!("{} is {} {}", stream.name, stream.state.word(), who.join(", "));
            if line != said {
                println!("{line}");
                said = line;
            }
        }
        if board.changed().await.is_err() {
            return;
        }
    }
}
