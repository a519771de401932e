//! Reads what engines type, and most people: each option written whole, or as one letter, its
//! value behind it or behind `=`. For such a line clap would take longer than `state` does for
//! all the rest. Whatever else there is, or is wrong, is clap's to read and to explain: no line
//! is read here that clap would refuse or read otherwise.

use std::ffi::{OsStr, OsString};

use super::definition::{Behind, Definition, Takes};
use super::given::Given;
use super::{GLOBAL, Line, VERBS, Verb};

/// The command line, or nothing if it is not as plain as that. The first argument is the
/// program's name.
pub fn read<'a>(arguments: impl Iterator<Item = &'a OsStr>) -> Option<Line> {
    let mut arguments = arguments.skip(1);
    let mut global = Given::default();
    let verb = loop {
        let Some(argument) = arguments.next() else {
            return global.has("version").then_some(Line { global, verb: None });
        };
        match typed(argument)? {
            Typed::Word(name) => break VERBS.iter().find(|verb| verb.name == name)?,
            Typed::Option(name, value) => {
                take(&[GLOBAL], name, value, &mut arguments, &mut global)?;
            }
        }
    };
    Some(Line { global, verb: Some((verb.name, of_verb(verb, arguments)?)) })
}

fn of_verb<'a>(verb: &Verb, mut arguments: impl Iterator<Item = &'a OsStr>) -> Option<Given> {
    let mut given = Given::default();
    let mut place = 0;
    while let Some(argument) = arguments.next() {
        match typed(argument)? {
            // It may be the program's.
            Typed::Option(..) if place > 0 && verb.behind.is_open() => return None,
            Typed::Option(name, value) => {
                take(verb.options, name, value, &mut arguments, &mut given)?;
            }
            Typed::Word(word) => {
                let name = verb.behind.at(place)?;
                given.add(name, word.into(), true);
                place += 1;
                if place > 1 && verb.behind.is_open() {
                    for argument in arguments.by_ref() {
                        // clap may take it away.
                        let word = argument.to_str().filter(|word| *word != "--")?;
                        given.add(name, word.into(), true);
                    }
                }
            }
        }
    }
    (verb.behind == Behind::Nothing || place > 0).then_some(given)
}

/// An argument as it looks.
enum Typed<'a> {
    Word(&'a str),
    /// The option's name without its dashes, and what stands behind `=`.
    Option(&'a str, Option<&'a str>),
}

fn typed(argument: &OsStr) -> Option<Typed<'_>> {
    let text = argument.to_str().filter(|text| !text.is_empty())?;
    let Some(one) = text.strip_prefix('-') else { return Some(Typed::Word(text)) };
    let name = one.strip_prefix('-').unwrap_or(one);
    let (name, value) = match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    };
    // One letter has one dash, and a value apart; a name has two dashes, or one as in Go.
    let is_letter = name.len() == 1;
    let is_plain = !name.is_empty() && !name.starts_with('-');
    (is_plain && !(is_letter && (value.is_some() || one.len() != 1)))
        .then_some(Typed::Option(name, value))
}

/// Takes an option, with its value.
fn take<'a>(
    options: &[&[Definition]],
    name: &str,
    value: Option<&str>,
    rest: &mut impl Iterator<Item = &'a OsStr>,
    given: &mut Given,
) -> Option<()> {
    let is_letter = name.len() == 1;
    let is_it = |option: &&Definition| match is_letter {
        true => option.short.is_some_and(|letter| name.chars().eq([letter])),
        false => option.long == name,
    };
    let option = options.iter().flat_map(|some| some.iter()).find(is_it)?;
    if option.takes == Takes::Nothing {
        let is_on = value.is_none();
        return is_on.then(|| given.add(option.name, OsString::new(), false));
    }
    let value = match value {
        Some(value) => OsStr::new(value),
        None => rest.next()?,
    };
    option.is_value(value).then(|| given.add(option.name, value.into(), option.is_repeated))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;
    use crate::cli::read_by_clap;

    fn words(line: &str) -> Vec<&OsStr> {
        line.split(' ').map(OsStr::new).collect()
    }

    /// What is read here, each time that clap reads the same.
    fn read_alike(words: &[&OsStr]) -> Option<Line> {
        let line = read(words.iter().copied())?;
        let by_clap = read_by_clap(words.iter().map(|word| (*word).to_owned()).collect());
        let by_clap = by_clap.unwrap_or_else(|error| panic!("{words:?}: {error}"));
        assert_eq!(line.in_order(), by_clap.in_order(), "{words:?}");
        Some(line)
    }

    impl Line {
        fn in_order(&self) -> [(&str, Vec<&(&'static str, OsString)>); 2] {
            let of_verb = self.verb.as_ref().map(|(name, given)| (*name, given.in_order()));
            [("", self.global.in_order()), of_verb.unwrap_or_default()]
        }
    }

    /// As containerd's and CRI-O's shims, Docker, Podman and BuildKit type them, and people.
    #[test]
    fn engines_lines_are_plain() {
        const TASK: &str = "ferrun --root /run/r --log /b/log.json --log-format json";
        for line in [
            "create --bundle /b --pid-file /b/init.pid --console-socket /s --no-pivot c",
            "create --bundle /b --pid-file /b/init.pid --preserve-fds 3 c",
            "start c",
            "state c",
            "exec --process /p --console-socket /s --detach --pid-file /b/x.pid c",
            "exec --process /p --preserve-fds 1 --pid-file /b/x.pid c",
            "kill --all c 9",
            "kill c SIGTERM",
            "delete --force c",
            "pause c",
            "resume c",
            "events --stats c",
            "ps --format json c",
            "update --resources /r.json c",
            "list --format=json",
            "run -d --bundle /b c",
            "run --bundle /b --no-subreaper --keep c",
            "run -no-subreaper -bundle /b -d c",
            "exec -t -e A=1 --env B=2 -u 0:0 -g 5 -g 6 c sh -c true",
            "exec c ls -l --all",
            "features",
            "checkpoint --image-path i --work-path w --leave-running c",
            "restore --image-path i --bundle /b --detach --pid-file p c",
        ] {
            for global in ["ferrun", TASK, "ferrun --systemd-cgroup", "ferrun -debug -root=/r"] {
                let line = format!("{global} {line}");
                assert!(read_alike(&words(&line)).is_some(), "{line}");
            }
        }
        assert!(read_alike(&words("ferrun --version")).is_some());
        assert!(read_alike(&words("ferrun -v")).is_some());
    }

    /// Each option of each verb, as it is written and as it is not.
    #[test]
    fn each_option_is_read_as_by_clap() {
        let mut read = 0;
        for verb in &VERBS {
            let before = GLOBAL.iter().map(|option| (true, option));
            let own = verb.options.iter().flat_map(|some| some.iter());
            for (is_global, option) in before.chain(own.map(|option| (false, option))) {
                let letter = option.short.map(|letter| format!("-{letter}"));
                let names = [format!("--{}", option.long), format!("-{}", option.long)];
                for name in names.into_iter().chain(letter) {
                    for value in
                        ["", "=", "=1", " 1", " json", "=full", " -1", " true", "=auto", " a,b"]
                    {
                        let (option, name) = (format!("{name}{value}"), verb.name);
                        let line = match is_global {
                            true => format!("ferrun {option} {name} c"),
                            false => format!("ferrun {name} {option} c"),
                        };
                        read += usize::from(read_alike(&words(&line)).is_some());
                    }
                }
            }
        }
        assert!(read > 1000, "{read}");
    }

    /// Lines made of words that mean something, in any order.
    #[test]
    fn no_line_is_read_otherwise_than_by_clap() {
        const WORDS: &str = "c d - -- --- -1 9 json soft a=b = help -h --help -td -u1 --all=true \
            --force=false true KILL 5,6 -\u{e9} --x 99999999999 -e --env A=1 -t -d -f -b --bundle .";
        let mut vocabulary: Vec<&OsStr> = WORDS.split_whitespace().map(OsStr::new).collect();
        vocabulary.extend([OsStr::new(""), OsStr::from_bytes(b"\xff")]);
        let mut seed = 1_u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % below
        };
        let mut read = 0;
        for _ in 0..200_000 {
            let verb = &VERBS[next(VERBS.len())];
            let own: Vec<_> = verb.options.iter().flat_map(|some| some.iter()).collect();
            let long = |option: &Definition| OsString::from(format!("--{}", option.long));
            let mut line = vec![OsString::from("ferrun")];
            if next(4) == 0 {
                line.push(long(&GLOBAL[next(GLOBAL.len())]));
                line.push(vocabulary[next(vocabulary.len())].to_owned());
            }
            line.push(verb.name.into());
            for _ in 0..next(5) {
                line.push(match next(2) {
                    0 if !own.is_empty() => long(own[next(own.len())]),
                    _ => vocabulary[next(vocabulary.len())].to_owned(),
                });
            }
            let line: Vec<_> = line.iter().map(OsString::as_os_str).collect();
            read += usize::from(read_alike(&line).is_some());
        }
        assert!((1000..100_000).contains(&read), "{read}");
    }
}
