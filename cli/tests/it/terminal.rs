//! What differs when a person looks on: colour, gauges, questions, escapes. On a terminal of the kernel's making.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::sandbox::Sandbox;

/// O_NOCTTY: a test run without a terminal must not get this one as its own.
const NOCTTY: i32 = OpenptFlags::NOCTTY.bits() as i32;

struct Terminal {
    screen: File,
    /// Kept open: when the last one closes, what is still on its way to the screen may be lost.
    side: File,
    child: Child,
}

impl Terminal {
    /// Runs the program with all three standard streams on a new terminal.
    fn run(sandbox: &Sandbox, args: &[&str], environment: &[(&str, &str)]) -> Terminal {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let size = Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&screen, size).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
        let side = || File::options().read(true).write(true).custom_flags(NOCTTY).open(&name).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cachectl"));
        command.args(["-C", "app"]).args(args).current_dir(sandbox.path("")).env_clear();
        command.env("HOME", sandbox.path("home")).env("TERM", "xterm").envs(environment.iter().copied());
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        Terminal { screen: screen.into(), side: side(), child }
    }

    fn types(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    /// Everything on the screen once the program has ended, with the terminal's line ends undone, and the exit code.
    fn ends(mut self) -> (String, i32) {
        const END: &[u8] = b"\x00that was all\x00";
        let (child, side) = (&mut self.child, &mut self.side);
        thread::scope(|scope| {
            let code = scope.spawn(move || {
                let status = child.wait().unwrap();
                side.write_all(END).unwrap();
                status.code().expect("ended by exiting")
            });
            let mut screen = Vec::new();
            let mut piece = [0; 4096];
            while !screen.ends_with(END) {
                let n = self.screen.read(&mut piece).unwrap();
                screen.extend_from_slice(&piece[..n]);
            }
            screen.truncate(screen.len() - END.len());
            (String::from_utf8_lossy(&screen).replace("\r\n", "\n"), code.join().unwrap())
        })
    }
}

fn screen(sandbox: &Sandbox, args: &[&str]) -> (String, i32) {
    Terminal::run(sandbox, args, &[]).ends()
}

fn screen_with(sandbox: &Sandbox, args: &[&str], environment: &[(&str, &str)]) -> (String, i32) {
    Terminal::run(sandbox, args, environment).ends()
}

fn one() -> Sandbox {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "k", "some text"]).succeeds();
    sandbox
}

#[test]
fn colour_only_where_it_is_wanted() {
    let sandbox = one();
    let coloured = |args: &[&str], environment: &[(&str, &str)]| {
        Terminal::run(&sandbox, args, environment).ends().0.contains("\x1b[")
    };
    assert!(coloured(&["stats"], &[]));
    assert!(coloured(&["stats"], &[("NO_COLOR", "")]));
    assert!(!coloured(&["stats"], &[("NO_COLOR", "1")]));
    assert!(!coloured(&["stats"], &[("TERM", "dumb")]));
    assert!(!coloured(&["stats", "--color", "never"], &[]));
    assert!(!coloured(&["--help", "--color", "never"], &[]));
    assert!(!coloured(&["stats", "--json"], &[]));
    assert!(!sandbox.run(["stats"]).succeeds().text().contains('\x1b'));
    assert!(sandbox.run(["stats", "--color", "always"]).succeeds().text().contains("\x1b["));
}

#[test]
fn gauges_are_unicode_unless_plain() {
    let sandbox = one();
    for locale in [("LC_ALL", "de_DE.UTF-8"), ("LANG", "C.utf8")] {
        let (text, _) = screen_with(&sandbox, &["stats"], &[locale]);
        assert!(text.contains('░'), "{text}");
        let (text, _) = screen_with(&sandbox, &["stats", "--plain"], &[locale]);
        assert!(text.contains("[#....") && text.is_ascii(), "{text}");
    }
    // A terminal that has no Unicode got it all the same.
    for other in [&[("LC_ALL", "C"), ("LANG", "C.UTF-8")][..], &[("TERM", "dumb"), ("LANG", "C.UTF-8")], &[]] {
        let (text, _) = screen_with(&sandbox, &["stats"], other);
        assert!(text.contains("[#....") && text.is_ascii(), "{text}");
    }
    assert!(sandbox.run(["stats"]).succeeds().text().is_ascii());
}

#[test]
fn a_value_gets_a_line_of_its_own() {
    let sandbox = one();
    assert_eq!(screen(&sandbox, &["get", "k"]), ("some text\n".into(), 0));
    assert_eq!(screen(&sandbox, &["has", "k"]), ("yes\n".into(), 0));
    assert_eq!(screen(&sandbox, &["has", "other"]), ("no\n".into(), 5));
}

#[test]
fn control_characters_cannot_reach_the_terminal() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "k\x1b[2J", "line 1\nline\t2\x1b]0;title\x07"]).succeeds();
    assert_eq!(screen(&sandbox, &["get", "k\x1b[2J"]).0, "line 1\nline\t2\\u{1b}]0;title\\u{7}\n");
    for args in [&["ls"][..], &["ls", "--names"], &["show", "k\x1b[2J"], &["prune", "-n", "--max-entries", "0"]] {
        let (text, _) = Terminal::run(&sandbox, args, &[("NO_COLOR", "1")]).ends();
        assert!(text.contains("k\\u{1b}[2J") && !text.contains('\x1b'), "{args:?}: {text:?}");
    }
}

#[test]
fn a_binary_value_is_not_printed_to_a_terminal() {
    let sandbox = Sandbox::plain();
    sandbox.run_with_input(*b"\x89PNG\0\xff", &["set", "logo", "-"]).succeeds();
    let (text, code) = screen(&sandbox, &["get", "logo"]);
    assert_eq!(code, 6);
    assert!(text.contains("binary (6 bytes)") && text.contains("--force") && !text.contains("PNG"), "{text}");
    let (text, code) = screen(&sandbox, &["get", "logo", "--force"]);
    assert!(code == 0 && text.contains("PNG"), "{text}");
    assert_eq!(screen(&sandbox, &["get", "logo", "-o", "logo.png"]), (String::new(), 0));
    assert_eq!(fs::read(sandbox.path("logo.png")).unwrap(), b"\x89PNG\0\xff");
    assert_eq!(sandbox.run(["get", "logo"]).succeeds().stdout, b"\x89PNG\0\xff");
}

#[test]
fn clear_asks_for_the_name() {
    let sandbox = one();
    let mut terminal = Terminal::run(&sandbox, &["clear"], &[]);
    terminal.types("App\n");
    let (text, code) = terminal.ends();
    assert_eq!(code, 6);
    assert!(text.contains("removes 1 entry (4.2 KiB)") && text.contains("nothing was deleted"), "{text}");
    sandbox.run(["has", "k"]).succeeds();

    let mut terminal = Terminal::run(&sandbox, &["clear"], &[]);
    terminal.types("app\n");
    let (text, code) = terminal.ends();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("Type the cache's name, app,") && text.contains("removed 1 entry"), "{text}");
    sandbox.run(["has", "k"]).ends_with(5);
}

#[test]
fn prune_reports_even_when_there_was_nothing_to_do() {
    let sandbox = one();
    assert_eq!(screen(&sandbox, &["prune"]), ("nothing to remove; 1 entry (4.2 KiB) kept\n".into(), 0));
    assert_eq!(screen(&sandbox, &["prune", "-q"]), (String::new(), 0));
}

#[test]
fn a_person_is_told_of_another_run_at_once() {
    let sandbox = one();
    let cache = sandbox.cache();
    let _lock = cache.maintenance().unwrap().unwrap();
    let (text, code) = screen(&sandbox, &["prune"]);
    assert_eq!(code, 75);
    assert!(text.contains("at work"), "{text}");
}

#[test]
fn ls_has_a_heading_and_a_sum() {
    let (text, _) = Terminal::run(&one(), &["ls"], &[("NO_COLOR", "1")]).ends();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("SIZE") && lines[0].ends_with("KEY"), "{text}");
    assert_eq!(lines[2], "cachectl: 1 entry, 9 B");
}

/// On a terminal `watch` takes the whole screen, and gives it back.
#[test]
fn watch_is_a_screen_that_a_key_ends() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "k", "v"]).succeeds();
    let mut terminal = Terminal::run(&sandbox, &["watch", "-i", "1h"], &[("LC_ALL", "C.UTF-8")]);
    terminal.types("q");
    let (screen, code) = terminal.ends();
    assert_eq!(code, 0, "{screen:?}");
    for part in ["ratio", "average", "entries", "ends", "\u{1b}[?1049h", "\u{1b}[?1049l"] {
        assert!(screen.contains(part), "{part}: {screen:?}");
    }
    let terminal = Terminal::run(&sandbox, &["watch", "-n", "1", "-i", "100ms", "--plain"], &[]);
    let (lines, code) = terminal.ends();
    assert!(code == 0 && lines.lines().count() == 2 && !lines.contains("1049"), "{lines:?}");
}
