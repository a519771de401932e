//! Where the output of a process goes, as containerd names it.

use std::path::PathBuf;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The null device.
    Nothing,
    /// A named pipe, or a file that is there.
    Path(PathBuf),
    /// A file that is made, with the directories above it, and appended to.
    File(PathBuf),
    /// A program that reads the output.
    Logger(Logger),
}

/// A program that reads the output of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logger {
    /// Its path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Whether it says by a byte that it is ready, and has failed if it goes without.
    pub says_ready: bool,
}

/// What the name of a stream stands for.
///
/// # Errors
/// Where it stands for nothing that is known.
pub fn target(name: &str) -> Result<Target, String> {
    if name.is_empty() {
        return Ok(Target::Nothing);
    }
    let Some((scheme, rest)) = name.split_once("://") else {
        return Ok(Target::Path(name.into()));
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = decoded(path, false);
    if !path.starts_with('/') {
        return Err(format!("{name:?}: not an absolute path"));
    }
    match scheme {
        "fifo" => Ok(Target::Path(path.into())),
        "file" => Ok(Target::File(path.into())),
        "binary" | "binary-v2" => {
            let pairs = query.split('&').filter(|pair| !pair.is_empty());
            let arguments = pairs.flat_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                [decoded(key, true), decoded(value, true)]
            });
            let says_ready = scheme == "binary-v2";
            let arguments = arguments.collect();
            Ok(Target::Logger(Logger { program: path.into(), arguments, says_ready }))
        }
        _ => Err(format!("{name:?}: unknown scheme")),
    }
}

/// The text with its bytes that are written as `%` and two digits.
fn decoded(text: &str, is_query: bool) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            (b'+', _) if is_query => bytes.push(b' '),
            _ => bytes.push(first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_what_containerd_means() {
        let logger = |says_ready, arguments: &[&str]| {
            let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
            Target::Logger(Logger { program: "/bin/log er".into(), arguments, says_ready })
        };
        for (name, expected) in [
            ("", Target::Nothing),
            ("/run/a-stdout", Target::Path("/run/a-stdout".into())),
            ("fifo:///run/a", Target::Path("/run/a".into())),
            ("file:///var/log/a%20b", Target::File("/var/log/a b".into())),
            ("binary:///bin/log%20er", logger(false, &[])),
            ("binary:///bin/log%20er?id=a+b&x", logger(false, &["id", "a b", "x", ""])),
            ("binary-v2:///bin/log%20er?a=%3d", logger(true, &["a", "="])),
        ] {
            assert_eq!(target(name).unwrap(), expected);
        }
        for wrong in ["http://x", "file://relative", "binary:"] {
            assert_eq!(target(wrong).is_ok(), wrong == "binary:", "{wrong}");
        }
    }
}
