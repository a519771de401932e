//! What `docker login` leaves: helpers that keep credentials, and identity tokens.

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::image::simple;
use crate::registry::token_registry;
use crate::server::{Reply, Server};
use crate::tool::{Scratch, image_tool, names, stderr};

/// A user's home, with programs of his own.
struct Home(Scratch);

impl Home {
    fn new(config: &Value) -> Self {
        let scratch = Scratch::new("login");
        for name in [".docker", "bin"] {
            fs::create_dir(scratch.join(name)).unwrap();
        }
        fs::write(scratch.join(".docker/config.json"), config.to_string()).unwrap();
        Self(scratch)
    }

    /// Adds a helper: a shell script in which `$server` is what it got on its stdin.
    fn helper(self, name: &str, script: &str) -> Self {
        let source = self.0.join("script");
        let log = self.0.join("asked");
        let script = format!(
            "#!/bin/sh\nread server\necho {name} \"$@\" \"$server\" >> {}\n{script}\n",
            log.display()
        );
        fs::write(&source, script).unwrap();
        let program = self.0.join("bin").join(format!("docker-credential-{name}"));
        // Another process writes it: a child that a test makes meanwhile would hold it open.
        let install = Command::new("install").arg("-m755").args([&source, &program]).status();
        assert!(install.unwrap().success());
        fs::remove_file(source).unwrap();
        self
    }

    /// The same with a helper that answers so.
    fn keeping(self, name: &str, user: &str, secret: &str) -> Self {
        let reply = json!({"ServerURL": "@", "Username": user, "Secret": secret}).to_string();
        self.helper(name, &format!("echo '{reply}' | sed \"s|@|$server|\""))
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.0.join("asked")).unwrap_or_default()
    }

    fn pull(&self, registry: &Server) -> Output {
        self.pull_as(registry, &[])
    }

    fn pull_as(&self, registry: &Server, options: &[&str]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.0.join("bin").display());
        let mut command = image_tool(self.0.path());
        command.env("PATH", path).args(["pull", &registry.reference(), "bundle"]);
        command.args(options).output().unwrap()
    }

    #[track_caller]
    fn pull_well(&self, registry: &Server) {
        let output = self.pull(registry);
        assert!(output.status.success(), "{}", stderr(&output));
    }

    #[track_caller]
    fn pull_badly(&self, registry: &Server) -> String {
        let output = self.pull(registry);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(!names(self.0.path()).contains(&"bundle".to_owned()), "a bundle is left");
        stderr(&output).trim_start_matches("image-tool: ").trim_end().to_owned()
    }
}

#[test]
fn a_helper_is_asked_for_the_registry_and_shown_nothing_else() {
    let (registry, _tokens) = token_registry(simple(), Some("me:pa:ss"));
    let address = registry.address().to_string();
    for (config, name) in [
        (json!({"credHelpers": {&address: "own"}, "credsStore": "all"}), "own"),
        (json!({"credHelpers": {"other.io": "own"}, "credsStore": "all"}), "all"),
        // With a helper Docker leaves an entry that holds nothing.
        (json!({"credsStore": "all", "auths": {&address: {}}}), "all"),
    ] {
        let home = Home::new(&config).keeping(name, "me", "pa:ss");
        home.pull_well(&registry);
        assert_eq!(home.asked(), format!("{name} get {address}\n"));
    }
}

#[test]
fn credentials_of_the_command_line_come_first() {
    let (registry, _tokens) = token_registry(simple(), Some("me:pass"));
    let home = Home::new(&json!({"credsStore": "x"})).keeping("x", "other", "secret");
    assert!(home.pull_as(&registry, &["--creds=me:pass"]).status.success());
    assert_eq!(home.asked(), "", "the helper is not even asked");
}

#[test]
fn a_helper_that_has_nothing_leaves_it_to_the_file_or_to_nobody() {
    let (registry, _tokens) = token_registry(simple(), Some("me:pass"));
    let address = registry.address().to_string();
    let none = "echo credentials not found in native keychain; exit 1";
    let config = json!({"credsStore": "x", "auths": {&address: {"auth": "bWU6cGFzcw=="}}});
    Home::new(&config).helper("x", none).pull_well(&registry);
    let (open, _tokens) = token_registry(simple(), None);
    let nothing = || Home::new(&json!({"credsStore": "x"})).helper("x", none);
    nothing().pull_well(&open);
    let error = nothing().pull_badly(&registry);
    assert!(error.contains("no access without credentials"), "{error}");
}

#[test]
fn a_helper_that_fails_is_named_and_its_secrets_are_not() {
    let registry = Server::of_image(simple(), |_| None);
    let config = json!({"credsStore": "x"});
    let missing = Home::new(&config).pull_badly(&registry);
    assert!(missing.contains("credsStore: docker-credential-x: not in $PATH"), "{missing}");
    for (script, words) in [
        ("echo the keychain is locked; exit 3", "exit status: 3: the keychain is locked"),
        ("printf 'a\\033[2Jb'; exit 3", "a\\u{1b}[2Jb"),
        ("kill -9 $$", "signal: 9"),
        ("echo hunter2", "the reply is not that of a helper"),
        ("echo '{\"Username\": \"\", \"Secret\": \"hunter2\"}'", "the user name is empty"),
        ("exec yes hunter2", "it prints more than 1048576 bytes"),
    ] {
        let error = Home::new(&config).helper("x", script).pull_badly(&registry);
        assert!(error.contains("docker-credential-x") && error.contains(words), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_helper_need_not_read_its_stdin() {
    let (registry, _tokens) = token_registry(simple(), Some("me:pass"));
    let home = Home::new(&json!({"credsStore": "x"}));
    let reply = "exec <&-; echo '{\"Username\": \"me\", \"Secret\": \"pass\"}'";
    home.helper("x", reply).pull_well(&registry);
}

const IDENTITY: &str = "id+to/ken=&x";

/// A registry with a token server that gives tokens for the identity token alone.
fn identity_registry() -> (Server, Server) {
    let tokens = Server::start(|request| {
        let form = "grant_type=refresh_token&refresh_token=id%2Bto/ken%3D%26x\
                    &client_id=image-tool&service=registry&scope=repository:x:pull";
        match (request.method.as_str(), request.body.as_str()) {
            ("POST", body) if body == form => Reply::ok(r#"{"access_token": "secret"}"#),
            _ => Reply::status(400),
        }
    });
    let realm = format!("http://{}/token", tokens.address());
    let registry = Server::of_image(simple(), move |request| {
        let allowed = request.header("authorization") == Some("Bearer secret");
        let challenge = format!(r#"Bearer realm="{realm}",service="registry""#);
        (!allowed).then(|| Reply::challenge(&challenge))
    });
    (registry, tokens)
}

#[test]
fn an_identity_token_is_exchanged_for_tokens_and_goes_nowhere_else() {
    let (registry, tokens) = identity_registry();
    let address = registry.address().to_string();
    let of_helper = Home::new(&json!({"credsStore": "x"})).keeping("x", "<token>", IDENTITY);
    let in_file = Home::new(&json!({"auths": {&address: {"identitytoken": IDENTITY}}}));
    for home in [of_helper, in_file] {
        home.pull_well(&registry);
    }
    let kind = "application/x-www-form-urlencoded";
    for request in tokens.requests() {
        assert_eq!((request.path.as_str(), request.header("content-type")), ("/token", Some(kind)));
        assert_eq!(request.header("authorization"), None);
    }
    assert_eq!(tokens.requests().len(), 2);
    let shown =
        |request: crate::server::Request| request.header("authorization").map(str::to_owned);
    let allowed = |value: &String| value == "Bearer secret";
    assert!(registry.requests().into_iter().filter_map(shown).all(|value| allowed(&value)));

    let wrong = Home::new(&json!({"auths": {&address: {"identitytoken": "old"}}}));
    let error = wrong.pull_badly(&registry);
    assert!(error.ends_with("wrong credentials") && !error.contains("old"), "{error}");
}

#[test]
fn an_identity_token_is_not_taken_to_where_a_redirect_leads() {
    let thief = Server::start(|_| Reply::ok(r#"{"access_token": "x"}"#));
    let target = format!("http://{}/", thief.address());
    let tokens = Server::start(move |_| Reply::redirect(&target));
    let realm = format!("Bearer realm=\"http://{}/\"", tokens.address());
    let registry = Server::start(move |_| Reply::challenge(&realm));
    let config = json!({"auths": {registry.address().to_string(): {"identitytoken": IDENTITY}}});
    let error = Home::new(&config).pull_badly(&registry);
    assert!(error.contains("status 307"), "{error}");
    assert!(thief.requests().is_empty());

    let clear = Server::start(|_| Reply::challenge("Bearer realm=\"http://tokens.invalid/\""));
    let config = json!({"auths": {clear.address().to_string(): {"identitytoken": IDENTITY}}});
    let error = Home::new(&config).pull_badly(&clear);
    assert!(error.contains("http://tokens.invalid, another host without encryption"), "{error}");
}

#[test]
fn an_identity_token_is_no_password() {
    let registry = Server::start(|_| Reply::challenge("Basic realm=\"r\""));
    let config = json!({"auths": {registry.address().to_string(): {"identitytoken": IDENTITY}}});
    let error = Home::new(&config).pull_badly(&registry);
    assert!(error.ends_with("authentication is required"), "{error}");
    assert!(registry.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn credentials_of_one_registry_are_not_for_another() {
    let (registry, tokens) = token_registry(simple(), Some("me:pass"));
    let other = json!({"auth": "bWU6cGFzcw==", "identitytoken": IDENTITY});
    // The same host with another port is another registry.
    let keys = ["127.0.0.1", "127.0.0.1:1", "localhost", "r.io", "https://index.docker.io/v1/"];
    let auths: serde_json::Map<_, _> =
        keys.map(|key| (key.to_owned(), other.clone())).into_iter().collect();
    let error = Home::new(&json!({"auths": auths})).pull_badly(&registry);
    assert!(error.contains("no access without credentials"), "{error}");
    for request in tokens.requests().iter().chain(&registry.requests()) {
        assert!(request.header("authorization").is_none() && request.body.is_empty());
    }
}
