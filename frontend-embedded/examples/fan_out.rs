//! Fan-out: every group gets every message once; of a broadcasting group, every member.

use std::time::Duration;

use mq_embedded::{Message, Mq};

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let mq = Mq::open(dir.path())?;
    let soon = Duration::from_secs(10);
    let stock = mq.consumer("stock").subscribe("Orders", "*").start()?;
    let eu = mq.consumer("eu").subscribe_sql("Orders", "region = 'EU' AND amount > 10").start()?;
    let gold = mq.consumer("gold").subscribe("Orders", "gold || platinum").start()?;
    let cache = || mq.consumer("cache").subscribe("Orders", "*").broadcasting().start();
    let caches = [cache()?, cache()?];

    let producer = mq.producer();
    for (n, (region, tag)) in [("EU", "gold"), ("US", "gold"), ("EU", "new")].iter().enumerate() {
        let body = format!("order {n}");
        let order = Message::new("Orders", &body).tag(tag).property("region", region);
        producer.send(&order.property("amount", &format!("{}", 5 + n * 10)).queue(0))?;
    }
    let bodies = |consumer: &mq_embedded::Consumer| -> mq_embedded::Result<Vec<String>> {
        let all = consumer.poll(10, soon)?;
        let texts = all.iter().map(|m| String::from_utf8_lossy(m.body()).into_owned()).collect();
        all.into_iter().for_each(|m| m.ack());
        Ok(texts)
    };
    assert_eq!(bodies(&stock)?, ["order 0", "order 1", "order 2"]);
    assert_eq!(bodies(&eu)?, ["order 2"]);
    assert_eq!(bodies(&gold)?, ["order 0", "order 1"]);
    for cache in &caches {
        assert_eq!(bodies(cache)?.len(), 3);
    }
    assert!(mq.lag("stock").iter().all(|lag| lag.behind == 0));
    println!("stock 3, eu 1, gold 2, each cache 3");
    mq.close()?;
    Ok(())
}
