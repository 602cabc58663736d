//! Access control: accounts (50, 51, 54), white lists (53), versions of the files (52).

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::{BrokerService, Failure, Handled};
use crate::acl::{Account, Acl, AclError};
use crate::conn::{Conn, Request};
use crate::wire::codes::{request, response};
use crate::wire::command::Command;
use crate::wire::fastjson::json;
use crate::wire::fields::header;

/// Every refusal here has the code that belongs to the request.
fn code_of(request: &Request<'_>) -> i32 {
    match request.head.code {
        request::UPDATE_AND_CREATE_ACL_CONFIG => response::UPDATE_AND_CREATE_ACL_CONFIG_FAILED,
        request::DELETE_ACL_CONFIG => response::DELETE_ACL_CONFIG_FAILED,
        request::UPDATE_GLOBAL_WHITE_ADDRS_CONFIG => {
            response::UPDATE_GLOBAL_WHITE_ADDRS_CONFIG_FAILED
        }
        _ => response::SYSTEM_ERROR,
    }
}

fn acl<'a>(service: &'a BrokerService, request: &Request<'_>) -> Result<&'a Acl, Failure> {
    service.acl.as_ref().ok_or_else(|| {
        let remark = "this broker has no access control: set aclEnable=true and restart it";
        Failure::Code(code_of(request), remark.into())
    })
}

fn done(result: Result<(), AclError>, conn: &Conn, request: &Request<'_>) -> Handled {
    let name = request::name(request.head.code);
    match result {
        Ok(()) => tracing::info!("{} changes access control: {name}", conn.peer()),
        Err(e) => return Err(Failure::Code(code_of(request), e.to_string())),
    }
    Ok(Command::ok().into())
}

header! {
    struct AccountHeader<'a> {
        access_key: &'a str = "accessKey",
        secret_key: Option<&'a str> = "secretKey",
        white_remote_address: Option<&'a str> = "whiteRemoteAddress",
        admin: bool = "admin" else false,
        default_topic_perm: Option<&'a str> = "defaultTopicPerm",
        default_group_perm: Option<&'a str> = "defaultGroupPerm",
        topic_perms: Option<&'a str> = "topicPerms",
        group_perms: Option<&'a str> = "groupPerms",
    }
}

/// Makes or changes an account.
pub fn update_account(service: &BrokerService, conn: &Arc<Conn>, r: &Request<'_>) -> Handled {
    let acl = acl(service, r)?;
    let h = AccountHeader::of(&r.head.fields)?;
    let text = |text: Option<&str>| text.map(str::to_owned);
    let account = Account {
        access_key: text(Some(h.access_key)),
        secret_key: text(h.secret_key),
        white_remote_address: text(h.white_remote_address),
        admin: h.admin,
        default_topic_perm: text(h.default_topic_perm),
        default_group_perm: text(h.default_group_perm),
        topic_perms: h.topic_perms.map(list),
        group_perms: h.group_perms.map(list),
        ..Account::default()
    };
    done(acl.update_account(account, service.broker.now_ms()), conn, r)
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_owned()).collect()
}

header! {
    struct OneAccount<'a> {
        access_key: &'a str = "accessKey",
    }
}

pub fn delete_account(service: &BrokerService, conn: &Arc<Conn>, r: &Request<'_>) -> Handled {
    let acl = acl(service, r)?;
    let h = OneAccount::of(&r.head.fields)?;
    done(acl.delete_account(h.access_key, service.broker.now_ms()), conn, r)
}

header! {
    struct WhiteList<'a> {
        addresses: &'a str = "globalWhiteAddrs",
        file: Option<&'a str> = "aclFileFullPath",
    }
}

pub fn update_white_list(service: &BrokerService, conn: &Arc<Conn>, r: &Request<'_>) -> Handled {
    let acl = acl(service, r)?;
    let h = WhiteList::of(&r.head.fields)?;
    let file = h.file.filter(|file| !file.is_empty()).map(Path::new);
    done(acl.update_white_list(list(h.addresses), file, service.broker.now_ms()), conn, r)
}

/// Versions of all files, as texts of JSON.
pub fn versions(service: &BrokerService, _: &Arc<Conn>, r: &Request<'_>) -> Handled {
    let (all, default) = acl(service, r)?.versions();
    let config = service.broker.config();
    Ok(Command::ok()
        .field("allAclFileVersion", json(&all))
        .field("version", json(&default))
        .field("brokerAddr", service.advertised.to_string())
        .field("brokerName", config.name.clone())
        .field("clusterName", config.cluster.clone())
        .into())
}

/// All accounts, with their secrets: that is what consoles change them with.
pub fn accounts(service: &BrokerService, _: &Arc<Conn>, r: &Request<'_>) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        global_white_addrs: Vec<String>,
        plain_access_configs: Vec<Account>,
    }
    let (global_white_addrs, plain_access_configs) = acl(service, r)?.all();
    Ok(Command::ok().json(&Body { global_white_addrs, plain_access_configs }).into())
}
