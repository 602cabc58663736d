//! An event log: written once, read as often as wanted, from any time on.

use std::sync::Arc;

use mq_embedded::{ManualClock, Message, Mq, Seek};

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let clock = Arc::new(ManualClock::at(1_800_000_000_000));
    let mq = Mq::builder().clock(clock.clone()).open(dir.path())?;
    let producer = mq.producer();
    for hour in 0..5 {
        producer.send(&Message::new("Readings", &format!("reading {hour}")).key("sensor-1"))?;
        clock.advance(3_600_000);
    }

    let bodies = |from| -> mq_embedded::Result<Vec<String>> {
        let all = mq.reader("Readings", from)?;
        Ok(all.map(|m| String::from_utf8_lossy(m.body()).into_owned()).collect())
    };
    assert_eq!(bodies(Seek::Begin)?.len(), 5);
    let late = bodies(Seek::Time(1_800_000_000_000 + 3 * 3_600_000))?;
    println!("from the third hour on: {late:?}");
    assert_eq!(late, ["reading 3", "reading 4"]);

    // A group replays from a time on.
    let group = mq.consumer("dashboards").subscribe("Readings", "*").start_at(Seek::End).start()?;
    assert!(group.poll(10, std::time::Duration::ZERO)?.is_empty());
    group.seek("Readings", None, Seek::Time(1_800_000_000_000 + 3_600_000))?;
    let replayed = group.poll(10, std::time::Duration::ZERO)?;
    println!("replayed {}", replayed.len());
    assert_eq!(replayed.len(), 4);
    group.commit();
    mq.close()?;
    Ok(())
}
