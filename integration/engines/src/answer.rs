//! What came of a line, and what a test claims about it. Each claim is a step.

use std::cell::Cell;
use std::fmt::Display;

use integration::terminal::Terminal;
use integration::{Output, Running};

/// What came of one line that was typed.
#[derive(Debug)]
pub struct Answer<'place> {
    steps: &'place Cell<u32>,
    /// The line's exit code and what it printed.
    pub output: Output,
}

impl<'place> Answer<'place> {
    pub(crate) fn new(steps: &'place Cell<u32>, output: Output) -> Self {
        Self { steps, output }
    }

    #[track_caller]
    fn claim(&self, holds: bool, claim: impl Display) -> &Self {
        assert!(holds, "{claim}, but:\n{}", self.output);
        count(self.steps);
        self
    }

    /// It exits with 0.
    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        self.claim(self.output.code == 0, "it should exit with 0")
    }

    /// It exits with this code.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        self.claim(self.output.code == code, format_args!("it should exit with {code}"))
    }

    /// It exits with 0, having printed this alone, but for white space at both ends.
    #[track_caller]
    pub fn prints(&self, text: &str) -> &Self {
        let holds = self.output.code == 0 && self.text() == text;
        self.claim(holds, format_args!("it should print {text:?}"))
    }

    /// It exits with 0, and this is in what it printed.
    #[track_caller]
    pub fn mentions(&self, text: &str) -> &Self {
        let holds = self.output.code == 0 && self.output.stdout.contains(text);
        self.claim(holds, format_args!("it should mention {text:?}"))
    }

    /// It exits with 0, and this is not in what it printed.
    #[track_caller]
    pub fn lacks(&self, text: &str) -> &Self {
        let holds = self.output.code == 0 && !self.output.stdout.contains(text);
        self.claim(holds, format_args!("it should not mention {text:?}"))
    }

    /// It exits with this code, complaining of this on either output.
    #[track_caller]
    pub fn fails(&self, code: i32, text: &str) -> &Self {
        let holds = self.output.code == code
            && [&self.output.stderr, &self.output.stdout].iter().any(|said| said.contains(text));
        self.claim(holds, format_args!("it should exit with {code} and complain of {text:?}"))
    }

    /// What it printed, without white space at both ends.
    pub fn text(&self) -> &str {
        self.output.stdout.trim()
    }
}

/// A line at work on a terminal.
#[derive(Debug)]
#[must_use = "its end is what tells whether all went well"]
pub struct Session<'place> {
    steps: &'place Cell<u32>,
    terminal: Terminal,
    running: Running,
}

impl<'place> Session<'place> {
    pub(crate) fn new(steps: &'place Cell<u32>, terminal: Terminal, running: Running) -> Self {
        Self { steps, terminal, running }
    }

    /// Types a line.
    pub fn types(mut self, line: &str) -> Self {
        self.terminal.send(&format!("{line}\n"));
        self
    }

    /// This appears on the terminal.
    #[track_caller]
    pub fn shows(mut self, text: &str) -> Self {
        self.terminal.expect(text);
        count(self.steps);
        self
    }

    /// Changes the terminal's size.
    pub fn resizes(self, columns: u16, rows: u16) -> Self {
        self.terminal.resize(columns, rows);
        self
    }

    /// The program's terminal gets this size, which engines may set when it runs already.
    #[track_caller]
    pub fn gets_size(self, rows: u16, columns: u16) -> Self {
        // What is typed shows too, and must not be what is looked for.
        let right = format!("stty size 2>/dev/null | grep '^{rows}.{columns}$'");
        self.types(&format!("until {right}; do sleep 0.1; done"))
            .shows(&format!("{rows} {columns}"))
    }

    /// It ends with this exit code.
    #[track_caller]
    pub fn ends(self, code: i32) {
        let output = self.running.wait();
        assert_eq!(output.code, code, "{output}");
        count(self.steps);
    }
}

/// Counts one more claim that holds.
pub(crate) fn count(steps: &Cell<u32>) {
    steps.set(steps.get() + 1);
}
