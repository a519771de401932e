//! docker-compose: services that find each other by name, and a published port.

use engines::docker::{Docker, PROGRAMS};
use engines::in_place;
use serde_json::json;

#[test]
fn services_come_up_and_go_down() {
    in_place(&[&PROGRAMS[..], &["docker-compose"]].concat(), |place| {
        let docker = Docker::start(place, &json!({}));
        let before = place.inventory();
        let project = place.bed.make_directory("project", 0o755);
        let compose =
            |line: &str| place.sh(&format!("cd {} && docker-compose {line}", project.display()));
        place.write(
            &format!("{}/docker-compose.yml", project.display()),
            "version: '3'\nservices:\n  \
             web: {image: web, ports: ['82:8080'], stop_grace_period: 1s}\n  \
             client:\n    image: alpine\n    command: sleep 1000\n    depends_on: [web]\n    \
             stop_grace_period: 1s\n    environment: {WORD: given}\n    \
             volumes: ['kept:/kept']\nvolumes: {kept: {}}\n",
        );
        compose("up -d").succeeds();
        compose("ps").mentions("client").mentions("0.0.0.0:82->8080/tcp").mentions("Up");
        place.eventually("the published port answers", || {
            place.get("127.0.0.1:82", "/").is_some_and(|page| page.contains("from a container"))
        });
        compose("exec -T client wget -qO- http://web:8080/").prints("served from a container");
        compose("exec -T client sh -c 'echo $WORD > /kept/word; exit 5'").exits(5);
        compose("restart -t 1 client").succeeds();
        compose("exec -T client cat /kept/word").prints("given");
        compose("up -d --scale client=2").succeeds();
        compose("ps -q client | wc -l").prints("2");
        compose("stop -t 1 web").succeeds();
        compose("ps web").mentions("Exit");
        compose("down -v").succeeds();
        docker.sh("docker ps -aq; docker volume ls -q").prints("");
        place.claim_nothing_since(&before);
    });
}
