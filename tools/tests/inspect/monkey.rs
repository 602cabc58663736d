//! Stores that were damaged at random, in several places at once, and repaired.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mq_store::log::scan::Step;
use mq_store::view::StoreView;

use crate::{LOG_FILE, run, store};

/// splitmix64
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// Harms one file, and says how.
fn harm(rng: &mut Rng, files: &[PathBuf]) -> String {
    let path = &files[rng.below(files.len())];
    let Ok(mut bytes) = std::fs::read(path) else { return String::new() };
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
    let at = rng.below(used.max(1));
    let to = (at + 1 + rng.below(2000)).min(bytes.len());
    let kind = rng.below(7);
    match kind {
        0 => bytes.truncate(at),
        1 if !bytes.is_empty() => bytes[at] ^= 1 << rng.below(8),
        2 => bytes[at.min(to)..to].fill(0),
        3 => bytes[at.min(to)..to].iter_mut().for_each(|b| *b = rng.below(256) as u8),
        4 => bytes.extend([0x5a; 1000]),
        5 => {
            // A piece of the file itself.
            let from = rng.below(used.max(1));
            let len = (to - at.min(to)).min(bytes.len() - from);
            bytes.copy_within(from..from + len, at);
        }
        _ => {
            std::fs::remove_file(path).unwrap();
            return format!("{} removed", path.display());
        }
    }
    std::fs::write(path, bytes).unwrap();
    format!("{} harm {kind} from {at} to {to}", path.display())
}

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
        let dir = crate::copy_of(sound.path());
        let root = dir.path();
        let mut rng = Rng(seed);
        let mut files = crate::Files::new();
        crate::files(root, &mut files);
        let mut files: Vec<PathBuf> = files.into_keys().filter(|path| path.is_file()).collect();
        // Every second time in the log.
        if rng.below(2) == 0 {
            files.retain(|path| path.to_str().unwrap().contains("commitlog"));
        }
        if rng.below(2) == 0 {
            std::fs::write(root.join("abort"), "").unwrap();
        }
        let harms: Vec<_> = (0..1 + rng.below(4)).map(|_| harm(&mut rng, &files)).collect();
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
