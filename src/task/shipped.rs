//! The tasks that the program carries: `tasks/NAME/task.yaml` of the repository, compiled in.
//!
//! A file under `--include_path` with the same task name takes the place of one of these. The list
//! is kept honest by a test that compares it with the folder.

macro_rules! shipped {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tasks/",
                $name,
                "/task.yaml"
            )),
        )
    };
}

/// Task or group name (as the folder's) and the text of its file.
pub(super) const SHIPPED: [(&str, &str); 16] = [
    shipped!("AIME"),
    shipped!("AMC"),
    shipped!("Olympiad"),
    shipped!("aime24"),
    shipped!("aime25"),
    shipped!("demo-arith"),
    shipped!("gsm8k"),
    shipped!("gsm8k_cot"),
    shipped!("gsm8k_cot_self_consistency"),
    shipped!("gsm8k_cot_zeroshot"),
    shipped!("gsm8k_cot_zeroshot_upstream"),
    shipped!("hendrycks_math500"),
    shipped!("hendrycks_math_500"),
    shipped!("micota"),
    shipped!("minerva_math500"),
    shipped!("svamp"),
];

/// Other names of shipped tasks: what people type, and what results call it.
pub(super) const ALIASES: [(&str, &str); 1] = [
    // The seed's command line names a task that was published nowhere; this is the only zero-shot
    // GSM8K task that its repositories point at.
    ("gsm8k_zero", "gsm8k_cot_zeroshot"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tasks");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        found.sort();
        let listed: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
        assert_eq!(found, listed);
        for (name, _) in SHIPPED {
            let readme = std::fs::read_to_string(format!("{folder}/{name}/README.md"));
            let readme = readme.unwrap_or_else(|e| panic!("tasks/{name}/README.md: {e}"));
            for part in ["Version", "## Prompt", "## Data", "## Changes"] {
                assert!(readme.contains(part), "tasks/{name}/README.md lacks {part}");
            }
        }
    }
}
