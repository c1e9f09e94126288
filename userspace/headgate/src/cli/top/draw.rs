//! Draws the state.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span, Text},
    widgets::{Block, Clear, Paragraph, Row, Table, TableState, Tabs},
};

use super::{
    state::{State, Tab},
    tables::{Cell, Content, short},
};
use crate::view::Totals;

const HELP: &str = "\
Tab, ←→, 1-5   page
↑↓, j k        row        g G, PgUp PgDn   further
Enter          backends of the service     Esc   back
/              filter     s   sort by the next column     r   reverse
p, space       pause      + -   interval
q              quit";

pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let rows = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ]);
    let [head, tabs, body, foot] = rows.areas(frame.area());
    frame.render_widget(Paragraph::new(header(state)), head);
    let selected = Tab::ALL.iter().position(|tab| *tab == state.tab);
    let names = Tab::ALL.map(Tab::name);
    frame.render_widget(
        Tabs::new(names)
            .select(selected)
            .highlight_style(Modifier::REVERSED),
        tabs,
    );
    draw_table(frame, body, state);
    frame.render_widget(Paragraph::new(footer(state)), foot);
    if state.has_help {
        draw_help(frame);
    }
}

fn header(state: &State) -> Text<'_> {
    let agent = match &state.now.agent {
        None => "no agent has run here".red(),
        Some(agent) if !agent.is_alive() => {
            format!("no update from the agent for {} s", agent.age_s())
                .red()
                .bold()
        }
        Some(agent) if !agent.is_synced => "agent not in sync yet".yellow(),
        Some(agent) if agent.disconnected.is_some() => {
            "agent disconnected from its source".yellow()
        }
        Some(agent) if !agent.failures.is_empty() => {
            format!("{} changes fail", agent.failures.len()).red()
        }
        Some(_) => "agent in sync".green(),
    };
    let node = state
        .now
        .agent
        .as_ref()
        .map_or("?", |agent| agent.node.as_str());
    let Totals { traffic, drops } = state.totals();
    let drops = Span::from(format!("{} drops/s", short(drops))).style(match drops > 0.0 {
        true => Style::new().fg(Color::Red).bold(),
        false => Style::new(),
    });
    Text::from(vec![
        Line::from(vec![
            "headgate ".bold(),
            format!("{node}  ").into(),
            agent,
            format!("  {}", state.now.time.strftime("%H:%M:%S UTC")).into(),
        ]),
        Line::from(vec![
            format!(
                "{} conn/s  {} pkt/s  {}B/s  ",
                short(traffic.connections),
                short(traffic.packets),
                short(traffic.bytes)
            )
            .into(),
            drops,
        ]),
    ])
}

fn footer(state: &State) -> Line<'_> {
    if state.is_filtering {
        return Line::from(format!("/{}▏", state.filter));
    }
    let mut parts = vec![format!("every {} s", state.interval_s)];
    if state.is_paused {
        parts.push("paused".into());
    }
    if !state.filter.is_empty() {
        parts.push(format!("filter {}", state.filter));
    }
    if let Some(service) = &state.service {
        parts.push(format!("backends of {service}"));
    }
    if state.shows_connections() {
        parts.push(format!("at most {} rows", super::MAX_CONNECTIONS));
    }
    parts.push("? help  q quit".into());
    Line::from(parts.join("  ")).dim()
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let content = state.content();
    let widths = widths(&content);
    let header = content.header.iter().enumerate().map(|(at, name)| {
        let is_number = is_number(&content, at);
        let name = name.to_uppercase();
        let name = if at == state.column {
            format!("{name}▾")
        } else {
            name
        };
        aligned(name, is_number)
    });
    let rows = content.rows.iter().map(|row| {
        let cells = row
            .iter()
            .map(|cell| aligned(cell.shown(), matches!(cell, Cell::Number(_))));
        Row::new(cells)
    });
    let table = Table::new(rows, widths)
        .header(Row::new(header).bold())
        .row_highlight_style(Modifier::REVERSED)
        .column_spacing(2);
    let mut selection = TableState::default().with_selected(Some(state.selected));
    frame.render_stateful_widget(table, area, &mut selection);
}

fn aligned(text: String, is_number: bool) -> Text<'static> {
    Text::from(text).alignment(match is_number {
        true => Alignment::Right,
        false => Alignment::Left,
    })
}

fn is_number(content: &Content, column: usize) -> bool {
    let first = content.rows.first().and_then(|row| row.get(column));
    matches!(first, Some(Cell::Number(_)))
}

/// Widths of the columns: that of the widest cell; a last column of text takes what is left.
fn widths(content: &Content) -> Vec<Constraint> {
    let last = content.header.len().saturating_sub(1);
    let width = |(at, name): (usize, &&str)| {
        let cells = content.rows.iter().filter_map(|row| row.get(at));
        let widest = cells.map(|cell| cell.shown().chars().count()).max();
        let header = name.chars().count() + 1;
        match at == last && !is_number(content, at) {
            true => Constraint::Min(header as u16),
            false => Constraint::Length(widest.unwrap_or(0).max(header) as u16),
        }
    };
    content.header.iter().enumerate().map(width).collect()
}

fn draw_help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (74.min(area.width), 9.min(area.height));
    let middle = Rect::new(
        (area.width - width) / 2,
        (area.height - height) / 2,
        width,
        height,
    );
    frame.render_widget(Clear, middle);
    frame.render_widget(
        Paragraph::new(HELP).block(Block::bordered().title(" Keys ")),
        middle,
    );
}
