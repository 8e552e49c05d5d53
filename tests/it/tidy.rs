//! The rules of style that a machine can check: which room imports which, and leftovers.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

/// Each room and the rooms of this crate that it may name. `cli` may name all.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "eval",
        &["task", "grade", "engine", "durable", "random", "rows"],
    ),
    ("task", &["durable", "hub", "random", "rows", "yaml"]),
    ("grade", &["random"]),
    ("engine", &["model", "kernels", "formats", "random"]),
    ("model", &["kernels", "formats"]),
    ("convert", &["formats", "kernels", "durable"]),
    (
        "merge",
        &["formats", "kernels", "durable", "random", "yaml"],
    ),
    (
        "train",
        &[
            "model", "formats", "kernels", "task", "durable", "random", "rows",
        ],
    ),
    ("data", &["random"]),
    ("formats", &["durable"]),
    ("kernels", &[]),
    ("hub", &["durable"]),
    ("durable", &[]),
    ("random", &["kernels"]),
    ("rows", &[]),
    ("yaml", &[]),
];

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

static IMPORT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\bcrate::(\{[^}]*\}|\w+)").unwrap());
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+").unwrap());

/// The room names that follow `crate::` in a line, grouped imports included.
fn rooms_named(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for found in IMPORT.captures_iter(text) {
        let named = &found[1];
        if let Some(group) = named.strip_prefix('{') {
            rooms.extend(
                group
                    .split(',')
                    .filter_map(|p| WORD.find(p))
                    .map(|m| m.as_str().to_owned()),
            );
        } else {
            rooms.push(named.to_owned());
        }
    }
    rooms
}

#[test]
fn rooms_import_only_what_stands_below_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut offences = Vec::new();
    for (room, allowed) in LAYERS {
        let folder = source.join(room);
        if !folder.is_dir() {
            continue;
        }
        let mut files = Vec::new();
        rust_files(&folder, &mut files);
        for file in files {
            for (number, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
                if line.trim_start().starts_with("//") {
                    continue;
                }
                for named in rooms_named(line) {
                    let is_room = LAYERS.iter().any(|(name, _)| *name == named) || named == "cli";
                    if is_room && named != *room && !allowed.contains(&named.as_str()) {
                        let place = file.strip_prefix(&source).unwrap().display();
                        offences.push(format!("src/{place}:{}: {room} -> {named}", number + 1));
                    }
                }
            }
        }
    }
    assert!(
        offences.is_empty(),
        "imports against the layers:\n{}",
        offences.join("\n")
    );
}

#[test]
fn the_layer_table_covers_every_room() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let known = ["lib", "bin", "cli"].contains(&name.as_str())
            || LAYERS.iter().any(|(room, _)| *room == name);
        assert!(
            known,
            "src/{name} is not in the layer table of tests/it/tidy.rs"
        );
    }
}

#[test]
fn no_drawer_without_a_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    rust_files(&root.join("tests"), &mut files);
    for file in files {
        let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
        let vague = ["utils", "util", "helpers", "helper", "common", "misc"];
        assert!(
            !vague.contains(&stem.as_str()),
            "{}: name the concept",
            file.display()
        );
    }
}
