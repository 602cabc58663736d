//! TLS and access control as clients on a socket see them.

#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use std::path::{Path, PathBuf};

use common::*;
use mq_broker::acl::{Acl, Credentials};
use mq_broker::config::{ClientAuth, TlsConf, TlsMode};
use mq_broker::run::{Running, Settings};
use mq_broker::tls::{self, Connector};
use mq_broker::wire::client::{Client, Security};
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn start_tls(root: &Path, conf: &TlsConf) -> Running {
    start_with(Settings { tls: tls::Server::of(conf).unwrap(), ..settings(root) }).await
}

async fn connect_tls(running: &Running, conf: &TlsConf) -> std::io::Result<Client> {
    let security = Security { tls: Some(Connector::of(conf).unwrap()), credentials: None };
    let mut client = Client::connect_with(&running.addr.to_string(), TIMEOUT, &security).await?;
    // A server of TLS 1.3 refuses a client's certificate after the client's handshake.
    client.call(&Command::new(request::GET_BROKER_RUNTIME_INFO), TIMEOUT).await?;
    Ok(client)
}

/// Sends and receives some messages, one larger than what TLS takes at a time.
async fn exchange(client: &mut Client, topic: &str) {
    let large = "x".repeat(300_000);
    for body in ["a", &large, "b"] {
        assert_eq!(call(client, send_command(topic, body, "")).await.code, 0);
    }
    let mut got = Vec::new();
    while got.len() < 3 {
        let pulled = call(client, pull_command(topic, got.len() as i64, 0)).await;
        assert_eq!(pulled.code, 0, "{pulled:?}");
        got.extend(bodies(&pulled));
    }
    assert_eq!(got, ["a", &large, "b"]);
}

/// What the broker says to a client without TLS: an answer, or nothing.
async fn plain(running: &Running) -> std::io::Result<i32> {
    let mut client = connect(running).await;
    let asked = client.call(&Command::new(request::GET_BROKER_RUNTIME_INFO), TIMEOUT).await;
    asked.map(|answer| answer.code)
}

#[tokio::test]
async fn each_mode_takes_what_it_should() {
    for (mode, with, without) in [
        (TlsMode::Disabled, false, true),
        (TlsMode::Permissive, true, true),
        (TlsMode::Enforcing, true, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let conf = TlsConf { mode, ..TlsConf::default() };
        let running = start_tls(dir.path(), &conf).await;
        let secure = connect_tls(&running, &conf).await;
        assert_eq!(secure.is_ok(), with, "{mode:?}");
        if let Ok(mut client) = secure {
            exchange(&mut client, "T").await;
        }
        assert_eq!(plain(&running).await.is_ok(), without, "{mode:?}");
        // Who begins a handshake and says no more is in nobody's way.
        let mut silent = TcpStream::connect(running.addr).await.unwrap();
        silent.write_all(&[0x16, 3, 1]).await.unwrap();
        running.stop().await.unwrap();
        let _ = silent.read(&mut [0]).await;
    }
}

/// Certificates of an authority, and files of them.
struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|l| str::from_utf8(l).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority { dir: tempfile::tempdir().unwrap(), issuer };
        authority.write("ca", &pem("CERTIFICATE", authority.issuer.der()));
        authority
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn ca(&self) -> Option<PathBuf> {
        Some(self.dir.path().join("ca"))
    }

    /// A new key, and a certificate that has a name no test connects to.
    fn issue(&self, name: &str) -> (Option<PathBuf>, Option<PathBuf>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["broker.example".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let cert = self.write(&format!("{name}.pem"), &pem("CERTIFICATE", cert.der()));
        let key = pem("PRIVATE KEY", &key.serialize_der());
        (Some(self.write(&format!("{name}.key"), &key)), Some(cert))
    }
}

#[tokio::test]
async fn both_sides_show_certificates() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (server_key_path, server_cert_path) = ours.issue("server");
    let conf = TlsConf {
        test_mode: false,
        mode: TlsMode::Enforcing,
        need_client_auth: ClientAuth::Require,
        auth_client: true,
        server_key_path,
        server_cert_path,
        server_trust_cert_path: ours.ca(),
        auth_server: true,
        client_trust_cert_path: ours.ca(),
        ..TlsConf::default()
    };
    let with = |(client_key_path, client_cert_path)| TlsConf {
        client_key_path,
        client_cert_path,
        ..conf.clone()
    };
    let dir = tempfile::tempdir().unwrap();
    let running = start_tls(dir.path(), &conf).await;
    let mut client = connect_tls(&running, &with(ours.issue("client"))).await.unwrap();
    exchange(&mut client, "T").await;
    assert!(connect_tls(&running, &conf).await.is_err(), "no certificate");
    assert!(connect_tls(&running, &with(theirs.issue("client"))).await.is_err(), "another's");
    let stranger = TlsConf { client_trust_cert_path: theirs.ca(), ..with(ours.issue("client")) };
    assert!(connect_tls(&running, &stranger).await.is_err(), "a server of another's");
    running.stop().await.unwrap();

    // What is wanted but not checked; what is only asked for.
    for (need_client_auth, auth_client, none, other) in [
        (ClientAuth::Require, false, false, true),
        (ClientAuth::Optional, true, true, false),
        (ClientAuth::None, true, true, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let conf = TlsConf { need_client_auth, auth_client, ..conf.clone() };
        let running = start_tls(dir.path(), &conf).await;
        assert_eq!(connect_tls(&running, &conf).await.is_ok(), none, "{need_client_auth:?}");
        let other_client = connect_tls(&running, &with(theirs.issue("client"))).await;
        assert_eq!(other_client.is_ok(), other, "{need_client_auth:?}");
        running.stop().await.unwrap();
    }
}

#[tokio::test]
async fn new_certificates_are_taken_and_broken_ones_are_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let (server_key_path, server_cert_path) = old.issue("server");
    let conf = TlsConf {
        test_mode: false,
        mode: TlsMode::Permissive,
        server_key_path,
        server_cert_path,
        auth_server: true,
        client_trust_cert_path: old.ca(),
        ..TlsConf::default()
    };
    let new_conf = TlsConf { client_trust_cert_path: new.ca(), ..conf.clone() };
    let dir = tempfile::tempdir().unwrap();
    let running = start_tls(dir.path(), &conf).await;
    let copy = |from: &Authority, what: &str| {
        from.issue("next");
        let text = std::fs::read_to_string(from.dir.path().join(format!("next.{what}"))).unwrap();
        old.write(&format!("server.{what}"), &text);
        running.service.tls.reload_step();
    };
    let mut before = connect_tls(&running, &conf).await.unwrap();
    assert!(connect_tls(&running, &new_conf).await.is_err());
    copy(&new, "pem");
    assert!(connect_tls(&running, &conf).await.is_ok(), "a certificate without its key");
    new.issue("next");
    old.write("server.pem", &std::fs::read_to_string(new.dir.path().join("next.pem")).unwrap());
    old.write("server.key", &std::fs::read_to_string(new.dir.path().join("next.key")).unwrap());
    running.service.tls.reload_step();
    assert!(connect_tls(&running, &new_conf).await.is_ok());
    assert!(connect_tls(&running, &conf).await.is_err());
    exchange(&mut before, "T").await;
    running.stop().await.unwrap();
}

#[test]
fn keys_with_a_password_and_files_that_are_none() {
    // Made by: openssl pkcs8 -topk8 -v2 aes-256-cbc
    let sealed = include_str!("data/sealed.key");
    let cert = include_str!("data/sealed.pem");
    let authority = Authority::new();
    let conf = |key: &str, password: &str| TlsConf {
        test_mode: false,
        server_key_path: Some(authority.write("k", key)),
        server_key_password: mq_broker::config::Secret(password.into()),
        server_cert_path: Some(authority.write("c", cert)),
        ..TlsConf::default()
    };
    tls::Server::of(&conf(sealed, "open sesame")).unwrap();
    let error = |conf: TlsConf| tls::Server::of(&conf).unwrap_err().to_string();
    let wrong = error(conf(sealed, "hush"));
    assert!(wrong.contains("tls.server.keyPath") && wrong.contains("password"), "{wrong}");
    assert!(!wrong.contains("hush"));
    assert!(error(conf("no key", "")).contains("tls.server.keyPath"));
    let other = authority.issue("other").0.unwrap();
    error(TlsConf { server_key_path: Some(other), ..conf(sealed, "") });
    let unset = TlsConf { test_mode: false, mode: TlsMode::Enforcing, ..TlsConf::default() };
    assert!(error(unset.clone()).contains("tls.server.certPath is not set"));
    // As with RocketMQ: without certificates, connections without TLS are served all the same.
    tls::Server::of(&TlsConf { mode: TlsMode::Permissive, ..unset }).unwrap();
}

const ACCOUNTS: &str = "\
accounts:
  - {accessKey: someUser, secretKey: userSecret, topicPerms: [mine=PUB|SUB], groupPerms: [G=SUB]}
  - {accessKey: theAdmin, secretKey: adminSecret, admin: true}
";

async fn start_acl(dir: &Path) -> Running {
    std::fs::create_dir_all(dir.join("conf")).unwrap();
    std::fs::write(dir.join("conf/plain_acl.yml"), ACCOUNTS).unwrap();
    let acl = Some(Acl::open(dir, Path::new("conf/plain_acl.yml")).unwrap());
    start_with(Settings { acl, ..settings(&dir.join("store")) }).await
}

async fn connect_as(running: &Running, name: &str, secret: &str) -> Client {
    let credentials = Some(Credentials::new(name, secret));
    let security = Security { tls: None, credentials };
    Client::connect_with(&running.addr.to_string(), TIMEOUT, &security).await.unwrap()
}

#[tokio::test]
async fn accounts_decide() {
    let dir = tempfile::tempdir().unwrap();
    let running = start_acl(dir.path()).await;
    let mut user = connect_as(&running, "someUser", "userSecret").await;
    let mut admin = connect_as(&running, "theAdmin", "adminSecret").await;
    let refused = |response: mq_broker::conn::Response, why: &str| {
        let remark = format!("org.apache.rocketmq.acl.common.AclException: {why}");
        assert_eq!((response.code, response.remark), (1, Some(remark)));
    };
    exchange(&mut user, "mine").await;
    refused(
        call(&mut user, send_command("other", "m", "")).await,
        "No default permission for topic:other",
    );
    assert_eq!(call(&mut admin, send_command("other", "m", "")).await.code, 0);
    refused(
        call(&mut user, pull_command("other", 0, 0)).await,
        "No default permission for topic:other",
    );
    // A code for administrators, though it comes from this machine.
    let delete = || Command::new(request::DELETE_TOPIC_IN_BROKER).field("topic", "other");
    refused(
        call(&mut user, delete()).await,
        "Need admin permission for request code=215, but accessKey=someUser is not",
    );
    assert_eq!(call(&mut admin, delete()).await.code, 0);
    let mut nobody = connect(&running).await;
    refused(call(&mut nobody, pull_command("mine", 0, 0)).await, "No accessKey is configured");
    let mut wrong = connect_as(&running, "someUser", "otherSecret").await;
    refused(
        call(&mut wrong, pull_command("mine", 0, 0)).await,
        "Check signature failed for accessKey=someUser",
    );
    running.stop().await.unwrap();
}

#[tokio::test]
async fn accounts_are_changed_over_the_wire() {
    let dir = tempfile::tempdir().unwrap();
    let running = start_acl(dir.path()).await;
    let mut admin = connect_as(&running, "theAdmin", "adminSecret").await;
    let update = || {
        Command::new(request::UPDATE_AND_CREATE_ACL_CONFIG)
            .field("accessKey", "another")
            .field("secretKey", "anotherSecret")
            .field("admin", false)
            .field("topicPerms", "mine=SUB,third=PUB|SUB")
            .field("groupPerms", "G=SUB")
    };
    assert_eq!(call(&mut admin, update()).await.code, 0);
    let mut another = connect_as(&running, "another", "anotherSecret").await;
    exchange(&mut another, "third").await;
    assert_eq!(call(&mut another, send_command("mine", "m", "")).await.code, 1);
    for code in [50, 51, 53, 54] {
        let answer = call(&mut another, Command { code, ..update() }).await;
        assert!(answer.code == 1 && answer.remark.unwrap().contains("Need admin"), "{code}");
    }

    let all = call(&mut admin, Command::new(request::GET_BROKER_CLUSTER_ACL_CONFIG)).await;
    let all: serde_json::Value = serde_json::from_slice(&all.body).unwrap();
    let account = &all["plainAccessConfigs"][2];
    assert_eq!(
        (&account["accessKey"], &account["topicPerms"][1], &account["admin"]),
        (&"another".into(), &"third=PUB|SUB".into(), &false.into())
    );
    let versions = call(&mut another, Command::new(request::GET_BROKER_CLUSTER_ACL_INFO)).await;
    let version: serde_json::Value = serde_json::from_str(&versions.fields["version"]).unwrap();
    assert_eq!(version["counter"], 1);
    let file = dir.path().join("conf/plain_acl.yml").display().to_string();
    let files: serde_json::Value =
        serde_json::from_str(&versions.fields["allAclFileVersion"]).unwrap();
    assert_eq!(files[&file], version);

    let white = Command::new(request::UPDATE_GLOBAL_WHITE_ADDRS_CONFIG)
        .field("globalWhiteAddrs", "127.0.0.1,10.0.0.*");
    assert_eq!(call(&mut admin, white).await.code, 0);
    assert_eq!(call(&mut connect(&running).await, pull_command("mine", 0, 0)).await.code, 17);

    let short = update().field("secretKey", "short");
    let answer = call(&mut admin, short).await;
    assert_eq!(answer.code, 209);
    assert!(!answer.remark.unwrap().contains("=short"));
    let delete = || Command::new(request::DELETE_ACL_CONFIG).field("accessKey", "another");
    assert_eq!(call(&mut admin, delete()).await.code, 0);
    let again = call(&mut admin, delete()).await;
    let text = "The accesskey[another] corresponding to accessConfig has been deleted failed.";
    assert_eq!((again.code, again.remark.as_deref()), (210, Some(text)));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn without_access_control_its_requests_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    for (code, expected) in [(50, 209), (51, 210), (53, 211), (52, 1), (54, 1)] {
        let answer = call(&mut client, Command::new(code)).await;
        assert_eq!(answer.code, expected);
        assert!(answer.remark.unwrap().contains("aclEnable=true"));
    }
    running.stop().await.unwrap();
}
