//! Conversion to GGUF against the listings of llama.cpp's converter (`golden/gguf`), and back.

use std::path::Path;

use micota::convert::{Converted, GgufOptions, OutType, to_gguf};
use micota::formats::{Checkpoint, GgufSplit, GgufValue, Source};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::gguf_listings::pairs;
use crate::shared::shared;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn convert(source: &Path, target: &Path, out_type: OutType, split: GgufSplit) -> Converted {
    let options = GgufOptions {
        outfile: Some(target.to_owned()),
        out_type,
        split,
        ..GgufOptions::default()
    };
    let checkpoint = Checkpoint::open(source).unwrap();
    to_gguf(&checkpoint, &options, &|_| {}).unwrap()
}

fn metadata(checkpoint: &Checkpoint) -> Vec<(String, GgufValue)> {
    let Source::Gguf(metadata) = checkpoint.source() else {
        panic!("a GGUF file");
    };
    metadata
        .pairs()
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
}

#[test]
fn every_listing_is_repeated_to_the_byte() {
    let Some(shared) = shared() else { return };
    let golden = shared.join("golden");
    let folder = tempfile::tempdir().unwrap();
    let mut listings = 0;
    let mut whole_files = 0;
    for entry in std::fs::read_dir(golden.join("gguf")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let stem = name.strip_suffix(".json").unwrap_or_default();
        let Some((model, out_type)) = stem.rsplit_once('.') else {
            continue;
        };
        let listing: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let target = folder.path().join(format!("{stem}.gguf"));
        let source = golden.join("tiny").join(model);
        convert(
            &source,
            &target,
            out_type.parse().unwrap(),
            GgufSplit::default(),
        );

        let checkpoint = Checkpoint::open(&target).unwrap();
        // Names and labels inform only.
        let counts = |pairs: Vec<(String, GgufValue)>| -> Vec<_> {
            let informs = ["general.name", "general.size_label"];
            pairs
                .into_iter()
                .filter(|(key, _)| !informs.contains(&key.as_str()))
                .collect()
        };
        let (found, expected) = (counts(metadata(&checkpoint)), counts(pairs(&listing)));
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(found.len(), expected.len(), "{name}");

        let expected = listing["tensors"].as_array().unwrap();
        let tensors: Vec<_> = checkpoint.tensors().collect();
        assert_eq!(tensors.len(), expected.len(), "{name}");
        for (tensor, expected) in tensors.iter().zip(expected) {
            let of = format!("{name}: {}", tensor.name);
            assert_eq!(tensor.name, expected["name"].as_str().unwrap(), "{name}");
            assert_eq!(
                tensor.dtype.name(),
                expected["type"].as_str().unwrap(),
                "{of}"
            );
            let mut dims: Vec<usize> = serde_json::from_value(expected["dims"].clone()).unwrap();
            dims.reverse();
            assert_eq!(tensor.shape, dims, "{of}");
            assert_eq!(
                sha256(tensor.data),
                expected["sha256"].as_str().unwrap(),
                "{of}"
            );
        }
        listings += 1;
        let whole = sha256(&std::fs::read(&target).unwrap());
        whole_files += usize::from(whole == listing["file_sha256"].as_str().unwrap());
    }
    assert_eq!(listings, 36, "nine models in four types");
    eprintln!("{whole_files} of {listings} files are equal as a whole");
}
