//! Which files of a hub data set hold a split.
//!
//! The hub names files freely; these are the conventions that data sets follow:
//! `main/test-00000-of-00001.parquet`, `data/train.jsonl`, `test.json`, `aime2025-I.jsonl`.

/// Words by which file names say their split.
const SPLIT_WORDS: [&str; 6] = ["train", "test", "validation", "valid", "val", "dev"];

/// The files of `split` in configuration `config` (`None` or `default`: the only one), in order;
/// or a sentence that says why none can be told.
pub(super) fn choose(
    files: &[String],
    config: Option<&str>,
    split: &str,
) -> Result<Vec<String>, String> {
    let of = |extension: &str| -> Vec<&String> {
        files
            .iter()
            .filter(|file| has_extension(file, extension))
            .collect()
    };
    let rows: Vec<&String> = ["parquet", "jsonl", "json"]
        .into_iter()
        .map(of)
        .find(|rows| !rows.is_empty())
        .ok_or_else(|| "it has no parquet, jsonl or json files".to_owned())?;
    let config = config.filter(|config| *config != "default");
    let of_config = |config: &str| -> Vec<&String> {
        let wanted = words(config);
        let matches = rows.iter().filter(|file| holds(&words(file), &wanted));
        matches.copied().collect()
    };
    let rows = match config {
        None => rows,
        Some(config) => match of_config(config) {
            // One file set without any name of a configuration is the only configuration.
            none if none.is_empty() && rows.len() == 1 => rows,
            none if none.is_empty() => {
                return Err(format!(
                    "none of its files is of configuration {config}: {}",
                    shown(&rows)
                ));
            }
            some => some,
        },
    };
    let split_of = |file: &str| -> Option<String> {
        let words = words(file);
        let found = words
            .into_iter()
            .rev()
            .find(|word| SPLIT_WORDS.contains(&word.as_str()));
        found.map(|word| match word.as_str() {
            "valid" | "val" | "dev" => "validation".to_owned(),
            _ => word,
        })
    };
    let named: Vec<&String> = rows
        .iter()
        .filter(|file| split_of(file).as_deref() == Some(split))
        .copied()
        .collect();
    let unnamed = rows.iter().all(|file| split_of(file).is_none());
    let chosen = if named.is_empty() && unnamed {
        rows.clone()
    } else {
        named
    };
    if chosen.is_empty() {
        return Err(format!(
            "none of its files is of split {split}: {}",
            shown(&rows)
        ));
    }
    Ok(chosen.into_iter().cloned().collect())
}

fn has_extension(file: &str, extension: &str) -> bool {
    // Not data: descriptions that older data sets carry.
    let name = file.rsplit('/').next().unwrap_or(file);
    file.to_lowercase().ends_with(&format!(".{extension}"))
        && !["dataset_infos.json", "dataset_info.json", "config.json"].contains(&name)
}

/// The words of a path in lower case: what stands between `/ - _ .` and the like.
fn words(path: &str) -> Vec<String> {
    path.to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Whether `wanted` stands in `words` as a run: `I` is not part of `II`.
fn holds(words: &[String], wanted: &[String]) -> bool {
    !wanted.is_empty() && words.windows(wanted.len()).any(|run| run == wanted)
}

fn shown(files: &[&String]) -> String {
    let names: Vec<&str> = files.iter().take(8).map(|file| file.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], config: Option<&str>, split: &str) -> Result<Vec<String>, String> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        choose(&files, config, split)
    }

    #[test]
    fn published_layouts_are_understood() {
        let gsm8k = [
            "README.md",
            "main/test-00000-of-00001.parquet",
            "main/train-00000-of-00001.parquet",
            "socratic/test-00000-of-00001.parquet",
        ];
        for (files, config, split, expected) in [
            (&gsm8k[..], Some("main"), "test", &gsm8k[1..2]),
            (
                &["README.md", "test.jsonl"],
                Some("default"),
                "test",
                &["test.jsonl"],
            ),
            (
                &["data/train-00000-of-00001.parquet"],
                None,
                "train",
                &["data/train-00000-of-00001.parquet"],
            ),
            (
                &["aime2025-I.jsonl", "aime2025-II.jsonl"],
                Some("AIME2025-I"),
                "test",
                &["aime2025-I.jsonl"],
            ),
            (
                &["aime2025-I.jsonl", "aime2025-II.jsonl"],
                Some("AIME2025-II"),
                "test",
                &["aime2025-II.jsonl"],
            ),
            (
                &[
                    "OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",
                    "TP_TO_maths_en_COMP/TP_TO_maths_en_COMP.parquet",
                ],
                Some("OE_TO_maths_en_COMP"),
                "train",
                &["OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet"],
            ),
            (
                &["aime_2024_problems.parquet"],
                None,
                "train",
                &["aime_2024_problems.parquet"],
            ),
            (
                &[
                    "data/train-00000-of-00002.parquet",
                    "data/train-00001-of-00002.parquet",
                    "data/test.parquet",
                ],
                None,
                "train",
                &[
                    "data/train-00000-of-00002.parquet",
                    "data/train-00001-of-00002.parquet",
                ],
            ),
            (
                &["dev.jsonl", "test.jsonl", "x.json"],
                None,
                "validation",
                &["dev.jsonl"],
            ),
        ] {
            assert_eq!(chosen(files, config, split).unwrap(), expected, "{files:?}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_said() {
        assert!(
            chosen(&["a.py"], None, "test")
                .unwrap_err()
                .contains("parquet")
        );
        assert!(
            chosen(&["train.jsonl", "dev.jsonl"], None, "test")
                .unwrap_err()
                .contains("split test")
        );
        let error = chosen(&["a/test.jsonl", "b/test.jsonl"], Some("c"), "test").unwrap_err();
        assert!(error.contains("configuration c"), "{error}");
    }
}
