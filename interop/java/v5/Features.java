import java.nio.file.*;
import java.util.*;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.compression.CompressionType;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;
import org.apache.rocketmq.remoting.RPCHook;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.remoting.protocol.RequestCode;

/** What only 5.x writes: batch queues, records of version 2, LZ4 and ZSTD, timer messages, POP, CRCs of whole records. */
final class Features {
    static void scenarios(Map<String, Kit.Scenario> into) {
        into.put("fixture-features", Features::fixture);
        into.put("features-exchange", Features::exchange);
    }

    /** As long as both brokers take for their turns. */
    private static final int LATE_SECONDS = 100;

    private static void make(Kit kit, String topic, String batches) throws Exception {
        kit.topic(topic, 2);
        TopicConfig config = new TopicConfig(batches, 1, 1, 6);
        config.setAttributes(Map.of("+queue.type", "BatchCQ"));
        Kit.eventually(30, "topic creation", () -> {
            kit.admin().createAndUpdateTopicConfig(kit.broker(), config);
            return null;
        });
        Kit.eventually(10, "route of " + batches, () -> kit.admin().examineTopicRouteInfo(batches).getQueueDatas().get(0));
    }

    /** Plain and compressed ones, which every broker takes. */
    private static void write(Kit kit, String topic, String prefix, int count) throws Exception {
        DefaultMQProducer producer = kit.producer();
        for (int i = 0; i < count; i++) {
            Message message = Kit.message(topic, "tag" + i % 3, prefix + i, prefix + i);
            message.putUserProperty("n", "" + i);
            Kit.equal(SendStatus.SEND_OK, producer.send(message).getSendStatus(), "status");
        }
        for (CompressionType type : CompressionType.values()) {
            DefaultMQProducer compressing = kit.producer();
            compressing.setCompressType(type);
            Message message = Kit.message(topic, "tag1", prefix + type, prefix + type + "y".repeat(5000));
            Kit.equal(SendStatus.SEND_OK, compressing.send(message).getSendStatus(), "status");
        }
    }

    /** Batches of 2, 3 and more messages, a record each. */
    private static void batches(Kit kit, String topic, String prefix, int count) throws Exception {
        DefaultMQProducer producer = kit.producer();
        for (int b = 0; b < count; b++) {
            List<Message> batch = new ArrayList<>();
            for (int i = 0; i < 2 + b; i++) {
                batch.add(Kit.message(topic, "batch", prefix + "b" + b + "m" + i, prefix + "b" + b + "m" + i));
            }
            Kit.equal(SendStatus.SEND_OK, producer.send(batch).getSendStatus(), "status");
        }
    }

    private static void timed(Kit kit, String topic, String body, int seconds) throws Exception {
        Message message = Kit.message(topic, "timed", body, body);
        message.setDelayTimeSec(seconds);
        Kit.equal(SendStatus.SEND_OK, kit.producer().send(message).getSendStatus(), "status");
    }

    /** A group whose retry topic is so long that its records are of version 2. */
    private static String group(String name) {
        return name + "g".repeat(118 - name.length());
    }

    /** The topic of what a group has popped and not acknowledged. */
    private static String retry(String group, String topic) {
        return "%RETRY%" + group + "_" + topic;
    }

    /** Consumes by POP until `wanted` came, and no others but what `mayCome`, and what is due some time; `fails` fails once, and comes again. */
    private static void pop(Kit kit, String topic, String group, Collection<String> wanted, String fails, Collection<String> mayCome) throws Exception {
        kit.admin().setMessageRequestMode(kit.broker(), topic, group, MessageRequestMode.POP, 0, 5000);
        Queue<String> got = new ConcurrentLinkedQueue<>();
        AtomicInteger tries = new AtomicInteger(), came = new AtomicInteger(), answered = new AtomicInteger();
        DefaultMQPushConsumer consumer = kit.configure(new DefaultMQPushConsumer(group, new RPCHook() {
            @Override
            public void doBeforeRequest(String address, RemotingCommand request) {
            }

            @Override
            public void doAfterResponse(String address, RemotingCommand request, RemotingCommand response) {
                if (request.getCode() == RequestCode.ACK_MESSAGE || request.getCode() == RequestCode.CHANGE_MESSAGE_INVISIBLETIME) {
                    answered.incrementAndGet();
                }
            }
        }));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                came.incrementAndGet();
                if (Kit.text(message).equals(fails) && tries.incrementAndGet() == 1) {
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
                got.add(Kit.text(message));
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.setClientRebalance(false);
        consumer.setConsumeMessageBatchMaxSize(1);
        kit.start(consumer);
        Kit.await(90, "all by POP", () -> got.containsAll(wanted));
        // What is not acknowledged comes again, minutes later, to somebody else.
        Kit.await(30, "all acknowledged", () -> answered.get() >= came.get());
        Kit.sameSet(wanted, got.stream().filter(t -> wanted.contains(t) || !mayCome.contains(t) && !t.equals("late")).collect(Collectors.toList()), "popped");
        consumer.shutdown();
    }

    /** Brokers tell of such a topic with the next registration only. */
    private static void registered(Kit kit, String topic) throws Exception {
        Kit.eventually(60, "route of " + topic, () -> kit.admin().examineTopicRouteInfo(topic).getQueueDatas().get(0));
    }

    private static void fixture(Kit kit) throws Exception {
        String topic = "Features", batches = "Batches";
        make(kit, topic, batches);
        write(kit, topic, "m", 6);
        batches(kit, batches, "m", 5);
        timed(kit, topic, "timed", 1);
        timed(kit, topic, "pending", 86_000);
        Kit.await(30, "the timed message", () -> texts(kit, topic).contains("timed"));
        String group = group("pop");
        pop(kit, topic, group, texts(kit, topic), "m3", List.of());
        registered(kit, retry(group, topic));
        Fixtures.tell(kit, List.of(topic, batches, retry(group, topic)), List.of(topic + " m3", topic + " mZSTD", retry(group, topic) + " m3", topic + " timed"));
    }

    private static List<String> texts(Kit kit, String topic) throws Exception {
        return kit.everything(topic).stream().map(Kit::text).collect(Collectors.toList());
    }

    /** Every message of some topics: its place and what is in it. What is due some time is left out. */
    private static List<String> places(Kit kit, String... topics) throws Exception {
        List<String> all = new ArrayList<>();
        for (String topic : topics) {
            for (MessageExt m : kit.everything(topic)) {
                if (Kit.text(m).equals("late")) continue;
                all.add(topic + " " + m.getQueueId() + ":" + m.getQueueOffset() + " " + m.getMsgId() + " " + m.getKeys() + " " + m.getUserProperty("n") + " " + Kit.text(m));
            }
        }
        return all;
    }

    /**
     * Java's broker writes what only 5.x writes, with CRCs, into a log in two folders; ours and it take turns with that store: each
     * finds everything, also when the batch queues are gone, and goes on. -Dfirst and -Dsecond are nodes of ours and of Java's, -Dstore their store.
     */
    private static void exchange(Kit outer) throws Exception {
        String topic = outer.name("topic"), batches = outer.name("batches"), group = group(outer.name("pop"));
        String ours = System.getProperty("first"), java = System.getProperty("second");
        String[] topics = {topic, batches, retry(group, topic)};
        List<String> before;
        Kit.node(java, "start");
        try (Kit kit = new Kit(outer.scenario)) {
            make(kit, topic, batches);
            write(kit, topic, "java", 400);
            batches(kit, batches, "java", 20);
            timed(kit, topic, "soon", 1);
            timed(kit, topic, "late", LATE_SECONDS);
            Kit.await(30, "the timed message", () -> texts(kit, topic).contains("soon"));
            pop(kit, topic, group, texts(kit, topic), "java7", List.of());
            registered(kit, topics[2]);
            before = places(kit, topics);
        }
        for (String end : List.of("stop", "kill")) {
            Kit.node(java, end);
            if (end.equals("kill")) {
                remove(Path.of(System.getProperty("store"), "batchconsumequeue"));
            }
            Kit.node(ours, "start");
            try (Kit kit = new Kit(outer.scenario)) {
                Kit.eventually(30, "the topic", () -> kit.admin().examineTopicStats(topic));
                Kit.sameSet(before, places(kit, topics), "served by ours after a " + end);
                Kit.Inbox inbox = new Kit.Inbox();
                kit.start(kit.push(outer.name("group") + end, batches, "*", inbox));
                inbox.expect(30, texts(kit, batches));
                write(kit, topic, "ours" + end, 300);
                List<Message> refused = List.of(Kit.message(batches, "t", "k", "refused"), Kit.message(batches, "t", "k", "refused"));
                Kit.check(Kit.refusal(() -> kit.producer().send(refused)) != 0, "a batch was taken");
                before = places(kit, topics);
            }
            Kit.node(ours, end);
            Kit.node(java, "start");
            try (Kit kit = new Kit(outer.scenario)) {
                Kit.eventually(30, "the topic", () -> kit.admin().examineTopicStats(topic));
                List<String> old = before; // and what POP brings again behind them
                Kit.sameSet(old, places(kit, topics).stream().filter(p -> old.contains(p) || !p.startsWith(topics[2])).collect(Collectors.toList()), "served by Java's after a " + end);
                List<String> news = texts(kit, topic).stream().filter(t -> t.startsWith("ours" + end)).collect(Collectors.toList());
                // A killed broker has forgotten that some were acknowledged.
                List<String> again = end.equals("kill") ? texts(kit, topic) : List.of();
                pop(kit, topic, group, news, null, again);
                write(kit, topic, "java" + end, 50);
                batches(kit, batches, "java" + end, 10);
                pop(kit, topic, group, texts(kit, topic).stream().filter(t -> t.startsWith("java" + end)).collect(Collectors.toList()), "java" + end + "7", again);
                before = places(kit, topics);
            }
        }
        try (Kit kit = new Kit(outer.scenario)) {
            Kit.await(LATE_SECONDS + 30, "what waited for its time", () -> texts(kit, topic).contains("late"));
            for (MessageExt m : kit.everything(topic)) {
                Kit.check(!Kit.text(m).equals("late") || m.getStoreTimestamp() - m.getBornTimestamp() >= (LATE_SECONDS - 2) * 1000L, "it came too early");
            }
        }
        Kit.node(java, "stop");
    }

    private static void remove(Path folder) throws Exception {
        try (var all = Files.walk(folder)) {
            for (Path path : all.sorted(Comparator.reverseOrder()).collect(Collectors.toList())) {
                Files.delete(path);
            }
        }
    }
}
