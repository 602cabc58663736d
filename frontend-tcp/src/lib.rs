//! Name server and broker speaking the RocketMQ remoting protocol, thin over [`mq_store`].
