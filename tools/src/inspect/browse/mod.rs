//! `browse`: a full-screen browser. What is typed changes the state (`state`), and the state is
//! drawn (`draw`); only this file knows a terminal.

mod draw;
mod list;
mod state;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};

use mq_store::view::StoreView;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::output::colours;
use super::{Answer, Failure};
use state::Browser;

pub fn run(view: StoreView) -> Answer {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    let mut browser = Browser::new(view)?;
    let mut terminal = ratatui::try_init()?;
    let done = (|| -> Result<(), Failure> {
        while !browser.is_done() {
            terminal.draw(|frame| draw::draw(&mut browser, frame, colours()))?;
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => browser.key(key)?,
                _ => {}
            }
        }
        Ok(())
    })();
    ratatui::try_restore()?;
    done.map(|()| true)
}
