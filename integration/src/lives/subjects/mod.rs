//! What can be asked for, by subject, each with what is found then.

mod group;
mod hooks;
mod mounts;
mod namespaces;
mod process;

use super::choice::Choice;
use super::place::Place;
use super::random::Random;

/// What is found where nothing is asked for.
pub(super) fn defaults(place: &Place) -> Vec<Choice> {
    vec![process::defaults(place), namespaces::defaults(place), mounts::defaults(place)]
}

/// What one life asks for. What others build on comes first.
pub(super) fn draw(random: &mut Random, place: &Place) -> Vec<Choice> {
    let mut drawn = namespaces::draw(random, place);
    drawn.extend(process::draw(random, place));
    drawn.extend(mounts::draw(random, place));
    drawn.extend(group::draw(random, place));
    drawn.extend(hooks::draw(random, place));
    drawn.extend(process::ways(random, place));
    drawn
}
