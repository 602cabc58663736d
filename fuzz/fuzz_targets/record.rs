//! Any bytes as what stands at a place of the log: decoding neither panics nor reads beyond
//! them, and what decodes is encoded to the same bytes again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mq_store::codec::properties;
use mq_store::codec::record::{self, Entry, Message, Placement};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Entry::Record(r)) = record::decode(bytes) else { return };
    let _ = (r.check_body(), r.offset_msg_id(), properties::pairs(r.properties()).count());
    let message = Message {
        topic: r.topic(),
        queue_id: r.queue_id(),
        flag: r.flag(),
        sys_flag: r.sys_flag(),
        born_timestamp: r.born_timestamp(),
        born_host: r.born_host(),
        reconsume_times: r.reconsume_times(),
        prepared_transaction_offset: r.prepared_transaction_offset(),
        body: r.body(),
        properties: r.properties(),
    };
    let place = Placement {
        queue_offset: r.queue_offset() as u64,
        physical_offset: r.physical_offset() as u64,
        store_timestamp: r.store_timestamp(),
        store_host: r.store_host(),
    };
    let mut again = vec![0; record::encoded_len(&message, &place.store_host)];
    record::encode(&message, &place, r.body_crc(), &mut again);
    let Ok(Entry::Record(b)) = record::decode(&again) else { panic!("what was encoded decodes") };
    // Version, and ports above 16 bits, are ours to choose; all else is as it was.
    assert_eq!((b.topic(), b.body(), b.properties()), (r.topic(), r.body(), r.properties()));
    assert_eq!((b.queue_offset(), b.sys_flag()), (r.queue_offset(), r.sys_flag()));
});
