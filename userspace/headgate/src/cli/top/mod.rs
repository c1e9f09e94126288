//! A screen with rates, drops and maps, live.

mod draw;
mod state;
mod tables;

use std::{
    io::{IsTerminal, stdin, stdout},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::state::{After, State};
use crate::view::{Sample, View};

/// Maximum number of connections on the screen: the map may hold a million.
const MAX_CONNECTIONS: usize = 1000;

#[derive(Args)]
pub(crate) struct TopArgs {
    /// Seconds between two updates
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
    /// Only rows that contain this text
    #[arg(long, default_value = "")]
    filter: String,
}

pub(crate) fn top(pins: &Path, args: &TopArgs) -> Result<()> {
    ensure!(
        stdin().is_terminal() && stdout().is_terminal(),
        "top needs a terminal; `headgate status` prints once"
    );
    let mut state = State::new(Sample::take(pins)?, args.interval, args.filter.clone());
    let mut terminal = ratatui::init();
    let result = follow(pins, &mut state, &mut terminal);
    ratatui::restore();
    result
}

fn follow(pins: &Path, state: &mut State, terminal: &mut ratatui::DefaultTerminal) -> Result<()> {
    let mut updated = Instant::now();
    loop {
        terminal.draw(|frame| draw::draw(frame, state))?;
        let left = Duration::from_secs(state.interval_s).saturating_sub(updated.elapsed());
        if event::poll(left)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && state.on_key(key) == After::Quit
        {
            return Ok(());
        }
        if updated.elapsed() >= Duration::from_secs(state.interval_s) {
            updated = Instant::now();
            if !state.is_paused {
                let connections = match state.shows_connections() {
                    true => View::open(pins)?.connections(MAX_CONNECTIONS)?,
                    false => Vec::new(),
                };
                state.update(Sample::take(pins)?, connections);
            }
        }
    }
}
