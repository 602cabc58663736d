//! Whether a request is allowed: who sent it, what it touches, what it takes.

use std::net::IpAddr;

use serde::Deserialize;

use super::rules::{Perm, Resource, Rule, Rules};
use super::sign::{ACCESS_KEY, is_signed};
use crate::conn::Request;
use crate::sessions::Heartbeat;
use crate::wire::codes::request;

/// Why a request is not allowed, in RocketMQ's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("No accessKey is configured")]
    NoKey,
    #[error("No acl config for {0}")]
    Unknown(String),
    #[error("Check signature failed for accessKey={0}")]
    Signature(String),
    #[error("Need admin permission for request code={0}, but accessKey={1} is not")]
    NoAdmin(i32, String),
    #[error("No default permission for {0}")]
    Resource(String),
}

pub fn check(rules: &Rules, request: &Request<'_>, ip: IpAddr, admin: bool) -> Result<(), Denied> {
    if rules.trusts(ip) {
        return Ok(());
    }
    let access_key = request.head.fields.get(ACCESS_KEY).ok_or(Denied::NoKey)?;
    let rule = rules.account(access_key).ok_or_else(|| Denied::Unknown(access_key.to_owned()))?;
    if rule.white.contains(ip) {
        return Ok(());
    }
    if !is_signed(request, &rule.key) {
        return Err(Denied::Signature(access_key.to_owned()));
    }
    if admin && !rule.admin {
        return Err(Denied::NoAdmin(request.head.code, access_key.to_owned()));
    }
    resources(rule, request)
}

/// Looks at everything that a request touches. A field that is missing is the handler's to miss.
fn resources(rule: &Rule, r: &Request<'_>) -> Result<(), Denied> {
    let need = |resource: Resource<'_>, perm| match rule.allows(resource, perm) {
        true => Ok(()),
        false => Err(Denied::Resource(resource.to_string())),
    };
    let field = |name| r.head.fields.get(name);
    let topic =
        |name: Option<&str>| name.map_or(Ok(()), |name| need(Resource::topic(name), Perm::SUB));
    let group =
        |name: Option<&str>| name.map_or(Ok(()), |name| need(Resource::Group(name), Perm::SUB));
    match r.head.code {
        request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
            match field("b").or_else(|| field("topic")).map(Resource::topic) {
                // Everybody may tell of messages.
                None | Some(Resource::Topic("RMQ_SYS_TRACE_TOPIC")) => Ok(()),
                Some(topic @ Resource::Topic(_)) => need(topic, Perm::PUB),
                // Consumers put back what they could not consume.
                Some(group @ Resource::Group(_)) => need(group, Perm::SUB),
            }
        }
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE | request::UPDATE_CONSUMER_OFFSET => {
            topic(field("topic"))?;
            group(field("consumerGroup"))
        }
        request::QUERY_MESSAGE => topic(field("topic")),
        request::CONSUMER_SEND_MSG_BACK => group(field("group")),
        request::UNREGISTER_CLIENT | request::GET_CONSUMER_LIST_BY_GROUP => {
            group(field("consumerGroup"))
        }
        request::LOCK_BATCH_MQ | request::UNLOCK_BATCH_MQ => {
            #[derive(Default, Deserialize)]
            #[serde(rename_all = "camelCase", default)]
            struct Body {
                consumer_group: Option<String>,
            }
            let body: Body = serde_json::from_slice(r.body).unwrap_or_default();
            group(body.consumer_group.as_deref())
        }
        request::HEART_BEAT => {
            let heartbeat: Heartbeat = serde_json::from_slice(r.body).unwrap_or_default();
            for consumer in &heartbeat.consumer_data_set {
                group(Some(&consumer.group_name))?;
                for subscription in &consumer.subscription_data_set {
                    topic(Some(&subscription.topic))?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
