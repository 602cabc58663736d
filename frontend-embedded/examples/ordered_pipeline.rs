//! An ordered pipeline: what happens to one account is done in order, accounts side by side.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use mq_embedded::{Message, Mq};

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let mq = Mq::open(dir.path())?;
    mq.create_topic("Bookings", 4)?;
    let producer = mq.producer();
    for n in 0..50 {
        for account in ["anna", "ben", "carl"] {
            let body = format!("{account} {n}");
            producer.send(&Message::new("Bookings", &body).order_key(account))?;
        }
    }

    let booked: Mutex<BTreeMap<String, Vec<u32>>> = Mutex::default();
    let work = || -> mq_embedded::Result<()> {
        let consumer = mq
            .consumer("ledger")
            .subscribe("Bookings", "*")
            .orderly()
            .suspend(Duration::from_millis(5))
            .start()?;
        while booked.lock().expect("no panic").values().map(Vec::len).sum::<usize>() < 150 {
            for booking in consumer.poll(1, Duration::from_millis(50))? {
                // The first try of some fails: those behind it wait.
                if booking.queue_offset() % 10 == 3 && booking.failed_times() == 0 {
                    booking.retry()?;
                    continue;
                }
                let text = String::from_utf8_lossy(booking.body()).into_owned();
                let (account, n) = text.split_once(' ').expect("two words");
                let mut booked = booked.lock().expect("no panic");
                booked.entry(account.to_owned()).or_default().push(n.parse().expect("a number"));
                booking.ack();
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().try_for_each(|t| t.join().expect("no panic"))
    })?;
    for (account, numbers) in booked.into_inner()? {
        println!("{account}: {} bookings in order", numbers.len());
        assert!(numbers.into_iter().eq(0..50), "{account}");
    }
    mq.close()?;
    Ok(())
}
