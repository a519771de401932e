//! Random lives: configurations that are drawn, each lived from create to delete and looked
//! at, from inside for what was asked, and from outside for what is left or changed.
//!
//! A life is a list of [`Choice`]s. Each says what it changes of the configuration and what is
//! then to be found, and each can be left out: the list of a life that fails is made as short
//! as it can be while it still fails. Which choices there are is decided from a seed and the
//! facts of a [`Place`], so that a seed gives the same life again.

mod choice;
mod host;
mod live;
mod place;
pub mod random;
mod shrink;
mod subjects;

use serde_json::Value;

use crate::Bed;
use choice::{Asks, Check, Choice, Way};
use host::Host;
use live::Course;
use place::{Others, Place};
use random::Random;

/// Lives so many lives as the bed's caller.
///
/// `$LIVES_SEED` is another first seed, and `$LIVES_COUNT` another number of lives.
///
/// # Panics
/// If one fails, with the smallest configuration that still does.
pub fn live(bed: &Bed, count: u64) {
    let host = Host::new(bed);
    let others = Others::of(bed);
    let place = Place::of(bed, &others, &host);
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let first = number("LIVES_SEED").unwrap_or_else(|| first_seed(bed));
    for seed in first..first + number("LIVES_COUNT").unwrap_or(count) {
        let life = Life::draw(&place, seed);
        let fails = |life: &Life| Course::new(bed, &host, &place, life).run().err();
        let Some(fault) = fails(&life) else { continue };
        let again = |choices: &[Choice]| {
            fails(&Life::of(&place, choices.to_vec())).is_some_and(|found| found.at == fault.at)
        };
        let least = Life::of(&place, shrink::smallest(&life.choices, again));
        // It may be another way to the same fault, or none where it was chance.
        let found = fails(&least);
        panic!(
            "LIVES_SEED={seed} LIVES_COUNT=1 ({:?}, {:?}, {:?})\n{fault}\n\
             The smallest that still fails: {}\n{}\n{}",
            bed.view,
            bed.caller,
            bed.ground,
            least.names().join("; "),
            found.map_or("Once more it did not fail.".to_owned(), |found| found.to_string()),
            serde_json::to_string_pretty(&least.config).expect("JSON"),
        );
    }
}

/// Each place has seeds of its own.
fn first_seed(bed: &Bed) -> u64 {
    let place = format!("{:?} {:?} {:?}", bed.view, bed.is_rootless(), bed.ground);
    let mixed = place.bytes().fold(7_u64, |sum, byte| (sum * 31 + u64::from(byte)) % 9_000);
    mixed * 1_000_000
}

/// What one container is asked for.
#[derive(Debug, Clone)]
struct Life {
    choices: Vec<Choice>,
    /// The whole configuration, but for where it is lived.
    config: Value,
    /// What is found: one answer to each question.
    checks: Vec<Check>,
}

impl Life {
    fn draw(place: &Place, seed: u64) -> Self {
        Self::of(place, subjects::draw(&mut Random::new(seed), place))
    }

    /// Of those of these choices that go together.
    fn of(place: &Place, choices: Vec<Choice>) -> Self {
        let mut bundle = place.base();
        let mut fitting: Vec<Choice> = Vec::new();
        let mut checks: Vec<Check> = Vec::new();
        let defaults = subjects::defaults(place);
        for choice in &defaults {
            answer(&mut checks, choice);
        }
        for choice in choices {
            if choice.needs.iter().all(|need| need.is_met_by(&bundle.config)) {
                bundle = choice.apply(bundle);
                answer(&mut checks, &choice);
                fitting.push(choice);
            }
        }
        Self { choices: fitting, config: bundle.config, checks }
    }

    fn names(&self) -> Vec<&str> {
        self.choices.iter().map(|choice| choice.name.as_str()).collect()
    }

    fn goes(&self, way: &Way) -> bool {
        self.ways().any(|found| found == way)
    }

    fn ways(&self) -> impl Iterator<Item = &Way> {
        self.choices.iter().flat_map(|choice| &choice.ways)
    }

    /// The questions of one kind, with their answers.
    fn asked<'life, F>(&'life self, which: F) -> Vec<(&'life str, &'life choice::Finds)>
    where
        F: Fn(&'life Asks) -> Option<&'life str>,
    {
        self.checks.iter().filter_map(|check| Some((which(&check.asks)?, &check.finds))).collect()
    }
}

/// Adds what a choice expects, in the place of what was expected before.
fn answer(checks: &mut Vec<Check>, choice: &Choice) {
    for check in &choice.checks {
        checks.retain(|other| other.asks != check.asks);
        checks.push(check.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::place::tests::place;
    use super::*;

    #[test]
    fn a_seed_gives_the_same_life_again() {
        let drawn = |seed| Life::draw(&place(false), seed).config;
        assert_eq!(drawn(5), drawn(5));
        assert_ne!(drawn(5), drawn(6));
    }

    #[test]
    fn what_is_chosen_later_answers_the_question() {
        let umask = |text: &str| Choice::new(text).inside("umask", text);
        let life = Life::of(&place(false), vec![umask("0027"), umask("0077")]);
        let asked = life.asked(|asks| match asks {
            Asks::Inside(text) if text == "umask" => Some(text),
            _ => None,
        });
        assert_eq!(asked, [("umask", &choice::Finds::Is("0077".to_owned()))]);
    }

    #[test]
    fn a_choice_is_left_out_with_what_it_needs() {
        let both = |seed| Life::draw(&place(false), seed);
        let life = (0..).map(both).find(|life| {
            let names = life.names();
            names.contains(&"hostname") && names.len() > 3
        });
        let life = life.unwrap();
        let without = Choice::new("the caller's uts").no_namespace("uts");
        let choices = [vec![without], life.choices].concat();
        assert!(!Life::of(&place(false), choices).names().contains(&"hostname"));
    }

    #[test]
    fn many_lives_are_different_and_ask_for_much() {
        for is_rootless in [false, true] {
            let place = place(is_rootless);
            let mut names = BTreeSet::new();
            let mut configs = BTreeSet::new();
            let mut choices = 0;
            for seed in 0..300 {
                let life = Life::draw(&place, seed);
                choices += life.choices.len();
                names.extend(life.names().into_iter().map(str::to_owned));
                configs.insert(life.config.to_string());
            }
            assert!(configs.len() > 290, "{}", configs.len());
            assert!(choices > 300 * 8, "{choices}");
            assert!(names.len() > 300, "{}", names.len());
        }
    }
}
