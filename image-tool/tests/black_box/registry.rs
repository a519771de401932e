//! Registries: whom they ask for proof, where they send us, and what they send.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::image::{
    DOCKER_LIST, DOCKER_MANIFEST, INDEX, Image, Layer, MANIFEST, architecture, digest, simple,
};
use crate::server::{Reply, Request, Server, image_reply};
use crate::tool::{Scratch, image_tool, pull_badly, pull_well, stderr};

#[test]
fn an_image_is_pulled_by_tag_and_by_digest() {
    let image = simple();
    let by_digest = digest(&image.manifest_bytes());
    let server = Server::of_image(image, |_| None);
    for reference in [server.reference(), format!("{}:latest@{by_digest}", server.reference())] {
        let scratch = Scratch::new("pull");
        let root = pull_well(&scratch, &reference, &[]);
        assert_eq!(fs::read_to_string(root.join("etc/motd")).unwrap(), "hello\n");
    }
    assert!(server.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn docker_manifests_and_manifests_without_a_type_inside_are_read() {
    for (inner, outer) in
        [(Some(DOCKER_MANIFEST), DOCKER_MANIFEST), (None, DOCKER_MANIFEST), (None, "text/plain")]
    {
        let scratch = Scratch::new("docker");
        let mut image = simple();
        image.manifest["mediaType"] = json!(inner);
        let bytes = image.manifest_bytes();
        let server = Server::of_image(image, move |request| {
            let is_manifest = request.path.contains("/manifests/");
            is_manifest
                .then(|| Reply::Whole(200, vec![("Content-Type", outer.to_owned())], bytes.clone()))
        });
        pull_well(&scratch, &server.reference(), &[]);
    }
}

/// A server of `image` behind an index of these entries.
fn behind_index(image: Image, media_type: &'static str, index: serde_json::Value) -> Server {
    Server::of_image(image, move |request| {
        let tag = request.path.ends_with("/latest");
        let headers = vec![("Content-Type", media_type.to_owned())];
        tag.then(|| Reply::Whole(200, headers, index.to_string().into_bytes()))
    })
}

fn entry(image: &Image, os: &str, architecture: &str) -> serde_json::Value {
    let mut entry = image.descriptor();
    entry["platform"] = json!({"os": os, "architecture": architecture});
    entry
}

#[test]
fn an_index_is_searched_for_the_platform() {
    for media_type in [INDEX, DOCKER_LIST] {
        let image = simple();
        let mut other = entry(&image, "linux", "s390x");
        other["digest"] = json!(digest(b"never fetched"));
        let entries = [other, entry(&image, "linux", architecture())];
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
        let server = behind_index(image, media_type, index);
        pull_well(&Scratch::new("index"), &server.reference(), &[]);

        let error =
            pull_badly(&Scratch::new("index"), &server.reference(), &["--platform=linux/riscv64"]);
        assert_eq!(
            error,
            format!(
                "there is no image for linux/riscv64, only for linux/s390x, linux/{}",
                architecture()
            )
        );
    }
}

#[test]
fn indexes_nested_without_end_are_given_up() {
    // Each index names the next by its digest, so they are made from the inside out.
    let mut documents = std::collections::BTreeMap::new();
    let mut inner = json!({"schemaVersion": 2, "manifests": []});
    for _ in 0..5 {
        let bytes = inner.to_string().into_bytes();
        inner = json!({"schemaVersion": 2, "mediaType": INDEX,
            "manifests": [{"mediaType": INDEX, "digest": digest(&bytes), "size": bytes.len()}]});
        documents.insert(digest(&bytes), bytes);
    }
    let server = Server::start(move |request| {
        let name = request.path.rsplit('/').next().unwrap();
        Reply::ok(documents.get(name).cloned().unwrap_or_else(|| inner.to_string().into_bytes()))
    });
    let error = pull_badly(&Scratch::new("nested"), &format!("{}/x", server.address()), &[]);
    assert!(error.contains("indexes are nested deeper than 2"), "{error}");
    assert_eq!(server.requests().len(), 3);
}

/// A registry that wants a token, and the server that gives it to `user:pass`
/// or to nobody in particular.
pub fn token_registry(image: Image, basic: Option<&'static str>) -> (Server, Server) {
    let tokens = Server::start(move |request| {
        let wanted = basic.map(|login| format!("Basic {}", STANDARD.encode(login)));
        if request.header("authorization") != wanted.as_deref() {
            return Reply::status(401);
        }
        Reply::ok(r#"{"token": "secret", "expires_in": 300}"#)
    });
    let realm = format!("http://{}/token", tokens.address());
    let registry = Server::of_image(image, move |request| {
        let allowed = request.header("authorization") == Some("Bearer secret");
        let challenge =
            format!(r#"Bearer realm="{realm}",service="registry",scope="repository:x:pull""#);
        (!allowed).then(|| Reply::challenge(&challenge))
    });
    (registry, tokens)
}

#[test]
fn a_token_is_fetched_once_and_used_for_everything() {
    let (registry, tokens) = token_registry(simple(), None);
    pull_well(&Scratch::new("token"), &registry.reference(), &[]);
    let asked: Vec<String> = tokens.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/token?service=registry&scope=repository:x:pull"]);
    let refused = registry
        .requests()
        .iter()
        .filter(|request| request.header("authorization").is_none())
        .count();
    assert_eq!(refused, 1);
}

#[test]
fn credentials_come_from_the_command_line_or_standard_input_or_docker() {
    use std::io::Write as _;
    let (registry, _tokens) = token_registry(simple(), Some("me:pa:ss"));
    pull_well(&Scratch::new("creds"), &registry.reference(), &["--creds=me:pa:ss"]);

    for (creds, input) in [("--creds=me", "pa:ss\n"), ("--creds=-", "me:pa:ss\n")] {
        let scratch = Scratch::new("creds");
        let mut command = image_tool(scratch.path());
        command
            .args(["pull", &registry.reference(), "bundle", creds])
            .stdin(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{creds}");
    }

    let scratch = Scratch::new("creds");
    let auths =
        json!({"auths": {registry.address().to_string(): {"auth": STANDARD.encode("me:pa:ss")}}});
    fs::create_dir(scratch.join(".docker")).unwrap();
    fs::write(scratch.join(".docker/config.json"), auths.to_string()).unwrap();
    pull_well(&scratch, &registry.reference(), &[]);

    let error = pull_badly(&Scratch::new("creds"), &registry.reference(), &["--creds=me:wrong"]);
    assert!(error.contains("wrong credentials") && !error.contains("me:wrong"), "{error}");
    let error = pull_badly(&Scratch::new("creds"), &registry.reference(), &[]);
    assert!(error.contains("no access without credentials"), "{error}");
}

#[test]
fn basic_credentials_are_shown_only_after_the_registry_asked_for_them() {
    let basic = format!("Basic {}", STANDARD.encode("me:pass"));
    let registry = Server::of_image(simple(), move |request| {
        (request.header("authorization") != Some(&basic))
            .then(|| Reply::challenge("Basic realm=\"r\""))
    });
    pull_well(&Scratch::new("basic"), &registry.reference(), &["--creds=me:pass"]);
    assert_eq!(registry.requests()[0].header("authorization"), None);
    let error = pull_badly(&Scratch::new("basic"), &registry.reference(), &["--creds=me:wrong"]);
    assert!(error.ends_with("authentication is required"), "{error}");
}

#[test]
fn a_token_that_expires_is_fetched_again_once_for_all_layers() {
    let count = AtomicUsize::new(0);
    let tokens = Server::start(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Reply::ok(format!(r#"{{"access_token": "token{number}"}}"#))
    });
    let realm = format!("http://{}/", tokens.address());
    let image = Image::new((0..3).map(|index| Layer::new().file(&format!("f{index}"), "")));
    let config = image.manifest["config"]["digest"].as_str().unwrap().to_owned();
    let all_refused = std::sync::Barrier::new(3);
    let registry = Server::of_image(image, move |request| {
        let is_layer = request.path.contains("/blobs/") && !request.path.contains(&config);
        match request.header("authorization") {
            Some("Bearer token0") if is_layer => drop(all_refused.wait()),
            Some(_) => return None,
            None => {}
        }
        Some(Reply::challenge(&format!("Bearer realm=\"{realm}\"")))
    });
    pull_well(&Scratch::new("expired"), &registry.reference(), &[]);
    assert_eq!(tokens.requests().len(), 2);
}

#[test]
fn a_token_is_not_taken_to_where_a_redirect_leads() {
    let image = simple();
    let elsewhere = {
        let image = image.clone();
        Server::start(move |request| image_reply(&image, request))
    };
    let (target, layer) = (format!("http://{}", elsewhere.address()), image.layer(0));
    let registry = Server::of_image(image, move |request| {
        if request.header("authorization").is_none() {
            return Some(Reply::challenge("Basic realm=\"r\""));
        }
        request.path.contains(&layer).then(|| Reply::redirect(&format!("{target}{}", request.path)))
    });
    pull_well(&Scratch::new("redirect"), &registry.reference(), &["--creds=me:pass"]);
    let asked: Vec<Request> = elsewhere.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
}

#[test]
fn a_challenge_from_where_a_redirect_leads_is_not_answered() {
    // It asks for the credentials to be shown to a token server of its own.
    let token_server = Server::start(|_| Reply::ok(r#"{"token": "x"}"#));
    let challenge = format!("Bearer realm=\"http://{}/\"", token_server.address());
    let thief = Server::start(move |_| Reply::challenge(&challenge));
    let target = format!("http://{}/", thief.address());
    let registry = Server::of_image(simple(), move |request| {
        if request.header("authorization").is_none() {
            return Some(Reply::challenge("Basic realm=\"r\""));
        }
        request.path.contains("/blobs/").then(|| Reply::redirect(&target))
    });
    let scratch = Scratch::new("thief");
    let error = pull_badly(&scratch, &registry.reference(), &["--creds=me:pass"]);
    assert!(error.contains("authentication is required"), "{error}");
    assert!(thief.requests().iter().all(|request| request.header("authorization").is_none()));
    assert!(token_server.requests().is_empty());
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let image = Image::new([Layer::new().file("f", &"0123456789".repeat(100_000))]);
    let layer = image.layer(0);
    let blob = image.blobs[&layer].clone();
    let server = Server::of_image(image, move |request| {
        if !request.path.contains(&layer) {
            return None;
        }
        let half = blob.len() / 2;
        Some(match request.header("range") {
            None => Reply::Cut(blob.clone(), half),
            Some(range) => {
                let from: usize =
                    range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
                let place = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                Reply::Whole(206, vec![("Content-Range", place)], blob[from..].to_vec())
            }
        })
    });
    let scratch = Scratch::new("resume");
    let root = pull_well(&scratch, &server.reference(), &[]);
    assert_eq!(fs::metadata(root.join("f")).unwrap().len(), 1_000_000);
    assert!(server.requests().iter().any(|request| request.header("range").is_some()));
}

#[test]
fn a_download_that_always_breaks_off_at_once_is_given_up() {
    let image = simple();
    let layer = image.layer(0);
    let blob = image.blobs[&layer].clone();
    let server = Server::of_image(image, move |request| {
        request.path.contains(&layer).then(|| Reply::Cut(blob.clone(), 0))
    });
    let error = pull_badly(&Scratch::new("broken"), &server.reference(), &[]);
    assert!(error.contains("layer 1 of 1"), "{error}");
}

#[test]
fn a_registry_that_begins_again_instead_of_going_on_is_given_up() {
    let image = Image::new([Layer::new().file("f", &"0123456789".repeat(100_000))]);
    let layer = image.layer(0);
    let blob = image.blobs[&layer].clone();
    let server = Server::of_image(image, move |request| {
        request.path.contains(&layer).then(|| Reply::Cut(blob.clone(), blob.len() / 2))
    });
    let error = pull_badly(&Scratch::new("again"), &server.reference(), &[]);
    assert!(error.contains("the registry can't resume a download"), "{error}");
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let count = AtomicUsize::new(0);
    let server = Server::of_image(simple(), move |_| {
        let busy = count.fetch_add(1, Ordering::Relaxed) == 0;
        busy.then(|| Reply::Whole(503, vec![("Retry-After", "0".to_owned())], Vec::new()))
    });
    pull_well(&Scratch::new("busy"), &server.reference(), &[]);
}

#[test]
fn what_never_ends_is_cut_off() {
    let (image, blob_image) = (simple(), simple());
    let (config, layer) =
        (image.manifest["config"]["digest"].as_str().unwrap().to_owned(), image.layer(0));
    let manifest = Server::start(|_| Reply::Endless);
    let error = pull_badly(&Scratch::new("endless"), &manifest.reference(), &[]);
    assert!(error.contains("it is longer than 4194304 bytes"), "{error}");

    for blob in [config, layer] {
        let server = Server::of_image(blob_image.clone(), move |request| {
            request.path.contains(&blob).then_some(Reply::Endless)
        });
        let error = pull_badly(&Scratch::new("endless"), &server.reference(), &[]);
        assert!(error.contains("it is longer than the declared"), "{error}");
    }

    let tokens = Server::start(|_| Reply::Endless);
    let challenge = format!("Bearer realm=\"http://{}/\"", tokens.address());
    let registry = Server::start(move |_| Reply::challenge(&challenge));
    let error = pull_badly(&Scratch::new("endless"), &registry.reference(), &[]);
    assert!(error.contains("it is longer than 1048576 bytes"), "{error}");

    let circle = Server::start(|request| Reply::redirect(&request.path));
    let error = pull_badly(&Scratch::new("endless"), &circle.reference(), &[]);
    assert!(error.contains("more than 10 redirects"), "{error}");
    assert_eq!(circle.requests().len(), 11);
}

#[test]
fn a_redirect_or_a_realm_in_the_clear_on_another_host_is_refused() {
    let redirecting = Server::start(|_| Reply::redirect("http://registry.invalid/"));
    let error = pull_badly(&Scratch::new("clear"), &redirecting.reference(), &[]);
    assert!(error.contains("http://registry.invalid, another host without encryption"), "{error}");

    let sending = Server::start(|_| Reply::challenge("Bearer realm=\"http://tokens.invalid/\""));
    let error = pull_badly(&Scratch::new("clear"), &sending.reference(), &["--creds=me:pass"]);
    assert!(error.contains("http://tokens.invalid, another host without encryption"), "{error}");
}

#[test]
fn a_digest_that_the_registry_states_is_held_against_it() {
    let image = simple();
    let bytes = image.manifest_bytes();
    let server = Server::of_image(image, move |request| {
        let header = vec![("Docker-Content-Digest", digest(b"other"))];
        request.path.contains("/manifests/").then(|| Reply::Whole(200, header, bytes.clone()))
    });
    let error = pull_badly(&Scratch::new("stated"), &server.reference(), &[]);
    assert!(error.contains("its digest is"), "{error}");
}

#[test]
fn control_characters_of_a_server_do_not_reach_the_terminal() {
    let server = Server::of_image(simple(), |_| None);
    let error = pull_badly(&Scratch::new("control"), &format!("{}/y", server.address()), &[]);
    assert!(error.contains("not found (unknown \\u{1b}[2J)"), "{error}");

    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\r\u{202e}";
    let entry = json!({"mediaType": MANIFEST, "digest": digest(b"x"), "size": 1,
        "platform": {"os": "linux", "architecture": evil}});
    let typed = json!({"schemaVersion": 2, "mediaType": evil});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    for document in [index, typed] {
        let server = Server::start(move |_| {
            let header = vec![("Content-Type", INDEX.to_owned())];
            Reply::Whole(200, header, document.to_string().into_bytes())
        });
        let error = pull_badly(&Scratch::new("control"), &server.reference(), &[]);
        assert!(error.contains("owned"), "{error:?}");
        assert!(!error.contains(|c: char| c.is_control() || c == '\u{202e}'), "{error:?}");
    }
}

/// Storage services sign the URLs that registries send us to: whoever reads one may fetch.
#[test]
fn a_signed_url_is_not_printed() {
    const SIGNED: &str = "/signed?X-Amz-Signature=hunter2";
    for (what, reply) in [
        ("nowhere", (|| Reply::status(307)) as fn() -> Reply),
        ("no URL", || Reply::redirect("http://[hunter2")),
        ("another scheme", || Reply::redirect("ftp://h/x?X-Amz-Signature=hunter2")),
        ("nobody", || Reply::redirect("http://127.0.0.1:1/x?X-Amz-Signature=hunter2")),
        ("a name before the host", || Reply::redirect("http://me:hunter2@127.0.0.1:1/x")),
        ("another host in the clear", || Reply::redirect("http://h.invalid/?s=hunter2")),
        ("itself", || Reply::redirect(SIGNED)),
        ("a refusal", || Reply::status(403)),
        ("an end", || Reply::Cut(b"{}".to_vec(), 0)),
    ] {
        let server = Server::start(move |request| match request.path.starts_with("/signed") {
            true => reply(),
            false => Reply::redirect(SIGNED),
        });
        let error = pull_badly(&Scratch::new("signed"), &server.reference(), &[]);
        assert!(!error.contains("hunter2"), "{what}: {error}");
        assert!(server.requests().iter().any(|request| request.path == SIGNED), "{what}");
    }
}

#[test]
fn layers_arrive_in_their_order_whatever_their_size() {
    let layers = (0..12).map(|index| {
        let padding = "x".repeat(if index % 3 == 0 { 3_000_000 } else { 10 });
        Layer::new().file("last", &index.to_string()).file(&format!("f{index}"), &padding)
    });
    let server = Server::of_image(Image::new(layers), |_| None);
    let scratch = Scratch::new("order");
    let output = crate::tool::pull(&scratch, &server.reference(), &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(scratch.join("bundle/rootfs/last")).unwrap(), "11");
}
