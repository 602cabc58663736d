import java.util.*;
import java.util.concurrent.*;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.message.*;

/** What producers send is what the store holds. */
final class Sending {
    static void scenarios(Map<String, Kit.Scenario> into) {
        into.put("send-sync", Sending::sync);
        into.put("send-async", Sending::async);
        into.put("send-oneway", Sending::oneway);
        into.put("send-batch", Sending::batch);
        into.put("send-select", Sending::select);
        into.put("send-compressed", Sending::compressed);
        into.put("send-refused", Sending::refused);
        into.put("send-autocreate", Sending::autoCreate);
        into.put("transaction", Sending::transaction);
        into.put("transaction-immunity", Sending::immunity);
        into.put("namespace", Sending::namespace);
        into.put("query", Sending::query);
    }

    private static void sync(Kit kit) throws Exception {
        String topic = kit.topic(4);
        DefaultMQProducer producer = kit.producer();
        int port = Integer.parseInt(kit.broker().split(":")[1]);
        Map<String, Message> sent = new HashMap<>();
        Map<String, SendResult> results = new HashMap<>();
        Map<Integer, Long> next = new HashMap<>();
        long start = System.currentTimeMillis();
        for (int i = 0; i < 40; i++) {
            Message message = Kit.message(topic, i % 3 == 0 ? null : "täg" + i % 3, "k" + i + " all", "body " + i + " gr\u00fc\u00df \u6f22\u5b57 \ud83d\ude80");
            message.setFlag(i * 1_000_003);
            message.putUserProperty("naïve", "värde \u6f22 = & \t" + i);
            message.putUserProperty("long", "x".repeat(1 + i * 100));
            message.putUserProperty("buyerId", "b" + i);
            message.setWaitStoreMsgOK(i % 2 == 0);
            SendResult result = producer.send(message);
            Kit.equal(SendStatus.SEND_OK, result.getSendStatus(), "status");
            Kit.equal(32, result.getOffsetMsgId().length(), "length of offsetMsgId");
            Kit.equal(next.merge(result.getMessageQueue().getQueueId(), 1L, Long::sum) - 1, result.getQueueOffset(), "queue offset");
            sent.put(result.getMsgId(), message);
            results.put(result.getMsgId(), result);
        }
        Kit.equal(4, next.size(), "queues used by round robin");
        List<MessageExt> stored = kit.everything(topic);
        Kit.equal(40, stored.size(), "stored messages");
        for (MessageExt m : stored) {
            Message s = sent.remove(m.getMsgId());
            Kit.check(s != null, "unknown or twice: %s", m);
            SendResult r = results.get(m.getMsgId());
            Kit.equal(new String(s.getBody(), "UTF-8"), Kit.text(m), "body");
            Kit.equal(s.getTags(), m.getTags(), "tags");
            Kit.equal(s.getKeys(), m.getKeys(), "keys");
            Kit.equal(s.getFlag(), m.getFlag(), "flag");
            Kit.equal(topic, m.getTopic(), "topic");
            for (String property : List.of("naïve", "long", "buyerId")) {
                Kit.equal(s.getUserProperty(property), m.getUserProperty(property), property);
            }
            Kit.equal(r.getQueueOffset(), m.getQueueOffset(), "queue offset");
            Kit.equal(r.getMessageQueue().getQueueId(), m.getQueueId(), "queue id");
            Kit.equal(r.getOffsetMsgId(), ((MessageClientExt) m).getOffsetMsgId(), "offsetMsgId");
            Kit.equal(0, m.getReconsumeTimes(), "reconsumeTimes");
            Kit.equal(0, m.getSysFlag(), "sysFlag");
            Kit.equal(Kit.crc(m.getBody()), m.getBodyCRC(), "bodyCRC");
            Kit.equal(port, ((java.net.InetSocketAddress) m.getStoreHost()).getPort(), "port of storeHost");
            Kit.check(m.getBornTimestamp() >= start && m.getStoreTimestamp() >= m.getBornTimestamp()
                && m.getStoreTimestamp() <= System.currentTimeMillis(), "timestamps %s", m);
            Kit.equal("0", m.getProperty(MessageConst.PROPERTY_MIN_OFFSET), "MIN_OFFSET");
            Kit.equal(next.get(m.getQueueId()), Long.valueOf(m.getProperty(MessageConst.PROPERTY_MAX_OFFSET)), "MAX_OFFSET");
        }
    }

    /** A body says what its producer answers, at once and then each time it is asked. */
    private static TransactionMQProducer transactions(Kit kit, String group, Queue<String> asked) throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer(group);
        producer.setTransactionListener(new TransactionListener() {
            private final Map<String, Integer> turns = new ConcurrentHashMap<>();

            private LocalTransactionState answer(String body) {
                String[] answers = body.split(" ")[0].split(",");
                switch (answers[Math.min(turns.merge(body, 1, Integer::sum), answers.length) - 1]) {
                    case "commit": return LocalTransactionState.COMMIT_MESSAGE;
                    case "rollback": return LocalTransactionState.ROLLBACK_MESSAGE;
                    default: return LocalTransactionState.UNKNOW;
                }
            }

            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                return answer(new String(message.getBody(), java.nio.charset.StandardCharsets.UTF_8));
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                asked.add(message.getTopic() + " " + message.getTransactionId() + " " + Kit.text(message));
                return answer(Kit.text(message));
            }
        });
        kit.started(producer);
        return producer;
    }

    private static void transaction(Kit kit) throws Exception {
        String topic = kit.topic(2), group = kit.name("group");
        Queue<String> asked = new ConcurrentLinkedQueue<>();
        TransactionMQProducer producer = transactions(kit, group, asked);
        List<String> shown = new ArrayList<>();
        Map<String, String> ids = new HashMap<>();
        for (String answers : List.of("commit", "rollback", "unknown,commit", "unknown,rollback", "unknown,unknown,commit")) {
            for (int i = 0; i < 4; i++) {
                String body = answers + " " + i;
                SendResult result = producer.sendMessageInTransaction(Kit.message(topic, "t", "k" + i, body), null);
                Kit.equal(SendStatus.SEND_OK, result.getSendStatus(), "status");
                ids.put(body, result.getMsgId());
                if (answers.endsWith("commit")) {
                    shown.add(body);
                }
            }
        }
        // Java's brokers may deliver twice what they ask about while they write it.
        Kit.await(60, "all committed messages", () -> kit.everything(topic).stream().map(Kit::text).collect(Collectors.toSet()).containsAll(shown));
        Kit.await(30, "everyone asked", () -> asked.stream().filter(a -> a.contains("unknown,rollback")).count() >= 4);
        for (String one : asked) {
            String[] parts = one.split(" ", 3);
            Kit.equal(topic, parts[0], "topic of " + one);
            Kit.equal(ids.get(parts[2]), parts[1], "id of " + one);
        }
        for (MessageExt m : kit.everything(topic)) {
            Kit.equal(8, m.getSysFlag(), "sysFlag");
            Kit.equal(ids.get(Kit.text(m)), m.getMsgId(), "id of " + Kit.text(m));
            Kit.equal("k" + Kit.text(m).split(" ")[1], m.getKeys(), "keys");
        }
        Kit.sameSet(shown, new TreeSet<>(kit.everything(topic).stream().map(Kit::text).collect(Collectors.toList())), "shown");

        // Another instance of the group is asked when the first is gone.
        producer.sendMessageInTransaction(Kit.message(topic, "t", "k9", "unknown,commit 9"), null);
        producer.shutdown();
        Queue<String> other = new ConcurrentLinkedQueue<>();
        transactions(kit, group, other).send(Kit.message(topic, "t", "k", "plain"));
        // It was not there when the transaction began: its first answer is "unknown".
        Kit.await(60, "a question to the other", () -> other.size() >= 2);
        Kit.await(60, "its commit", () -> kit.everything(topic).stream().anyMatch(m -> Kit.text(m).equals("unknown,commit 9")));
    }

    /** Nobody is asked about a message for as long as it says. Java's brokers count each look at it in the meantime as a question. */
    private static void immunity(Kit kit) throws Exception {
        String topic = kit.topic(1);
        Queue<String> asked = new ConcurrentLinkedQueue<>();
        Message message = Kit.message(topic, "t", "k", "unknown,commit");
        message.putUserProperty(MessageConst.PROPERTY_CHECK_IMMUNITY_TIME_IN_SECONDS, "6");
        TransactionMQProducer producer = transactions(kit, kit.name("group"), asked);
        long start = System.currentTimeMillis();
        producer.sendMessageInTransaction(message, null);
        Kit.await(40, "the question", () -> !asked.isEmpty());
        long waited = System.currentTimeMillis() - start;
        Kit.check(waited >= 5_500, "asked after %d ms of 6 s", waited);
        Kit.await(20, "its commit", () -> !kit.everything(topic).isEmpty());
    }

    private static void async(Kit kit) throws Exception {
        String topic = kit.topic(4);
        DefaultMQProducer producer = kit.producer();
        Map<String, String> acked = new ConcurrentHashMap<>();
        Queue<Throwable> failures = new ConcurrentLinkedQueue<>();
        CountDownLatch done = new CountDownLatch(500);
        for (int i = 0; i < 500; i++) {
            String body = "async " + i;
            producer.send(Kit.message(topic, "t", "k" + i, body), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    acked.put(body, result.getMessageQueue().getQueueId() + ":" + result.getQueueOffset() + ":" + result.getMsgId());
                    done.countDown();
                }

                @Override
                public void onException(Throwable e) {
                    failures.add(e);
                    done.countDown();
                }
            });
        }
        Kit.check(done.await(30, TimeUnit.SECONDS), "%d callbacks missing", done.getCount());
        Kit.check(failures.isEmpty(), "failures: %s", failures);
        List<MessageExt> stored = kit.everything(topic);
        Kit.equal(500, stored.size(), "stored messages");
        for (MessageExt m : stored) {
            Kit.equal(acked.remove(Kit.text(m)), m.getQueueId() + ":" + m.getQueueOffset() + ":" + m.getMsgId(), "place of " + Kit.text(m));
        }
    }

    private static void oneway(Kit kit) throws Exception {
        String topic = kit.topic(3);
        DefaultMQProducer producer = kit.producer();
        Set<String> bodies = new TreeSet<>();
        for (int i = 0; i < 60; i++) {
            bodies.add("oneway " + i);
            producer.sendOneway(Kit.message(topic, "t", "k" + i, "oneway " + i));
        }
        Kit.await(10, "60 stored messages", () -> kit.admin().examineTopicStats(topic).getOffsetTable().values().stream()
            .mapToLong(o -> o.getMaxOffset() - o.getMinOffset()).sum() == 60);
        Kit.sameSet(bodies, kit.everything(topic).stream().map(Kit::text).collect(Collectors.toList()), "stored");
    }

    private static void batch(Kit kit) throws Exception {
        String topic = kit.topic(4);
        DefaultMQProducer producer = kit.producer();
        for (int round = 0; round < 3; round++) {
            List<Message> batch = new ArrayList<>();
            for (int i = 0; i < 30; i++) {
                Message message = Kit.message(topic, "tag" + i % 2, "batchkey" + round + "x" + i, "batch " + round + "/" + i + " \u6f22");
                message.putUserProperty("n", "" + i);
                message.setFlag(i);
                batch.add(message);
            }
            SendResult result = producer.send(batch);
            Kit.equal(SendStatus.SEND_OK, result.getSendStatus(), "status");
            String[] ids = result.getMsgId().split(","), offsetIds = result.getOffsetMsgId().split(",");
            Kit.equal(30, ids.length, "ids of the batch");
            Kit.equal(30, offsetIds.length, "offset ids of the batch");
            List<MessageExt> stored = kit.everything(topic).stream().filter(m -> Arrays.asList(ids).contains(m.getMsgId())).collect(Collectors.toList());
            Kit.equal(30, stored.size(), "stored messages of the batch");
            for (int i = 0; i < 30; i++) {
                MessageExt m = stored.get(i);
                Message s = batch.get(i);
                Kit.equal(new String(s.getBody(), "UTF-8"), Kit.text(m), "body, in order of the batch");
                Kit.equal(result.getMessageQueue().getQueueId(), m.getQueueId(), "queue");
                Kit.equal(result.getQueueOffset() + i, m.getQueueOffset(), "consecutive offsets");
                Kit.equal(ids[i], m.getMsgId(), "id");
                Kit.equal(offsetIds[i], ((MessageClientExt) m).getOffsetMsgId(), "offset id");
                Kit.equal(s.getTags() + s.getKeys() + s.getFlag() + i, m.getTags() + m.getKeys() + m.getFlag() + m.getProperty("n"), "tags, keys, flag, property");
            }
        }
        Kit.await(10, "index entry of a batched message", () ->
            producer.queryMessage(topic, "batchkey2x29", 10, 0, Long.MAX_VALUE).getMessageList().size() == 1);
    }

    private static void select(Kit kit) throws Exception {
        String topic = kit.topic(5);
        DefaultMQProducer producer = kit.producer();
        for (int i = 0; i < 100; i++) {
            int order = i % 7;
            SendResult result = producer.send(Kit.message(topic, "t", "", "order " + order + " step " + i),
                (queues, message, arg) -> queues.get((Integer) arg % queues.size()), order);
            Kit.equal(order % 5, result.getMessageQueue().getQueueId(), "selected queue");
        }
        Map<String, Integer> last = new HashMap<>();
        List<MessageExt> stored = kit.everything(topic);
        for (MessageExt m : stored) {
            String[] words = Kit.text(m).split(" ");
            Kit.equal(Integer.parseInt(words[1]) % 5, m.getQueueId(), "queue of " + Kit.text(m));
            Integer before = last.put(words[1], Integer.parseInt(words[3]));
            Kit.check(before == null || before < Integer.parseInt(words[3]), "order %s: %s after %s", words[1], words[3], before);
        }
        Kit.equal(100, stored.size(), "stored messages");
        // A queue given by hand
        SendResult result = producer.send(Kit.message(topic, "t", "", "by hand"), new MessageQueue(topic, kit.brokers().keySet().iterator().next(), 4));
        Kit.equal(4, result.getMessageQueue().getQueueId(), "queue given by hand");
    }

    private static void compressed(Kit kit) throws Exception {
        String topic = kit.topic(1);
        DefaultMQProducer producer = kit.producer();
        Random random = new Random(5);
        List<byte[]> bodies = new ArrayList<>();
        bodies.add("repeat me ".repeat(20_000).getBytes());
        bodies.add(new byte[1_500_000]);
        random.nextBytes(bodies.get(1));
        bodies.add("just below ".repeat(372).getBytes()); // 4092 bytes: not compressed
        bodies.add(new byte[1]);
        for (byte[] body : bodies) {
            Kit.equal(SendStatus.SEND_OK, producer.send(new Message(topic, body)).getSendStatus(), "status");
        }
        List<MessageExt> stored = kit.everything(topic);
        Kit.equal(4, stored.size(), "stored messages");
        for (int i = 0; i < 4; i++) {
            MessageExt m = stored.get(i);
            Kit.check(Arrays.equals(bodies.get(i), m.getBody()), "body %d differs: %d bytes", i, m.getBody().length);
        }
        // The client takes the flag away when it inflates; the size of the record tells.
        Kit.check(stored.get(0).getStoreSize() < 10_000, "a body of 200 kB is stored in %d bytes", stored.get(0).getStoreSize());
        Kit.check(stored.get(2).getStoreSize() > 4_092, "a body of 4092 bytes is stored in %d bytes", stored.get(2).getStoreSize());
    }

    private static void refused(Kit kit) throws Exception {
        String topic = kit.topic(1);
        DefaultMQProducer producer = kit.producer();
        producer.setMaxMessageSize(12 << 20);
        producer.setRetryTimesWhenSendFailed(0);
        byte[] big = new byte[5 << 20];
        new Random(1).nextBytes(big);
        Kit.equal(13, Kit.refusal(() -> producer.send(new Message(topic, big))), "code for a body of 5 MiB");
        Message wide = new Message(topic, new byte[] {1});
        wide.putUserProperty("p", "x".repeat(33_000));
        Kit.equal(13, Kit.refusal(() -> producer.send(wide)), "code for properties of 33 kB");
        String unknown = new String(new char[100]).replace('\0', 'u');
        Kit.check(Kit.refusal(() -> producer.send(new Message(topic, new byte[] {1}), new MessageQueue(topic, "nobroker" + unknown, 0))) != 0, "unknown broker");
        Kit.send1(producer, topic, "still works");
        Kit.sameSet(List.of("still works"), kit.everything(topic).stream().map(Kit::text).collect(Collectors.toList()), "stored");
    }

    private static void autoCreate(Kit kit) throws Exception {
        String topic = kit.name("made_by_sending");
        DefaultMQProducer producer = kit.producer();
        List<String> bodies = kit.send(producer, topic, "t", "m", 8);
        Kit.await(10, "route of the new topic", () -> kit.admin().examineTopicRouteInfo(topic).getQueueDatas().get(0).getReadQueueNums() == 4);
        Kit.sameSet(bodies, kit.everything(topic).stream().map(Kit::text).collect(Collectors.toList()), "stored");
    }

    private static void namespace(Kit kit) throws Exception {
        String plain = kit.name("topic"), topic = kit.topic("space%" + plain, 2);
        DefaultMQProducer producer = new DefaultMQProducer(kit.name("producer"));
        producer.setNamespace("space");
        kit.started(producer);
        Kit.Inbox inside = new Kit.Inbox(), outside = new Kit.Inbox();
        String group = kit.name("group");
        var in = kit.push(group, null, null, inside);
        in.setNamespace("space");
        in.subscribe(plain, "*");
        kit.start(in);
        List<String> bodies = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            SendResult result = producer.send(Kit.message(plain, "t", "k" + i, "m" + i));
            Kit.equal(plain, result.getMessageQueue().getTopic(), "topic of the result, without namespace");
            bodies.add("m" + i);
        }
        inside.expect(30, bodies);
        inside.got.forEach(m -> Kit.equal(plain, m.getTopic(), "topic as consumed, without namespace"));
        // The broker knows it by its full name only.
        kit.start(kit.push(kit.name("other"), topic, "*", outside));
        outside.expect(30, bodies);
        outside.got.forEach(m -> Kit.equal(topic, m.getTopic(), "topic as consumed outside"));
        Kit.equal(1, kit.admin().examineConsumerConnectionInfo("space%" + group).getConnectionSet().size(), "members of the prefixed group");
    }

    /** The old client answers null where the new one throws. */
    private static MessageExt orRefused(MessageExt found) throws MQClientException {
        if (found == null) {
            throw new MQClientException(208, "null");
        }
        return found;
    }

    private static void query(Kit kit) throws Exception {
        String topic = kit.topic(4);
        DefaultMQProducer producer = kit.producer();
        List<SendResult> results = new ArrayList<>();
        for (int i = 0; i < 12; i++) {
            results.add(producer.send(Kit.message(topic, "t", "one" + i + " two" + i + " common", "m" + i)));
        }
        long all = Long.MAX_VALUE;
        Kit.await(10, "index", () -> producer.queryMessage(topic, "common", 64, 0, all).getMessageList().size() == 12);
        for (int i = 0; i < 12; i++) {
            SendResult r = results.get(i);
            for (String key : List.of("one" + i, "two" + i)) {
                List<MessageExt> found = producer.queryMessage(topic, key, 64, 0, all).getMessageList();
                Kit.equal(1, found.size(), "messages with key " + key);
                Kit.equal("m" + i, Kit.text(found.get(0)), "body by key");
                Kit.equal(r.getMsgId(), found.get(0).getMsgId(), "id by key");
            }
            for (MessageExt m : List.of(producer.viewMessage(topic, r.getMsgId()), producer.viewMessage(topic, r.getOffsetMsgId()))) {
                Kit.equal("m" + i, Kit.text(m), "body by id");
                Kit.equal(r.getQueueOffset(), m.getQueueOffset(), "queue offset by id");
                Kit.equal(r.getMsgId(), m.getMsgId(), "id by id");
            }
        }
        Kit.equal(5, producer.queryMessage(topic, "common", 5, 0, all).getMessageList().size(), "messages with a limit of 5");
        Kit.check(Kit.refusal(() -> producer.queryMessage(topic, "absent", 64, 0, all)) != 0, "absent key");
        Kit.check(Kit.refusal(() -> producer.queryMessage(topic, "common", 64, 0, 1_000_000)) != 0, "time range before the messages");
        long later = System.currentTimeMillis() + 60_000;
        Kit.check(Kit.refusal(() -> producer.queryMessage(topic, "common", 64, later, all)) != 0, "time range after the messages");
        String wrong = results.get(0).getOffsetMsgId().substring(0, 16) + "00000FFFFFFFFFFF";
        Kit.check(Kit.refusal(() -> orRefused(producer.viewMessage(topic, wrong))) != 0, "offset beyond the log");
    }
}
