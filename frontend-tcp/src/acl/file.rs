//! `plain_acl.yml`: what it holds, reading and writing it.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use yaml_serde::{Mapping, Value};

use super::AclError;
use super::sign::Credentials;

/// A file of access control, as it is written.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AclFile {
    #[serde(deserialize_with = "texts", skip_serializing_if = "Option::is_none")]
    pub global_white_remote_addresses: Option<Vec<String>>,
    #[serde(deserialize_with = "or_default")]
    pub accounts: Vec<Account>,
    /// One element, or none before the first change that a broker made.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub data_version: Vec<Version>,
    /// What RocketMQ does not know stays where it is.
    #[serde(flatten)]
    pub others: Mapping,
}

/// How often a broker changed a file, and when it last did.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Version {
    pub counter: i64,
    /// Milliseconds.
    pub timestamp: i64,
}

impl AclFile {
    pub fn version(&self) -> Version {
        self.data_version.first().copied().unwrap_or_default()
    }

    /// Reads a file; one that is empty has no accounts.
    pub fn read(path: &Path) -> Result<AclFile, AclError> {
        read(path)
    }

    pub fn next_version(&mut self, now_ms: i64) {
        self.data_version =
            vec![Version { counter: self.version().counter + 1, timestamp: now_ms }];
    }

    /// Writes the file in one step. Who may read it stays as it is; a new file is its owner's alone.
    pub fn write(&self, path: &Path) -> Result<(), AclError> {
        let text = yaml_serde::to_string(self).map_err(|e| AclError::Syntax(path.into(), e))?;
        replace(path, text.as_bytes()).map_err(|e| AclError::Write(path.into(), e))
    }
}

fn read<T: DeserializeOwned + Default>(path: &Path) -> Result<T, AclError> {
    let text = fs::read_to_string(path).map_err(|e| AclError::Read(path.into(), e))?;
    let wrong = |e| AclError::Syntax(path.into(), e);
    let value: Value = yaml_serde::from_str(&text).map_err(wrong)?;
    if value.is_null() {
        return Ok(T::default());
    }
    yaml_serde::from_value(value).map_err(wrong)
}

/// The account that stands alone in `tools.yml`, the file of tools; `None` if there is none in it.
pub fn read_credentials(path: &Path) -> Result<Option<Credentials>, AclError> {
    let account: Account = read(path)?;
    let name = account.access_key.filter(|name| !name.is_empty());
    let secret = account.secret_key.filter(|secret| !secret.is_empty());
    Ok(name.zip(secret).map(|(name, secret)| Credentials::new(name, &secret)))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A link stays one: where it leads to is replaced.
    let path: PathBuf = path.canonicalize().or_else(|_| std::path::absolute(path))?;
    let mode = fs::metadata(&path).map_or(0o600, |m| m.permissions().mode() & 0o7777);
    let temp = path.with_extension("tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&temp, &path)
}

/// An account, as it is written.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Account {
    #[serde(deserialize_with = "text")]
    pub access_key: Option<String>,
    #[serde(deserialize_with = "text")]
    pub secret_key: Option<String>,
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub white_remote_address: Option<String>,
    #[serde(deserialize_with = "flag")]
    pub admin: bool,
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub default_topic_perm: Option<String>,
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub default_group_perm: Option<String>,
    #[serde(deserialize_with = "texts", skip_serializing_if = "Option::is_none")]
    pub topic_perms: Option<Vec<String>>,
    #[serde(deserialize_with = "texts", skip_serializing_if = "Option::is_none")]
    pub group_perms: Option<Vec<String>>,
    #[serde(flatten)]
    pub others: Mapping,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No secret gets into a log.
        f.debug_struct("Account")
            .field("access_key", &self.access_key)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

impl Account {
    /// Takes over what `new` says, as RocketMQ does: what it leaves out stays.
    pub fn change(&mut self, new: Account) {
        self.access_key = new.access_key;
        self.admin = new.admin;
        let not_empty = |text: Option<String>| text.filter(|t| !t.is_empty());
        for (old, new) in [
            (&mut self.secret_key, not_empty(new.secret_key)),
            (&mut self.white_remote_address, new.white_remote_address),
            (&mut self.default_topic_perm, not_empty(new.default_topic_perm)),
            (&mut self.default_group_perm, not_empty(new.default_group_perm)),
        ] {
            *old = new.or(old.take());
        }
        self.topic_perms = new.topic_perms.or(self.topic_perms.take());
        self.group_perms = new.group_perms.or(self.group_perms.take());
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A text; `secretKey: 12345678` is one as well.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    as_text(Value::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn as_text(value: Value) -> Result<Option<String>, &'static str> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(flag) => Ok(Some(flag.to_string())),
        _ => Err("a text is wanted, not a list or a map"),
    }
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let values = Option::<Vec<Value>>::deserialize(deserializer)?;
    let texts = |values: Vec<Value>| {
        values.into_iter().filter_map(|v| as_text(v).transpose()).collect::<Result<_, _>>()
    };
    values.map(texts).transpose().map_err(D::Error::custom)
}

/// True or false, in any of YAML 1.1's words.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = text(deserializer)?.unwrap_or_default().to_ascii_lowercase();
    Ok(matches!(&*text, "true" | "yes" | "on"))
}
