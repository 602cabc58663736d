//! Any bytes as an index file: opened, looked at and asked, it neither panics nor loops; and a
//! store that finds it, closed or killed, gives out what the log holds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mq_fuzz::{NOW, Scratch, config, lay_out, numbers, open, template, write};
use mq_store::index::IndexFile;
use mq_store::store::as_record;
use mq_store::view::StoreView;

thread_local! {
    static SCRATCH: Scratch = Scratch::default();
    static FILES: Vec<(std::path::PathBuf, Vec<u8>)> = SCRATCH.with(template);
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    FILES.with(|files| {
        SCRATCH.with(|scratch| {
            let root = scratch.empty();
            lay_out(root, files, if choice & 1 != 0 { "abort" } else { "index" });
            let mut bytes = bytes.to_vec();
            if choice & 2 != 0 {
                bytes.resize(config(root).index_shape.file_len(), 0);
            }
            write(root, "index/20261125000000000".as_ref(), &bytes);
            let view = StoreView::open(root).expect("there is a log");
            let index = view.index(&mut Vec::new()).expect("a folder");
            for key in ["K0", "K7", "none"] {
                for found in view.query(&index, ("T", key), 9, (0, i64::MAX)) {
                    assert!(as_record(&found).is_some());
                }
            }
            for file in &index {
                let file = IndexFile::open_read(file.path()).expect("it was there");
                file.expect("it was one").find(7, |_, _| true);
            }
            let (store, report) = open(root);
            while store.index_step().expect("there is room") {}
            for n in 0..9 {
                let key = format!("K{n}");
                for found in store.query("T", &key, 9, 0, NOW).records {
                    let body = as_record(&found).map(|r| r.body().to_owned()).unwrap_or_default();
                    assert_eq!(body.first_chunk(), Some(&u64::to_be_bytes(n)), "{report}");
                }
            }
            assert_eq!(numbers(&store, "T", 0).len(), 15, "{report}");
        });
    });
});
