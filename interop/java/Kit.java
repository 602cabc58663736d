import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.zip.CRC32;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** What one scenario works with: clients that are closed with it, topics of its own, and assertions. */
final class Kit implements AutoCloseable {
    interface Scenario {
        void run(Kit kit) throws Exception;
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    interface Attempt<T> {
        T make() throws Exception;
    }

    static final String NAME_SERVER = System.getProperty("ns");
    private static final AtomicInteger COUNTER = new AtomicInteger();
    /** Several runs share a broker; their topics and groups must not. */
    private static final String RUN = Long.toString(System.currentTimeMillis(), 36);

    final String scenario;
    final String nameServer;
    private final List<Runnable> closers = new CopyOnWriteArrayList<>();
    private DefaultMQAdminExt admin;

    Kit(String scenario) {
        this(scenario, NAME_SERVER);
    }

    Kit(String scenario, String nameServer) {
        this.scenario = scenario;
        this.nameServer = nameServer;
    }

    /** Side by side: each shutdown may take the 3 s its client's event thread sleeps. */
    @Override
    public void close() {
        List<Thread> threads = new ArrayList<>();
        for (Runnable closer : closers) {
            threads.add(new Thread(closer));
        }
        threads.forEach(Thread::start);
        for (Thread thread : threads) {
            try {
                thread.join(20_000);
            } catch (InterruptedException e) {
                return;
            }
        }
    }

    // ---- names, topics, servers

    String name(String what) {
        return scenario.replaceAll("[^a-zA-Z0-9]", "_") + "_" + what + "_" + RUN;
    }

    synchronized DefaultMQAdminExt admin() throws Exception {
        if (admin == null) {
            DefaultMQAdminExt made = new DefaultMQAdminExt(10_000);
            made.setAdminExtGroup(name("admin") + COUNTER.incrementAndGet());
            configure(made);
            made.start();
            closers.add(made::shutdown);
            admin = made;
        }
        return admin;
    }

    /** Addresses of the masters known to the name server, by broker name. */
    Map<String, String> brokers() throws Exception {
        return eventually(30, "a registered broker", () -> {
            Map<String, String> found = new TreeMap<>();
            admin().examineBrokerClusterInfo().getBrokerAddrTable()
                .forEach((name, data) -> found.put(name, data.getBrokerAddrs().get(0L)));
            check(!found.isEmpty(), "no broker registered");
            return found;
        });
    }

    String broker() throws Exception {
        return brokers().values().iterator().next();
    }

    String topic(int queues) throws Exception {
        return topic(name("topic"), queues);
    }

    String topic(String topic, int queues) throws Exception {
        Map<String, String> brokers = brokers();
        for (String address : brokers.values()) {
            eventually(30, "topic creation", () -> {
                admin().createAndUpdateTopicConfig(address, new TopicConfig(topic, queues, queues, 6));
                return null;
            });
        }
        await(10, "route of " + topic, () ->
            admin().examineTopicRouteInfo(topic).getQueueDatas().stream()
                .filter(q -> q.getReadQueueNums() == queues).count() == brokers.size());
        return topic;
    }

    static void node(String directory, String verb) throws Exception {
        int code = new ProcessBuilder(System.getProperty("node"), directory, verb)
            .redirectInput(ProcessBuilder.Redirect.from(new java.io.File("/dev/null")))
            .inheritIO().start().waitFor();
        check(code == 0, "node %s %s failed", directory, verb);
    }

    // ---- clients

    <C extends ClientConfig> C configure(C client) {
        client.setNamesrvAddr(nameServer);
        client.setInstanceName(scenario + "-" + COUNTER.incrementAndGet());
        // The defaults of 30 s would make a scenario with a restart in it as long.
        client.setPollNameServerInterval(2_000);
        client.setHeartbeatBrokerInterval(3_000);
        client.setPersistConsumerOffsetInterval(1_000);
        return client;
    }

    DefaultMQProducer producer() throws Exception {
        return started(new DefaultMQProducer(name("producer")));
    }

    DefaultMQProducer started(DefaultMQProducer producer) throws Exception {
        configure(producer);
        producer.setSendMsgTimeout(10_000);
        producer.start();
        closers.add(producer::shutdown);
        return producer;
    }

    /** Not started yet, so that the scenario can add to it; see {@link #start}. */
    DefaultMQPushConsumer push(String group, String topic, String tags, MessageListener listener) throws Exception {
        DefaultMQPushConsumer consumer = configure(new DefaultMQPushConsumer(group));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        if (topic != null) {
            consumer.subscribe(topic, tags);
        }
        if (listener instanceof MessageListenerOrderly) {
            consumer.registerMessageListener((MessageListenerOrderly) listener);
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) listener);
        }
        return consumer;
    }

    DefaultMQPushConsumer start(DefaultMQPushConsumer consumer) throws Exception {
        consumer.start();
        closers.add(consumer::shutdown);
        return consumer;
    }

    /** A client commits for the first time 10 s after its start; this does it now. */
    static void commit(DefaultMQPushConsumer consumer) {
        consumer.getDefaultMQPushConsumerImpl().persistConsumerOffset();
    }

    DefaultMQPullConsumer pull(String group) throws Exception {
        DefaultMQPullConsumer consumer = configure(new DefaultMQPullConsumer(group));
        consumer.start();
        closers.add(consumer::shutdown);
        return consumer;
    }

    void closing(Runnable closer) {
        closers.add(closer);
    }

    /** Waits until the members hold `each` queues of the topic: then the group is at rest. */
    static void balanced(String topic, int each, DefaultMQPushConsumer... members) throws Exception {
        for (DefaultMQPushConsumer member : members) {
            await(40, "balance of " + topic, () -> member.getDefaultMQPushConsumerImpl().getRebalanceImpl()
                .getProcessQueueTable().keySet().stream().filter(q -> q.getTopic().equals(topic)).count() == each);
        }
    }

    /** Everything a topic holds, queue by queue, read by plain pulls; fails at a hole. */
    List<MessageExt> everything(String topic) throws Exception {
        for (String address : brokers().values()) { // a broker may acknowledge before the queue shows it
            await(10, "dispatch at " + address, () -> admin().fetchBrokerRuntimeStats(address).getTable().get("dispatchBehindBytes").equals("0"));
        }
        List<MessageExt> all = new ArrayList<>();
        DefaultMQPullConsumer consumer = pull(name("reader") + COUNTER.incrementAndGet());
        List<MessageQueue> queues = new ArrayList<>(
            eventually(20, "queues of " + topic, () -> consumer.fetchSubscribeMessageQueues(topic)));
        Collections.sort(queues);
        for (MessageQueue queue : queues) {
            long next = consumer.minOffset(queue), end = consumer.maxOffset(queue);
            while (next < end) {
                PullResult result = consumer.pull(queue, "*", next, 32);
                equal(PullStatus.FOUND, result.getPullStatus(), "pull of " + queue + " at " + next);
                for (MessageExt message : result.getMsgFoundList()) {
                    equal(next, message.getQueueOffset(), "queue offset in " + queue);
                    equal(queue.getQueueId(), message.getQueueId(), "queue id");
                    all.add(message);
                    next++;
                }
                equal(next, result.getNextBeginOffset(), "nextBeginOffset");
            }
        }
        return all;
    }

    // ---- messages

    static Message message(String topic, String tag, String key, String body) {
        return new Message(topic, tag, key, bytes(body));
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(MessageExt message) {
        return new String(message.getBody(), StandardCharsets.UTF_8);
    }

    static int crc(byte[] bytes) {
        CRC32 crc = new CRC32();
        crc.update(bytes);
        return (int) (crc.getValue() & 0x7FFFFFFF);
    }

    static void send1(MQProducer producer, String topic, String body) throws Exception {
        equal(SendStatus.SEND_OK, producer.send(message(topic, "t", body.replace(' ', '_'), body)).getSendStatus(), "send status");
    }

    /** Sends `count` messages "<prefix>0", "<prefix>1", ... round robin; their bodies are their keys. */
    List<String> send(MQProducer producer, String topic, String tag, String prefix, int count) throws Exception {
        List<String> bodies = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            bodies.add(prefix + i);
            SendResult result = producer.send(message(topic, tag, prefix + i, prefix + i));
            equal(SendStatus.SEND_OK, result.getSendStatus(), "send status");
        }
        return bodies;
    }

    /** A listener that keeps what it gets. */
    static class Inbox implements MessageListenerConcurrently {
        final List<MessageExt> got = new CopyOnWriteArrayList<>();

        @Override
        public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> messages, ConsumeConcurrentlyContext context) {
            got.addAll(messages);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }

        List<String> texts() {
            List<String> texts = new ArrayList<>();
            got.forEach(m -> texts.add(text(m)));
            return texts;
        }

        /** Waits for exactly these bodies, each once. */
        void expect(int seconds, Collection<String> bodies) throws Exception {
            waitFor(seconds, () -> got.size() >= bodies.size(), bodies);
            Thread.sleep(300); // a surplus delivery would come now
            sameSet(bodies, texts(), "delivered");
        }

        void waitFor(int seconds, Condition condition, Collection<String> bodies) throws Exception {
            try {
                await(seconds, "delivery", condition);
            } catch (AssertionError late) {
                sameSet(bodies, texts(), "delivered in " + seconds + " s");
                throw late;
            }
        }
    }

    // ---- assertions

    static void check(boolean holds, String what, Object... args) {
        if (!holds) {
            throw new AssertionError(args.length == 0 ? what : String.format(what, args));
        }
    }

    static void equal(Object expected, Object actual, String what) {
        boolean same = expected instanceof Number && actual instanceof Number
            ? ((Number) expected).longValue() == ((Number) actual).longValue() : Objects.equals(expected, actual);
        check(same, "%s: expected %s, got %s", what, brief(expected), brief(actual));
    }

    /** Equal as multisets; says what is missing and what is too much. */
    static void sameSet(Collection<String> expected, Collection<String> actual, String what) {
        List<String> missing = new ArrayList<>(), surplus = new ArrayList<>();
        Map<String, Integer> counts = new TreeMap<>();
        expected.forEach(e -> counts.merge(e, 1, Integer::sum));
        actual.forEach(a -> counts.merge(a, -1, Integer::sum));
        counts.forEach((value, count) -> {
            if (count != 0) {
                (count > 0 ? missing : surplus).add(value + (Math.abs(count) > 1 ? " x" + Math.abs(count) : ""));
            }
        });
        check(missing.isEmpty() && surplus.isEmpty(), "%s: %d of %d; missing %s, too many %s",
            what, actual.size(), expected.size(), brief(missing), brief(surplus));
    }

    static String brief(Object value) {
        String text = String.valueOf(value);
        return text.length() <= 300 ? text : text.substring(0, 300) + "...";
    }

    static void await(int seconds, String what, Condition condition) throws Exception {
        long end = System.nanoTime() + seconds * 1_000_000_000L;
        Exception last = null;
        do {
            try {
                if (condition.holds()) {
                    return;
                }
                last = null;
            } catch (Exception e) {
                last = e;
            }
            Thread.sleep(20);
        } while (System.nanoTime() < end);
        throw new AssertionError("after " + seconds + " s still no " + what + (last == null ? "" : ": " + last), last);
    }

    /** The first success of an attempt that may fail for a while. */
    static <T> T eventually(int seconds, String what, Attempt<T> attempt) throws Exception {
        Object[] result = new Object[1];
        await(seconds, what, () -> {
            try {
                result[0] = attempt.make();
                return true;
            } catch (AssertionError e) {
                throw new Exception(e.getMessage());
            }
        });
        @SuppressWarnings("unchecked") T made = (T) result[0];
        return made;
    }

    /** The code of the broker's refusal; fails if there was none. */
    static int refusal(Attempt<?> attempt) throws Exception {
        try {
            Object result = attempt.make();
            throw new AssertionError("expected a refusal, got " + result);
        } catch (org.apache.rocketmq.client.exception.MQBrokerException e) {
            return e.getResponseCode();
        } catch (MQClientException e) {
            return e.getResponseCode();
        }
    }
}
