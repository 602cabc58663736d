//! Any bytes from a connection, as frames with JSON or binary headers: what is decoded is encoded
//! to the same head again, in both forms.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mq_broker::wire::command::{Command, Head, Outgoing, Value, decode};
use mq_broker::wire::frame::{Encoding, Frame, FrameLimits, Parsed, parse};

fuzz_target!(|input: &[u8]| {
    let limits = FrameLimits { frame: 1 << 16, header: 1 << 14 };
    let mut rest = input;
    while let Ok(Parsed::Frame(frame, len)) = parse(rest, &limits) {
        assert!(len > 0 && len <= rest.len());
        rest = &rest[len..];
        look(&frame);
    }
    // A header alone, without the lengths that a fuzzer has to guess.
    if let Some((kind, header)) = input.split_first() {
        let encoding = if kind & 1 == 0 { Encoding::Json } else { Encoding::Binary };
        look(&Frame { encoding, header, body: b"" });
    }
});

fn look(frame: &Frame<'_>) {
    let Ok(head) = decode(frame.encoding, frame.header) else { return };
    let mut command = Command::new(head.code);
    if let Some(remark) = &head.remark {
        command = command.remark(remark.to_string());
    }
    for (name, value) in &head.fields.0 {
        command = command.field(name.to_string(), Value::Text(value.to_string().into()));
    }
    // The binary form has 16 bits for a name's length.
    let fits = head.fields.0.iter().all(|(name, _)| name.len() < 1 << 15);
    for encoding in
        [Encoding::Json, Encoding::Binary].into_iter().filter(|e| fits || *e == Encoding::Json)
    {
        let mut out = Outgoing::default();
        command.encode_request(head.opaque, head.is_one_way(), encoding, &mut out);
        let limits = FrameLimits { frame: 1 << 24, header: 1 << 24 };
        let Ok(Parsed::Frame(again, _)) = parse(&out.bytes, &limits) else {
            panic!("what was encoded is a frame");
        };
        let again = decode(again.encoding, again.header).expect("what was encoded is a header");
        assert_eq!((again.code, again.opaque), (head.code, head.opaque));
        assert_eq!(again.fields, head.fields);
        assert_eq!(remark(&again), remark(&head));
    }
}

fn remark<'a>(head: &'a Head<'_>) -> Option<&'a str> {
    head.remark.as_deref().filter(|remark| !remark.is_empty())
}
