//! `export`: messages as JSON lines, in the order of the log.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

use mq_store::codec::record::Record;
use mq_store::log::scan::Step;
use mq_store::view::StoreView;
use serde_json::json;

use super::line::Line;
use super::message::files_of;
use super::output::{Output, Progress, count};
use super::verify::damage_of;
use super::{Answer, Export, Failure};

/// Where the lines go: plain or compressed, to a file or to standard output.
enum To {
    Plain(BufWriter<Box<dyn Write>>),
    Zstd(Box<zstd::Encoder<'static, BufWriter<Box<dyn Write>>>>),
}

impl Write for To {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            To::Plain(to) => to.write(bytes),
            To::Zstd(to) => to.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            To::Plain(to) => to.flush(),
            To::Zstd(to) => to.flush(),
        }
    }
}

impl To {
    fn open(path: Option<&Path>, zstd: bool) -> io::Result<To> {
        let to: Box<dyn Write> = match path {
            None => Box::new(io::stdout()),
            // Nobody's file is overwritten.
            Some(path) => Box::new(
                File::create_new(path)
                    .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?,
            ),
        };
        let to = BufWriter::with_capacity(1 << 16, to);
        let is_zst = path.and_then(|p| p.extension()).is_some_and(|e| e == "zst");
        if !zstd && !is_zst {
            return Ok(To::Plain(to));
        }
        Ok(To::Zstd(Box::new(zstd::Encoder::new(to, zstd::DEFAULT_COMPRESSION_LEVEL)?)))
    }

    fn finish(self) -> io::Result<()> {
        match self {
            To::Plain(mut to) => to.flush(),
            To::Zstd(to) => to.finish()?.flush(),
        }
    }
}

pub fn export(view: &StoreView, args: &Export, out: &mut Output) -> Answer {
    let mut to = To::open(args.output.as_deref(), args.zstd)?;
    let files = files_of(view, &args.filter.time, args.filter.position);
    let (from, end) = (files.first().map_or(0, |f| f.base), files.last().map_or(0, |f| f.limit()));
    let (mut exported, mut damaged) = (0u64, 0u64);
    let mut failed = Ok(());
    let mut progress = Progress::new("export", end - from);
    let mut write = |r: &Record<'_>| {
        serde_json::to_writer(&mut to, &Line::of(r, true))?;
        to.write_all(b"\n")
    };
    view.walk_files(&files, true, |step| {
        let r = match step {
            Step::Record(r) | Step::BadBody(r) => r,
            Step::Hole { from, to, why } => {
                progress.tell(&format!("{} bytes from {from} on are damaged: {why}", to - from));
                damaged += 1;
                return ControlFlow::Continue(());
            }
        };
        let at = r.physical_offset().unsigned_abs();
        progress.at(at - from);
        if !args.filter.takes(&r) {
            return ControlFlow::Continue(());
        }
        if let Some(what) = damage_of(&r) {
            damaged += 1;
            if !args.damaged {
                progress.tell(&format!("left out, the message at {at}: {what}"));
                return ControlFlow::Continue(());
            }
        }
        if exported == args.limit {
            return ControlFlow::Break(());
        }
        exported += 1;
        failed = write(&r);
        if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    progress.clear();
    failed.map_err(Failure::Output)?;
    to.finish()?;
    if args.output.is_some() && out.json {
        out.object(&json!({"exported": exported, "damaged": damaged}))?;
    } else if args.output.is_some() {
        out.line(&format!("{} messages exported, {damaged} damaged", count(exported)))?;
    }
    Ok(damaged == 0)
}
