import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.stream.*;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/** What those who run a cluster do: follow messages by their traces, move a cluster from broker to broker. */
final class Operating {
    static void standard(Map<String, Kit.Scenario> into) {
        into.put("trace", Operating::trace);
    }

    static void scenarios(Map<String, Kit.Scenario> into) {
        into.put("migration", Operating::migration);
    }

    /** What `mqadmin ARGS` prints. */
    static synchronized String mqadmin(Kit kit, String args) {
        PrintStream out = System.out;
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        System.setOut(new PrintStream(printed, true));
        try {
            List<String> words = new ArrayList<>(List.of(args.split(" ")));
            words.addAll(List.of("-n", kit.nameServer));
            MQAdminStartup.main0(words.toArray(new String[0]), null);
        } finally {
            System.setOut(out);
        }
        return printed.toString();
    }

    /** Producer and consumer leave traces in the trace topic, which are found by the message's id. */
    private static void trace(Kit kit) throws Exception {
        String topic = kit.topic(2), group = kit.name("group");
        DefaultMQProducer producer = kit.configure(Versioned.tracedProducer(kit.name("producer")));
        producer.start();
        String id = producer.send(Kit.message(topic, "tag", "key", "traced")).getMsgId();
        awaitTraces(kit, id, "Pub\u0001", producer.getProducerGroup());
        producer.shutdown(); // 4.5 has one tracer in a JVM
        DefaultMQPushConsumer consumer = kit.configure(Versioned.tracedConsumer(group));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> ConsumeConcurrentlyStatus.CONSUME_SUCCESS);
        kit.start(consumer);
        awaitTraces(kit, id, "SubBefore\u0001", "SubAfter\u0001", group);
        try {
            Class.forName("org.apache.rocketmq.tools.command.message.QueryMsgTraceByIdSubCommand");
        } catch (ClassNotFoundException older) {
            return;
        }
        String shown = mqadmin(kit, "queryMsgTraceById -i " + id);
        Kit.check(shown.contains("Pub") && shown.contains(group) && shown.contains("success"), "queryMsgTraceById says %s", shown);
    }

    private static void awaitTraces(Kit kit, String id, String... parts) throws Exception {
        Kit.await(60, "traces with " + Arrays.toString(parts), () -> {
            String traces = kit.admin().queryMessage("RMQ_SYS_TRACE_TOPIC", id, 64, 0, Long.MAX_VALUE).getMessageList()
                .stream().map(Kit::text).collect(Collectors.joining());
            return Arrays.stream(parts).allMatch(traces::contains);
        });
    }

    /** Columns of what `mqadmin ARGS` prints of a broker: of each line that has its name, or of a state that begins so. */
    private static List<String[]> lines(Kit kit, String args, String with) {
        return mqadmin(kit, args).lines().filter(l -> l.contains(with)).map(l -> l.trim().split("[\\s,:]+")).collect(Collectors.toList());
    }

    /** What was acknowledged by whom, and what was consumed in which order. */
    private static final class Flow {
        final String topic;
        final Map<String, String> acknowledged = new ConcurrentHashMap<>(); // body to broker
        final Set<String> consumed = ConcurrentHashMap.newKeySet();
        final List<String> disorder = new CopyOnWriteArrayList<>();
        private final Map<String, Long> last = new ConcurrentHashMap<>();

        Flow(String topic) {
            this.topic = topic;
        }

        void took(MessageExt m) {
            String queue = m.getStoreHost() + ":" + m.getQueueId();
            if (consumed.add(Kit.text(m)) && m.getQueueOffset() < last.getOrDefault(queue, -1L)) {
                disorder.add(queue + " " + m.getQueueOffset() + " after " + last.get(queue));
            }
            last.merge(queue, m.getQueueOffset(), Math::max);
        }

        long at(String broker) {
            return acknowledged.values().stream().filter(broker::equals).count();
        }
    }

    /**
     * Topics move from one broker to another as docs/migration.md tells it, while clients work. -Dold and -Dnew are the nodes,
     * -DoldName and -DnewName their names; -Dcluster is the cluster; the name servers run.
     */
    private static void migration(Kit kit) throws Exception {
        String oldNode = System.getProperty("old"), newNode = System.getProperty("new");
        String oldName = System.getProperty("oldName"), newName = System.getProperty("newName"), cluster = System.getProperty("cluster");
        Kit.node(oldNode, "start");
        String oldAddress = Kit.eventually(30, "the old broker", () -> Objects.requireNonNull(kit.brokers().get(oldName)));
        Flow plain = new Flow(kit.name("plain")), ordered = new Flow(kit.name("ordered"));
        String plainGroup = kit.name("plain_group"), orderedGroup = kit.name("ordered_group");
        // The one name server may know the broker before the other.
        for (Flow flow : List.of(plain, ordered)) {
            eventually(kit, "updateTopic -c " + cluster + " -t " + flow.topic + " -r 4 -w 4", "success");
        }
        for (String group : List.of(plainGroup, orderedGroup)) {
            eventually(kit, "updateSubGroup -c " + cluster + " -g " + group, "success");
        }
        Set<String> failed = ConcurrentHashMap.newKeySet();
        for (int member = 0; member < 2; member++) {
            kit.start(kit.push(plainGroup, plain.topic, "*", (MessageListenerConcurrently) (messages, context) -> {
                // Some come back once, through the retry topic.
                if (Kit.text(messages.get(0)).endsWith("7") && failed.add(Kit.text(messages.get(0)))) {
                    context.setDelayLevelWhenNextConsume(1);
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
                messages.forEach(plain::took);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }));
            kit.start(kit.push(orderedGroup, ordered.topic, "*", (MessageListenerOrderly) (messages, context) -> {
                messages.forEach(ordered::took);
                return ConsumeOrderlyStatus.SUCCESS;
            }));
        }
        AtomicBoolean done = new AtomicBoolean();
        List<Thread> senders = List.of(sender(kit, plain, done, false), sender(kit, ordered, done, true));
        Kit.await(30, "messages on the old broker", () -> plain.at(oldName) > 50 && ordered.at(oldName) > 50 && plain.consumed.size() > 20 && ordered.consumed.size() > 20);

        // 1. The new broker joins, and gets the topics and groups.
        Kit.node(newNode, "start");
        String newAddress = Kit.eventually(30, "the new broker", () -> Objects.requireNonNull(kit.brokers().get(newName)));
        for (Flow flow : List.of(plain, ordered)) {
            expect(mqadmin(kit, "updateTopic -b " + newAddress + " -t " + flow.topic + " -r 4 -w 4"), "success");
        }
        for (String group : List.of(plainGroup, orderedGroup)) {
            expect(mqadmin(kit, "updateSubGroup -b " + newAddress + " -g " + group), "success");
        }
        Kit.await(60, "messages on the new broker", () -> plain.at(newName) > 20 && ordered.at(newName) > 20);

        // Transactions that are open when the old one is closed to producers: it asks about them, and delivers them.
        AtomicBoolean closed = new AtomicBoolean();
        TransactionMQProducer transactions = new TransactionMQProducer(kit.name("transactions"));
        transactions.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                return LocalTransactionState.UNKNOW;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt half) {
                return closed.get() ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.UNKNOW;
            }
        });
        kit.started(transactions);
        Map<String, String> halves = new TreeMap<>();
        for (int n = 0; n < 16; n++) {
            String body = "transaction " + n;
            halves.put(body, transactions.sendMessageInTransaction(Kit.message(plain.topic, "t", "k", body), null).getMessageQueue().getBrokerName());
        }
        Kit.check(halves.containsValue(oldName), "no transaction on the old broker: %s", halves);

        // 2. Producers leave the old one; consumers go on reading it.
        expect(mqadmin(kit, "wipeWritePerm -b " + oldName), " OK, ");
        awaitRest(plain, ordered, oldName);
        expect(mqadmin(kit, "updateBrokerConfig -b " + oldAddress + " -k brokerPermission -v 4"), "success");
        long left = plain.at(oldName) + ordered.at(oldName);
        Kit.check(halves.keySet().stream().noneMatch(plain.consumed::contains), "a transaction that is open was shown");
        closed.set(true);
        Kit.await(60, "end of the transactions", () -> plain.consumed.containsAll(halves.keySet()));

        // 3. When everything is delivered and consumed, the old one goes. What was given back waits among the delayed ones.
        Kit.Condition consumed = () -> Stream.of(plainGroup, orderedGroup).allMatch(group -> {
            List<String[]> queues = lines(kit, "consumerProgress -g " + group, oldName);
            return !queues.isEmpty() && queues.stream().allMatch(q -> q[3].equals(q[4]));
        });
        Kit.await(90, "end of what " + oldName + " has", () -> {
            List<String[]> levels = consumed.holds() ? lines(kit, "brokerStatus -b " + oldAddress, "scheduleMessageOffset_") : List.of();
            return !levels.isEmpty() && levels.stream().allMatch(l -> l[1].equals(l[2])) && consumed.holds();
        });
        Kit.node(oldNode, "stop");
        Kit.await(30, "the old broker is gone from the routes", () -> !kit.brokers().containsKey(oldName));
        long before = plain.at(newName);
        Kit.await(30, "messages after the move", () -> plain.at(newName) > before + 50);
        done.set(true);
        for (Thread sender : senders) {
            sender.join(20_000);
        }
        for (Flow flow : List.of(plain, ordered)) {
            Kit.await(60, "everything of " + flow.topic, () -> flow.consumed.containsAll(flow.acknowledged.keySet()));
        }
        Kit.equal(List.of(), ordered.disorder, "out of order");
        Kit.check(failed.size() > 10, "%d came back", failed.size());
        Kit.equal(left, plain.at(oldName) + ordered.at(oldName), "messages taken by the old broker after it was closed to them");
    }

    private static void expect(String printed, String part) {
        Kit.check(printed.contains(part), "mqadmin says %s", printed);
    }

    private static void eventually(Kit kit, String command, String part) throws Exception {
        Kit.eventually(30, command, () -> {
            expect(mqadmin(kit, command), part);
            return part;
        });
    }

    /** Until for 3 s nothing more went to the broker. */
    private static void awaitRest(Flow plain, Flow ordered, String broker) throws Exception {
        AtomicLong count = new AtomicLong(-1), since = new AtomicLong();
        Kit.await(60, "producers leave " + broker, () -> {
            long now = plain.at(broker) + ordered.at(broker);
            if (count.getAndSet(now) != now) {
                since.set(System.nanoTime());
            }
            return System.nanoTime() - since.get() > 3_000_000_000L;
        });
    }

    private static Thread sender(Kit kit, Flow flow, AtomicBoolean done, boolean byKey) throws Exception {
        DefaultMQProducer producer = kit.configure(new DefaultMQProducer(kit.name("producer")));
        producer.start();
        kit.closing(producer::shutdown);
        Thread thread = new Thread(() -> {
            for (int n = 0; !done.get(); n++) {
                String body = flow.topic + " " + n;
                try {
                    Message message = Kit.message(flow.topic, "t", "k" + n, body);
                    int key = n % 16;
                    if (!byKey && n % 10 == 0) {
                        message.setDelayTimeLevel(1);
                    }
                    SendResult result = byKey
                        ? producer.send(message, (queues, m, arg) -> queues.get(key % queues.size()), null)
                        : producer.send(message);
                    if (result.getSendStatus() == SendStatus.SEND_OK) {
                        flow.acknowledged.put(body, result.getMessageQueue().getBrokerName());
                    }
                    Thread.sleep(5);
                } catch (InterruptedException e) {
                    return;
                } catch (Exception e) {
                    // Not acknowledged, so not promised: the next one is tried.
                }
            }
        });
        thread.start();
        return thread;
    }
}
