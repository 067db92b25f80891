//! The files for containers and Kubernetes: the layout of compose.yaml, run by hand; its options, those of the image and of the chart.

use std::collections::BTreeMap;
use std::process::Command;

use super::{directory, has_tool, page, tool};
use crate::harness::calls::ask;
use crate::harness::scrape::{free_address, get};
use crate::harness::*;

/// A service of compose.yaml.
#[derive(Debug, Default)]
struct ComposeService {
    command: Vec<String>,
    environment: BTreeMap<String, String>,
    volumes: Vec<String>,
    health: Vec<String>,
}

/// `["a", "b"]` or `[a]`.
fn list(text: &str) -> Vec<String> {
    let inside = text.trim().trim_start_matches('[').trim_end_matches(']');
    inside.split(", ").map(|item| item.trim_matches('"').to_owned()).collect()
}

/// The services, as the file has them: two blanks for each level, lists on one line.
fn services() -> BTreeMap<String, ComposeService> {
    let text = page("container/compose.yaml");
    let (_, text) = text.split_once("\nservices:\n").unwrap();
    let (text, _) = text.split_once("\nvolumes:\n").unwrap();
    let mut services: BTreeMap<String, ComposeService> = BTreeMap::new();
    let (mut name, mut section) = (String::new(), String::new());
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let depth = line.len() - line.trim_start().len();
        let (key, value) = line.trim().split_once(':').unwrap_or((line.trim(), ""));
        if depth == 2 {
            key.clone_into(&mut name);
            services.insert(name.clone(), ComposeService::default());
            continue;
        }
        let service = services.get_mut(&name).unwrap();
        match (depth, key, section.as_str()) {
            (4, "command", _) => service.command = list(value),
            (4, "volumes", _) if !value.is_empty() => service.volumes = list(value),
            (6, "test", "healthcheck") => service.health = list(value),
            (6, _, "environment") => {
                let value = value.trim().trim_matches('"').to_owned();
                service.environment.insert(key.to_owned(), value);
            }
            _ => {}
        }
        if depth == 4 {
            key.clone_into(&mut section);
        }
    }
    services
}

/// A service as a process on this machine: in place of `/data` a directory, in place of its own network a free port of this machine.
struct ContainerProcess {
    daemon: Daemon,
    metrics: String,
    health: Vec<String>,
}

impl ContainerProcess {
    fn start(service: &ComposeService, data: &str) -> ContainerProcess {
        let program = service.command[0].strip_prefix("/usr/local/bin/").unwrap();
        let mut command = Command::new(binary(program));
        command.args(&service.command[1..]);
        let (metrics, listen) = (free_address(), free_address());
        for (name, value) in &service.environment {
            command.env(
                name,
                match name.as_str() {
                    "DRIFTDB_DATA" => data,
                    "DRIFTDB_METRICS" => &metrics,
                    "DRIFTDB_LISTEN" => &listen,
                    _ => value,
                },
            );
        }
        let daemon = Daemon::spawn(command).unwrap();
        let health =
            service.health.iter().map(|argument| match argument.starts_with("http://127.0.0.1:74") {
                true => daemon.url.clone(),
                false => argument.clone(),
            });
        let health = health.collect();
        ContainerProcess { daemon, metrics, health }
    }

    /// Runs the health check of the service.
    fn is_healthy(&self) -> bool {
        let [kind, program, arguments @ ..] = &self.health[..] else { panic!("{:?}", self.health) };
        assert_eq!((kind.as_str(), program.as_str()), ("CMD", "/usr/local/bin/driftctl"));
        Command::new(binary("driftctl")).args(arguments).output().unwrap().status.success()
    }
}

#[tokio::test]
async fn the_layout_of_the_compose_file_works() {
    let services = services();
    let expected = ["grafana", "prometheus", "reader-1", "reader-2", "writer"];
    assert_eq!(services.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(services["writer"].volumes, ["data:/data"]);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().display().to_string();
    let readers = ["reader-1", "reader-2"].map(|name| {
        assert_eq!(services[name].volumes, ["data:/data:ro"], "a reader writes nothing");
        ContainerProcess::start(&services[name], &data)
    });
    let writer = ContainerProcess::start(&services["writer"], &data);
    let mut client = writer.daemon.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    let token = apply(&mut client, vec![insert("t", r#"{"id":"a"}"#)]).await.unwrap();
    for reader in &readers {
        let ready = async || get(&reader.metrics, "/readyz", "*/*").await.code == 200;
        while !ready().await {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let mut client = reader.daemon.as_reader().await;
        assert_eq!(ask(&mut client, "SELECT * FROM t", token.seq).await.unwrap().keys(), ["a"]);
    }
    for process in readers.iter().chain([&writer]) {
        assert!(process.is_healthy(), "{:?}", process.health);
        let scrape = get(&process.metrics, "/metrics", "text/plain").await;
        assert!(scrape.body.contains("driftdb_ready 1"), "{scrape:?}");
    }
    let [stopped, _] = readers;
    let ContainerProcess { mut daemon, metrics, health } = stopped;
    daemon.kill();
    assert!(!ContainerProcess { daemon, metrics, health }.is_healthy());
}

/// What the files set, the programs have.
#[test]
fn every_variable_is_an_option() {
    let help = ["driftdb-writer", "driftdb-reader"].map(|name| {
        let output = Command::new(binary(name)).arg("--help").output().unwrap();
        (name, String::from_utf8(output.stdout).unwrap())
    });
    let check = |variable: &str, programs: &[&str]| {
        for (name, help) in help.iter().filter(|(name, _)| programs.contains(name)) {
            assert!(help.contains(&format!("[env: {variable}=")), "{name} has no {variable}");
        }
    };
    for (name, service) in services() {
        let program = service.command.first().and_then(|path| path.strip_prefix("/usr/local/bin/"));
        for variable in service.environment.keys() {
            check(variable, &[program.unwrap_or_else(|| panic!("{name} has no program of DriftDB"))]);
        }
    }
    for (template, programs) in [
        ("_helpers.tpl", &["driftdb-writer", "driftdb-reader"][..]),
        ("writer.yaml", &["driftdb-writer"]),
        ("reader.yaml", &["driftdb-reader"]),
    ] {
        let text = page(&format!("helm/driftdb/templates/{template}"));
        let variables =
            text.split("name: DRIFTDB_").skip(1).filter_map(|rest| rest.split_whitespace().next());
        let mut count = 0;
        for variable in variables {
            check(&format!("DRIFTDB_{variable}"), programs);
            count += 1;
        }
        assert!(count >= 3, "{template}");
    }
}

/// A linter of Dockerfiles finds nothing.
#[test]
fn hadolint_accepts_the_dockerfile() {
    if !has_tool("hadolint", "--version") {
        return;
    }
    let path = directory().join("container/Dockerfile").display().to_string();
    tool("hadolint", &["--failure-threshold", "info", &path]);
}

/// The engine itself reads the compose file, where it is installed.
#[test]
fn docker_compose_accepts_the_compose_file() {
    let has_compose = Command::new("docker").args(["compose", "version"]).output();
    if !has_compose.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: docker compose is not installed");
        return;
    }
    let path = directory().join("container/compose.yaml").display().to_string();
    tool("docker", &["compose", "-f", &path, "config", "--quiet"]);
}

/// Every YAML file is one. Python's parser reads them, where it is installed; the chart's templates are no YAML before they are filled in.
#[test]
fn the_yaml_files_are_well_formed() {
    if !Command::new("python3").args(["-c", "import yaml"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: python3 with yaml is not installed");
        return;
    }
    for file in [
        "container/compose.yaml",
        "prometheus/prometheus.yml",
        "prometheus/alerts.yml",
        "grafana/provisioning/datasources/prometheus.yaml",
        "grafana/provisioning/dashboards/driftdb.yaml",
        "helm/driftdb/Chart.yaml",
        "helm/driftdb/values.yaml",
    ] {
        let path = directory().join(file).display().to_string();
        tool("python3", &["-c", "import sys, yaml; assert yaml.safe_load(open(sys.argv[1]))", &path]);
    }
}

/// The parts of the deployment name the same ports, paths and users.
#[test]
fn the_files_agree_with_each_other() {
    let image = page("container/Dockerfile");
    for program in ["driftdb-writer", "driftdb-reader", "driftctl"] {
        assert!(image.contains(&format!("/out/{program}")), "{program}");
    }
    for needed in ["USER 65532:65532", "EXPOSE 7401 7402 9401 9402", "HEALTHCHECK", "ENV DRIFTDB_DATA=/data"]
    {
        assert!(image.contains(needed), "{needed}");
    }
    let chart = ["writer.yaml", "reader.yaml"].map(|name| page(&format!("helm/driftdb/templates/{name}")));
    for text in &chart {
        for needed in ["path: /healthz, port: metrics", "startupProbe"] {
            assert!(text.contains(needed), "{needed}");
        }
        assert_eq!(text.matches("{{").count(), text.matches("}}").count());
    }
    assert!(chart[0].contains("kind: StatefulSet") && chart[0].contains("--standby"));
    assert!(chart[0].contains("type: OnDelete") && chart[0].contains("podManagementPolicy: Parallel"));
    assert!(chart[0].contains("path: /activez, port: metrics"));
    assert!(chart[1].contains("path: /readyz, port: metrics"));
    assert!(chart[1].contains("kind: Deployment") && chart[1].contains("readOnly: true"));
    assert!(page("helm/driftdb/templates/_helpers.tpl").contains("runAsUser: 65532"));
    let scraped = page("prometheus/prometheus.yml");
    for target in ["writer:9401", "reader-1:9402", "reader-2:9402"] {
        assert!(scraped.contains(target), "{target}");
    }
}
