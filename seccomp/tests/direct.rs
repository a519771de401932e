//! The program against a direct reading of the profile, rule by rule, for all
//! that libseccomp cannot be asked: architectures it does not know or does not
//! mix, and rules that it compiles wrongly.

#![cfg(test)]

#[path = "interpreter/mod.rs"]
mod interpreter;
#[path = "random/mod.rs"]
mod random;
#[path = "reading/mod.rs"]
mod reading;

use ferrun_seccomp::compile;
use interpreter::{Call, run};
use random::{Kind, Random, random_profile};
use reading::{has_own_reading, outcomes, values};

#[test]
fn any_profile_means_what_its_rules_say() {
    let mut random = Random::new(4);
    let (mut compiled, mut contradictory) = (0, 0);
    for _ in 0..1500 {
        let (profile, native, architectures) = random_profile(&mut random, Kind::Any);
        let instructions = match compile(&profile, native) {
            Ok(filter) => filter.instructions,
            Err(error) => {
                assert!(error.to_string().contains("contradicts"), "{error:#}");
                contradictory += 1;
                continue;
            }
        };
        compiled += 1;
        let values = values(&profile);
        for arch in architectures {
            let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
            let mut numbers: Vec<u32> = names.filter_map(|name| arch.syscall(name)).collect();
            numbers.extend(numbers.clone().into_iter().flat_map(|n| [n.wrapping_sub(1), n + 1]));
            numbers.retain(|number| has_own_reading(arch, *number));
            for number in numbers {
                for _ in 0..24 {
                    let arguments = std::array::from_fn(|_| *random.pick(&values));
                    let found = run(&instructions, &Call::new(arch, number, arguments));
                    let expected = outcomes(&profile, native, arch, number, &arguments);
                    assert!(
                        expected.contains(&found),
                        "{} {number} {arguments:x?}: {found:#x}, not one of {expected:x?}\n{}",
                        arch.name(),
                        serde_json::to_string(&profile).unwrap()
                    );
                }
            }
        }
    }
    println!("{compiled} profiles compared, {contradictory} refused as contradictory");
    assert!(compiled > 1000);
}
