//! `messages --follow`: what a broker writes while we look on.

use std::ops::ControlFlow;
use std::time::Duration;

use mq_store::log::scan::{self, Checks, Step};
use mq_store::view::StoreView;

use super::message::{List, files_of, walk};
use super::verify::damage_of;
use super::{Answer, Messages};

/// A mapped file says nothing when it is written, so the place of the next record is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A record that is damaged for so many looks is not one that is just being written.
const PATIENCE: u32 = 5;

/// Lists what comes from now on; if a time or place is given, what is there of it first.
pub fn follow(view: &StoreView, args: &Messages, mut list: List<'_>) -> Answer {
    let filter = &args.filter;
    let has_start =
        filter.time.since.is_some() || filter.position.is_some() || filter.offset.is_some();
    let mut at = end_of_log(view);
    if has_start {
        let mut done = false;
        walk(view, &files_of(view, &filter.time, filter.position), |r| {
            if r.physical_offset().unsigned_abs() >= at || !filter.takes(r) {
                return ControlFlow::Continue(());
            }
            let flow = list.show(r);
            done = flow.is_break();
            flow
        });
        if done {
            return list.done();
        }
    }
    let log_dir = view.log().dir().to_owned();
    let mut segments = view.log().all();
    let mut damaged_looks = 0;
    loop {
        list.flush()?;
        if segments.last().is_none_or(|s| at >= s.limit()) {
            segments = StoreView::open_with_log(view.root(), &log_dir)?.log().all();
        }
        segments.retain(|s| s.limit() > at);
        let mut done = false;
        let mut next = at;
        let checks = Checks { crc_from: at, last_time: 0, zeros_end_from: 0 };
        let end = scan::walk(&segments, at, checks, |step| {
            let r = match step {
                Step::Record(r) | Step::BadBody(r) => r,
                Step::Hole { to, .. } => {
                    next = to;
                    return ControlFlow::Continue(());
                }
            };
            // Nothing but the body has a CRC. What is being written may lack its end.
            if damage_of(&r).is_some() && damaged_looks < PATIENCE {
                damaged_looks += 1;
                return ControlFlow::Break(());
            }
            damaged_looks = 0;
            next = r.physical_offset().unsigned_abs() + r.size() as u64;
            if filter.takes(&r) && list.show(&r).is_break() {
                done = true;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        let moved = next > at;
        at = match segments.iter().find(|s| s.limit() == end.at) {
            // A blank closed the file.
            Some(_) if damaged_looks == 0 => end.at.max(next),
            _ => next,
        };
        if done {
            return list.done();
        }
        if !moved {
            list.flush()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Behind the log's last record.
fn end_of_log(view: &StoreView) -> u64 {
    // Files that were made ahead have nothing in them yet.
    for file in view.log().all().into_iter().rev() {
        let end =
            view.walk_files(std::slice::from_ref(&file), false, |_| ControlFlow::Continue(()));
        if end.at > file.base {
            return end.at;
        }
    }
    view.log_min()
}
