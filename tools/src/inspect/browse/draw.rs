//! The state of the browser, drawn.

use mq_store::codec::properties::name;
use mq_store::store::as_record;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::list::List;
use super::state::{Browser, HELP, Screen};
use crate::inspect::body;
use crate::inspect::output::{count, printable};
use crate::inspect::time::local;

pub fn draw(browser: &mut Browser, frame: &mut Frame<'_>, colours: bool) {
    let [title, head, list, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    browser.resize(u64::from(list.height));

    let bold = Style::new().add_modifier(Modifier::BOLD);
    let accent = if colours { bold.fg(Color::Cyan) } else { bold };
    frame.render_widget(Line::styled(title_of(browser), accent), title);
    frame.render_widget(Line::styled(head_of(browser.screen().0), bold), head);
    let (screen, place) = browser.screen();
    let is_text = matches!(screen, Screen::Message { .. } | Screen::Help);
    let lines = (place.top..browser.len()).take(usize::from(list.height)).map(|n| {
        let style = match n == place.at && !is_text {
            true => Style::new().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        };
        let width = usize::from(list.width);
        Line::styled(format!("{:width$}", entry(browser, screen, n)), style)
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), list);
    let foot_line = match &browser.input {
        Some((what, text)) => {
            let line = format!("{}{text}", what.prompt());
            let at = (Line::raw(line.as_str()).width() as u16).min(foot.width.saturating_sub(1));
            frame.set_cursor_position((foot.x + at, foot.y));
            Line::styled(line, accent)
        }
        None if browser.status.is_empty() => {
            Line::raw("Enter opens  Esc back  / search  t tag  @ time  ? help  q quit")
        }
        None => Line::styled(printable(&browser.status), accent),
    };
    frame.render_widget(foot_line, foot);
}

fn title_of(browser: &Browser) -> String {
    let (screen, place) = browser.screen();
    let store = browser.view.root().display();
    let of = |n: u64| format!("{} of {}", count((place.at + 1).min(n)), count(n));
    match screen {
        Screen::Topics => format!("{store}: topics, {}", of(browser.len())),
        Screen::Queues { topic } => printable(&browser.topics[*topic].name),
        Screen::Messages { title, list, .. } => printable(&format!("{title}: {}", of(list.len()))),
        Screen::Message { title, .. } => printable(title),
        Screen::Help => "keys".into(),
    }
}

fn head_of(screen: &Screen) -> String {
    match screen {
        Screen::Topics => format!("{:>8} {:>14}  TOPIC", "QUEUES", "MESSAGES"),
        Screen::Queues { .. } => {
            format!("{:>6} {:>14} {:>14} {:>14}  LAST STORED", "QUEUE", "MIN", "MAX", "MESSAGES")
        }
        Screen::Messages { .. } => {
            format!("{:>12}  {:<23} {:>8}  TAGS, KEYS, BODY", "OFFSET", "STORED", "BYTES")
        }
        Screen::Message { .. } | Screen::Help => String::new(),
    }
}

fn entry(browser: &Browser, screen: &Screen, n: u64) -> String {
    let at = n as usize;
    match screen {
        Screen::Topics => {
            let topic = &browser.topics[at];
            let messages: u64 = topic
                .queues
                .iter()
                .map(|(id, batch)| facts(browser, &topic.name, *id, *batch).2)
                .sum();
            let (queues, name) = (topic.queues.len(), printable(&topic.name));
            format!("{queues:>8} {:>14}  {name}", count(messages))
        }
        Screen::Queues { topic } => {
            let topic = &browser.topics[*topic];
            let (id, batch) = topic.queues[at];
            let (min, max, messages, last) = facts(browser, &topic.name, id, batch);
            let last = last.map(local).unwrap_or_default();
            let kind = if batch { " (batches)" } else { "" };
            format!("{id:>6} {min:>14} {max:>14} {:>14}  {last}{kind}", count(messages))
        }
        Screen::Messages { list, .. } => message(browser, list, n),
        Screen::Message { lines, .. } => lines[at].replace('\t', "    "),
        Screen::Help => format!("  {:<16} {}", HELP[at].0, HELP[at].1),
    }
}

/// First and next offset of a queue, its messages, and when the last one was stored.
fn facts(browser: &Browser, topic: &str, id: i32, is_batch: bool) -> (u64, u64, u64, Option<i64>) {
    let view = &browser.view;
    let misfits = &mut Vec::new();
    if is_batch {
        let Ok(queue) = view.batch_queue(topic, id, misfits) else { return Default::default() };
        let first = queue.units().next().map_or(0, |b| b.base);
        let last = queue.units().last();
        let max = last.as_ref().map_or(0, |b| b.end());
        return (first, max, max - first.min(max), last.map(|b| b.store_timestamp));
    }
    let Ok(queue) = view.queue(topic, id, misfits) else { return Default::default() };
    let (min, max) = (queue.min_offset(), queue.max_offset());
    let last = queue.last_unit().and_then(|u| view.record_at(u.offset));
    let time = last.as_deref().and_then(as_record).map(|r| r.store_timestamp());
    (min, max, max - min, time)
}

fn message(browser: &Browser, list: &List, n: u64) -> String {
    let slice = list.get(&browser.view, n);
    let Some(r) = slice.as_deref().and_then(as_record) else {
        let offset = list.offset(n).map(|n| n.to_string()).unwrap_or_default();
        return format!("{offset:>12}  (lost)");
    };
    let offset = list.offset(n).unwrap_or(r.queue_offset().unsigned_abs());
    let [tags, keys] = [name::TAGS, name::KEYS].map(|p| r.property(p).unwrap_or("-"));
    let plain = body::plain(&r).unwrap_or(r.body().into());
    let text = body::one_line(&plain, 100);
    let stored = local(r.store_timestamp());
    format!(
        "{offset:>12}  {stored:<23} {:>8}  {}, {}, {text}",
        r.size(),
        printable(tags),
        printable(keys)
    )
}
