//! A job queue with retries: what fails comes again later, what never works goes to the dead
//! letters.

use std::time::Duration;

use mq_embedded::{Message, Mq, Seek};

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    // Delays of 20 ms, so that the example is quick; without this line they are RocketMQ's.
    let mq = Mq::builder().delay_levels(&[20; 18]).open(dir.path())?;
    let producer = mq.producer();
    for job in ["resize a.png", "resize broken.png", "resize b.png"] {
        producer.send(&Message::new("Jobs", job).tag("resize"))?;
    }

    let worker =
        mq.consumer("resizers").subscribe("Jobs", "resize").max_reconsume_times(2).start()?;
    let (mut done, mut tries) = (Vec::new(), 0);
    while done.len() < 2 || tries < 3 {
        for job in worker.poll(16, Duration::from_secs(10))? {
            let text = String::from_utf8(job.body().to_vec())?;
            if text.contains("broken") {
                tries += 1;
                println!("try {tries} of {text} failed");
                job.retry()?;
            } else {
                println!("{text}: done");
                done.push(text);
                job.ack();
            }
        }
    }
    done.sort();
    assert_eq!(done, ["resize a.png", "resize b.png"]);

    let mut dead = mq.reader("%DLQ%resizers", Seek::Begin)?;
    let letter = dead.follow(Duration::from_secs(10))?.ok_or("no dead letter")?;
    assert_eq!((letter.body(), letter.reconsume_times()), (&b"resize broken.png"[..], 3));
    println!("dead after {tries} tries");
    assert_eq!(tries, 3);
    mq.close()?;
    Ok(())
}
