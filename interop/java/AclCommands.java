import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.util.*;
import java.util.regex.Pattern;
import org.apache.rocketmq.acl.common.*;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/** AclCommands LABEL NAMESERVER: the commands of mqadmin for access control, and what clients may do after each. */
public final class AclCommands {
    private static final PrintStream OUT = System.out;
    private static String label, nameServer;
    private static boolean good = true;

    public static void main(String[] args) throws Exception {
        label = args[0];
        nameServer = args[1];
        long start = System.nanoTime();
        acl(Long.toString(System.currentTimeMillis(), 36));
        end(start);
    }

    /** Access control; the account that signs is in tools.yml of the home folder. */
    private static void acl(String run) throws Exception {
        String address, topic = "mqadmin_acl_" + run, account = "account_" + run;
        try (Kit kit = new Kit("mqadmin-acl", nameServer)) {
            address = kit.broker();
        }
        String at = " -n NS -b " + address;
        command("updateTopic" + at + " -t " + topic, "success", topic);
        if (!label.contains("4.9")) {
            return; // later ones have other commands for this
        }
        command("updateAclConfig" + at + " -a " + account + " -s firstSecret -i DENY -u SUB -t " + topic + "=PUB,other=SUB -m false", "success");
        command("getAclConfig" + at, account, topic + "=PUB", "other=SUB", "DENY", "theAdmin");
        command("clusterAclConfigVersion" + at, "broker-a", "plain_acl.yml", "1 +\\d{4}-\\d\\d-\\d\\d", "success");
        sends(account, "firstSecret", topic, true);
        sends(account, "firstSecret", "mqadmin_other", false);
        command("updateAclConfig" + at + " -a " + account + " -s secondSecret -t " + topic + "=PUB,mqadmin_other=PUB|SUB", "success");
        sends(account, "firstSecret", topic, false);
        sends(account, "secondSecret", topic, true);
        command("deleteAclConfig" + at + " -a " + account, "success", account);
        sends(account, "secondSecret", topic, false);
        command("updateGlobalWhiteAddr" + at + " -g 127.0.0.1,10.0.0.*", "success");
        sends("nobody_at_all", "someSecret", topic, true);
        command("getAclConfig" + at, "127.0.0.1", "10.0.0.*", "theAdmin");
    }

    /** Whether the account may send, some time soon: brokers read their files again after a while. */
    private static void sends(String account, String secret, String topic, boolean allowed) throws Exception {
        try (Kit kit = new Kit("mqadmin-acl", nameServer)) {
            DefaultMQProducer producer = new DefaultMQProducer(kit.name("producer"), new AclClientRPCHook(new SessionCredentials(account, secret)));
            producer.setRetryTimesWhenSendFailed(0);
            kit.started(producer);
            Kit.await(20, account + " to " + topic + (allowed ? " allowed" : " refused"), () -> {
                try {
                    producer.send(Kit.message(topic, "t", "k", "m"));
                    return allowed;
                } catch (Exception e) {
                    return !allowed && (e + " " + e.getCause()).contains("AclException");
                }
            });
        }
    }

    private static void end(long start) {
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
    private static void command(String line, String... patterns) throws Exception {
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
        if (!missing.isEmpty() || output.contains("Exception")) {
            good = false;
            OUT.println("     FAIL " + label + ": " + line + "\n     misses " + missing + " in:");
            output.lines().limit(25).forEach(l -> OUT.println("     | " + l));
        }
    }
}
