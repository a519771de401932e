//! Messages: a header with named fields, and a body of values.

use std::fmt;

use crate::value::{Reader, Value, align};

/// The longest message that is taken, in bytes. systemd's are a few hundred.
const LONGEST: usize = 1 << 20;
/// Before the fields: order of bytes, kind, flags, version, three numbers.
const FIXED: usize = 16;

/// Bytes that are no message. Says what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Calls a method.
    Call,
    /// What the method returns.
    Return,
    /// Why the method did not do it.
    Error,
    /// Told to whoever listens.
    Signal,
    /// One that later versions may have.
    Other,
}

/// A method call to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<'a> {
    /// Whose: a name on the bus. None on a connection to the other side alone.
    pub destination: Option<&'a str>,
    /// Of which object.
    pub path: &'a str,
    /// Of which interface.
    pub interface: &'a str,
    /// Its name.
    pub member: &'a str,
    /// Its arguments.
    pub arguments: Vec<Value>,
}

impl Call<'_> {
    /// The bytes of the call. `serial` is not 0.
    pub fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Vec::new();
        self.arguments.iter().for_each(|argument| argument.write(&mut body));
        let signature: String = self.arguments.iter().map(Value::signature).collect();
        let field =
            |code: u8, value: Value| Value::Struct(vec![Value::Byte(code), Value::variant(value)]);
        let mut fields = vec![
            field(1, Value::Path(self.path.into())),
            field(2, Value::text(self.interface)),
            field(3, Value::text(self.member)),
        ];
        fields.extend(self.destination.map(|name| field(6, Value::text(name))));
        if !signature.is_empty() {
            fields.push(field(8, Value::Signature(signature)));
        }
        let mut bytes = vec![b'l', 1, 0, 1];
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(serial.to_le_bytes());
        Value::Array("(yv)".into(), fields).write(&mut bytes);
        align(&mut bytes, 8);
        bytes.extend(body);
        bytes
    }
}

/// A message that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// To which call it is the answer.
    pub reply_to: Option<u32>,
    /// Who sent it, as the bus says.
    pub sender: Option<String>,
    /// The member of a signal.
    pub member: Option<String>,
    /// The name of an error.
    pub error: Option<String>,
    /// The signature of its body.
    pub signature: String,
    body: Vec<u8>,
    is_big_endian: bool,
}

/// How many bytes the message has that begins with these; None where too few have come to tell.
pub fn length(begin: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(fixed) = begin.first_chunk::<FIXED>() else { return Ok(None) };
    let number = |at: usize| {
        let bytes = fixed.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        let bytes: [u8; 4] = bytes.unwrap_or_default();
        match fixed.first() {
            Some(b'B') => u32::from_be_bytes(bytes) as usize,
            _ => u32::from_le_bytes(bytes) as usize,
        }
    };
    if !matches!(fixed.first(), Some(b'l' | b'B')) || fixed.get(3) != Some(&1) {
        return Err(Malformed("no message of this protocol"));
    }
    let (body, fields) = (number(4), number(12));
    if body > LONGEST || fields > LONGEST {
        return Err(Malformed("a message longer than any that is sent here"));
    }
    Ok(Some((FIXED + fields).next_multiple_of(8) + body))
}

impl Message {
    /// Reads a message of as many bytes as [`length`] says.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let short = Malformed("a message that is too short");
        let length = length(bytes)?.ok_or(short)?;
        let bytes = bytes.get(..length).ok_or(short)?;
        let is_big_endian = bytes.first() == Some(&b'B');
        let mut reader = Reader::new(bytes, is_big_endian);
        let fixed = reader.values("yyyyuua(yv)")?;
        let [_, Value::Byte(kind), _, _, Value::U32(body), _, Value::Array(_, fields)] =
            fixed.as_slice()
        else {
            return Err(Malformed("a header that is none"));
        };
        let mut message = Self {
            kind: match kind {
                1 => Kind::Call,
                2 => Kind::Return,
                3 => Kind::Error,
                4 => Kind::Signal,
                _ => Kind::Other,
            },
            reply_to: None,
            sender: None,
            member: None,
            error: None,
            signature: String::new(),
            body: bytes.get(length - *body as usize..).unwrap_or_default().to_vec(),
            is_big_endian,
        };
        for field in fields {
            let Value::Struct(field) = field else { continue };
            let [Value::Byte(code), Value::Variant(value)] = field.as_slice() else { continue };
            let text = value.as_text().map(str::to_owned);
            match (code, &**value) {
                (3, Value::Text(_)) => message.member = text,
                (4, Value::Text(_)) => message.error = text,
                (5, Value::U32(serial)) => message.reply_to = Some(*serial),
                (7, Value::Text(_)) => message.sender = text,
                (8, Value::Signature(_)) => message.signature = text.unwrap_or_default(),
                _ => {}
            }
        }
        Ok(message)
    }

    /// The values of its body.
    pub fn body(&self) -> Result<Vec<Value>, Malformed> {
        Reader::new(&self.body, self.is_big_endian).values(&self.signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What busctl of systemd 252 wrote to a bus for one call, and what dbus-daemon 1.14
    /// answered, from the greeting on.
    const BUSCTL: &[u8] = include_bytes!("recorded/busctl");
    const DBUS_DAEMON: &[u8] = include_bytes!("recorded/dbus-daemon");

    /// The messages behind the lines of a greeting, with their bytes.
    fn messages(recorded: &[u8]) -> Vec<(Message, &[u8])> {
        let begin = recorded.windows(3).rposition(|three| three == b"\r\nl").unwrap() + 2;
        let mut rest = &recorded[begin..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (bytes, after) = rest.split_at(length(rest).unwrap().unwrap());
            found.push((Message::decode(bytes).unwrap(), bytes));
            rest = after;
        }
        found
    }

    fn call(arguments: Vec<Value>) -> Call<'static> {
        Call {
            destination: Some("org.freedesktop.DBus"),
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.systemd1.Manager",
            member: "StartTransientUnit",
            arguments,
        }
    }

    #[test]
    fn a_call_has_the_bytes_that_systemds_own_program_writes() {
        let property = |name: &str, value: Value| {
            Value::Struct(vec![Value::text(name), Value::variant(value)])
        };
        let rule = Value::Struct(vec![Value::text("char-pts"), Value::text("rwm")]);
        let properties = vec![
            property("PIDs", Value::Array("u".into(), vec![Value::U32(42)])),
            property("MemoryMax", Value::U64(1 << 30)),
            property("Delegate", Value::Bool(true)),
            property("DeviceAllow", Value::Array("(ss)".into(), vec![rule])),
            property("AllowedCPUs", Value::bytes(&[3])),
        ];
        let arguments = vec![
            Value::text("a.scope"),
            Value::text("replace"),
            Value::Array("(sv)".into(), properties),
            Value::Array("(sa(sv))".into(), vec![]),
        ];
        let recorded = messages(BUSCTL);
        let [(hello, _), (start, bytes)] = recorded.as_slice() else { panic!("{recorded:?}") };
        assert_eq!((hello.kind, hello.member.as_deref()), (Kind::Call, Some("Hello")));
        assert_eq!((start.kind, start.member.as_deref()), (Kind::Call, Some("StartTransientUnit")));
        assert_eq!(start.body(), Ok(arguments.clone()));
        // The order of the header's fields is anybody's.
        let encoded = call(arguments).encode(2);
        assert_eq!(encoded.len(), bytes.len());
        let ours = Message::decode(&encoded).unwrap();
        assert_eq!((ours.body, ours.signature), (start.body.clone(), start.signature.clone()));
    }

    #[test]
    fn answers_signals_and_errors_are_told_apart() {
        let told: Vec<_> = messages(DBUS_DAEMON).into_iter().map(|(message, _)| message).collect();
        let [hello, acquired, refused] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((hello.kind, hello.reply_to), (Kind::Return, Some(1)));
        assert_eq!(
            (acquired.kind, acquired.member.as_deref()),
            (Kind::Signal, Some("NameAcquired"))
        );
        assert_eq!(acquired.sender.as_deref(), Some("org.freedesktop.DBus"));
        assert_eq!((refused.kind, refused.reply_to), (Kind::Error, Some(2)));
        let name = "org.freedesktop.DBus.Error.UnknownInterface";
        assert_eq!(refused.error.as_deref(), Some(name));
        let text = "org.freedesktop.DBus does not understand message StartTransientUnit";
        assert_eq!(refused.body(), Ok(vec![Value::text(text)]));
    }

    #[test]
    fn arguments_come_after_the_header() {
        let arguments = vec![Value::text("a.scope"), Value::texts(["x"]), Value::U64(9)];
        let bytes = call(arguments.clone()).encode(7);
        let message = Message::decode(&bytes).unwrap();
        assert_eq!((message.signature.as_str(), message.body()), ("sast", Ok(arguments)));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = call(vec![Value::Array("(sv)".into(), vec![])]).encode(7);
        for end in 0..whole.len() {
            assert!(Message::decode(&whole[..end]).is_err());
        }
        let mut seed = 1_u64;
        for _ in 0..200_000 {
            let mut bytes = whole.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (seed >> 33) as usize % bytes.len();
                bytes[at] = (seed >> 20) as u8;
            }
            if let Ok(message) = Message::decode(&bytes) {
                let _ = message.body();
            }
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_has_come() {
        let mut bytes = call(vec![]).encode(1);
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(length(&bytes[..FIXED]).is_err());
        assert_eq!(length(&bytes[..FIXED - 1]), Ok(None));
    }
}
