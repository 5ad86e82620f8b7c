//! The screen: gauges, the course of the hit ratio and of reads, and a table of rates.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use larder::Cache;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, LineGauge, Row, Sparkline, Table};
use ratatui::{DefaultTerminal, Frame};

use super::{Looker, NAMES, Tick, rate};
use crate::context::Ended;
use crate::exit_code::{Exit, Failure};
use crate::output::Output;
use crate::signal::Interrupt;
use crate::units::{approx_size, approx_span, grouped};

/// Intervals that are remembered: wider screens than that show nothing on the left.
const KEPT: usize = 500;
/// How long a key may wait.
const SLICE: Duration = Duration::from_millis(50);

/// The terminal as a screen, which is given back at the end.
struct Screen(DefaultTerminal);

impl Screen {
    fn take() -> Result<Screen, Failure> {
        ratatui::try_init().map(Screen).map_err(failed)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = ratatui::try_restore();
    }
}

fn failed(error: io::Error) -> Failure {
    Failure::failed("the terminal", error)
}

/// What is drawn.
struct View<'a> {
    title: &'a str,
    interval: Duration,
    colored: bool,
    /// The last intervals, the latest first.
    ticks: VecDeque<Tick>,
}

pub fn run(
    cache: &Cache,
    output: &Output,
    interrupt: &Interrupt,
    (title, interval, most): (&str, Duration, u64),
) -> Ended {
    let mut looker = Looker::new(cache)?;
    let mut view = View { title, interval, colored: output.is_colored(), ticks: VecDeque::new() };
    // An interval of none, so that there is something to see at once.
    view.ticks.push_front(looker.tick()?);
    let mut screen = Screen::take()?;
    let mut done = 0;
    while done < most {
        screen.0.draw(|frame| draw(frame, &view)).map_err(failed)?;
        let due = looker.when + interval;
        while Instant::now() < due {
            if interrupt.came() {
                return Ok(interrupt.exit().unwrap_or(Exit::Done));
            }
            let wait = SLICE.min(due.saturating_duration_since(Instant::now()));
            if event::poll(wait).map_err(failed)? {
                match event::read().map_err(failed)? {
                    Event::Key(key) if ends(key) => return Ok(Exit::Done),
                    Event::Resize(..) => {
                        screen.0.draw(|frame| draw(frame, &view)).map_err(failed)?;
                    }
                    _ => {}
                }
            }
        }
        view.ticks.push_front(looker.tick()?);
        view.ticks.truncate(KEPT);
        done += 1;
    }
    Ok(Exit::Done)
}

fn ends(key: KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

fn draw(frame: &mut Frame<'_>, view: &View<'_>) {
    let Some(latest) = view.ticks.front() else { return };
    let rows = [1, 1, 1, 1].map(Constraint::Length);
    let [title, entries, used, _] = Layout::vertical(rows).areas(frame.area());
    let below = Rect { y: title.y + 4, height: frame.area().height.saturating_sub(4), ..frame.area() };
    let courses = [Constraint::Percentage(30), Constraint::Percentage(30), Constraint::Min(8), Constraint::Length(1)];
    let [ratio, reads, table, keys] = Layout::vertical(courses).areas(below);
    frame.render_widget(Line::styled(view.title, Modifier::BOLD), title);
    let limits = &latest.now.limits;
    gauge(frame, entries, view, ("entries", latest.now.entries, limits.max_entries), grouped);
    gauge(frame, used, view, ("used", latest.now.used, limits.max_bytes), approx_size);
    let now = latest.ratio().map_or("no reads".to_owned(), |ratio| format!("{ratio:.1} %"));
    let course = view.ticks.iter().map(|tick| tick.ratio().map(|ratio| ratio as u64)).collect::<Vec<_>>();
    sparkline(frame, ratio, view, &format!("hit ratio  {now}"), course, Some(100));
    let now = rate(latest.per_second(0) + latest.per_second(1));
    let course = view.ticks.iter().map(|tick| Some((tick.per_second(0) + tick.per_second(1)) as u64)).collect();
    sparkline(frame, reads, view, &format!("reads per second  {now}"), course, None);
    frame.render_widget(rates(view, latest), table);
    let text = format!("every {}   q ends", approx_span(view.interval));
    frame.render_widget(Line::styled(text, Modifier::DIM), keys);
}

fn color(view: &View<'_>, color: Color) -> Style {
    if view.colored { Style::new().fg(color) } else { Style::new() }
}

fn gauge(
    frame: &mut Frame<'_>,
    area: Rect,
    view: &View<'_>,
    (name, part, whole): (&str, u64, u64),
    show: impl Fn(u64) -> String,
) {
    let share = if whole == 0 { 0.0 } else { (part as f64 / whole as f64).clamp(0.0, 1.0) };
    let limit = if whole == 0 { "no limit".to_owned() } else { format!("of {}", show(whole)) };
    let label = format!("{name:<8} {:>12} {limit:<14} {:>5.1} %", show(part), share * 100.0);
    // A full cache is a healthy one.
    let style = color(view, if part > whole && whole > 0 { Color::Red } else { Color::Green });
    frame.render_widget(LineGauge::default().ratio(share).label(label).filled_style(style), area);
}

fn sparkline(
    frame: &mut Frame<'_>,
    area: Rect,
    view: &View<'_>,
    title: &str,
    course: Vec<Option<u64>>,
    max: Option<u64>,
) {
    // The latest on the right.
    let width = usize::from(area.width.saturating_sub(2));
    let mut course: Vec<_> = course.into_iter().take(width).collect();
    course.resize(width, None);
    course.reverse();
    let line = Sparkline::default().block(Block::bordered().title(title)).data(course).style(color(view, Color::Cyan));
    frame.render_widget(if let Some(max) = max { line.max(max) } else { line }, area);
}

fn rates(view: &View<'_>, latest: &Tick) -> Table<'static> {
    let span: f64 = view.ticks.iter().map(|tick| tick.span.as_secs_f64()).sum();
    let totals = super::counts(&latest.now);
    let rows = (0..NAMES.len()).map(|i| {
        let seen: u64 = view.ticks.iter().map(|tick| tick.counts[i]).sum();
        let mean = seen as f64 / span.max(0.001);
        Row::new(
            [NAMES[i].to_owned(), rate(latest.per_second(i)), rate(mean), grouped(totals[i])]
                .map(|cell| format!("{cell:>14}")),
        )
    });
    let heading = ["", "per second", "on average", "in all"].map(|cell| format!("{cell:>14}"));
    let widths = [14, 14, 14, 18].map(Constraint::Length);
    Table::new(rows, widths).header(Row::new(heading).style(Modifier::BOLD))
}
