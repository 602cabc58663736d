import java.util.*;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;
import org.apache.rocketmq.remoting.protocol.heartbeat.MessageModel;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** What has other names, or exists only, in the 5.x client. */
final class Versioned {
    static void broadcasting(DefaultMQPushConsumer consumer) {
        consumer.setMessageModel(MessageModel.BROADCASTING);
    }

    static void createGroup(DefaultMQAdminExt admin, String broker, String group, int retries) throws Exception {
        SubscriptionGroupConfig config = new SubscriptionGroupConfig();
        config.setGroupName(group);
        config.setRetryMaxTimes(retries);
        admin.createAndUpdateSubscriptionGroupConfig(broker, config);
    }

    static DefaultMQProducer tracedProducer(String group) {
        DefaultMQProducer producer = new DefaultMQProducer(group);
        producer.setEnableTrace(true);
        return producer;
    }

    static DefaultMQPushConsumer tracedConsumer(String group) {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setEnableTrace(true);
        return consumer;
    }

    static void group(Kit kit, String group, boolean consumes, int retryQueues) throws Exception {
        SubscriptionGroupConfig config = new SubscriptionGroupConfig();
        config.setGroupName(group);
        config.setConsumeEnable(consumes);
        config.setRetryQueueNums(retryQueues);
        kit.admin().createAndUpdateSubscriptionGroupConfig(kit.broker(), config);
    }

    static void deleteGroup(DefaultMQAdminExt admin, String broker, String group) throws Exception {
        admin.deleteSubscriptionGroup(broker, group);
    }

    static void scenarios(Map<String, Kit.Scenario> into) {
        into.put("sql-random", Consuming::sqlRandom);
        into.put("lite-assign", Versioned::liteAssign);
        into.put("lite-subscribe", Versioned::liteSubscribe);
        into.put("request-reply", Versioned::requestReply);
    }

    /** Those that are run by their names only. */
    static void others(Map<String, Kit.Scenario> into) {
        Features.scenarios(into);
    }

    private static DefaultLitePullConsumer lite(Kit kit, String group) {
        DefaultLitePullConsumer consumer = kit.configure(new DefaultLitePullConsumer(group));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        kit.closing(consumer::shutdown);
        return consumer;
    }

    /** Polls until `wanted` came, or nothing for a while; then once more, for what would be too much. */
    private static List<MessageExt> poll(DefaultLitePullConsumer consumer, int wanted) {
        List<MessageExt> got = new ArrayList<>();
        long end = System.nanoTime() + 20_000_000_000L;
        while (got.size() < wanted && System.nanoTime() < end) {
            got.addAll(consumer.poll(1000));
        }
        got.addAll(consumer.poll(300));
        return got;
    }

    private static List<String> texts(List<MessageExt> messages) {
        return messages.stream().map(Kit::text).collect(Collectors.toList());
    }

    private static void liteAssign(Kit kit) throws Exception {
        String topic = kit.topic(3), group = kit.name("group");
        List<String> bodies = kit.send(kit.producer(), topic, "t", "m", 60);
        DefaultLitePullConsumer consumer = lite(kit, group);
        consumer.setAutoCommit(false);
        consumer.start();
        List<MessageQueue> queues = new ArrayList<>(consumer.fetchMessageQueues(topic));
        Kit.equal(3, queues.size(), "queues");
        consumer.assign(queues);
        for (MessageQueue queue : queues) {
            consumer.seekToBegin(queue);
        }
        List<MessageExt> got = poll(consumer, 60);
        Kit.sameSet(bodies, texts(got), "polled");
        for (MessageQueue queue : queues) {
            List<Long> offsets = got.stream().filter(m -> m.getQueueId() == queue.getQueueId()).map(MessageExt::getQueueOffset).collect(Collectors.toList());
            Kit.equal(20, offsets.size(), "messages of " + queue);
            Kit.check(offsets.equals(offsets.stream().sorted().collect(Collectors.toList())), "order of %s: %s", queue, offsets);
        }
        consumer.commit(consumer.assignment(), true);
        Kit.await(30, "committed offsets", () -> kit.admin().examineConsumeStats(group, topic).computeTotalDiff() == 0);
        for (MessageQueue queue : queues) {
            Kit.equal(20, consumer.committed(queue), "committed");
        }
        MessageExt oldest = got.stream().filter(m -> m.getQueueId() == queues.get(1).getQueueId() && m.getQueueOffset() == 0).findFirst().get();
        Kit.equal(0, consumer.offsetForTimestamp(queues.get(1), oldest.getStoreTimestamp()), "offset by time");
        // Back to the middle of one queue, the others paused.
        consumer.pause(queues.subList(1, 3));
        consumer.seek(queues.get(0), 12);
        List<Long> again = poll(consumer, 8).stream().map(MessageExt::getQueueOffset).collect(Collectors.toList());
        Kit.equal(List.of(12L, 13L, 14L, 15L, 16L, 17L, 18L, 19L), again, "polled after a seek to 12");
    }

    private static void liteSubscribe(Kit kit) throws Exception {
        String topic = kit.topic(4), group = kit.name("group");
        DefaultMQProducer producer = kit.producer();
        List<String> first = kit.send(producer, topic, "a", "first", 40);
        kit.send(producer, topic, "b", "other", 10);
        DefaultLitePullConsumer consumer = lite(kit, group);
        consumer.subscribe(topic, MessageSelector.byTag("a || c"));
        consumer.start();
        Kit.sameSet(first, texts(poll(consumer, 40)), "polled");
        consumer.commit(consumer.assignment(), true);
        Kit.await(30, "committed offsets", () -> kit.admin().examineConsumeStats(group, topic).getOffsetTable().values().stream()
            .filter(o -> o.getConsumerOffset() >= 10).count() == 4);
        consumer.shutdown();
        List<String> second = kit.send(producer, topic, "c", "second", 20);
        DefaultLitePullConsumer next = lite(kit, group);
        next.subscribe(topic, MessageSelector.byTag("a || c"));
        next.start();
        Kit.sameSet(second, texts(poll(next, 20)), "polled after a restart");
    }

    /** RPC over messages: each request gets the reply that was made for it, also when many wait. */
    private static void requestReply(Kit kit) throws Exception {
        String topic = kit.topic(2), group = kit.name("group");
        DefaultMQProducer replying = kit.producer(), asking = kit.producer();
        DefaultMQPushConsumer consumer = kit.configure(new DefaultMQPushConsumer(group));
        kit.closing(consumer::shutdown);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                try {
                    byte[] body = ("re: " + Kit.text(message)).getBytes("UTF-8");
                    replying.send(MessageUtil.createReplyMessage(message, body), 10_000);
                } catch (Exception e) {
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        for (int n = 0; n < 20; n++) {
            Message reply = asking.request(Kit.message(topic, "t", "k" + n, "ask " + n), 20_000);
            Kit.equal("re: ask " + n, new String(reply.getBody(), "UTF-8"), "reply");
        }
    }
}
