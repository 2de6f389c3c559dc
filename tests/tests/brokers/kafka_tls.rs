//! Kafka over TLS and with SCRAM, as a binary with `kafka-tls` talks to a real broker. The tests' own clients take the
//! plain listener: OpenSSL is too dear to build for every run of the other tests.
use crate::access::{
    EVENTS, Papers, only_the_right_file, only_the_wrong_file, says, secrets_of, shows_none_of, wrong,
};
use crate::kafka::{Kafka, Member, More, PARTITIONS, SUNK, run};
use crate::link::Link;
use crate::scenes::{self, Broker};
use crate::site::{Site, eventually, field};
use e2e::sidecar::Sidecar;
use serde_json::Value;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PASSWORD: &str = "the-right-password";
const NEXT_PASSWORD: &str = "the-next-password";

/// The binary that these tests are for; without one they say so, and `tests/peers/run.sh` always has one.
fn shipped() -> Option<PathBuf> {
    let given = std::env::var_os("TIDEGATE_SHIPPED").map(PathBuf::from);
    if given.is_none() {
        eprintln!("kafka over TLS: NOT RUN: TIDEGATE_SHIPPED names no binary with kafka-tls");
    }
    given
}

/// A broker that also listens over TLS: with a login (`SCRAM`), for those that show a certificate (`MUTUAL`), and with a
/// certificate of another name (`ELSEWHERE`).
struct Sealed {
    kafka: Kafka,
    papers: Papers,
}

impl Sealed {
    async fn new() -> Sealed {
        let papers = Papers::new();
        let store = |name: &str, host: &str| {
            let (certificate, key) = papers.signed(&papers.ours, host);
            std::fs::write(papers.path(name), key + &certificate).unwrap();
        };
        store("here.pem", "127.0.0.1");
        store("elsewhere.pem", "kafka.elsewhere.example");
        std::fs::write(papers.path("strangers.pem"), papers.strangers.pem()).unwrap();
        std::fs::write(papers.path("password"), PASSWORD).unwrap();
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let settings = format!(
            "ssl.keystore.type=PEM\nssl.keystore.location={here}/here.pem\n\
             ssl.truststore.type=PEM\nssl.truststore.location={here}/ours.pem\n\
             listener.name.elsewhere.ssl.keystore.type=PEM\n\
             listener.name.elsewhere.ssl.keystore.location={here}/elsewhere.pem\n\
             listener.name.mutual.ssl.client.auth=required\n\
             listener.name.mutual.ssl.truststore.type=PEM\n\
             listener.name.mutual.ssl.truststore.location={here}/ours.pem\n\
             sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512\n\
             listener.name.scram.scram-sha-256.sasl.jaas.config={scram}\n\
             listener.name.scram.scram-sha-512.sasl.jaas.config={scram}\n",
            here = papers.dir.path().display(),
        );
        let more = More {
            listeners: &[("SCRAM", "SASL_SSL"), ("MUTUAL", "SSL"), ("ELSEWHERE", "SSL")],
            users: &[
                &format!("SCRAM-SHA-512=[name=ana,password={PASSWORD}]"),
                &format!("SCRAM-SHA-256=[name=bo,password={PASSWORD}]"),
            ],
        };
        let kafka = Kafka::and(more, &settings, Vec::new()).await;
        kafka.create("orders", PARTITIONS).await;
        kafka.create("done", SUNK).await;
        Sealed { kafka, papers }
    }

    fn way(&self, listener: &str) -> &Link {
        &self.kafka.more[listener]
    }

    fn trusting(&self, authorities: &Path) -> String {
        format!("tls = true\nca_file = \"{}\"", authorities.display())
    }

    fn login(&self, method: &str, user: &str, password: &Path) -> String {
        let trusting = self.trusting(&self.papers.path("ours.pem"));
        format!(
            "{trusting}\nauth = {{ method = \"{method}\", user = \"{user}\", file = \"{}\" }}",
            password.display()
        )
    }

    /// A stream from the broker to the broker through one of its listeners.
    async fn sidecar(&self, site: &Site, name: &str, listener: &str, options: &str) -> Sidecar {
        let at = self.way(listener).address;
        let sink = format!("{}\n{options}", self.kafka.sink(at));
        site.sidecar(name, &self.kafka.source(at, options), &sink).await
    }

    async fn through(&self) -> usize {
        self.kafka.sunk().await.len()
    }

    /// Waits until so many are through, each once, and nothing is wrong any more.
    async fn well(&self, sidecar: &Sidecar, events: usize) {
        eventually("everything is through", async || self.through().await >= events).await;
        eventually("everything is acknowledged", async || {
            self.kafka.left().await == 0
        })
        .await;
        eventually("nothing is wrong any more", async || {
            field(sidecar, "error").await.is_null()
        })
        .await;
        assert_eq!(self.through().await, events);
        assert_eq!(field(sidecar, "dead_letters").await, 0);
    }

    /// Has the broker know ana by the next password.
    async fn next_password(&self) {
        let next = format!("SCRAM-SHA-512=[password={NEXT_PASSWORD}]");
        let ana = ["--entity-type", "users", "--entity-name", "ana"];
        self.change(&[&ana[..], &["--add-config", &next]].concat()).await;
    }

    /// Changes something while the broker runs.
    async fn change(&self, args: &[&str]) {
        let at = self.kafka.server.address.to_string();
        let mut all = vec!["--bootstrap-server", &at, "--alter"];
        all.extend_from_slice(args);
        run("kafka.admin.ConfigCommand", &all).await;
    }
}

/// As the scenes of all brokers see it: over TLS, with SCRAM-SHA-512.
impl Broker for Sealed {
    const NAME: &'static str = "kafka over TLS with SCRAM-SHA-512";
    const LEASE: Duration = Kafka::LEASE;
    const SEQUENCES: usize = Kafka::SEQUENCES;
    type Rival = Member;

    async fn start() -> Sealed {
        Sealed::new().await
    }

    fn site(&self) -> Site {
        Site::of(&shipped().unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.way("SCRAM").address
    }

    async fn link(&self) -> Link {
        self.way("SCRAM").clone()
    }

    async fn kill(&mut self) {
        self.kafka.kill().await;
    }

    async fn start_again(&mut self) {
        self.kafka.start_again().await;
    }

    fn source(&self, at: SocketAddr, options: &str) -> String {
        let login = self.login("scram-sha-512", "ana", &self.papers.path("password"));
        self.kafka.source(at, &format!("{login}\n{options}"))
    }

    fn sink(&self, at: SocketAddr) -> String {
        let login = self.login("scram-sha-512", "ana", &self.papers.path("password"));
        format!("{}\n{login}", self.kafka.sink(at))
    }

    async fn produce(&self, numbers: Range<usize>) {
        self.kafka.produce(numbers).await;
    }

    async fn rival(&self) -> Member {
        self.kafka.rival().await
    }

    async fn shared_by(&self, members: usize) {
        self.kafka.shared_by(members).await;
    }

    async fn shares(&self) -> String {
        self.kafka.shares().await
    }

    async fn left(&self) -> usize {
        self.kafka.left().await
    }

    async fn sunk(&self) -> Vec<String> {
        self.kafka.sunk().await
    }
}

#[tokio::test]
async fn kafka_over_tls_with_scram_a_long_pause_is_not_noticed_by_the_group() {
    if shipped().is_some() {
        scenes::long_pause::<Sealed>().await;
    }
}

#[tokio::test]
async fn kafka_over_tls_to_kafka_over_tls_keeps_the_order_of_each_partition_and_repeats_nothing() {
    if shipped().is_some() {
        scenes::broker_to_broker::<Sealed>().await;
    }
}

#[tokio::test]
async fn kafka_over_tls_kills_of_sidecar_broker_and_link_lose_nothing() {
    if shipped().is_some() {
        scenes::chaos::<Sealed>().await;
    }
}

#[tokio::test]
async fn kafka_a_scram_password_is_read_again_at_each_attempt_and_a_rotated_one_counts() {
    let Some(program) = shipped() else { return };
    let sealed = Sealed::new().await;
    sealed.kafka.produce(0..EVENTS).await;
    let site = Site::of(&program);
    let password = site.path("password");
    let wrongs = [wrong("a-wrong-password\n", &["Authentication failed"])];
    std::fs::write(&password, &wrongs[0].text).unwrap();
    let login = sealed.login("scram-sha-512", "ana", &password);
    let sidecar = sealed.sidecar(&site, "one", "SCRAM", &login).await;
    let through = async || sealed.through().await;
    let sidecar = only_the_right_file(sidecar, &site, &password, &wrongs, PASSWORD, through).await;

    sealed.next_password().await;
    // The broker asks again where a connection is new.
    sealed.way("SCRAM").cut();
    sealed.kafka.produce(EVENTS..EVENTS + 5).await;
    sealed.way("SCRAM").mend();
    says(&sidecar, &["Authentication failed"]).await;
    site.flip(&[&sidecar], true).await;
    site.flag(false);
    assert_eq!(sealed.through().await, EVENTS);
    std::fs::write(&password, format!("{NEXT_PASSWORD}\n")).unwrap();
    sealed.well(&sidecar, EVENTS + 5).await;
    shows_none_of(&sidecar, &[NEXT_PASSWORD.into(), PASSWORD.into()]).await;
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn kafka_scram_sha_256_opens_and_a_wrong_password_or_mechanism_is_said_and_not_shown() {
    let Some(program) = shipped() else { return };
    let sealed = Sealed::new().await;
    sealed.kafka.produce(0..EVENTS).await;
    let site = Site::of(&program);
    let password = site.path("password");
    // The broker knows bo by SHA-256 alone.
    std::fs::write(&password, PASSWORD).unwrap();
    let login = sealed.login("scram-sha-512", "bo", &password);
    let sidecar = sealed.sidecar(&site, "zero", "SCRAM", &login).await;
    says(&sidecar, &["Authentication failed"]).await;
    sidecar.stop().await.unwrap();

    let wrongs = [wrong("a-wrong-password\n", &["Authentication failed"])];
    std::fs::write(&password, &wrongs[0].text).unwrap();
    let login = sealed.login("scram-sha-256", "bo", &password);
    let sidecar = sealed.sidecar(&site, "one", "SCRAM", &login).await;
    let through = async || sealed.through().await;
    let sidecar = only_the_right_file(sidecar, &site, &password, &wrongs, PASSWORD, through).await;
    sealed.well(&sidecar, EVENTS).await;
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn kafka_tls_trusts_the_given_authority_alone() {
    let Some(program) = shipped() else { return };
    let sealed = Sealed::new().await;
    sealed.kafka.produce(0..EVENTS).await;
    let site = Site::of(&program);
    let refused = ["certificate verify failed", "ca_file", "UnknownIssuer"];

    // The system's authorities have not signed it.
    let password = sealed.papers.path("password");
    let auth = format!(
        "tls = true\nauth = {{ method = \"scram-sha-512\", user = \"ana\", file = \"{}\" }}",
        password.display()
    );
    let sidecar = sealed.sidecar(&site, "zero", "SCRAM", &auth).await;
    says(&sidecar, &["certificate verify failed"]).await;
    assert_eq!(sealed.through().await, 0);
    sidecar.stop().await.unwrap();

    let authorities = site.path("ca.pem");
    let trusted = sealed.papers.path("ours.pem").display().to_string();
    let login = sealed.login("scram-sha-512", "ana", &password);
    let login = login.replace(&trusted, &authorities.display().to_string());
    let sidecar = sealed.sidecar(&site, "one", "SCRAM", &login).await;
    says(&sidecar, &["ca.pem", "No such file"]).await;
    let wrongs = [wrong("no certificate at all\n", &["ca.pem", "ssl.ca.location"])];
    only_the_wrong_file(&sidecar, &authorities, &wrongs).await;
    let wrongs = [wrong(sealed.papers.strangers.pem(), &refused)];
    let through = async || sealed.through().await;
    let right = sealed.papers.ours.pem();
    let sidecar = only_the_right_file(sidecar, &site, &authorities, &wrongs, &right, through).await;
    sealed.well(&sidecar, EVENTS).await;
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn kafka_tls_a_broker_with_a_certificate_of_another_name_is_refused_and_said() {
    let Some(program) = shipped() else { return };
    let sealed = Sealed::new().await;
    sealed.kafka.produce(0..EVENTS).await;
    let site = Site::of(&program);
    let ours = sealed.trusting(&sealed.papers.path("ours.pem"));
    let sidecar = sealed.sidecar(&site, "one", "ELSEWHERE", &ours).await;
    let another = [
        "certificate verify failed",
        "not valid for name \"127.0.0.1\"",
        "kafka.elsewhere.example",
    ];
    says(&sidecar, &another).await;
    site.flip(&[&sidecar], true).await;
    site.flag(false);
    says(&sidecar, &another).await;
    assert_eq!(sealed.through().await, 0);
    sidecar.stop().await.unwrap();

    // The sink too: nothing is written, and nothing lost.
    let input = site.path("in");
    std::fs::write(&input, "1\n").unwrap();
    let source = format!("type = \"file\"\nfollow = true\npath = \"{}\"", input.display());
    let at = sealed.way("ELSEWHERE").address;
    let sink = format!("{}\n{ours}", sealed.kafka.sink(at));
    let sidecar = site.sidecar("two", &source, &sink).await;
    says(&sidecar, &another).await;
    assert_eq!(sealed.through().await, 0);
    assert_eq!(field(&sidecar, "dead_letters").await, 0);
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn kafka_tls_shows_the_clients_certificate_and_a_rotated_one_counts() {
    let Some(program) = shipped() else { return };
    let sealed = Sealed::new().await;
    let papers = &sealed.papers;
    sealed.kafka.produce(0..EVENTS).await;
    let site = Site::of(&program);
    let trusting = sealed.trusting(&papers.path("ours.pem"));

    let sidecar = sealed.sidecar(&site, "zero", "MUTUAL", &trusting).await;
    says(&sidecar, &["alert", "cert_file, or that there is none"]).await;
    site.flip(&[&sidecar], true).await;
    site.flag(false);
    assert_eq!(sealed.through().await, 0);
    sidecar.stop().await.unwrap();

    let both = site.path("tide.pem");
    let options = format!(
        "{trusting}\ncert_file = \"{0}\"\nkey_file = \"{0}\"",
        both.display()
    );
    let sidecar = sealed.sidecar(&site, "one", "MUTUAL", &options).await;
    says(&sidecar, &["tide.pem", "No such file"]).await;
    let wrongs = [wrong(
        "neither one nor the other\n",
        &["tide.pem", "ssl.certificate.location"],
    )];
    only_the_wrong_file(&sidecar, &both, &wrongs).await;
    let wrongs = [wrong(papers.both(&papers.strangers), &["alert", "cert_file"])];
    let right = papers.both(&papers.ours);
    let through = async || sealed.through().await;
    let sidecar = only_the_right_file(sidecar, &site, &both, &wrongs, &right, through).await;
    sealed.well(&sidecar, EVENTS).await;

    // From here on the broker wants certificates of the other authority.
    let strangers = papers.path("strangers.pem");
    let store = format!(
        "listener.name.mutual.ssl.truststore.location={}",
        strangers.display()
    );
    sealed
        .change(&[
            "--entity-type",
            "brokers",
            "--entity-name",
            "1",
            "--add-config",
            &store,
        ])
        .await;
    sealed.way("MUTUAL").cut();
    sealed.kafka.produce(EVENTS..EVENTS + 5).await;
    sealed.way("MUTUAL").mend();
    says(&sidecar, &["alert", "cert_file"]).await;
    site.flip(&[&sidecar], true).await;
    site.flag(false);
    assert_eq!(sealed.through().await, EVENTS);
    let next = papers.both(&papers.strangers);
    std::fs::write(&both, &next).unwrap();
    sealed.well(&sidecar, EVENTS + 5).await;
    shows_none_of(&sidecar, &secrets_of(&(right + &next))).await;
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn kafka_a_sink_over_tls_goes_on_with_a_rotated_password() {
    let Some(program) = shipped() else { return };
    let sealed = Sealed::new().await;
    let site = Site::of(&program);
    let password = site.path("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let input = site.path("in");
    std::fs::write(&input, "1\n").unwrap();
    let source = format!("type = \"file\"\nfollow = true\npath = \"{}\"", input.display());
    let login = sealed.login("scram-sha-512", "ana", &password);
    let sink = format!("{}\n{login}", sealed.kafka.sink(sealed.address()));
    let sidecar = site.sidecar("one", &source, &sink).await;
    eventually("the first is through", async || sealed.through().await == 1).await;
    sealed.next_password().await;
    sealed.way("SCRAM").cut();
    // Written anew it would be empty for a moment, and its first line would come again.
    let mut more = std::fs::OpenOptions::new().append(true).open(&input).unwrap();
    std::io::Write::write_all(&mut more, b"2\n").unwrap();
    says(&sidecar, &["cannot reach any of"]).await;
    sealed.way("SCRAM").mend();
    says(&sidecar, &["Authentication failed"]).await;
    std::fs::write(&password, NEXT_PASSWORD).unwrap();
    eventually("the second is through", async || sealed.through().await == 2).await;
    eventually("nothing is wrong any more", async || {
        field(&sidecar, "error").await == Value::Null
    })
    .await;
    shows_none_of(&sidecar, &[NEXT_PASSWORD.into(), PASSWORD.into()]).await;
    sidecar.stop().await.unwrap();
}
