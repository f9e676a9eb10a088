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

/// Runs the command line where files cannot grow: on a disk of 16 KiB in a mount namespace of
/// its own where that is allowed, else with a limit of 4 KiB a file. Lists what is left in
/// `out` after a line `left:`.
#[cfg(target_os = "linux")]
fn on_a_full_disk(sandbox: &Sandbox, args: &[&str]) -> Outcome {
    const DISK: &str = "mount -t tmpfs -o size=16k tmpfs out || exit 77; \
                        \"$@\"; code=$?; echo left:; ls -A out; exit $code";
    const LIMIT: &str = "trap '' XFSZ; (ulimit -f 8; exec \"$@\"); code=$?; \
                         echo left:; ls -A out; exit $code";
    std::fs::create_dir_all(sandbox.path("out")).unwrap();
    let program = sandbox.command(args).get_program().to_owned();
    let run = |shell: &[&str]| {
        let mut command = std::process::Command::new(shell[0]);
        command
            .args(&shell[1..])
            .arg("sh")
            .arg(&program)
            .args(args)
            .current_dir(sandbox.path(""));
        command.output().map(Outcome::from)
    };
    let namespace = ["unshare", "--user", "--map-root-user", "--mount"];
    match run(&[&namespace[..], &["sh", "-c", DISK]].concat()) {
        Ok(outcome) if outcome.stdout.contains("left:") => outcome,
        _ => run(&["sh", "-c", LIMIT]).unwrap(),
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk() {
    let sandbox = Sandbox::with_scene();
    let fails = |args: &[&str]| {
        let outcome = on_a_full_disk(&sandbox, args);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let lines = outcome.error_lines();
        assert_eq!(lines.len(), 1, "{outcome:?}");
        let full = ["No space left", "no storage space", "File too large"];
        assert!(full.iter().any(|f| lines[0].contains(f)), "{outcome:?}");
        (lines[0].to_string(), outcome.stdout)
    };
    for command in COMMANDS {
        let (error, left) = fails(&[&command[..], &DEMO, &["--out", "out"]].concat());
        assert_eq!(left, "left:\n", "{command:?}");
        assert!(error.contains("out/scene-"), "{error}");
    }
    for save in ["npy", "safetensors"] {
        let args = ["explain", "scene.png", "--out", "out", "--save", save];
        assert_eq!(fails(&[&args[..], &DEMO].concat()).1, "left:\n", "{save}");
    }
    // Folders and pictures that fitted are whole; nothing under a temporary name is left.
    let (error, left) = fails(&["demo", "--scenes", "1", "--out", "out", "--device", "cpu"]);
    assert!(error.contains("out/"), "{error}");
    assert!(!left.contains(".tmp"), "{left}");
    for name in sandbox.files("out") {
        let read = image::load_from_memory(&sandbox.read(&format!("out/{name}")));
        assert!(read.is_ok(), "{name}");
    }
}
