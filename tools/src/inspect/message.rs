//! Messages: filtered lists, one in full, and queries by key.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;

use mq_store::codec::ids::parse_offset_msg_id;
use mq_store::codec::properties::name;
use mq_store::codec::record::{Record, sys_flag};
use mq_store::log::scan::{End, Step, Why};
use mq_store::os::map::Slice;
use mq_store::segment::Segment;
use mq_store::store::as_record;
use mq_store::view::{StoreView, has_key};

use super::body::{self, Form};
use super::decode::{decode, decode_in};
use super::line::Line;
use super::output::{Output, printable, size};
use super::time::local;
use super::{Answer, Failure, Filter, Messages, Query, TimeRange, follow};

impl Filter {
    pub fn takes(&self, r: &Record<'_>) -> bool {
        let inside =
            |(from, to)| u64::try_from(r.queue_offset()).is_ok_and(|n| from <= n && n < to);
        self.topic.as_deref().is_none_or(|topic| topic == r.topic())
            && self.queue.is_none_or(|id| id == r.queue_id())
            && self.offset.is_none_or(inside)
            && self.takes_any_queue(r)
    }

    /// All but what a queue's folder says: light queues point at messages of other topics.
    fn takes_any_queue(&self, r: &Record<'_>) -> bool {
        let (since, until) = self.time.bounds();
        let at = r.physical_offset().unsigned_abs();
        (since..=until).contains(&r.store_timestamp())
            && self.position.is_none_or(|(from, to)| from <= at && at < to)
            && self.tag.as_deref().is_none_or(|t| r.property(name::TAGS) == Some(t))
            && self.key.as_deref().is_none_or(|k| has_key(r, r.topic(), k))
            && self.property.iter().all(|(name, value)| r.property(name) == Some(value))
            && self.text.as_deref().is_none_or(|text| {
                let plain = body::plain(r).unwrap_or(r.body().into());
                text.is_empty() || plain.windows(text.len()).any(|w| w == text.as_bytes())
            })
    }
}

/// Writes messages as rows or lines, up to a number.
pub struct List<'a> {
    out: &'a mut Output,
    body: bool,
    decode: bool,
    left: usize,
    any: bool,
    failed: io::Result<()>,
}

impl<'a> List<'a> {
    pub fn new(
        out: &'a mut Output,
        (body, decode): (bool, bool),
        limit: usize,
    ) -> io::Result<List<'a>> {
        let titles = [
            ">POSITION",
            "TOPIC",
            ">QUEUE",
            ">OFFSET",
            "STORED",
            ">BODY",
            "TAGS",
            "KEYS",
            "UNIQUE KEY",
        ];
        out.table(&titles.map(|title| ("", title)))?;
        Ok(List { out, body, decode, left: limit, any: false, failed: Ok(()) })
    }

    /// Shows a message; breaks off when there is no more to show.
    pub fn show(&mut self, r: &Record<'_>) -> ControlFlow<()> {
        if self.left == 0 {
            return ControlFlow::Break(());
        }
        self.left -= 1;
        self.any = true;
        self.failed = self.write(r);
        if self.failed.is_err() || self.left == 0 {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn write(&mut self, r: &Record<'_>) -> io::Result<()> {
        let decoded = if self.decode { decode(r) } else { None };
        let mut line = Line::of(r, self.body);
        if self.out.json {
            line.decoded = decoded.map(|d| d.json());
            return self.out.object(&line);
        }
        let body = match body::plain(r) {
            _ if !self.body => String::new(),
            Ok(plain) => body::one_line(&plain, 500),
            Err(e) => format!("({e})"),
        };
        let mut below: Vec<String> = line.damaged.iter().map(|d| format!("damaged: {d}")).collect();
        let decoded = decoded.map(|d| d.lines()).unwrap_or_default();
        below.extend(decoded.iter().map(|line| printable(line)));
        below.push(body);
        let cells = [
            line.commit_log_offset.to_string(),
            line.topic.to_owned(),
            line.queue_id.to_string(),
            line.queue_offset.to_string(),
            local(line.store_timestamp),
            line.body_length.to_string(),
            line.tags.unwrap_or("").to_owned(),
            line.keys.unwrap_or("").to_owned(),
            line.msg_id.unwrap_or("").to_owned(),
        ];
        self.out.row(cells, &below.join("\n"))
    }

    /// Writes out what was shown so far.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.finish()
    }

    pub fn done(self) -> Answer {
        self.failed?;
        Ok(self.any)
    }
}

pub fn messages(view: &StoreView, args: &Messages, out: &mut Output) -> Answer {
    let mut list = List::new(out, (args.body, args.decode), args.limit)?;
    let filter = &args.filter;
    if args.follow {
        return follow::follow(view, args, list);
    }
    if let (Some(topic), Some(id)) = (&filter.topic, filter.queue) {
        let queue = view.queue(topic, id, &mut Vec::new())?;
        if queue.max_offset() > 0 {
            let (from, to) = filter.offset.unwrap_or((0, u64::MAX));
            let (mut from, mut to) = (from.max(queue.min_offset()), to.min(queue.max_offset()));
            while from < to && list.failed.is_ok() && list.left > 0 {
                let offset = if args.reverse { to - 1 } else { from };
                if args.reverse {
                    to -= 1
                } else {
                    from += 1
                }
                let Some(unit) = queue.get(offset).filter(|u| !u.is_filler()) else { continue };
                let slice = view.record_at(unit.offset);
                match slice.as_deref().and_then(as_record) {
                    Some(r) if filter.takes_any_queue(&r) => drop(list.show(&r)),
                    Some(_) => {}
                    None => eprintln!(
                        "mq-store-inspect: no message at {}, where offset {offset} should be",
                        unit.offset
                    ),
                }
            }
            list.done()?;
            return Ok(true);
        }
    }
    let files = files_of(view, &filter.time, filter.position);
    if args.reverse {
        newest_first(view, files, &mut list, |r| filter.takes(r));
    } else {
        walk(view, &files, |r| match filter.takes(r) {
            true => list.show(r),
            false => ControlFlow::Continue(()),
        });
    }
    list.done()?;
    Ok(true)
}

pub fn files_of(view: &StoreView, time: &TimeRange, position: Option<(u64, u64)>) -> Vec<Segment> {
    let (since, until) = time.bounds();
    let (from, to) = position.unwrap_or((0, u64::MAX));
    let mut files = view.log_files_of(since, until);
    files.retain(|f| f.base < to && from < f.limit());
    files
}

/// Shows the records of some files; damage between them goes to stderr.
pub fn walk(
    view: &StoreView,
    files: &[Segment],
    mut visit: impl FnMut(&Record<'_>) -> ControlFlow<()>,
) {
    let mut broke_off = false;
    let mut show = |r: &Record<'_>| {
        let flow = visit(r);
        broke_off = flow.is_break();
        flow
    };
    let end = view.walk_files(files, false, |step| match step {
        Step::Record(r) | Step::BadBody(r) => show(&r),
        Step::Hole { from, to, why } => {
            eprintln!("mq-store-inspect: {} bytes from {from} on are damaged: {why}", to - from);
            ControlFlow::Continue(())
        }
    });
    if let End { at, why: Why::Broken(e), .. } = end
        && !broke_off
    {
        eprintln!("mq-store-inspect: what stands at {at} is no message: {e}");
    }
}

/// Lists the records of some files, newest first. Records can be walked forward only, so the
/// places of those that are wanted of a file are gathered first.
fn newest_first(
    view: &StoreView,
    files: Vec<Segment>,
    list: &mut List<'_>,
    takes: impl Fn(&Record<'_>) -> bool,
) {
    for file in files.into_iter().rev() {
        let mut found = VecDeque::new();
        walk(view, std::slice::from_ref(&file), |r| {
            if takes(r) {
                found.push_back(r.physical_offset().unsigned_abs());
                if found.len() > list.left {
                    found.pop_front();
                }
            }
            ControlFlow::Continue(())
        });
        for at in found.into_iter().rev() {
            let slice = view.record_at(at);
            if slice.as_deref().and_then(as_record).is_some_and(|r| list.show(&r).is_break()) {
                return;
            }
        }
    }
}

/// The messages that an id stands for.
fn find(view: &StoreView, id: &str, scan: bool) -> Result<Vec<Slice>, Failure> {
    if let Ok(position) = id.parse() {
        return Ok(view.record_at(position).into_iter().collect());
    }
    let is_it = |r: &Record<'_>| r.offset_msg_id().eq_ignore_ascii_case(id);
    if let Some((_, position)) = parse_offset_msg_id(id)
        && let Some(slice) = view.record_at(position)
        && as_record(&slice).is_some_and(|r| is_it(&r))
    {
        return Ok(vec![slice]);
    }
    let mut found = Vec::new();
    if !scan {
        let index = view.index(&mut Vec::new())?;
        let mut topics = view.queues()?;
        topics.append(&mut view.batch_queues()?);
        for topic in topics.keys() {
            found.extend(view.query(&index, (topic, id), 64, (i64::MIN, i64::MAX)));
        }
    }
    if found.is_empty() {
        walk(view, &view.log().all(), |r| {
            if r.property(name::UNIQ_KEY) == Some(id) {
                found.extend(view.record_at(r.physical_offset().unsigned_abs()));
            }
            ControlFlow::Continue(())
        });
    }
    found.sort_by_key(|s| as_record(s).map(|r| r.physical_offset()));
    Ok(found)
}

pub fn message(view: &StoreView, args: &super::Message, out: &mut Output) -> Answer {
    let found = find(view, &args.id, args.scan)?;
    for (n, record) in found.iter().filter_map(|s| as_record(s)).enumerate() {
        if out.json {
            let mut line = Line::of(&record, true);
            line.decoded = decode_in(view, &record).map(|d| d.json());
            out.object(&line)?;
            continue;
        }
        if n > 0 {
            out.line("")?;
        }
        for line in in_full(view, &record, args.form) {
            out.line(&line)?;
        }
    }
    if found.is_empty() {
        eprintln!("mq-store-inspect: no message {}", printable(&args.id));
    }
    Ok(!found.is_empty())
}

/// A message in lines for people.
pub fn in_full(view: &StoreView, r: &Record<'_>, form: Form) -> Vec<String> {
    let line = Line::of(r, false);
    let mut lines = Vec::new();
    let mut fact = |name: &str, value: &str| lines.push(format!("{name:<16}{}", printable(value)));
    fact("topic", line.topic);
    fact("queue", &format!("{}, offset {}", line.queue_id, line.queue_offset));
    let bytes = size(r.size() as u64);
    fact("position", &format!("{}, {bytes} bytes, version {}", r.physical_offset(), r.version()));
    fact("offset id", &line.offset_msg_id);
    for (name, value) in [("unique key", line.msg_id), ("keys", line.keys), ("tags", line.tags)] {
        if let Some(value) = value {
            fact(name, value);
        }
    }
    fact("born", &format!("{} at {}", local(line.born_timestamp), line.born_host));
    fact("stored", &format!("{} at {}", local(line.store_timestamp), line.store_host));
    fact("flag", &line.flag.to_string());
    fact("sysFlag", &format!("{:#x}{}", line.sys_flag, flags(r)));
    fact("reconsume times", &line.reconsume_times.to_string());
    if line.prepared_transaction_offset != 0 {
        fact("half message", &line.prepared_transaction_offset.to_string());
    }
    let crc = line.damaged.as_deref().unwrap_or("right");
    fact("body CRC", &format!("{:#010x}, {crc}", line.body_crc));
    if let Some(is_right) = r.check_crc() {
        let wrong = "not right: damaged beside the body, or another record's";
        fact("record CRC", if is_right { "right" } else { wrong });
    }
    for (n, (name, value)) in line.properties.iter().enumerate() {
        fact(if n == 0 { "properties" } else { "" }, &format!("{name} = {value}"));
    }
    let decoded = decode_in(view, r).map(|d| d.lines()).unwrap_or_default();
    for (n, line) in decoded.iter().enumerate() {
        fact(if n == 0 { "meaning" } else { "" }, line);
    }
    let stored = format!("{} bytes", size(line.body_length as u64));
    let text = match body::plain(r) {
        Ok(plain) => {
            let (kind, text) = body::show(&plain, form);
            let unpacked = body::compression(r)
                .map(|with| format!(", {with} of {} bytes", size(plain.len() as u64)));
            fact("body", &format!("{stored}{}, {kind}", unpacked.unwrap_or_default()));
            text
        }
        Err(e) => {
            fact("body", &format!("{stored}, cannot be uncompressed: {e}"));
            body::show(r.body(), Form::Hex).1
        }
    };
    lines.extend(text.lines().map(str::to_owned));
    lines
}

fn flags(r: &Record<'_>) -> String {
    let is = |bit| r.sys_flag() & bit != 0;
    let names = [
        (is(sys_flag::COMPRESSED), "compressed"),
        (r.transaction() == sys_flag::PREPARED, "prepared"),
        (r.transaction() == sys_flag::COMMIT, "committed"),
        (r.transaction() == sys_flag::ROLLBACK, "rolled back"),
        (is(sys_flag::BORN_HOST_V6), "born host IPv6"),
        (is(sys_flag::STORE_HOST_V6), "store host IPv6"),
        (is(sys_flag::INNER_BATCH), "inner batch"),
    ];
    let names: Vec<_> = names.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

pub fn query(view: &StoreView, args: &Query, out: &mut Output) -> Answer {
    let mut list = List::new(out, (args.body, args.decode), args.limit)?;
    let (topic, key) = (args.topic.as_str(), args.key.as_str());
    if !args.scan {
        let index = view.index(&mut Vec::new())?;
        if index.is_empty() {
            eprintln!("mq-store-inspect: there are no index files; try --scan");
        }
        for slice in view.query(&index, (topic, key), args.limit, args.time.bounds()) {
            if as_record(&slice).is_some_and(|r| list.show(&r).is_break()) {
                break;
            }
        }
        return list.done();
    }
    let (since, until) = args.time.bounds();
    newest_first(view, files_of(view, &args.time, None), &mut list, |r| {
        has_key(r, topic, key) && (since..=until).contains(&r.store_timestamp())
    });
    list.done()
}
