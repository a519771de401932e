//! Values and their bytes ("Marshalling" of the specification).

use crate::message::Malformed;

/// A value of D-Bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `y`.
    Byte(u8),
    /// `b`.
    Bool(bool),
    /// `n`.
    I16(i16),
    /// `q`.
    U16(u16),
    /// `i`.
    I32(i32),
    /// `u`, and `h`, the index of a descriptor.
    U32(u32),
    /// `x`.
    I64(i64),
    /// `t`.
    U64(u64),
    /// `d`, by its bits.
    Double(u64),
    /// `s`.
    Text(String),
    /// `o`.
    Path(String),
    /// `g`.
    Signature(String),
    /// `a`, with the signature of its elements.
    Array(String, Vec<Value>),
    /// `(...)`, and `{..}`, an entry of a dictionary.
    Struct(Vec<Value>),
    /// `v`.
    Variant(Box<Value>),
}

/// The depth of values in values that is read. The specification allows 64.
const DEEPEST: usize = 64;

impl Value {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// An array of texts, `as`.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::Array("s".into(), texts.into_iter().map(Self::text).collect())
    }

    /// An array of bytes, `ay`.
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Array("y".into(), bytes.iter().copied().map(Self::Byte).collect())
    }

    /// A value in a variant, `v`.
    pub fn variant(value: Self) -> Self {
        Self::Variant(Box::new(value))
    }

    /// What it looks like on the wire: `a(sv)`.
    pub fn signature(&self) -> String {
        match self {
            Self::Byte(_) => "y".into(),
            Self::Bool(_) => "b".into(),
            Self::I16(_) => "n".into(),
            Self::U16(_) => "q".into(),
            Self::I32(_) => "i".into(),
            Self::U32(_) => "u".into(),
            Self::I64(_) => "x".into(),
            Self::U64(_) => "t".into(),
            Self::Double(_) => "d".into(),
            Self::Text(_) => "s".into(),
            Self::Path(_) => "o".into(),
            Self::Signature(_) => "g".into(),
            Self::Array(element, _) => format!("a{element}"),
            Self::Struct(fields) => {
                format!("({})", fields.iter().map(Self::signature).collect::<String>())
            }
            Self::Variant(_) => "v".into(),
        }
    }

    /// The text of a text, a path or a signature.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Path(text) | Self::Signature(text) => Some(text),
            _ => None,
        }
    }

    /// Appends its bytes. Alignment counts from the beginning of `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        align(out, alignment(self.signature().as_bytes().first().copied().unwrap_or(b'y')));
        match self {
            Self::Byte(byte) => out.push(*byte),
            Self::Bool(value) => out.extend(u32::from(*value).to_le_bytes()),
            Self::I16(value) => out.extend(value.to_le_bytes()),
            Self::U16(value) => out.extend(value.to_le_bytes()),
            Self::I32(value) => out.extend(value.to_le_bytes()),
            Self::U32(value) => out.extend(value.to_le_bytes()),
            Self::I64(value) => out.extend(value.to_le_bytes()),
            Self::U64(value) | Self::Double(value) => out.extend(value.to_le_bytes()),
            Self::Text(text) | Self::Path(text) => {
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.bytes());
                out.push(0);
            }
            Self::Signature(text) => write_signature(text, out),
            Self::Array(element, values) => {
                out.extend([0; 4]);
                let length_at = out.len() - 4;
                align(out, alignment(element.bytes().next().unwrap_or(b'y')));
                let begin = out.len();
                values.iter().for_each(|value| value.write(out));
                let length = (out.len() - begin) as u32;
                if let Some(place) = out.get_mut(length_at..length_at + 4) {
                    place.copy_from_slice(&length.to_le_bytes());
                }
            }
            Self::Struct(fields) => fields.iter().for_each(|field| field.write(out)),
            Self::Variant(value) => {
                write_signature(&value.signature(), out);
                value.write(out);
            }
        }
    }
}

fn write_signature(text: &str, out: &mut Vec<u8>) {
    out.push(text.len() as u8);
    out.extend(text.bytes());
    out.push(0);
}

/// Fills up with zeros to a multiple of `to`.
pub(crate) fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// What the first byte of a type's signature says of its alignment.
fn alignment(code: u8) -> usize {
    match code {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

/// Reads values from bytes that anybody may have written.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_big_endian: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], is_big_endian: bool) -> Self {
        Self { bytes, at: 0, is_big_endian }
    }

    /// The values of a signature, one after the other.
    pub fn values(&mut self, signature: &str) -> Result<Vec<Value>, Malformed> {
        let mut rest = signature.as_bytes();
        let mut values = Vec::new();
        while !rest.is_empty() {
            values.push(self.value(&mut rest, 0)?);
        }
        Ok(values)
    }

    /// The value of the first type in `signature`, which is left with what comes after.
    fn value(&mut self, signature: &mut &[u8], depth: usize) -> Result<Value, Malformed> {
        if depth > DEEPEST {
            return Err(Malformed("values in values without end"));
        }
        let (first, rest) = first_type(signature)?;
        *signature = rest;
        let code = *first.first().ok_or(Malformed("an empty signature"))?;
        self.align(alignment(code))?;
        Ok(match code {
            b'y' => Value::Byte(self.take::<1>()?[0]),
            b'b' => match self.u32()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Err(Malformed("a boolean that is neither")),
            },
            b'n' => Value::I16(self.u16()? as i16),
            b'q' => Value::U16(self.u16()?),
            b'i' => Value::I32(self.u32()? as i32),
            b'u' | b'h' => Value::U32(self.u32()?),
            b'x' => Value::I64(self.u64()? as i64),
            b't' => Value::U64(self.u64()?),
            b'd' => Value::Double(self.u64()?),
            b's' => Value::Text(self.text()?),
            b'o' => Value::Path(self.text()?),
            b'g' => Value::Signature(self.signature()?),
            b'v' => {
                let inner = self.signature()?;
                let mut inner = inner.as_bytes();
                let value = self.value(&mut inner, depth + 1)?;
                if !inner.is_empty() {
                    return Err(Malformed("a variant of several values"));
                }
                Value::Variant(Box::new(value))
            }
            b'a' => {
                let element = first.get(1..).unwrap_or_default();
                let length = self.u32()? as usize;
                self.align(alignment(element.first().copied().unwrap_or(b'y')))?;
                let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
                let end = end.ok_or(Malformed("an array longer than its message"))?;
                let mut values = Vec::new();
                while self.at < end {
                    values.push(self.value(&mut { element }, depth + 1)?);
                }
                if self.at != end {
                    return Err(Malformed("an array that ends within a value"));
                }
                Value::Array(String::from_utf8_lossy(element).into_owned(), values)
            }
            // What is in the brackets.
            b'(' | b'{' => {
                let mut fields = first.get(1..first.len() - 1).unwrap_or_default();
                // An array of such would have no end: none of its elements takes a byte.
                if fields.is_empty() {
                    return Err(Malformed("a structure of nothing"));
                }
                let mut values = Vec::new();
                while !fields.is_empty() {
                    values.push(self.value(&mut fields, depth + 1)?);
                }
                Value::Struct(values)
            }
            _ => return Err(Malformed("an unknown type")),
        })
    }

    pub fn align(&mut self, to: usize) -> Result<(), Malformed> {
        self.at = self.at.next_multiple_of(to);
        if self.at > self.bytes.len() { Err(SHORT) } else { Ok(()) }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).ok_or(SHORT)?;
        self.at += N;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take()?;
        Ok(if self.is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take()?;
        Ok(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take()?;
        Ok(if self.is_big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let length = self.u32()? as usize;
        self.terminated(length)
    }

    fn signature(&mut self) -> Result<String, Malformed> {
        let [length] = self.take()?;
        self.terminated(length.into())
    }

    /// As many bytes of text, and the zero behind them.
    fn terminated(&mut self, length: usize) -> Result<String, Malformed> {
        let end = self.at.checked_add(length).ok_or(SHORT)?;
        let text = self.bytes.get(self.at..end).ok_or(SHORT)?;
        if self.bytes.get(end) != Some(&0) {
            return Err(Malformed("a text without its end"));
        }
        self.at = end + 1;
        String::from_utf8(text.to_vec()).map_err(|_| Malformed("a text that is no UTF-8"))
    }
}

const SHORT: Malformed = Malformed("a message that is too short");

/// The first whole type of a signature, and the rest.
fn first_type(signature: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut open = 0_usize;
    for (index, code) in signature.iter().enumerate() {
        match code {
            b'a' => continue,
            b'(' | b'{' => open += 1,
            b')' | b'}' => {
                open = open.checked_sub(1).ok_or(Malformed("a bracket that was not opened"))?;
            }
            _ => {}
        }
        if open == 0 {
            return Ok(signature.split_at(index + 1));
        }
    }
    Err(Malformed("a signature that is cut short"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        value.write(&mut out);
        out
    }

    #[test]
    fn a_value_is_read_as_it_was_written() {
        let property = |name: &str, value: Value| {
            Value::Struct(vec![Value::text(name), Value::variant(value)])
        };
        let values = [
            Value::Byte(7),
            Value::Bool(true),
            Value::I16(-2),
            Value::U16(2),
            Value::I32(-3),
            Value::U32(3),
            Value::I64(-4),
            Value::U64(u64::MAX),
            Value::Double(1.5_f64.to_bits()),
            Value::text("grün"),
            Value::Path("/a/b".into()),
            Value::Signature("a(sv)".into()),
            Value::texts(["a", "", "bcd"]),
            Value::bytes(&[1, 2, 3]),
            Value::Array("(sv)".into(), vec![]),
            Value::Array(
                "(sv)".into(),
                vec![
                    property("PIDs", Value::Array("u".into(), vec![Value::U32(42)])),
                    property("MemoryMax", Value::U64(1 << 30)),
                    property("Delegate", Value::Bool(true)),
                    property(
                        "DeviceAllow",
                        Value::Array(
                            "(ss)".into(),
                            vec![Value::Struct(vec![Value::text("char-pts"), Value::text("rwm")])],
                        ),
                    ),
                ],
            ),
        ];
        for value in values {
            // At each alignment.
            for before in 0..8 {
                let mut out = vec![0; before];
                value.write(&mut out);
                let mut reader = Reader { bytes: &out, at: before, is_big_endian: false };
                let read = reader.values(&value.signature());
                assert_eq!(read.as_deref(), Ok(&[value.clone()][..]));
                assert_eq!(reader.at, out.len());
            }
        }
    }

    #[test]
    fn bytes_are_those_of_the_specification() {
        assert_eq!(bytes(&Value::text("foo")), b"\x03\0\0\0foo\0");
        let array = Value::Array("t".into(), vec![Value::U64(5)]);
        assert_eq!(bytes(&array), b"\x08\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0");
        assert_eq!(bytes(&Value::variant(Value::U32(1))), b"\x01u\0\0\x01\0\0\0");
    }

    #[test]
    fn the_other_order_of_bytes_is_read_too() {
        let mut reader = Reader::new(b"\0\0\0\x03foo\0\0\0\0\x05", true);
        assert_eq!(reader.values("su"), Ok(vec![Value::text("foo"), Value::U32(5)]));
    }

    #[test]
    fn what_is_wrong_is_an_error() {
        let deep = [b'v'; 200];
        let deep: Vec<u8> = deep.iter().flat_map(|code| [1, *code, 0]).collect();
        let cases: [(&str, &[u8]); 14] = [
            ("u", b"\0\0"),
            ("b", b"\x02\0\0\0"),
            ("s", b"\x05\0\0\0foo\0"),
            ("s", b"\x03\0\0\0foo!"),
            ("s", b"\x01\0\0\0\xff\0"),
            ("s", b"\xff\xff\xff\xff"),
            ("au", b"\x06\0\0\0\0\0\0\0\0\0\0\0"),
            ("au", b"\xff\xff\xff\x7f"),
            ("(u", b"\0\0\0\0"),
            ("u)", b"\0\0\0\0"),
            ("()", b"\0\0\0\0"),
            ("!", b"\0\0\0\0"),
            ("v", b"\x02uu\0\0\0\0\0\0\0\0\0"),
            ("v", &deep),
        ];
        for (signature, bytes) in cases {
            let read = Reader::new(bytes, false).values(signature);
            assert!(read.is_err(), "{signature} {bytes:?} {read:?}");
        }
    }
}
