//! Flags of tools that talk to servers: TLS, and the account that requests are signed for.

use std::convert::Infallible;
use std::path::PathBuf;

use clap::Args;
use mq_broker::acl::{Credentials, read_credentials};
use mq_broker::config::{Secret, TlsConf};
use mq_broker::tls::Connector;
use mq_broker::wire::client::Security;

#[derive(Clone, Debug, Default, Args)]
pub struct SecurityArgs {
    /// Use TLS
    #[arg(long, global = true)]
    tls: bool,
    /// RocketMQ's tls.properties: what to show and whom to believe [default: all are believed]
    #[arg(long, global = true, value_name = "FILE", requires = "tls")]
    tls_config: Option<PathBuf>,
    /// Account to sign requests for
    #[arg(long = "access-key", global = true, value_name = "NAME")]
    account: Option<String>,
    /// The account's secret. In the environment not everybody on the machine sees it
    #[arg(
        long = "secret-key",
        global = true,
        value_name = "SECRET",
        env = "MQ_SECRET_KEY",
        hide_env_values = true,
        value_parser = secret
    )]
    secret: Option<Secret>,
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret(text.to_owned()))
}

impl SecurityArgs {
    /// What a client is to do; or what is wrong, for people.
    pub fn security(&self) -> Result<Security, String> {
        let mut security = Security { tls: None, credentials: self.credentials()? };
        if self.tls {
            let mut conf = TlsConf::default();
            if let Some(file) = &self.tls_config {
                conf.config_file.clone_from(file);
                conf.read_config_file().map_err(|e| e.to_string())?;
            }
            security.tls = Some(Connector::of(&conf).map_err(|e| e.to_string())?);
        }
        Ok(security)
    }

    /// Who signs requests.
    pub fn credentials(&self) -> Result<Option<Credentials>, String> {
        let Some(name) = &self.account else { return Ok(None) };
        let secret = self.secret.as_ref().ok_or_else(|| {
            format!("--access-key {name} wants --secret-key, or MQ_SECRET_KEY in the environment")
        })?;
        Ok(Some(Credentials::new(name, &secret.0)))
    }

    /// What a client is to do; without an account of its own with that of `conf/tools.yml` in `ROCKETMQ_HOME`,
    /// as RocketMQ's own tools have it.
    pub fn security_or_tools_yml(&self) -> Result<Security, String> {
        let mut security = self.security()?;
        let file =
            std::env::var_os("ROCKETMQ_HOME").map(|h| PathBuf::from(h).join("conf/tools.yml"));
        if let Some(file) = file.filter(|f| security.credentials.is_none() && f.exists()) {
            security.credentials = read_credentials(&file).map_err(|e| e.to_string())?;
        }
        Ok(security)
    }
}
