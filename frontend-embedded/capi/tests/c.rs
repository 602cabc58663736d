//! The header is the one of the source, and a C program does with it what the header says.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

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
    let ran = Command::new(&program).arg(dir.path().join("store")).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(said, "resize a.png of resize, key 7\nonce more: resize a.png\n");
}
