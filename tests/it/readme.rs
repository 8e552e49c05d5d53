//! The README's commands run as they stand, on the demo model.

use std::path::Path;
use std::process::Command;

/// The lines of the block of shell commands behind `heading`.
fn commands(heading: &str) -> Vec<String> {
    let text = include_str!("../../README.md");
    let (_, behind) = text
        .split_once(heading)
        .expect("the README has this sentence");
    let (_, block) = behind.split_once("```sh\n").expect("a block follows");
    let (block, _) = block.split_once("```").expect("the block ends");
    block.lines().map(str::to_owned).collect()
}

#[test]
fn each_command_with_the_demo_model_runs_as_it_stands() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    for name in ["demo", "tasks"] {
        std::os::unix::fs::symlink(root.join(name), folder.path().join(name)).unwrap();
    }
    let commands = commands("Each of these runs as it stands");
    assert!(commands.len() >= 7, "{commands:?}");
    for line in commands {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], "micota", "{line}");
        let output = Command::new(env!("CARGO_BIN_EXE_micota"))
            .args(&words[1..])
            .current_dir(folder.path())
            .env_remove("MICOTA_DATA")
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{line}: {message}");
        assert!(!output.stdout.is_empty(), "{line}");
    }
}
