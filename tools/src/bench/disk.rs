//! How fast the disk takes small writes that are synced one by one.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use nix::fcntl::posix_fallocate;
use serde_json::json;

use super::cli::DiskArgs;
use super::error::{Error, Result};

/// Bytes of the file that is written to.
const FILE: u64 = 256 << 20;

pub fn run(args: &DiskArgs) -> Result<bool> {
    let path = args.dir.join(format!("mq-bench.{}.disk", std::process::id()));
    let done = measure(args, &path);
    // It may not have been made.
    let _ = std::fs::remove_file(&path);
    let [append, overwrite] = done?;
    let text = if args.json {
        json!({
            "mode": "disk", "size": args.size,
            "appendSyncsPerSecond": append, "overwriteSyncsPerSecond": overwrite,
        })
        .to_string()
    } else {
        format!(
            "disk  {}  {} B and fdatasync\n  append        {append:.0} a second, into allocated \
             space as a log does\n  overwrite     {overwrite:.0} a second",
            args.dir.display(),
            args.size
        )
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(true)
}

/// Syncs a second: appending to a file that has its space already, and then over the same again.
fn measure(args: &DiskArgs, path: &std::path::Path) -> Result<[f64; 2]> {
    let named = |source| Error::Call { what: path.display().to_string(), source };
    let file = File::create(path).map_err(named)?;
    posix_fallocate(&file, 0, FILE as i64).map_err(|e| named(e.into()))?;
    file.sync_all().map_err(named)?;
    let bytes = vec![7; args.size as usize];
    let places = FILE / u64::from(args.size);
    let run = |places: u64| {
        let (began, mut done) = (Instant::now(), 0);
        while began.elapsed() < args.duration && done < places {
            file.write_all_at(&bytes, done % places * u64::from(args.size)).map_err(named)?;
            file.sync_data().map_err(named)?;
            done += 1;
        }
        Ok::<_, Error>((done, done as f64 / began.elapsed().as_secs_f64()))
    };
    let (written, append) = run(places)?;
    let (_, overwrite) = run(written)?;
    Ok([append, overwrite])
}
