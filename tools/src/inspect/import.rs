//! `import`: messages from the JSON lines of `export`, into a store's folder or to a broker.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mq_store::broker::names::OWN;
use mq_store::broker::persist::ConfigFile;
use mq_store::broker::topics::{TopicConfig, TopicTable};
use mq_store::codec::properties;
use mq_store::codec::record::{Message, sys_flag};
use mq_store::config::{StoreConfig, split_paths};
use mq_store::os::fs::Fs;
use mq_store::store::MessageStore;
use serde::Deserialize;
use serde_json::json;

use super::output::{Output, Progress, count};
use super::send::Sender;
use super::{Answer, Failure, Import};

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// No line is longer: a body of 64 MiB in base64, and room for the rest.
const MAX_LINE: u64 = 96 << 20;
/// Messages between two steps of the index.
const INDEX_EVERY: u64 = 10_000;

/// What is read of a line.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Incoming {
    topic: String,
    queue_id: i32,
    flag: i32,
    sys_flag: i32,
    born_timestamp: i64,
    born_host: Option<SocketAddr>,
    reconsume_times: i32,
    properties: BTreeMap<String, String>,
    body: Option<String>,
    damaged: Option<String>,
}

/// Where messages go.
enum To {
    Store(Box<MessageStore>),
    Broker(Box<Sender>),
}

impl To {
    fn put(&mut self, message: &Message<'_>) -> Result<(), Failure> {
        match self {
            To::Store(store) => Ok(store.append(message).map(drop)?),
            To::Broker(sender) => sender.send(message),
        }
    }
}

/// `target` is a store's folder, or "host:port" of a broker.
pub fn import(target: &Path, log_dir: Option<&Path>, args: &Import, out: &mut Output) -> Answer {
    let (mut lines, bytes) = open(&args.input)?;
    let address = target.to_str().filter(|t| !target.exists() && is_address(t));
    let mut to = match address {
        Some(address) => {
            let security = args.security.security().map_err(Failure::Security)?;
            To::Broker(Box::new(Sender::connect(address, &security)?))
        }
        None => {
            let config = StoreConfig {
                log_dirs: log_dir.map(split_paths).unwrap_or_default(),
                // A file may come from a broker that takes larger ones.
                max_body: 64 << 20,
                ..StoreConfig::at(target)
            };
            let (store, report) = MessageStore::open(config)?;
            if !report.fast && report.records > 0 {
                eprintln!("mq-store-inspect: {report}");
            }
            To::Store(Box::new(store))
        }
    };
    let mut progress = Progress::new("import", bytes);
    let (mut number, mut read, mut imported, mut skipped, mut refused) = (0u64, 0u64, 0u64, 0, 0);
    let mut queues: BTreeMap<String, i32> = BTreeMap::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if n == 0 {
            break;
        }
        (number, read) = (number + 1, read + n as u64);
        progress.at(read);
        if line.trim_ascii().is_empty() {
            continue;
        }
        let done = parse(&line).and_then(|(incoming, body, text)| {
            if !args.all && is_left_out(&incoming) {
                return Ok(false);
            }
            let message = Message {
                topic: &incoming.topic,
                queue_id: incoming.queue_id,
                flag: incoming.flag,
                sys_flag: incoming.sys_flag,
                born_timestamp: incoming.born_timestamp,
                born_host: incoming.born_host.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0))),
                reconsume_times: incoming.reconsume_times,
                // A position in the log that it came from.
                prepared_transaction_offset: 0,
                body: &body,
                properties: &text,
            };
            to.put(&message)?;
            let most = queues.entry(incoming.topic).or_default();
            *most = (*most).max(incoming.queue_id.saturating_add(1));
            Ok(true)
        });
        match done {
            Ok(true) => imported += 1,
            Ok(false) => skipped += 1,
            // With this line the matter is over only for this line.
            Err(why @ (Failure::Line(_) | Failure::Store(mq_store::Error::Limit(_)))) => {
                refused += 1;
                progress.tell(&format!("line {number}: {why}"));
            }
            Err(e) => {
                progress.clear();
                eprintln!(
                    "mq-store-inspect: {imported} messages were imported, up to line {number}"
                );
                return Err(e);
            }
        }
        if imported.is_multiple_of(INDEX_EVERY)
            && let To::Store(store) = &to
        {
            while store.index_step()? {}
        }
    }
    progress.clear();
    if let To::Store(store) = &to {
        store.flush()?;
        while store.index_step()? {}
        enter_topics(store, &queues)?;
        store.close()?;
    }
    if out.json {
        out.object(&json!({"imported": imported, "leftOut": skipped, "refused": refused}))?;
    } else {
        let left = if skipped > 0 {
            format!(", {} left out (brokers' own; see --all)", count(skipped))
        } else {
            String::new()
        };
        out.line(&format!("{} messages imported{left}, {refused} refused", count(imported)))?;
    }
    Ok(refused == 0)
}

/// Whether a text is "host:port".
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
}

/// The input and its length, as far as known.
fn open(path: &Path) -> Result<(Box<dyn BufRead>, u64), Failure> {
    let (input, len): (Box<dyn Read>, u64) = match path.to_str() {
        Some("-") => (Box::new(io::stdin()), 0),
        _ => {
            let failed = |source: io::Error| Failure::Input { path: path.to_owned(), source };
            let file = File::open(path).map_err(failed)?;
            let len = file.metadata().map_err(failed)?.len();
            (Box::new(file), len)
        }
    };
    let mut input = BufReader::with_capacity(1 << 16, input);
    if input.fill_buf()?.starts_with(&ZSTD_MAGIC) {
        // How long it is unpacked is not known.
        return Ok((Box::new(BufReader::new(zstd::Decoder::with_buffer(input)?)), 0));
    }
    Ok((Box::new(input), len))
}

fn parse(line: &[u8]) -> Result<(Incoming, Vec<u8>, Vec<u8>), Failure> {
    let bad = |why: String| Failure::Line(why);
    let incoming: Incoming = serde_json::from_slice(line).map_err(|e| bad(e.to_string()))?;
    if incoming.topic.is_empty() {
        return Err(bad("it has no topic".into()));
    }
    if let Some(damage) = &incoming.damaged {
        return Err(bad(format!("it was damaged when it was exported: {damage}")));
    }
    let Some(body) = &incoming.body else {
        return Err(bad("it has no body; export writes lines that have".into()));
    };
    let body = STANDARD.decode(body).map_err(|e| bad(format!("body: {e}")))?;
    let mut text = Vec::new();
    // That was the CRC of another record.
    for (name, value) in
        incoming.properties.iter().filter(|(name, _)| *name != properties::name::CRC32)
    {
        properties::push(&mut text, name, value);
    }
    Ok((incoming, body, text))
}

/// What brokers keep for themselves means nothing, or too much, in another store: what was delayed
/// would be delivered again. An inner batch is no message but several, and types that are never
/// shown are none.
fn is_left_out(incoming: &Incoming) -> bool {
    let topic = incoming.topic.as_str();
    let kind = incoming.sys_flag & sys_flag::TRANSACTION;
    OWN.contains(&topic)
        || topic.starts_with("rmq_sys_")
        || incoming.sys_flag & sys_flag::INNER_BATCH != 0
        || kind == sys_flag::PREPARED
        || kind == sys_flag::ROLLBACK
}

/// Enters topics that are new to the store, so that a broker serves them.
fn enter_topics(store: &MessageStore, queues: &BTreeMap<String, i32>) -> Result<(), Failure> {
    let file = ConfigFile::new(&Fs::default(), &store.config().root, "topics.json");
    let mut notes = Vec::new();
    let mut table: TopicTable = file.load(&mut notes);
    for (topic, queues) in queues {
        let config = table.topic_config_table.get(topic);
        if config.is_some_and(|c| c.queues() >= *queues) {
            continue;
        }
        let mut config = config.cloned().unwrap_or_else(|| TopicConfig::new(topic, *queues));
        config.read_queue_nums = config.read_queue_nums.max(*queues);
        config.write_queue_nums = config.write_queue_nums.max(*queues);
        table.topic_config_table.insert(topic.clone(), config);
        file.touch();
    }
    table.data_version.next(store.clock().now_ms());
    for note in notes {
        eprintln!("mq-store-inspect: {note}");
    }
    Ok(file.save(|| table)?)
}
