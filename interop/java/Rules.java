import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.impl.consumer.PullResultExt;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.message.*;

/** What a broker does differently when it is told so: at one with settings of its own, which `run` names. */
final class Rules {
    static void scenarios(Map<String, Kit.Scenario> into) {
        into.put("lock-handover", Rules::lockHandover);
        into.put("given-up", Rules::givenUp);
        into.put("custom-delay", Rules::customDelay);
        into.put("orderly-dead-letter", Rules::orderlyDeadLetter);
        into.put("group-settings", Rules::groupSettings);
        into.put("broadcast-offsets", Rules::broadcastOffsets);
    }

    /** At messageDelayLevel=1s 2s 3s. */
    private static void customDelay(Kit kit) throws Exception {
        String topic = kit.topic(1);
        Map<String, Long> came = new ConcurrentHashMap<>();
        Queue<String> twice = new ConcurrentLinkedQueue<>();
        var consumer = kit.start(kit.push(kit.name("group"), topic, "*", (MessageListenerConcurrently) (messages, context) -> {
            if (came.put(Kit.text(messages.get(0)), System.currentTimeMillis()) != null) {
                twice.add(Kit.text(messages.get(0)));
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }));
        Kit.balanced(topic, 1, consumer);
        DefaultMQProducer producer = kit.producer();
        kit.send(producer, topic, "t", "warm", 1);
        Kit.await(30, "warm-up", () -> came.size() == 1);
        Map<Integer, Long> sent = new TreeMap<>();
        for (int level : new int[] {1, 2, 3, 9}) {
            Message message = Kit.message(topic, "t", "k", "level" + level);
            message.setDelayTimeLevel(level);
            sent.put(level, System.currentTimeMillis());
            producer.send(message);
        }
        Kit.await(15, "4 deliveries", () -> came.size() == 5);
        sent.forEach((level, at) -> {
            long waited = came.get("level" + level) - at, due = Math.min(level, 3) * 1000;
            Kit.check(waited >= due - 50 && waited < due + 1500, "level %d came after %d ms", level, waited);
        });
        Kit.check(twice.isEmpty(), "delivered twice: %s", twice);
    }

    private static List<MessageExt> letters(Kit kit, String topic, String of) throws Exception {
        return kit.everything(topic).stream().filter(m -> of.equals(m.getProperty(MessageConst.PROPERTY_PRODUCER_GROUP))).collect(Collectors.toList());
    }

    /** At transactionCheckMax=2, transactionTimeOut=2000, transactionCheckInterval=1000. */
    private static void givenUp(Kit kit) throws Exception {
        String topic = kit.topic(1), group = kit.name("group");
        Map<String, List<Long>> asked = new ConcurrentHashMap<>();
        TransactionMQProducer producer = new TransactionMQProducer(group);
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                return LocalTransactionState.UNKNOW;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                asked.computeIfAbsent(Kit.text(message), t -> new CopyOnWriteArrayList<>()).add(System.currentTimeMillis());
                return Kit.text(message).equals("never") ? LocalTransactionState.UNKNOW : LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        kit.started(producer);
        long start = System.currentTimeMillis();
        producer.sendMessageInTransaction(Kit.message(topic, "t", "k", "never"), null);
        producer.sendMessageInTransaction(Kit.message(topic, "t", "k", "soon"), null);
        Kit.await(40, "the commit", () -> !kit.everything(topic).isEmpty());
        Kit.check(asked.get("soon").get(0) - start >= 1_900, "asked after %d ms of 2 s", asked.get("soon").get(0) - start);
        // It has a topic once something was given up. Java's broker may give up what was committed a moment ago, and show twice what it asks about again.
        Kit.await(60, "the message that is given up", () -> letters(kit, "TRANS_CHECK_MAX_TIME_TOPIC", group).stream().anyMatch(m -> Kit.text(m).equals("never")));
        Kit.equal(2, asked.get("never").size(), "questions about it");
        Kit.equal(Set.of("soon"), kit.everything(topic).stream().map(Kit::text).collect(Collectors.toSet()), "shown");
    }

    private static void orderlyDeadLetter(Kit kit) throws Exception {
        String topic = kit.topic(1), group = kit.name("group");
        List<String> tries = new CopyOnWriteArrayList<>();
        var consumer = kit.push(group, topic, "*", (MessageListenerOrderly) (messages, context) -> {
            tries.add(Kit.text(messages.get(0)));
            context.setSuspendCurrentQueueTimeMillis(100);
            return Kit.text(messages.get(0)).equals("m1") ? ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT : ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.setMaxReconsumeTimes(2);
        kit.start(consumer);
        kit.send(kit.producer(), topic, "t", "m", 4);
        Kit.await(40, "the last message", () -> tries.contains("m3"));
        Kit.equal(List.of("m0", "m1", "m1", "m1", "m2", "m3"), tries, "tries, in order");
        Kit.await(40, "the dead letter", () -> kit.everything("%DLQ%" + group).size() == 1);
        Kit.equal("m1", Kit.text(kit.everything("%DLQ%" + group).get(0)), "dead letter");
    }

    private static void groupSettings(Kit kit) throws Exception {
        String topic = kit.topic(1), group = kit.name("group"), address = kit.broker();
        DefaultMQProducer producer = kit.producer();
        List<String> bodies = kit.send(producer, topic, "t", "m", 12);
        MessageQueue queue = new MessageQueue(topic, kit.brokers().keySet().iterator().next(), 0);
        DefaultMQPullConsumer puller = kit.pull(group);
        Versioned.group(kit, group, false, 3);
        Kit.equal(16, Kit.refusal(() -> puller.pull(queue, "*", 0, 32)), "code with consumeEnable=false");
        Versioned.group(kit, group, true, 3);
        Kit.equal(12, Kit.eventually(10, "a pull", () -> puller.pull(queue, "*", 0, 32)).getMsgFoundList().size(), "pulled with consumeEnable=true");
        puller.shutdown(); // as a member of the group it has its share of the queues

        // What fails comes back through as many queues as the group says.
        Map<String, AtomicInteger> tries = new ConcurrentHashMap<>();
        kit.start(kit.push(group, topic, "*", (MessageListenerConcurrently) (messages, context) -> {
            context.setDelayLevelWhenNextConsume(1);
            boolean first = tries.computeIfAbsent(Kit.text(messages.get(0)), t -> new AtomicInteger()).incrementAndGet() == 1;
            return first ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }));
        Kit.await(40, "second tries", () -> tries.size() == 12 && tries.values().stream().allMatch(n -> n.get() == 2));
        List<MessageExt> again = kit.everything("%RETRY%" + group);
        Kit.sameSet(bodies, again.stream().map(Kit::text).collect(Collectors.toList()), "sent back");
        Kit.equal(3, kit.admin().examineTopicStats("%RETRY%" + group).getOffsetTable().size(), "queues of the retry topic");
        Kit.check(again.stream().map(MessageExt::getQueueId).distinct().count() > 1, "all came back through one queue");
    }

    private static void broadcastOffsets(Kit kit) throws Exception {
        String topic = kit.topic(2), group = kit.name("group");
        DefaultMQProducer producer = kit.producer();
        List<String> early = kit.send(producer, topic, "t", "early", 10), late = null;
        for (int life = 0; life < 2; life++) {
            Kit.Inbox inbox = new Kit.Inbox();
            var consumer = kit.push(group, topic, "*", inbox);
            Versioned.broadcasting(consumer);
            consumer.setInstanceName(kit.name("member")); // its offsets are kept on the client's side, by this name
            consumer.start();
            inbox.expect(30, life == 0 ? early : late);
            Kit.commit(consumer);
            consumer.shutdown();
            late = kit.send(producer, topic, "t", "late", 10);
        }
    }

    /** A member that dies keeps its locks for a minute: only then others take its queues. */
    private static void lockHandover(Kit kit) throws Exception {
        String topic = kit.topic(2), group = kit.name("group");
        Map<Integer, List<Long>> seen = new ConcurrentHashMap<>();
        Queue<String> wrong = new ConcurrentLinkedQueue<>();
        List<List<MessageExt>> got = List.of(new CopyOnWriteArrayList<>(), new CopyOnWriteArrayList<>());
        DefaultMQPushConsumer[] members = new DefaultMQPushConsumer[2];
        for (int i = 0; i < 2; i++) {
            List<MessageExt> mine = got.get(i);
            members[i] = kit.start(kit.push(group, topic, "*", (MessageListenerOrderly) (messages, context) -> {
                for (MessageExt m : messages) {
                    List<Long> offsets = seen.computeIfAbsent(m.getQueueId(), q -> new CopyOnWriteArrayList<>());
                    if (!offsets.isEmpty() && m.getQueueOffset() > offsets.get(offsets.size() - 1) + 1) {
                        wrong.add("queue " + m.getQueueId() + ": " + m.getQueueOffset() + " after " + offsets.get(offsets.size() - 1));
                    }
                    offsets.add(m.getQueueOffset());
                }
                mine.addAll(messages);
                return ConsumeOrderlyStatus.SUCCESS;
            }));
        }
        Kit.balanced(topic, 1, members);
        DefaultMQProducer producer = kit.producer();
        kit.send(producer, topic, "t", "early", 20);
        Kit.await(40, "20 deliveries", () -> got.get(0).size() == 10 && got.get(1).size() == 10);
        Kit.commit(members[0]);
        long died = System.nanoTime();
        members[0].getDefaultMQPushConsumerImpl().getmQClientFactory().getMQClientAPIImpl().shutdown(); // its connections end; it says no word
        kit.send(producer, topic, "t", "late", 20);
        Kit.await(120, "the dead member's messages", () -> got.get(1).size() >= 30);
        long seconds = (System.nanoTime() - died) / 1_000_000_000;
        Kit.check(seconds >= 50, "handed over after %d s", seconds);
        Kit.check(wrong.isEmpty(), "%s", wrong);
        seen.forEach((queue, offsets) -> Kit.equal(20, new TreeSet<>(offsets).size(), "messages of queue " + queue));
    }

    /** At slaveReadEnable=true and accessMessageInMemoryMaxRatio=0, by which all that is there is far behind. */
    static void farBehind(Kit kit) throws Exception {
        String topic = kit.topic(1), group = kit.name("group");
        Versioned.createGroup(kit.admin(), kit.broker(), group, 16);
        List<String> bodies = kit.send(kit.producer(), topic, "t", "m", 20);
        MessageQueue queue = new MessageQueue(topic, kit.brokers().keySet().iterator().next(), 0);
        DefaultMQPullConsumer puller = kit.pull(group);
        PullResultExt behind = (PullResultExt) puller.pull(queue, "*", 0, 32);
        Kit.equal(8, behind.getMsgFoundList().size(), "messages of one pull, at maxTransferCountOnMessageInDisk=8");
        Kit.equal(1, behind.getSuggestWhichBrokerId(), "broker suggested to who is behind");
        PullResultExt end = (PullResultExt) puller.pull(queue, "*", 20, 32);
        Kit.equal(PullStatus.NO_NEW_MSG, end.getPullStatus(), "status at the end");
        Kit.equal(0, end.getSuggestWhichBrokerId(), "broker suggested to who keeps up");
        puller.shutdown();
        // There is no slave, so the master goes on serving who was sent to one.
        Kit.Inbox inbox = new Kit.Inbox();
        kit.start(kit.push(group, topic, "*", inbox));
        inbox.expect(30, bodies);
    }

    /** At flushDiskType=SYNC_FLUSH, sendThreadPoolQueueCapacity=1 and sendMessageThreadPoolNums=1. */
    static void overload(Kit kit) throws Exception {
        String topic = kit.topic(1);
        DefaultMQProducer producer = new DefaultMQProducer(kit.name("producer"));
        producer.setRetryTimesWhenSendAsyncFailed(0);
        kit.started(producer);
        List<String> stored = new CopyOnWriteArrayList<>(kit.send(producer, topic, "t", "before", 5));
        AtomicInteger refused = new AtomicInteger();
        Queue<Throwable> wrong = new ConcurrentLinkedQueue<>();
        int burst = 500;
        CountDownLatch answers = new CountDownLatch(burst);
        for (int i = 0; i < burst; i++) {
            String body = "m" + i;
            producer.send(Kit.message(topic, "t", body, body), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    stored.add(body);
                    answers.countDown();
                }

                @Override
                public void onException(Throwable e) {
                    boolean busy = e instanceof MQBrokerException && ((MQBrokerException) e).getResponseCode() == 2
                        && e.getMessage().contains("start flow control for a while");
                    if (busy) {
                        refused.incrementAndGet();
                    } else {
                        wrong.add(e);
                    }
                    answers.countDown();
                }
            });
        }
        Kit.check(answers.await(60, TimeUnit.SECONDS), "%d of %d not answered", answers.getCount(), burst);
        Kit.check(wrong.isEmpty(), "%d other errors: %s", wrong.size(), wrong.peek());
        Kit.check(refused.get() > 0 && stored.size() > 5, "%d refused, %d taken", refused.get(), stored.size() - 5);
        stored.addAll(kit.send(producer, topic, "t", "after", 5));
        Kit.sameSet(stored, kit.everything(topic).stream().map(Kit::text).collect(Collectors.toList()), "stored: what was not refused");
    }

    /** At autoCreateSubscriptionGroup=false. */
    static void groupRefused(Kit kit) throws Exception {
        String topic = kit.topic(1), group = kit.name("group");
        List<String> bodies = kit.send(kit.producer(), topic, "t", "m", 10);
        MessageQueue queue = new MessageQueue(topic, kit.brokers().keySet().iterator().next(), 0);
        DefaultMQPullConsumer puller = kit.pull(group);
        Kit.equal(26, Kit.refusal(() -> puller.pull(queue, "*", 0, 32)), "code of a pull for a group that is none");
        puller.shutdown();
        Kit.Inbox inbox = new Kit.Inbox();
        kit.start(kit.push(group, topic, "*", inbox));
        Thread.sleep(3000);
        Kit.equal(0, inbox.got.size(), "messages for a group that is none");
        Versioned.createGroup(kit.admin(), kit.broker(), group, 16);
        inbox.expect(30, bodies);
    }
}
