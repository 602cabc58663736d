import java.nio.file.*;
import java.util.*;
import java.util.stream.Collectors;
import org.apache.rocketmq.acl.common.*;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.*;
import org.apache.rocketmq.remoting.RPCHook;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** Who gets in, and what they may do there. */
final class Secure {
    static void scenarios(Map<String, Kit.Scenario> into) {
        into.put("locked-out", Secure::lockedOut);
        into.put("acl", Secure::acl);
    }

    /** Nothing that this JVM says is understood by the servers. */
    private static void lockedOut(Kit kit) throws Exception {
        DefaultMQProducer producer = kit.producer();
        try {
            throw new AssertionError("sent: " + producer.send(Kit.message("locked_out", "t", "k", "m")));
        } catch (Exception expected) {
            // It is the connection that fails, in words of each version's own.
        }
    }

    private static RPCHook as(String account, String secret) {
        return new AclClientRPCHook(new SessionCredentials(account, secret));
    }

    /** With the accounts that `run` has put into -Dacl. */
    private static void acl(Kit kit) throws Exception {
        DefaultMQAdminExt admin = admin(kit, as("theAdmin", "adminSecret"));
        String broker = kit.broker(), mine = kit.name("mine"), closed = kit.name("closed"), group = kit.name("group");
        for (String topic : Arrays.asList(mine, closed)) {
            admin.createAndUpdateTopicConfig(broker, new TopicConfig(topic, 2, 2, 6));
        }
        Path file = Paths.get(System.getProperty("acl"));
        edit(file, "topicPerms: []", "topicPerms: ['" + mine + "=PUB|SUB']");
        edit(file, "groupPerms: []", "groupPerms: ['" + group + "=SUB']");
        RPCHook user = as("someUser", "userSecret");
        DefaultMQProducer producer = producer(kit, user);
        Kit.eventually(30, "permission to send", () -> producer.send(Kit.message(mine, "t", "before", "before")));

        // ---- what is allowed
        List<String> bodies = kit.send(producer, mine, "t", "m", 10);
        bodies.add("before");
        Kit.Inbox inbox = new Kit.Inbox();
        Set<String> failed = new HashSet<>();
        var consumer = kit.configure(new DefaultMQPushConsumer(group, user, new AllocateMessageQueueAveragely()));
        consumer.setConsumeFromWhere(org.apache.rocketmq.common.consumer.ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(mine, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            context.setDelayLevelWhenNextConsume(1);
            synchronized (failed) { // one goes to the retry topic and comes back
                if (Kit.text(messages.get(0)).equals("m3") && failed.add("m3")) {
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
            }
            return inbox.consumeMessage(messages, context);
        });
        kit.start(consumer);
        inbox.expect(40, bodies);
        Kit.check(inbox.got.stream().anyMatch(m -> Kit.text(m).equals("m3") && m.getReconsumeTimes() == 1), "m3 did not come back");
        Kit.commit(consumer);
        DefaultMQPullConsumer reader = reader(kit, group, user);
        Kit.await(30, "committed offsets", () -> {
            long committed = 0;
            for (MessageQueue queue : reader.fetchSubscribeMessageQueues(mine)) {
                committed += reader.fetchConsumeOffset(queue, true);
            }
            return committed == bodies.size();
        });
        boolean queries = Boolean.getBoolean("queries");
        String id = producer.send(Kit.message(mine, "t", "found", "found")).getMsgId();
        if (queries) {
            Kit.await(10, "index", () -> producer.queryMessage(mine, "found", 9, 0, Long.MAX_VALUE).getMessageList().size() == 1);
            Kit.equal("found", Kit.text(producer.viewMessage(mine, id)), "by unique key");
        }

        // ---- what is not
        denied("No default permission for topic:" + closed, () -> producer.send(Kit.message(closed, "t", "k", "m")));
        DefaultMQProducer all = producer(kit, as("theAdmin", "adminSecret"));
        all.send(Kit.message(closed, "t", "hidden", "m"));
        if (queries) {
            Kit.await(10, "index", () -> all.queryMessage(closed, "hidden", 9, 0, Long.MAX_VALUE).getMessageList().size() == 1);
            denied("no message", () -> producer.queryMessage(closed, "hidden", 9, 0, Long.MAX_VALUE)); // clients keep the reason to themselves
        }
        denied("No default permission for group:", () -> pull(kit, kit.name("stranger"), mine, user));
        denied("No default permission for topic:" + closed, () -> pull(kit, group, closed, user));
        denied("Need admin permission for request code=17, but accessKey=someUser is not", () -> {
            admin(kit, user).createAndUpdateTopicConfig(broker, new TopicConfig(kit.name("new"), 1, 1, 6));
            return null;
        });
        denied("Check signature failed for accessKey=someUser", () -> producer(kit, as("someUser", "otherSecret")).send(Kit.message(mine, "t", "k", "m")));
        denied("No acl config for someBody", () -> producer(kit, as("someBody", "userSecret")).send(Kit.message(mine, "t", "k", "m")));
        DefaultMQProducer unsigned = producer(kit, null);
        denied("No accessKey is configured", () -> unsigned.send(Kit.message(mine, "t", "k", "m")));

        // ---- what changes while all run
        edit(file, mine + "=PUB|SUB", mine + "=SUB");
        Kit.eventually(30, "refusal of what was allowed", () -> {
            denied("No default permission for topic:" + mine, () -> producer.send(Kit.message(mine, "t", "k", "m")));
            return true;
        });
        edit(file, "globalWhiteRemoteAddresses: []", "globalWhiteRemoteAddresses: ['127.0.0.*']");
        Kit.eventually(30, "the white list", () -> unsigned.send(Kit.message(closed, "t", "k", "m")));
    }

    private static void edit(Path file, String from, String to) throws Exception {
        String text = Files.readString(file);
        Kit.check(text.contains(from), "no %s in %s", from, text);
        Files.writeString(file, text.replace(from, to));
    }

    private static DefaultMQAdminExt admin(Kit kit, RPCHook hook) throws Exception {
        DefaultMQAdminExt admin = kit.configure(new DefaultMQAdminExt(hook, 10_000));
        admin.setAdminExtGroup(kit.name("admin"));
        admin.start();
        kit.closing(admin::shutdown);
        return admin;
    }

    private static DefaultMQProducer producer(Kit kit, RPCHook hook) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(kit.name("producer"), hook);
        producer.setRetryTimesWhenSendFailed(0);
        return kit.started(producer);
    }

    private static DefaultMQPullConsumer reader(Kit kit, String group, RPCHook hook) throws Exception {
        DefaultMQPullConsumer consumer = kit.configure(new DefaultMQPullConsumer(group, hook));
        consumer.start();
        kit.closing(consumer::shutdown);
        return consumer;
    }

    private static PullResult pull(Kit kit, String group, String topic, RPCHook hook) throws Exception {
        DefaultMQPullConsumer consumer = reader(kit, group, hook);
        MessageQueue queue = consumer.fetchSubscribeMessageQueues(topic).iterator().next();
        return consumer.pull(queue, "*", 0, 32);
    }

    private static void denied(String why, Kit.Attempt<?> attempt) throws Exception {
        Object made;
        try {
            made = attempt.make();
        } catch (Exception e) {
            List<String> said = new ArrayList<>();
            for (Throwable t = e; t != null; t = t.getCause()) {
                said.add(String.valueOf(t.getMessage()));
            }
            String all = said.stream().collect(Collectors.joining("; "));
            Kit.check(all.contains(why), "expected %s, got %s", why, all);
            return;
        }
        throw new AssertionError("expected " + why + ", got " + made);
    }
}
