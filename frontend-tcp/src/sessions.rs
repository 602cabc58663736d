//! Which clients are members of which groups, and what their groups subscribe to. In memory
//! only: after a restart clients come back with their next heartbeat.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mq_store::broker::filter::{Filter, FilterError, is_tag_type};
use serde::{Deserialize, Serialize};

use crate::conn::Conn;

/// A client that is silent for longer is gone (`clientChannelExpiredTimeout`), ms.
const EXPIRED_MS: i64 = 120_000;

/// What a consumer wants of a topic, as clients write it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionData {
    pub class_filter_mode: bool,
    pub code_set: Vec<serde_json::Value>,
    #[serde(deserialize_with = "text_or_null")]
    pub expression_type: String,
    #[serde(deserialize_with = "text_or_null")]
    pub filter_class_source: String,
    #[serde(deserialize_with = "text_or_null")]
    pub sub_string: String,
    /// ms, or ns with the Go client.
    pub sub_version: i64,
    pub tags_set: Vec<String>,
    pub topic: String,
}

fn text_or_null<'de, D: serde::Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(d)?.unwrap_or_default())
}

impl SubscriptionData {
    pub fn is_tag(&self) -> bool {
        is_tag_type(&self.expression_type)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerData {
    pub group_name: String,
    pub consume_type: String,
    pub message_model: String,
    pub consume_from_where: String,
    pub subscription_data_set: Vec<SubscriptionData>,
    pub unit_mode: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerData {
    pub group_name: String,
}

/// The body of a heartbeat.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Heartbeat {
    #[serde(rename = "clientID")]
    pub client_id: String,
    pub consumer_data_set: Vec<ConsumerData>,
    pub producer_data_set: Vec<ProducerData>,
}

/// A subscription, ready for use.
#[derive(Debug)]
pub struct Subscription {
    pub data: SubscriptionData,
    /// An expression that is none gives nothing, and its pulls say so.
    pub filter: Result<Arc<Filter>, FilterError>,
}

/// One member of a group.
#[derive(Clone, Debug)]
pub struct Member {
    pub client_id: String,
    pub conn: Arc<Conn>,
    pub language: String,
    pub version: i32,
    pub heard_ms: i64,
}

/// A consumer group with members.
#[derive(Clone, Debug, Default)]
pub struct ConsumerGroup {
    pub consume_type: String,
    pub message_model: String,
    pub consume_from_where: String,
    pub subscriptions: BTreeMap<String, Arc<Subscription>>,
    /// By connection.
    pub members: BTreeMap<u64, Member>,
}

impl ConsumerGroup {
    pub fn is_broadcasting(&self) -> bool {
        self.message_model == "BROADCASTING"
    }
}

#[derive(Debug, Default)]
struct Tables {
    consumers: HashMap<String, ConsumerGroup>,
    producers: HashMap<String, BTreeMap<u64, Member>>,
    /// Connection to the groups of each table in which it is a member.
    groups_of: HashMap<u64, (BTreeSet<String>, BTreeSet<String>)>,
}

/// All members of all groups.
#[derive(Debug, Default)]
pub struct Sessions {
    tables: Mutex<Tables>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a producer's sign of life.
    pub fn producer(&self, group: &str, member: Member) {
        let mut tables = self.lock();
        let of_conn = tables.groups_of.entry(member.conn.id()).or_default();
        of_conn.1.insert(group.to_owned());
        tables.producers.entry(group.to_owned()).or_default().insert(member.conn.id(), member);
    }

    /// Takes in a consumer's sign of life. Returns whether the others of its group should know.
    pub fn consumer(&self, data: &ConsumerData, member: Member) -> bool {
        let mut tables = self.lock();
        let of_conn = tables.groups_of.entry(member.conn.id()).or_default();
        of_conn.0.insert(data.group_name.clone());
        let group = tables.consumers.entry(data.group_name.clone()).or_default();
        group.consume_type.clone_from(&data.consume_type);
        group.message_model.clone_from(&data.message_model);
        group.consume_from_where.clone_from(&data.consume_from_where);
        // A client that came back on a new connection is not two clients.
        group.members.retain(|id, m| *id == member.conn.id() || m.client_id != member.client_id);
        let mut changed = group.members.insert(member.conn.id(), member).is_none();
        for new in &data.subscription_data_set {
            match group.subscriptions.get(&new.topic) {
                Some(old) if old.data.sub_version >= new.sub_version => continue,
                Some(_) => {}
                None => changed = true,
            }
            let filter = Filter::parse(&new.expression_type, &new.sub_string).map(Arc::new);
            let subscription = Subscription { data: new.clone(), filter };
            group.subscriptions.insert(new.topic.clone(), Arc::new(subscription));
        }
        let before = group.subscriptions.len();
        group
            .subscriptions
            .retain(|topic, _| data.subscription_data_set.iter().any(|s| s.topic == *topic));
        changed || group.subscriptions.len() < before
    }

    /// Ends a membership. Returns who is left of the consumer group, if it was in one.
    pub fn leave(
        &self,
        conn: u64,
        producer_group: Option<&str>,
        consumer_group: Option<&str>,
    ) -> Vec<Arc<Conn>> {
        let mut tables = self.lock();
        if let Some(of_conn) = tables.groups_of.get_mut(&conn) {
            consumer_group.map(|group| of_conn.0.remove(group));
            producer_group.map(|group| of_conn.1.remove(group));
        }
        if let Some(group) = producer_group {
            tables.leave_producers(group, conn);
        }
        consumer_group.map(|group| tables.leave_consumers(group, conn)).unwrap_or_default()
    }

    /// Ends all memberships of a connection. Returns the consumer groups it was in, with who is
    /// left.
    pub fn closed(&self, conn: u64) -> Vec<(String, Vec<Arc<Conn>>)> {
        let mut tables = self.lock();
        let Some((consumers, producers)) = tables.groups_of.remove(&conn) else {
            return Vec::new();
        };
        for group in producers {
            tables.leave_producers(&group, conn);
        }
        consumers
            .into_iter()
            .map(|group| {
                let left = tables.leave_consumers(&group, conn);
                (group, left)
            })
            .collect()
    }

    /// Background step: closes connections of clients that were silent for too long.
    pub fn expire_step(&self, now_ms: i64) {
        let tables = self.lock();
        let consumers = tables.consumers.values().flat_map(|g| g.members.values());
        for member in consumers.chain(tables.producers.values().flat_map(|m| m.values())) {
            if now_ms - member.heard_ms > EXPIRED_MS {
                tracing::info!("client {} is silent: closed", member.client_id);
                member.conn.close();
            }
        }
    }

    /// A consumer group with all that is known of it.
    pub fn group(&self, group: &str) -> Option<ConsumerGroup> {
        self.lock().consumers.get(group).cloned()
    }

    /// Shows a consumer group to `look`; `None` if it has no members.
    pub fn with_group<T>(&self, group: &str, look: impl FnOnce(&ConsumerGroup) -> T) -> Option<T> {
        self.lock().consumers.get(group).map(look)
    }

    /// Connections of a consumer group.
    pub fn conns(&self, group: &str) -> Vec<Arc<Conn>> {
        let tables = self.lock();
        let group = tables.consumers.get(group);
        group.map(|g| g.members.values().map(|m| m.conn.clone()).collect()).unwrap_or_default()
    }

    /// Members of a producer group.
    pub fn producers(&self, group: &str) -> Vec<Member> {
        let tables = self.lock();
        tables.producers.get(group).map(|m| m.values().cloned().collect()).unwrap_or_default()
    }

    /// All consumer groups with members.
    pub fn all_consumers(&self) -> BTreeMap<String, ConsumerGroup> {
        self.lock().consumers.iter().map(|(name, group)| (name.clone(), group.clone())).collect()
    }

    /// All producer groups with their members.
    pub fn all_producers(&self) -> BTreeMap<String, Vec<Member>> {
        let tables = self.lock();
        let all = tables.producers.iter();
        all.map(|(group, members)| (group.clone(), members.values().cloned().collect())).collect()
    }

    /// Consumer groups that subscribe to a topic.
    pub fn groups_of_topic(&self, topic: &str) -> BTreeSet<String> {
        let tables = self.lock();
        let groups = tables.consumers.iter();
        groups
            .filter(|(_, g)| g.subscriptions.contains_key(topic))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The connection of a client, whatever groups it is in.
    pub fn client(&self, client_id: &str) -> Option<Arc<Conn>> {
        let tables = self.lock();
        let consumers = tables.consumers.values().flat_map(|g| g.members.values());
        let mut members = tables.producers.values().flat_map(|m| m.values()).chain(consumers);
        members.find(|m| m.client_id == client_id).map(|m| m.conn.clone())
    }

    /// A member by the id of its client.
    pub fn find_client(&self, group: &str, client_id: &str) -> Option<Member> {
        let tables = self.lock();
        let members = tables.consumers.get(group)?.members.values();
        members.into_iter().find(|m| m.client_id == client_id).cloned()
    }
}

impl Tables {
    fn leave_producers(&mut self, group: &str, conn: u64) {
        if let Some(members) = self.producers.get_mut(group) {
            members.remove(&conn);
            if members.is_empty() {
                self.producers.remove(group);
            }
        }
    }

    fn leave_consumers(&mut self, group: &str, conn: u64) -> Vec<Arc<Conn>> {
        let Some(of_group) = self.consumers.get_mut(group) else { return Vec::new() };
        if of_group.members.remove(&conn).is_none() {
            return Vec::new();
        }
        let left = of_group.members.values().map(|m| m.conn.clone()).collect();
        if of_group.members.is_empty() {
            self.consumers.remove(group);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(client_id: &str, conn: &Arc<Conn>, heard_ms: i64) -> Member {
        Member {
            client_id: client_id.into(),
            conn: conn.clone(),
            language: "JAVA".into(),
            version: 317,
            heard_ms,
        }
    }

    fn data(topics: &[(&str, i64)]) -> ConsumerData {
        let sub = |(topic, version): &(&str, i64)| SubscriptionData {
            topic: topic.to_string(),
            sub_string: "a || b".into(),
            sub_version: *version,
            ..Default::default()
        };
        ConsumerData {
            group_name: "G".into(),
            message_model: "CLUSTERING".into(),
            subscription_data_set: topics.iter().map(sub).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn members_come_and_go() {
        let sessions = Sessions::default();
        let here = "127.0.0.1:1".parse().unwrap();
        let conn = || Conn::new(here, here);
        let (a, b, a_again) = (conn(), conn(), conn());
        assert!(sessions.consumer(&data(&[("T", 1)]), member("a", &a, 0)), "a new member");
        assert!(!sessions.consumer(&data(&[("T", 1)]), member("a", &a, 1)), "nothing new");
        assert!(!sessions.consumer(&data(&[("T", 2)]), member("a", &a, 1)), "only a version");
        assert!(sessions.consumer(&data(&[("T", 2), ("U", 1)]), member("b", &b, 1)));
        assert!(sessions.consumer(&data(&[("T", 2)]), member("b", &b, 1)), "a topic went");
        assert!(sessions.consumer(&data(&[("T", 2)]), member("a", &a_again, 1)));
        let group = sessions.group("G").unwrap();
        assert_eq!(group.members.len(), 2, "a came back on another connection");
        assert_eq!(group.subscriptions["T"].data.sub_version, 2);
        assert_eq!(sessions.groups_of_topic("T").len(), 1);
        let left = sessions.closed(a.id());
        assert!(left.len() == 1 && left[0].1.is_empty(), "the group is as it was");
        sessions.expire_step(EXPIRED_MS + 2);
        assert!(b.is_closing());
        let left = sessions.leave(b.id(), None, Some("G"));
        assert_eq!(left.iter().map(|c| c.id()).collect::<Vec<_>>(), [a_again.id()]);
        assert_eq!(sessions.closed(a_again.id()).len(), 1);
        assert!(sessions.group("G").is_none());
    }

    #[test]
    fn heartbeats_of_all_clients_are_read() {
        let body = r#"{"clientID":"1@2","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET",
            "consumeType":"CONSUME_PASSIVELY","groupName":"G","messageModel":"CLUSTERING",
            "subscriptionDataSet":[{"classFilterMode":false,"codeSet":["97"],"expressionType":null,
            "subString":"a","subVersion":1795467882322000000,"tagsSet":["a"],"topic":"T"}],"unitMode":false}],
            "heartbeatFingerprint":0,"producerDataSet":[{"groupName":"P"}],"withoutSub":false}"#;
        let heartbeat: Heartbeat = serde_json::from_str(body).unwrap();
        let sub = &heartbeat.consumer_data_set[0].subscription_data_set[0];
        assert!(sub.is_tag());
        assert_eq!(sub.sub_version, 1_795_467_882_322_000_000);
        assert!(serde_json::from_str::<Heartbeat>("{}").is_ok());
    }
}
