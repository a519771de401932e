//! HTTP with the rules of a registry: where a request may go, what it carries
//! there, and how long an answer may take.
//!
//! Redirects are followed here and not by the HTTP library, because each step
//! is checked and because credentials stay with the origin they are for.

use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ureq::http::{Response, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::limits;

/// Scheme, host and port: what credentials are bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    secure: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of an absolute `http` or `https` URL.
    pub fn of(uri: &Uri) -> Result<Self> {
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => bail!("{}: not an http or https URL", shown(uri)),
        };
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .with_context(|| format!("{}: no host", shown(uri)))?;
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host: host.to_ascii_lowercase(), port })
    }

    /// Fails unless a request for this registry may be sent on to `target`:
    /// never from https to http, to http only where the registry itself was
    /// allowed it, and never from a public registry to a private address, which
    /// would make us its arm inside the local network.
    pub fn may_send_to(&self, target: &Self) -> Result<()> {
        let host = &target.host;
        ensure!(
            target.secure || !self.secure,
            "it points to http://{host}, which is not encrypted"
        );
        let same_reach = target.host == self.host || (is_loopback(&self.host) && is_loopback(host));
        ensure!(
            target.secure || same_reach,
            "it points to http://{host}, another host without encryption"
        );
        ensure!(
            !is_private(host) || is_private(&self.host),
            "it points to {host}, a private address"
        );
        Ok(())
    }
}

/// Whether `host` (no port) is this machine by name or address.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|address| address.is_loopback())
}

fn is_private(host: &str) -> bool {
    is_loopback(host)
        || address(host).is_some_and(|address| match address {
            IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || v4.is_unspecified(),
            IpAddr::V6(v6) => {
                v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_unspecified()
            }
        })
}

fn address(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// What a request carries besides its URL.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// The value of `Authorization`, for the origin of the first URL only.
    pub authorization: Option<&'a str>,
    /// The types understood, where that matters.
    pub accept: Option<&'a str>,
    /// Where in the content to begin.
    pub from_byte: u64,
}

/// A response, and who gave it in the end.
pub struct Answer {
    /// The response, of any status.
    pub response: Response<Body>,
    /// Not the origin asked, where there was a redirect.
    pub origin: Origin,
}

/// The connections to a registry and to whom it refers us.
#[derive(Default)]
pub struct Http {
    plain: OnceLock<Agent>,
    // Apart, since reading the system's root certificates takes its time.
    tls: OnceLock<Agent>,
}

impl Http {
    /// Gets `url` and follows redirects, each checked against `registry`.
    pub fn get(&self, registry: &Origin, url: &Uri, request: &Request<'_>) -> Result<Answer> {
        let asked = Origin::of(url)?;
        let mut url = url.clone();
        for _ in 0..=limits::REDIRECTS {
            let origin = Origin::of(&url)?;
            let authorization = request.authorization.filter(|_| origin == asked);
            let response = self.send(&url, &origin, authorization, request)?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, origin });
            }
            let location =
                response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let location =
                location.with_context(|| format!("{}: a redirect to nowhere", shown(&url)))?;
            let next = join(&url, location)
                .with_context(|| format!("{}: a redirect to no URL", shown(&url)))?;
            let refused = || format!("{}: a redirect is refused", shown(&url));
            registry.may_send_to(&Origin::of(&next)?).with_context(refused)?;
            url = next;
        }
        bail!("{}: more than {} redirects", shown(&url), limits::REDIRECTS)
    }

    fn send(
        &self,
        url: &Uri,
        origin: &Origin,
        authorization: Option<&str>,
        request: &Request<'_>,
    ) -> Result<Response<Body>> {
        let mut get = self.agent(origin)?.get(url);
        if is_loopback(&origin.host) {
            // A proxy has a loopback of its own.
            get = get.config().proxy(None).build();
        }
        if let Some(authorization) = authorization {
            get = get.header(header::AUTHORIZATION, authorization);
        }
        if let Some(accept) = request.accept {
            get = get.header(header::ACCEPT, accept);
        }
        if request.from_byte > 0 {
            get = get.header(header::RANGE, format!("bytes={}-", request.from_byte));
        }
        get.call().map_err(|error| explain(error, url, origin))
    }

    /// Posts a form, which may hold secrets: redirects are not followed.
    pub fn post_form(&self, url: &Uri, form: String) -> Result<Response<Body>> {
        let origin = Origin::of(url)?;
        let mut post = self.agent(&origin)?.post(url);
        if is_loopback(&origin.host) {
            post = post.config().proxy(None).build();
        }
        post.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .send(form)
            .map_err(|error| explain(error, url, &origin))
    }

    fn agent(&self, origin: &Origin) -> Result<&Agent> {
        let (cell, secure) = if origin.secure { (&self.tls, true) } else { (&self.plain, false) };
        if let Some(agent) = cell.get() {
            return Ok(agent);
        }
        let agent = agent(secure)?;
        Ok(cell.get_or_init(|| agent))
    }
}

fn explain(error: ureq::Error, url: &Uri, origin: &Origin) -> anyhow::Error {
    match error {
        ureq::Error::HostNotFound => anyhow!("{}: no such host", origin.host),
        ureq::Error::Io(error) => match resolver_words(&error) {
            Some(words) => anyhow!("{}: no such host ({words})", origin.host),
            None => anyhow!(error).context(shown(url)),
        },
        error => anyhow!(error).context(shown(url)),
    }
}

fn agent(secure: bool) -> Result<Agent> {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("image-tool/", env!("CARGO_PKG_VERSION")))
        // Content is verified as it is stored: nothing may be compressed on the way.
        .accept_encoding("identity")
        .timeout_resolve(Some(limits::ANSWER))
        .timeout_connect(Some(limits::ANSWER))
        .timeout_recv_response(Some(limits::ANSWER))
        .timeout_per_read(Some(limits::PACE));
    if secure {
        config = config.tls_config(TlsConfig::builder().root_certs(system_roots()?).build());
    }
    Ok(config.build().new_agent())
}

/// The system's root certificates, or those of SSL_CERT_FILE and SSL_CERT_DIR.
fn system_roots() -> Result<RootCerts> {
    let found = rustls_native_certs::load_native_certs();
    if let (true, Some(error)) = (found.certs.is_empty(), found.errors.first()) {
        bail!("root certificates: {error}");
    }
    ensure!(
        !found.certs.is_empty(),
        "no root certificates: install ca-certificates or set SSL_CERT_FILE"
    );
    Ok(found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).into())
}

/// What the resolver says; the standard library has it in words only.
fn resolver_words(error: &io::Error) -> Option<String> {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").map(str::to_owned)
}

/// A URL as errors name it. Its query may carry a signature, which is as good as a
/// password, and before its host there may be one in so many words.
fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().map(|scheme| format!("{scheme}://")).unwrap_or_default();
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}{host}{}", url.path())
}

/// Resolves a `Location` against the URL that answered with it.
fn join(base: &Uri, location: &str) -> Result<Uri> {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    Ok(absolute.parse()?)
}

/// A reader that fails when what it reads from brings next to nothing for a
/// span of waiting. Time spent elsewhere, on extraction, does not count.
pub struct Paced<R> {
    reader: R,
    pace: Pace,
}

/// How much arrived in which time.
struct Pace {
    span: Duration,
    least: u64,
    waited: Duration,
    got: u64,
}

impl Pace {
    const fn new(span: Duration, least: u64) -> Self {
        Self { span, least, waited: Duration::ZERO, got: 0 }
    }

    /// Some more bytes came after some more waiting. An error where they are too few for that time.
    fn note(&mut self, waited: Duration, count: usize) -> io::Result<()> {
        self.waited += waited;
        self.got += count as u64;
        if count > 0 && self.waited >= self.span {
            if self.got < self.least {
                let message =
                    format!("only {} bytes arrived in {} s", self.got, self.waited.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            (self.waited, self.got) = (Duration::ZERO, 0);
        }
        Ok(())
    }
}

impl<R: Read> Paced<R> {
    /// Expects `least` bytes in every `span` of waiting.
    pub fn new(reader: R, span: Duration, least: u64) -> Self {
        Self { reader, pace: Pace::new(span, least) }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let count = self.reader.read(buffer)?;
        self.pace.note(begun.elapsed(), count)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        Origin::of(&url.parse().unwrap()).unwrap()
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://A.b/x"), origin("https://a.b:443"));
        assert_ne!(origin("https://a.b"), origin("http://a.b:443"));
        assert_ne!(origin("https://a.b"), origin("https://a.b:444"));
        assert!(Origin::of(&"ftp://a/b".parse().unwrap()).is_err());
        assert!(Origin::of(&"/a/b".parse().unwrap()).is_err());
    }

    #[test]
    fn a_registry_may_not_send_us_to_weaker_or_private_places() {
        for (registry, target, allowed) in [
            ("https://r.io", "https://cdn.io", true),
            ("https://r.io", "http://r.io", false),
            ("https://r.io", "https://127.0.0.1", false),
            ("https://r.io", "https://localhost", false),
            ("https://r.io", "https://[::1]:5000", false),
            ("https://r.io", "https://[::ffff:10.0.0.1]", false),
            ("https://r.io", "https://169.254.169.254", false),
            ("https://r.io", "https://192.168.1.1", false),
            ("https://10.0.0.1", "https://10.0.0.2", true),
            ("https://10.0.0.1", "https://cdn.io", true),
            ("http://r.io", "http://r.io:5001", true),
            ("http://r.io", "http://cdn.io", false),
            ("http://r.io", "https://cdn.io", true),
            ("http://127.0.0.1:1", "http://127.0.0.1:2", true),
            ("http://127.0.0.1:1", "http://localhost:2", true),
            ("http://127.0.0.1:1", "http://10.0.0.1", false),
        ] {
            assert_eq!(
                origin(registry).may_send_to(&origin(target)).is_ok(),
                allowed,
                "{registry} to {target}"
            );
        }
    }

    #[test]
    fn a_url_is_shown_without_what_is_secret_in_it() {
        for (url, expected) in [
            ("https://h:5/a/b?sig=secret", "https://h:5/a/b"),
            ("https://me:secret@h/a", "https://h/a"),
            ("/a?secret", "/a"),
        ] {
            assert_eq!(shown(&url.parse().unwrap()), expected);
        }
    }

    #[test]
    fn a_location_is_read_against_the_url_that_gave_it() {
        let base: Uri = "http://h:5/v2/a/b?q=1".parse().unwrap();
        for (location, expected) in [
            ("https://x/y?z=1", "https://x/y?z=1"),
            ("//x/y", "http://x/y"),
            ("/y", "http://h:5/y"),
            ("y?z", "http://h:5/v2/a/y?z"),
        ] {
            assert_eq!(join(&base, location).unwrap().to_string(), expected);
        }
        assert!(join(&base, "http://\u{0}").is_err());
    }

    struct Slow(Duration);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(self.0);
            buffer[0] = 0;
            Ok(1)
        }
    }

    #[test]
    fn a_body_that_brings_a_byte_at_a_time_is_given_up() {
        let mut paced = Paced::new(Slow(Duration::from_millis(2)), Duration::from_millis(20), 100);
        let error = io::copy(&mut paced, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        // By times that nobody can make longer.
        let mut pace = Pace::new(Duration::from_millis(20), 10);
        for _ in 0..100 {
            pace.note(Duration::from_millis(2), 1).unwrap();
        }
        assert!((0..10).any(|_| pace.note(Duration::from_millis(3), 1).is_err()));
    }
}
