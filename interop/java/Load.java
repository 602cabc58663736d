import java.io.FileOutputStream;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.*;

/** Many messages, many topics, and a broker that is stopped and killed in the middle. */
final class Load {
    private static final String BROKER = System.getProperty("broker");

    static void scenarios(Map<String, Kit.Scenario> into) {
        into.put("big-concurrent", kit -> new Big(kit, false).run());
        into.put("big-orderly", kit -> new Big(kit, true).run());
        into.put("kill", Load::kill);
        into.put("kill-pending", Load::killPending);
        into.put("many-topics", Load::manyTopics);
    }

    /** A body that can be made again from its number, so that a consumer can check every byte. */
    static byte[] body(int number) {
        SplittableRandom random = new SplittableRandom(number);
        int dice = random.nextInt(100);
        byte[] body = new byte[dice < 80 ? random.nextInt(100, 1000) : dice < 95 ? random.nextInt(1000, 4096) : random.nextInt(4096, 8192)];
        for (int i = 0; i < 4; i++) {
            body[i] = (byte) (number >>> (24 - 8 * i));
        }
        for (int i = 4; i < body.length; i++) {
            body[i] = (byte) (i * 31 + number + (i >> 7) * dice);
        }
        return body;
    }

    static int number(byte[] body) {
        return (body[0] & 255) << 24 | (body[1] & 255) << 16 | (body[2] & 255) << 8 | body[3] & 255;
    }

    /** Producers and consumers of one topic, while members come and go and the broker restarts. */
    private static final class Big {
        static final int QUEUES = 8, PRODUCERS = 4;
        final int count = Integer.getInteger("count", 100_000);
        final Kit kit;
        final boolean orderly;
        final String topic, group;
        final AtomicIntegerArray deliveries = new AtomicIntegerArray(count);
        final AtomicInteger acked = new AtomicInteger(), distinct = new AtomicInteger(), total = new AtomicInteger();
        final Queue<String> wrong = new ConcurrentLinkedQueue<>();
        /** Orderly only: what each queue has delivered so far. */
        final long[] nextOffset = new long[QUEUES];
        final int[][] lastOf = new int[PRODUCERS][QUEUES];
        final AtomicIntegerArray busy = new AtomicIntegerArray(QUEUES);

        Big(Kit kit, boolean orderly) throws Exception {
            this.kit = kit;
            this.orderly = orderly;
            topic = kit.topic(QUEUES);
            group = kit.name("group");
            for (int[] last : lastOf) {
                Arrays.fill(last, -1);
            }
        }

        void run() throws Exception {
            DefaultMQPushConsumer a = member(), b = member();
            Kit.balanced(topic, QUEUES / 2, a, b);
            ExecutorService threads = Executors.newFixedThreadPool(PRODUCERS);
            List<Future<?>> producers = new ArrayList<>();
            for (int p = 0; p < PRODUCERS; p++) {
                int which = p;
                producers.add(threads.submit(() -> produce(which)));
            }
            threads.shutdown();

            consumed(25);
            Map<MessageQueue, Long> before = committed();
            Kit.check(before.values().stream().mapToLong(o -> o).sum() > 0, "nothing committed after a quarter");
            Kit.node(BROKER, "stop");
            Kit.node(BROKER, "start");
            Map<MessageQueue, Long> after = Kit.eventually(30, "offsets after the restart", this::committed);
            before.forEach((queue, offset) -> Kit.check(after.getOrDefault(queue, -1L) >= offset, "%s: committed %d before the restart, %s after", queue, offset, after.get(queue)));
            consumed(45);
            DefaultMQPushConsumer c = member();
            consumed(60);
            b.shutdown();
            for (Future<?> producer : producers) {
                producer.get(300, TimeUnit.SECONDS);
            }
            Kit.equal(count, acked.get(), "acknowledged");
            consumed(100);
            Kit.eventually(60, "empty lag", () -> {
                StringBuilder lag = new StringBuilder();
                kit.admin().examineConsumeStats(group, topic).getOffsetTable().forEach((q, o) -> {
                    if (o.getBrokerOffset() != o.getConsumerOffset()) {
                        lag.append(" queue ").append(q.getQueueId()).append(": ").append(o.getConsumerOffset()).append(" of ").append(o.getBrokerOffset());
                    }
                });
                Kit.check(lag.length() == 0, "committed%s", lag);
                return null;
            });
            a.shutdown();
            c.shutdown();
            int again = total.get() - count;
            // After a restart the member whose heartbeat comes first has all queues until the other's comes, and
            // both consume the other's half of what waits; a rebalance brings what was not yet committed.
            Kit.check(again <= count / 2, "%d of %d delivered again: more than two rebalances and a restart explain", again, count);

            // Nobody is there to commit again: what a second restart brings back is what the broker kept.
            Map<MessageQueue, Long> end = committed();
            Kit.node(BROKER, "stop");
            Kit.node(BROKER, "start");
            Kit.equal(end, Kit.eventually(30, "offsets after the second restart", this::committed), "committed offsets after the second restart");
            Kit.Inbox inbox = new Kit.Inbox();
            kit.start(kit.push(group, topic, "*", inbox));
            Kit.eventually(30, "a send after the restart", () -> kit.producer().send(Kit.message(topic, "t", "last", "last")));
            inbox.expect(60, List.of("last"));
            Kit.check(wrong.isEmpty(), "%d wrong: %s", wrong.size(), wrong);
            System.out.printf("     %s: %d messages, %d delivered again%n", kit.scenario, count, again);
        }

        DefaultMQPushConsumer member() throws Exception {
            MessageListener listener = orderly
                ? (MessageListenerOrderly) (messages, context) -> {
                    take(messages);
                    return ConsumeOrderlyStatus.SUCCESS;
                }
                : (MessageListenerConcurrently) (messages, context) -> {
                    take(messages);
                    return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
                };
            DefaultMQPushConsumer consumer = kit.push(group, topic, "*", listener);
            consumer.setConsumeThreadMin(4);
            consumer.setConsumeThreadMax(4);
            return kit.start(consumer);
        }

        void take(List<MessageExt> messages) {
            for (MessageExt m : messages) {
                int number = number(m.getBody());
                if (number < 0 || number >= count || !Arrays.equals(body(number), m.getBody()) || !("k" + number).equals(m.getKeys())) {
                    wrong.add("content of " + m);
                    continue;
                }
                total.incrementAndGet();
                boolean first = deliveries.getAndIncrement(number) == 0;
                if (orderly) {
                    order(m, number, first);
                }
                if (first) {
                    distinct.incrementAndGet();
                }
            }
        }

        /** A queue may go back (what was not committed comes again) but never skip ahead. */
        void order(MessageExt m, int number, boolean first) {
            int queue = m.getQueueId(), producer = number % PRODUCERS;
            if (busy.incrementAndGet(queue) != 1) {
                wrong.add("queue " + queue + " in two threads at once");
            }
            if (m.getQueueOffset() > nextOffset[queue]) {
                wrong.add("queue " + queue + " skipped from " + nextOffset[queue] + " to " + m.getQueueOffset());
            }
            nextOffset[queue] = Math.max(nextOffset[queue], m.getQueueOffset() + 1);
            if (first) {
                if (number < lastOf[producer][queue]) {
                    wrong.add("queue " + queue + ": " + number + " after " + lastOf[producer][queue]);
                }
                lastOf[producer][queue] = number;
            }
            busy.decrementAndGet(queue);
        }

        Object produce(int which) throws Exception {
            DefaultMQProducer producer = kit.producer();
            producer.setSendMsgTimeout(3_000);
            for (int number = which; number < count; number += PRODUCERS) {
                Message message = new Message(topic, "t", "k" + number, body(number));
                int queue = (number / PRODUCERS) % QUEUES;
                long end = System.nanoTime() + 120_000_000_000L;
                while (true) { // while the broker is away a send fails; only an acknowledgement counts
                    try {
                        SendResult result = orderly ? producer.send(message, (queues, m, arg) -> queues.get(queue), null) : producer.send(message);
                        if (result.getSendStatus() == SendStatus.SEND_OK) {
                            break;
                        }
                    } catch (Exception e) {
                        Kit.check(System.nanoTime() < end, "no send for two minutes: %s", e);
                        Thread.sleep(100);
                    }
                }
                acked.incrementAndGet();
            }
            return null;
        }

        Map<MessageQueue, Long> committed() throws Exception {
            return kit.admin().examineConsumeStats(group, topic).getOffsetTable().entrySet().stream()
                .collect(Collectors.toMap(Map.Entry::getKey, e -> e.getValue().getConsumerOffset()));
        }

        void consumed(int percent) throws Exception {
            int wanted = (int) ((long) count * percent / 100), last = -1;
            while (distinct.get() < wanted) { // fails when nothing moves, not when it is slow
                Kit.check(wrong.isEmpty(), "%d wrong: %s", wrong.size(), wrong);
                Kit.check(distinct.get() > last, "stuck: %d of %d acknowledged, %d distinct consumed, missing e.g. %s", acked.get(), count, distinct.get(), missing());
                last = distinct.get();
                for (int i = 0; i < 600 && distinct.get() < wanted && (i < 100 || distinct.get() == last); i++) {
                    Thread.sleep(100);
                }
            }
        }

        List<Integer> missing() {
            List<Integer> missing = new ArrayList<>();
            for (int i = 0; i < count && missing.size() < 10; i++) {
                if (deliveries.get(i) == 0) {
                    missing.add(i);
                }
            }
            return missing;
        }
    }

    /** The broker is killed three times under load; whatever it acknowledged is there, in its place, once, and found by its key. */
    private static void kill(Kit kit) throws Exception {
        int threads = 4, perRound = Integer.getInteger("count", 9_000) / 3;
        String topic = kit.topic(4);
        AtomicInteger next = new AtomicInteger(), acks = new AtomicInteger();
        AtomicBoolean stop = new AtomicBoolean();
        ConcurrentMap<Integer, String> acked = new ConcurrentHashMap<>();
        ExecutorService pool = Executors.newFixedThreadPool(threads);
        List<Future<?>> producers = new ArrayList<>();
        try (FileOutputStream list = new FileOutputStream(System.getProperty("work") + "/acked")) {
            for (int t = 0; t < threads; t++) {
                DefaultMQProducer producer = kit.producer();
                producer.setSendMsgTimeout(2_000);
                producer.setRetryTimesWhenSendFailed(0); // each key is sent once: then none may be there twice
                producers.add(pool.submit(() -> {
                    while (!stop.get()) {
                        int number = next.getAndIncrement();
                        try {
                            SendResult r = producer.send(new Message(topic, "t", "key" + number, body(number)));
                            Kit.equal(SendStatus.SEND_OK, r.getSendStatus(), "status");
                            String place = r.getMessageQueue().getQueueId() + ":" + r.getQueueOffset() + " " + r.getMsgId();
                            list.write((number + " " + place + "\n").getBytes());
                            list.getFD().sync();
                            acked.put(number, place);
                            acks.incrementAndGet();
                        } catch (Exception e) {
                            Thread.sleep(50);
                        }
                    }
                    return null;
                }));
            }
            for (int round = 1; round <= 3; round++) {
                int wanted = perRound * round;
                Kit.await(120, wanted + " acknowledgements", () -> acks.get() >= wanted);
                Kit.node(BROKER, "kill");
                Kit.node(BROKER, "start");
            }
            int wanted = acks.get() + perRound / 3;
            Kit.await(120, "acknowledgements after the last kill", () -> acks.get() >= wanted);
            stop.set(true);
            for (Future<?> producer : producers) {
                producer.get(30, TimeUnit.SECONDS);
            }
        }
        Map<Integer, String> places = new HashMap<>();
        for (MessageExt m : kit.everything(topic)) { // fails at a hole
            int number = number(m.getBody());
            Kit.check(Arrays.equals(body(number), m.getBody()) && m.getKeys().equals("key" + number), "content of %s", m);
            Kit.check(places.put(number, m.getQueueId() + ":" + m.getQueueOffset() + " " + m.getMsgId()) == null, "key%d is there twice", number);
        }
        acked.forEach((number, place) -> Kit.equal(place, places.get(number), "place and id of acknowledged key" + number));
        // By key, with several threads: it is one request each.
        DefaultMQProducer reader = kit.producer();
        Queue<Integer> numbers = new ConcurrentLinkedQueue<>(acked.keySet());
        Queue<Integer> lost = new ConcurrentLinkedQueue<>();
        Kit.await(20, "index of the last message", () -> found(reader, topic, Collections.max(acked.keySet())));
        List<Future<?>> queries = new ArrayList<>();
        for (int t = 0; t < threads; t++) {
            queries.add(pool.submit(() -> {
                for (Integer number = numbers.poll(); number != null; number = numbers.poll()) {
                    if (!found(reader, topic, number)) {
                        lost.add(number);
                    }
                }
                return null;
            }));
        }
        for (Future<?> query : queries) {
            query.get(180, TimeUnit.SECONDS);
        }
        pool.shutdown();
        Kit.check(lost.isEmpty(), "%d of %d acknowledged are not found by key: %s", lost.size(), acked.size(), lost);
        System.out.printf("     kill: %d acknowledged, %d stored%n", acked.size(), places.size());
    }

    /** Delayed and transactional messages under way when the broker is killed: each that was acknowledged is delivered, and once. */
    private static void killPending(Kit kit) throws Exception {
        String topic = kit.topic(4);
        int perRound = Integer.getInteger("count", 3_000) / 3;
        AtomicInteger next = new AtomicInteger();
        AtomicBoolean stop = new AtomicBoolean();
        Set<String> acked = ConcurrentHashMap.newKeySet();
        TransactionMQProducer transactions = new TransactionMQProducer(kit.name("transactions"));
        transactions.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                return (int) argument % 4 == 0 ? LocalTransactionState.UNKNOW : LocalTransactionState.COMMIT_MESSAGE;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<?>> senders = new ArrayList<>();
        for (DefaultMQProducer producer : List.of(kit.started(transactions), kit.producer())) {
            producer.setSendMsgTimeout(2_000);
            producer.setRetryTimesWhenSendFailed(0);
            for (int t = 0; t < 2; t++) {
                senders.add(pool.submit(() -> {
                    while (!stop.get()) {
                        int number = next.getAndIncrement();
                        String body = (producer == transactions ? "transaction" : "delay") + number;
                        Message message = Kit.message(topic, "t", body, body);
                        try {
                            SendResult result;
                            if (producer == transactions) {
                                result = producer.sendMessageInTransaction(message, number);
                            } else {
                                message.setDelayTimeLevel(1);
                                result = producer.send(message);
                            }
                            if (result.getSendStatus() == SendStatus.SEND_OK) {
                                acked.add(body);
                            }
                            Thread.sleep(1);
                        } catch (Exception e) {
                            Thread.sleep(50);
                        }
                    }
                    return null;
                }));
            }
        }
        for (int round = 1; round <= 3; round++) {
            int wanted = perRound * round;
            Kit.await(120, wanted + " acknowledgements", () -> acked.size() >= wanted);
            Kit.node(BROKER, "kill");
            Kit.node(BROKER, "start");
        }
        int wanted = acked.size() + perRound / 3;
        Kit.await(120, "acknowledgements after the last kill", () -> acked.size() >= wanted);
        stop.set(true);
        for (Future<?> sender : senders) {
            sender.get(30, TimeUnit.SECONDS);
        }
        pool.shutdown();
        Kit.await(90, "all that was acknowledged", () -> {
            Set<String> missing = new TreeSet<>(acked);
            kit.everything(topic).forEach(m -> missing.remove(Kit.text(m)));
            if (!missing.isEmpty()) {
                throw new Exception(missing.size() + " missing: " + Kit.brief(missing));
            }
            return true;
        });
        Thread.sleep(3_000); // what comes twice would come now
        Map<String, Integer> times = new TreeMap<>();
        kit.everything(topic).forEach(m -> times.merge(Kit.text(m), 1, Integer::sum));
        times.values().removeIf(n -> n == 1);
        System.out.printf("     kill-pending: %d acknowledged, %d delivered twice%n", acked.size(), times.size());
        // Java's brokers deliver again what they delivered since they last saved how far they were.
        Kit.check(times.isEmpty() || !System.getProperty("kind", "").equals("ours"), "delivered twice: %s", Kit.brief(times));
    }

    private static boolean found(DefaultMQProducer reader, String topic, int number) throws Exception {
        try {
            List<MessageExt> found = reader.queryMessage(topic, "key" + number, 10, 0, Long.MAX_VALUE).getMessageList();
            return found.size() == 1 && number(found.get(0).getBody()) == number;
        } catch (org.apache.rocketmq.client.exception.MQClientException e) {
            return false;
        }
    }

    private static void manyTopics(Kit kit) throws Exception {
        int count = Integer.getInteger("count", 10_000);
        String prefix = kit.name("t"), address = kit.broker();
        long start = System.nanoTime();
        ExecutorService pool = Executors.newFixedThreadPool(4);
        AtomicInteger next = new AtomicInteger();
        List<Future<?>> makers = new ArrayList<>();
        for (int t = 0; t < 4; t++) {
            makers.add(pool.submit(() -> {
                for (int i = next.getAndIncrement(); i < count; i = next.getAndIncrement()) {
                    kit.admin().createAndUpdateTopicConfig(address, new TopicConfig(prefix + i, 2, 2, 6));
                }
                return null;
            }));
        }
        for (Future<?> maker : makers) {
            maker.get(600, TimeUnit.SECONDS);
        }
        pool.shutdown();
        System.out.printf("     many-topics: %d created in %.1f s%n", count, (System.nanoTime() - start) / 1e9);
        sample(kit, prefix, count, 0);
        Kit.node(BROKER, "stop");
        Kit.node(BROKER, "start");
        sample(kit, prefix, count, 1);
    }

    /** A few topics, spread over all: route, send, read; each holds the message of every round so far. */
    private static void sample(Kit kit, String prefix, int count, int round) throws Exception {
        Kit.await(60, count + " topics at the name server", () ->
            kit.admin().fetchAllTopicList().getTopicList().stream().filter(t -> t.startsWith(prefix)).count() == count);
        DefaultMQProducer producer = kit.producer();
        var puller = kit.pull(kit.name("reader" + round));
        for (int i = 0; i < count; i += count / 50) {
            String topic = prefix + i;
            Kit.equal(2, kit.admin().examineTopicRouteInfo(topic).getQueueDatas().get(0).getReadQueueNums(), "queues of " + topic);
            SendResult sent = producer.send(Kit.message(topic, "t", "k", "only " + i),
                (queues, m, arg) -> queues.get(1), null);
            Kit.equal(round, sent.getQueueOffset(), "queue offset in " + topic);
            Kit.await(10, "dispatch", () -> puller.maxOffset(sent.getMessageQueue()) == round + 1);
            var result = puller.pull(sent.getMessageQueue(), "*", 0, 32);
            Kit.equal(PullStatus.FOUND, result.getPullStatus(), "pull of " + topic);
            Kit.equal(round + 1, result.getMsgFoundList().size(), "messages of " + topic);
            result.getMsgFoundList().forEach(m -> Kit.equal(topic + " only " + topic.substring(prefix.length()), m.getTopic() + " " + Kit.text(m), "message"));
        }
        Kit.check(kit.admin().fetchBrokerRuntimeStats(kit.broker()).getTable().containsKey("bootTimestamp"), "runtime info");
    }
}
