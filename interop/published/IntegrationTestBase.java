package org.apache.rocketmq.test.base;

import java.util.*;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.broker.BrokerController;
import org.apache.rocketmq.common.BrokerConfig;
import org.apache.rocketmq.common.attribute.CQType;
import org.apache.rocketmq.common.attribute.TopicMessageType;
import org.apache.rocketmq.common.namesrv.NamesrvConfig;
import org.apache.rocketmq.namesrv.NamesrvController;
import org.apache.rocketmq.remoting.netty.NettyClientConfig;
import org.apache.rocketmq.remoting.netty.NettyServerConfig;
import org.apache.rocketmq.store.config.MessageStoreConfig;
import org.apache.rocketmq.test.util.MQAdminTestUtils;

/**
 * Stands in for the class of that name, in front of it on the class path: instead of starting servers it tells of those
 * that run, a name server at 127.0.0.1:ns and "broker-1" to "broker-3" of the cluster "interop" at the ports of the system
 * property "brokers". What it returns was never started, so tests that reach into a broker fail.
 */
public class IntegrationTestBase {
    private static final AtomicInteger BROKERS = new AtomicInteger();

    public static NamesrvController createAndStartNamesrv() {
        NettyServerConfig server = new NettyServerConfig();
        server.setListenPort(Integer.getInteger("ns"));
        return new NamesrvController(new NamesrvConfig(), server);
    }

    public static BrokerController createAndStartBroker(String nameServer) {
        int number = BROKERS.getAndIncrement();
        NettyServerConfig server = new NettyServerConfig();
        server.setListenPort(Integer.parseInt(System.getProperty("brokers").split(" ")[number]));
        BrokerConfig config = new BrokerConfig();
        config.setBrokerName("broker-" + (number + 1));
        config.setBrokerIP1("127.0.0.1");
        config.setBrokerClusterName("interop");
        config.setNamesrvAddr(nameServer);
        BrokerController broker = new BrokerController(config, server, new NettyClientConfig(), new MessageStoreConfig());
        broker.getBrokerOuterAPI().start(); // BaseConf looks up the cluster through it
        broker.getBrokerOuterAPI().updateNameServerAddressList(nameServer);
        return broker;
    }

    public static void initMQAdmin(String nameServer) {
        try {
            MQAdminTestUtils.startAdmin(nameServer);
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    public static boolean initTopic(String topic, String nameServer, String cluster, int queues, CQType queueType, TopicMessageType messageType) {
        Map<String, String> attributes = new HashMap<>();
        if (queueType != CQType.SimpleCQ) {
            attributes.put("+queue.type", queueType.toString());
        }
        if (messageType != TopicMessageType.NORMAL) {
            attributes.put("+message.type", messageType.toString());
        }
        return MQAdminTestUtils.createTopic(nameServer, cluster, topic, queues, attributes, 30);
    }

    public static boolean initTopic(String topic, String nameServer, String cluster, int queues, CQType queueType) {
        return initTopic(topic, nameServer, cluster, queues, queueType, TopicMessageType.NORMAL);
    }

    public static boolean initTopic(String topic, String nameServer, String cluster, CQType queueType) {
        return initTopic(topic, nameServer, cluster, BaseConf.QUEUE_NUMBERS, queueType);
    }

    public static boolean initTopic(String topic, String nameServer, String cluster, TopicMessageType messageType) {
        return initTopic(topic, nameServer, cluster, BaseConf.QUEUE_NUMBERS, CQType.SimpleCQ, messageType);
    }
}
