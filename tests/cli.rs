//! The `saliency` command as its users run it: one process per command line, in a folder of
//! its own, with an empty cache.

mod fetch;
mod listings;
mod maps;
mod real_data;
mod refusals;
mod rows;
mod studies;
mod tables;
mod unwritable;
mod weights;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use saliency_models::{demo, scenes::Scenes};
use serde_json::Value;
use tempfile::TempDir;

/// The embedded model on the CPU.
const DEMO: [&str; 4] = ["--model", "demo", "--device", "cpu"];

/// A folder to run commands in; it goes away at the end of the test.
struct Sandbox(TempDir);

/// How a command ended and what it said.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Sandbox {
    fn new() -> Self {
        Sandbox(tempfile::tempdir().unwrap())
    }

    /// With `scene.png`, which the demo model has not seen in training.
    fn with_scene() -> Self {
        let sandbox = Sandbox::new();
        sandbox.scene("scene.png", 0);
        sandbox
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes scene number `index` to a file whose extension says the format.
    fn scene(&self, name: &str, index: u64) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let scene = Scenes::new(demo::TEST_SEED).get(index);
        scene.image.save(path).unwrap();
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saliency"));
        command.args(args).current_dir(self.0.path());
        // The user's own settings, cache and proxies stay out of it.
        for name in ["HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"] {
            command.env(name, self.0.path());
        }
        for name in [
            "SALIENCY_MIRROR",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
        ] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.command(args).output().unwrap().into()
    }

    /// Standard output of a command that succeeds, quietly: no progress, no escape codes.
    fn succeeds(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code, Some(0), "{args:?}: {outcome:?}");
        assert_eq!(outcome.stderr, "", "{args:?}");
        assert!(!outcome.stdout.contains('\u{1b}'), "{args:?}: {outcome:?}");
        outcome.stdout
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.succeeds(args);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// `explain scene.png` by the demo model with more arguments, as JSON.
    fn explain(&self, args: &[&str]) -> Vec<Value> {
        let start = ["explain", "scene.png", "--json"];
        match self.json(&[&start[..], &DEMO, args].concat()) {
            Value::Array(reports) => reports,
            other => panic!("not a list: {other}"),
        }
    }

    /// Checks that a command fails with one line that has these parts in it, and writes no
    /// file into `out`.
    fn refuses(&self, code: i32, args: &[&str], parts: &[&str]) {
        let outcome = self.run(args);
        assert_eq!(outcome.code, Some(code), "{args:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "", "{args:?}");
        let lines = outcome.error_lines();
        assert_eq!(lines.len(), 1, "{args:?}: {outcome:?}");
        for part in parts {
            assert!(
                lines[0].contains(part),
                "{args:?}: {part:?} is not in {lines:?}"
            );
        }
        assert_eq!(self.files("out"), [""; 0], "{args:?}");
    }

    /// Names of all files in a folder and its folders, sorted; none where it does not exist.
    fn files(&self, folder: &str) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => walk(&path, root, found),
                    false => found.push(path.strip_prefix(root).unwrap().display().to_string()),
                }
            }
        }
        let (root, mut found) = (self.path(folder), Vec::new());
        walk(&root, &root, &mut found);
        found.sort();
        found
    }
}

impl Outcome {
    /// The lines of standard error, each of which must be an error that a person can read.
    fn error_lines(&self) -> Vec<&str> {
        for word in ["panicked", "RUST_BACKTRACE", "internal error", "\u{1b}"] {
            assert!(!self.stderr.contains(word), "{self:?}");
        }
        let lines: Vec<&str> = self.stderr.lines().collect();
        for line in &lines {
            assert!(line.starts_with("error: ") && line.len() > 15, "{self:?}");
        }
        lines
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A committed file of `saliency-models`' tests.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../saliency-models/tests-data")
        .join(name)
}

/// Paths in the list called `files` of a report.
fn listed(report: &Value) -> Vec<String> {
    let files = report["files"].as_array().unwrap();
    files
        .iter()
        .map(|file| file.as_str().unwrap().replace('\\', "/"))
        .collect()
}

/// Width and height of a PNG file that decodes.
fn dimensions(sandbox: &Sandbox, name: &str) -> (u32, u32) {
    let bytes = sandbox.read(name);
    let picture = image::load_from_memory_with_format(&bytes, image::ImageFormat::Png);
    let picture = picture.unwrap_or_else(|e| panic!("{name}: {e}"));
    (picture.width(), picture.height())
}
