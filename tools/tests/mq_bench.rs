//! mq-bench as a user runs it, against a server that answers at once and keeps nothing.
#![allow(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread;

use mq_broker::wire::frame::{FrameLimits, Parsed, parse};
use serde_json::Value;

/// Serves on a port of its own. Each `busy`th send is refused.
fn serve(busy: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer_all(stream.unwrap(), busy));
        }
    });
    addr
}

fn answer_all(mut stream: TcpStream, busy: usize) {
    let (mut buf, mut filled, mut sends) = (vec![0; 1 << 20], 0, 0);
    while let Ok(n @ 1..) = stream.read(&mut buf[filled..]) {
        filled += n;
        let (mut at, mut out) = (0, Vec::new());
        while let Ok(Parsed::Frame(frame, total)) = parse(&buf[at..filled], &FrameLimits::default())
        {
            let header = std::str::from_utf8(frame.header).unwrap();
            let (_, rest) = header.split_once("\"opaque\":").unwrap();
            let opaque = rest.split(',').next().unwrap();
            let sent = header.starts_with("{\"code\":310,") || header.starts_with("{\"code\":320,");
            sends += usize::from(sent);
            let code = if sent && sends % busy == 0 { 2 } else { 0 };
            let body = "{\"readQueueNums\":4}";
            let header = format!(
                "{{\"code\":{code},\"extFields\":{{\"queueId\":\"0\",\"msgId\":\"7F000001000051AF0000000000000000\",\"queueOffset\":\"0\",\"offset\":\"0\"}},\"flag\":1,\"language\":\"JAVA\",\"opaque\":{opaque},\"remark\":\"so\",\"version\":513}}"
            );
            let body = if sent { "" } else { body };
            out.extend_from_slice(&((4 + header.len() + body.len()) as u32).to_be_bytes());
            out.extend_from_slice(&(header.len() as u32).to_be_bytes());
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(body.as_bytes());
            at += total;
        }
        buf.copy_within(at..filled, 0);
        filled -= at;
        if stream.write_all(&out).is_err() {
            return;
        }
    }
}

fn mq_bench(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mq-bench")).args(line.split(' ')).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn sends_what_it_was_told_and_counts_it() {
    let addr = serve(usize::MAX);
    let done = mq_bench(&format!("send --broker {addr} --count 5000 --json"));
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let told = json(&done);
    assert_eq!((&told["messages"], &told["bytes"]), (&5000.into(), &640_000.into()));
    assert!(told["latencyMicros"]["p99"].as_f64().unwrap() > 0.0, "{told}");
    let done = mq_bench(&format!("send --broker {addr} --count 640 --batch 32"));
    let table = String::from_utf8(done.stdout).unwrap();
    assert!(table.contains("batch 32") && table.contains("640 in "), "{table}");
}

#[test]
fn errors_are_counted_by_code_and_told_by_exit_code() {
    let addr = serve(10);
    let done = mq_bench(&format!(
        "send --broker {addr} --count 1000 --connections 1 --in-flight 4 --json"
    ));
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let told = json(&done);
    assert_eq!(told["messages"], 900, "nothing is sent again");
    assert_eq!(told["errors"], serde_json::json!([{"code": 2, "count": 100, "remark": "so"}]));
}

#[test]
fn a_broker_that_is_not_there_is_told() {
    let done = mq_bench("send --broker 127.0.0.1:1 --count 1");
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("cannot reach 127.0.0.1:1"), "{done:?}");
    assert_eq!(mq_bench("send --size 0").status.code(), Some(2));
}

/// Ends the process that serves.
struct Floor(std::process::Child);

impl Drop for Floor {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_floor_serves_every_mode() {
    let mut floor = Command::new(env!("CARGO_BIN_EXE_mq-bench"));
    floor.args(["floor", "--listen", "127.0.0.1:0", "--size", "1000"]).stdout(Stdio::piped());
    let mut floor = Floor(floor.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(floor.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let to = format!(
        "--broker {} --pid {} --json",
        line.trim().rsplit_once(' ').unwrap().1,
        floor.0.id()
    );
    let well = |line: &str| {
        let done = mq_bench(&format!("{line} {to}"));
        assert_eq!(done.status.code(), Some(0), "{line}: {done:?}");
        json(&done)
    };
    assert_eq!(well("send --count 3000")["messages"], 3000);
    assert_eq!(well("send --count 3000 --binary --topics 3")["messages"], 3000);
    let consumed = well("consume --count 3200");
    assert!(
        consumed["messages"].as_u64() >= Some(3200) && consumed["bytes"].as_u64() > Some(3_200_000)
    );
    let e2e = well("e2e --rate 500 --duration 400ms --warmup 100ms");
    assert!(e2e["messages"].as_u64() >= Some(190) && e2e["missing"] == 0, "{e2e}");
    assert_eq!(well("idle --connections 50 --duration 1ms")["connections"], 50);
}

#[test]
fn a_rate_is_kept() {
    let addr = serve(usize::MAX);
    let done = mq_bench(&format!("send --broker {addr} --rate 1000 --duration 500ms --json"));
    let sent = json(&done)["messages"].as_u64().unwrap();
    assert!((100..=500).contains(&sent), "{done:?}");
}

#[test]
fn disks() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let told = json(&mq_bench(&format!("disk --dir {dir} --duration 50ms --json")));
    assert!(told["appendSyncsPerSecond"].as_f64() > Some(0.0), "{told}");
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
    assert_eq!(mq_bench("disk --dir /proc").status.code(), Some(2));
}

/// What the tool itself can do: `cargo test --release -p mq-tools --test mq_bench -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement"]
fn own_speed() {
    let addr = serve(usize::MAX);
    for flags in ["", " --size 1024", " --batch 32"] {
        let line = format!("send --broker {addr} --duration 4s --warmup 1s{flags}");
        print!("{}", String::from_utf8(mq_bench(&line).stdout).unwrap());
    }
}
