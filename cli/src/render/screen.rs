//! The terminal as a screen that a program draws on: it becomes what it was when the screen is dropped, and also on a panic.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Frame};
use tokio::sync::mpsc;

/// How soon the thread that waits for keys notices that nobody wants them any more.
const KEYS_CHECK: Duration = Duration::from_millis(100);
/// Keys that wait to be handled.
const KEYS_AHEAD: usize = 16;

/// What the user does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScreenEvent {
    /// Asks to leave.
    Quit,
    /// Has changed the size of the terminal.
    Resized,
}

/// The terminal, while a program draws on it.
pub(crate) struct Screen {
    terminal: DefaultTerminal,
    events: mpsc::Receiver<ScreenEvent>,
    is_over: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal that standard output is.
    pub(crate) fn open() -> io::Result<Screen> {
        // This also has a panic give the terminal back before it prints.
        let terminal = ratatui::try_init().inspect_err(|_| give_back())?;
        let (sender, events) = mpsc::channel(KEYS_AHEAD);
        let is_over = Arc::new(AtomicBool::new(false));
        let screen = Screen { terminal, events, is_over: Arc::clone(&is_over) };
        std::thread::Builder::new()
            .name("driftctl-keys".to_owned())
            .spawn(move || send_events(&sender, &is_over))?;
        Ok(screen)
    }

    /// Draws the whole screen.
    pub(crate) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(drop)
    }

    /// Waits for what the user does. If the terminal is gone, that is a wish to leave.
    pub(crate) async fn event(&mut self) -> ScreenEvent {
        self.events.recv().await.unwrap_or(ScreenEvent::Quit)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        give_back();
    }
}

/// Makes the terminal what it was. If it is gone, there is nothing to restore, and nobody to tell.
fn give_back() {
    let _ = ratatui::try_restore();
}

/// Sends what the user does, until nobody wants it or the terminal is gone.
fn send_events(sender: &mpsc::Sender<ScreenEvent>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let event = match event::poll(KEYS_CHECK) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(_) => return,
        };
        let Ok(event) = event else { return };
        let sent = match meaning(&event) {
            Some(meant) => sender.blocking_send(meant),
            None => continue,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// What an event means; `None` if nothing. In raw mode Ctrl-C is a key like any other.
fn meaning(event: &Event) -> Option<ScreenEvent> {
    match event {
        Event::Resize(..) => Some(ScreenEvent::Resized),
        Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(ScreenEvent::Quit),
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                Some(ScreenEvent::Quit)
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn q_escape_and_control_c_leave() {
        let key = |code, modifiers| meaning(&Event::Key(KeyEvent::new(code, modifiers)));
        let quit = Some(ScreenEvent::Quit);
        assert_eq!(key(KeyCode::Char('q'), KeyModifiers::NONE), quit);
        assert_eq!(key(KeyCode::Esc, KeyModifiers::NONE), quit);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), quit);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(meaning(&Event::Resize(80, 24)), Some(ScreenEvent::Resized));
    }
}
