//! A browser for the pages, and curl for what the browser does not show.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use headgate_netns::{Node, Process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Whether a browser is installed; prints `SKIPPED:` if not.
pub(crate) fn has_browser(test: &str) -> bool {
    let mut missing = ["chromium", "chromedriver"]
        .into_iter()
        .filter(|program| Command::new(program).arg("--version").output().is_err());
    match missing.next() {
        Some(program) => {
            println!("SKIPPED: {test}: there is no {program}");
            false
        }
        None => true,
    }
}

/// Runs curl in a node's namespace.
pub(crate) fn fetch(node: &Node, words: &[&str]) -> Output {
    let mut command = node.netns.command("curl", None);
    command.args([
        "--silent",
        "--noproxy",
        "*",
        "--globoff",
        "--max-time",
        "20",
    ]);
    command.args(words).output().unwrap()
}

/// A browser in a node's namespace, driven by the WebDriver protocol, and ended on drop.
pub(crate) struct Browser<'a> {
    node: &'a Node,
    session: String,
    _driver: Process,
    _folder: TempDir,
}

impl<'a> Browser<'a> {
    pub(crate) fn start(node: &'a Node) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = node.netns.command("chromedriver", None);
        command.arg("--port=0").env("TMPDIR", folder.path());
        let driver = Process::start(command, "started successfully on port").unwrap();
        let log = driver.log();
        let port = log.split("successfully on port ").nth(1).unwrap();
        let port: u16 = port.split('.').next().unwrap().parse().unwrap();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!(
                "--user-data-dir={}",
                folder.path().join("profile").display()
            ),
        ];
        let mut browser = Self {
            node,
            session: format!("http://127.0.0.1:{port}/session"),
            _driver: driver,
            _folder: folder,
        };
        let options = json!({
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
            // The first page of a tab loads names that cannot be resolved here.
            "pageLoadStrategy": "none",
        });
        let made = browser.post("", &json!({"capabilities": {"alwaysMatch": options}}));
        browser.session = format!(
            "{}/{}",
            browser.session,
            made["sessionId"].as_str().unwrap()
        );
        browser
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.session);
        let output = fetch(self.node, &["--json", &body.to_string(), &url]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let value = answer["value"].clone();
        assert!(value.get("error").is_none(), "{path} {body}: {value}");
        value
    }

    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    pub(crate) fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector('{selector}')?.textContent ?? ''");
        self.run(&script).as_str().unwrap().into()
    }

    fn element(&self, selector: &str, action: &str, body: &Value) {
        let found = self.post(
            "/element",
            &json!({"using": "css selector", "value": selector}),
        );
        let id = found.as_object().unwrap().values().next().unwrap();
        self.post(&format!("/element/{}/{action}", id.as_str().unwrap()), body);
    }

    pub(crate) fn enter(&self, selector: &str, text: &str) {
        self.element(selector, "value", &json!({"text": text}));
    }

    pub(crate) fn click(&self, selector: &str) {
        self.element(selector, "click", &json!({}));
    }

    fn chrome(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.post("/goog/cdp/execute", &body)
    }

    pub(crate) fn resize(&self, width: u32) {
        let metrics = json!({
            "width": width, "height": 900, "deviceScaleFactor": 2, "mobile": width < 500,
        });
        self.chrome("Emulation.setDeviceMetricsOverride", metrics);
    }

    pub(crate) fn prefer(&self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.chrome("Emulation.setEmulatedMedia", json!({"features": [feature]}));
    }

    /// Saves a picture of the whole page as `target/screenshots/NAME.png`.
    pub(crate) fn shoot(&self, name: &str) {
        let shot = self.chrome(
            "Page.captureScreenshot",
            json!({"captureBeyondViewport": true}),
        );
        let image = BASE64_STANDARD
            .decode(shot["data"].as_str().unwrap())
            .unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/screenshots");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{name}.png")), image).unwrap();
    }

    /// Saves a picture of the page in every width and scheme as `target/screenshots/NAME-….png`.
    pub(crate) fn shoot_all(&self, name: &str) {
        for width in [1360, 390] {
            self.resize(width);
            let mut grounds = ["light", "dark"].map(|scheme| {
                self.prefer(scheme);
                self.shoot(&format!("{name}-{scheme}-{width}"));
                self.run("return getComputedStyle(document.body).backgroundColor")
            });
            grounds.sort_by_key(Value::to_string);
            assert_ne!(grounds[0], grounds[1], "one for each scheme");
            let script = "return document.documentElement.scrollWidth \
                          - document.documentElement.clientWidth";
            assert_eq!(self.run(script), 0, "nothing is wider than {width}");
        }
    }

    /// The browser's console errors, except refused requests.
    pub(crate) fn complaints(&self) -> Value {
        let mut complaints = self.post("/se/log", &json!({"type": "browser"}));
        let is_ours = |row: &Value| row["source"] != "network";
        complaints.as_array_mut().unwrap().retain(is_ours);
        complaints
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        fetch(self.node, &["--request", "DELETE", &self.session]);
    }
}
