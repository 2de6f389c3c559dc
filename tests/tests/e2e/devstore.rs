//! What `tidegate devstore` prints is enough to use it.
use crate::harness::{Process, Running, Site, eventually, tidegate};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lines_that_the_dev_store_prints_for_its_key_vault_side_are_enough_to_flip_a_stream() {
    let addresses = ["--listen", "127.0.0.1:0", "--key-vault-listen", "127.0.0.1:0"];
    let store = Process::spawn(tidegate(std::iter::once("devstore").chain(addresses)));
    let said = eventually("both sides", async || {
        let said = store.stdout();
        (said.ends_with('\n') && said.matches("secrets/orders--IsPaused").count() == 2).then_some(said)
    })
    .await;
    let from = said.find("[switch.azure_key_vault]").unwrap();
    let (provider, curls) = said[from..].split_once("\n\n").unwrap();
    let mut curls = curls.lines().filter(|line| line.starts_with("curl "));
    let (pause, resume) = (curls.next().unwrap(), curls.next().unwrap());
    let shell = async |line: &str| {
        let ran = Command::new("sh").args(["-c", line]).output().await.unwrap();
        assert!(
            ran.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
        String::from_utf8(ran.stdout).unwrap()
    };

    let mut site = Site::new().await;
    site.add("[[switch]]\nname = \"ops\"\nstreams = [\"orders\"]\ninterval = \"100ms\"\n")
        .add(provider)
        .file_stream("orders");
    let running = Running::start(&site).await;
    let client = &running.client;
    client.reads("ops", "missing").await;
    for (line, word) in [(resume, "running"), (pause, "paused"), (resume, "running")] {
        let answer = shell(line).await;
        assert!(answer.contains("/secrets/orders--IsPaused/"), "{answer}");
        client.reads("ops", word).await;
        client.reaches("orders", word).await;
    }
    running.stop().await;
    store.terminate();
    assert_eq!(store.end().await.code, Some(0));
}
