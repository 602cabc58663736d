import java.util.*;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.protocol.heartbeat.MessageModel;
import org.apache.rocketmq.common.subscription.SubscriptionGroupConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** What has other names, or is missing, in the 4.x client. */
final class Versioned {
    static void broadcasting(DefaultMQPushConsumer consumer) {
        consumer.setMessageModel(MessageModel.BROADCASTING);
    }

    static void createGroup(DefaultMQAdminExt admin, String broker, String group, int retries) throws Exception {
        SubscriptionGroupConfig config = new SubscriptionGroupConfig();
        config.setGroupName(group);
        config.setRetryMaxTimes(retries);
        admin.createAndUpdateSubscriptionGroupConfig(broker, config);
    }

    static DefaultMQProducer tracedProducer(String group) {
        return new DefaultMQProducer(group, true);
    }

    static DefaultMQPushConsumer tracedConsumer(String group) {
        return new DefaultMQPushConsumer(group, true);
    }

    static void group(Kit kit, String group, boolean consumes, int retryQueues) throws Exception {
        SubscriptionGroupConfig config = new SubscriptionGroupConfig();
        config.setGroupName(group);
        config.setConsumeEnable(consumes);
        config.setRetryQueueNums(retryQueues);
        kit.admin().createAndUpdateSubscriptionGroupConfig(kit.broker(), config);
    }

    static void deleteGroup(DefaultMQAdminExt admin, String broker, String group) throws Exception {
        admin.deleteSubscriptionGroup(broker, group);
    }

    static void scenarios(Map<String, Kit.Scenario> into) {
    }

    static void others(Map<String, Kit.Scenario> into) {
    }
}
