//! A catalogue of damage: each kind of it done to each kind of file, of a store of ours over several files
//! and of Java brokers' small ones. A store always opens, shows every message whose record is intact, by
//! queue and by key, takes new ones, and opens again. What Java does in such cases is told in docs/damage.md.
#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::harm::{Rng, harm, used};
use mq_store::broker::{Broker, BrokerConfig};
use mq_store::codec::properties;
use mq_store::log::scan::Step;
use mq_store::store::{MessageStore, ReadLimits, as_record};
use mq_store::view::StoreView;
use tempfile::TempDir;

type Harm = fn(&mut Vec<u8>);

/// What can befall a file, as a change of its bytes.
const HARMS: [(&str, Harm); 7] = [
    ("truncated", |file| file.truncate(used(file) / 2)),
    ("emptied", Vec::clear),
    ("flipped", |file| {
        let at = used(file) / 3;
        file[at] ^= 0x10;
    }),
    ("zeroed", |file| {
        let middle = used(file) / 2;
        let end = file.len().min(middle + 200);
        file[middle..end].fill(0);
    }),
    ("garbage behind its end", |file| {
        let (from, to) = (used(file), file.len().min(used(file) + 200));
        (from..to).for_each(|n| file[n] = (n * 37) as u8 | 1);
    }),
    ("garbage", |file| {
        let end = used(file);
        (0..end).for_each(|n| file[n] = (n * 101 + n / 7) as u8);
    }),
    ("oversized", |file| file.extend([0x5a; 1000])),
];

/// A message of a sound store.
struct Sent {
    topic: String,
    queue: i32,
    offset: i64,
    at: u64,
    record: Vec<u8>,
    key: Option<String>,
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// Every message that the store's queues have.
fn messages(root: &Path) -> Vec<Sent> {
    let view = StoreView::open(root).unwrap();
    let mut all = Vec::new();
    view.walk(false, |step| {
        if let Step::Record(r) = step
            && r.is_dispatched()
        {
            let batch = r.property("INNER_BASE").and_then(|n| n.parse().ok());
            all.push(Sent {
                topic: r.topic().to_owned(),
                queue: r.queue_id(),
                offset: batch.unwrap_or(r.queue_offset()),
                at: r.physical_offset().unsigned_abs(),
                record: r.bytes().to_vec(),
                key: properties::index_keys(r.properties()).next().map(str::to_owned),
            });
        }
        ControlFlow::Continue(())
    });
    all
}

/// The log's bytes by position, of the files that are there.
fn log(root: &Path) -> BTreeMap<u64, Vec<u8>> {
    let base = |path: &Path| path.file_name()?.to_str()?.parse().ok();
    let of = |path: PathBuf| Some((base(&path)?, std::fs::read(path).unwrap()));
    files(&root.join("commitlog")).into_iter().filter_map(of).collect()
}

/// What the store does not show, though it is intact in its `log`.
fn lost(store: &MessageStore, log: &BTreeMap<u64, Vec<u8>>, sent: &[Sent]) -> Vec<String> {
    while store.index_step().unwrap() {}
    while store.check_index_step().unwrap() {}
    while store.index_step().unwrap() {}
    let is_intact = |m: &&Sent| {
        let (base, file) = log.range(..=m.at).next_back()?;
        let from = (m.at - base) as usize;
        (file.get(from..from + m.record.len())? == m.record).then_some(())
    };
    let one = ReadLimits { messages: 1, scan: 1, ..ReadLimits::default() };
    let mut lost = Vec::new();
    for m in sent.iter().filter(|m| is_intact(m).is_some()) {
        let read = store.read(&m.topic, m.queue, m.offset, &one, |_| true).records;
        if read.first().is_none_or(|slice| **slice != m.record[..]) {
            lost.push(format!("{}/{} {} at {}", m.topic, m.queue, m.offset, m.at));
        }
        if let Some(key) = &m.key {
            let found = store.query(&m.topic, key, 64, 0, i64::MAX).records;
            let places = found.iter().filter_map(|s| Some(as_record(s)?.physical_offset()));
            if !places.into_iter().any(|at| at.unsigned_abs() == m.at) {
                lost.push(format!("{} by key {key}", m.topic));
            }
        }
    }
    lost
}

/// Opens a damaged store with its broker, twice, and tells what is wrong with it.
fn wrong(root: &Path, sent: &[Sent]) -> Vec<String> {
    let log = log(root);
    let mut wrong = Vec::new();
    for time in 0..2 {
        let (store, _) = common::open(root);
        wrong.extend(lost(&store, &log, sent));
        let (broker, _) = Broker::open(Arc::new(store), BrokerConfig::default(), Box::new(|_| {}));
        let before = broker.store().max_offset("New", 0);
        for n in 0..5 {
            let body = format!("new {n}");
            let message = common::message("New", 0, body.as_bytes());
            let place = broker.store().append(&message).unwrap();
            assert_eq!(place.queue_offset, before + n);
        }
        assert_eq!(before, 5 * time, "what was new is there at the next start");
        broker.close().unwrap();
    }
    wrong
}

/// Sixteen files of log, and as many of queues and index.
fn ours() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = common::open(dir.path());
    (0..200).for_each(|n| _ = common::append(&store, n));
    let (broker, _) = Broker::open(Arc::new(store), BrokerConfig::default(), Box::new(|_| {}));
    broker.offsets().commit("G", "T", 0, 1);
    broker.close().unwrap();
    drop(broker);
    // As a Java broker leaves it: without what lets a start believe more than it looks at.
    std::fs::remove_file(dir.path().join("mq-store.clean")).unwrap();
    std::fs::remove_file(dir.path().join("mq-store.synced")).unwrap();
    dir
}

fn java(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let archive = std::fs::File::open(fixtures.join(format!("{name}.tar.zst"))).unwrap();
    tar::Archive::new(zstd::Decoder::new(archive).unwrap()).unpack(dir.path()).unwrap();
    dir
}

/// Does every kind of damage to some files of every kind.
fn harm_all(sound: &Path) {
    let sent = messages(sound);
    assert!(sent.len() > 20);
    let mut kinds = vec![files(&sound.join("commitlog")), files(&sound.join("index"))];
    for queues in ["consumequeue", "batchconsumequeue"] {
        for topic in files(&sound.join(queues)) {
            kinds.extend(files(&topic).iter().map(|queue| files(queue)));
        }
    }
    kinds.retain(|files| !files.is_empty());
    // Of the queues the largest will do, and a batch queue.
    kinds[2..].sort_by_key(|of| (of[0].to_str().unwrap().contains("/consumequeue"), of.len()));
    let kinds = match kinds.len() {
        0..4 => kinds,
        n => vec![kinds[0].clone(), kinds[1].clone(), kinds[2].clone(), kinds[n - 1].clone()],
    };
    let mut targets = vec![sound.join("checkpoint")];
    targets.extend(files(&sound.join("config")).into_iter().filter(|f| f.extension().is_some()));
    for of in &kinds {
        targets.extend([of[0].clone(), of[of.len() / 2].clone(), of[of.len() - 1].clone()]);
    }
    targets.sort();
    targets.dedup();
    let mut bad = Vec::new();
    let mut done = 0;
    let mut case = |what: &str, harm: &dyn Fn(&Path)| {
        // A killed store and a closed one, in turns.
        let dir = common::copy_of(sound);
        harm(dir.path());
        if done % 2 == 1 {
            std::fs::write(dir.path().join("abort"), "").unwrap();
        }
        done += 1;
        let wrong = wrong(dir.path(), &sent);
        if !wrong.is_empty() {
            bad.push(format!("{what}, killed: {}: {wrong:?}", done % 2 == 0));
        }
    };
    for target in &targets {
        let name = target.strip_prefix(sound).unwrap();
        for (harm, change) in HARMS {
            case(&format!("{} {harm}", name.display()), &|root| {
                let mut bytes = std::fs::read(root.join(name)).unwrap();
                if used(&bytes) > 0 {
                    change(&mut bytes);
                }
                std::fs::write(root.join(name), bytes).unwrap();
            });
        }
        case(&format!("{} missing", name.display()), &|root| {
            std::fs::remove_file(root.join(name)).unwrap();
        });
    }
    for of in kinds.iter().filter(|of| of.len() > 1) {
        let [a, b] = [&of[0], &of[of.len() - 1]].map(|file| file.strip_prefix(sound).unwrap());
        case(&format!("{} and {} swapped", a.display(), b.display()), &|root| {
            std::fs::rename(root.join(a), root.join("between")).unwrap();
            std::fs::rename(root.join(b), root.join(a)).unwrap();
            std::fs::rename(root.join("between"), root.join(b)).unwrap();
        });
    }
    println!("{done} cases over {} messages, {} bad", sent.len(), bad.len());
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn a_store_of_ours_shows_what_is_intact() {
    harm_all(ours().path());
}

#[test]
fn a_java_store_of_5_5_shows_what_is_intact() {
    harm_all(java("5.5.0-features").path());
}

#[test]
fn a_java_store_of_4_5_shows_what_is_intact() {
    harm_all(java("4.5.2").path());
}

/// Damages several files, and says how.
fn harm_some(rng: &mut Rng, root: &Path) -> Vec<String> {
    let mut kinds = vec![files(&root.join("commitlog")), files(&root.join("index"))];
    kinds.push([files(&root.join("config")), files(root)].concat());
    for queues in ["consumequeue", "batchconsumequeue"] {
        let of_topics = files(&root.join(queues)).into_iter().flat_map(|topic| files(&topic));
        kinds.push(of_topics.flat_map(|queue| files(&queue)).collect());
    }
    kinds.iter_mut().for_each(|files| files.retain(|path| path.is_file()));
    kinds.retain(|files| !files.is_empty());
    if rng.one_in(2) {
        std::fs::write(root.join("abort"), "").unwrap();
    }
    let count = 1 + rng.below(4);
    let mut one = || {
        let of = &kinds[rng.below(kinds.len() as u64) as usize];
        harm(rng, of)
    };
    (0..count).map(|_| one()).collect()
}

/// `MQ_DAMAGE_FROM=… MQ_DAMAGE_SEEDS=…` for other and for more.
#[test]
fn whatever_is_damaged_at_once_a_store_shows_what_is_intact() {
    let number = |name: &str, or| std::env::var(name).map_or(or, |n| n.parse().unwrap());
    let (from, count) = (number("MQ_DAMAGE_FROM", 0), number("MQ_DAMAGE_SEEDS", 40));
    let stores = [ours(), java("5.5.0-features"), java("4.5.2")];
    let stores = stores.map(|dir| (messages(dir.path()), dir));
    let mut bad = Vec::new();
    for seed in from..from + count {
        let (sent, sound) = &stores[seed as usize % 3];
        let dir = common::copy_of(sound.path());
        let harms = harm_some(&mut Rng(seed), dir.path());
        let wrong = wrong(dir.path(), sent);
        if !wrong.is_empty() {
            bad.push(format!("seed {seed}: {harms:#?}: {wrong:#?}"));
        }
    }
    assert!(bad.is_empty(), "{} of {count}\n{}", bad.len(), bad.join("\n"));
}
