//! What `docker login` left: Docker's config.json, and the credential helpers it names.
//!
//! A helper is a program `docker-credential-NAME` that keeps secrets elsewhere: it gets
//! the server on its stdin and prints a JSON object (docker/docker-credential-helpers).
//! No error may quote what a store or a helper holds.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::auth::Credentials;
use crate::json::nullable;
use crate::limits;

/// The user name with which a helper marks its secret as an identity token.
const TOKEN_USER: &str = "<token>";
/// What a helper prints, as its one error that is none.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// The part of Docker's config.json that holds credentials. Other members hold
/// secrets of other registries and are not read at all.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default, deserialize_with = "nullable")]
    auths: HashMap<String, DockerAuth>,
    /// The helper of every registry that has none of its own.
    #[serde(default, deserialize_with = "nullable")]
    creds_store: String,
    /// Helpers by registry.
    #[serde(default, deserialize_with = "nullable")]
    cred_helpers: HashMap<String, String>,
}

#[derive(Deserialize)]
struct DockerAuth {
    /// `user:password` in base64.
    #[serde(default, deserialize_with = "nullable")]
    auth: String,
    #[serde(default, rename = "identitytoken", deserialize_with = "nullable")]
    identity_token: String,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperReply {
    username: String,
    secret: String,
}

/// The credentials that `docker login` stored for `domain`, if any: those of a helper,
/// and where it has none, those in the file itself.
///
/// # Errors
/// The file is there but can't be read or understood, or a helper that it names fails.
pub fn stored(domain: &str) -> Result<Option<Credentials>> {
    let Some(path) = docker_config() else { return Ok(None) };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(path.display().to_string()),
    };
    find(&text, domain, ask_helper).with_context(|| path.display().to_string())
}

fn docker_config() -> Option<PathBuf> {
    let directory = match env::var_os("DOCKER_CONFIG") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(&env::var_os("HOME")?).join(".docker"),
    };
    Some(directory.join("config.json"))
}

/// Docker's names of a registry. The first is the one that helpers know.
fn keys(domain: &str) -> Vec<&str> {
    match domain {
        "docker.io" => vec!["https://index.docker.io/v1/", "index.docker.io", "docker.io"],
        domain => vec![domain],
    }
}

fn find(
    config: &[u8],
    domain: &str,
    ask: impl FnOnce(&str, &str) -> Result<Option<Credentials>>,
) -> Result<Option<Credentials>> {
    // The parser's message could quote a secret: keep the place only.
    let config: DockerConfig = serde_json::from_slice(config)
        .map_err(|error| anyhow::anyhow!("line {}: not Docker's configuration", error.line()))?;
    let keys = keys(domain);
    let own = keys.iter().find_map(|key| config.cred_helpers.get(*key));
    let (field, helper) = match own {
        Some(helper) => (format!("credHelpers.{domain:?}"), helper),
        None => ("credsStore".to_owned(), &config.creds_store),
    };
    if let (false, Some(server)) = (helper.is_empty(), keys.first()) {
        let found = ask(helper, server).context(field)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    in_file(&config.auths, domain, &keys)
}

fn in_file(
    auths: &HashMap<String, DockerAuth>,
    domain: &str,
    keys: &[&str],
) -> Result<Option<Credentials>> {
    let host = |key: &str| {
        let key =
            key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        key.split('/').next().unwrap_or_default().to_owned()
    };
    let exact = keys.iter().find_map(|key| auths.get(*key));
    // Old versions of Docker stored whole URLs.
    let by_host = || auths.iter().find(|(key, _)| host(key) == domain).map(|(_, entry)| entry);
    let Some(entry) = exact.or_else(by_host) else { return Ok(None) };
    if !entry.identity_token.is_empty() {
        return Ok(Some(Credentials::identity_token(&entry.identity_token)));
    }
    if entry.auth.is_empty() {
        // With a helper there is an entry without a secret.
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

/// Asks the helper `name` for what it has of `server`.
fn ask_helper(name: &str, server: &str) -> Result<Option<Credentials>> {
    ensure!(!name.contains('/'), "{name:?}: not the name of a credential helper");
    let program = format!("docker-credential-{name}");
    let (status, output) = run_helper(&program, server).with_context(|| program.clone())?;
    if !status.success() {
        // Helpers print their errors on stdout.
        let words = String::from_utf8_lossy(&output);
        if words.trim() == NOT_FOUND {
            return Ok(None);
        }
        let words: String = words.trim().chars().take(200).flat_map(char::escape_debug).collect();
        bail!("{program}: {status}: {words}");
    }
    let reply: Option<HelperReply> = serde_json::from_slice(&output).ok();
    let reply = reply.with_context(|| format!("{program}: the reply is not that of a helper"))?;
    match (reply.username.as_str(), reply.secret.as_str()) {
        (_, "") => Ok(None),
        (TOKEN_USER, token) => Ok(Some(Credentials::identity_token(token))),
        (user, password) => Credentials::new(user, password).map(Some).with_context(|| program),
    }
}

/// Runs a helper, which may have to ask its user. Returns how it ended and what it printed.
fn run_helper(program: &str, server: &str) -> Result<(ExitStatus, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow::anyhow!("not in $PATH"),
            _ => error.into(),
        })?;
    let answer = converse(&mut child, server);
    if answer.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    answer
}

fn converse(child: &mut Child, server: &str) -> Result<(ExitStatus, Vec<u8>)> {
    let deadline = Instant::now() + limits::HELPER;
    let late = || anyhow::anyhow!("no answer within {} s", limits::HELPER.as_secs());
    if let Some(mut stdin) = child.stdin.take() {
        // It may end without reading.
        let _ = stdin.write_all(server.as_bytes());
    }
    let stdout = child.stdout.take().context("no stdout")?;
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut output = Vec::new();
        let read = stdout.take(limits::HELPER_BYTES + 1).read_to_end(&mut output);
        let _ = sender.send(read.map(|_| output));
    });
    let output = receiver.recv_timeout(limits::HELPER).map_err(|_| late())??;
    ensure!(
        output.len() as u64 <= limits::HELPER_BYTES,
        "it prints more than {} bytes",
        limits::HELPER_BYTES
    );
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, output));
        }
        ensure!(Instant::now() < deadline, late());
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auths(key: &str, login: &str) -> Vec<u8> {
        let auth = STANDARD.encode(login);
        format!(r#"{{"auths": {{"{key}": {{"auth": "{auth}"}}}}}}"#).into_bytes()
    }

    fn nobody(helper: &str, _server: &str) -> Result<Option<Credentials>> {
        panic!("{helper} is asked")
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
            let stored = find(&auths(key, "me:a:b"), domain, nobody).unwrap();
            assert!(stored == expected, "{key} for {domain}");
        }
    }

    #[test]
    fn an_identity_token_comes_before_a_password() {
        let config = br#"{"auths": {"r.io": {"auth": "bWU6cGFzcw==", "identitytoken": "t"}}}"#;
        let stored = find(config, "r.io", nobody).unwrap();
        assert!(stored == Some(Credentials::identity_token("t")));
    }

    #[test]
    fn the_helper_of_a_registry_comes_before_that_of_all_and_both_before_the_file() {
        let config = br#"{"credsStore": "all", "auths": {"r.io": {"auth": "bWU6cGFzcw=="}},
            "credHelpers": {"own.io": "own", "https://index.docker.io/v1/": "hub", "none.io": ""}}"#;
        for (domain, helper, server) in [
            ("own.io", "own", "own.io"),
            ("docker.io", "hub", "https://index.docker.io/v1/"),
            ("r.io", "all", "r.io"),
            ("other.io:5000", "all", "other.io:5000"),
        ] {
            let answer = || Credentials::new("kept", "elsewhere").unwrap();
            let stored = find(config, domain, |asked, about| {
                assert_eq!((asked, about), (helper, server), "{domain}");
                Ok(Some(answer()))
            });
            assert!(stored.unwrap() == Some(answer()), "{domain}");
        }
        let in_file = find(config, "r.io", |_, _| Ok(None)).unwrap();
        assert!(in_file == Some(Credentials::new("me", "pass").unwrap()));
        assert!(find(config, "none.io", nobody).unwrap().is_none());
    }

    #[test]
    fn a_broken_store_is_an_error_that_quotes_no_secret() {
        for config in [
            br#"{"auths": {"r.io": {"auth": "hunter2!"}}}"#.to_vec(),
            auths("r.io", "hunter2"),
            b"hunter2".to_vec(),
        ] {
            let error = format!("{:#}", find(&config, "r.io", nobody).unwrap_err());
            assert!(!error.contains("hunter2"), "{error}");
        }
        for nothing in [
            r#"{"auths": {"r.io": {}}}"#,
            r#"{"auths": {"r.io": {"auth": null, "identitytoken": null}}}"#,
            r#"{"auths": null, "credsStore": null, "credHelpers": null}"#,
        ] {
            assert_eq!(find(nothing.as_bytes(), "r.io", nobody).unwrap(), None, "{nothing}");
        }
    }

    #[test]
    fn a_helper_is_a_name_and_no_path() {
        let error = ask_helper("../x", "r.io").unwrap_err();
        assert_eq!(error.to_string(), "\"../x\": not the name of a credential helper");
    }
}
