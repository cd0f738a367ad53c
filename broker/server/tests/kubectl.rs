//! The installed kubectl, which nobody here wrote.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::{TestServer, options};
use tempfile::{TempDir, tempdir};

struct Kubectl {
    program: PathBuf,
    home: TempDir,
}

impl Kubectl {
    fn new(program: PathBuf, server: &TestServer) -> Self {
        let home = tempdir().unwrap();
        std::fs::write(home.path().join("config"), &server.kubeconfig).unwrap();
        Self { program, home }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("HOME", self.home.path())
            .current_dir(self.home.path());
        command
    }

    fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).output().expect("kubectl runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// A command that goes on until it is dropped.
    fn follow(&self, arguments: &[&str]) -> Following {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().expect("kubectl runs");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Following { child, lines }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let file = self.home.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    }
}

struct Following {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Following {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        line
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop, labels: {app: web}}
data: {color: red, size: "3"}
---
apiVersion: v1
kind: Secret
metadata: {name: key, namespace: shop}
stringData: {password: hello}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: bob, namespace: shop}
"#;

const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd], categories: [daisy]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What is wanted.
            required: [size]
            properties:
              size: {type: integer, minimum: 1, description: How large it is.}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

const WIDGET: &str = r#"
apiVersion: example.com/v1
kind: Widget
metadata: {name: first, namespace: shop}
spec: {size: 3}
"#;

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_on_built_in_objects() {
    let Some(program) = common::kubectl("kubectl_works_on_built_in_objects") else { return };
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let kubectl = Kubectl::new(program, &server);
    tokio::task::block_in_place(|| {
        let file = kubectl.file("objects.yaml", OBJECTS);
        assert_eq!(kubectl.run(&["create", "-f", &file]).lines().count(), 4);
        let error = kubectl.try_run(&["create", "-f", &file]).unwrap_err();
        assert!(error.contains("AlreadyExists") && error.contains("secrets \"key\" already exists"), "{error}");

        let table = kubectl.run(&["get", "cm,sa", "-n", "shop"]);
        let rows: Vec<_> = table.lines().map(words).filter(|row| !row.is_empty()).collect();
        assert_eq!(
            (rows[0].as_slice(), &rows[1][..2]),
            (["NAME", "DATA", "AGE"].as_slice(), ["configmap/settings", "2"].as_slice())
        );
        assert!(kubectl.run(&["get", "ns"]).contains("Active"));
        assert!(kubectl.run(&["get", "cm", "-A", "-l", "app=web", "-o", "name"]).contains("settings"));
        let yaml = kubectl.run(&["get", "cm", "settings", "-n", "shop", "-o", "yaml"]);
        assert!(yaml.contains("color: red") && yaml.contains("resourceVersion:"), "{yaml}");
        assert_eq!(kubectl.run(&["get", "secret", "key", "-n", "shop", "-o", "jsonpath={.data.password}"]), "aGVsbG8=");

        let on = |arguments: &[&str]| kubectl.run(&[arguments, &["-n", "shop"]].concat());
        on(&["label", "cm", "settings", "tier=front"]);
        on(&["annotate", "cm", "settings", "note=x"]);
        on(&["patch", "cm", "settings", "--type", "merge", "-p", r#"{"data":{"shape":"round"}}"#]);
        on(&["patch", "cm", "settings", "--type", "json", "-p", r#"[{"op":"remove","path":"/data/size"}]"#]);
        on(&["patch", "cm", "settings", "-p", r#"{"data":{"color":"blue"}}"#]);
        let described = on(&["describe", "cm", "settings"]);
        for part in ["tier=front", "note: x", "round", "blue"] {
            assert!(described.contains(part), "{part}: {described}");
        }
        assert!(!described.contains("size"));
        assert!(kubectl.run(&["describe", "ns", "shop"]).contains("Active"));

        let applied = kubectl.run(&["apply", "-f", &kubectl.file("objects.yaml", &OBJECTS.replace("red", "green"))]);
        assert!(
            applied.contains("configmap/settings configured") && applied.contains("serviceaccount/bob configured"),
            "{applied}"
        );
        let again = kubectl.run(&["apply", "-f", &file]);
        assert!(again.contains("configmap/settings unchanged") && again.contains("namespace/shop unchanged"), "{again}");
        assert_eq!(on(&["get", "cm", "settings", "-o", "jsonpath={.data.color}{.data.shape}"]), "greenround");
        assert!(on(&["diff", "-f", &file]).is_empty());
        on(&["replace", "-f", &file]);
        let server_side = kubectl.try_run(&["apply", "--server-side", "-f", &file]).unwrap_err();
        assert!(server_side.contains("Server-side apply not available"), "{server_side}");

        // What kubectl sends as protobuf is refused, with the way around it.
        let error = kubectl.try_run(&["create", "namespace", "other"]).unwrap_err();
        assert!(error.contains("UnsupportedMediaType") && error.contains("kubectl create -f"), "{error}");

        assert!(on(&["delete", "cm", "settings"]).contains("deleted"));
        assert!(kubectl.try_run(&["get", "cm", "settings", "-n", "shop"]).unwrap_err().contains("NotFound"));
        kubectl.run(&["delete", "ns", "shop"]);
        assert!(!kubectl.run(&["get", "ns", "-o", "name"]).contains("shop"));
        let resources = kubectl.run(&["api-resources"]);
        assert!(resources.contains("customresourcedefinitions") && resources.contains("crd,crds"), "{resources}");
        assert!(kubectl.run(&["version"]).contains("Server Version: v1.33"));
    });
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_on_custom_objects() {
    let Some(program) = common::kubectl("kubectl_works_on_custom_objects") else { return };
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    server.namespace("shop").await;
    let kubectl = Kubectl::new(program, &server);
    tokio::task::block_in_place(|| {
        kubectl.run(&["apply", "-f", &kubectl.file("crd.yaml", CRD)]);
        kubectl.run(&["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=10s"]);
        let mut watch = kubectl.follow(&["get", "widgets", "-n", "shop", "-w"]);
        // kubectl lists before it watches: give it time, so that the change is seen as one.
        std::thread::sleep(std::time::Duration::from_secs(2));
        let file = kubectl.file("widget.yaml", WIDGET);
        kubectl.run(&["apply", "-f", &file]);
        assert_eq!(words(&watch.line()), ["NAME", "SIZE", "READY"]);
        assert_eq!(words(&watch.line()), ["first", "3"]);
        let status = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
        kubectl.run(&["patch", "wd", "first", "-n", "shop", "--subresource=status", "--type=merge", "-p", status]);
        assert_eq!(words(&watch.line()), ["first", "3", "True"]);
        assert!(kubectl.run(&["get", "daisy", "-A"]).contains("first"), "by category");
        kubectl.run(&["wait", "--for=condition=Ready", "widget/first", "-n", "shop", "--timeout=10s"]);

        let bad = kubectl.file("bad.yaml", &WIDGET.replace("size: 3", "size: 0"));
        let error = kubectl.try_run(&["apply", "-f", &bad]).unwrap_err();
        assert!(
            error.contains("spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
            "{error}"
        );
        let unknown = kubectl.file("unknown.yaml", &WIDGET.replace("size: 3", "size: 3, siez: 4"));
        let error = kubectl.try_run(&["apply", "-f", &unknown]).unwrap_err();
        assert!(error.contains("unknown field \"spec.siez\""), "the server validates for kubectl: {error}");
        assert!(kubectl.run(&["explain", "widgets.spec.size"]).contains("How large it is."));

        kubectl.run(&["apply", "-f", &kubectl.file("widget.yaml", &WIDGET.replace("size: 3", "size: 5"))]);
        assert_eq!(words(&watch.line()), ["first", "5", "True"]);
        assert!(kubectl.run(&["describe", "widget", "first", "-n", "shop"]).contains("Size:"));
        kubectl.run(&["label", "widget", "first", "-n", "shop", "a=b"]);
        watch.line();
        kubectl.run(&["delete", "-f", &file]);
        assert_eq!(words(&watch.line()), ["first", "5", "True"], "kubectl prints what was deleted");
        kubectl.run(&["delete", "crd", "widgets.example.com"]);
        assert!(kubectl.try_run(&["get", "widgets", "-A"]).is_err());
    });
    server.stop().await;
}
