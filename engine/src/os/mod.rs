//! Files, mappings, the lock and the clock.

pub mod clock;
pub mod fs;
pub mod lock;
pub mod map;
