import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.util.*;
import java.util.regex.Pattern;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/** Mqadmin LABEL NAMESERVER: the command line of rocketmq-tools, in one JVM, which must then end by itself. */
public final class Mqadmin {
    private static final PrintStream OUT = System.out;
    static String label, nameServer;
    private static boolean good = true;

    interface Commands {
        /** "run" tells this run from others. */
        void run(String run) throws Exception;
    }

    public static void main(String[] args) throws Exception {
        scenario(args, Mqadmin::commands);
    }

    private static void commands(String run) throws Exception {
        String topic = "mqadmin_topic_" + run, group = "mqadmin_group_" + run;
        Map<String, String> brokers;
        try (Kit kit = new Kit("mqadmin", nameServer)) {
            brokers = kit.brokers();
            String broker = brokers.keySet().iterator().next(), address = brokers.get(broker);
            String cluster = kit.admin().examineBrokerClusterInfo().getClusterAddrTable().keySet().iterator().next();

            command("clusterList -n NS", cluster, broker, address, "V");
            command("brokerStatus -n NS -b " + address, "brokerVersionDesc", "msgPutTotalTodayNow", "commitLogMaxOffset", "bootTimestamp");
            command("updateTopic -n NS -b " + address + " -t " + topic + " -r 3 -w 3", "success", topic, "writeQueueNums=3");
            command("topicRoute -n NS -t " + topic, "\"brokerName\": ?\"" + broker + "\"", address, "readQueueNums");
            command("topicList -n NS", topic);
            command("topicList -n NS -c", topic, cluster);
            command("topicClusterList -n NS -t " + topic, cluster);
            command("updateSubGroup -n NS -b " + address + " -g " + group + " -r 4", "success", group, "retryMaxTimes=4");

            DefaultMQProducer producer = kit.producer();
            kit.send(producer, topic, "t", "m", 30);
            String id = producer.send(Kit.message(topic, "tag", "mqkey" + run, "find me")).getMsgId();
            Kit.Inbox inbox = new Kit.Inbox();
            var consumer = kit.start(kit.push(group, topic, "*", inbox));
            Kit.await(30, "31 deliveries", () -> inbox.got.size() == 31);
            Thread.sleep(100); // the last one counts as consumed when its listener has returned
            Kit.commit(consumer);
            Kit.await(30, "committed offsets", () -> kit.admin().examineConsumeStats(group).computeTotalDiff() == 0);
            Kit.await(10, "index", () -> producer.queryMessage(topic, "mqkey" + run, 9, 0, Long.MAX_VALUE).getMessageList().size() == 1);

            command("topicStatus -n NS -t " + topic, broker, "Max Offset", "0 +0 +1[01] ", "2 +0 +1[01] ");
            command("consumerProgress -n NS -g " + group, topic, broker, "Diff Total: 0", "0 +1[01] +1[01] +0 ", "2 +1[01] +1[01] +0 ");
            command("consumerProgress -n NS", group, "CLUSTERING");
            command("consumerConnection -n NS -g " + group, "CLUSTERING", "CONSUME_FROM_FIRST_OFFSET", topic, "JAVA");
            Kit.await(10, "the producer's heartbeat", () ->
                kit.admin().examineProducerConnectionInfo(producer.getProducerGroup(), topic).getConnectionSet().size() == 1);
            command("producerConnection -n NS -g " + producer.getProducerGroup() + " -t " + topic, "JAVA");
            command("queryMsgByKey -n NS -t " + topic + " -k mqkey" + run, id);
            command("queryMsgByUniqueKey -n NS -t " + topic + " -i " + id, topic, "tag", "mqkey" + run);
            command("queryMsgByOffset -n NS -t " + topic + " -b " + broker + " -i 0 -o 3", topic, "Queue ID:", "Queue Offset:");
            command("printMsg -n NS -t " + topic, "mqkey" + run, "find me");
            command("statsAll -n NS -t " + topic, topic, group);
            command("getBrokerConfig -n NS -b " + address, "brokerName", "flushDiskType");
            command("updateBrokerConfig -n NS -b " + address + " -k fileReservedTime -v 72", "success");
            command("updateKvConfig -n NS -s INTEROP -k " + run + " -v x", "success");
            command("deleteKvConfig -n NS -s INTEROP -k " + run, "success");
            command("updateSubGroup -n NS -b " + address + " -g " + group + "2", "success");
            command("cloneGroupOffset -n NS -s " + group + " -d " + group + "2 -t " + topic, "clone group offset success");
            command("consumerStatus -n NS -g " + group, "V", "2|1");
            command("wipeWritePerm -n NS -b " + broker, "OK, \\d+");
            command("addWritePerm -n NS -b " + broker, "OK, \\d+");
        }
        try (Kit kit = new Kit("mqadmin", nameServer)) {
            command("resetOffsetByTime -n NS -g " + group + " -t " + topic + " -s 0", "reset consumer offset|rollback", "0");
            command("consumerProgress -n NS -g " + group, "Diff Total: 31");
            String cluster = kit.admin().examineBrokerClusterInfo().getClusterAddrTable().keySet().iterator().next();
            command("deleteSubGroup -n NS -c " + cluster + " -g " + group, "success");
            command("deleteTopic -n NS -c " + cluster + " -t " + topic, "success", topic);
            Kit.await(10, "no route", () -> Kit.refusal(() -> kit.admin().examineTopicRouteInfo(topic)) == 17);
        }
    }

    /** Runs commands against the name server of the arguments, and tells how it went. */
    static void scenario(String[] args, Commands commands) throws Exception {
        label = args[0];
        nameServer = args[1];
        long start = System.nanoTime();
        commands.run(Long.toString(System.currentTimeMillis(), 36));
        OUT.printf("%-5s%s %.1f%n", good ? "ok" : "FAIL", label, (System.nanoTime() - start) / 1e9);
        // A command that left a client behind would keep the JVM alive; that shows here.
        Thread guard = new Thread(() -> {
            try {
                Thread.sleep(20_000);
            } catch (InterruptedException e) {
                return;
            }
            OUT.println("FAIL " + label + "/end 20.0\n     the JVM does not end by itself");
            Runtime.getRuntime().halt(1);
        });
        guard.setDaemon(true);
        guard.start();
        if (!good) {
            System.exit(1);
        }
    }

    /** Runs a command; each pattern must be found in its output, and no exception. */
    static void command(String line, String... patterns) throws Exception {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        PrintStream capture = new PrintStream(bytes, true, "UTF-8"), err = System.err;
        System.setOut(capture);
        System.setErr(capture);
        long start = System.nanoTime();
        try {
            MQAdminStartup.main(line.replace(" NS", " " + nameServer).split(" "));
        } finally {
            System.setOut(OUT);
            System.setErr(err);
        }
        double seconds = (System.nanoTime() - start) / 1e9;
        if (seconds > 5) {
            OUT.printf("     %s: %s took %.1f s%n", label, line, seconds);
        }
        String output = bytes.toString("UTF-8");
        List<String> missing = new ArrayList<>();
        for (String pattern : patterns) {
            if (!Pattern.compile(pattern).matcher(output).find()) {
                missing.add(pattern);
            }
        }
        // Java's 5.x broker renamed a key that the 4.x clusterList needs.
        boolean known = line.startsWith(System.getProperty("known", "none"));
        if (!missing.isEmpty() || output.contains("Exception") && !known) {
            good = false;
            OUT.println("     FAIL " + label + ": " + line + "\n     misses " + missing + " in:");
            output.lines().limit(25).forEach(l -> OUT.println("     | " + l));
        }
    }
}
