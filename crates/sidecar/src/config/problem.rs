//! What is wrong with a configuration: a line each, all at once.
use super::tree::{Node, Path, Step, Table};
use std::fmt;

/// Everything that is wrong with a configuration, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// One thing that is wrong. Shown as one line: `file:line:column: key: what is wrong and what was expected`.
///
/// It never holds a value that came from the environment; such values are shown as they are written (`${NAME}`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Line and column, both from 1; none where the file as a whole is meant.
    pub place: Option<(usize, usize)>,
    /// The key, as `switch[ops].interval`; empty where the file as a whole is meant.
    pub key: String,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl Problem {
    /// A problem with the file as a whole.
    pub(super) fn of_file(file: &str, what: impl Into<String>) -> Problem {
        Problem {
            file: file.to_owned(),
            place: None,
            key: String::new(),
            what: what.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names and keys come from the file: what would move the cursor of a terminal is taken out.
        let line = |text: &str| text.replace(char::is_control, " ");
        f.write_str(&line(&self.file))?;
        if let Some((row, column)) = self.place {
            write!(f, ":{row}:{column}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", line(&self.key))?;
        }
        f.write_str(&line(&self.what))
    }
}

/// Collects problems and knows where in the text a key stands.
pub(super) struct Report<'a> {
    file: &'a str,
    text: &'a str,
    root: &'a Table,
    found: Vec<(usize, Path, Problem)>,
    /// What is reported once and not judged again: its value is not the one that will be used.
    settled: Vec<Path>,
    /// Keys that are unknown and look like these.
    misspelt: Vec<Path>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, text: &'a str, root: &'a Table) -> Report<'a> {
        Report {
            file,
            text,
            root,
            found: Vec::new(),
            settled: Vec::new(),
            misspelt: Vec::new(),
        }
    }

    /// From now on, complaints about what stands at `path` are pointless.
    pub(super) fn settle(&mut self, path: &Path) {
        self.settled.push(path.clone());
    }

    pub(super) fn root(&self) -> &'a Table {
        self.root
    }

    /// Something is wrong with the value at `path`, or with what is missing there.
    pub(super) fn at(&mut self, path: &Path, what: impl Into<String>) {
        let offset = self.root.value_offset(path);
        self.push(offset, path, what.into());
    }

    /// As `at`, with words of a parser that may quote parts of the value: not shown where the environment has part in it.
    pub(super) fn quoting(&mut self, path: &Path, what: impl Into<String>) {
        match self.node(path) {
            Some(node) if node.was_filled_in() => {
                let found = node.shown(path);
                self.at(
                    path,
                    format!("{found} is refused once the environment is filled in"),
                );
            }
            _ => self.at(path, what),
        }
    }

    /// The key at `path` should not be there.
    pub(super) fn at_key(&mut self, path: &Path, what: impl Into<String>) {
        let offset = self.root.key_offset(path);
        self.push(offset, path, what.into());
    }

    /// The key at `path`, in is none of those that are known there.
    pub(super) fn unknown_key<'k>(&mut self, path: &Path, known: impl Iterator<Item = &'k str> + Clone) {
        let Some((Step::Key(written), table)) = path.0.split_last() else {
            return;
        };
        if let Some(meant) = nearest(written, known.clone()) {
            self.misspelt.push(Path(table.to_vec()).key(meant));
        }
        self.at_key(path, format!("unknown key{}", suggestion(written, known)));
    }

    /// The table at `path` lacks a key. Not said where another key there looks like it: that says it better.
    pub(super) fn missing_key(&mut self, path: &Path, key: &str) {
        self.at(path, missing(key));
    }

    fn push(&mut self, offset: usize, path: &Path, what: String) {
        if self.settled.contains(path) {
            return;
        }
        let what = self.without_environment(what);
        let problem = Problem {
            file: self.file.to_owned(),
            place: Some(place(self.text, offset)),
            key: self.root.name(path),
            what,
        };
        // A key can be met twice on the way to one answer; a person needs it once.
        if !self.found.iter().any(|(_, _, known)| *known == problem) {
            self.found.push((offset, path.clone(), problem));
        }
    }

    /// The last guard, for words that come from elsewhere (a certificate's path, say): what the environment filled in
    /// is shown as it is written.
    fn without_environment(&self, what: String) -> String {
        /// Shorter ones are no secrets, and would be found in the midst of words.
        const LEAST: usize = 4;
        let mut filled_in = Vec::new();
        self.root
            .0
            .iter()
            .for_each(|entry| entry.node.filled_in(&mut filled_in));
        filled_in.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let long = filled_in.iter().filter(|(text, _)| text.len() >= LEAST);
        long.fold(what, |what, (text, written)| what.replace(text, written))
    }

    /// Line of the value at `path`, for a problem elsewhere that refers to it.
    pub(super) fn line(&self, path: &Path) -> usize {
        place(self.text, self.root.value_offset(path)).0
    }

    pub(super) fn node(&self, path: &Path) -> Option<&'a Node> {
        self.root.get(path)
    }

    /// Something at or under `path` is reported.
    pub(super) fn has_any_under(&self, path: &Path) -> bool {
        self.found.iter().any(|(_, at, _)| at.starts_with(path))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn into_errors(mut self) -> ConfigErrors {
        for meant in &self.misspelt {
            if let Some((Step::Key(key), table)) = meant.0.split_last() {
                let what = missing(key);
                self.found
                    .retain(|(_, at, problem)| at.0 != table || problem.what != what);
            }
        }
        self.found.sort_by_key(|(offset, ..)| *offset);
        ConfigErrors {
            problems: self.found.into_iter().map(|(_, _, problem)| problem).collect(),
        }
    }
}

fn missing(key: &str) -> String {
    format!("the key \"{key}\" is missing")
}

/// Line and column of a byte offset, both from 1; the column counts characters.
pub(super) fn place(text: &str, offset: usize) -> (usize, usize) {
    let offset = text.floor_char_boundary(offset.min(text.len()));
    let before = &text[..offset];
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let row = before.bytes().filter(|b| *b == b'\n').count() + 1;
    (row, before[start..].chars().count() + 1)
}

/// `; did you mean "x"?` where one of the known names is near, otherwise the known names.
pub(crate) fn suggestion<'k>(found: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(found, known.iter().copied()) {
        Some(near) => format!("; did you mean \"{near}\"?"),
        None if known.is_empty() => String::new(),
        None => format!("; known here: {}", known.join(", ")),
    }
}

fn nearest<'k>(found: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let found = found.to_lowercase();
    known
        .map(|name| (strsim::damerau_levenshtein(&found, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let text = "a\nbä c\n";
        assert_eq!(place(text, 0), (1, 1));
        assert_eq!(place(text, 2), (2, 1));
        assert_eq!(place(text, 5), (2, 3));
        assert_eq!(place(text, 4), (2, 2)); // within ä
        assert_eq!(place(text, 999), (3, 1));
        assert_eq!(place("", 0), (1, 1));
    }

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        let known = ["interval", "timeout", "kv"];
        assert_eq!(suggestion("intervall", known), "; did you mean \"interval\"?");
        assert_eq!(suggestion("Interval", known), "; did you mean \"interval\"?");
        assert_eq!(suggestion("tiemout", known), "; did you mean \"timeout\"?");
        assert_eq!(suggestion("k", known), "; did you mean \"kv\"?");
        assert_eq!(suggestion("colour", known), "; known here: interval, timeout, kv");
        assert_eq!(suggestion("colour", []), "");
    }

    #[test]
    fn a_problem_is_one_line_whatever_the_file_says() {
        let problem = Problem {
            file: "a\nb".into(),
            place: Some((1, 2)),
            key: "x\u{1b}[2J".into(),
            what: "y\r\nz".into(),
        };
        assert_eq!(problem.to_string(), "a b:1:2: x [2J: y  z");
    }
}
