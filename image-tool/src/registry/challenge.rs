//! The challenges of a `WWW-Authenticate` header (RFC 9110, section 11.6.1).

/// One challenge: a scheme and its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The parameter `name`, written in lower case.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Parses one header. What can't be read ends the list, without an error: the
/// server meant something that we don't know.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (token, after) = split_token(rest);
        if token.is_empty() {
            return challenges;
        }
        let after = after.trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some(challenge)) => {
                let Some((value, after)) = split_value(value.trim_start_matches([' ', '\t']))
                else {
                    return challenges;
                };
                challenge.parameters.push((token.to_ascii_lowercase(), value));
                rest = after;
            }
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges
                    .push(Challenge { scheme: token.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

fn split_token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)));
    text.split_at(end.unwrap_or(text.len()))
}

/// A token, or a string in quotes with `\` before what is taken literally.
fn split_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(header: &str) -> Vec<(String, Vec<(String, String)>)> {
        parse(header)
            .into_iter()
            .map(|challenge| (challenge.scheme, challenge.parameters))
            .collect()
    }

    fn challenge(scheme: &str, parameters: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        (scheme.to_owned(), parameters.iter().map(own).collect())
    }

    #[test]
    fn challenges_are_read_with_quotes_commas_and_escapes() {
        for (header, expected) in [
            ("", vec![]),
            ("Basic", vec![challenge("basic", &[])]),
            ("Basic realm=\"a, b\"", vec![challenge("basic", &[("realm", "a, b")])]),
            (
                "Bearer realm=\"https://x/t\",service=\"s\",scope=\"repository:a/b:pull\"",
                vec![challenge(
                    "bearer",
                    &[("realm", "https://x/t"), ("service", "s"), ("scope", "repository:a/b:pull")],
                )],
            ),
            (
                "basic realm=x , BEARER Realm = \"a\\\"b\"",
                vec![
                    challenge("basic", &[("realm", "x")]),
                    challenge("bearer", &[("realm", "a\"b")]),
                ],
            ),
            ("Bearer realm=\"never closed", vec![challenge("bearer", &[])]),
            ("realm=x", vec![]),
            ("Bearer realm=\"x\\", vec![challenge("bearer", &[])]),
            ("\u{e9}", vec![]),
        ] {
            assert_eq!(parsed(header), expected, "{header:?}");
        }
    }
}
