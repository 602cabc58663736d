import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;
import org.apache.rocketmq.filter.expression.*;
import org.apache.rocketmq.filter.parser.SelectorParser;

/** What consumers get, in which order, how often, and when. */
final class Consuming {
    static void scenarios(Map<String, Kit.Scenario> into) {
        into.put("offset-reset", Consuming::offsetReset);
        into.put("delay", Consuming::delay);
        into.put("retry", Consuming::retry);
        into.put("dead-letter", Consuming::deadLetter);
        into.put("push-concurrent", Consuming::concurrent);
        into.put("push-orderly", Consuming::orderly);
        into.put("push-broadcast", Consuming::broadcast);
        into.put("tag-filter", Consuming::tags);
        into.put("sql-filter", Consuming::sql);
        into.put("pull", Consuming::pull);
        into.put("pull-thresholds", Consuming::thresholds);
        into.put("consume-from", Consuming::from);
        into.put("offsets-kept", Consuming::offsetsKept);
    }

    private static void concurrent(Kit kit) throws Exception {
        String topic = kit.topic(8), group = kit.name("group");
        Kit.Inbox a = new Kit.Inbox(), b = new Kit.Inbox();
        var first = kit.start(kit.push(group, topic, "*", a));
        Kit.balanced(topic, 8, first);
        var second = kit.start(kit.push(group, topic, "*", b));
        Kit.balanced(topic, 4, first, second);
        DefaultMQProducer producer = kit.producer();
        List<String> bodies = kit.send(producer, topic, "t", "m", 400);
        Kit.await(30, "400 deliveries", () -> a.got.size() + b.got.size() >= 400);
        Thread.sleep(300);
        List<String> all = a.texts();
        all.addAll(b.texts());
        Kit.sameSet(bodies, all, "delivered to both");
        Kit.equal(200, a.got.size(), "share of the first");
        Set<Integer> queues = a.got.stream().map(MessageExt::getQueueId).collect(Collectors.toSet());
        Kit.equal(4, queues.size(), "queues of the first");
        b.got.forEach(m -> Kit.check(!queues.contains(m.getQueueId()), "queue %d went to both", m.getQueueId()));
        // A message to a waiting consumer comes at once: the held pull is answered, not timed out.
        long start = System.nanoTime();
        kit.send(producer, topic, "t", "wake", 1);
        Kit.await(10, "wake-up", () -> a.got.size() + b.got.size() == 401);
        Kit.check(System.nanoTime() - start < 1_500_000_000L, "a waiting consumer got it after %d ms", (System.nanoTime() - start) / 1_000_000);
    }

    /** A consumer whose listener hangs asks for no more than it may hold back; then everything comes. */
    private static void thresholds(Kit kit) throws Exception {
        String topic = kit.topic(2);
        List<String> bodies = kit.send(kit.producer(), topic, "t", "m", 200);
        CountDownLatch open = new CountDownLatch(1);
        Kit.Inbox inbox = new Kit.Inbox();
        var consumer = kit.push(kit.name("group"), topic, "*", (MessageListenerConcurrently) (messages, context) -> {
            try {
                open.await();
            } catch (InterruptedException e) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            return inbox.consumeMessage(messages, context);
        });
        consumer.setPullThresholdForQueue(20);
        consumer.setPullBatchSize(8);
        kit.start(consumer);
        Kit.balanced(topic, 2, consumer);
        Callable<List<Long>> held = () -> consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().entrySet().stream()
            .filter(e -> e.getKey().getTopic().equals(topic)).map(e -> e.getValue().getMsgCount().get()).collect(Collectors.toList());
        Kit.await(30, "more than 20 of each queue", () -> held.call().stream().allMatch(n -> n > 20));
        Thread.sleep(1000); // it would go on now
        Kit.equal(List.of(24L, 24L), held.call(), "held back");
        open.countDown();
        inbox.expect(40, bodies);
    }

    private static void orderly(Kit kit) throws Exception {
        String topic = kit.topic(6), group = kit.name("group");
        Map<Integer, List<Long>> seen = new ConcurrentHashMap<>();
        Map<Integer, AtomicInteger> busy = new ConcurrentHashMap<>();
        Queue<String> wrong = new ConcurrentLinkedQueue<>();
        AtomicInteger suspended = new AtomicInteger(), count = new AtomicInteger();
        MessageListenerOrderly listener = (messages, context) -> {
            int queue = messages.get(0).getQueueId();
            if (busy.computeIfAbsent(queue, q -> new AtomicInteger()).incrementAndGet() != 1) {
                wrong.add("queue " + queue + " in two threads");
            }
            try {
                for (MessageExt m : messages) {
                    if (m.getQueueOffset() == 7 && suspended.incrementAndGet() <= 6) { // once for each queue at least
                        context.setSuspendCurrentQueueTimeMillis(50);
                        return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                    }
                    seen.computeIfAbsent(queue, q -> new CopyOnWriteArrayList<>()).add(m.getQueueOffset());
                    count.incrementAndGet();
                }
                return ConsumeOrderlyStatus.SUCCESS;
            } finally {
                busy.get(queue).decrementAndGet();
            }
        };
        var first = kit.start(kit.push(group, topic, "*", listener));
        var second = kit.start(kit.push(group, topic, "*", listener));
        Kit.balanced(topic, 3, first, second);
        kit.send(kit.producer(), topic, "t", "m", 300);
        Kit.await(60, "300 deliveries", () -> count.get() >= 300);
        Thread.sleep(300);
        Kit.check(wrong.isEmpty(), "%s", wrong);
        Kit.check(suspended.get() > 6, "suspended %d times", suspended.get());
        List<Long> expected = new ArrayList<>();
        for (long i = 0; i < 50; i++) {
            expected.add(i);
        }
        for (int queue = 0; queue < 6; queue++) {
            Kit.equal(expected, seen.get(queue), "offsets of queue " + queue + " as consumed");
        }
    }

    private static void broadcast(Kit kit) throws Exception {
        String topic = kit.topic(4), group = kit.name("group");
        Kit.Inbox a = new Kit.Inbox(), b = new Kit.Inbox();
        for (Kit.Inbox inbox : List.of(a, b)) {
            var consumer = kit.push(group, topic, "*", inbox);
            Versioned.broadcasting(consumer);
            Kit.balanced(topic, 4, kit.start(consumer));
        }
        List<String> bodies = kit.send(kit.producer(), topic, "t", "m", 100);
        a.expect(30, bodies);
        b.expect(30, bodies);
    }

    private static void tags(Kit kit) throws Exception {
        String topic = kit.topic(2);
        DefaultMQProducer producer = kit.producer();
        // AaAa and BBBB have one hash code: the broker, which compares those only, lets both through; the client must not.
        String[] tags = {"a", "b", "c", "", "AaAa", "BBBB"};
        Map<String, List<String>> bodies = new HashMap<>();
        for (int i = 0; i < 120; i++) {
            String tag = tags[(i / 2) % tags.length];
            bodies.computeIfAbsent(tag, t -> new ArrayList<>()).add(tag + i);
            producer.send(Kit.message(topic, tag, "k" + i, tag + i));
        }
        Kit.Inbox ab = new Kit.Inbox(), hash = new Kit.Inbox(), all = new Kit.Inbox();
        kit.start(kit.push(kit.name("ab"), topic, "a || b", ab));
        kit.start(kit.push(kit.name("hash"), topic, "AaAa", hash));
        kit.start(kit.push(kit.name("all"), topic, "*", all));
        List<String> both = new ArrayList<>(bodies.get("a")), every = new ArrayList<>();
        both.addAll(bodies.get("b"));
        bodies.values().forEach(every::addAll);
        ab.expect(30, both);
        hash.expect(30, bodies.get("AaAa"));
        all.expect(30, every);
        // What the broker itself filters: raw pulls.
        DefaultMQPullConsumer puller = kit.pull(kit.name("puller"));
        List<String> pulled = new ArrayList<>();
        for (MessageQueue queue : puller.fetchSubscribeMessageQueues(topic)) {
            for (long next = 0; next < 60; ) {
                PullResult result = puller.pull(queue, "a || b", next, 5);
                if (result.getPullStatus() == PullStatus.FOUND) {
                    result.getMsgFoundList().forEach(m -> pulled.add(Kit.text(m)));
                } else {
                    Kit.equal(PullStatus.NO_MATCHED_MSG, result.getPullStatus(), "status");
                }
                Kit.check(result.getNextBeginOffset() > next, "pull does not advance from %d", next);
                next = result.getNextBeginOffset();
            }
        }
        Kit.sameSet(both, pulled, "pulled");
    }

    private static void sql(Kit kit) throws Exception {
        String topic = kit.topic(2);
        DefaultMQProducer producer = kit.producer();
        List<String> eu = new ArrayList<>(), wide = new ArrayList<>();
        for (int i = 0; i < 120; i++) {
            Message message = Kit.message(topic, i % 2 == 0 ? "even" : "odd", "k" + i, "m" + i);
            message.putUserProperty("n", Integer.toString(i));
            message.putUserProperty("price", i + ".5");
            if (i % 3 != 0) {
                message.putUserProperty("region", i % 3 == 1 ? "eu" : "it's us");
            }
            if (i % 3 == 1 && i >= 10 && i <= 99 && i % 2 == 0) {
                eu.add("m" + i);
            }
            if (i % 3 != 1 && (i > 100 || i % 3 == 0)) {
                wide.add("m" + i);
            }
            producer.send(message);
        }
        String euSql = "region = 'eu' AND n BETWEEN 10 AND 99 AND TAGS IN ('even')";
        String wideSql = "(region <> 'eu' AND NOT (price <= 100.5)) OR region IS NULL -- whatever its price\n";
        Kit.Inbox some = new Kit.Inbox(), more = new Kit.Inbox();
        sqlPush(kit, "eu", topic, euSql, some).start();
        var waiting = sqlPush(kit, "wide", topic, wideSql, more);
        waiting.start();
        some.expect(30, eu);
        more.expect(30, wide);
        // A consumer that waits is woken by what matches, at once, and not by others.
        Kit.balanced(topic, 2, waiting);
        for (int i : new int[] {1, 1000}) {
            Message message = Kit.message(topic, "odd", "k", "late" + i);
            message.putUserProperty("region", "us");
            message.putUserProperty("price", i + ".0");
            producer.send(message);
        }
        wide.add("late1000");
        long start = System.nanoTime();
        Kit.await(10, "wake-up", () -> more.got.size() == wide.size());
        Kit.check(System.nanoTime() - start < 1_500_000_000L, "woken after %d ms", (System.nanoTime() - start) / 1_000_000);
        more.expect(10, wide);
        // Raw pulls, which carry their expression along.
        DefaultMQPullConsumer puller = kit.pull(kit.name("puller"));
        List<String> pulled = new ArrayList<>();
        for (MessageQueue queue : puller.fetchSubscribeMessageQueues(topic)) {
            for (long next = 0, end = puller.maxOffset(queue); next < end; ) {
                long from = next;
                // A 4.x client knows a broker's version, and what it can, from the first heartbeat on.
                PullResult result = Kit.eventually(20, "pull", () -> puller.pull(queue, MessageSelector.bySql(euSql), from, 5));
                if (result.getPullStatus() == PullStatus.FOUND) {
                    result.getMsgFoundList().forEach(m -> pulled.add(Kit.text(m)));
                } else {
                    Kit.equal(PullStatus.NO_MATCHED_MSG, result.getPullStatus(), "status");
                }
                Kit.check(result.getNextBeginOffset() > next, "pull does not advance from %d", next);
                next = result.getNextBeginOffset();
            }
        }
        Kit.sameSet(eu, pulled, "pulled");
        // What is none is refused before the consumer starts.
        for (String bad : List.of("n >", "n > 'text'", "n BETWEEN 9 AND 1", "n IN (1)")) {
            var consumer = sqlPush(kit, "bad", topic, bad, new Kit.Inbox());
            boolean refused = false;
            try {
                consumer.start();
            } catch (MQClientException e) {
                refused = true;
            }
            Kit.check(refused, "%s was taken", bad);
            consumer.shutdown();
        }
    }

    /** Expressions made at random mean to the broker what they mean to RocketMQ's own evaluator, which clients carry.
     *  Those of 4.x know fewer operators, and pass by what they don't know. */
    static void sqlRandom(Kit kit) throws Exception {
        String topic = kit.topic(1);
        DefaultMQProducer producer = kit.producer();
        String[] values = {"5", "-3", "5.5", "3000000000", "it's", "true", " 1.5f", "0", "NaN", "t"};
        for (int i = 0; i < 30; i++) {
            Message message = Kit.message(topic, "tag", "k" + i, "m" + i);
            for (int p = 0; p < 3; p++) {
                int value = (i * 7 + p * p * 5 + i * p) % (values.length + 2); // the last two: none
                if (value < values.length) {
                    message.putUserProperty("abc".substring(p, p + 1), values[value]);
                }
            }
            producer.send(message);
        }
        List<MessageExt> all = kit.everything(topic);
        MessageQueue queue = new MessageQueue(topic, kit.brokers().keySet().iterator().next(), 0);
        DefaultMQPullConsumer puller = kit.pull(kit.name("puller"));
        Kit.eventually(20, "pull", () -> puller.pull(queue, MessageSelector.bySql("TRUE"), 0, 32));
        Random random = new Random();
        int some = 0;
        for (int i = 0; i < 1000; i++) {
            String sql = condition(random, 3);
            Expression expression;
            try {
                expression = SelectorParser.parse(sql);
            } catch (MQFilterException e) {
                continue; // senseless
            }
            List<String> wanted = new ArrayList<>(), got = new ArrayList<>();
            for (MessageExt m : all) {
                try {
                    if (Boolean.TRUE.equals(expression.evaluate(new MessageContext(m)))) {
                        wanted.add(Kit.text(m));
                    }
                } catch (Exception e) {
                    continue; // what cannot be compared does not match
                }
            }
            PullResult result = puller.pull(queue, MessageSelector.bySql(sql), 0, 32);
            if (result.getPullStatus() == PullStatus.FOUND) {
                result.getMsgFoundList().forEach(m -> got.add(Kit.text(m)));
            }
            Kit.equal(wanted, got, "what is given for " + sql);
            some += wanted.isEmpty() || wanted.size() == all.size() ? 0 : 1;
        }
        Kit.check(some > 50, "only %d expressions told messages apart", some);
    }

    private static final class MessageContext implements EvaluationContext {
        private final Map<String, String> properties;

        MessageContext(Message message) {
            properties = message.getProperties();
        }

        @Override
        public Object get(String name) {
            return properties.get(name);
        }

        @Override
        public Map<String, Object> keyValues() {
            return new HashMap<>(properties);
        }
    }

    private static String one(Random random, String... of) {
        return of[random.nextInt(of.length)];
    }

    private static String operand(Random random, int depth) {
        int kind = random.nextInt(depth > 0 ? 20 : 17);
        if (kind < 10) {
            return one(random, "a", "b", "c", "missing");
        } else if (kind < 17) {
            return one(random, "5", "5L", "0", "-3", "- -5", "3000000000", "5.5", ".5", "1e1", "'5'", "'it''s'", "''", "TRUE", "false", "NULL");
        }
        return kind < 19 ? "(" + condition(random, depth - 1) + ")" : one(random, "NOT ", "-", "+") + operand(random, depth - 1);
    }

    private static String condition(Random random, int depth) {
        String left = operand(random, depth), not = one(random, "", " NOT"), text = one(random, "'5'", "'it''s'", "'t'", "'true'", "''"), sql;
        switch (random.nextInt(8)) {
            case 0: sql = left + not + " BETWEEN " + operand(random, 0) + " AND " + operand(random, 0); break;
            case 1: sql = left + not + " IN (" + text + ", 't', '-3')"; break;
            case 2: sql = left + " IS" + not + " NULL"; break;
            case 3: sql = left + not + one(random, " CONTAINS ", " STARTSWITH ", " ENDSWITH ") + text; break;
            default: sql = left + one(random, " = ", " <> ", ">", ">=", "<", "<=") + operand(random, depth);
        }
        if (depth > 0 && random.nextInt(3) == 0) {
            sql += one(random, " AND ", " OR ", " and ") + condition(random, depth - 1);
        }
        return random.nextInt(6) == 0 ? "NOT (" + sql + ")" : sql;
    }

    private static DefaultMQPushConsumer sqlPush(Kit kit, String group, String topic, String expression, Kit.Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = kit.push(kit.name(group), null, null, inbox);
        consumer.subscribe(topic, MessageSelector.bySql(expression));
        kit.closing(consumer::shutdown);
        return consumer;
    }

    private static void pull(Kit kit) throws Exception {
        String topic = kit.topic(2), group = kit.name("group");
        DefaultMQProducer producer = kit.producer();
        MessageQueue queue = new MessageQueue(topic, kit.brokers().keySet().iterator().next(), 1);
        List<Long> storeTimes = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            producer.send(Kit.message(topic, i < 40 ? "a" : "b", "k" + i, "m" + i), queue);
            if (i == 24) {
                Thread.sleep(20); // so that a time lies between 24 and 25
            }
        }
        kit.everything(topic).forEach(m -> storeTimes.add(m.getStoreTimestamp()));
        DefaultMQPullConsumer consumer = kit.pull(group);
        Kit.equal(2, consumer.fetchSubscribeMessageQueues(topic).size(), "queues");
        Kit.equal(0, consumer.minOffset(queue), "minOffset");
        Kit.equal(50, consumer.maxOffset(queue), "maxOffset");
        Kit.equal(0, consumer.maxOffset(new MessageQueue(topic, queue.getBrokerName(), 0)), "maxOffset of an empty queue");

        PullResult r = consumer.pull(queue, "*", 10, 7);
        Kit.equal("FOUND 17 0 50 7", say(r), "pull of 7 from 10");
        for (int i = 0; i < 7; i++) {
            Kit.equal("m" + (10 + i), Kit.text(r.getMsgFoundList().get(i)), "body");
        }
        Kit.equal("NO_NEW_MSG 50 0 50 0", say(consumer.pull(queue, "*", 50, 7)), "pull at the end");
        Kit.equal("OFFSET_ILLEGAL 50 0 50 0", say(consumer.pull(queue, "*", 1000, 7)), "pull far beyond the end");
        PullResult none = consumer.pull(queue, "c", 0, 7);
        Kit.equal(PullStatus.NO_MATCHED_MSG, none.getPullStatus(), "pull of an absent tag");
        Kit.equal(50, none.getNextBeginOffset(), "next after an absent tag");
        Kit.equal("FOUND 45 0 50 5", say(consumer.pull(queue, "b", 30, 5)), "pull of a tag that comes later");

        // The long poll ends when a message comes, not before and not much after.
        Future<PullResult> waiting = CompletableFuture.supplyAsync(() -> {
            try {
                return consumer.pullBlockIfNotFound(queue, "*", 50, 7);
            } catch (Exception e) {
                throw new RuntimeException(e);
            }
        });
        Thread.sleep(700);
        Kit.check(!waiting.isDone(), "the long poll came back early");
        producer.send(Kit.message(topic, "a", "late", "late"), queue);
        r = waiting.get(1500, TimeUnit.MILLISECONDS);
        Kit.equal("FOUND 51 0 51 1", say(r), "long poll");
        Kit.equal("late", Kit.text(r.getMsgFoundList().get(0)), "body of the long poll");

        // Offsets by time
        Kit.equal(25, consumer.searchOffset(queue, storeTimes.get(25)), "offset at the time of 25");
        Kit.equal(25, consumer.searchOffset(queue, storeTimes.get(25) - 5), "offset at a time between 24 and 25");
        Kit.equal(0, consumer.searchOffset(queue, storeTimes.get(0) - 10_000), "offset before all");
        Kit.equal(storeTimes.get(0), consumer.earliestMsgStoreTime(queue), "earliest store time");

        // Committed offsets
        Kit.check(consumer.fetchConsumeOffset(queue, true) <= 0, "offset of a new group");
        consumer.updateConsumeOffset(queue, 33);
        consumer.getOffsetStore().persist(queue);
        DefaultMQPullConsumer other = kit.pull(group);
        Kit.await(5, "the committed offset", () -> other.fetchConsumeOffset(queue, true) == 33);
    }

    private static String say(PullResult r) {
        return r.getPullStatus() + " " + r.getNextBeginOffset() + " " + r.getMinOffset() + " " + r.getMaxOffset() + " "
            + (r.getMsgFoundList() == null ? 0 : r.getMsgFoundList().size());
    }

    private static void from(Kit kit) throws Exception {
        String old = kit.topic(1), empty = kit.topic(kit.name("empty"), 1);
        DefaultMQProducer producer = kit.producer();
        List<String> before = kit.send(producer, old, "t", "old", 20);
        Map<ConsumeFromWhere, Kit.Inbox> olds = new TreeMap<>(), empties = new TreeMap<>();
        for (ConsumeFromWhere where : List.of(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET, ConsumeFromWhere.CONSUME_FROM_TIMESTAMP)) {
            for (String topic : List.of(old, empty)) {
                Kit.Inbox inbox = new Kit.Inbox();
                (topic == old ? olds : empties).put(where, inbox);
                var consumer = kit.push(kit.name(where.name() + (topic == old ? "_old" : "_empty")), topic, "*", inbox);
                consumer.setConsumeFromWhere(where);
                consumer.setConsumeTimestamp("20200101000000");
                Kit.balanced(topic, 1, kit.start(consumer));
            }
        }
        List<String> after = kit.send(producer, old, "t", "new", 5), all = new ArrayList<>(before);
        all.addAll(after);
        List<String> fresh = kit.send(producer, empty, "t", "fresh", 5);
        // A queue whose first message is still near the tail counts as new: a fresh group starts at 0 whatever it
        // asked for, so that nothing is lost when a topic and its consumers are born together.
        for (Kit.Inbox inbox : olds.values()) {
            inbox.expect(20, all);
        }
        for (Kit.Inbox inbox : empties.values()) {
            inbox.expect(20, fresh);
        }
    }

    private static void retry(Kit kit) throws Exception {
        String topic = kit.topic(1), group = kit.name("group");
        Map<String, List<MessageExt>> tries = new ConcurrentHashMap<>();
        Map<String, List<Long>> times = new ConcurrentHashMap<>();
        var consumer = kit.start(kit.push(group, topic, "*", (MessageListenerConcurrently) (messages, context) -> {
            context.setDelayLevelWhenNextConsume(1);
            MessageExt m = messages.get(0);
            List<MessageExt> before = tries.computeIfAbsent(Kit.text(m), t -> new CopyOnWriteArrayList<>());
            before.add(m);
            times.computeIfAbsent(Kit.text(m), t -> new CopyOnWriteArrayList<>()).add(System.currentTimeMillis());
            return Kit.text(m).startsWith("bad") && before.size() < 3 ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }));
        DefaultMQProducer producer = kit.producer();
        Message bad = Kit.message(topic, "tag", "key", "bad");
        bad.putUserProperty("kept", "yes");
        kit.send(producer, topic, "t", "good", 10);
        SendResult sent = producer.send(bad);
        kit.send(producer, topic, "t", "fine", 10);
        Kit.await(40, "third try", () -> tries.getOrDefault("bad", List.of()).size() == 3 && tries.size() == 21);
        Thread.sleep(1500); // a fourth would come now
        tries.forEach((body, all) -> Kit.equal(body.equals("bad") ? 3 : 1, all.size(), "deliveries of " + body));
        for (int i = 0; i < 3; i++) {
            MessageExt m = tries.get("bad").get(i);
            Kit.equal(i, m.getReconsumeTimes(), "reconsumeTimes");
            Kit.equal(topic, m.getTopic(), "topic as shown");
            Kit.equal(sent.getMsgId(), m.getMsgId(), "id");
            Kit.equal("tag key yes", m.getTags() + " " + m.getKeys() + " " + m.getProperty("kept"), "tag, key, property");
            if (i > 0) {
                long waited = times.get("bad").get(i) - times.get("bad").get(i - 1);
                Kit.check(waited >= 900, "retried after %d ms", waited);
                Kit.equal(sent.getOffsetMsgId(), m.getProperty(MessageConst.PROPERTY_ORIGIN_MESSAGE_ID), "ORIGIN_MESSAGE_ID");
            }
        }
        Kit.equal(2, kit.everything("%RETRY%" + group).size(), "messages in the retry topic");
        Kit.commit(consumer);
        Kit.await(30, "committed offsets", () -> kit.admin().examineConsumeStats(group).computeTotalDiff() == 0);
    }

    private static void deadLetter(Kit kit) throws Exception {
        String topic = kit.topic(2), group = kit.name("group");
        Map<String, AtomicInteger> tries = new ConcurrentHashMap<>();
        var consumer = kit.push(group, topic, "*", (MessageListenerConcurrently) (messages, context) -> {
            context.setDelayLevelWhenNextConsume(1);
            tries.computeIfAbsent(Kit.text(messages.get(0)), t -> new AtomicInteger()).incrementAndGet();
            return Kit.text(messages.get(0)).startsWith("dead") ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.setMaxReconsumeTimes(1);
        kit.start(consumer);
        DefaultMQProducer producer = kit.producer();
        List<String> dead = kit.send(producer, topic, "t", "dead", 3);
        kit.send(producer, topic, "t", "alive", 3);
        String letters = "%DLQ%" + group;
        Kit.await(40, "3 dead letters", () -> kit.admin().examineTopicStats(letters).getOffsetTable().values().stream().mapToLong(o -> o.getMaxOffset()).sum() == 3);
        Thread.sleep(1500);
        for (String body : dead) {
            Kit.equal(2, tries.get(body).get(), "tries of " + body);
        }
        Kit.equal(6, tries.size(), "messages consumed");
        List<MessageExt> stored = kit.everything(letters);
        Kit.sameSet(dead, stored.stream().map(Kit::text).collect(Collectors.toList()), "dead letters");
        stored.forEach(m -> Kit.equal(topic, m.getProperty(MessageConst.PROPERTY_RETRY_TOPIC), "RETRY_TOPIC of a dead letter"));
    }

    private static void delay(Kit kit) throws Exception {
        String topic = kit.topic(2);
        Map<String, MessageExt> got = new ConcurrentHashMap<>();
        Map<String, Long> times = new ConcurrentHashMap<>();
        var consumer = kit.start(kit.push(kit.name("group"), topic, "*", (MessageListenerConcurrently) (messages, context) -> {
            times.put(Kit.text(messages.get(0)), System.currentTimeMillis());
            Kit.check(got.put(Kit.text(messages.get(0)), messages.get(0)) == null, "twice");
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }));
        Kit.balanced(topic, 2, consumer);
        DefaultMQProducer producer = kit.producer();
        // Until the broker knows the new subscription (a heartbeat) pulls fail, and wait 3 s: have that behind us.
        kit.send(producer, topic, "t", "warm", 2);
        Kit.await(30, "warm-up", () -> got.size() == 2);
        Map<String, Long> sent = new HashMap<>();
        long[] seconds = {0, 1, 5, 10};
        for (int level = 0; level <= 3; level++) {
            Message message = Kit.message(topic, "tag", "k" + level, "level" + level);
            message.setDelayTimeLevel(level);
            message.putUserProperty("kept", "yes");
            sent.put("level" + level, System.currentTimeMillis());
            Kit.equal(SendStatus.SEND_OK, producer.send(message).getSendStatus(), "status");
        }
        Kit.await(25, "4 deliveries", () -> got.size() == 6);
        for (int level = 0; level <= 3; level++) {
            String body = "level" + level;
            long waited = times.get(body) - sent.get(body);
            Kit.check(waited >= seconds[level] * 1000 - 50 && waited < seconds[level] * 1000 + 3000, "%s came after %d ms", body, waited);
            MessageExt m = got.get(body);
            Kit.equal("tag k" + level + " yes " + topic, m.getTags() + " " + m.getKeys() + " " + m.getProperty("kept") + " " + m.getTopic(), "tag, key, property, topic");
        }
        Kit.equal(6, kit.everything(topic).size(), "messages in the topic");
    }

    private static void offsetsKept(Kit kit) throws Exception {
        String topic = kit.topic(4), group = kit.name("group");
        DefaultMQProducer producer = kit.producer();
        List<String> first = kit.send(producer, topic, "t", "first", 40);
        Kit.Inbox inbox = new Kit.Inbox();
        var consumer = kit.start(kit.push(group, topic, "*", inbox));
        inbox.expect(30, first);
        consumer.shutdown();
        Kit.await(30, "committed offsets", () -> {
            var stats = kit.admin().examineConsumeStats(group, topic).getOffsetTable().values();
            return stats.size() == 4 && stats.stream().allMatch(o -> o.getConsumerOffset() == 10 && o.getBrokerOffset() == 10);
        });
        List<String> second = kit.send(producer, topic, "t", "second", 20);
        Kit.await(5, "lag of 20 while away", () -> kit.admin().examineConsumeStats(group, topic).computeTotalDiff() == 20);
        Kit.Inbox again = new Kit.Inbox();
        kit.start(kit.push(group, topic, "*", again));
        again.expect(30, second);
    }

    private static void offsetReset(Kit kit) throws Exception {
        String topic = kit.topic(2), group = kit.name("group");
        DefaultMQProducer producer = kit.producer();
        List<String> early = kit.send(producer, topic, "t", "early", 20);
        Thread.sleep(50);
        long between = System.currentTimeMillis();
        Thread.sleep(50);
        List<String> late = kit.send(producer, topic, "t", "late", 20), all = new ArrayList<>(early);
        all.addAll(late);
        Kit.Inbox inbox = new Kit.Inbox();
        var consumer = kit.start(kit.push(group, topic, "*", inbox));
        inbox.expect(30, all);
        Kit.commit(consumer);
        Kit.await(30, "committed offsets", () -> kit.admin().examineConsumeStats(group, topic).computeTotalDiff() == 0);

        // While the consumer lives the broker tells it; it drops its queues and takes them again from there.
        inbox.got.clear();
        var moved = kit.admin().resetOffsetByTimestamp(topic, group, between, true);
        Kit.equal(2, moved.size(), "queues reset");
        moved.forEach((queue, offset) -> Kit.equal(10, offset, "offset after reset of " + queue));
        inbox.expect(60, late);
        consumer.shutdown();

        // Without one it is the committed offset that moves.
        var rollback = kit.admin().resetOffsetByTimestampOld(group, topic, 0, true);
        Kit.equal(2, rollback.size(), "queues rolled back");
        Kit.Inbox again = new Kit.Inbox();
        kit.start(kit.push(group, topic, "*", again));
        again.expect(30, all);
    }
}
