//! `top`: a live view of the daemons, or a record for each of them and each interval.

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::args::{GivenOptions, TopArgs};
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::render::{Printer, Screen, ScreenEvent};
use crate::shapes;

mod figures;
mod state;
mod view;

use figures::{DaemonFigures, TopRecord};
use state::TopState;

/// Looks at the daemons until the user leaves, or as often as asked.
pub(crate) async fn run(
    args: TopArgs,
    given: &GivenOptions,
    database: &mut DatabaseHandle,
    out: &mut Printer,
) -> CliResult {
    if database.directory().is_some() {
        let message = "top looks at daemons, and a directory is none: name them with --writer and --reader";
        return Err(Failure::Usage(message.to_owned()));
    }
    let is_live = out.is_terminal() && args.count.is_none() && !given.on_command_line("output");
    if is_live { live(&args, database, out).await } else { records(&args, database, out).await }
}

/// One look at all daemons, at the same time.
async fn look(database: &mut DatabaseHandle) -> Vec<DaemonFigures> {
    let (writers, readers) = database.all_statuses().await;
    let writers = writers.into_iter().map(|(url, found)| DaemonFigures::of_writer(url, found));
    writers.chain(readers.into_iter().map(|(url, found)| DaemonFigures::of_reader(url, found))).collect()
}

/// Prints records. The first look is only what the rates of the second are counted from.
async fn records(args: &TopArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let (mut state, mut ticks) = (TopState::default(), interval(args.interval));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    state.add(look(database).await);
    let mut left = args.count;
    while left != Some(0) {
        ticks.tick().await;
        state.add(look(database).await);
        let now = jiff::Timestamp::now().round(jiff::Unit::Millisecond).unwrap_or_default().to_string();
        for (figures, rates) in &state.daemons {
            out.print_record(&shapes::line(&TopRecord::new(figures, *rates, &now))?)?;
        }
        if out.is_for_people() {
            out.end_result()?;
        }
        out.flush_rows()?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// Draws the view until the user leaves.
async fn live(args: &TopArgs, database: &mut DatabaseHandle, out: &Printer) -> CliResult {
    let mut state = TopState::default();
    let mut screen = Screen::open()?;
    let mut next = Instant::now();
    let is_coloured = !out.style().is_plain();
    loop {
        // A daemon that does not answer must not keep the user from leaving.
        let found = tokio::select! {
            event = screen.event() => match event {
                ScreenEvent::Quit => return Ok(()),
                ScreenEvent::Resized => None,
            },
            found = look_at(next, database) => Some(found),
        };
        if let Some(found) = found {
            state.add(found);
            next = Instant::now() + args.interval;
        }
        screen.draw(|frame| view::draw(frame, &state, args.interval, is_coloured))?;
    }
}

/// Looks at the daemons at some time.
async fn look_at(at: Instant, database: &mut DatabaseHandle) -> Vec<DaemonFigures> {
    tokio::time::sleep_until(at).await;
    look(database).await
}
