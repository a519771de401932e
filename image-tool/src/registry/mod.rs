//! A registry as the distribution-spec has it: manifests and blobs of one
//! repository, by GET.
//!
//! What comes back is not trusted here and not verified here either, except for
//! bounds on its size: whoever asked knows the digest.

pub mod auth;
mod challenge;
mod http;
pub mod login;

use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;
use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};

use self::auth::{Authenticator, Credentials};
use self::http::{Answer, Http, Origin, Paced, Request, is_loopback};
use crate::digest::Digest;
use crate::json::nullable;
use crate::limits;
use crate::manifest::{ACCEPTED, Descriptor};
use crate::reference::Image;

/// Waits between attempts, where a server says that it is busy.
const BACKOFF: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// A manifest or index as it was served.
pub struct Served {
    /// The document.
    pub bytes: Vec<u8>,
    /// The type the server gave it.
    pub media_type: Option<String>,
    /// The digest the server gave it.
    pub digest: Option<Digest>,
}

/// One repository of a registry.
pub struct Registry {
    base: String,
    origin: Origin,
    repository: String,
    http: Http,
    authenticator: Authenticator,
}

impl Registry {
    /// Talks to the registry of `image`: without TLS if `plain_http` says so,
    /// and where it says nothing, on this machine only.
    pub fn new(
        image: &Image,
        plain_http: Option<bool>,
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        let https: Uri =
            format!("https://{}", image.host()).parse().with_context(|| image.domain.clone())?;
        let plain = plain_http.unwrap_or_else(|| https.host().is_some_and(is_loopback));
        let scheme = if plain { "http" } else { "https" };
        let base = format!("{scheme}://{}/v2/{}", image.host(), image.repository);
        let origin = Origin::of(&base.parse().with_context(|| base.clone())?)?;
        let authenticator = Authenticator::new(origin.clone(), &image.repository, credentials);
        Ok(Self {
            base,
            origin,
            repository: image.repository.clone(),
            http: Http::default(),
            authenticator,
        })
    }

    /// The manifest or index named by a tag or a digest.
    pub fn manifest(&self, target: &str) -> Result<Served> {
        let what = format!("manifest {target} of {}", self.repository);
        let accept = ACCEPTED.join(", ");
        let request = Request { accept: Some(&accept), ..Request::default() };
        let response =
            self.get(&format!("manifests/{target}"), &request).with_context(|| what.clone())?;
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let media_type = text("content-type")
            .and_then(|value| value.split(';').next())
            .map(|value| value.trim().to_owned());
        let digest = text("docker-content-digest").and_then(|value| value.parse().ok());
        let bytes = read_bounded(response, limits::MANIFEST_BYTES).context(what)?;
        Ok(Served { bytes, media_type, digest })
    }

    /// The content of a blob from `position` on.
    pub fn blob(&self, blob: &Descriptor, position: u64) -> Result<impl Read + Send + use<>> {
        let request = Request { from_byte: position, ..Request::default() };
        let response = self.get(&format!("blobs/{}", blob.digest), &request)?;
        ensure!(
            position == 0 || resumes_at(&response, position),
            "the registry can't resume a download"
        );
        if let Some(length) = response.body().content_length() {
            let expected = blob.size.saturating_sub(position);
            ensure!(
                length == expected,
                "the registry sends {length} bytes, the declared size leaves {expected}"
            );
        }
        Ok(Paced::new(response.into_body().into_reader(), limits::PACE, limits::PACE_BYTES))
    }

    fn get(&self, path: &str, request: &Request<'_>) -> Result<Response<Body>> {
        let url: Uri = format!("{}/{path}", self.base).parse()?;
        let mut backoff = BACKOFF.into_iter();
        loop {
            let answer = self.get_authorized(&url, request)?;
            let status = answer.response.status();
            if status.is_success() {
                return Ok(answer.response);
            }
            match backoff.next().filter(|_| is_busy(status)) {
                Some(wait) => thread::sleep(retry_after(answer.response.headers()).unwrap_or(wait)),
                None => return Err(refusal(answer.response)),
            }
        }
    }

    /// Asks with what was accepted last, and once more with the answer to a challenge.
    fn get_authorized(&self, url: &Uri, request: &Request<'_>) -> Result<Answer> {
        let sent = self.authenticator.authorization();
        let request = |authorization| Request { authorization, ..request.clone() };
        let answer = self.http.get(&self.origin, url, &request(sent.as_deref()))?;
        // A challenge of another host, met by a redirect, is none of the registry's.
        if answer.response.status() != StatusCode::UNAUTHORIZED || answer.origin != self.origin {
            return Ok(answer);
        }
        let headers = answer.response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<_> = headers
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        match self.authenticator.answer(&self.http, sent.as_deref(), &challenges)? {
            Some(authorization) => self.http.get(&self.origin, url, &request(Some(&authorization))),
            None => Ok(answer),
        }
    }
}

fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds.min(limits::ANSWER.as_secs())))
}

fn resumes_at(response: &Response<Body>, position: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let begins = range.is_some_and(|range| range.starts_with(&format!("bytes {position}-")));
    response.status() == StatusCode::PARTIAL_CONTENT && begins
}

/// Reads a whole body of at most `limit` bytes.
fn read_bounded(response: Response<Body>, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let body = Paced::new(response.into_body().into_reader(), limits::PACE, limits::PACE_BYTES);
    body.take(limit + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= limit, "it is longer than {limit} bytes");
    Ok(bytes)
}

#[derive(Deserialize)]
struct ErrorReply {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default, deserialize_with = "nullable")]
    code: String,
    #[serde(default, deserialize_with = "nullable")]
    message: String,
}

/// The status in words, and what the registry itself says about it.
fn refusal(response: Response<Body>) -> anyhow::Error {
    let status = response.status();
    let meaning = match status.as_u16() {
        401 => "authentication is required".to_owned(),
        403 => "access is denied".to_owned(),
        404 => "not found".to_owned(),
        429 => "too many requests".to_owned(),
        _ => format!("the registry answers {status}"),
    };
    match own_words(response) {
        Some(words) => anyhow!("{meaning} ({words})"),
        None => anyhow!("{meaning}"),
    }
}

fn own_words(response: Response<Body>) -> Option<String> {
    let mut body = Vec::new();
    response.into_body().into_reader().take(limits::ERROR_BYTES).read_to_end(&mut body).ok()?;
    let reply: ErrorReply = serde_json::from_slice(&body).ok()?;
    let entry = reply.errors.into_iter().next()?;
    let words = if entry.message.is_empty() { entry.code } else { entry.message };
    Some(words.chars().take(200).collect()).filter(|words: &String| !words.is_empty())
}

/// A blob that goes on where it broke off, as long as each attempt brings something.
pub struct Download<'a> {
    registry: &'a Registry,
    blob: &'a Descriptor,
    body: Option<Box<dyn Read + Send>>,
    position: u64,
    /// Where the last attempt began.
    begun: u64,
}

impl<'a> Download<'a> {
    /// Begins the download, so that a refusal is seen at once.
    pub fn new(registry: &'a Registry, blob: &'a Descriptor) -> Result<Self> {
        let body: Box<dyn Read + Send> = Box::new(registry.blob(blob, 0)?);
        Ok(Self { registry, blob, body: Some(body), position: 0, begun: 0 })
    }

    fn resume(&mut self, broken: io::Error) -> Result<()> {
        if self.position == self.begun || broken.kind() == io::ErrorKind::TimedOut {
            bail!(broken);
        }
        self.begun = self.position;
        let at = self.position;
        let again = self
            .registry
            .blob(self.blob, at)
            .with_context(|| format!("broke off after {at} bytes: {broken}"))?;
        self.body = Some(Box::new(again));
        Ok(())
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(body) = &mut self.body else { return Ok(0) };
            match body.read(buffer) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(broken) => {
                    self.body = None;
                    self.resume(broken).map_err(io::Error::other)?;
                }
            }
        }
    }
}
