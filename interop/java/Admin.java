import java.util.*;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.MessageExt;

/** The admin API of rocketmq-tools. */
final class Admin {
    static void scenarios(Map<String, Kit.Scenario> into) {
        into.put("admin-topics", Admin::topics);
        into.put("admin-groups", Admin::groups);
        into.put("admin-cluster", Admin::cluster);
        into.put("admin-stats", Admin::stats);
        into.put("admin-consumers", Admin::consumers);
    }

    private static void topics(Kit kit) throws Exception {
        var admin = kit.admin();
        String topic = kit.topic(3), address = kit.broker(), broker = kit.brokers().keySet().iterator().next();
        var route = admin.examineTopicRouteInfo(topic);
        Kit.equal(address, route.getBrokerDatas().get(0).getBrokerAddrs().get(0L), "address in the route");
        var queue = route.getQueueDatas().get(0);
        Kit.equal(broker + " 3 3 6", queue.getBrokerName() + " " + queue.getReadQueueNums() + " " + queue.getWriteQueueNums() + " " + queue.getPerm(), "route");
        Kit.check(admin.fetchAllTopicList().getTopicList().contains(topic), "the topic list lacks it");
        kit.send(kit.producer(), topic, "t", "old", 6);

        admin.createAndUpdateTopicConfig(address, new TopicConfig(topic, 6, 5, 4));
        Kit.await(10, "changed route", () -> {
            var q = admin.examineTopicRouteInfo(topic).getQueueDatas().get(0);
            return q.getReadQueueNums() == 6 && q.getWriteQueueNums() == 5 && q.getPerm() == 4;
        });
        Kit.equal(6, admin.examineTopicStats(topic).getOffsetTable().size(), "queues in topic stats");
        Kit.check(Kit.refusal(() -> { admin.createAndUpdateTopicConfig(address, new TopicConfig("bad topic!", 1, 1, 6)); return "ok"; }) != 0, "a topic with a blank");

        admin.deleteTopicInBroker(new HashSet<>(kit.brokers().values()), topic);
        admin.deleteTopicInNameServer(new HashSet<>(List.of(kit.nameServer)), topic);
        Kit.await(10, "no route", () -> Kit.refusal(() -> admin.examineTopicRouteInfo(topic)) == 17);
        Kit.check(!admin.fetchAllTopicList().getTopicList().contains(topic), "the topic list still has it");
        // Made again, it is empty and counts from 0.
        kit.topic(topic, 3);
        SendResult result = kit.producer().send(Kit.message(topic, "t", "k", "new"));
        Kit.equal(0, result.getQueueOffset(), "first offset of the topic made again");
        Kit.sameSet(List.of("new"), kit.everything(topic).stream().map(Kit::text).collect(Collectors.toList()), "stored");
    }

    private static void groups(Kit kit) throws Exception {
        String address = kit.broker(), group = kit.name("group");
        Versioned.createGroup(kit.admin(), address, group, 5);
        var table = kit.admin().getAllSubscriptionGroup(address, 5000).getSubscriptionGroupTable();
        Kit.check(table.containsKey(group), "the group is not listed");
        Kit.equal(5, table.get(group).getRetryMaxTimes(), "retryMaxTimes");
        Versioned.createGroup(kit.admin(), address, group, 7);
        Kit.equal(7, kit.admin().getAllSubscriptionGroup(address, 5000).getSubscriptionGroupTable().get(group).getRetryMaxTimes(), "retryMaxTimes, changed");
        Versioned.deleteGroup(kit.admin(), address, group);
        // Java's 5.5.0 makes the group again, with defaults, while it deletes it; its settings are gone in any case.
        var left = kit.admin().getAllSubscriptionGroup(address, 5000).getSubscriptionGroupTable().get(group);
        Kit.check(left == null || left.getRetryMaxTimes() == 16, "the group is still there: %s", left);
    }

    private static void cluster(Kit kit) throws Exception {
        var admin = kit.admin();
        String address = kit.broker(), broker = kit.brokers().keySet().iterator().next();
        var info = admin.examineBrokerClusterInfo();
        String cluster = info.getClusterAddrTable().keySet().iterator().next();
        Kit.check(info.getClusterAddrTable().get(cluster).contains(broker), "cluster %s lacks %s", cluster, broker);
        Kit.equal(cluster, info.getBrokerAddrTable().get(broker).getCluster(), "cluster of the broker");

        Properties config = admin.getBrokerConfig(address);
        Kit.equal(broker + " " + cluster + " " + address.split(":")[1],
            config.getProperty("brokerName") + " " + config.getProperty("brokerClusterName") + " " + config.getProperty("listenPort"), "broker config");
        String reserved = config.getProperty("fileReservedTime");
        Properties change = new Properties();
        change.setProperty("fileReservedTime", "71");
        admin.updateBrokerConfig(address, change);
        Kit.equal("71", admin.getBrokerConfig(address).getProperty("fileReservedTime"), "fileReservedTime, changed");
        change.setProperty("fileReservedTime", reserved);
        admin.updateBrokerConfig(address, change);

        String topic = kit.topic(1);
        Map<String, String> before = admin.fetchBrokerRuntimeStats(address).getTable();
        kit.send(kit.producer(), topic, "t", "m", 50);
        Map<String, String> after = admin.fetchBrokerRuntimeStats(address).getTable();
        for (String key : List.of("brokerVersionDesc", "bootTimestamp", "runtime", "putTps", "getTransferredTps", "commitLogMinOffset",
                "commitLogMaxOffset", "msgPutTotalTodayNow", "msgPutTotalTodayMorning", "commitLogDirCapacity", "sendThreadPoolQueueSize", "dispatchBehindBytes")) {
            Kit.check(after.get(key) != null, "runtime info lacks %s", key);
        }
        Kit.check(Long.parseLong(after.get("commitLogMaxOffset")) - Long.parseLong(before.get("commitLogMaxOffset")) >= 50 * 91, "commitLogMaxOffset did not grow by 50 messages");
        Kit.check(Long.parseLong(after.get("msgPutTotalTodayNow")) - Long.parseLong(before.get("msgPutTotalTodayNow")) >= 50, "msgPutTotalTodayNow did not grow by 50");

        admin.createAndUpdateKvConfig("INTEROP", kit.name("key"), "värde");
        Kit.equal("värde", admin.getKVConfig("INTEROP", kit.name("key")), "KV config");
        Kit.equal("värde", admin.getKVListByNamespace("INTEROP").getTable().get(kit.name("key")), "KV list");
        admin.deleteKvConfig("INTEROP", kit.name("key"));
        Kit.equal(22, Kit.refusal(() -> admin.getKVConfig("INTEROP", kit.name("key"))), "deleted KV config");
    }

    private static void stats(Kit kit) throws Exception {
        var admin = kit.admin();
        String topic = kit.topic(4), group = kit.name("group");
        long start = System.currentTimeMillis();
        kit.send(kit.producer(), topic, "t", "m", 40);
        Kit.await(5, "dispatch", () -> admin.examineTopicStats(topic).getOffsetTable().values().stream().mapToLong(o -> o.getMaxOffset()).sum() == 40);
        var table = admin.examineTopicStats(topic).getOffsetTable();
        Kit.equal(4, table.size(), "queues in topic stats");
        table.forEach((queue, offset) -> {
            Kit.equal("0 10", offset.getMinOffset() + " " + offset.getMaxOffset(), "offsets of " + queue);
            Kit.check(offset.getLastUpdateTimestamp() >= start && offset.getLastUpdateTimestamp() <= System.currentTimeMillis(), "time of %s: %d", queue, offset.getLastUpdateTimestamp());
        });
        Kit.Inbox inbox = new Kit.Inbox();
        var consumer = kit.start(kit.push(group, topic, "*", inbox));
        Kit.await(30, "40 deliveries", () -> inbox.got.size() == 40);
        Thread.sleep(100); // the last one counts as consumed when its listener has returned
        Kit.commit(consumer);
        Kit.await(30, "consume stats without lag", () -> {
            var stats = admin.examineConsumeStats(group);
            var mine = stats.getOffsetTable().entrySet().stream().filter(e -> e.getKey().getTopic().equals(topic)).collect(Collectors.toList());
            return stats.computeTotalDiff() == 0 && mine.size() == 4
                && mine.stream().allMatch(e -> e.getValue().getConsumerOffset() == 10 && e.getValue().getBrokerOffset() == 10 && e.getValue().getLastTimestamp() >= start);
        });
        Kit.check(admin.queryTopicConsumeByWho(topic).getGroupList().contains(group), "queryTopicConsumeByWho lacks the group");
        Kit.equal(4, admin.queryConsumeTimeSpan(topic, group).size(), "queues in the consume time span");
        var all = admin.fetchConsumeStatsInBroker(kit.broker(), false, 5000).getConsumeStatsList();
        Kit.check(all.stream().anyMatch(m -> m.containsKey(group)), "consume stats of the broker lack the group");
    }

    private static void consumers(Kit kit) throws Exception {
        var admin = kit.admin();
        String topic = kit.topic(2), group = kit.name("group");
        DefaultMQProducer producer = kit.producer();
        Kit.Inbox inbox = new Kit.Inbox();
        kit.start(kit.push(group, topic, "x || y", inbox));
        kit.start(kit.push(group, topic, "x || y", inbox));
        List<String> bodies = kit.send(producer, topic, "x", "m", 10);
        inbox.expect(30, bodies);
        Kit.await(10, "two members", () -> admin.examineConsumerConnectionInfo(group).getConnectionSet().size() == 2);
        var connection = admin.examineConsumerConnectionInfo(group);
        Kit.equal("CLUSTERING CONSUME_PASSIVELY CONSUME_FROM_FIRST_OFFSET",
            connection.getMessageModel() + " " + connection.getConsumeType() + " " + connection.getConsumeFromWhere(), "how the group consumes");
        Kit.equal("x || y", connection.getSubscriptionTable().get(topic).getSubString(), "subscription");
        Kit.equal(Set.of("x", "y"), connection.getSubscriptionTable().get(topic).getTagsSet(), "tags");
        Kit.check(connection.getSubscriptionTable().containsKey("%RETRY%" + group), "the retry topic is not subscribed");
        Kit.await(10, "producer connection", () -> admin.examineProducerConnectionInfo(producer.getProducerGroup(), topic).getConnectionSet().size() == 1);

        // Requests the broker passes on to the consumer.
        String client = connection.getConnectionSet().iterator().next().getClientId();
        var running = admin.getConsumerRunningInfo(group, client, false);
        Kit.check(running.getSubscriptionSet().stream().anyMatch(s -> s.getTopic().equals(topic)), "running info lacks the subscription");
        Kit.check(running.getMqTable().keySet().stream().anyMatch(q -> q.getTopic().equals(topic)), "running info lacks the queues");
        MessageExt message = inbox.got.get(0);
        var direct = admin.consumeMessageDirectly(group, client, topic, message.getMsgId());
        Kit.equal("CR_SUCCESS", direct.getConsumeResult().name(), "consumed directly");
        Kit.equal(11, inbox.got.size(), "deliveries after one more directly");
        Kit.equal(Kit.text(message), Kit.text(inbox.got.get(10)), "body consumed directly");
        Kit.await(10, "status of the consumers", () -> admin.getConsumeStatus(topic, group, "").size() == 2);
        int code = Kit.refusal(() -> admin.examineConsumerConnectionInfo(kit.name("nobody")));
        Kit.check(code == 17 || code == 206, "code for a group without consumers: %d", code);
    }
}
