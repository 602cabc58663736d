//! Benchmarks; see the files beside. `cargo bench -p mq-benches`.
