//! A program that embeds the store is killed under load.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use mq_embedded::{Message, Mq, Seek};

const FOLDER: &str = "MQ_EMBEDDED_KILL_TEST";

/// The program that is killed: says every number that was acknowledged to it, and consumes
/// without acknowledging. As a test of its own it does nothing.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(FOLDER) else { return };
    let mq = Mq::builder().log_file_len(1 << 20).index_shape(20_000, 5000).open(dir).unwrap();
    let consumer = mq.consumer("G").subscribe("T", "*").start().unwrap();
    for n in 0.. {
        mq.producer().send(&Message::new("T", &format!("{n}"))).unwrap();
        println!("\nsent {n}");
        if n % 10 == 0 {
            drop(consumer.poll(5, Duration::ZERO).unwrap());
        }
    }
}

#[test]
fn a_killed_program_loses_nothing_and_unacknowledged_messages_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    let mut started_at = 0;
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        for line in lines {
            let line = line.unwrap();
            let Some(n) = line.strip_prefix("sent ") else { continue };
            acknowledged.insert((round, n.to_owned()));
            heard += 1;
            if heard == 2000 {
                child.kill().unwrap();
            }
        }
        assert!(heard >= 2000 && !child.wait().unwrap().success());
        let mq = Mq::open(dir.path()).unwrap();
        let all: Vec<_> = mq.reader("T", Seek::Begin).unwrap().collect();
        let of_round: BTreeSet<String> = all[started_at..]
            .iter()
            .map(|m| String::from_utf8(m.body().to_vec()).unwrap())
            .collect();
        let expected = acknowledged.iter().filter(|(r, _)| *r == round);
        let missing: Vec<&String> =
            expected.map(|(_, n)| n).filter(|n| !of_round.contains(*n)).collect();
        let (found, notes) = (mq.verify().unwrap(), mq.recovery());
        assert!(missing.is_empty(), "round {round} lost {missing:?}: {found:?} {notes:?}");
        // Nothing was acknowledged by the consumer: all comes again.
        let consumer = mq.consumer("G").subscribe("T", "*").max_in_flight(1 << 20).start().unwrap();
        let mut again = 0;
        while again < all.len() {
            let got = consumer.poll(1000, Duration::from_secs(10)).unwrap();
            assert!(!got.is_empty(), "{again} of {} came again", all.len());
            again += got.len();
        }
        assert_eq!(again, all.len());
        started_at = all.len();
        drop(consumer);
        assert_eq!(mq.verify().unwrap().damages, 0);
        mq.close().unwrap();
    }
}
