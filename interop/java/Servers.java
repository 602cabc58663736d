import java.util.*;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.message.*;

/** Our servers and Java's next to each other, and one store under both. */
final class Servers {
    static void scenarios(Map<String, Kit.Scenario> into) {
        into.put("name-servers", Servers::nameServers);
        into.put("store-exchange", Servers::storeExchange);
        into.put("embedded-exchange", Servers::embeddedExchange);
        into.put("inspect-repair", Servers::inspectRepair);
        into.put("recovered-gap", Servers::recoveredGap);
    }

    /**
     * A program with the store inside and a broker take turns with it: each consumes what the other took.
     * -Dfirst is the broker's node, -Dembedded the program, -Dstore the folder.
     */
    private static void embeddedExchange(Kit outer) throws Exception {
        String topic = outer.name("topic"), group = outer.name("group");
        List<String> ids = embedded("write", topic, "embedded", 100);
        Kit.node(System.getProperty("first"), "start");
        List<String> sent;
        try (Kit kit = new Kit(outer.scenario)) {
            kit.brokers();
            Kit.eventually(30, "the topic", () -> kit.admin().examineTopicStats(topic));
            Kit.Inbox inbox = new Kit.Inbox();
            var consumer = kit.start(kit.push(group, topic, "even", inbox));
            List<String> bodies = new ArrayList<>();
            for (int n = 0; n < 100; n++) bodies.add("embedded" + n);
            inbox.expect(40, bodies);
            DefaultMQProducer producer = kit.producer();
            Kit.await(10, "index", () -> producer.queryMessage(topic, "embedded7", 10, 0, Long.MAX_VALUE).getMessageList().size() == 1);
            Kit.equal(ids.get(7), producer.queryMessage(topic, "embedded7", 10, 0, Long.MAX_VALUE).getMessageList().get(0).getMsgId(), "id");
            sent = kit.send(producer, topic, "t", "java", 60);
            Message large = Kit.message(topic, "t", "large", "z".repeat(100_000)); // the client compresses it
            Kit.equal(SendStatus.SEND_OK, producer.send(large).getSendStatus(), "status");
            Kit.await(30, "end of the lag", () -> {
                Kit.commit(consumer);
                return kit.admin().examineConsumeStats(group, topic).computeTotalDiff() == 0;
            });
        }
        Kit.node(System.getProperty("first"), "stop");
        List<String> expected = new ArrayList<>(sent);
        expected.add("z".repeat(100_000));
        for (int n = 0; n < 100; n++) expected.add("embedded" + n);
        Kit.sameSet(expected, embedded("consume", topic, group + "_new", expected.size()), "consumed by the program");
    }

    private static List<String> embedded(String what, String topic, String name, int count) throws Exception {
        Process program = new ProcessBuilder(System.getProperty("embedded"), System.getProperty("store"), what, topic, name, "" + count)
            .redirectError(ProcessBuilder.Redirect.INHERIT).start();
        List<String> lines = new String(program.getInputStream().readAllBytes(), java.nio.charset.StandardCharsets.UTF_8).lines().collect(Collectors.toList());
        Kit.equal(0, program.waitFor(), "exit code of the program");
        return lines;
    }

    /** Each "address=brokers" of -Dservers is a name server with as many brokers, of whatever make. */
    private static void nameServers(Kit outer) throws Exception {
        for (String server : System.getProperty("servers").split(",")) {
            String address = server.split("=")[0];
            int brokers = Integer.parseInt(server.split("=")[1]);
            try (Kit kit = new Kit(outer.scenario, address)) {
                Kit.await(60, brokers + " brokers at " + address, () -> kit.brokers().size() == brokers);
                for (String fresh : kit.brokers().values()) { // with an empty store
                    Kit.check(kit.admin().fetchBrokerRuntimeStats(fresh).getTable().containsKey("bootTimestamp"), "runtime info of %s", fresh);
                }
                String topic = kit.topic(kit.name("topic" + address.split(":")[1]), 3), group = kit.name("group");
                Kit.Inbox inbox = new Kit.Inbox();
                var consumer = kit.start(kit.push(group, topic, "*", inbox));
                Kit.balanced(topic, 3 * brokers, consumer);
                DefaultMQProducer producer = kit.producer();
                List<String> bodies = kit.send(producer, topic, "t", "m", 60 * brokers);
                inbox.expect(30, bodies);
                Map<String, Long> byBroker = kit.everything(topic).stream().collect(Collectors.groupingBy(
                    m -> m.getStoreHost().toString().substring(1), TreeMap::new, Collectors.counting()));
                Kit.equal(kit.brokers().values().stream().collect(Collectors.toMap(a -> a, a -> 60L, Long::sum, TreeMap::new)), byBroker, "messages by broker");
                Kit.await(10, "index", () -> producer.queryMessage(topic, "m7", 10, 0, Long.MAX_VALUE).getMessageList().size() == 1);
                Kit.commit(consumer);
                Kit.await(30, "no lag", () -> kit.admin().examineConsumeStats(group).computeTotalDiff() == 0);
                Kit.equal(1, kit.admin().examineConsumerConnectionInfo(group).getConnectionSet().size(), "members");
            }
        }
    }

    /**
     * Two brokers take turns with one store: each finds what the other left, whole and in place, and goes on with it.
     * -Dfirst and -Dsecond are their nodes; they share store, port and name.
     */
    private static void storeExchange(Kit outer) throws Exception {
        String topic = outer.name("topic"), group = outer.name("group");
        String first = System.getProperty("first"), second = System.getProperty("second");
        Ledger ledger = new Ledger(topic, group);
        Kit.node(first, "start");
        ledger.turn(outer, "first", "first opens an empty store", true, false);
        Kit.node(first, "stop");
        Kit.node(second, "start");
        ledger.turn(outer, "second", "second after a clean stop of first", false, false);
        Kit.node(second, "stop");
        Kit.node(first, "start");
        ledger.turn(outer, "firstagain", "first after a clean stop of second", false, false);
        Kit.node(first, "kill");
        Kit.node(second, "start");
        ledger.turn(outer, "secondagain", "second after first was killed", false, true);
        Kit.node(second, "kill");
        Kit.node(first, "start");
        ledger.turn(outer, "last", "first after second was killed", false, true);
        Kit.node(first, "stop");
    }

    /**
     * A store of Java's broker is damaged in many places and repaired: both brokers serve every message that is intact, in
     * its place, and go on. -Dfirst and -Dsecond are nodes of ours and of Java's, which share -Dstore; -Dinspect is the tool.
     */
    private static void inspectRepair(Kit outer) throws Exception {
        String topic = outer.name("topic"), ours = System.getProperty("first"), java = System.getProperty("second");
        List<SendResult> sent = new ArrayList<>();
        Set<String> intact = new TreeSet<>();
        Kit.node(java, "start");
        try (Kit kit = new Kit(outer.scenario)) {
            kit.brokers();
            kit.topic(topic, 4);
            Kit.eventually(30, "the topic", () -> kit.admin().examineTopicStats(topic));
            DefaultMQProducer producer = kit.producer();
            for (int i = 0; i < 5000; i++) {
                sent.add(producer.send(Kit.message(topic, "t", "k" + i, i + " " + "z".repeat(3400))));
            }
            kit.everything(topic);
        }
        Kit.node(java, "stop");
        Set<Integer> lost = new TreeSet<>(List.of(0, 500, 1000, 1001, 1500, 1501, 1502, 2000, 2004, 4900));
        damage(sent.get(0), 20, new byte[] {1, 2, 3}); // the queue offset
        damage(sent.get(500), 1000, new byte[] {7}); // in the body
        damage(sent.get(1000), 4, new byte[] {0}); // the magic number
        damage(sent.get(1001), 0, new byte[] {0x7f}); // the size
        damage(sent.get(1500), 2, new byte[9_000]); // over into the third
        damage(sent.get(2000), 300, new byte[] {7});
        damage(sent.get(2004), 86, new byte[] {0x7f, 0x7f}); // the body's length
        damage(sent.get(4900), 4, new byte[] {1}); // in the second file
        for (int i = 0; i < sent.size(); i++) {
            if (!lost.contains(i)) {
                intact.add(sent.get(i).getMessageQueue().getQueueId() + ":" + sent.get(i).getQueueOffset() + " " + i);
            }
        }
        Kit.equal(1, inspect("verify"), "exit code of verify");
        Kit.equal(1, inspect("repair", "--dry-run"), "exit code of repair --dry-run");
        Kit.equal(0, inspect("repair"), "exit code of repair");
        int more = 0;
        for (String node : List.of(java, ours, java)) {
            Kit.node(node, "start");
            try (Kit kit = new Kit(outer.scenario)) {
                kit.brokers();
                Kit.eventually(30, "the topic", () -> kit.admin().examineTopicStats(topic));
                Kit.sameSet(intact, pulled(kit, topic), "served by " + node);
                DefaultMQProducer producer = kit.producer();
                for (int i : new int[] {1, 499, 501, 1503, 2005, 4901, 4999}) {
                    Kit.eventually(10, "message by key k" + i, () -> producer.queryMessage(topic, "k" + i, 10, 0, Long.MAX_VALUE).getMessageList());
                }
                for (int i = 0; i < 40; i++, more++) {
                    SendResult result = producer.send(Kit.message(topic, "t", "more" + more, "more" + more + " "));
                    intact.add(result.getMessageQueue().getQueueId() + ":" + result.getQueueOffset() + " more" + more);
                }
                Kit.sameSet(intact, pulled(kit, topic), "served by " + node + " with new ones");
            }
            Kit.node(node, "stop");
            Kit.equal(0, inspect("verify"), "exit code of verify behind " + node);
        }
    }

    /**
     * Messages in the log's first file are lost, and the queues; ours makes them anew. A Java broker, whose own recovery
     * begins behind that file, serves what is left of it.
     */
    private static void recoveredGap(Kit outer) throws Exception {
        String topic = outer.name("topic"), ours = System.getProperty("first"), theirs = System.getProperty("second");
        List<SendResult> sent = new ArrayList<>();
        Set<String> intact = new TreeSet<>();
        Kit.node(ours, "start");
        try (Kit kit = new Kit(outer.scenario)) {
            kit.brokers();
            kit.topic(topic, 4);
            Kit.eventually(30, "the topic", () -> kit.admin().examineTopicStats(topic));
            DefaultMQProducer producer = kit.producer();
            for (int i = 0; i < 15_000; i++) { // into the fourth file
                sent.add(producer.send(Kit.message(topic, "t", "k" + i, i + " " + "z".repeat(3400))));
            }
        }
        Kit.node(ours, "stop");
        Set<Integer> lost = new TreeSet<>(List.of(0, 500, 1000, 1004));
        for (int i : lost) {
            damage(sent.get(i), 4, new byte[] {0}); // the magic number
        }
        for (int i = 0; i < sent.size(); i++) {
            if (!lost.contains(i)) {
                intact.add(sent.get(i).getMessageQueue().getQueueId() + ":" + sent.get(i).getQueueOffset() + " " + i);
            }
        }
        java.nio.file.Path store = java.nio.file.Path.of(System.getProperty("store"));
        java.nio.file.Files.move(store.resolve("consumequeue"), store.resolve("lost"));
        for (String node : List.of(ours, theirs, ours)) {
            Kit.node(node, "start");
            try (Kit kit = new Kit(outer.scenario)) {
                kit.brokers();
                Kit.eventually(30, "the topic", () -> kit.admin().examineTopicStats(topic));
                Kit.sameSet(intact, pulled(kit, topic), "served by " + node);
            }
            Kit.node(node, "stop");
        }
    }

    /** Overwrites some bytes of a message in the log. */
    private static void damage(SendResult sent, int at, byte[] with) throws Exception {
        long position = Long.parseLong(sent.getOffsetMsgId().substring(16), 16), length = 16_777_216, place = position % length;
        try (var file = new java.io.RandomAccessFile(String.format("%s/commitlog/%020d", System.getProperty("store"), position - place), "rw")) {
            file.seek(place + at);
            file.write(with);
        }
    }

    private static int inspect(String... arguments) throws Exception {
        List<String> command = new ArrayList<>(List.of(System.getProperty("inspect"), System.getProperty("store")));
        command.addAll(List.of(arguments));
        java.io.File log = new java.io.File(System.getProperty("store") + "-inspect.log");
        return new ProcessBuilder(command).redirectErrorStream(true)
            .redirectOutput(ProcessBuilder.Redirect.appendTo(log)).start().waitFor();
    }

    /** "queue:offset number" of all that a topic gives. */
    private static Set<String> pulled(Kit kit, String topic) throws Exception {
        Set<String> all = new TreeSet<>();
        var consumer = kit.pull(kit.name("reader") + System.nanoTime());
        for (MessageQueue queue : Kit.eventually(20, "queues of " + topic, () -> consumer.fetchSubscribeMessageQueues(topic))) {
            long next = consumer.minOffset(queue), end = consumer.maxOffset(queue);
            while (next < end) {
                var result = consumer.pull(queue, "*", next, 32);
                for (MessageExt m : result.getMsgFoundList() == null ? List.<MessageExt>of() : result.getMsgFoundList()) {
                    Kit.equal(topic, m.getTopic(), "topic");
                    all.add(m.getQueueId() + ":" + m.getQueueOffset() + " " + Kit.text(m).split(" ")[0]);
                }
                Kit.check(result.getNextBeginOffset() > next, "%s at %s: %s", queue, next, result);
                next = result.getNextBeginOffset();
            }
        }
        return all;
    }

    /** 4.5.2 does not save, as it stops, which delayed messages it delivered in the last 10 s. */
    private static final boolean FORGETFUL = Boolean.getBoolean("forgetful");

    private static final class Ledger {
        final String topic, group;
        /** "queue:offset id body" of everything acknowledged so far. */
        final List<String> places = new ArrayList<>();
        final List<String> keys = new ArrayList<>(), ids = new ArrayList<>();
        /** Delayed ones: sent to one broker, due at the next. */
        final List<String> pending = new ArrayList<>();

        Ledger(String topic, String group) {
            this.topic = topic;
            this.group = group;
        }

        void turn(Kit outer, String prefix, String label, boolean create, boolean killed) throws Exception {
            try (Kit kit = new Kit(outer.scenario)) {
                kit.brokers();
                if (create) {
                    kit.topic(topic, 4);
                    Versioned.createGroup(kit.admin(), kit.broker(), group + "_settings", 9);
                }
                Kit.eventually(30, "the topic", () -> kit.admin().examineTopicStats(topic));
                Set<String> forgotten = killed || FORGETFUL ? recent : Set.of();
                if (!create) {
                    verify(kit, forgotten);
                }
                if (!killed) { // what one broker forgot as it was killed, the next may forget again
                    recent = new HashSet<>();
                }
                consume(kit, forgotten); // what was pending, and nothing that was consumed before the change
                write(kit, prefix);
                verify(kit, forgotten);
                consume(kit, forgotten);
                Message late = Kit.message(topic, "late", "late" + prefix, "late" + prefix);
                late.setDelayTimeLevel(2);
                Kit.equal(SendStatus.SEND_OK, kit.producer().send(late).getSendStatus(), "status");
                pending.add("late" + prefix);
            } catch (Throwable t) {
                throw new AssertionError(label + ": " + t.getMessage(), t);
            }
        }

        private final Set<String> consumed = new HashSet<>();
        /** Consumed in the last turn: a killed broker may have forgotten so, as it keeps offsets every few seconds. */
        private Set<String> recent = new HashSet<>();

        void consume(Kit kit, Set<String> again) throws Exception {
            List<String> expected = places.stream().map(p -> p.split(" ", 3)[2]).filter(b -> !consumed.contains(b)).collect(Collectors.toList());
            Kit.Inbox inbox = new Kit.Inbox();
            var consumer = kit.start(kit.push(group, topic, "*", inbox));
            inbox.waitFor(40, () -> inbox.texts().containsAll(expected), expected);
            Thread.sleep(300);
            Kit.sameSet(expected, inbox.texts().stream().filter(t -> !again.contains(t)).collect(Collectors.toList()), "delivered");
            consumed.addAll(expected);
            recent.addAll(expected);
            Kit.await(30, "end of the lag", () -> {
                Kit.commit(consumer);
                return kit.admin().examineConsumeStats(group, topic).computeTotalDiff() == 0;
            });
            consumer.shutdown();
        }

        void write(Kit kit, String prefix) throws Exception {
            DefaultMQProducer producer = kit.producer();
            for (int i = 0; i < 300; i++) {
                String body = prefix + i + (i % 50 == 0 ? "y".repeat(10_000) : "");
                Message message = Kit.message(topic, "tag" + i % 3, prefix + i, body);
                message.putUserProperty("p", "v" + i);
                enter(producer.send(message), 0, prefix + i, body);
            }
            List<Message> batch = new ArrayList<>();
            for (int i = 0; i < 10; i++) {
                batch.add(Kit.message(topic, "batch", prefix + "b" + i, prefix + "b" + i));
            }
            SendResult result = producer.send(batch);
            for (int i = 0; i < 10; i++) {
                enter(result, i, prefix + "b" + i, prefix + "b" + i);
            }
        }

        void enter(SendResult result, int nth, String key, String body) {
            Kit.equal(SendStatus.SEND_OK, result.getSendStatus(), "status");
            places.add(result.getMessageQueue().getQueueId() + ":" + (result.getQueueOffset() + nth) + " " + result.getMsgId().split(",")[nth] + " " + body);
            keys.add(key);
            ids.add(result.getOffsetMsgId().split(",")[nth]);
        }

        void verify(Kit kit, Set<String> forgotten) throws Exception {
            // Delayed ones get their place when they come.
            Kit.await(30, "delayed messages " + pending, () ->
                kit.admin().examineTopicStats(topic).getOffsetTable().values().stream().mapToLong(o -> o.getMaxOffset()).sum() >= places.size() + pending.size());
            List<String> stored = new ArrayList<>();
            for (MessageExt m : kit.everything(topic)) {
                String place = m.getQueueId() + ":" + m.getQueueOffset() + " " + m.getMsgId() + " " + Kit.text(m);
                // A killed broker may also have forgotten, for 10 s, that it has delivered a delayed message.
                boolean twice = Kit.text(m).startsWith("late") && (FORGETFUL || forgotten.contains(Kit.text(m))) && !places.contains(place);
                if (pending.remove(Kit.text(m)) || twice) {
                    places.add(place);
                    keys.add(Kit.text(m));
                    ids.add(((MessageClientExt) m).getOffsetMsgId());
                }
                stored.add(place);
            }
            Kit.sameSet(places, stored, "stored");
            DefaultMQProducer reader = kit.producer();
            for (int i = 0; i < places.size(); i++) {
                String key = keys.get(i), body = places.get(i).split(" ", 3)[2];
                List<MessageExt> found = Kit.eventually(10, "message by key " + key, () -> reader.queryMessage(topic, key, 10, 0, Long.MAX_VALUE).getMessageList());
                // The index knows a delayed message twice: as it waited, and as it came.
                found = found.stream().filter(m -> m.getTopic().equals(topic)).collect(Collectors.toList());
                String all = key;
                Kit.equal(keys.stream().filter(k -> k.equals(all)).count(), found.size(), "messages with key " + key);
                Kit.equal(body, Kit.text(found.get(0)), "body by key " + key);
                if (i % 25 == 0) {
                    Kit.equal(body, Kit.text(reader.viewMessage(topic, ids.get(i))), "body by offset id");
                }
            }
            Kit.equal(9, kit.admin().getAllSubscriptionGroup(kit.broker(), 5000).getSubscriptionGroupTable().get(group + "_settings").getRetryMaxTimes(), "settings of a group");
        }
    }
}
