//! Stores that were damaged at random, in several places at once, and repaired.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mq_store::log::scan::Step;
use mq_store::view::StoreView;

use crate::common::copy_of;
use crate::common::harm::{Rng, harm};
use crate::{Files, LOG_FILE, files, run, store};

/// Records that are intact, by position.
fn intact(root: &Path) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    let Ok(view) = StoreView::open(root) else { return found };
    view.walk(true, |step| {
        if let Step::Record(r) = step
            && r.is_dispatched()
        {
            found.insert(r.physical_offset().unsigned_abs(), r.bytes().to_vec());
        }
        ControlFlow::Continue(())
    });
    found
}

/// Records of `sent` whose bytes still stand where they were.
fn left(root: &Path, sent: &BTreeMap<u64, Vec<u8>>) -> Vec<u64> {
    let file = |at: u64| std::fs::read(root.join(format!("commitlog/{at:020}"))).ok();
    let is_left = |(at, record): (&u64, &Vec<u8>)| {
        let from = (at % LOG_FILE) as usize;
        let bytes = file(at - at % LOG_FILE)?;
        (bytes.get(from..from + record.len())? == record).then_some(*at)
    };
    sent.iter().filter_map(is_left).collect()
}

/// `MQ_REPAIR_FROM=… MQ_REPAIR_SEEDS=…` for other and for more.
#[test]
fn whatever_is_damaged_a_repaired_store_is_sound_and_has_what_was_intact() {
    let number = |name: &str, or| std::env::var(name).map_or(or, |n| n.parse().unwrap());
    let (from, count) = (number("MQ_REPAIR_FROM", 0), number("MQ_REPAIR_SEEDS", 20));
    let sound = store();
    let sent = intact(sound.path());
    assert!(sent.len() > 90);
    let mut bad = Vec::new();
    for seed in from..from + count {
        let dir = copy_of(sound.path());
        let root = dir.path();
        let mut rng = Rng(seed);
        let mut all = Files::new();
        files(root, &mut all);
        let mut paths: Vec<PathBuf> = all.into_keys().filter(|path| path.is_file()).collect();
        // Every second time in the log.
        if rng.one_in(2) {
            paths.retain(|path| path.to_str().unwrap().contains("commitlog"));
        }
        if rng.one_in(2) {
            std::fs::write(root.join("abort"), "").unwrap();
        }
        let harms: Vec<_> = (0..1 + rng.below(4)).map(|_| harm(&mut rng, &paths)).collect();
        let left = left(root, &sent);
        let (code, out, errors) = run(root, &["repair"]);
        let (sound, verified, _) = run(root, &["verify"]);
        let now = intact(root);
        let lost: Vec<_> = left.iter().filter(|at| now.get(at) != sent.get(at)).collect();
        // A flip in what nothing covers is not known from what was sent.
        let new: Vec<_> = now.keys().filter(|at| !sent.contains_key(at)).collect();
        // What is told and left: nothing covers properties, nor which queue a message is of.
        let borne =
            |line: &str| line.contains("properties are torn") || line.contains("of another queue");
        let is_sound = verified.lines().filter(|line| line.starts_with("damage")).all(borne);
        if code > 1 || sound != code || !is_sound || !lost.is_empty() || !new.is_empty() {
            let codes = format!("repair {code}, verify {sound}, lost {lost:?}, new {new:?}");
            bad.push(format!("seed {seed}: {harms:#?}: {codes}\n{out}{errors}{verified}"));
        }
    }
    assert!(bad.is_empty(), "{} of {count}\n{}", bad.len(), bad.join("\n\n"));
}
