use std::path::Path;
use std::sync::Arc;

use mq_store::codec::index::Shape;
use mq_store::codec::record::Message;
use mq_store::config::StoreConfig;
use mq_store::os::clock::ManualClock;
use mq_store::os::fs::Fs;
use mq_store::store::MessageStore;
use mq_store::view::StoreView;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Modifier;

use super::draw::draw;
use super::state::Browser;

const START: i64 = 1_795_467_835_000;

/// A hundred messages of Orders in two queues, a second apart, and one of Other.
fn fill(root: &Path) {
    let clock = Arc::new(ManualClock::at(START));
    let config = StoreConfig {
        log_file_len: 64 << 10,
        index_shape: Shape { slots: 25, items: 100 },
        queue_file_len: 400,
        ..StoreConfig::at(root)
    };
    let open = MessageStore::open_with(config, Fs::default(), clock.clone(), &mut |_, _| {});
    let (store, _) = open.unwrap();
    for n in 0..101 {
        let tag = if n % 10 == 3 { "rare" } else { "usual" };
        let properties = format!("KEYS\u{1}k{n}\u{2}TAGS\u{1}{tag}\u{2}");
        let body = format!("body {n}\x1b[2J");
        let message = Message {
            topic: if n == 100 { "Other" } else { "Orders" },
            queue_id: n % 2,
            flag: 0,
            sys_flag: 0,
            born_timestamp: START,
            born_host: "1.2.3.4:5".parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: body.as_bytes(),
            properties: properties.as_bytes(),
        };
        store.append(&message).unwrap();
        clock.advance(1000);
    }
}

struct Session {
    _dir: tempfile::TempDir,
    browser: Browser,
    terminal: Terminal<TestBackend>,
}

impl Session {
    fn new() -> Session {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let browser = Browser::new(StoreView::open(dir.path()).unwrap()).unwrap();
        let terminal = Terminal::new(TestBackend::new(90, 13)).unwrap();
        let mut session = Session { _dir: dir, browser, terminal };
        session.draw();
        session
    }

    fn draw(&mut self) {
        self.terminal.draw(|frame| draw(&mut self.browser, frame, true)).unwrap();
    }

    fn press(&mut self, keys: &[KeyCode]) -> &mut Session {
        for code in keys {
            self.browser.key(KeyEvent::new(*code, KeyModifiers::NONE)).unwrap();
            self.draw();
        }
        self
    }

    fn type_in(&mut self, text: &str) -> &mut Session {
        let keys: Vec<_> = text.chars().map(Char).collect();
        self.press(&keys).press(&[Enter])
    }

    fn line(&self, y: u16) -> String {
        let buffer = self.terminal.backend().buffer();
        (0..90).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned()
    }

    /// The line that stands out.
    fn chosen(&self) -> String {
        let buffer = self.terminal.backend().buffer();
        let is_chosen = |y: &u16| buffer[(0, *y)].modifier.contains(Modifier::REVERSED);
        (0..13).find(is_chosen).map(|y| self.line(y)).unwrap_or_default()
    }
}

use KeyCode::{Char, Down, End, Enter, Esc, Home, PageUp, Up};

#[test]
fn from_topics_to_one_message_and_back() {
    let mut s = Session::new();
    assert!(s.line(0).ends_with(": topics, 1 of 2"), "{}", s.line(0));
    assert_eq!(s.chosen(), "       2            100  Orders");
    s.press(&[Enter, Down]);
    assert_eq!(s.line(0), "Orders");
    assert!(s.chosen().starts_with("     1              0             50             50  2026-"));
    s.press(&[Enter]);
    assert_eq!(s.line(0), "Orders queue 1: 50 of 50");
    assert!(
        s.chosen().contains("          49  2026-")
            && s.chosen().contains("usual, k99, body 99\\u{1b}[2J")
    );
    s.press(&[Up, Enter]);
    assert_eq!(s.line(0), "Orders queue 1, offset 48");
    assert_eq!(s.line(2), "topic           Orders");
    s.press(&[Char('x'), Char('x'), End]);
    assert!(s.line(11).contains("body 97.[2J"), "{}", s.line(11));
    s.press(&[Esc]);
    assert!(s.chosen().contains("k97"));
    s.press(&[Home]);
    assert!(s.chosen().contains("k1,") && s.line(2) == s.chosen());
    s.press(&[Esc, Esc, Esc, Esc]);
    assert!(s.line(0).contains(": topics"));
    s.press(&[Char('q')]);
    assert!(s.browser.is_done());
}

#[test]
fn searches_by_name_key_tag_and_time() {
    let mut s = Session::new();
    s.press(&[Char('/')]).type_in("oth");
    assert!(s.chosen().ends_with("Other"));
    s.press(&[Char('/')]).type_in("rder");
    assert!(s.chosen().ends_with("Orders"));
    s.press(&[Enter, Char('/')]);
    assert_eq!(s.line(12), "key:");
    s.type_in("nothing");
    assert_eq!(s.line(12), "no message of Orders has the key nothing");
    s.press(&[Char('/')]).type_in("k42");
    assert_eq!(s.line(0), "Orders key k42: 1 of 1");
    s.press(&[Enter]);
    assert_eq!(s.line(0), "Orders key k42, 1 of 1");
    s.press(&[Esc, Esc]);
    s.press(&[Down, Enter, Home, Char('t')]).type_in("rare");
    assert!(s.chosen().contains("rare, k3,"), "{}", s.chosen());
    s.press(&[Char('n'), Char('n')]);
    assert!(s.chosen().contains("rare, k23,"));
    s.press(&[Char('N')]);
    assert!(s.chosen().contains("rare, k13,"));
    s.press(&[End, Char('n')]);
    assert!(s.line(12).starts_with("no message with the tag rare"));
    s.press(&[Char('@')]).type_in(&(START + 60_500).to_string());
    assert!(s.chosen().contains("k61,"), "{}", s.chosen());
    s.press(&[Char('@')]).type_in("yesterday");
    assert!(s.chosen().contains("k61,") && !s.line(12).is_empty());
    s.press(&[Char('@'), Esc, PageUp]);
    assert!(s.chosen().contains("k41,"), "{}", s.chosen());
}

#[test]
fn a_small_terminal_and_an_empty_store() {
    let mut s = Session::new();
    s.terminal = Terminal::new(TestBackend::new(90, 4)).unwrap();
    s.draw();
    s.press(&[Enter, Enter, Home, Down, Down, Char('?'), Esc, Char('r')]);
    assert_eq!(s.line(3), "read anew");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("commitlog")).unwrap();
    s.browser = Browser::new(StoreView::open(dir.path()).unwrap()).unwrap();
    s.draw();
    s.press(&[Enter, Down, Up, End, Char('/')]).type_in("x");
    assert_eq!(s.line(3), "no topic with x");
}
