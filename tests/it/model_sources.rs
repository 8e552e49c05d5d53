//! Commands on every form that a model comes in: a folder, a GGUF file, an adapter with its base.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::shared::shared;

fn micota(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_micota"))
        .args(args)
        .current_dir(folder)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap()
}

fn done(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn fingerprint(folder: &Path, model: &str) -> String {
    let text = done(micota(
        folder,
        &["inspect", model, "--json", "--no-tensors"],
    ));
    let report: Value = serde_json::from_str(&text).unwrap();
    report["fingerprint"].as_str().unwrap().to_owned()
}

/// What `micota generate` answers, all of it.
fn answer(folder: &Path, model: &str) -> String {
    std::fs::write(folder.join("in.jsonl"), "{\"prompt\": \"one and one\"}\n").unwrap();
    let _ = std::fs::remove_file(folder.join("out.jsonl"));
    let flags = [
        "--prompts",
        "in.jsonl",
        "--out",
        "out.jsonl",
        "--max_gen_toks",
        "12",
    ];
    let engine = ["--dtype", "f32", "--threads", "1", "--kv-memory", "16MiB"];
    let mut args = vec!["generate", "--model", model];
    args.extend(flags);
    args.extend(engine);
    done(micota(folder, &args));
    let line = std::fs::read_to_string(folder.join("out.jsonl")).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    line["outputs"].to_string()
}

#[test]
fn an_adapter_is_folded_into_its_base_for_any_command() {
    let Some(shared) = shared() else { return };
    let tiny = shared.join("golden/tiny");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| tiny.join(name).display().to_string();
    let both = format!("{}+{}", path("q2t-base"), path("q2t-lora"));

    let recipe = format!("merge_method: passthrough\nmodels: [{{model: \"{both}\"}}]\n");
    std::fs::write(folder.path().join("recipe.yml"), recipe).unwrap();
    done(micota(folder.path(), &["merge", "recipe.yml", "merged"]));
    let merged = fingerprint(folder.path(), "merged");
    assert_ne!(merged, fingerprint(folder.path(), &path("q2t-base")));
    let expected = answer(folder.path(), "merged");
    assert_eq!(answer(folder.path(), &both), expected);

    // The adapter's folder alone, whose configuration names its base.
    let own = folder.path().join("own");
    std::fs::create_dir(&own).unwrap();
    for entry in std::fs::read_dir(tiny.join("q2t-lora")).unwrap() {
        let entry = entry.unwrap();
        let text = std::fs::read(entry.path()).unwrap();
        std::fs::write(own.join(entry.file_name()), text).unwrap();
    }
    let config = std::fs::read_to_string(own.join("adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["base_model_name_or_path"] = path("q2t-base").into();
    std::fs::write(own.join("adapter_config.json"), config.to_string()).unwrap();
    assert_eq!(answer(folder.path(), "own"), expected);

    // Over a GGUF file, and on to GGUF.
    done(micota(
        folder.path(),
        &[
            "convert",
            &path("q2t-base"),
            "--outfile",
            "base.gguf",
            "--verify",
        ],
    ));
    let over_gguf = format!("base.gguf+{}", path("q2t-lora"));
    assert_eq!(answer(folder.path(), &over_gguf), expected);
    let refused = micota(folder.path(), &["convert", &both]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--outfile"));
    let flags = ["--outtype", "f32", "--outfile", "both.gguf", "--verify"];
    done(micota(
        folder.path(),
        &[&["convert", both.as_str()], &flags[..]].concat(),
    ));
    assert_eq!(answer(folder.path(), "both.gguf"), expected);

    // A GGUF file among the models of a merge.
    let recipe = "merge_method: passthrough\nmodels: [{model: both.gguf}]\ndtype: float32\n";
    std::fs::write(folder.path().join("recipe.yml"), recipe).unwrap();
    done(micota(folder.path(), &["merge", "recipe.yml", "from-gguf"]));
    assert_eq!(answer(folder.path(), "from-gguf"), expected);
}

#[test]
fn every_family_is_verified_both_ways() {
    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "q2t-base",
        "q3",
        "ll3-math-sharded",
        "mistral",
        "gemma3",
        "phi3",
    ] {
        let source = shared.join("golden/tiny").join(name).display().to_string();
        let file = format!("{name}.gguf");
        let text = done(micota(
            folder.path(),
            &[
                "convert",
                &source,
                "--outfile",
                &file,
                "--outtype",
                "bf16",
                "--verify",
                "--json",
            ],
        ));
        let result: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            result["verify"]["agrees"], true,
            "{name}: {}",
            result["verify"]
        );
        assert!(
            result["verify"]["relative_difference"].as_f64().unwrap() < 1e-4,
            "{name}"
        );
        let text = done(micota(
            folder.path(),
            &[
                "convert",
                &file,
                "--to",
                "hf",
                "--outfile",
                name,
                "--verify",
                "--json",
            ],
        ));
        let result: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            result["verify"]["agrees"], true,
            "{name}: {}",
            result["verify"]
        );
        let text = done(micota(
            folder.path(),
            &[
                "convert",
                name,
                "--outtype",
                "q8_0",
                "--outfile",
                "q8.gguf",
                "--verify",
            ],
        ));
        assert!(text.contains("verify: agrees"), "{name}: {text}");
    }
}
