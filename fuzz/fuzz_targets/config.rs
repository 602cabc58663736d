//! Any bytes as a file under `config/`: the broker opens, saves, and what it saved is read
//! without a complaint. The first byte chooses the file.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use mq_fuzz::{Scratch, open, write};
use mq_store::broker::topics::TopicConfig;
use mq_store::broker::{Broker, BrokerConfig};
use mq_store::view::StoreView;

const NAMES: [&str; 7] = [
    "topics.json",
    "subscriptionGroup.json",
    "consumerOffset.json",
    "delayOffset.json",
    "consumerFilter.json",
    "queueLocks.json",
    "deletedTopics.json",
];

thread_local!(static SCRATCH: Scratch = Scratch::default());

fuzz_target!(|input: &[u8]| {
    let Some((choice, json)) = input.split_first() else { return };
    let name = NAMES[usize::from(*choice) % NAMES.len()];
    SCRATCH.with(|scratch| {
        let root = scratch.empty();
        write(root, format!("config/{name}").as_ref(), json);
        let view = StoreView::open(root).expect("there is a folder");
        let _ = (view.config(name), view.committed());
        for again in [false, true] {
            let (store, _) = open(root);
            let (broker, notes) =
                Broker::open(Arc::new(store), BrokerConfig::default(), Box::new(|_| {}));
            if again {
                let complaint = notes.iter().find(|note| note.contains("cannot be read"));
                assert_eq!(complaint, None, "what was saved is read");
            }
            let _ = broker.update_topic(TopicConfig::new("Made", 4));
            broker.offsets().commit("G", "Made", 0, 7);
            let _ = broker.deliver_step();
            broker.close().expect("there is room");
        }
    });
});
