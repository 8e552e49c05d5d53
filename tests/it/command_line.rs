//! The command line around the commands: help, completions, manual pages, exit codes, the doctor.

use std::process::{Command, Output};

fn micota(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(words).output().unwrap()
}

fn stdout(words: &[&str]) -> String {
    let output = micota(words);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{words:?}: {message}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_documents_the_exit_codes() {
    for words in [&["--help"][..], &["eval", "--help"]] {
        let help = stdout(words);
        for code in [
            "0 done",
            "1 the run failed",
            "2 wrong usage",
            "3 finished",
            "130",
        ] {
            assert!(help.contains(code), "{code}: {help}");
        }
    }
    assert_eq!(micota(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(micota(&["eval", "--no-such-flag"]).status.code(), Some(2));
    assert_eq!(micota(&["eval"]).status.code(), Some(2));
    assert!(stdout(&["--version"]).starts_with("micota "));
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]);
        for word in ["eval", "compare", "apply_chat_template"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(micota(&["completions"]).status.code(), Some(2));
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    stdout(&["completions", "--man", pages.to_str().unwrap()]);
    let page = std::fs::read_to_string(pages.join("micota-eval.1")).unwrap();
    assert!(
        page.contains(".TH micota-eval 1") && page.contains("gen_kwargs"),
        "{page}"
    );
    assert!(pages.join("micota.1").exists());
}

#[test]
fn the_doctor_looks_at_a_model() {
    let text = stdout(&["doctor", "--model", "demo/model"]);
    for part in [
        "kernels",
        "854,144 parameters",
        "sequences of 1,024",
        "MICOTA_DATA",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        !text.contains("of 2,048"),
        "longer than the context: {text}"
    );
    // What stands above is the machine, whose free memory changes; what stands below follows from a
    // measurement of its speed.
    let model = |text: &str| {
        let (_, model) = text.split_once("\n\n").unwrap();
        model.lines().take(5).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(model(&text), model(&stdout(&["doctor", "demo/model"])));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    use std::process::Stdio;
    let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["inspect", "demo/model", "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{output:?}");
}
