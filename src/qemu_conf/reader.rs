//! The grammar of libvirt's configuration files (`virConf`, src/util/virconf.c), read as strictly as libvirt does:
//! a file that this refuses is one that the daemon would not start with.

/// Lists within lists mean nothing in qemu.conf; libvirt takes them without end, which we need not.
const MAX_DEPTH: usize = 8;

const UNCLOSED_TEXT: &str = "a text is not closed with its quote";
const UNCLOSED_LIST: &str = "a list is not closed with ]";
const COMMENT: &str = "a comment inside a list, which libvirt does not take";

/// `name = value`
pub(super) struct Setting<'a> {
    pub(super) name: &'a str,
    /// Where the value begins; the first is 1.
    pub(super) line: usize,
    pub(super) value: Value<'a>,
}

pub(super) enum Value<'a> {
    /// As written, sign and all.
    Number(&'a str),
    Text(&'a str),
    List(Vec<Value<'a>>),
}

/// Every setting in the file's order, or `line N: …`.
pub(super) fn settings(text: &str) -> Result<Vec<Setting<'_>>, String> {
    let mut reader = Reader { rest: text, line: 1 };
    let mut settings = Vec::new();
    reader.blank_lines();
    while !reader.rest.is_empty() {
        match reader.statement() {
            Ok(setting) => settings.extend(setting),
            Err(why) => return Err(format!("line {}: {why}", reader.line)),
        }
    }
    Ok(settings)
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    /// A setting, or a comment on a line of its own; with what separates it from the next.
    fn statement(&mut self) -> Result<Option<Setting<'a>>, &'static str> {
        let setting = if self.rest.starts_with('#') { None } else { Some(self.setting()?) };
        self.blanks();
        if self.rest.starts_with('#') {
            self.take_while(|c| !is_end(c));
        }
        if !self.rest.is_empty() && !self.rest.starts_with(is_end) && !self.skip(';') {
            return Err("something follows the value");
        }
        self.blank_lines();
        Ok(setting)
    }

    fn setting(&mut self) -> Result<Setting<'a>, &'static str> {
        if !self.rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err("no setting begins like this");
        }
        let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        self.blanks();
        if !self.skip('=') {
            return Err("no = after the setting's name");
        }
        let line = self.line;
        Ok(Setting { name, line, value: self.value(0)? })
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, &'static str> {
        self.blanks();
        match self.rest.chars().next() {
            Some('\'') => self.text("'").map(Value::Text),
            // Six quotes at the very end of a file are no text to libvirt.
            Some('"') if self.rest.starts_with("\"\"\"") && self.rest.len() > 6 => {
                self.text("\"\"\"").map(Value::Text)
            }
            Some('"') => self.text("\"").map(Value::Text),
            Some('[') if depth < MAX_DEPTH => self.list(depth + 1).map(Value::List),
            Some('[') => Err("lists are nested too deep"),
            Some('+' | '-' | '0'..='9') => self.number().map(Value::Number),
            Some('#') if depth > 0 => Err(COMMENT),
            _ => Err("a value must be a number, a text in quotes or a list in brackets"),
        }
    }

    /// Nothing is escaped in a text; only one in triple quotes goes on over the end of a line.
    fn text(&mut self, quote: &str) -> Result<&'a str, &'static str> {
        self.take(quote.len());
        let (text, _) = self.rest.split_once(quote).ok_or(UNCLOSED_TEXT)?;
        if quote.len() == 1 && text.contains(is_end) {
            return Err(UNCLOSED_TEXT);
        }
        self.take(text.len() + quote.len());
        Ok(text)
    }

    fn number(&mut self) -> Result<&'a str, &'static str> {
        let sign = usize::from(self.rest.starts_with(['+', '-']));
        let digits = self.rest.chars().skip(sign).take_while(char::is_ascii_digit).count();
        if digits == 0 { Err("a number without digits") } else { Ok(self.take(sign + digits)) }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value<'a>>, &'static str> {
        self.skip('[');
        let mut values = Vec::new();
        loop {
            self.blank_lines();
            if self.skip(']') {
                return Ok(values);
            }
            if self.rest.is_empty() {
                return Err(UNCLOSED_LIST);
            }
            values.push(self.value(depth)?);
            self.blank_lines();
            if !self.skip(',') && !self.rest.starts_with(']') {
                return Err(match self.rest.chars().next() {
                    None => UNCLOSED_LIST,
                    Some('#') => COMMENT,
                    Some(_) => "no comma between the values of a list",
                });
            }
        }
    }

    fn blanks(&mut self) {
        self.take_while(is_blank);
    }

    fn blank_lines(&mut self) {
        self.take_while(|c| is_blank(c) || is_end(c));
    }

    fn skip(&mut self, mark: char) -> bool {
        let there = self.rest.starts_with(mark);
        if there {
            self.take(mark.len_utf8());
        }
        there
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        self.take(self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len()))
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

fn is_end(c: char) -> bool {
    matches!(c, '\n' | '\r')
}
