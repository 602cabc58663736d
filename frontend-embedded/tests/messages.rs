//! Sending, consuming, and what is there after a restart.

use std::time::Duration;

use mq_embedded::{Error, Message, Mq};

const SOON: Duration = Duration::from_secs(10);

fn open(dir: &tempfile::TempDir) -> Mq {
    Mq::builder()
        .log_file_len(1 << 20)
        .queue_file_messages(1000)
        .index_shape(2000, 500)
        .open(dir.path())
        .unwrap()
}

#[test]
fn what_is_acknowledged_is_done_and_the_rest_comes_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mq = open(&dir);
    let producer = mq.producer();
    for n in 0..10 {
        let sent = producer.send(&Message::new("Jobs", &format!("{n}")).queue(1)).unwrap();
        assert_eq!((sent.queue_id(), sent.queue_offset()), (1, n));
    }
    let consumer = mq.consumer("workers").subscribe("Jobs", "*").start().unwrap();
    let mut jobs = consumer.poll(10, SOON).unwrap();
    let bodies: Vec<String> =
        jobs.iter().map(|j| String::from_utf8_lossy(j.body()).into_owned()).collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    jobs.drain(..4).for_each(|job| job.ack());
    let error = Mq::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::InUse { path, .. } if path == dir.path()), "{error}");
    drop(jobs);
    mq.close().unwrap();
    assert!(matches!(consumer.poll(1, SOON), Err(Error::Closed)));

    let mq = open(&dir);
    assert_eq!(mq.recovery(), [] as [String; 0]);
    let consumer = mq.consumer("workers").subscribe("Jobs", "*").start().unwrap();
    let jobs = consumer.poll(32, SOON).unwrap();
    assert_eq!(jobs.iter().map(|j| j.queue_offset()).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9]);
}
