//! The Helm chart, rendered by Helm's own engine: what it makes is YAML, and its parts fit each other and the programs.
//!
//! The engine comes as a package of Python. `HELM_PYTHON` names the interpreter that has it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::{Value, json};

use super::directory;
use crate::harness::binary;

/// Renders the chart with the values in its second argument, and prints its objects.
const RENDER: &str = r#"
import json, sys, yaml
from helm_python.chart import Chart

class Unique(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return super().construct_mapping(node, deep)

with Chart.load(sys.argv[1]) as chart:
    rendered = chart.render(values=json.loads(sys.argv[2]), name="orders", namespace="shop")
objects = [o for text in rendered.values() for o in yaml.load_all(text, Unique) if o]
print(json.dumps(objects))
"#;

fn python() -> String {
    std::env::var("HELM_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Whether the engine is installed. Says so if it is not.
fn has_engine() -> bool {
    let found = Command::new(python()).args(["-c", "import helm_python, yaml"]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: the Python packages helm-python-sdk and pyyaml are not installed");
    }
    found
}

/// The objects of the chart with some values, by kind and name.
fn render(values: &Value) -> Result<BTreeMap<String, Value>, String> {
    let chart = directory().join("helm/driftdb").display().to_string();
    let output = Command::new(python()).args(["-c", RENDER, &chart, &values.to_string()]).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let objects: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mut by_name = BTreeMap::new();
    for object in objects {
        assert!(object["apiVersion"].is_string(), "{object}");
        let name = format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
        assert!(by_name.insert(name.clone(), object).is_none(), "{name} twice");
    }
    Ok(by_name)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn items(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn names(value: &Value) -> BTreeSet<&str> {
    let names: Vec<&str> = items(value).iter().map(|item| text(&item["name"])).collect();
    let set: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(set.len(), names.len(), "one name twice: {value}");
    set
}

/// Whether a selector finds the pods of a template.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().unwrap().iter().all(|(name, value)| labels[name] == *value)
}

/// What must hold of the daemons' pods, whatever the values.
fn check_pods(objects: &BTreeMap<String, Value>, program: &str, workload: &str) -> BTreeSet<String> {
    let spec = &objects[workload]["spec"];
    let (labels, pod) = (&spec["template"]["metadata"]["labels"], &spec["template"]["spec"]);
    assert!(selects(&spec["selector"]["matchLabels"], labels));
    let [container] = items(&pod["containers"]) else { panic!("{pod}") };
    assert_eq!(text(&container["command"][0]), format!("/usr/local/bin/{program}"));
    let help = Command::new(binary(program)).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let variables = names(&container["env"]);
    for variable in variables.iter().filter(|name| **name != "POD_NAME") {
        assert!(help.contains(&format!("[env: {variable}=")), "{program} has no {variable}");
    }
    let ports = names(&container["ports"]);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(ports.contains(text(&container[probe]["httpGet"]["port"])), "{probe}");
    }
    assert!(names(&container["volumeMounts"]).is_subset(&names(&pod["volumes"])));
    for (name, service) in objects.iter().filter(|(name, _)| name.starts_with("Service ")) {
        if selects(&service["spec"]["selector"], labels) {
            let targets = items(&service["spec"]["ports"]).iter().map(|port| text(&port["targetPort"]));
            assert!(targets.into_iter().all(|port| ports.contains(port)), "{name}");
        }
    }
    variables.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_chart_renders_to_objects_that_fit_each_other() {
    if !has_engine() {
        return;
    }
    let safe = json!({"tls": {"secretName": "t"}, "auth": {"secretName": "a"}});
    let with_ca = json!({"tls": {"secretName": "t", "clientCa": true}, "auth": {"secretName": "a"}});
    let kept = json!({"insecure": true, "data": {"existingClaim": "mine"}, "prometheusAnnotations": false});
    let more = json!({
        "insecure": true,
        "data": {"storageClass": "nfs"},
        "writer": {"env": {"DRIFTDB_SEGMENT_BYTES": 1048576}, "resources": {"limits": {"memory": "1Gi"}}},
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}], "grpcFrom": [{"podSelector": {}}]},
    });
    for values in [&safe, &with_ca, &kept, &more] {
        let objects = render(values).unwrap();
        let writer = check_pods(&objects, "driftdb-writer", "StatefulSet orders-writer");
        let reader = check_pods(&objects, "driftdb-reader", "Deployment orders-reader");
        for variables in [&writer, &reader] {
            let has = |name: &str| variables.contains(name);
            assert_eq!(has("DRIFTDB_INSECURE_LISTEN"), values["insecure"] == true, "{values}");
            assert_eq!(has("DRIFTDB_TLS_KEY"), values["tls"].is_object());
            assert_eq!(has("DRIFTDB_TLS_CLIENT_CA"), values["tls"]["clientCa"] == true);
            assert!(has("DRIFTDB_METRICS_INSECURE_LISTEN"));
        }
        let probe = |object: &str| {
            let pod = &objects[object]["spec"]["template"]["spec"];
            text(&pod["containers"][0]["readinessProbe"]["httpGet"]["path"]).to_owned()
        };
        // Whoever mends a full disk needs the Service of the writer.
        assert_eq!(probe("StatefulSet orders-writer"), "/activez");
        assert_eq!(probe("Deployment orders-reader"), "/readyz");
        assert_eq!(objects.contains_key("PersistentVolumeClaim orders-data"), *values != kept);
        for name in ["orders-writer", "orders-writer-pods", "orders-reader"] {
            assert!(objects.contains_key(&format!("Service {name}")), "{name}");
        }
        let policy = &objects["NetworkPolicy orders-daemons"]["spec"];
        let [grpc, metrics] = items(&policy["ingress"]) else { panic!("{policy}") };
        assert_eq!((text(&grpc["ports"][0]["port"]), grpc["from"].is_array()), ("grpc", *values == more));
        assert_eq!((text(&metrics["ports"][0]["port"]), items(&metrics["from"]).len()), ("metrics", 1));
    }
    let off = json!({"insecure": true, "networkPolicy": {"enabled": false}});
    assert!(!render(&off).unwrap().contains_key("NetworkPolicy orders-daemons"));
}

#[test]
fn the_chart_refuses_to_install_open_to_everyone() {
    if !has_engine() {
        return;
    }
    for values in [json!({}), json!({"tls": {"secretName": "t"}}), json!({"auth": {"secretName": "a"}})] {
        let refused = render(&values).unwrap_err();
        assert!(refused.contains("set tls.secretName and auth.secretName"), "{refused}");
    }
}
