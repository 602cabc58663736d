import java.nio.file.*;
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.message.*;
import org.apache.rocketmq.remoting.protocol.RemotingSerializable;

/** A few messages of each kind, and what the broker says of them: -Dmanifest is the file that tells it. */
final class Fixtures {
    static void scenarios(Map<String, Kit.Scenario> into) {
        into.put("fixture", Fixtures::fixture);
    }

    private static void fixture(Kit kit) throws Exception {
        String topic = kit.topic("Fixture", 2), group = "fixture_group", retry = "%RETRY%" + group;
        DefaultMQProducer producer = kit.producer();
        for (int i = 0; i < 24; i++) {
            Message message = Kit.message(topic, i % 3 == 0 ? null : "tag" + i % 3, "key" + i + " größe", "body " + i);
            message.putUserProperty("n", "" + i);
            message.setFlag(i);
            if (i == 20) {
                message.setBody(new byte[5000]); // the client compresses it
            }
            Kit.equal(SendStatus.SEND_OK, producer.send(message).getSendStatus(), "status");
        }
        List<Message> batch = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            batch.add(Kit.message(topic, "batch", "batch" + i, "batch " + i));
        }
        Kit.equal(SendStatus.SEND_OK, producer.send(batch).getSendStatus(), "status");
        for (int level : new int[] {1, 18}) {
            Message late = Kit.message(topic, "late", "late" + level, "late " + level);
            late.setDelayTimeLevel(level);
            Kit.equal(SendStatus.SEND_OK, producer.send(late).getSendStatus(), "status");
        }
        TransactionMQProducer transactions = new TransactionMQProducer("fixture_transactions");
        transactions.setTransactionListener(new TransactionListener() {
            public LocalTransactionState executeLocalTransaction(Message message, Object state) {
                return (LocalTransactionState) state;
            }

            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return LocalTransactionState.UNKNOW;
            }
        });
        kit.started(transactions);
        for (LocalTransactionState state : LocalTransactionState.values()) {
            transactions.sendMessageInTransaction(Kit.message(topic, "transaction", state.name(), "transaction " + state), state);
        }
        AtomicBoolean failed = new AtomicBoolean(), again = new AtomicBoolean();
        var consumer = kit.start(kit.push(group, topic, "*", (MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                if (Kit.text(message).equals("body 7")) {
                    again.set(message.getReconsumeTimes() == 1);
                    if (!failed.getAndSet(true)) {
                        context.setDelayLevelWhenNextConsume(1);
                        return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                    }
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }));
        Kit.await(60, "the second delivery", again::get);
        Kit.await(30, "all messages", () -> kit.everything(topic).size() == 24 + 4 + 1 + 1);
        consumer.shutdown();

        tell(kit, List.of(topic, retry), List.of(topic + " key3", topic + " größe", topic + " batch2", topic + " late1", topic + " COMMIT_MESSAGE"));
    }

    /** Writes down every message of some topics, and what is found by each "topic key". */
    static void tell(Kit kit, List<String> topics, List<String> keys) throws Exception {
        DefaultMQProducer producer = kit.producer();
        List<Object> queues = new ArrayList<>(), queries = new ArrayList<>();
        for (String of : topics) {
            Map<Integer, List<Object>> byQueue = new TreeMap<>();
            for (MessageExt message : kit.everything(of)) {
                byQueue.computeIfAbsent(message.getQueueId(), id -> new ArrayList<>()).add(told(of, message));
            }
            byQueue.forEach((id, messages) -> queues.add(new TreeMap<>(Map.of("topic", of, "queueId", id, "min", 0, "max", messages.size(), "messages", messages))));
        }
        for (String asked : keys) {
            String topic = asked.split(" ")[0], key = asked.split(" ")[1];
            List<Long> found = new ArrayList<>();
            Kit.eventually(10, key, () -> producer.queryMessage(topic, key, 32, 0, Long.MAX_VALUE))
                .getMessageList().forEach(m -> found.add(m.getCommitLogOffset()));
            queries.add(new TreeMap<>(Map.of("topic", topic, "key", key, "found", found)));
        }
        String json = RemotingSerializable.toJson(new TreeMap<>(Map.of("about", Map.of("kind", "clean"), "queues", queues, "keyQueries", queries)), true);
        Files.writeString(Path.of(System.getProperty("manifest")), json);
    }

    private static Map<String, Object> told(String topic, MessageExt m) {
        Map<String, Object> told = new TreeMap<>();
        Map<String, String> properties = new TreeMap<>(m.getProperties());
        // The client adds these as it reads.
        properties.keySet().removeAll(Set.of("MIN_OFFSET", "MAX_OFFSET"));
        told.put("topic", topic);
        told.put("queueId", m.getQueueId());
        told.put("queueOffset", m.getQueueOffset());
        told.put("commitLogOffset", m.getCommitLogOffset());
        told.put("storeSize", m.getStoreSize());
        told.put("flag", m.getFlag());
        told.put("bornTimestamp", m.getBornTimestamp());
        told.put("bornHost", m.getBornHost().toString().substring(1));
        told.put("storeTimestamp", m.getStoreTimestamp());
        told.put("storeHost", m.getStoreHost().toString().substring(1));
        told.put("reconsumeTimes", m.getReconsumeTimes());
        told.put("preparedTransactionOffset", m.getPreparedTransactionOffset());
        told.put("bodyCRC", m.getBodyCRC());
        told.put("properties", properties);
        if ((m.getSysFlag() & 0x701) == 0) { // the client shows what was compressed as it was before
            told.put("sysFlag", m.getSysFlag());
            told.put("bodyLength", m.getBody().length);
            told.put("bodySha256", hash(m.getBody()));
        }
        return told;
    }

    private static String hash(byte[] bytes) {
        try {
            StringBuilder text = new StringBuilder();
            for (byte b : MessageDigest.getInstance("SHA-256").digest(bytes)) {
                text.append(String.format("%02x", b));
            }
            return text.toString();
        } catch (java.security.NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }
}
