//! `hooks` and `annotations`.

use serde_json::json;

use super::super::choice::{Asks, Choice, Need};
use super::super::place::Place;
use super::super::random::Random;

/// The kinds, and the status that each is told.
const KINDS: [(&str, &str); 6] = [
    ("prestart", "created"),
    ("createRuntime", "created"),
    ("createContainer", "created"),
    ("startContainer", "created"),
    ("poststart", "running"),
    ("poststop", "stopped"),
];

pub(super) fn draw(random: &mut Random, place: &Place) -> Vec<Choice> {
    let mut drawn = Vec::new();
    if random.once_in(3) {
        drawn.push(hooks(random, place));
    }
    if random.once_in(3) {
        let text = random.one(&["plain", "two words", "\"\u{fc}\"\n"]);
        drawn.push(
            Choice::new("an annotation")
                .set("/annotations", json!({"org.example.life": text}))
                .check(Asks::State("/annotations/org.example.life".to_owned()), text),
        );
    }
    drawn
}

/// Each writes its name and the status that it is told into a file of the host.
fn hooks(random: &mut Random, place: &Place) -> Choice {
    let log = place.log.display().to_string();
    let mut choice = Choice::new("hooks").needs(&[Need::New("mount")]);
    let mut lines = String::new();
    for (kind, status) in random.some(&KINDS) {
        let file = if kind == "startContainer" { "/life/log" } else { &log };
        for number in 0..random.between(1, 2) {
            let script = format!(
                "status=$(grep -o '\"status\": *\"[a-z]*\"' | cut -d'\"' -f4); \
                 echo {kind} $WORD {number} $status >> {file}"
            );
            let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script],
                "env": ["PATH=/usr/bin:/bin", format!("WORD={kind}'s own")], "timeout": 20});
            choice = choice.set(format!("/hooks/{kind}/-"), hook);
            lines += &format!("{kind} {kind}'s own {number} {status}\n");
        }
    }
    let bind =
        json!({"destination": "/life/log", "type": "bind", "source": log, "options": ["bind"]});
    choice.set("/mounts/-", bind).check(Asks::Afterwards(log), lines.trim_end())
}
