use super::dialect::Delimiter;

/// Cuts lines into cells; a quoted cell may go on over several lines.
pub(super) struct Splitter {
    delimiter: Delimiter,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a cell's first character.
    Start,
    Plain,
    Quoted,
    /// After the closing quote, which is a doubled one if another follows.
    Closed,
}

impl Splitter {
    pub(super) fn new(delimiter: Delimiter) -> Self {
        Splitter {
            delimiter,
            bytes: Vec::new(),
            ends: Vec::new(),
            state: State::Start,
        }
    }

    pub(super) fn delimiter(&self) -> Delimiter {
        self.delimiter
    }

    /// Forgets what was read.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.state = State::Start;
    }

    /// Whether a quote is open.
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Quoted
    }

    /// Bytes in the cells so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The cells side by side, and where each ends.
    pub(super) fn take(&self) -> (&[u8], &[usize]) {
        (&self.bytes, &self.ends)
    }

    /// Takes one more line, without its end.
    pub(super) fn line(&mut self, line: &[u8]) {
        let delimiter = self.delimiter.byte();
        let runs = self.delimiter == Delimiter::Space;
        if self.is_open() {
            self.bytes.push(b'\n');
        }
        for &byte in line {
            match self.state {
                State::Quoted if byte == b'"' => self.state = State::Closed,
                State::Quoted => self.bytes.push(byte),
                State::Closed if byte == b'"' => {
                    self.bytes.push(byte);
                    self.state = State::Quoted;
                }
                State::Start if runs && byte == delimiter => {}
                _ if byte == delimiter => self.end(),
                State::Start if byte == b'"' => self.state = State::Quoted,
                State::Start if byte == b' ' => {}
                State::Start => {
                    self.bytes.push(byte);
                    self.state = State::Plain;
                }
                State::Plain | State::Closed => {
                    self.bytes.push(byte);
                    self.state = State::Plain;
                }
            }
        }
        // Spaces at the end of a line separate nothing.
        let nothing_left = runs && self.state == State::Start && !self.ends.is_empty();
        if !self.is_open() && !nothing_left {
            self.end();
        }
    }

    fn end(&mut self) {
        self.ends.push(self.bytes.len());
        self.state = State::Start;
    }
}
