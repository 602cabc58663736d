//! What files of access control mean, ready to be asked.

use std::collections::HashMap;
use std::path::PathBuf;

use ring::hmac;

use super::AclError;
use super::address::Addresses;
use super::file::{Account, AclFile};

/// RocketMQ takes no shorter keys.
const SHORTEST_KEY: usize = 7;
const RETRY: &str = "%RETRY%";

/// What an account may do with a topic or group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Perm {
    pub publish: bool,
    pub subscribe: bool,
}

impl Perm {
    pub const PUB: Perm = Perm { publish: true, subscribe: false };
    pub const SUB: Perm = Perm { publish: false, subscribe: true };
    const DENY: Perm = Perm { publish: false, subscribe: false };

    fn parse(text: &str) -> Option<Perm> {
        match text.trim() {
            "PUB" => Some(Perm::PUB),
            "SUB" => Some(Perm::SUB),
            "PUB|SUB" | "SUB|PUB" => Some(Perm { publish: true, subscribe: true }),
            "DENY" => Some(Perm::DENY),
            _ => None,
        }
    }

    /// Whether who has this may do what `needed` says.
    fn allows(self, needed: Perm) -> bool {
        (self.publish && needed.publish) || (self.subscribe && needed.subscribe)
    }
}

/// Something that a request touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    Topic(&'a str),
    Group(&'a str),
}

impl<'a> Resource<'a> {
    /// A topic; the retry topic of a group stands for the group.
    pub fn topic(name: &'a str) -> Resource<'a> {
        name.strip_prefix(RETRY).map_or(Resource::Topic(name), Resource::Group)
    }
}

impl std::fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Resource::Topic(name) => write!(f, "topic:{name}"),
            Resource::Group(name) => write!(f, "group:{name}"),
        }
    }
}

/// One account.
#[derive(Debug)]
pub struct Rule {
    /// Of the secret; it does not show it.
    pub key: hmac::Key,
    pub white: Addresses,
    pub admin: bool,
    default_topic: Perm,
    default_group: Perm,
    topics: HashMap<String, Perm>,
    groups: HashMap<String, Perm>,
}

impl Rule {
    pub fn allows(&self, resource: Resource<'_>, needed: Perm) -> bool {
        if self.admin && self.topics.is_empty() && self.groups.is_empty() {
            return true;
        }
        let owned = match resource {
            Resource::Topic(name) => self.topics.get(name).copied().unwrap_or(self.default_topic),
            Resource::Group(name) => self.groups.get(name).copied().unwrap_or(self.default_group),
        };
        owned.allows(needed)
    }

    /// An account as a file has it. An error says what is wrong with it.
    fn of(account: &Account) -> Result<(String, Rule), String> {
        let access_key = account.access_key.clone().unwrap_or_default();
        let secret_key = account.secret_key.as_deref().unwrap_or_default();
        if access_key.len() < SHORTEST_KEY || secret_key.len() < SHORTEST_KEY {
            // RocketMQ's words, without the secret.
            return Err(format!(
                "The accessKey={access_key} and secretKey cannot be null and length should longer than 6"
            ));
        }
        let text = account.white_remote_address.as_deref().unwrap_or_default();
        let white = Addresses::parse(text).ok_or_else(|| no_address(text))?;
        // What nobody knows allows nothing, and is no reason not to start.
        let perm = |text: &str| {
            Perm::parse(text).unwrap_or_else(|| {
                tracing::warn!(
                    "accessKey {access_key}: {text:?} is no permission; it counts as DENY"
                );
                Perm::DENY
            })
        };
        let default = |text: &Option<String>| text.as_deref().map_or(Perm::DENY, perm);
        let (mut topics, mut groups) = (HashMap::new(), HashMap::new());
        for text in account.group_perms.iter().flatten() {
            let (group, text) = resource(text)?;
            groups.insert(group.to_owned(), perm(text));
        }
        for text in account.topic_perms.iter().flatten() {
            let (topic, text) = resource(text)?;
            match Resource::topic(topic) {
                Resource::Topic(topic) => topics.insert(topic.to_owned(), perm(text)),
                Resource::Group(group) => groups.insert(group.to_owned(), perm(text)),
            };
        }
        let rule = Rule {
            key: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret_key.as_bytes()),
            white,
            admin: account.admin,
            default_topic: default(&account.default_topic_perm),
            default_group: default(&account.default_group_perm),
            topics,
            groups,
        };
        Ok((access_key, rule))
    }
}

fn no_address(text: &str) -> String {
    format!("{text:?} is no address or pattern of addresses, as 10.0.0.1 or 10.0.0.*")
}

/// What `topic=PUB` says.
fn resource(text: &str) -> Result<(&str, &str), String> {
    let parts = text.split_once('=').map(|(name, perm)| (name.trim(), perm.trim()));
    parts.filter(|(name, perm)| !name.is_empty() && !perm.contains('=')).ok_or_else(|| {
        format!("Parse Resource format error for {text}.\nThe expected resource format is 'Res=Perm'. For example: topicA=SUB")
    })
}

/// Whether somebody may ask for an account like this one; stricter than what a file may say.
pub fn check_account(account: &Account) -> Result<(), String> {
    Rule::of(account)?;
    let defaults = [&account.default_topic_perm, &account.default_group_perm];
    let defaults = defaults.into_iter().flatten().map(|text| (text, &**text));
    let perms = [&account.topic_perms, &account.group_perms].into_iter().flatten().flatten();
    let perms = perms.map(|text| (text, text.split_once('=').unwrap_or_default().1));
    match defaults.chain(perms).find(|(_, perm)| Perm::parse(perm).is_none()) {
        None => Ok(()),
        Some((text, _)) => Err(format!(
            "Parse resource permission error for {text}.\nThe expected permissions are 'SUB' or 'PUB' or 'SUB|PUB' or 'PUB|SUB'."
        )),
    }
}

/// All files together.
#[derive(Debug, Default)]
pub struct Rules {
    pub files: Vec<(PathBuf, AclFile)>,
    white: Vec<Addresses>,
    accounts: HashMap<String, Rule>,
}

impl Rules {
    /// Makes the rules of files. The first account of a key is the one that counts.
    pub fn of(files: Vec<(PathBuf, AclFile)>) -> Result<Rules, AclError> {
        let mut rules = Rules::default();
        for (path, file) in &files {
            let wrong = |e| AclError::Meaning(path.clone(), e);
            for text in file.global_white_remote_addresses.iter().flatten() {
                let white = Addresses::parse(text).ok_or_else(|| wrong(no_address(text)))?;
                rules.white.push(white);
            }
            for account in &file.accounts {
                let (access_key, rule) = Rule::of(account).map_err(wrong)?;
                if rules.accounts.contains_key(&access_key) {
                    tracing::warn!("{}: accessKey {access_key} comes again", path.display());
                    continue;
                }
                rules.accounts.insert(access_key, rule);
            }
        }
        rules.files = files;
        Ok(rules)
    }

    /// Whether anything is allowed to who comes from there.
    pub fn trusts(&self, ip: std::net::IpAddr) -> bool {
        self.white.iter().any(|white| white.contains(ip))
    }

    pub fn account(&self, access_key: &str) -> Option<&Rule> {
        self.accounts.get(access_key)
    }
}
