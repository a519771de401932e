//! Proof of who asks: basic credentials, and the tokens that a registry sends
//! us to fetch (distribution, "Token Authentication Specification").

use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::Uri;

use super::challenge::Challenge;
use super::http::{Http, Origin, Request};
use super::read_bounded;
use crate::json::nullable;
use crate::limits;

/// What proves who asks. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(Secret);

#[derive(Clone, PartialEq, Eq)]
enum Secret {
    Password {
        user: String,
        password: String,
    },
    /// What a token server gave at `docker login` for tokens to come (OAuth 2.0's refresh
    /// token). No registry takes it itself.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// A name and the password that goes with it.
    pub fn new(user: &str, password: &str) -> Result<Self> {
        ensure!(
            !user.is_empty() && !user.contains(':'),
            "credentials: the user name is empty or holds a colon"
        );
        Ok(Self(Secret::Password { user: user.to_owned(), password: password.to_owned() }))
    }

    /// What a token server gives tokens for.
    pub fn identity_token(token: &str) -> Self {
        Self(Secret::IdentityToken(token.to_owned()))
    }

    fn basic(&self) -> Option<String> {
        match &self.0 {
            Secret::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Secret::IdentityToken(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct TokenReply {
    #[serde(default, deserialize_with = "nullable")]
    token: String,
    #[serde(default, deserialize_with = "nullable")]
    access_token: String,
}

/// Answers the challenges of one registry for one repository.
pub struct Authenticator {
    registry: Origin,
    repository: String,
    credentials: Option<Credentials>,
    /// What was accepted last, shared by all requests.
    authorization: Mutex<Option<String>>,
}

impl Authenticator {
    /// Anonymous where there are no credentials.
    pub fn new(registry: Origin, repository: &str, credentials: Option<Credentials>) -> Self {
        Self {
            registry,
            repository: repository.to_owned(),
            credentials,
            authorization: Mutex::new(None),
        }
    }

    /// What to send with the next request.
    pub fn authorization(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What to send after a request with `refused` met `challenges`, or nothing
    /// if there is nothing else to try.
    pub fn answer(
        &self,
        http: &Http,
        refused: Option<&str>,
        challenges: &[Challenge],
    ) -> Result<Option<String>> {
        let mut current = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_deref() != refused {
            // Another request has got a new token meanwhile.
            return Ok(current.clone());
        }
        let by_scheme =
            |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let answer = match (by_scheme("bearer"), by_scheme("basic"), &self.credentials) {
            (Some(bearer), _, _) => Some(format!("Bearer {}", self.fetch_token(http, bearer)?)),
            (None, Some(_), Some(credentials)) => credentials.basic(),
            _ => None,
        };
        let answer = answer.filter(|answer| refused != Some(answer));
        if answer.is_some() {
            current.clone_from(&answer);
        }
        Ok(answer)
    }

    fn fetch_token(&self, http: &Http, challenge: &Challenge) -> Result<String> {
        let realm =
            challenge.parameter("realm").context("the challenge of the registry has no realm")?;
        let query = token_query(challenge, &self.repository);
        let server = || format!("token server {realm:?}");
        let response = match self.credentials.as_ref().map(|credentials| &credentials.0) {
            Some(Secret::IdentityToken(token)) => {
                let url = url_of(realm)?;
                self.check_token_server(realm, &url)?;
                let token = percent_encoded(token);
                let form = format!(
                    "grant_type=refresh_token&refresh_token={token}&client_id=image-tool&{query}"
                );
                http.post_form(&url, form).context("token server")?
            }
            _ => {
                let url = token_url(realm, &query)?;
                self.check_token_server(realm, &url)?;
                let basic = self.credentials.as_ref().and_then(Credentials::basic);
                let request = Request { authorization: basic.as_deref(), ..Request::default() };
                http.get(&self.registry, &url, &request).context("token server")?.response
            }
        };
        let status = response.status();
        if matches!(status.as_u16(), 400 | 401 | 403) {
            match &self.credentials {
                Some(_) => bail!("{}: wrong credentials", server()),
                None => bail!("{}: no access without credentials", server()),
            }
        }
        ensure!(status.is_success(), "{}: status {status}", server());
        let body = read_bounded(response, limits::TOKEN_BYTES).with_context(server)?;
        // The reply is a secret: no error may quote it.
        let reply: TokenReply = serde_json::from_slice(&body)
            .ok()
            .with_context(|| format!("{}: the reply is not JSON", server()))?;
        let token = if reply.token.is_empty() { reply.access_token } else { reply.token };
        let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(!token.is_empty() && printable, "{}: the reply holds no token", server());
        Ok(token)
    }

    fn check_token_server(&self, realm: &str, url: &Uri) -> Result<()> {
        self.registry
            .may_send_to(&Origin::of(url)?)
            .with_context(|| format!("the token server {realm:?} is refused"))
    }
}

/// What the token is to be for, as a query or a form.
fn token_query(challenge: &Challenge, repository: &str) -> String {
    let pull = format!("repository:{repository}:pull");
    let scope = challenge.parameter("scope").unwrap_or(&pull);
    let service = challenge.parameter("service");
    let service = service.map(|service| format!("service={}&", percent_encoded(service)));
    format!("{}scope={}", service.unwrap_or_default(), percent_encoded(scope))
}

fn token_url(realm: &str, query: &str) -> Result<Uri> {
    let separator = if realm.contains('?') { '&' } else { '?' };
    url_of(&format!("{realm}{separator}{query}"))
}

fn url_of(realm: &str) -> Result<Uri> {
    realm.parse().with_context(|| format!("the realm {realm:?} is not a URL"))
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        // A colon and a slash are legal in a query, and some servers want them bare.
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::challenge;

    #[test]
    fn credentials_are_never_shown() {
        for credentials in
            [Credentials::new("me", "hunter2").unwrap(), Credentials::identity_token("hunter2")]
        {
            assert_eq!(format!("{credentials:?}"), "Credentials(..)");
        }
    }

    #[test]
    fn the_token_is_asked_for_the_scope_of_the_challenge_or_for_a_pull() {
        for (header, expected) in [
            ("Bearer realm=\"https://t/x\"", "https://t/x?scope=repository:a/b:pull"),
            (
                "Bearer realm=\"https://t/x?a=1\",service=\"s t&u\"",
                "https://t/x?a=1&service=s%20t%26u&scope=repository:a/b:pull",
            ),
            ("Bearer realm=\"https://t\",scope=\"x\"", "https://t/?scope=x"),
        ] {
            let challenge = challenge::parse(header).remove(0);
            let realm = challenge.parameter("realm").unwrap();
            let query = token_query(&challenge, "a/b");
            assert_eq!(token_url(realm, &query).unwrap().to_string(), expected);
        }
    }
}
