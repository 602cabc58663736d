//! Times, as they are typed and shown.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Milliseconds since 1970 of `10m ago`, `now`, milliseconds, or a local or ISO time.
pub fn parse(text: &str) -> Result<i64, String> {
    parse_at(text, Timestamp::now().as_millisecond())
}

fn parse_at(text: &str, now: i64) -> Result<i64, String> {
    let text = text.trim();
    if text == "now" {
        return Ok(now);
    }
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    if let Some(span) = text.strip_suffix("ago").map(str::trim_end) {
        let digits = span.trim_end_matches(|c: char| c.is_alphabetic());
        let unit: i64 = match span[digits.len()..].trim() {
            "s" | "sec" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err("want a number with s, m, h or d before \"ago\"".into()),
        };
        let count: i64 = digits.trim().parse().map_err(|e| format!("{digits:?}: {e}"))?;
        return Ok(now.saturating_sub(count.saturating_mul(unit)));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let local = match text.parse::<DateTime>() {
        Ok(time) => time,
        Err(_) => text.parse::<Date>().map_err(|e| e.to_string())?.to_datetime(Default::default()),
    };
    let zoned: Zoned = local.to_zoned(TimeZone::system()).map_err(|e| e.to_string())?;
    Ok(zoned.timestamp().as_millisecond())
}

/// A time in the local zone, to the millisecond.
pub fn local(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        Err(_) => ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let now = 1_795_467_835_737;
        assert_eq!(parse_at("10m ago", now), Ok(now - 600_000));
        assert_eq!(parse_at("2 d ago", now), Ok(now - 172_800_000));
        assert_eq!(parse_at("now", now), Ok(now));
        assert_eq!(parse_at("17", now), Ok(17));
        assert_eq!(parse_at("1970-01-01T00:00:01Z", now), Ok(1000));
        let day = parse_at("2026-11-23", now).unwrap();
        assert_eq!(parse_at("2026-11-23 00:00:01.5", now), Ok(day + 1500));
        assert_eq!(parse_at("2026-11-23T21:15", now), Ok(day + 76_500_000));
        assert_eq!(local(day), "2026-11-23 00:00:00.000");
        for bad in ["", "ago", "x ago", "5y ago", "yesterday", "2026-13-01"] {
            assert!(parse_at(bad, now).is_err(), "{bad}");
        }
    }
}
