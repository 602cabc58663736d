import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.locks.LockSupport;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/**
 * MqadminCompare LABEL FOLDER NAMESERVER JAVA_NAMESERVER: every command of rocketmq-tools, in one JVM, which must then end
 * by itself. Each runs against both clusters, which must both serve it or both refuse it, and
 * print the same but for numbers, times, ids and addresses. FOLDER/table then has a line for each. mqadmin ends with
 * code 0 whatever was refused; a command that ends the JVM itself, with another code, fails the scenario.
 */
public final class MqadminCompare {
    private static final PrintStream OUT = System.out;
    /** Controller, container, static topics, cold data; and those that read files of a broker by themselves. */
    private static final Set<String> OTHER_FAMILIES = Set.of(
        "addBroker", "removeBroker", "getSyncStateSet", "getControllerMetaData", "getControllerConfig", "updateControllerConfig",
        "electMaster", "cleanBrokerMetadata", "updateStaticTopic", "remappingStaticTopic", "getColdDataFlowCtrInfo",
        "updateColdDataFlowCtrGroupConfig", "removeColdDataFlowCtrGroupConfig", "setCommitLogReadAheadMode",
        "dumpCompactionLog", "exportMetadataInRocksDB");
    /** Commands that never end by themselves. */
    private static final Set<String> ENDLESS = Set.of("clusterRT", "startMonitoring");
    /** What is printed is a list of what the broker has of its own: only that it is printed is compared. */
    private static final Map<String, String> OWN = Map.of(
        "brokerStatus", "its own counters", "getBrokerConfig", "its own settings", "getNamesrvConfig", "its own settings",
        "topicList", "its own system topics", "consumerProgress -n NS", "its own system groups",
        "consumerStatus", "thread stacks");
    private static final String EMPTY_QUEUES = "of an empty queue without an offset 5.x says that it has none, ours and 4.9 say 0, which is then committed";
    /** Answered in another way than Java's; by all versions, or by the one in front. */
    private static final Map<String, String> ON_PURPOSE = Map.of(
        "updateTopic -n NS -b ADDR -t bad$topic", "the refusal has the code of 5.x",
        "queryCq -n NS -t TOPIC -q 0 -i 0 -c 5 -b ADDR", "eval tells whether the group wants the message",
        "queryCq -n NS -t TOPIC -q 0 -i 0 -c 5 -b ADDR -g GROUP", "eval tells whether the group wants the message",
        "updateBrokerConfig -n NS -b ADDR -k fileReservedTime -v abc", "a value that cannot be is refused",
        "updateBrokerConfig -n NS -b ADDR -k brokerConfigPath -v /nowhere", "where its file is, the network does not say",
        "5.5.0 consumerProgress -n NS -g GROUP", EMPTY_QUEUES, "5.5.0 consumerProgress -n NS -g GROUP -s true", EMPTY_QUEUES,
        "4.5.2 cleanUnusedTopic -n NS", "this version asks the name server: ours refuses at once, Java's is silent");
    private static final Map<String, String> ON_PURPOSE_BY_NAME = new HashMap<>(Map.of(
        "getAclConfig", "without access control ours refuses, Java's is silent",
        "clusterAclConfigVersion", "without access control ours refuses, Java's is silent",
        "checkRocksdbCqWriteProgress", "there is no RocksDB: ours refuses, Java's says that it checks",
        "getBrokerLiteInfo", "light topics of 5.5 are refused, as by 4.9"));

    static {
        for (String name : List.of("createUser", "updateUser", "deleteUser", "getUser", "listUser", "copyUser",
                "createAcl", "updateAcl", "deleteAcl", "getAcl", "listAcl", "copyAcl")) {
            ON_PURPOSE_BY_NAME.put(name, "accounts of 5.x: ours has no such request (3), Java's no store of them unless set up (1)");
        }
    }

    /** What a failure prints, and no property or column of that name: the stack of an exception, or its first line. */
    private static final Pattern EXCEPTION = Pattern.compile("(?m)^(Caused by: )?[\\w.$]+Exception(: .*)?$");

    private static String label, version, folder;
    private static volatile boolean finished;
    private static boolean good = true;
    private static final List<Side> sides = new ArrayList<>();
    private static final List<String> table = new ArrayList<>();
    private static Set<String> commands;

    /** A cluster, and clients of it. */
    private static final class Side {
        final String nameServer;
        final Map<String, String> words = new LinkedHashMap<>();
        Kit kit;
        DefaultMQProducer producer;
        DefaultMQPushConsumer consumer;

        Side(String nameServer) {
            this.nameServer = nameServer;
        }

        void connect() throws Exception {
            kit = new Kit("mqadmin", nameServer);
            Map<String, String> brokers = kit.brokers();
            words.put("NS", nameServer);
            words.put("BROKER", brokers.keySet().iterator().next());
            String address = brokers.values().iterator().next();
            words.put("ADDR", address);
            // Java's broker samples its store from a second after its start on, and without a sample it answers nothing.
            Kit.eventually(30, "statistics", () -> kit.admin().fetchBrokerRuntimeStats(address));
            words.put("CLUSTER", kit.admin().examineBrokerClusterInfo().getClusterAddrTable().keySet().iterator().next());
        }

        MessageQueue queue(int id) {
            return new MessageQueue(words.get("TOPIC"), words.get("BROKER"), id);
        }

        String fill(String line) {
            for (Map.Entry<String, String> word : words.entrySet()) {
                line = line.replaceAll("(?<![A-Z_])" + word.getKey() + "(?![A-Z])", word.getValue());
            }
            return line;
        }
    }

    private static final class Result {
        String output = "";
        boolean refused;
        double seconds;
        boolean endless;

        /** What is left when all that differs between two clusters is taken away: the distinct lines, sorted. */
        List<String> shape() {
            if (refused) {
                var codes = Pattern.compile("CODE: \\d+").matcher(output);
                return codes.results().map(m -> m.group()).distinct().sorted().collect(Collectors.toList());
            }
            return output.lines()
                // Brokers differ in whether they store what matters to the answer only.
                .map(l -> l.replaceAll("(?<=[{ ])(MSG_REGION=DefaultRegion|TRACE_ON=true|WAIT=true)(, |(?=}))", "").replace(", }", "}").replaceAll("^\\d\\d:\\d\\d:\\d\\d.*(RocketmqClient|DEBUG|WARN ).*", "")
                    .replaceAll("^\\s+at .*|^\\s*\\.\\.\\. \\d+ (more|common frames omitted)", "")
                    .replaceAll("\\d{4}-\\d\\d-\\d\\d[ #T,]\\d\\d:\\d\\d:\\d\\d([:.,]\\d+)?", "TIME")
                    .replaceAll("\\b\\d{17}\\b", "TIME")
                    .replaceAll("\\b[0-9A-F]{32,}\\b", "ID")
                    .replaceAll("(\\d+\\.){3}\\d+(@[\\w#-]+|:\\d+)?", "HOST")
                    .replaceAll("V\\d_\\d_\\d+(_SNAPSHOT)?", "VERSION")
                    .replaceAll("(?<![\\w.])-?\\d+(\\.\\d+)?(E-?\\d+)?(ms)?(?![\\w])", "N")
                    .replaceAll("\\s+", " ").trim())
                .filter(l -> !l.isEmpty()).distinct().sorted().collect(Collectors.toList());
        }

        String summary() {
            if (!refused) {
                return endless ? "runs on" : "done, " + output.lines().count() + " lines";
            }
            String why = EXCEPTION.matcher(output).results().map(m -> m.group()).reduce((a, b) -> b).orElse("").replaceAll("\\s+", " ");
            return "refused: " + why.substring(0, Math.min(90, why.length()));
        }
    }

    public static void main(String[] args) {
        label = args[0];
        version = label.substring(label.lastIndexOf('-') + 1);
        folder = args[1];
        long start = System.nanoTime();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            if (!finished) {
                OUT.println("FAIL " + label + " 0.0\n     a command ended the JVM");
                Runtime.getRuntime().halt(1);
            }
        }));
        wake();
        try {
            all(args);
            Files.write(Paths.get(folder, "table"), table);
        } catch (Throwable t) {
            t.printStackTrace();
            fail(t.toString());
        }
        OUT.printf("%-5s%s %.1f%n", good ? "ok" : "FAIL", label, (System.nanoTime() - start) / 1e9);
        finished = true;
        // A command that left a client behind would keep the JVM alive. Monitoring is meant to.
        if (!good || commands.contains("startMonitoring")) {
            System.exit(good ? 0 : 1);
        }
    }

    /** A 5.x client that is shut down waits for its event thread, which may sleep for 3 s: it is woken. */
    private static void wake() {
        Thread waker = new Thread(() -> {
            Thread[] threads = new Thread[1000];
            while (!finished) {
                int count = Thread.enumerate(threads);
                for (int i = 0; i < count; i++) {
                    if (threads[i].getName().endsWith("NettyEventExecutor")) {
                        threads[i].interrupt();
                    }
                }
                LockSupport.parkNanos(50_000_000);
            }
        });
        waker.setDaemon(true);
        waker.start();
    }

    private static void all(String[] args) throws Exception {
        for (int i = 2; i < args.length; i++) {
            sides.add(new Side(args[i]));
        }
        commands = capture(new String[0], 20).output.lines().filter(l -> l.startsWith("   ")).map(l -> l.trim().split(" ")[0])
            .collect(Collectors.toCollection(TreeSet::new));
        commands.removeAll(OTHER_FAMILIES);
        Set<String> todo = new TreeSet<>(commands);
        String run = Long.toString(System.currentTimeMillis(), 36);
        for (Side side : sides) {
            side.connect();
            side.words.put("TOPIC", "mqadmin_topic_" + run);
            side.words.put("GROUP", "mqadmin_group_" + run);
            side.words.put("RUN", run);
            side.words.put("FOLDER", Files.createDirectories(Paths.get(folder, "side" + sides.indexOf(side))).toString());
        }
        setUp(run);
        lookAt();
        change();
        notThere();
        for (Side side : sides) {
            side.kit.close();
        }
        withoutClients();
        todo.removeAll(done);
        if (!todo.isEmpty()) {
            fail("commands that nothing here runs: " + todo);
        }
    }

    /** Topics and groups, by the commands; then messages, a consumer that has them all, and a producer. */
    private static void setUp(String run) throws Exception {
        for (Side side : sides) {
            String folder = side.words.get("FOLDER");
            Files.writeString(Paths.get(folder, "topics"), side.fill(
                "[{\"topicName\":\"TOPIC_l1\",\"readQueueNums\":2,\"writeQueueNums\":2,\"perm\":6},{\"topicName\":\"TOPIC_l2\",\"readQueueNums\":1,\"writeQueueNums\":1,\"perm\":6}]")
                .replace("TOPIC", side.words.get("TOPIC")));
            Files.writeString(Paths.get(folder, "groups"), "[{\"groupName\":\"" + side.words.get("GROUP") + "_l1\"},{\"groupName\":\"" + side.words.get("GROUP") + "_l2\"}]");
        }
        run("clusterList -n NS", "CLUSTER", "BROKER", "ADDR", "V");
        run("clusterList -n NS -m", "CLUSTER", "BROKER");
        run("updateTopic -n NS -b ADDR -t TOPIC -r 3 -w 3", "success", "TOPIC", "writeQueueNums=3");
        run("updateTopic -n NS -c CLUSTER -t TOPIC_2 -r 2 -w 2 -p 6 -o true", "success");
        run("updateTopic -n NS -b ADDR -t bad$topic");
        run("updateTopicPerm -n NS -b ADDR -t TOPIC_2 -p 4", "success");
        run("updateTopicPerm -n NS -c CLUSTER -t TOPIC_2 -p 6", "success");
        run("updateTopicPerm -n NS -b ADDR -t nowhere_RUN -p 6");
        run("updateTopicList -n NS -b ADDR -f FOLDER/topics", "success");
        run("updateSubGroupList -n NS -b ADDR -f FOLDER/groups", "success");
        run("updateSubGroup -n NS -b ADDR -g GROUP -r 4", "success", "GROUP", "retryMaxTimes=4");
        run("updateSubGroup -n NS -c CLUSTER -g GROUP_2 -s true -m false -d false -q 2", "success");
        run("getConsumerConfig -n NS -g GROUP", "BROKER", "retryMaxTimes += +4");
        run("getConsumerConfig -n NS -g nobody_RUN");
        run("topicRoute -n NS -t TOPIC", "\"brokerName\": ?\"BROKER\"", "ADDR", "readQueueNums");
        run("topicRoute -n NS -t nowhere_RUN");
        run("topicStatus -n NS -t TOPIC_2");
        run("topicStatus -n NS -t nowhere_RUN");
        run("topicList -n NS", "TOPIC");
        run("topicList -n NS -c", "TOPIC", "CLUSTER");
        run("topicClusterList -n NS -t TOPIC", "CLUSTER");
        run("topicClusterList -n NS -t nowhere_RUN");
        run("updateOrderConf -n NS -m put -t TOPIC_2 -v BROKER:2");
        run("updateOrderConf -n NS -m get -t TOPIC_2", "BROKER:2");
        run("updateOrderConf -n NS -m delete -t TOPIC_2");
        run("updateOrderConf -n NS -m get -t TOPIC_2");
        run("allocateMQ -n NS -t TOPIC -i 10.0.0.1,10.0.0.2", "10.0.0.2");

        for (Side side : sides) {
            String topic = side.words.get("TOPIC"), group = side.words.get("GROUP");
            side.producer = side.kit.producer();
            side.words.put("PRODUCERS", side.producer.getProducerGroup());
            // The same in the same queue on each side.
            for (int i = 0; i < 30; i++) {
                side.producer.send(Kit.message(topic, "t", "m" + i, "m" + i), side.queue(i % 3));
            }
            SendResult sent = side.producer.send(Kit.message(topic, "tag", "mqkey" + run, "find me"), side.queue(0));
            side.words.put("MSGID", sent.getMsgId());
            side.words.put("OFFSETID", sent.getOffsetMsgId());
            Kit.Inbox inbox = new Kit.Inbox();
            side.consumer = side.kit.start(side.kit.push(group, topic, "*", inbox));
            side.words.put("CLIENT", side.consumer.getDefaultMQPushConsumerImpl().getmQClientFactory().getClientId());
            Kit.await(30, "31 deliveries", () -> inbox.got.size() == 31);
            Thread.sleep(100); // the last one counts as consumed when its listener has returned
            Kit.await(30, "the retry queue", () -> side.consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable()
                .keySet().stream().anyMatch(q -> q.getTopic().startsWith("%RETRY%")));
            Kit.commit(side.consumer);
            Kit.await(30, "committed offsets", () -> side.kit.admin().examineConsumeStats(group).computeTotalDiff() == 0);
            Kit.await(10, "index", () -> side.producer.queryMessage(topic, "mqkey" + run, 9, 0, Long.MAX_VALUE).getMessageList().size() == 1);
            Kit.await(10, "the producer's heartbeat", () ->
                side.kit.admin().examineProducerConnectionInfo(side.producer.getProducerGroup(), topic).getConnectionSet().size() == 1);
        }
    }

    private static void lookAt() throws Exception {
        run("topicStatus -n NS -t TOPIC", "BROKER", "Max Offset", "0 +0 +1[01] ", "2 +0 +1[01] ");
        run("consumerProgress -n NS -g GROUP", "TOPIC", "BROKER", "Diff Total: 0", "0 +1[01] +1[01] +(N/A +)?0 ", "2 +1[01] +1[01] +(N/A +)?0 ");
        run("consumerProgress -n NS -g GROUP -s true", "TOPIC");
        run("consumerProgress -n NS", "GROUP", "CLUSTERING");
        run("consumerProgress -n NS -g nobody_RUN");
        run("consumerConnection -n NS -g GROUP", "CLUSTERING", "CONSUME_FROM_FIRST_OFFSET", "TOPIC", "JAVA");
        run("consumerConnection -n NS -g nobody_RUN");
        run("consumerStatus -n NS -g GROUP", "V", "2|1");
        run("consumerStatus -n NS -g GROUP -i CLIENT -s", "Consumer Subscription#");
        run("consumerStatus -n NS -g nobody_RUN");
        run("producerConnection -n NS -g PRODUCERS -t TOPIC", "JAVA");
        run("producerConnection -n NS -g nobody_RUN -t TOPIC");
        run("producer -b ADDR", "PRODUCERS");
        run("brokerStatus -n NS -b ADDR", "brokerVersionDesc", "msgPutTotalTodayNow", "commitLogMaxOffset", "bootTimestamp");
        run("brokerStatus -n NS -c CLUSTER", "runtime");
        run("brokerConsumeStats -n NS -b ADDR", "GROUP", "TOPIC", "Diff Total");
        run("brokerConsumeStats -n NS -b ADDR -o true -t 5000", "Diff Total");
        run("queryMsgById -n NS -t TOPIC -i OFFSETID".replace(commands.contains("haStatus") ? "\0" : " -t TOPIC", ""), "TOPIC", "mqkeyRUN");
        run("queryMsgById -n NS -t TOPIC -i OFFSETID -g GROUP -d CLIENT".replace(commands.contains("haStatus") ? "\0" : " -t TOPIC", ""));
        run("queryMsgByKey -n NS -t TOPIC -k mqkeyRUN", "MSGID");
        run("queryMsgByKey -n NS -t TOPIC -k nothing_RUN");
        run("queryMsgByUniqueKey -n NS -t TOPIC -i MSGID", "TOPIC", "tag", "mqkeyRUN");
        run("queryMsgByUniqueKey -n NS -t TOPIC -i MSGID -g GROUP -d CLIENT");
        run("queryMsgByOffset -n NS -t TOPIC -b BROKER -i 0 -o 3", "TOPIC", "Queue ID:", "Queue Offset:");
        run("queryMsgByOffset -n NS -t TOPIC -b BROKER -i 0 -o 3000");
        run("printMsg -n NS -t TOPIC", "mqkeyRUN", "find me");
        run("printMsg -n NS -t TOPIC -d true -s tag", "find me");
        run("printMsgByQueue -n NS -t TOPIC -a BROKER -i 0 -p true -d true");
        run("printMsgByQueue -n NS -t TOPIC -a BROKER -i 0 -f true");
        run("consumeMessage -n NS -t TOPIC", "find me");
        run("consumeMessage -n NS -t TOPIC -b BROKER -i 1 -o 2 -c 3 -g GROUP_c");
        run("queryCq -n NS -t TOPIC -q 0 -i 0 -c 5 -b ADDR");
        run("queryCq -n NS -t TOPIC -q 0 -i 0 -c 5 -b ADDR -g GROUP");
        run("queryCq -n NS -t TOPIC -q 0 -i 70000 -b ADDR");
        run("statsAll -n NS -t TOPIC", "TOPIC", "GROUP");
        run("statsAll -n NS -a -t TOPIC");
        run("getBrokerConfig -n NS -b ADDR", "brokerName", "flushDiskType");
        run("getBrokerConfig -n NS -c CLUSTER", "brokerName", "flushDiskType");
        run("getNamesrvConfig -n NS", "listenPort|kvConfigPath");
        run("exportConfigs -n NS -c CLUSTER -f FOLDER", "success");
        run("exportMetadata -n NS -c CLUSTER -f FOLDER", "success");
        run("exportMetadata -n NS -b ADDR -f FOLDER -t", "success");
        run("exportMetadata -n NS -b ADDR -f FOLDER -g -s", "success");
        run("exportMetrics -n NS -c CLUSTER -f FOLDER", "success");
        run("exportPopRecord -n NS -b ADDR -d true");
        run("haStatus -n NS -b ADDR");
        run("haStatus -n NS -c CLUSTER");
        run("getBrokerEpoch -n NS -b BROKER");
        run("getBrokerEpoch -n NS -c CLUSTER");
    }

    private static void change() throws Exception {
        run("sendMessage -n NS -t TOPIC -p hello -k k1 -c tag1", "SEND_OK");
        run("sendMessage -n NS -t TOPIC -p hello -b BROKER -i 1", "SEND_OK");
        if (commands.contains("queryMsgTraceById")) {
            Result[] sent = run("sendMessage -n NS -t TOPIC -p traced -m true", "SEND_OK");
            for (int i = 0; i < sides.size(); i++) {
                var id = Pattern.compile("\\b[0-9A-F]{32,}\\b").matcher(sent[i].output);
                Side side = sides.get(i);
                side.words.put("TRACED", id.find() ? id.group() : "none");
                Kit.await(20, "the trace", () ->
                    !side.producer.queryMessage("RMQ_SYS_TRACE_TOPIC", side.words.get("TRACED"), 9, 0, Long.MAX_VALUE).getMessageList().isEmpty());
            }
            run("queryMsgTraceById -n NS -i TRACED", "Pub", "success");
        }
        run("sendMsgStatus -n NS -b BROKER -c 3 -s 16", "SEND_OK");
        run("checkMsgSendRT -n NS -t TOPIC -a 3 -s 16", "Avg RT");
        run("clusterRT -n NS -c CLUSTER -a 2 -s 16 -i 1", "BROKER");
        run("updateBrokerConfig -n NS -b ADDR -k fileReservedTime -v 72", "success");
        run("updateBrokerConfig -n NS -c CLUSTER -k fileReservedTime -v 71", "success");
        run("updateBrokerConfig -n NS -b ADDR -k noSuchKey -v 1", "success");
        run("updateBrokerConfig -n NS -b ADDR -k fileReservedTime -v abc");
        run("updateBrokerConfig -n NS -b ADDR -k brokerConfigPath -v /nowhere");
        run("updateNamesrvConfig -n NS -k orderMessageEnable -v false", "success");
        run("updateNamesrvConfig -n NS -k noSuchKey -v 1", "success");
        run("updateNamesrvConfig -n NS -k kvConfigPath -v /nowhere");
        run("updateKvConfig -n NS -s INTEROP -k RUN -v x", "success");
        run("deleteKvConfig -n NS -s INTEROP -k RUN", "success");
        run("cloneGroupOffset -n NS -s GROUP -d GROUP_2 -t TOPIC", "clone group offset success");
        run("setConsumeMode -n NS -b ADDR -t TOPIC -g GROUP -m PULL");
        run("setConsumeMode -n NS -c CLUSTER -t TOPIC -g GROUP -m POP -q 1");
        run("setConsumeMode -n NS -b ADDR -t TOPIC -g GROUP -m PULL");
        run("wipeWritePerm -n NS -b BROKER", "OK, \\d+");
        run("addWritePerm -n NS -b BROKER", "OK, \\d+");
        run("wipeWritePerm -n NS -b nobody");
        run("cleanExpiredCQ -n NS -b ADDR", "success");
        run("cleanExpiredCQ -n NS -c CLUSTER", "success");
        run("cleanUnusedTopic -n NS -b ADDR", "success");
        run("cleanUnusedTopic -n NS");
        run("deleteExpiredCommitLog -n NS -b ADDR", "success");
        run("resetMasterFlushOffset -n NS -b ADDR -o 0");
        run("skipAccumulatedMessage -n NS -g GROUP -t TOPIC");
        run("resetOffsetByTime -n NS -g GROUP -t TOPIC -s now");
    }

    /** What these brokers are not set up for: access control, and what 5.x has with another store. */
    private static void notThere() throws Exception {
        for (String line : List.of("clusterAclConfigVersion -n NS -b ADDR", "getAclConfig -n NS -b ADDR",
                "updateAclConfig -n NS -b ADDR -a interop -s 12345678", "deleteAclConfig -n NS -b ADDR -a interop",
                "deleteAccessConfig -n NS -b ADDR -a interop", "updateGlobalWhiteAddr -n NS -b ADDR -g 10.0.0.1",
                "createUser -n NS -b ADDR -u u_RUN -p 12345678", "updateUser -n NS -b ADDR -u u_RUN -p 87654321", "getUser -n NS -b ADDR -u u_RUN",
                "listUser -n NS -b ADDR", "copyUser -n NS -f ADDR -t ADDR -u u_RUN",
                "createAcl -n NS -b ADDR -s User:u_RUN -r Topic:TOPIC -a Pub -d Allow", "updateAcl -n NS -b ADDR -s User:u_RUN -r Topic:TOPIC -a Sub -d Allow",
                "getAcl -n NS -b ADDR -s User:u_RUN", "listAcl -n NS -b ADDR", "copyAcl -n NS -f ADDR -t ADDR -s User:u_RUN",
                "deleteAcl -n NS -b ADDR -s User:u_RUN", "deleteUser -n NS -b ADDR -u u_RUN",
                "rocksDBConfigToJson -n NS -b ADDR -t topics", "checkRocksdbCqWriteProgress -n NS -c CLUSTER -t TOPIC", "switchTimerEngine -n NS -b ADDR -e ROCKSDB_TIMELINE",
                "getBrokerLiteInfo -n NS -b ADDR", "getParentTopicInfo -n NS -p TOPIC", "getLiteTopicInfo -n NS -p TOPIC -l light",
                "getLiteClientInfo -n NS -p TOPIC -g GROUP -c CLIENT", "getLiteGroupInfo -n NS -p TOPIC -g GROUP", "triggerLiteDispatch -n NS -p TOPIC -g GROUP -b ADDR")) {
            run(line);
        }
    }

    private static void withoutClients() throws Exception {
        for (Side side : sides) {
            side.connect();
        }
        run("consumerConnection -n NS -g GROUP");
        run("consumerStatus -n NS -g GROUP");
        run("skipAccumulatedMessage -n NS -g GROUP -t TOPIC");
        run("resetOffsetByTime -n NS -g GROUP -t TOPIC -s 0", "reset consumer offset|rollback", "0");
        run("resetOffsetByTime -n NS -g GROUP -t nowhere_RUN -s 0");
        run("consumerProgress -n NS -g GROUP", "Diff Total: [1-9]");
        run("deleteSubGroup -n NS -c CLUSTER -g GROUP", "success");
        run("deleteSubGroup -n NS -b ADDR -g GROUP_2" + (version.equals("4.5.2") ? "" : " -r true"), "success");
        run("deleteSubGroup -n NS -b ADDR -g nobody_RUN");
        run("deleteTopic -n NS -c CLUSTER -t TOPIC", "success", "TOPIC");
        run("deleteTopic -n NS -c CLUSTER -t nowhere_RUN");
        for (Side side : sides) {
            Kit.await(10, "no route", () -> Kit.refusal(() -> side.kit.admin().examineTopicRouteInfo(side.words.get("TOPIC"))) == 17);
            side.kit.close();
        }
        run("startMonitoring -n NS");
    }

    private static final Set<String> done = new HashSet<>();

    /** Runs a command, if this version has it, on every side; each pattern must be found in what it prints. */
    private static Result[] run(String line, String... patterns) throws Exception {
        String name = line.split(" ")[0];
        done.add(name);
        Result[] results = new Result[sides.size()];
        if (!commands.contains(name)) {
            return results;
        }
        for (int i = 0; i < results.length; i++) {
            Side side = sides.get(i);
            String filled = side.fill(line);
            Result made;
            int tries = 0;
            do { // two threads of 4.5.2's client may open the same connection: the second closes the first's, with its request
                made = capture(filled.split(" "), ENDLESS.contains(name) ? 4 : 30);
            } while (version.equals("4.5.2") && made.output.contains("RemotingSendRequestException") && ++tries < 5);
            Result r = results[i] = made;
            r.output = r.output.replace(side.words.get("FOLDER"), "FOLDER");
            if (r.seconds > 5 && !ENDLESS.contains(name)) {
                OUT.printf("     %s: %s took %.1f s%n", label, filled, r.seconds);
            }
            List<String> missing = Arrays.stream(patterns).map(side::fill)
                .filter(p -> !Pattern.compile(p).matcher(r.output).find()).collect(Collectors.toList());
            if (!missing.isEmpty() || patterns.length > 0 && r.refused) {
                fail(filled + (i == 0 ? "" : " (Java's)") + "\n     misses " + missing + " in:\n" + quoted(r.output, 25));
            }
        }
        Result a = results[0], b = results[1];
        String own = OWN.getOrDefault(line, OWN.get(name)), purpose = Optional.ofNullable(ON_PURPOSE.get(version + " " + line))
            .or(() -> Optional.ofNullable(ON_PURPOSE.get(line))).orElse(ON_PURPOSE_BY_NAME.get(name));
        boolean same = a.refused == b.refused && (own != null || a.shape().equals(b.shape()));
        String verdict = !same ? purpose == null ? "NO" : "on purpose: " + purpose : own == null ? "yes" : "but for " + own;
        table.add(line + " | " + a.summary() + " | " + b.summary() + " | " + verdict);
        if (!same && purpose == null) {
            List<String> ours = new ArrayList<>(a.shape()), javas = new ArrayList<>(b.shape());
            ours.removeAll(b.shape());
            javas.removeAll(a.shape());
            fail(line + " differs from Java's\n     ours:\n" + quoted(String.join("\n", ours), 12) + "\n     Java's:\n" + quoted(String.join("\n", javas), 12));
        }
        return results;
    }

    private static String quoted(String text, int lines) {
        return text.lines().limit(lines).map(l -> "     | " + l).collect(Collectors.joining("\n"));
    }

    private static void fail(String what) {
        good = false;
        OUT.println("     FAIL " + label + ": " + what);
    }

    private static Result capture(String[] args, int seconds) throws Exception {
        Result result = new Result();
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        PrintStream captured = new PrintStream(bytes, true, "UTF-8"), err = System.err;
        System.setOut(captured);
        System.setErr(captured);
        long start = System.nanoTime();
        try {
            forget();
            Thread thread = new Thread(() -> MQAdminStartup.main(args));
            thread.setDaemon(true);
            thread.start();
            thread.join(seconds * 1000L);
            result.output = bytes.toString("UTF-8");
            result.endless = thread.isAlive() || args.length > 0 && args[0].equals("startMonitoring");
            thread.interrupt();
            thread.join(5000);
        } finally {
            System.setOut(OUT);
            System.setErr(err);
        }
        result.seconds = (System.nanoTime() - start) / 1e9;
        result.refused = EXCEPTION.matcher(result.output).find();
        return result;
    }

    /** A command that ran once has clients that are shut down; they are made anew. */
    private static void forget() throws Exception {
        for (var field : MQAdminStartup.class.getDeclaredFields()) {
            if (List.class.isAssignableFrom(field.getType())) {
                field.setAccessible(true);
                ((List<?>) field.get(null)).clear();
            }
        }
    }
}
