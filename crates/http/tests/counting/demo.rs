//! The README of Hiatus for Spring Boot, step by step, against the example.
#[allow(dead_code, reason = "the example's own `main`")]
#[path = "../../examples/hiatus_demo.rs"]
mod hiatus_demo;

use crate::support::{Leave, client, serve, until};
use serde_json::{Value, json};

#[tokio::test]
async fn every_step_of_the_originals_readme_answers_as_it_says() {
    let leave = Leave::default();
    let work = leave.clone();
    let app = hiatus_demo::app(move || {
        let leave = work.clone();
        async move { leave.0.acquire().await.unwrap().forget() }
    })
    .unwrap();
    let addr = serve(app).await.addr;
    let ask = |method: &'static str, path: &'static str| async move {
        let url = format!("http://{addr}{path}");
        let answer = client()
            .request(method.parse().unwrap(), url)
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        (
            status,
            serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap(),
        )
    };
    let hiatus = |paused: bool, count: u64| {
        let status = if paused { 503 } else { 200 };
        (status, json!({"paused": paused, "count": count}))
    };

    let (status, health) = ask("GET", "/actuator/health").await;
    assert_eq!((status, &health["status"]), (200, &json!("UP")));
    assert_eq!(health["diskSpace"]["status"], "UP");
    assert!(health["diskSpace"]["total"].as_u64() >= health["diskSpace"]["free"].as_u64());
    assert_eq!(
        health["hiatus"],
        json!({"status": "UP", "paused": false, "count": 0})
    );
    assert_eq!(ask("GET", "/actuator/hiatus").await, hiatus(false, 0));

    let requests: Vec<_> = (0..3)
        .map(|_| tokio::spawn(client().get(format!("http://{addr}/test")).send()))
        .collect();
    while ask("GET", "/actuator/hiatus").await != hiatus(false, 3) {}

    assert_eq!(ask("POST", "/actuator/hiatus-on").await, (200, json!(true)));
    assert_eq!(
        ask("POST", "/actuator/hiatus-on").await,
        (200, json!(false)),
        "it is already"
    );
    let (status, health) = ask("GET", "/actuator/health").await;
    assert_eq!((status, &health["status"]), (503, &json!("OUT_OF_SERVICE")));
    assert_eq!(
        health["hiatus"],
        json!({"status": "OUT_OF_SERVICE", "paused": true, "count": 3})
    );
    assert_eq!(ask("GET", "/actuator/hiatus").await, hiatus(true, 3));

    leave.0.add_permits(3);
    for request in requests {
        let answer = request.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "Done");
    }
    while ask("GET", "/actuator/hiatus").await != hiatus(true, 0) {}

    assert_eq!(ask("POST", "/actuator/hiatus-off").await, (200, json!(true)));
    assert_eq!(
        ask("POST", "/actuator/hiatus-off").await,
        (200, json!(false)),
        "it works already"
    );
    assert_eq!(ask("GET", "/actuator/hiatus").await, hiatus(false, 0));

    // On hiatus new requests are still served: taking it out is the balancer's part.
    assert_eq!(ask("POST", "/actuator/hiatus-on").await, (200, json!(true)));
    leave.0.add_permits(1);
    let answer = client().get(format!("http://{addr}/test")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    until("the permit is used", || leave.0.available_permits() == 0).await;
}
