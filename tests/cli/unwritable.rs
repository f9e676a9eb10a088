//! Places that nothing can be written to.

use super::{DEMO, Outcome, Sandbox};

const COMMANDS: [[&str; 2]; 4] = [
    ["explain", "scene.png"],
    ["stats", "scene.png"],
    ["compare", "scene.png"],
    ["noise", "scene.png"],
];

#[test]
fn a_file_in_the_way() {
    let sandbox = Sandbox::with_scene();
    sandbox.write("file", "precious");
    for out in ["file", "file/below"] {
        for command in COMMANDS {
            let args = [&command[..], &DEMO, &["--out", out]].concat();
            sandbox.refuses(1, &args, &[&format!("{out}: ")]);
        }
        sandbox.refuses(1, &["demo", "--out", out], &[&format!("{out}: ")]);
    }
    let train = [
        "train-demo",
        "--steps",
        "1",
        "--out",
        "file/demo.safetensors",
    ];
    sandbox.refuses(1, &train, &["file/demo.safetensors: cannot be written"]);
    assert_eq!(sandbox.read("file"), b"precious");
}

#[test]
fn a_folder_in_the_way_of_a_file() {
    let sandbox = Sandbox::with_scene();
    for (save, name) in [
        ("png", "scene-gradient.png"),
        ("json", "scene-gradient.json"),
        ("npy", "scene-gradient.npy"),
        ("safetensors", "scene-gradient.safetensors"),
    ] {
        std::fs::create_dir_all(sandbox.path("out").join(name)).unwrap();
        let args = ["explain", "scene.png", "--out", "out", "--save", save];
        sandbox.refuses(1, &[&args[..], &DEMO].concat(), &[name, "folder"]);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_folder_without_permission() {
    // `/proc` refuses files even to root.
    let sandbox = Sandbox::with_scene();
    for out in ["/proc", "/proc/maps"] {
        for command in COMMANDS {
            let args = [&command[..], &DEMO, &["--out", out]].concat();
            sandbox.refuses(1, &args, &[&format!("{out}: no file can be written")]);
        }
        sandbox.refuses(1, &["demo", "--out", out], &[&format!("{out}: ")]);
    }
}

/// Runs the command line in a mount namespace of its own, where `out` is a disk of 16 KiB,
/// and lists what is left on it after a line `left:`.
#[cfg(target_os = "linux")]
fn on_a_full_disk(sandbox: &Sandbox, args: &[&str]) -> Option<Outcome> {
    const SCRIPT: &str = "mount -t tmpfs -o size=16k tmpfs out || exit 77; \
                          \"$@\"; code=$?; echo left:; ls -A out; exit $code";
    std::fs::create_dir_all(sandbox.path("out")).unwrap();
    let command = sandbox.command(args);
    let mut unshare = std::process::Command::new("unshare");
    unshare
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            SCRIPT,
            "sh",
        ])
        .arg(command.get_program())
        .args(args)
        .current_dir(sandbox.path(""));
    let outcome = Outcome::from(unshare.output().ok()?);
    let ran = outcome.stdout.contains("left:") && outcome.code != Some(77);
    ran.then_some(outcome)
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk() {
    let sandbox = Sandbox::with_scene();
    for command in COMMANDS {
        let args = [&command[..], &DEMO, &["--out", "out"]].concat();
        let Some(outcome) = on_a_full_disk(&sandbox, &args) else {
            println!("skipped: no small disk can be mounted here");
            return;
        };
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert_eq!(outcome.stdout, "left:\n", "{outcome:?}");
        let lines = outcome.error_lines();
        assert_eq!(lines.len(), 1, "{outcome:?}");
        assert!(lines[0].contains("space"), "{outcome:?}");
        assert!(lines[0].contains("out/scene-"), "{outcome:?}");
    }
    for save in ["npy", "safetensors"] {
        let args = ["explain", "scene.png", "--out", "out", "--save", save];
        let outcome = on_a_full_disk(&sandbox, &[&args[..], &DEMO].concat()).unwrap();
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (Some(1), "left:\n")
        );
        assert!(outcome.error_lines()[0].contains("space"), "{outcome:?}");
    }
}
