//! How long requests take, by request, outcome and way.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use mq_store::broker::stats::Histogram;

use crate::wire::codes::response;

/// Upper bounds of the classes, ms.
pub const CLASSES_MS: [u64; 9] = [1, 3, 5, 7, 10, 100, 1_000, 2_000, 3_000];

/// What is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outcome {
    pub request: i32,
    pub response: i32,
    /// It was a pull that waited for a message.
    pub held: bool,
    /// No answer was wanted.
    pub one_way: bool,
}

/// Latencies of all requests since the start.
#[derive(Debug, Default)]
pub struct RpcLatencies(RwLock<HashMap<Outcome, Arc<Histogram<9>>>>);

impl RpcLatencies {
    pub fn add(&self, mut outcome: Outcome, took: Duration) {
        if outcome.response == response::REQUEST_CODE_NOT_SUPPORTED {
            // Whatever numbers clients think of are one.
            outcome.request = -1;
        }
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(histogram) = known.get(&outcome) {
            return histogram.add(&CLASSES_MS, ms);
        }
        drop(known);
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.entry(outcome).or_default().add(&CLASSES_MS, ms);
    }

    /// Everything, sorted.
    pub fn all(&self) -> Vec<(Outcome, Arc<Histogram<9>>)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = all.iter().map(|(o, h)| (*o, h.clone())).collect();
        all.sort_by_key(|(outcome, _)| *outcome);
        all
    }
}
