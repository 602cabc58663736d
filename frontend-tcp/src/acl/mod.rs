//! Access control as RocketMQ 4.9's: accounts with secrets, in `plain_acl.yml`; requests that are
//! signed; what each account may do with which topic and group.

mod address;
mod check;
mod file;
mod rules;
mod sign;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub use check::Denied;
pub use file::{Account, AclFile, Version, read_credentials};
use rules::Rules;
pub use sign::{ACCESS_KEY, Credentials, SECURITY_TOKEN, SIGNATURE};

use crate::conn::Request;
use crate::watch::Stamps;

/// Why files of access control cannot be used, or not be changed. Each says which.
#[derive(Debug, thiserror::Error)]
pub enum AclError {
    #[error(
        "aclEnable=true wants to know where conf/plain_acl.yml is: set rocketmqHome, or ROCKETMQ_HOME in the environment"
    )]
    NoHome,
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, io::Error),
    #[error("cannot write {0}: {1}")]
    Write(PathBuf, io::Error),
    #[error("{0} is no file of access control: {1}")]
    Syntax(PathBuf, yaml_serde::Error),
    #[error("{0}: {1}")]
    Meaning(PathBuf, String),
    /// Words of RocketMQ's.
    #[error("{0}")]
    Refused(String),
}

/// The access control of a broker.
#[derive(Debug)]
pub struct Acl {
    home: PathBuf,
    /// The file that new accounts go to.
    default_file: PathBuf,
    rules: RwLock<Arc<Rules>>,
    /// Of the files that `rules` were read from. Held while they are changed.
    seen: Mutex<Stamps>,
}

impl Acl {
    /// Reads `home/default_file` and all files in the folder `home/conf/acl`.
    pub fn open(home: &Path, default_file: &Path) -> Result<Acl, AclError> {
        let home = std::path::absolute(home).map_err(|e| AclError::Read(home.into(), e))?;
        let default_file = home.join(default_file);
        let acl = Acl { home, default_file, rules: RwLock::default(), seen: Mutex::default() };
        let seen = Stamps::of(acl.paths());
        acl.set(acl.read()?);
        *acl.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        if acl.rules().files.is_empty() {
            tracing::warn!(
                "access control has no accounts: {} is not there",
                acl.default_file.display()
            );
        }
        Ok(acl)
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn set(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Says whether a request is allowed. `admin` tells that it is for administrators.
    pub fn check(&self, request: &Request<'_>, ip: IpAddr, admin: bool) -> Result<(), Denied> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        check::check(&rules, request, ip, admin)
    }

    /// All files there are, in the order in which they count.
    fn paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        list(&self.home.join("conf/acl"), &mut paths);
        paths.sort();
        if self.default_file.exists() && !paths.contains(&self.default_file) {
            paths.push(self.default_file.clone());
        }
        paths
    }

    fn read(&self) -> Result<Rules, AclError> {
        let read = |path: PathBuf| AclFile::read(&path).map(|file| (path, file));
        Rules::of(self.paths().into_iter().map(read).collect::<Result<_, _>>()?)
    }

    /// Background step: reads the files again if one has changed, came or went. If they cannot be
    /// used, all stays as it was.
    pub fn reload_step(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Stamps::of(self.paths());
        if *seen == now {
            return;
        }
        match self.read() {
            Ok(rules) => {
                tracing::info!("access control is read again");
                self.set(rules);
            }
            Err(e) => tracing::error!("access control stays as it was: {e}"),
        }
        *seen = now;
    }

    /// Makes an account or changes one.
    pub fn update_account(&self, account: Account, now_ms: i64) -> Result<(), AclError> {
        let access_key = account.access_key.clone();
        let is_it = |a: &Account| a.access_key == access_key;
        // Complete by itself: as with RocketMQ, both keys have to be given.
        rules::check_account(&account).map_err(AclError::Refused)?;
        self.change(now_ms, |files, default| {
            let of = files.iter().position(|(_, file)| file.accounts.iter().any(is_it));
            let of = of.unwrap_or(default);
            let accounts = &mut files[of].1.accounts;
            match accounts.iter_mut().find(|a| is_it(a)) {
                Some(old) => old.change(account),
                None => accounts.push(account),
            }
            Ok(of)
        })
    }

    pub fn delete_account(&self, access_key: &str, now_ms: i64) -> Result<(), AclError> {
        let is_it = |a: &Account| a.access_key.as_deref() == Some(access_key);
        self.change(now_ms, |files, _| {
            let of = files.iter().position(|(_, file)| file.accounts.iter().any(is_it));
            let of = of.ok_or_else(|| {
                AclError::Refused(format!("The accesskey[{access_key}] corresponding to accessConfig has been deleted failed."))
            })?;
            files[of].1.accounts.retain(|a| !is_it(a));
            Ok(of)
        })
    }

    /// Replaces the white list of a file, or of the default one.
    pub fn update_white_list(
        &self,
        addresses: Vec<String>,
        path: Option<&Path>,
        now_ms: i64,
    ) -> Result<(), AclError> {
        self.change(now_ms, |files, default| {
            let of = match path {
                None => Some(default),
                Some(path) => files.iter().position(|(p, _)| p == path),
            };
            let of = of.ok_or_else(|| {
                AclError::Refused(format!(
                    "The globalWhiteAddresses[{}] has been updated failed.",
                    addresses.join(",")
                ))
            })?;
            files[of].1.global_white_remote_addresses = Some(addresses);
            Ok(of)
        })
    }

    /// Changes one file, whose place `change` returns, and writes it; or does nothing, if what
    /// comes of it cannot be used. `change` also gets the place of the default file.
    fn change(
        &self,
        now_ms: i64,
        change: impl FnOnce(&mut Vec<(PathBuf, AclFile)>, usize) -> Result<usize, AclError>,
    ) -> Result<(), AclError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may just have edited them.
        let mut files = self.read()?.files;
        let default = files.iter().position(|(path, _)| *path == self.default_file);
        let default = default.unwrap_or_else(|| {
            files.push((self.default_file.clone(), AclFile::default()));
            files.len() - 1
        });
        let at = change(&mut files, default)?;
        files[at].1.next_version(now_ms);
        let rules = Rules::of(files)?;
        let (path, file) = &rules.files[at];
        file.write(path)?;
        self.set(rules);
        *seen = Stamps::of(self.paths());
        Ok(())
    }

    /// The version of each file, and that of the default one.
    pub fn versions(&self) -> (BTreeMap<String, Version>, Version) {
        let rules = self.rules();
        let default = rules.files.iter().find(|(path, _)| *path == self.default_file);
        let version = default.map(|(_, file)| file.version()).unwrap_or_default();
        let all = rules.files.iter().map(|(p, file)| (p.display().to_string(), file.version()));
        (all.collect(), version)
    }

    /// White list and accounts of all files, with their secrets.
    pub fn all(&self) -> (Vec<String>, Vec<Account>) {
        let rules = self.rules();
        let files = || rules.files.iter().map(|(_, file)| file);
        let white = files().flat_map(|f| f.global_white_remote_addresses.iter().flatten());
        let mut accounts: Vec<Account> = Vec::new();
        for account in files().flat_map(|f| &f.accounts) {
            if accounts.iter().all(|known| known.access_key != account.access_key) {
                accounts.push(account.clone());
            }
        }
        (white.cloned().collect(), accounts)
    }
}

/// Files of access control in a folder and those in it.
fn list(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(&path, paths);
        } else if path.extension().is_some_and(|e| e == "yml" || e == "yaml")
            && path.file_name().is_some_and(|name| name != "tools.yml")
        {
            paths.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;
    use crate::wire::command::{Command, Outgoing, decode};
    use crate::wire::frame::{Encoding, FrameLimits, Parsed, parse};

    const FILE: &str = "\
# RocketMQ's own example, in essence
globalWhiteRemoteAddresses:
  - 10.10.103.*
accounts:
  - accessKey: RocketMQ
    secretKey: 12345678
    whiteRemoteAddress:
    admin: false
    defaultTopicPerm: DENY
    defaultGroupPerm: SUB
    topicPerms:
      - topicA=DENY
      - topicB=PUB|SUB
      - topicC=SUB
    groupPerms:
      - groupA=DENY
      - groupB=PUB|SUB
    note: ours
  - accessKey: rocketmq2
    secretKey: secretSecret
    whiteRemoteAddress: 192.168.1.*
    admin: true
";

    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("conf/acl")).unwrap();
        std::fs::write(home.path().join("conf/plain_acl.yml"), FILE).unwrap();
        home
    }

    fn open(home: &tempfile::TempDir) -> Result<Acl, AclError> {
        Acl::open(home.path(), Path::new("conf/plain_acl.yml"))
    }

    /// The answer to a command, once it went over the wire.
    fn ask(acl: &Acl, command: &Command, ip: &str, admin: bool) -> String {
        let mut out = Outgoing::default();
        command.encode_request(1, false, Encoding::Json, &mut out);
        let Ok(Parsed::Frame(frame, _)) = parse(&out.bytes, &FrameLimits::default()) else {
            panic!("no frame")
        };
        let head = decode(frame.encoding, frame.header).unwrap();
        let (body, encoding, read_at) = (frame.body, frame.encoding, Instant::now());
        let request = Request { head: &head, body, encoding, read_at };
        let checked = acl.check(&request, ip.parse().unwrap(), admin);
        checked.map_or_else(|denied| denied.to_string(), |()| "allowed".into())
    }

    #[test]
    fn who_may_do_what() {
        let home = home();
        let acl = open(&home).unwrap();
        let user = Credentials::new("RocketMQ", "12345678");
        let send = |topic: &str| Command::new(310).field("a", "P").field("b", topic.to_owned());
        let pull = |topic: &str, group: &str| {
            let command = Command::new(11).field("topic", topic.to_owned());
            command.field("consumerGroup", group.to_owned())
        };
        let beat = |topic: &str, group: &str| {
            Command::new(34).body(format!(
                r#"{{"clientID":"c","consumerDataSet":[{{"groupName":"{group}","subscriptionDataSet":[{{"topic":"{topic}"}},{{"topic":"%RETRY%{group}"}}]}}],"producerDataSet":[{{"groupName":"P"}}]}}"#
            ))
        };
        let topic = |name| format!("No default permission for topic:{name}");
        let group = |name| format!("No default permission for group:{name}");
        let allowed = || "allowed".to_owned();
        for (command, expected) in [
            (send("topicB"), allowed()),
            (send("topicA"), topic("topicA")),
            (send("topicC"), topic("topicC")),
            (send("other"), topic("other")),
            (send("%RETRY%groupB"), allowed()),
            (send("%RETRY%groupA"), group("groupA")),
            (send("RMQ_SYS_TRACE_TOPIC"), allowed()),
            (Command::new(320).field("b", "topicA"), topic("topicA")),
            (Command::new(10).field("topic", "topicA"), topic("topicA")),
            (pull("topicC", "groupB"), allowed()),
            (pull("topicC", "other"), allowed()),
            (pull("topicC", "groupA"), group("groupA")),
            (pull("topicA", "groupB"), topic("topicA")),
            (Command { code: 361, ..pull("topicA", "groupB") }, topic("topicA")),
            (Command { code: 15, ..pull("topicB", "groupA") }, group("groupA")),
            (Command::new(12).field("topic", "topicA"), topic("topicA")),
            (Command::new(36).field("group", "groupA"), group("groupA")),
            (Command::new(38).field("consumerGroup", "groupA"), group("groupA")),
            (Command::new(35).field("producerGroup", "groupA"), allowed()),
            (Command::new(41).body(r#"{"consumerGroup":"groupA"}"#), group("groupA")),
            (beat("topicB", "groupB"), allowed()),
            (beat("topicA", "groupB"), topic("topicA")),
            (beat("topicB", "groupA"), group("groupA")),
            (Command::new(28), allowed()),
        ] {
            let mut signed = command.clone();
            user.sign(&mut signed);
            assert_eq!(ask(&acl, &signed, "1.2.3.4", false), expected, "{command:?}");
            assert_eq!(ask(&acl, &command, "1.2.3.4", false), "No accessKey is configured");
            assert_eq!(ask(&acl, &command, "10.10.103.7", true), "allowed");
        }

        let signed = |by: &Credentials, mut command: Command| {
            by.sign(&mut command);
            command
        };
        let admin = Credentials::new("rocketmq2", "secretSecret");
        assert_eq!(ask(&acl, &signed(&admin, send("topicA")), "1.2.3.4", false), "allowed");
        assert_eq!(ask(&acl, &signed(&admin, Command::new(17)), "1.2.3.4", true), "allowed");
        assert_eq!(
            ask(&acl, &signed(&user, Command::new(17)), "1.2.3.4", true),
            "Need admin permission for request code=17, but accessKey=RocketMQ is not"
        );
        let wrong = signed(&Credentials::new("RocketMQ", "87654321"), send("topicB"));
        assert_eq!(
            ask(&acl, &wrong, "1.2.3.4", false),
            "Check signature failed for accessKey=RocketMQ"
        );
        let nobody = signed(&Credentials::new("nobody0", "87654321"), send("topicB"));
        assert_eq!(ask(&acl, &nobody, "1.2.3.4", false), "No acl config for nobody0");
        let unsigned = send("topicA").field("AccessKey", "rocketmq2");
        assert_eq!(ask(&acl, &unsigned, "192.168.1.9", false), "allowed");
        assert_eq!(
            ask(&acl, &unsigned, "1.2.3.4", false),
            "Check signature failed for accessKey=rocketmq2"
        );
        assert!(
            !format!("{acl:?}").contains("12345678") && !format!("{acl:?}").contains("secretS")
        );
    }

    #[test]
    fn edited_files_are_read_again_and_broken_ones_are_not_taken() {
        let home = home();
        let acl = open(&home).unwrap();
        let mut send = Command::new(310).field("b", "topicA");
        Credentials::new("another", "anotherSecret").sign(&mut send);
        let is = |expected: &str| assert_eq!(ask(&acl, &send, "1.2.3.4", false), expected);
        is("No acl config for another");
        let path = home.path().join("conf/acl/more/team.yml");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            acl.reload_step();
        };
        write(
            "accounts:\n- {accessKey: another, secretKey: anotherSecret, defaultTopicPerm: PUB}\n",
        );
        is("allowed");
        for broken in [
            "accounts: [",
            "accounts:\n- accessKey: another\n",
            "- 1",
            "accounts: 7",
            "globalWhiteRemoteAddresses: [10.0]",
            "accounts:\n- {accessKey: another, secretKey: anotherSecret, topicPerms: [x]}",
        ] {
            write(broken);
            is("allowed");
            assert!(open(&home).is_err(), "{broken}");
        }
        // Words that nobody knows, as with RocketMQ, allow nothing.
        write(
            "accounts:\n- {accessKey: another, secretKey: anotherSecret, defaultTopicPerm: pub}\n",
        );
        is("No default permission for topic:topicA");
        std::fs::remove_file(&path).unwrap();
        acl.reload_step();
        is("No acl config for another");
        std::fs::write(home.path().join("conf/acl/tools.yml"), "accessKey: x\nsecretKey: y")
            .unwrap();
        assert_eq!(open(&home).unwrap().versions().0.len(), 1);
    }

    #[test]
    fn changes_are_written_and_all_else_in_the_file_stays() {
        let home = home();
        let path = home.path().join("conf/plain_acl.yml");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let acl = open(&home).unwrap();
        let account = |key: &str, secret: Option<&str>| Account {
            access_key: Some(key.into()),
            secret_key: secret.map(Into::into),
            topic_perms: Some(vec!["topicA=PUB".into()]),
            ..Account::default()
        };
        acl.update_account(account("RocketMQ", Some("changed8")), 1000).unwrap();
        acl.update_account(account("newOne1", Some("newSecret")), 2000).unwrap();
        acl.update_white_list(vec!["10.0.0.1".into()], None, 3000).unwrap();
        acl.delete_account("rocketmq2", 4000).unwrap();
        let again = open(&home).unwrap();
        let version = again.versions().1;
        assert_eq!((version.counter, version.timestamp), (4, 4000));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let (white, accounts) = again.all();
        assert_eq!(white, ["10.0.0.1"]);
        let keys: Vec<_> = accounts.iter().flat_map(|a| a.access_key.as_deref()).collect();
        assert_eq!(keys, ["RocketMQ", "newOne1"]);
        assert_eq!(accounts[0].secret_key.as_deref(), Some("changed8"));
        assert_eq!(
            accounts[0].default_group_perm.as_deref(),
            Some("SUB"),
            "what was not said stays"
        );
        assert!(accounts[0].others.contains_key("note"));
        for acl in [&acl, &again] {
            let mut send = Command::new(310).field("b", "topicA");
            Credentials::new("newOne1", "newSecret").sign(&mut send);
            assert_eq!(ask(acl, &send, "1.2.3.4", false), "allowed");
            assert_eq!(ask(acl, &send, "10.10.103.7", true).split(' ').next(), Some("Need"));
        }

        let before = std::fs::read_to_string(&path).unwrap();
        let bad = |change: &dyn Fn(&mut Account)| {
            let mut account = account("RocketMQ", Some("changed9"));
            change(&mut account);
            let error = acl.update_account(account, 5000).unwrap_err().to_string();
            assert!(!error.contains("changed9"), "{error}");
        };
        bad(&|a| a.secret_key = None);
        bad(&|a| a.secret_key = Some("short".into()));
        bad(&|a| a.access_key = Some("short".into()));
        bad(&|a| a.topic_perms = Some(vec!["topicA".into()]));
        bad(&|a| a.group_perms = Some(vec!["groupA=READ".into()]));
        bad(&|a| a.default_topic_perm = Some("READ".into()));
        bad(&|a| a.white_remote_address = Some("everywhere".into()));
        assert!(acl.delete_account("rocketmq2", 5000).is_err());
        assert!(acl.update_white_list(vec!["x".into()], None, 5000).is_err());
        let outside = Some(Path::new("/etc/passwd"));
        assert!(acl.update_white_list(vec!["10.0.0.1".into()], outside, 5000).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    }
}
