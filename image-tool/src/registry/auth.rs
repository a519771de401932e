//! Proof of who asks: basic credentials, and the tokens that a registry sends
//! us to fetch (distribution, "Token Authentication Specification").

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{env, fmt, fs, io};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::Uri;

use super::challenge::Challenge;
use super::http::{Http, Origin, Request};
use super::read_bounded;
use crate::limits;

/// A name and a password. Neither is ever printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
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
        Ok(Self { user: user.to_owned(), password: password.to_owned() })
    }

    fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

/// The part of Docker's config.json that holds credentials. Other members hold
/// secrets of other registries and are not read at all.
#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::HashMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    auth: String,
}

/// The credentials that `docker login` stored for `domain`, if any.
///
/// # Errors
/// The file is there but can't be read or understood.
pub fn stored(domain: &str) -> Result<Option<Credentials>> {
    let Some(path) = docker_config() else { return Ok(None) };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(path.display().to_string()),
    };
    find(&text, domain).with_context(|| path.display().to_string())
}

fn docker_config() -> Option<PathBuf> {
    let directory = match env::var_os("DOCKER_CONFIG") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(&env::var_os("HOME")?).join(".docker"),
    };
    Some(directory.join("config.json"))
}

fn find(config: &[u8], domain: &str) -> Result<Option<Credentials>> {
    // The parser's message could quote a secret: keep the place only.
    let config: DockerConfig = serde_json::from_slice(config)
        .map_err(|error| anyhow::anyhow!("line {}: not Docker's configuration", error.line()))?;
    let keys = match domain {
        "docker.io" => vec!["https://index.docker.io/v1/", "index.docker.io", "docker.io"],
        domain => vec![domain],
    };
    let host = |key: &str| {
        let key =
            key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        key.split('/').next().unwrap_or_default().to_owned()
    };
    let exact = keys.iter().find_map(|key| config.auths.get(*key));
    // Old versions of Docker stored whole URLs.
    let Some(entry) = exact.or_else(|| {
        config.auths.iter().find(|(key, _)| host(key) == domain).map(|(_, entry)| entry)
    }) else {
        return Ok(None);
    };
    if entry.auth.is_empty() {
        // The secret is with a credential helper.
        return Ok(None);
    }
    let decoded =
        STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.with_context(|| format!("auths.{domain:?}.auth: not base64"))?;
    match decoded.trim_end_matches('\0').split_once(':') {
        Some((user, password)) => Credentials::new(user, password).map(Some),
        None => bail!("auths.{domain:?}.auth: not user:password"),
    }
}

#[derive(Deserialize)]
struct TokenReply {
    #[serde(default)]
    token: String,
    #[serde(default)]
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
            (None, Some(_), Some(credentials)) => Some(credentials.basic()),
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
        let url = token_url(realm, challenge, &self.repository)?;
        let origin = Origin::of(&url)?;
        self.registry
            .may_send_to(&origin)
            .with_context(|| format!("the token server {realm:?} is refused"))?;
        let basic = self.credentials.as_ref().map(Credentials::basic);
        let request = Request { authorization: basic.as_deref(), ..Request::default() };
        let answer = http.get(&self.registry, &url, &request).context("token server")?;
        let status = answer.response.status();
        if matches!(status.as_u16(), 401 | 403) {
            bail!(
                "token server {realm:?}: {}",
                if basic.is_some() { "wrong credentials" } else { "no access without credentials" }
            );
        }
        ensure!(status.is_success(), "token server {realm:?}: status {status}");
        let body = read_bounded(answer.response, limits::TOKEN_BYTES)
            .with_context(|| format!("token server {realm:?}"))?;
        // The reply is a secret: no error may quote it.
        let reply: TokenReply = serde_json::from_slice(&body)
            .ok()
            .with_context(|| format!("token server {realm:?}: the reply is not JSON"))?;
        let token = if reply.token.is_empty() { reply.access_token } else { reply.token };
        let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(!token.is_empty() && printable, "token server {realm:?}: the reply holds no token");
        Ok(token)
    }
}

fn token_url(realm: &str, challenge: &Challenge, repository: &str) -> Result<Uri> {
    let pull = format!("repository:{repository}:pull");
    let mut url = realm.to_owned();
    let mut separator = if realm.contains('?') { '&' } else { '?' };
    let scope = challenge.parameter("scope").unwrap_or(&pull);
    for (key, value) in [("service", challenge.parameter("service")), ("scope", Some(scope))] {
        if let Some(value) = value {
            url.push(separator);
            url.push_str(&format!("{key}={}", percent_encoded(value)));
            separator = '&';
        }
    }
    url.parse().with_context(|| format!("the realm {realm:?} is not a URL"))
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

    fn auths(key: &str, login: &str) -> Vec<u8> {
        format!(
            r#"{{"auths": {{"{key}": {{"auth": "{}"}}}}, "credsStore": "x"}}"#,
            STANDARD.encode(login)
        )
        .into_bytes()
    }

    #[test]
    fn docker_stores_credentials_by_host_and_docker_hub_by_an_old_url() {
        for (key, domain, found) in [
            ("https://index.docker.io/v1/", "docker.io", true),
            ("docker.io", "docker.io", true),
            ("r.io", "r.io", true),
            ("https://r.io/v2/", "r.io", true),
            ("r.io:5000", "r.io:5000", true),
            ("r.io", "r.io:5000", false),
            ("r.io.evil", "r.io", false),
            ("evil/r.io", "r.io", false),
        ] {
            let expected = found.then(|| Credentials::new("me", "a:b").unwrap());
            assert!(find(&auths(key, "me:a:b"), domain).unwrap() == expected, "{key} for {domain}");
        }
    }

    #[test]
    fn a_broken_store_is_an_error_that_quotes_no_secret() {
        for config in [
            br#"{"auths": {"r.io": {"auth": "hunter2!"}}}"#.to_vec(),
            auths("r.io", "hunter2"),
            b"hunter2".to_vec(),
        ] {
            let error = format!("{:#}", find(&config, "r.io").unwrap_err());
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(find(br#"{"auths": {"r.io": {}}}"#, "r.io").unwrap(), None);
        assert_eq!(format!("{:?}", Credentials::new("me", "hunter2").unwrap()), "Credentials(..)");
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
            assert_eq!(token_url(realm, &challenge, "a/b").unwrap().to_string(), expected);
        }
    }
}
