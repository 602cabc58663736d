//! `repair`: a damaged store made one that brokers open, Java's too.
//!
//! A Java broker's recovery ends at the first record that it cannot read and cuts the log there,
//! with all that follows. So damaged stretches become records that it reads and nobody is shown
//! (`fill`), and units that pointed there get a neighbour to stand in (`stand_in`). The rest is
//! what a start of ours does anyway: queues, checkpoint and the log's end follow the log. Before
//! anything is changed, its bytes are in the attic, on the disk.

mod attic;
mod fill;
mod stand_in;

use std::path::{Path, PathBuf};

use mq_store::broker::persist::ConfigFile;
use mq_store::config::{StoreConfig, split_paths};
use mq_store::os::fs::{Fs, list_numbered};
use mq_store::os::lock::StoreLock;
use mq_store::store::MessageStore;
use mq_store::summary;
use mq_store::view::{Misfit, StoreView};
use serde_json::{Value, json};

use super::output::{Output, Progress, count};
use super::summary::max_offset;
use super::verify::{Findings, check};
use super::{Answer, Failure, Repair};
use attic::Attic;

pub fn repair(root: &Path, log_dir: &Path, args: &Repair, out: &mut Output) -> Answer {
    let mut view = StoreView::open_with_log(root, log_dir)?;
    let lock = match (args.dry_run, view.in_use()) {
        (_, Some(holder)) => {
            return Err(mq_store::Error::Locked { path: root.to_owned(), holder }.into());
        }
        (true, None) => None,
        (false, None) => Some(StoreLock::take(root)?),
    };
    let fs = Fs::default();
    if !args.dry_run && lengthen(&fs, &view)? {
        view = StoreView::open_with_log(root, log_dir)?;
    }
    let found = check(&view, false, out)?;
    if found.damage == 0 {
        tell(out, "nothing", "the store is sound")?;
        return Ok(true);
    }
    let patches = fill::plan(&view, &found);
    for (what, how) in plan(&found, patches.bytes()) {
        tell(out, what, &how)?;
    }
    if args.dry_run {
        return Ok(false);
    }
    let attic = Attic::new(&fs, root)?;
    let doubtful = mend_files(&fs, &attic, &view, &found, &patches)?;
    drop((view, lock));
    let start = |index| {
        let log_dirs = split_paths(log_dir);
        start_and_stop(StoreConfig { log_dirs, index, ..StoreConfig::at(root) })
    };
    // Holes tell how many offsets a queue may have lost, so queues come first, then fillers, then the index.
    // Nobody but a start could come in between, and it would be harmless.
    start(false)?;
    let lock = StoreLock::take(root)?;
    patches.write(&fs, &attic, &StoreView::open_with_log(root, log_dir)?)?;
    let view = StoreView::open_with_log(root, log_dir)?;
    stand_in::put(&fs, &view, &doubtful, &patches)?;
    move_offsets_back(&fs, &attic, &view)?;
    drop((view, lock));
    start(true)?;
    tell(out, "kept", &format!("what was there before is in {}", attic.dir().display()))?;

    let view = StoreView::open_with_log(root, log_dir)?;
    let left = check(&view, false, out)?.damage;
    let verdict = match left {
        0 => "the store is sound".to_owned(),
        n => out.alarm(&format!("DAMAGE is left in {n} places")),
    };
    tell(out, "now", &verdict)?;
    Ok(left == 0)
}

fn tell(out: &mut Output, what: &str, how: &str) -> Result<(), Failure> {
    if out.json {
        return Ok(out.object(&json!({"repair": what, "what": how}))?);
    }
    Ok(out.line(&format!("repair {what:<11}{how}"))?)
}

/// What is to be done, in words.
fn plan(found: &Findings, filled: u64) -> Vec<(&'static str, String)> {
    let mut plan = Vec::new();
    if filled > 0 {
        let (records, holes) = (found.bad_records.len(), found.holes.len());
        let how = format!(
            "{records} damaged records and {holes} holes, {} bytes, become fillers",
            count(filled)
        );
        plan.push(("log", how));
    }
    if found.has_tail {
        plan.push(("log", format!("what stands behind {} is cut", found.end)));
    }
    if !found.bad_queues.is_empty() {
        plan.push(("queues", format!("{} are completed from the log", found.bad_queues.len())));
    }
    if found.bad_index || filled > 0 {
        plan.push(("index", "made anew from the log".to_owned()));
    }
    if found.bad_checkpoint {
        plan.push(("checkpoint", "written anew".to_owned()));
    }
    for name in &found.bad_config {
        plan.push(("config", format!("{name} gives way to its .bak")));
    }
    if found.ahead > 0 {
        plan.push(("offset", format!("{} go back to their queue's end", found.ahead)));
    }
    for Misfit { path, .. } in &found.misfits {
        plan.push(("file", format!("{} is mended, or goes to the attic", path.display())));
    }
    plan
}

/// Gives files of the log that were cut short their length back; what is added is zeros.
fn lengthen(fs: &Fs, view: &StoreView) -> Result<bool, Failure> {
    let len = view.log().file_len() as u64;
    let mut any = false;
    for (base, path) in list_numbered(view.log().dir())?.0 {
        let is_short = path.metadata().is_ok_and(|m| m.len() < len);
        if is_short && len > 0 && base % len == 0 {
            fs.set_len(&path, len)?;
            any = true;
        }
    }
    Ok(any)
}

/// What has to be done to files before a start finds them. Returns the queues that
/// may have lost messages.
fn mend_files(
    fs: &Fs,
    attic: &Attic<'_>,
    view: &StoreView,
    found: &Findings,
    patches: &fill::Patches,
) -> Result<Vec<(String, i32)>, Failure> {
    let root = view.root();
    let mut queues: Vec<(String, i32)> = found.bad_queues.iter().cloned().collect();
    queues.extend(stand_in::queues_that_point_into(view, patches)?);
    queues.sort();
    queues.dedup();
    for (topic, id) in &queues {
        attic.copy(&root.join("consumequeue").join(topic).join(id.to_string()))?;
    }
    if found.bad_index || !patches.is_empty() {
        attic.take(&root.join("index"))?;
    }
    if found.bad_checkpoint {
        attic.take(&root.join("checkpoint"))?;
    }
    for name in ["checkpoint", summary::CLEAN, summary::SYNCED] {
        attic.copy(&root.join(name))?;
    }
    // The start is to compare all queues with the whole log.
    summary::remove(fs, root, summary::CLEAN)?;
    summary::distrust(fs, root)?;
    for name in &found.bad_config {
        let path = root.join("config").join(name);
        let backup = path.with_file_name(format!("{name}.bak"));
        attic.take(&path)?;
        match view.config(name).value {
            Some(_) => {
                let bytes = std::fs::read(&backup)?;
                fs.replace(&path, &bytes, None)?;
            }
            None => attic.take(&backup)?,
        }
    }
    for Misfit { path, .. } in &found.misfits {
        // Those that have a place are mended in it.
        let is_numbered = |p: &Path| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit())
        };
        if path.is_file() && !is_numbered(path) {
            attic.take(path)?;
        }
    }
    Ok(queues)
}

/// Recovery, and the index made to its end.
fn start_and_stop(config: StoreConfig) -> Result<(), Failure> {
    let mut progress = Progress::new("recovery", 0);
    let clock = std::sync::Arc::new(mq_store::os::clock::SystemClock);
    let (store, report) =
        MessageStore::open_with(config, Fs::default(), clock, &mut |at, _| progress.at(at))?;
    let mut progress = Progress::new("index", 0);
    let mut steps = 0;
    while store.index_step()? {
        steps += 4 << 20;
        progress.at(steps);
    }
    progress.clear();
    store.close()?;
    drop(store);
    if let Some(cut) = &report.cut {
        eprintln!(
            "mq-store-inspect: {} bytes were cut at {}: {}",
            cut.bytes,
            cut.at,
            cut.kept.display()
        );
    }
    Ok(())
}

/// Committed offsets that are behind their queue's end go back to it: new messages would take
/// these places, and be passed by.
fn move_offsets_back(fs: &Fs, attic: &Attic<'_>, view: &StoreView) -> Result<(), Failure> {
    for name in ["consumerOffset.json", "lmqConsumerOffset.json"] {
        let path: PathBuf = view.root().join("config").join(name);
        let Some(mut value) = view.config(name).value else { continue };
        let file = ConfigFile::new(fs, view.root(), name);
        let table = value.get_mut("offsetTable").and_then(Value::as_object_mut);
        for (key, queues) in table.into_iter().flatten() {
            let Some((topic, _)) = key.split_once('@') else { continue };
            for (id, offset) in queues.as_object_mut().into_iter().flatten() {
                let (Ok(id), Some(committed)) = (id.parse(), offset.as_i64()) else { continue };
                let Ok(max) = max_offset(view, topic, id) else { continue };
                if u64::try_from(committed).is_ok_and(|n| n > max) {
                    *offset = max.into();
                    file.touch();
                }
            }
        }
        if file.is_touched() {
            attic.copy(&path)?;
            file.save(|| value)?;
        }
    }
    Ok(())
}
