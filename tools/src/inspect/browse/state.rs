//! What the browser shows, and what keys do to it.

use mq_store::store::as_record;
use mq_store::view::StoreView;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::list::List;
use crate::inspect::Failure;
use crate::inspect::body::Form;
use crate::inspect::message::in_full;
use crate::inspect::time;

/// Messages that a search by key lists.
const MAX_FOUND: usize = 1000;

pub struct Topic {
    pub name: String,
    /// Queue ids, and whether they are batch queues.
    pub queues: Vec<(i32, bool)>,
}

/// Where one is in a list, and what of it is seen.
#[derive(Clone, Copy, Default)]
pub struct Place {
    pub at: u64,
    pub top: u64,
}

pub enum Screen {
    Topics,
    Queues { topic: usize },
    Messages { title: String, topic: String, list: List },
    Message { title: String, position: u64, form: Form, lines: Vec<String> },
    Help,
}

/// What is being asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Topic,
    Key,
    Tag,
    Time,
}

impl Ask {
    pub fn prompt(self) -> &'static str {
        match self {
            Ask::Topic => "topic with: ",
            Ask::Key => "key: ",
            Ask::Tag => "tag: ",
            Ask::Time => "stored since (10m ago, 2026-11-23T21:15): ",
        }
    }
}

pub const HELP: [(&str, &str); 10] = [
    ("↑ ↓  j k", "one up, one down"),
    ("PgUp PgDn", "a page up, a page down"),
    ("Home End  g G", "the first, the last"),
    ("Enter →  l", "open: topic, queue, message"),
    ("Esc ←  h", "back"),
    ("/", "search: among topics by name, in a topic by key"),
    ("t  n N", "next message with a tag; again, and back"),
    ("@", "go to a time"),
    ("x", "a message's body as text, JSON, or a hex dump"),
    ("r  q", "read the store anew; quit"),
];

pub struct Browser {
    pub view: StoreView,
    pub topics: Vec<Topic>,
    /// Screens from the first to the one that is seen, each with its place.
    screens: Vec<(Screen, Place)>,
    pub input: Option<(Ask, String)>,
    /// One line for the user.
    pub status: String,
    tag: String,
    /// Lines that the list has on the terminal, as last drawn.
    pub page: u64,
    done: bool,
}

impl Browser {
    pub fn new(view: StoreView) -> Result<Browser, Failure> {
        let topics = topics_of(&view)?;
        Ok(Browser {
            view,
            topics,
            screens: vec![(Screen::Topics, Place::default())],
            input: None,
            status: String::new(),
            tag: String::new(),
            page: 20,
            done: false,
        })
    }

    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The screen that is seen; the first one is never left.
    pub fn screen(&self) -> (&Screen, Place) {
        let (screen, place) = &self.screens[self.screens.len() - 1];
        (screen, *place)
    }

    fn place(&mut self) -> &mut Place {
        let last = self.screens.len() - 1;
        &mut self.screens[last].1
    }

    /// Entries of the list that is seen, or lines of the text.
    pub fn len(&self) -> u64 {
        match self.screen().0 {
            Screen::Topics => self.topics.len() as u64,
            Screen::Queues { topic } => self.topics[*topic].queues.len() as u64,
            Screen::Messages { list, .. } => list.len(),
            Screen::Message { lines, .. } => lines.len() as u64,
            Screen::Help => HELP.len() as u64,
        }
    }

    /// Moves to an entry, and what is seen with it.
    fn go(&mut self, at: u64) {
        let (last, page) = (self.len().saturating_sub(1), self.page.max(1));
        let is_text = matches!(self.screen().0, Screen::Message { .. });
        let place = self.place();
        place.at = at.min(last);
        if is_text {
            // A text is scrolled; it has no entry to stand on.
            place.at = place.at.min(last.saturating_sub(page - 1));
            place.top = place.at;
        } else {
            place.top = place.top.clamp((place.at + 1).saturating_sub(page), place.at);
        }
    }

    /// Fits what is seen into another number of lines.
    pub fn resize(&mut self, page: u64) {
        self.page = page;
        self.go(self.screen().1.at);
    }

    fn open(&mut self, screen: Screen) {
        self.screens.push((screen, Place::default()));
    }

    pub fn key(&mut self, key: KeyEvent) -> Result<(), Failure> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            self.done = true;
            return Ok(());
        }
        self.status.clear();
        if self.input.is_some() {
            return self.type_in(key.code);
        }
        let at = self.screen().1.at;
        match key.code {
            KeyCode::Up | KeyCode::Char('k') => self.go(at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.go(at + 1),
            KeyCode::PageUp => self.go(at.saturating_sub(self.page)),
            KeyCode::PageDown | KeyCode::Char(' ') => self.go(at + self.page),
            KeyCode::Home | KeyCode::Char('g') => self.go(0),
            KeyCode::End | KeyCode::Char('G') => self.go(u64::MAX - 1),
            KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => self.enter()?,
            KeyCode::Esc | KeyCode::Left | KeyCode::Backspace | KeyCode::Char('h') => self.back(),
            KeyCode::Char('q') => self.done = true,
            KeyCode::Char('?') => self.open(Screen::Help),
            KeyCode::Char('/') => match self.screen().0 {
                Screen::Topics => self.ask(Ask::Topic),
                _ => self.ask(Ask::Key),
            },
            KeyCode::Char('t') => self.ask_in_list(Ask::Tag),
            KeyCode::Char('@') => self.ask_in_list(Ask::Time),
            KeyCode::Char('n') => self.next_tag(false),
            KeyCode::Char('N') => self.next_tag(true),
            KeyCode::Char('x') => self.next_form(),
            KeyCode::Char('r') => self.reload()?,
            _ => {}
        }
        Ok(())
    }

    fn back(&mut self) {
        if self.screens.len() > 1 {
            self.screens.pop();
            self.go(self.screen().1.at);
        }
    }

    fn enter(&mut self) -> Result<(), Failure> {
        let (screen, Place { at, .. }) = self.screen();
        match screen {
            Screen::Topics if !self.topics.is_empty() => {
                self.open(Screen::Queues { topic: at as usize });
            }
            Screen::Queues { topic } if self.len() > 0 => {
                let topic = &self.topics[*topic];
                let (id, is_batch) = topic.queues[at as usize];
                let list = if is_batch {
                    let batches = self.view.batch_queue(&topic.name, id, &mut Vec::new())?;
                    List::Found(batches.units().map(|b| b.unit.offset).collect())
                } else {
                    List::Queue(self.view.queue(&topic.name, id, &mut Vec::new())?)
                };
                let (title, topic) = (format!("{} queue {id}", topic.name), topic.name.clone());
                self.open(Screen::Messages { title, topic, list });
                // The newest first of all.
                self.go(u64::MAX - 1);
            }
            Screen::Messages { title, list, .. } if self.len() > 0 => {
                let Some(slice) = list.get(&self.view, at) else {
                    self.status = "this message is lost".into();
                    return Ok(());
                };
                let Some(record) = as_record(&slice) else { return Ok(()) };
                let position = record.physical_offset().unsigned_abs();
                let lines = in_full(&self.view, &record, Form::Auto);
                let title = match list.offset(at) {
                    Some(offset) => format!("{title}, offset {offset}"),
                    None => format!("{title}, {} of {}", at + 1, list.len()),
                };
                self.open(Screen::Message { title, position, form: Form::Auto, lines });
            }
            _ => {}
        }
        Ok(())
    }

    fn ask(&mut self, what: Ask) {
        if what == Ask::Key && self.topic().is_none() {
            self.status = "open a topic first".into();
        } else {
            self.input = Some((what, String::new()));
        }
    }

    fn ask_in_list(&mut self, what: Ask) {
        match self.screen().0 {
            Screen::Messages { .. } => self.ask(what),
            _ => self.status = "open a queue first".into(),
        }
    }

    /// The topic that one is in.
    fn topic(&self) -> Option<&str> {
        self.screens.iter().rev().find_map(|(screen, _)| match screen {
            Screen::Queues { topic } => Some(self.topics[*topic].name.as_str()),
            Screen::Messages { topic, .. } => Some(topic.as_str()),
            _ => None,
        })
    }

    fn type_in(&mut self, code: KeyCode) -> Result<(), Failure> {
        let Some((what, mut text)) = self.input.take() else { return Ok(()) };
        match code {
            KeyCode::Esc => return Ok(()),
            KeyCode::Enter => return self.answer(what, text.trim()),
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char(c) => text.push(c),
            _ => {}
        }
        self.input = Some((what, text));
        Ok(())
    }

    fn answer(&mut self, what: Ask, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        match what {
            Ask::Topic => {
                let (at, all) = (self.screen().1.at as usize, self.topics.len());
                let wanted = text.to_lowercase();
                let has = |n: &usize| self.topics[*n].name.to_lowercase().contains(&wanted);
                match (at + 1..all).chain(0..all.min(at + 1)).find(has) {
                    Some(n) => self.go(n as u64),
                    None => self.status = format!("no topic with {text}"),
                }
            }
            Ask::Key => self.find_key(text)?,
            Ask::Tag => {
                self.tag = text.to_owned();
                self.next_tag(false);
            }
            Ask::Time => match time::parse(text) {
                Ok(time) => {
                    if let Screen::Messages { list, .. } = self.screen().0 {
                        let at = list.at_time(&self.view, time);
                        if at == list.len() {
                            self.status = "nothing was stored since then".into();
                        }
                        self.go(at);
                    }
                }
                Err(why) => self.status = why,
            },
        }
        Ok(())
    }

    fn find_key(&mut self, key: &str) -> Result<(), Failure> {
        let Some(topic) = self.topic().map(str::to_owned) else { return Ok(()) };
        let index = self.view.index(&mut Vec::new())?;
        let found = self.view.query(&index, (&topic, key), MAX_FOUND, (i64::MIN, i64::MAX));
        let positions: Vec<u64> = found
            .iter()
            .filter_map(|s| as_record(s).map(|r| r.physical_offset().unsigned_abs()))
            .collect();
        if positions.is_empty() {
            self.status = match index.is_empty() {
                true => "there are no index files".into(),
                false => format!("no message of {topic} has the key {key}"),
            };
        } else {
            let title = format!("{topic} key {key}");
            self.open(Screen::Messages { title, topic, list: List::Found(positions) });
        }
        Ok(())
    }

    fn next_tag(&mut self, backward: bool) {
        let (Screen::Messages { list, .. }, place) = self.screen() else { return };
        if self.tag.is_empty() {
            self.status = "t asks for a tag".into();
            return;
        }
        match list.with_tag(&self.view, place.at, &self.tag, backward) {
            Some(n) => self.go(n),
            None => {
                let side = if backward { "before" } else { "behind" };
                self.status =
                    format!("no message with the tag {} near by {side} this one", self.tag);
            }
        }
    }

    fn next_form(&mut self) {
        let last = self.screens.len() - 1;
        let (Screen::Message { position, form, lines, .. }, _) = &mut self.screens[last] else {
            return;
        };
        *form = match form {
            Form::Auto => Form::Text,
            Form::Text => Form::Json,
            Form::Json => Form::Hex,
            Form::Hex => Form::Auto,
        };
        if let Some(slice) = self.view.record_at(*position)
            && let Some(record) = as_record(&slice)
        {
            *lines = in_full(&self.view, &record, *form);
        }
        self.go(self.screen().1.at);
    }

    /// Looks at the store as it is now, from the first screen on.
    fn reload(&mut self) -> Result<(), Failure> {
        let log_dir = self.view.log().dir().to_owned();
        self.view = StoreView::open_with_log(self.view.root(), &log_dir)?;
        self.topics = topics_of(&self.view)?;
        self.screens.truncate(1);
        self.go(self.screen().1.at);
        self.status = "read anew".into();
        Ok(())
    }
}

fn topics_of(view: &StoreView) -> Result<Vec<Topic>, Failure> {
    let mut queues = view.queues()?;
    let mut batches = view.batch_queues()?;
    for topic in batches.keys() {
        queues.entry(topic.clone()).or_default();
    }
    let topic = |(name, ids): (String, std::collections::BTreeSet<i32>)| {
        let batch = batches.remove(&name).unwrap_or_default();
        let queues = ids.into_iter().map(|id| (id, false));
        let queues = queues.chain(batch.into_iter().map(|id| (id, true))).collect();
        Topic { name, queues }
    };
    Ok(queues.into_iter().map(topic).collect())
}
