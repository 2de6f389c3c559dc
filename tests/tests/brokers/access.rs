//! Who may do what at real servers: logins of every kind, wrong and then right; certificates; permissions that are
//! refused and granted later.
use crate::server::{Server, free_port};
use crate::site::{Site, eventually, field};
use async_nats::ConnectOptions;
use async_nats::jetstream::{self, Context, stream};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::sidecar::{Sidecar, signal};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair as TlsKey};
use redis::{Client, Value, cmd};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tempfile::TempDir;

/// So many events go through each stream.
pub(crate) const EVENTS: usize = 20;

// --- what every login has to show ------------------------------------------------------------------------------------

/// The error of the stream, once it says all of this.
pub(crate) async fn says(sidecar: &Sidecar, words: &[&str]) -> String {
    let mut error = String::new();
    eventually(&format!("the error says {words:?}"), async || {
        let stream = sidecar.stream("orders").await.unwrap();
        error = stream["error"].as_str().unwrap_or_default().to_owned();
        words.iter().all(|word| error.contains(word))
    })
    .await;
    error
}

/// Nothing that anybody can read has one of these in it.
pub(crate) async fn shows_none_of(sidecar: &Sidecar, secrets: &[String]) {
    let mut shown = sidecar.said().join("\n");
    shown += &sidecar.get("/status").await.unwrap().to_string();
    shown += &sidecar.metrics().await.unwrap();
    for secret in secrets {
        assert!(!shown.contains(secret.as_str()), "a secret is shown");
    }
}

/// The words of a secret file that nobody else may read.
pub(crate) fn secrets_of(text: &str) -> Vec<String> {
    let words = text
        .split_whitespace()
        .filter(|word| word.len() >= 12 && !word.contains("--"));
    words.map(str::to_owned).collect()
}

/// What a file of secrets or certificates may hold, and what is said of it.
pub(crate) struct Wrong {
    pub(crate) text: String,
    says: Vec<&'static str>,
}

pub(crate) fn wrong(text: impl Into<String>, says: &[&'static str]) -> Wrong {
    Wrong {
        text: text.into(),
        says: says.to_vec(),
    }
}

/// With each wrong file the stream says so, the control plane answers, a pause is proven and nothing secret is shown;
/// with the right one it works. `through` counts what has arrived.
pub(crate) async fn only_the_right_file(
    sidecar: Sidecar,
    site: &Site,
    file: &Path,
    wrongs: &[Wrong],
    right: &str,
    through: impl AsyncFn() -> usize,
) -> Sidecar {
    let mut secrets = secrets_of(right);
    for one in wrongs {
        std::fs::write(file, &one.text).unwrap();
        let error = says(&sidecar, &one.says).await;
        eprintln!("{}: {error}", file.file_name().unwrap().display());
        secrets.extend(secrets_of(&one.text));
        site.flip(&[&sidecar], true).await;
        site.flag(false);
        assert_eq!(through().await, 0);
    }
    std::fs::write(file, right).unwrap();
    eventually("everything is through", async || through().await >= EVENTS).await;
    eventually("nothing is wrong any more", async || {
        field(&sidecar, "error").await.is_null()
    })
    .await;
    assert_eq!(through().await, EVENTS);
    shows_none_of(&sidecar, &secrets).await;
    sidecar
}

// --- certificates ----------------------------------------------------------------------------------------------------

/// Authorities, and what they have signed; PEM files in a folder.
pub(crate) struct Papers {
    pub(crate) dir: TempDir,
    pub(crate) ours: CertifiedIssuer<'static, TlsKey>,
    pub(crate) strangers: CertifiedIssuer<'static, TlsKey>,
}

impl Papers {
    pub(crate) fn new() -> Papers {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, TlsKey::generate().unwrap()).unwrap()
        };
        let papers = Papers {
            dir: TempDir::new().unwrap(),
            ours: authority("ours"),
            strangers: authority("strangers"),
        };
        std::fs::write(papers.path("ours.pem"), papers.ours.pem()).unwrap();
        let (certificate, key) = papers.signed(&papers.ours, "127.0.0.1");
        std::fs::write(papers.path("server.crt"), certificate).unwrap();
        std::fs::write(papers.path("server.key"), key).unwrap();
        papers
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate and its key, in one text.
    pub(crate) fn both(&self, by: &CertifiedIssuer<'static, TlsKey>) -> String {
        let (certificate, key) = self.signed(by, "tide");
        certificate + &key
    }

    /// A certificate and its key.
    pub(crate) fn signed(&self, by: &CertifiedIssuer<'static, TlsKey>, name: &str) -> (String, String) {
        let key = TlsKey::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
    }
}

// --- NATS ------------------------------------------------------------------------------------------------------------

/// A server with a configuration file that can be changed under it.
struct Nats {
    server: Server,
    dir: TempDir,
}

impl Nats {
    async fn with(config: &str) -> Nats {
        let dir = TempDir::new().unwrap();
        let port = free_port();
        let fixed = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"data\" }}\n");
        std::fs::write(dir.path().join("fixed.conf"), fixed).unwrap();
        std::fs::write(dir.path().join("rest.conf"), config).unwrap();
        let all = "include ./fixed.conf\ninclude ./rest.conf\n";
        std::fs::write(dir.path().join("all.conf"), all).unwrap();
        let args = vec!["-c".to_owned(), "all.conf".to_owned()];
        let server = Server::start("nats-server", args, dir.path().to_owned(), port).await;
        Nats { server, dir }
    }

    fn reloads(&self) -> usize {
        let log = std::fs::read_to_string(self.dir.path().join("server.log")).unwrap();
        log.matches("Reloaded server configuration").count()
    }

    /// Has the running server read another configuration.
    async fn change(&self, config: &str) {
        let before = self.reloads();
        std::fs::write(self.dir.path().join("rest.conf"), config).unwrap();
        signal(self.server.pid(), rustix::process::Signal::HUP).unwrap();
        eventually("the server has read it", async || self.reloads() > before).await;
    }

    /// Somebody who may do everything makes two streams, with events in one.
    async fn filled(&self, options: ConnectOptions) -> Context {
        let options = options.retry_on_initial_connect();
        let client = options.connect(self.server.address.to_string()).await.unwrap();
        let context = jetstream::new(client);
        for name in ["orders", "done"] {
            let config = stream::Config {
                name: name.into(),
                subjects: vec![format!("{name}.*")],
                ..stream::Config::default()
            };
            context.create_stream(config).await.unwrap();
        }
        fill(&context, 0..EVENTS).await;
        context
    }

    fn source(&self, options: &str) -> String {
        format!(
            "type = \"nats\"\nurl = \"nats://{}\"\nstream = \"orders\"\ndurable = \"tidegate\"\n{options}",
            self.server.address
        )
    }

    fn sink(&self, options: &str) -> String {
        format!(
            "type = \"nats\"\nurl = \"nats://{}\"\nsubject = \"done.all\"\n{options}",
            self.server.address
        )
    }
}

async fn fill(context: &Context, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let sent = context.publish("orders.new", n.to_string().into()).await.unwrap();
        sent.await.unwrap();
    }
}

async fn done(context: &Context) -> usize {
    let mut stream = context.get_stream("done").await.unwrap();
    stream.info().await.unwrap().state.messages as usize
}

/// From NATS to NATS with one login, by a file that holds what it should not and then what it should.
async fn nats_login(
    nats: &Nats,
    admin: &Context,
    method: &str,
    file: &str,
    wrongs: &[Wrong],
    right: &str,
) -> (Site, Sidecar) {
    let site = Site::new();
    let path = site.path(file);
    std::fs::write(&path, &wrongs[0].text).unwrap();
    let auth = format!("auth = {{ {method}, file = \"{}\" }}", path.display());
    let sidecar = site.sidecar("one", &nats.source(&auth), &nats.sink(&auth)).await;
    let through = async || done(admin).await;
    let sidecar = only_the_right_file(sidecar, &site, &path, wrongs, right, through).await;
    (site, sidecar)
}

const REFUSED: &str = "authorization violation";

#[tokio::test]
async fn nats_a_password_is_read_again_at_each_attempt_and_a_rotated_one_counts() {
    let users = |password: &str| {
        format!(
            "authorization {{ users: [ {{ user: admin, password: for-the-admin }}, \
             {{ user: tide, password: \"{password}\" }} ] }}"
        )
    };
    let nats = Nats::with(&users("the-right-password")).await;
    let admin = ConnectOptions::with_user_and_password("admin".into(), "for-the-admin".into());
    let admin = nats.filled(admin).await;
    let wrongs = [wrong("a-wrong-password\n", &[REFUSED])];
    let method = "method = \"password\", user = \"tide\"";
    let (site, sidecar) =
        nats_login(&nats, &admin, method, "password", &wrongs, "the-right-password\n").await;

    // The server ends connections whose password is no longer right.
    nats.change(&users("the-next-password")).await;
    fill(&admin, EVENTS..EVENTS + 5).await;
    says(&sidecar, &[REFUSED]).await;
    std::fs::write(site.path("password"), "the-next-password\n").unwrap();
    eventually("the rest is through", async || done(&admin).await == EVENTS + 5).await;
    eventually("nothing is wrong any more", async || {
        field(&sidecar, "error").await.is_null()
    })
    .await;
    shows_none_of(
        &sidecar,
        &["the-next-password".into(), "the-right-password".into()],
    )
    .await;
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn nats_a_token_opens_and_a_wrong_one_is_said_and_not_shown() {
    let nats = Nats::with("authorization { token: \"the-right-token\" }").await;
    let admin = nats
        .filled(ConnectOptions::with_token("the-right-token".into()))
        .await;
    let wrongs = [wrong("a-wrong-token-of-theirs", &[REFUSED])];
    let (_, sidecar) = nats_login(
        &nats,
        &admin,
        "method = \"token\"",
        "token",
        &wrongs,
        "the-right-token\n",
    )
    .await;
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn nats_an_nkey_opens_and_a_wrong_one_is_said_and_not_shown() {
    let (ours, theirs) = (KeyPair::new_user(), KeyPair::new_user());
    let nats = Nats::with(&format!(
        "authorization {{ users: [ {{ user: admin, password: for-the-admin }}, {{ nkey: {} }} ] }}",
        ours.public_key()
    ))
    .await;
    let admin = ConnectOptions::with_user_and_password("admin".into(), "for-the-admin".into());
    let admin = nats.filled(admin).await;
    let wrongs = [
        wrong(theirs.seed().unwrap(), &[REFUSED]),
        wrong("this-is-no-seed-at-all", &["it is no seed of a user's nkey"]),
    ];
    let right = ours.seed().unwrap();
    let (_, sidecar) = nats_login(&nats, &admin, "method = \"nkey\"", "nkey", &wrongs, &right).await;
    sidecar.stop().await.unwrap();
}

/// A signed claim, as `nsc` makes them.
fn jwt(by: &KeyPair, subject: &KeyPair, nats: serde_json::Value) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let body = json!({
        "jti": format!("{:016x}", fastrand::u64(..)), "iat": now.as_secs(), "iss": by.public_key(),
        "name": "test", "sub": subject.public_key(), "nats": nats,
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!(
        "{}.{}",
        part(json!({ "typ": "JWT", "alg": "ed25519-nkey" })),
        part(body)
    );
    let signature = URL_SAFE_NO_PAD.encode(by.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// An account that may have so many streams: without any for the server's own, and as many as it likes for others.
fn account_jwt(operator: &KeyPair, account: &KeyPair, streams: i32) -> String {
    let all = json!({
        "subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1,
        "wildcards": true, "mem_storage": streams, "disk_storage": streams, "streams": streams, "consumer": streams,
    });
    jwt(
        operator,
        account,
        json!({ "limits": all, "default_permissions": { "pub": {}, "sub": {} }, "type": "account", "version": 2 }),
    )
}

/// A `.creds` file of a new user.
fn creds(account: &KeyPair) -> String {
    let user = KeyPair::new_user();
    let claims =
        json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt(account, &user, claims),
        user.seed().unwrap()
    )
}

#[tokio::test]
async fn nats_a_creds_file_opens_and_a_wrong_one_is_said_and_not_shown() {
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let (account, stranger) = (KeyPair::new_account(), KeyPair::new_account());
    let ours = jwt(&operator, &operator, json!({ "type": "operator", "version": 2 }));
    let mut preload = String::new();
    for (account, streams) in [(&system, 0), (&account, -1)] {
        let jwt = account_jwt(&operator, account, streams);
        preload += &format!("{}: \"{jwt}\"\n", account.public_key());
    }
    let nats = Nats::with(&format!(
        "operator: \"{ours}\"\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{preload}}}\n",
        system.public_key()
    ))
    .await;
    let admin = nats
        .filled(ConnectOptions::with_credentials(&creds(&account)).unwrap())
        .await;
    let wrongs = [
        wrong(creds(&stranger), &[REFUSED]),
        wrong("a-file-without-any-credentials", &["it is no credentials file"]),
    ];
    let right = creds(&account);
    let (_, sidecar) = nats_login(
        &nats,
        &admin,
        "method = \"credentials\"",
        "creds",
        &wrongs,
        &right,
    )
    .await;
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn nats_tls_trusts_the_given_authority_alone_and_shows_the_clients_certificate() {
    let papers = Papers::new();
    let nats = Nats::with(&format!(
        "tls {{ cert_file: \"{0}/server.crt\", key_file: \"{0}/server.key\", ca_file: \"{0}/ours.pem\", verify: true }}",
        papers.dir.path().display()
    ))
    .await;
    let (admins, admins_key) = papers.signed(&papers.ours, "admin");
    std::fs::write(papers.path("admin.crt"), admins).unwrap();
    std::fs::write(papers.path("admin.key"), admins_key).unwrap();
    let admin = ConnectOptions::new()
        .require_tls(true)
        .add_root_certificates(papers.path("ours.pem"))
        .add_client_certificate(papers.path("admin.crt"), papers.path("admin.key"));
    let admin = nats.filled(admin).await;

    let site = Site::new();
    let (ca, both) = (site.path("ca.pem"), site.path("tide.pem"));
    std::fs::write(&both, papers.both(&papers.ours)).unwrap();
    let options = format!(
        "ca_file = \"{}\"\ncert_file = \"{1}\"\nkey_file = \"{1}\"",
        ca.display(),
        both.display()
    );
    let tls = |part: String| part.replace("nats://", "tls://");
    let sidecar = site
        .sidecar("one", &tls(nats.source(&options)), &tls(nats.sink(&options)))
        .await;
    says(&sidecar, &["ca.pem", "No such file"]).await;
    let wrongs = [wrong(
        papers.strangers.pem(),
        &["invalid peer certificate: UnknownIssuer"],
    )];
    let through = async || done(&admin).await;
    only_the_wrong_file(&sidecar, &ca, &wrongs).await;
    std::fs::write(&both, papers.both(&papers.strangers)).unwrap();
    std::fs::write(&ca, papers.ours.pem()).unwrap();
    let wrongs = [wrong(papers.both(&papers.strangers), &["received fatal alert"])];
    let right = papers.both(&papers.ours);
    let sidecar = only_the_right_file(sidecar, &site, &both, &wrongs, &right, through).await;
    sidecar.stop().await.unwrap();
}

/// What is said of a file that is not mended yet.
pub(crate) async fn only_the_wrong_file(sidecar: &Sidecar, file: &Path, wrongs: &[Wrong]) {
    for one in wrongs {
        std::fs::write(file, &one.text).unwrap();
        let error = says(sidecar, &one.says).await;
        eprintln!("{}: {error}", file.file_name().unwrap().display());
    }
}

/// One user may not do one thing, and may later.
async fn nats_permission(denied: &str, words: &[&str]) {
    let users = |denied: &str| {
        format!(
            "authorization {{ users: [ {{ user: admin, password: for-the-admin }}, \
             {{ user: tide, password: the-password, permissions: {{ {denied} }} }} ] }}"
        )
    };
    let nats = Nats::with(&users(denied)).await;
    let admin = ConnectOptions::with_user_and_password("admin".into(), "for-the-admin".into());
    let admin = nats.filled(admin).await;
    let site = Site::new();
    let password = site.path("password");
    std::fs::write(&password, "the-password").unwrap();
    let auth = format!(
        "auth = {{ method = \"password\", user = \"tide\", file = \"{}\" }}",
        password.display()
    );
    let sidecar = site.sidecar("one", &nats.source(&auth), &nats.sink(&auth)).await;
    let error = says(&sidecar, words).await;
    eprintln!("{denied}: {error}");
    site.flip(&[&sidecar], true).await;
    site.flag(false);
    says(&sidecar, words).await;

    nats.change(&users("publish: \">\", subscribe: \">\"")).await;
    eventually("everything is through", async || done(&admin).await >= EVENTS).await;
    let stream = admin.get_stream("orders").await.unwrap();
    eventually("everything is acknowledged", async || {
        let info = stream.consumer_info("tidegate").await.unwrap();
        info.num_ack_pending == 0 && info.num_pending == 0
    })
    .await;
    eventually("nothing is wrong any more", async || {
        field(&sidecar, "error").await.is_null()
    })
    .await;
    assert_eq!(done(&admin).await, EVENTS);
    assert_eq!(field(&sidecar, "dead_letters").await, 0);
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn nats_a_sink_that_may_not_publish_says_so_and_works_once_it_may() {
    nats_permission(
        "publish: { deny: [\"done.>\"] }",
        &["Permissions Violation for Publish to \"done.all\""],
    )
    .await;
}

#[tokio::test]
async fn nats_a_source_that_may_not_ask_for_messages_says_so_and_works_once_it_may() {
    nats_permission(
        "publish: { deny: [\"$JS.API.CONSUMER.MSG.NEXT.>\"] }",
        &[
            "may not ask the consumer for messages",
            "Permissions Violation for Publish to",
        ],
    )
    .await;
}

#[tokio::test]
async fn nats_a_source_that_may_not_see_its_consumer_says_so_and_works_once_it_may() {
    nats_permission(
        "publish: { deny: [\"$JS.API.CONSUMER.>\"] }",
        &[
            "cannot read consumer \"tidegate\"",
            "Permissions Violation for Publish to",
        ],
    )
    .await;
}

#[tokio::test]
async fn nats_a_user_that_may_not_hear_answers_is_told_and_works_once_it_may() {
    nats_permission(
        "subscribe: { deny: [\"_INBOX.>\"] }",
        &["Permissions Violation for Subscription to"],
    )
    .await;
}

#[tokio::test]
async fn nats_a_source_that_may_not_acknowledge_says_so_and_repeats_nothing_once_it_may() {
    nats_permission(
        "publish: { deny: [\"$JS.ACK.>\"] }",
        &["not settled", "Permissions Violation for Publish to"],
    )
    .await;
}

// --- Redis -----------------------------------------------------------------------------------------------------------

struct Redis {
    server: Server,
    admin: Client,
    _dir: TempDir,
}

impl Redis {
    async fn with(options: &[&str]) -> Redis {
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let mut args: Vec<String> = ["--bind", "127.0.0.1", "--save", "", "--port"]
            .map(String::from)
            .into();
        args.push(port.to_string());
        args.extend(options.iter().map(|o| (*o).to_owned()));
        let server = Server::start("redis-server", args, dir.path().to_owned(), port).await;
        let admin = Client::open(format!("redis://{}", server.address)).unwrap();
        Redis {
            server,
            admin,
            _dir: dir,
        }
    }

    /// With a port for TLS besides, on which clients may have to show a certificate of ours.
    async fn with_tls(papers: &Papers, ask_clients: &str) -> (Redis, u16) {
        let tls = free_port();
        let file = |name: &str| papers.path(name).display().to_string();
        let options = [
            "--tls-port",
            &tls.to_string(),
            "--tls-cert-file",
            &file("server.crt"),
            "--tls-key-file",
            &file("server.key"),
            "--tls-ca-cert-file",
            &file("ours.pem"),
            "--tls-auth-clients",
            ask_clients,
        ];
        (Redis::with(&options).await, tls)
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.admin.get_multiplexed_async_connection().await.unwrap();
        let mut asked = cmd(command[0]);
        asked.arg(&command[1..]);
        asked.query_async(&mut connection).await.unwrap()
    }

    /// A stream with events in it.
    async fn fill(&self) {
        for n in 0..EVENTS {
            let _: Value = self.ask(&["XADD", "orders", "*", "data", &n.to_string()]).await;
        }
    }

    async fn done(&self) -> usize {
        self.ask(&["XLEN", "done"]).await
    }

    fn source(&self, url: &str, options: &str) -> String {
        format!(
            "type = \"redis\"\nurl = \"{url}\"\nstream = \"orders\"\ngroup = \"tidegate\"\nmin_idle = \"2s\"\n{options}"
        )
    }

    fn sink(&self, url: &str, options: &str) -> String {
        format!("type = \"redis\"\nurl = \"{url}\"\nstream = \"done\"\n{options}")
    }

    fn url(&self) -> String {
        format!("redis://{}", self.server.address)
    }
}

#[tokio::test]
async fn redis_a_users_password_is_read_again_at_each_attempt_and_a_rotated_one_counts() {
    let redis = Redis::with(&[]).await;
    redis.fill().await;
    let _: Value = redis
        .ask(&[
            "ACL",
            "SETUSER",
            "tide",
            "on",
            ">the-right-password",
            "~*",
            "+@all",
        ])
        .await;
    let site = Site::new();
    let password = site.path("password");
    std::fs::write(&password, "a-wrong-password").unwrap();
    let options = format!("user = \"tide\"\npassword_file = \"{}\"", password.display());
    let (source, sink) = (
        redis.source(&redis.url(), &options),
        redis.sink(&redis.url(), &options),
    );
    let sidecar = site.sidecar("one", &source, &sink).await;
    let wrongs = [wrong("a-wrong-password\n", &["authentication failed"])];
    let through = async || redis.done().await;
    let sidecar = only_the_right_file(
        sidecar,
        &site,
        &password,
        &wrongs,
        "the-right-password\n",
        through,
    )
    .await;

    let _: Value = redis
        .ask(&["ACL", "SETUSER", "tide", "resetpass", ">the-next-password"])
        .await;
    let _: Value = redis.ask(&["CLIENT", "KILL", "USER", "tide"]).await;
    says(&sidecar, &["authentication failed"]).await;
    redis.fill().await;
    std::fs::write(&password, "the-next-password\n").unwrap();
    eventually("the rest is through", async || redis.done().await == 2 * EVENTS).await;
    shows_none_of(
        &sidecar,
        &["the-next-password".into(), "the-right-password".into()],
    )
    .await;
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn redis_tls_trusts_the_given_authority_alone() {
    let papers = Papers::new();
    let (redis, tls) = Redis::with_tls(&papers, "no").await;
    redis.fill().await;
    let site = Site::new();
    let ca = site.path("ca.pem");
    std::fs::write(&ca, papers.strangers.pem()).unwrap();
    let (url, options) = (
        format!("rediss://127.0.0.1:{tls}"),
        format!("ca_file = \"{}\"", ca.display()),
    );
    let sidecar = site
        .sidecar("one", &redis.source(&url, &options), &redis.sink(&url, &options))
        .await;
    let wrongs = [wrong(
        papers.strangers.pem(),
        &["invalid peer certificate: UnknownIssuer"],
    )];
    let through = async || redis.done().await;
    let sidecar = only_the_right_file(sidecar, &site, &ca, &wrongs, &papers.ours.pem(), through).await;
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn redis_tls_shows_the_clients_certificate() {
    let papers = Papers::new();
    let (redis, tls) = Redis::with_tls(&papers, "yes").await;
    redis.fill().await;
    let site = Site::new();
    let both = site.path("tide.pem");
    let wrongs = [wrong(papers.both(&papers.strangers), &["received fatal alert"])];
    std::fs::write(&both, &wrongs[0].text).unwrap();
    let url = format!("rediss://127.0.0.1:{tls}");
    let options = format!(
        "ca_file = \"{}\"\ncert_file = \"{1}\"\nkey_file = \"{1}\"",
        papers.path("ours.pem").display(),
        both.display()
    );
    let sidecar = site
        .sidecar("one", &redis.source(&url, &options), &redis.sink(&url, &options))
        .await;
    let through = async || redis.done().await;
    let right = papers.both(&papers.ours);
    let sidecar = only_the_right_file(sidecar, &site, &both, &wrongs, &right, through).await;
    sidecar.stop().await.unwrap();
}

/// One user may not use one command, and may later.
async fn redis_permission(denied: &str, words: &[&str]) {
    let redis = Redis::with(&[]).await;
    redis.fill().await;
    let user = ["ACL", "SETUSER", "tide", "on", ">the-password", "~*", "+@all"];
    let _: Value = redis.ask(&user).await;
    let _: Value = redis
        .ask(&["ACL", "SETUSER", "tide", &format!("-{denied}")])
        .await;
    let site = Site::new();
    let password = site.path("password");
    std::fs::write(&password, "the-password").unwrap();
    let options = format!("user = \"tide\"\npassword_file = \"{}\"", password.display());
    let (source, sink) = (
        redis.source(&redis.url(), &options),
        redis.sink(&redis.url(), &options),
    );
    let sidecar = site.sidecar("one", &source, &sink).await;
    let error = says(&sidecar, words).await;
    eprintln!("{denied}: {error}");
    site.flip(&[&sidecar], true).await;
    site.flag(false);
    says(&sidecar, words).await;
    let _: Value = redis
        .ask(&["ACL", "SETUSER", "tide", &format!("+{denied}")])
        .await;
    eventually("everything is through", async || redis.done().await >= EVENTS).await;
    eventually("everything is acknowledged", async || {
        let pending: (usize, Value, Value, Value) = redis.ask(&["XPENDING", "orders", "tidegate"]).await;
        pending.0 == 0
    })
    .await;
    eventually("nothing is wrong any more", async || {
        field(&sidecar, "error").await.is_null()
    })
    .await;
    assert_eq!(redis.done().await, EVENTS);
    assert_eq!(field(&sidecar, "dead_letters").await, 0);
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn redis_a_source_that_may_not_read_of_its_group_says_so_and_works_once_it_may() {
    redis_permission("xreadgroup", &["NOPERM", "xreadgroup"]).await;
}

#[tokio::test]
async fn redis_a_source_that_could_not_keep_its_claims_takes_nothing_and_works_once_it_can() {
    redis_permission("xclaim", &["may not keep what it is handed", "NOPERM"]).await;
    redis_permission("evalsha", &["may not keep what it is handed", "NOPERM"]).await;
}

#[tokio::test]
async fn redis_a_source_that_may_not_acknowledge_takes_nothing_and_works_once_it_may() {
    redis_permission("xack", &["may not keep what it is handed", "NOPERM"]).await;
}

#[tokio::test]
async fn redis_a_sink_that_may_not_add_says_so_and_works_once_it_may() {
    redis_permission("xadd", &["NOPERM", "xadd"]).await;
}
