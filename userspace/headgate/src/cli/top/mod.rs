//! A screen that shows rates, drops and maps as they change.

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

/// Connections that are shown at most: a table may hold a million.
const CONNECTIONS: usize = 1000;

#[derive(Args)]
pub(crate) struct Options {
    /// Seconds between two looks
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
    /// Only rows that contain this
    #[arg(long, default_value = "")]
    filter: String,
}

pub(crate) fn run(pins: &Path, options: &Options) -> Result<()> {
    ensure!(
        stdin().is_terminal() && stdout().is_terminal(),
        "top wants a terminal; `headgate status` prints once"
    );
    let mut state = State::new(
        Sample::take(pins)?,
        options.interval,
        options.filter.clone(),
    );
    let mut terminal = ratatui::init();
    let result = follow(pins, &mut state, &mut terminal);
    ratatui::restore();
    result
}

fn follow(pins: &Path, state: &mut State, terminal: &mut ratatui::DefaultTerminal) -> Result<()> {
    let mut looked = Instant::now();
    loop {
        terminal.draw(|frame| draw::draw(frame, state))?;
        let left = Duration::from_secs(state.interval_s).saturating_sub(looked.elapsed());
        if event::poll(left)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && state.on_key(key) == After::Quit
        {
            return Ok(());
        }
        if looked.elapsed() >= Duration::from_secs(state.interval_s) {
            looked = Instant::now();
            if !state.is_paused {
                let connections = match state.shows_connections() {
                    true => View::open(pins)?.connections(CONNECTIONS)?,
                    false => Vec::new(),
                };
                state.look(Sample::take(pins)?, connections);
            }
        }
    }
}
