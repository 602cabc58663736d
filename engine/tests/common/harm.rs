//! Damage to files, told by a seed.
use std::path::PathBuf;

/// splitmix64
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Behind the last byte that is not zero.
pub fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1)
}

/// Does something to one of `files`, and says what.
pub fn harm(rng: &mut Rng, files: &[PathBuf]) -> String {
    let path = &files[rng.below(files.len() as u64) as usize];
    let mut bytes = std::fs::read(path).unwrap_or_default();
    let end = used(&bytes);
    if end == 0 {
        return format!("{} is empty, or gone", path.display());
    }
    let at = rng.below(end as u64) as usize;
    let to = bytes.len().min(at + 1 + rng.below(2000) as usize);
    let what = match rng.below(7) {
        0 => {
            bytes.truncate(at);
            "truncated"
        }
        1 => {
            bytes[at] ^= 1 << rng.below(8);
            "flipped"
        }
        2 => {
            bytes[at..to].fill(0);
            "zeroed"
        }
        3 => {
            bytes[at..to].iter_mut().for_each(|b| *b = rng.below(256) as u8);
            "garbage"
        }
        4 => {
            let from = rng.below(end as u64) as usize;
            let len = (to - at).min(bytes.len() - from);
            bytes.copy_within(from..from + len, at);
            "another piece of it"
        }
        5 => {
            bytes.extend([0x5a; 1000]);
            "oversized"
        }
        _ => {
            std::fs::remove_file(path).unwrap();
            return format!("{} removed", path.display());
        }
    };
    std::fs::write(path, bytes).unwrap();
    format!("{} {what} {at} to {to}", path.display())
}
