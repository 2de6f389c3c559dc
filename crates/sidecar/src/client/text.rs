//! Text for people: harmless, of known width, and in colour where that helps.
use std::io::{IsTerminal, Write};
use std::time::Duration;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What came from elsewhere, fit for a terminal: on one line, without what moves a cursor or turns the direction of
/// writing.
pub(super) fn clean(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let line: String = text
        .chars()
        .filter(|c| !turns(*c))
        .map(|c| {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                ' '
            } else {
                c
            }
        })
        .collect();
    line.trim().to_owned()
}

/// As [`clean`], without what may be a password in a URL.
pub(super) fn masked(url: &str) -> String {
    let url = clean(url);
    match url.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => url,
    }
}

/// How text is shown where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// In colour.
    pub colour: bool,
    /// On a terminal: a line can be drawn over.
    pub live: bool,
    /// Characters in a line.
    pub width: usize,
}

impl Look {
    /// 80 characters, no colour: for files and pipes.
    pub const PLAIN: Look = Look {
        colour: false,
        live: false,
        width: 80,
    };

    /// What fits standard output; `NO_COLOR` is honoured.
    pub fn of_stdout() -> Look {
        let width = terminal_size::terminal_size().map_or(80, |(w, _)| usize::from(w.0));
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        Look::of(
            std::io::stdout().is_terminal(),
            dumb,
            set("NO_COLOR").is_some(),
            width,
        )
    }

    fn of(terminal: bool, dumb: bool, no_colour: bool, width: usize) -> Look {
        if !terminal {
            return Look::PLAIN;
        }
        Look {
            colour: !dumb && !no_colour,
            live: !dumb,
            width: width.clamp(40, 200),
        }
    }
}

/// Where a command prints.
pub struct Out<'a> {
    to: &'a mut (dyn Write + Send),
    /// How.
    pub look: Look,
    /// A live line stands there, to be drawn over.
    drawn: bool,
}

impl std::fmt::Debug for Out<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out")
            .field("look", &self.look)
            .finish_non_exhaustive()
    }
}

impl<'a> Out<'a> {
    /// Prints to `to`.
    pub fn new(to: &'a mut (dyn Write + Send), look: Look) -> Out<'a> {
        Out {
            to,
            look,
            drawn: false,
        }
    }

    /// A line, above the live line if there is one.
    pub(super) fn line(&mut self, text: &str) -> std::io::Result<()> {
        self.erase()?;
        writeln!(self.to, "{text}")?;
        self.to.flush()
    }

    /// Bytes as they come.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.erase()?;
        self.to.write_all(bytes)?;
        self.to.flush()
    }

    /// The live line; nothing where lines cannot be drawn over.
    pub(super) fn live(&mut self, text: &str) -> std::io::Result<()> {
        if !self.look.live {
            return Ok(());
        }
        self.erase()?;
        // A line that wraps could not be drawn over.
        write!(self.to, "{}", cut(text, self.look.width.saturating_sub(1)))?;
        self.drawn = true;
        self.to.flush()
    }

    /// Takes the live line away.
    pub(super) fn erase(&mut self) -> std::io::Result<()> {
        if std::mem::take(&mut self.drawn) {
            write!(self.to, "\r\x1b[2K")?;
        }
        Ok(())
    }

    /// The word for a state, in its colour.
    pub(super) fn word(&self, state: &str) -> String {
        self.paint(state, paint_of(state))
    }

    /// The same, as wide as a column.
    pub(super) fn state(&self, state: &str, width: usize) -> String {
        self.paint(&pad(state, width), paint_of(state))
    }

    pub(super) fn paint(&self, text: &str, paint: &str) -> String {
        if self.look.colour {
            format!("\x1b[{paint}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn dim(&self, text: &str) -> String {
        self.paint(text, "2")
    }

    pub(super) fn alarm(&self, text: &str) -> String {
        self.paint(text, "31")
    }
}

fn paint_of(state: &str) -> &'static str {
    match state {
        "running" => "32",
        "pausing" | "draining" | "hiatus" => "33",
        "paused" => "1;35",
        "failed" => "1;31",
        _ => "2",
    }
}

/// Fills up with spaces, or cuts.
pub(super) fn pad(text: &str, width: usize) -> String {
    let text = cut(text, width);
    let fill = width.saturating_sub(text.width());
    format!("{text}{}", " ".repeat(fill))
}

/// The same, to the right.
pub(super) fn pad_left(text: &str, width: usize) -> String {
    let text = cut(text, width);
    let fill = width.saturating_sub(text.width());
    format!("{}{text}", " ".repeat(fill))
}

/// Cuts to a width, with an ellipsis where something is missing. Escape sequences take no room and are kept.
pub(super) fn cut(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut room, mut escape, mut full) = (width, false, false);
    let total: usize = visible(text);
    let keep = if total > width {
        width.saturating_sub(1)
    } else {
        width
    };
    room = room.min(keep);
    for c in text.chars() {
        if escape || c == '\x1b' {
            escape = c != 'm';
            out.push(c);
            continue;
        }
        let takes = c.width().unwrap_or(0);
        if full || takes > room {
            if !full && total > width && width > 0 {
                out.push('…');
            }
            full = true;
            continue;
        }
        room -= takes;
        out.push(c);
    }
    out
}

fn visible(text: &str) -> usize {
    let mut escape = false;
    let mut width = 0;
    for c in text.chars() {
        if escape || c == '\x1b' {
            escape = c != 'm';
        } else {
            width += c.width().unwrap_or(0);
        }
    }
    width
}

/// Breaks between words so that every line fits; lines after the first are indented as the first is.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let indent: String = text.chars().take_while(|c| *c == ' ').collect();
    let mut lines = Vec::new();
    let mut line = indent.clone();
    for word in text.split_whitespace() {
        let mut word = word.to_owned();
        loop {
            let gap = usize::from(line.len() > indent.len());
            if line.width() + gap + word.width() <= width {
                if gap == 1 {
                    line.push(' ');
                }
                line.push_str(&word);
                break;
            }
            if line.len() > indent.len() {
                lines.push(std::mem::replace(&mut line, indent.clone()));
                continue;
            }
            // A word that is longer than a line.
            let mut room = width.saturating_sub(indent.width()).max(2);
            let end = word
                .char_indices()
                .find(|(_, c)| {
                    let takes = c.width().unwrap_or(0);
                    let fits = takes <= room;
                    room = room.saturating_sub(takes);
                    !fits
                })
                .map_or(word.len(), |(at, _)| at);
            let rest = word.split_off(end);
            line.push_str(&word);
            word = rest;
            if word.is_empty() {
                break;
            }
        }
    }
    if line.len() > indent.len() {
        lines.push(line);
    }
    lines
}

/// `0.4s`, `12s`, `2m 10s`, `3h 5m`, `2d 4h`.
pub(super) fn span(of: Duration) -> String {
    let s = of.as_secs();
    match s {
        0..=9 => format!("{:.1}s", of.as_secs_f64()),
        10..=59 => format!("{s}s"),
        60..=3599 => format!("{}m {}s", s / 60, s % 60),
        3600..=86_399 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Digits in groups of three.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_elsewhere_moves_the_cursor() {
        assert_eq!(clean("a\x1b[2Jb\r\nc\u{9b}x\u{202e}y\u{2028}z"), "a [2Jb  c xy z");
        assert_eq!(masked("http://u:p@h:1/"), "***@h:1/");
    }

    #[test]
    fn colour_is_for_terminals_that_take_it_and_people_who_want_it() {
        assert_eq!(Look::of(false, false, false, 200), Look::PLAIN);
        let look = |dumb, no_colour| {
            let look = Look::of(true, dumb, no_colour, 120);
            (look.colour, look.live, look.width)
        };
        assert_eq!(look(false, false), (true, true, 120));
        assert_eq!(look(false, true), (false, true, 120));
        assert_eq!(look(true, false), (false, false, 120));
    }

    #[test]
    fn what_is_cut_fits_and_says_so() {
        assert_eq!(cut("orders", 6), "orders");
        assert_eq!(cut("orders", 4), "ord…");
        assert_eq!(cut("\x1b[32mrunning\x1b[0m", 4), "\x1b[32mrun…\x1b[0m");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("x", 0), "");
        assert_eq!(pad("ab", 4), "ab  ");
        assert_eq!(pad_left("ab", 4), "  ab");
    }

    #[test]
    fn wrapped_lines_fit_keep_their_indent_and_lose_no_word() {
        let lines = wrap("  held by switch:ops: the database is moved to the new rack", 24);
        assert!(
            lines.iter().all(|l| l.width() <= 24 && l.starts_with("  ")),
            "{lines:?}"
        );
        let words: Vec<&str> = lines.iter().flat_map(|l| l.split_whitespace()).collect();
        assert_eq!(
            words.join(" "),
            "held by switch:ops: the database is moved to the new rack"
        );
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("日本語", 2), ["日", "本", "語"]);
        assert!(wrap("   ", 10).is_empty());
    }

    #[test]
    fn numbers_are_for_reading() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        let cases = [
            (400, "0.4s"),
            (12_000, "12s"),
            (130_000, "2m 10s"),
            (11_100_000, "3h 5m"),
            (187_200_000, "2d 4h"),
        ];
        for (ms, text) in cases {
            assert_eq!(span(Duration::from_millis(ms)), text);
        }
    }
}
