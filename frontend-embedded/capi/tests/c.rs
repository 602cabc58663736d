//! The header is the one of the source, and a C program does with it what the header says.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use mq_embedded::{Clock, ManualClock, Mq, SystemClock};
use mq_store::codec::record::{Message, sys_flag};
use mq_store::config::StoreConfig;
use mq_store::store::MessageStore;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `UPDATE_HEADER=1` writes it.
#[test]
fn the_header_is_the_source_s() {
    let bindings = cbindgen::generate(here()).unwrap();
    let mut made = Vec::new();
    bindings.write(&mut made);
    let path = here().join("mq_embedded.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let there = std::fs::read(&path).unwrap_or_default();
    assert!(there == made, "UPDATE_HEADER=1 cargo test -p mq-embedded-capi makes it anew");
}

#[test]
fn a_c_program_sends_and_receives() {
    let dir = tempfile::tempdir().unwrap();
    // target/debug/deps/c-1234: the library stands where this program does.
    let exe = std::env::current_exe().unwrap();
    let libraries: PathBuf = exe.parent().unwrap().into();
    let program = dir.path().join("program");
    let built = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(here().join("tests/program.c"))
        .arg(format!("-I{}", here().display()))
        .arg(format!("-L{}", libraries.display()))
        .arg(format!("-Wl,-rpath,{}", libraries.display()))
        .arg("-lmq_embedded_c")
        .output()
        .expect("cc, which links Rust programs too");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let folder = dir.path().join("store");
    put_what_a_client_compressed(&folder);
    // Cargo's search path goes before ours, and leads to what `cargo build` made some time ago.
    let ran = Command::new(&program).arg(&folder).env_remove("LD_LIBRARY_PATH").output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(said, "resize a.png of resize, key 7\nonce more: resize a.png\nunpacked\n");

    // What it had come again comes when its 10 s are over, and nothing else.
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms() + 11_000));
    let mq = Mq::builder().clock(clock).background(false).open(&folder).unwrap();
    mq.step().unwrap();
    let consumer = mq.consumer("resizers").subscribe("Jobs", "*").start().unwrap();
    let jobs = consumer.poll(9, Duration::ZERO).unwrap();
    let seen: Vec<_> = jobs.iter().map(|j| (j.body(), j.reconsume_times())).collect();
    assert_eq!(seen, [(&b"a\0b"[..], 1)]);
}

/// "unpacked" in zlib's format, marked as Java's clients mark it.
fn put_what_a_client_compressed(folder: &Path) {
    let mq = Mq::open(folder).unwrap();
    mq.create_topic("Zipped", 1).unwrap();
    mq.close().unwrap();
    let (store, _) = MessageStore::open(StoreConfig::at(folder)).unwrap();
    let message = Message {
        topic: "Zipped",
        queue_id: 0,
        flag: 0,
        sys_flag: sys_flag::COMPRESSED,
        born_timestamp: 0,
        born_host: "127.0.0.1:1".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"x\x01\x01\x08\x00\xf7\xffunpacked\x0f2\x03L",
        properties: b"",
    };
    store.append(&message).unwrap();
    store.close().unwrap();
}
