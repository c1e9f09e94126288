//! What is shown, and how keys change it. The keys are those of htop and k9s.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::tables::{self, Cell, Content};
use crate::view::{ConnectionRow, Rates, Sample, Totals};

/// A page of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Services,
    Backends,
    Reasons,
    Maps,
    Connections,
}

impl Tab {
    pub(super) const ALL: [Self; 5] = [
        Self::Services,
        Self::Backends,
        Self::Reasons,
        Self::Maps,
        Self::Connections,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Services => "1 Services",
            Self::Backends => "2 Backends",
            Self::Reasons => "3 Reasons",
            Self::Maps => "4 Maps",
            Self::Connections => "5 Connections",
        }
    }

    /// The column that the page is sorted by at first.
    const fn column(self) -> usize {
        match self {
            Self::Services => 1,
            Self::Backends => 3,
            Self::Reasons => 2,
            Self::Maps => 3,
            Self::Connections => 0,
        }
    }
}

/// What a key does to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Stay,
    Quit,
}

pub(super) struct State {
    pub(super) before: Sample,
    pub(super) now: Sample,
    connections: Vec<ConnectionRow>,
    pub(super) tab: Tab,
    /// The service whose backends are shown.
    pub(super) service: Option<String>,
    pub(super) selected: usize,
    pub(super) column: usize,
    is_reversed: bool,
    pub(super) filter: String,
    pub(super) is_filtering: bool,
    pub(super) is_paused: bool,
    pub(super) has_help: bool,
    pub(super) interval_s: u64,
}

impl State {
    pub(super) fn new(sample: Sample, interval_s: u64, filter: String) -> Self {
        Self {
            before: sample.clone(),
            now: sample,
            connections: Vec::new(),
            tab: Tab::Services,
            service: None,
            selected: 0,
            column: Tab::Services.column(),
            is_reversed: false,
            filter,
            is_filtering: false,
            is_paused: false,
            has_help: false,
            interval_s,
        }
    }

    /// Replaces what is shown.
    pub(super) fn update(&mut self, sample: Sample, connections: Vec<ConnectionRow>) {
        self.before = std::mem::replace(&mut self.now, sample);
        self.connections = connections;
    }

    pub(super) fn shows_connections(&self) -> bool {
        self.tab == Tab::Connections
    }

    /// The rows on the screen, in their order.
    pub(super) fn content(&self) -> Content {
        let mut content = match self.tab {
            Tab::Services => tables::services(&self.rates(), &self.now),
            Tab::Backends => tables::backends(&self.rates(), &self.now, self.service.as_deref()),
            Tab::Reasons => tables::reasons(&self.rates(), &self.now),
            Tab::Maps => tables::maps(&self.now),
            Tab::Connections => tables::connections(&self.connections),
        };
        let is_wanted =
            |row: &Vec<Cell>| row.iter().any(|cell| cell.shown().contains(&self.filter));
        content.rows.retain(is_wanted);
        content.rows.sort_by(|a, b| {
            let order = match (a.get(self.column), b.get(self.column)) {
                (Some(a), Some(b)) => a.order(b),
                _ => std::cmp::Ordering::Equal,
            };
            if self.is_reversed {
                order.reverse()
            } else {
                order
            }
        });
        content
    }

    fn rates(&self) -> Rates<'_> {
        Rates::new(&self.before, &self.now)
    }

    /// Rates of all Services together.
    pub(super) fn totals(&self) -> Totals {
        self.rates().totals(&self.now)
    }

    fn open(&mut self, tab: Tab) {
        self.tab = tab;
        self.service = None;
        self.column = tab.column();
        self.selected = 0;
        self.is_reversed = false;
    }

    fn step(&mut self, by: isize) {
        let last = self.content().rows.len().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(by).min(last);
    }

    fn turn(&mut self, by: isize) {
        let at = Tab::ALL
            .iter()
            .position(|tab| *tab == self.tab)
            .unwrap_or(0);
        let len = Tab::ALL.len() as isize;
        let next = (at as isize + by).rem_euclid(len) as usize;
        if let Some(tab) = Tab::ALL.get(next) {
            self.open(*tab);
        }
    }

    /// Shows the backends of the selected service.
    fn enter(&mut self) {
        if self.tab != Tab::Services {
            return;
        }
        let content = self.content();
        if let Some(Cell::Text(name)) = content.rows.get(self.selected).and_then(|row| row.first())
        {
            let name = name.clone();
            self.open(Tab::Backends);
            self.filter.clear();
            self.service = Some(name);
        }
    }

    fn leave(&mut self) {
        if self.has_help {
            self.has_help = false;
        } else if self.service.is_some() {
            self.open(Tab::Services);
        } else {
            self.filter.clear();
        }
    }

    fn on_filter_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_filtering = false,
            KeyCode::Esc => {
                self.is_filtering = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
        self.selected = 0;
    }

    pub(super) fn on_key(&mut self, key: KeyEvent) -> After {
        const PAGE: isize = 10;
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return After::Quit;
        }
        if self.is_filtering {
            self.on_filter_key(key.code);
            return After::Stay;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::F(10) => return After::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.has_help = !self.has_help,
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(-1),
            KeyCode::Char(digit @ '1'..='5') => self.open(Tab::ALL[digit as usize - '1' as usize]),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(PAGE),
            KeyCode::PageUp => self.step(-PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.selected = 0,
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            KeyCode::Enter => self.enter(),
            KeyCode::Esc => self.leave(),
            KeyCode::Char('/') => self.is_filtering = true,
            KeyCode::Char('s') => {
                self.column = (self.column + 1) % self.content().header.len().max(1);
            }
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('+') => self.interval_s = (self.interval_s + 1).min(60),
            KeyCode::Char('-') => self.interval_s = self.interval_s.saturating_sub(1).max(1),
            _ => {}
        }
        After::Stay
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use ratatui::{
        Terminal,
        backend::TestBackend,
        crossterm::event::{KeyCode, KeyEvent},
    };

    use super::{After, State, Tab};
    use crate::{
        cli::top::draw::draw,
        view::{Sample, ServiceRow},
    };

    fn sample(second: i64, connections: [u64; 2]) -> Sample {
        let service = |(name, connections): (&str, u64)| ServiceRow {
            service: format!("default/{name}"),
            connections,
            ..ServiceRow::default()
        };
        Sample {
            time: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second),
            agent: None,
            services: ["api", "web"]
                .into_iter()
                .zip(connections)
                .map(service)
                .collect(),
            backends: Vec::new(),
            counters: Vec::new(),
            maps: Vec::new(),
        }
    }

    fn names(state: &State) -> Vec<String> {
        let rows = state.content().rows;
        rows.iter().map(|row| row[0].shown()).collect()
    }

    fn press(state: &mut State, keys: &str) {
        for letter in keys.chars() {
            let code = match letter {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                other => KeyCode::Char(other),
            };
            assert_eq!(state.on_key(KeyEvent::from(code)), After::Stay);
        }
    }

    #[test]
    fn keys_sort_filter_and_turn_pages() {
        let mut state = State::new(sample(0, [5, 5]), 1, String::new());
        state.update(sample(2, [5, 45]), Vec::new());
        assert_eq!(names(&state), ["default/web", "default/api"], "by rate");
        assert_eq!(state.content().rows[0][1].shown(), "20");
        assert_eq!(state.totals().traffic.connections, 20.0);
        press(&mut state, "r");
        assert_eq!(names(&state), ["default/api", "default/web"]);
        press(&mut state, "r/ap\n");
        assert_eq!(names(&state), ["default/api"]);
        press(&mut state, "\n");
        assert_eq!(
            (state.tab, state.service.as_deref()),
            (Tab::Backends, Some("default/api"))
        );
        assert_eq!(state.filter, "");
        press(&mut state, "\t4\t");
        assert_eq!(state.tab, Tab::Connections);
        press(&mut state, "+++--p");
        assert_eq!((state.interval_s, state.is_paused), (2, true));
        assert_eq!(
            state.on_key(KeyEvent::from(KeyCode::Char('q'))),
            After::Quit
        );
    }

    #[test]
    fn terminals_of_every_size_can_be_drawn() {
        let mut state = State::new(sample(0, [5, 5]), 1, String::new());
        for tab in Tab::ALL {
            state.open(tab);
            for (width, height) in [(1, 1), (20, 3), (80, 24), (300, 100)] {
                let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
                terminal.draw(|frame| draw(frame, &state)).unwrap();
                state.has_help = !state.has_help;
            }
        }
    }
}
