import org.apache.rocketmq.acl.common.*;
import org.apache.rocketmq.client.producer.DefaultMQProducer;

/** AclCommands LABEL NAMESERVER: the commands of mqadmin for access control, and what clients may do after each. */
public final class AclCommands {
    public static void main(String[] args) throws Exception {
        Mqadmin.scenario(args, AclCommands::acl);
    }

    /** Access control; the account that signs is in tools.yml of the home folder. */
    private static void acl(String run) throws Exception {
        String address, topic = "mqadmin_acl_" + run, account = "account_" + run;
        try (Kit kit = new Kit("mqadmin-acl", Mqadmin.nameServer)) {
            address = kit.broker();
        }
        String at = " -n NS -b " + address;
        Mqadmin.command("updateTopic" + at + " -t " + topic, "success", topic);
        if (!Mqadmin.label.contains("4.9")) {
            return; // later ones have other commands for this
        }
        Mqadmin.command("updateAclConfig" + at + " -a " + account + " -s firstSecret -i DENY -u SUB -t " + topic + "=PUB,other=SUB -m false", "success");
        Mqadmin.command("getAclConfig" + at, account, topic + "=PUB", "other=SUB", "DENY", "theAdmin");
        Mqadmin.command("clusterAclConfigVersion" + at, "broker-a", "plain_acl.yml", "1 +\\d{4}-\\d\\d-\\d\\d", "success");
        sends(account, "firstSecret", topic, true);
        sends(account, "firstSecret", "mqadmin_other", false);
        Mqadmin.command("updateAclConfig" + at + " -a " + account + " -s secondSecret -t " + topic + "=PUB,mqadmin_other=PUB|SUB", "success");
        sends(account, "firstSecret", topic, false);
        sends(account, "secondSecret", topic, true);
        Mqadmin.command("deleteAclConfig" + at + " -a " + account, "success", account);
        sends(account, "secondSecret", topic, false);
        Mqadmin.command("updateGlobalWhiteAddr" + at + " -g 127.0.0.1,10.0.0.*", "success");
        sends("nobody_at_all", "someSecret", topic, true);
        Mqadmin.command("getAclConfig" + at, "127.0.0.1", "10.0.0.*", "theAdmin");
    }

    /** Whether the account may send, some time soon: brokers read their files again after a while. */
    private static void sends(String account, String secret, String topic, boolean allowed) throws Exception {
        try (Kit kit = new Kit("mqadmin-acl", Mqadmin.nameServer)) {
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
}
