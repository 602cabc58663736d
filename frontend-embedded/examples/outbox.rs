//! An outbox: a message is sent if, and only if, the work it tells of was done.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mq_embedded::{Message, Mq, Outcome};

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    // The application's own database.
    let paid = Arc::new(Mutex::new(HashSet::new()));
    let mq = Mq::builder().transaction_checks(50, 15, 50).open(dir.path())?;

    let known = paid.clone();
    let outbox = mq.transactions("payments", move |message| {
        let order = message.keys().unwrap_or_default().to_owned();
        match known.lock().expect("no panic").contains(&order) {
            true => Outcome::Commit,
            false => Outcome::Rollback,
        }
    })?;

    let first = outbox.begin(&Message::new("Paid", "order 1 is paid").key("1"))?;
    paid.lock().expect("no panic").insert("1".to_owned());
    assert!(first.commit()?);

    let second = outbox.begin(&Message::new("Paid", "order 2 is paid").key("2"))?;
    // The payment failed.
    assert!(second.rollback()?);

    // The program forgets to say, or dies here: it is asked.
    let third = outbox.begin(&Message::new("Paid", "order 3 is paid").key("3"))?;
    paid.lock().expect("no panic").insert("3".to_owned());
    drop(third);

    let mail = mq.consumer("mailers").subscribe("Paid", "*").start()?;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        for message in mail.poll(10, Duration::from_secs(20))? {
            let text = String::from_utf8(message.body().to_vec())?;
            println!("{text}");
            seen.push(text);
            message.ack();
        }
    }
    assert_eq!(seen, ["order 1 is paid", "order 3 is paid"]);
    mq.close()?;
    Ok(())
}
