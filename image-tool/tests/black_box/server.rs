//! An HTTP server that answers as a test tells it, also where no server would.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::image::{Image, MANIFEST, digest};

/// A request, as far as tests look at it.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// With names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

pub enum Reply {
    /// A status, headers, and a body with its length.
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// A body without a stated length, which goes on until nobody reads.
    Endless,
    /// A body that breaks off after so many bytes.
    Cut(Vec<u8>, usize),
    /// Nothing, for as long as the other side waits.
    Stall,
}

impl Reply {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Whole(200, Vec::new(), body.into())
    }

    pub fn status(status: u16) -> Self {
        Self::Whole(status, Vec::new(), Vec::new())
    }

    pub fn redirect(location: &str) -> Self {
        Self::Whole(307, vec![("Location", location.to_owned())], Vec::new())
    }

    pub fn challenge(challenge: &str) -> Self {
        Self::Whole(401, vec![("WWW-Authenticate", challenge.to_owned())], Vec::new())
    }
}

/// A server on loopback, which ends with the process.
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || serve(&stream, &seen, &*answer));
            }
        });
        Self { address, requests }
    }

    /// Serves `image` as `/v2/x/manifests/latest`, its blobs beside it; what
    /// `first` answers comes before that.
    pub fn of_image(
        image: Image,
        first: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |request| first(request).unwrap_or_else(|| image_reply(&image, request)))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The reference to the image of [`Server::of_image`].
    pub fn reference(&self) -> String {
        format!("{}/x", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn wait_for_request(&self) {
        for _ in 0..1000 {
            if !self.requests().is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("no request came");
    }
}

pub fn image_reply(image: &Image, request: &Request) -> Reply {
    let manifest = image.manifest_bytes();
    let name = request.path.rsplit('/').next().unwrap();
    if request.path.starts_with("/v2/x/manifests/")
        && (name == "latest" || name == digest(&manifest))
    {
        return Reply::Whole(200, vec![("Content-Type", MANIFEST.to_owned())], manifest);
    }
    match image.blobs.get(name).filter(|_| request.path.starts_with("/v2/x/blobs/")) {
        Some(blob) => Reply::ok(blob.clone()),
        None => Reply::Whole(
            404,
            Vec::new(),
            br#"{"errors":[{"code":"UNKNOWN","message":"unknown \u001b[2J"}]}"#.to_vec(),
        ),
    }
}

fn serve(stream: &TcpStream, seen: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Reply) {
    let mut lines = BufReader::new(stream);
    while let Some(request) = read_request(&mut lines) {
        seen.lock().unwrap().push(request.clone());
        // The other side may hang up at any point: that is its right.
        if write_reply(stream, answer(&request)).is_none() {
            return;
        }
    }
}

fn read_request(lines: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    lines.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body: String::from_utf8(body).unwrap() })
}

/// Nothing if the connection is of no more use.
fn write_reply(mut stream: &TcpStream, reply: Reply) -> Option<()> {
    match reply {
        Reply::Whole(status, headers, body) => {
            let mut head =
                format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
            stream.write_all(&body).ok()
        }
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
            let chunk = [&b"10000\r\n"[..], &[b' '; 65536], b"\r\n"].concat();
            while stream.write_all(&chunk).is_ok() {}
            None
        }
        Reply::Cut(body, after) => {
            stream
                .write_all(
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
                )
                .ok()?;
            stream.write_all(&body[..after]).ok()?;
            None
        }
        Reply::Stall => {
            thread::sleep(Duration::from_secs(300));
            None
        }
    }
}
