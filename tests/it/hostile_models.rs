//! Model files that lie, are cut short or are no model: each a named error, never a panic.

use std::path::{Path, PathBuf};

use micota::formats::{
    Checkpoint, DType, FormatError, GgufArray, GgufFault, GgufSplit, GgufValue, GgufWriter,
    PlannedTensor, SafetensorsFault, SafetensorsFile, Tokenizer,
};
use proptest::prelude::*;

fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A safetensors file with this header and that many bytes of data.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

fn safetensors_fault(bytes: &[u8]) -> SafetensorsFault {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path(), "a.safetensors", bytes);
    match SafetensorsFile::open(&path) {
        Err(FormatError::Safetensors { fault, .. }) => fault,
        other => panic!("{:?}", other.map(|_| "opened")),
    }
}

#[test]
fn safetensors_attacks_have_names() {
    use SafetensorsFault as Fault;
    let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert!(matches!(
        safetensors_fault(&[1, 2]),
        Fault::TooSmall { found: 2 }
    ));
    assert!(matches!(
        safetensors_fault(&u64::MAX.to_le_bytes()),
        Fault::HeaderTooLarge { .. }
    ));
    let whole = safetensors(one, 8);
    assert!(matches!(
        safetensors_fault(&whole[..30]),
        Fault::HeaderTruncated { .. }
    ));
    assert!(matches!(
        safetensors_fault(&whole[..whole.len() - 1]),
        Fault::WrongDataSize {
            expected: 8,
            found: 7
        }
    ));
    assert!(matches!(
        safetensors_fault(&safetensors(one, 9)),
        Fault::WrongDataSize {
            expected: 8,
            found: 9
        }
    ));
    let fault = |header: &str, data| safetensors_fault(&safetensors(header, data));
    assert!(matches!(fault("[]", 0), Fault::HeaderJson(_)));
    assert!(matches!(fault("{\"a\":", 0), Fault::HeaderJson(_)));
    assert!(matches!(
        fault(r#"{"__metadata__":{"a":1}}"#, 0),
        Fault::HeaderJson(_)
    ));
    assert!(matches!(fault(r#"{"a":{}}"#, 0), Fault::Entry { .. }));
    assert!(matches!(
        fault(
            r#"{"a":{"dtype":"F99","shape":[],"data_offsets":[0,4]}}"#,
            4
        ),
        Fault::UnknownDType { .. }
    ));
    assert!(matches!(
        fault(
            r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
            8
        ),
        Fault::WrongSize {
            expected: 12,
            found: 8,
            ..
        }
    ));
    assert!(matches!(
        fault(
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}"#,
            8
        ),
        Fault::Entry { .. }
    ));
    let overflow = r#"{"a":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,4]}}"#;
    assert!(matches!(fault(overflow, 4), Fault::Entry { .. }));
    let hole = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
        "b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#;
    assert!(matches!(
        fault(hole, 3),
        Fault::HoleOrOverlap {
            expected: 1,
            found: 2,
            ..
        }
    ));
    let overlap = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
        "b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
    assert!(matches!(fault(overlap, 3), Fault::HoleOrOverlap { .. }));
}

const TENSOR_A: &str = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;

fn error_of(path: &Path) -> String {
    Checkpoint::open(path).unwrap_err().to_string()
}

#[test]
fn folders_that_are_not_whole_say_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(error_of(&path.join("nowhere")).contains("nowhere"));
    assert!(error_of(path).contains("no config.json and no *.gguf"));
    put(path, "config.json", b"{ not json");
    assert!(error_of(path).contains("line 1 column"));
    put(path, "config.json", b"[]");
    assert!(error_of(path).contains("expected a JSON object"));
    put(path, "config.json", b"{}");
    assert!(error_of(path).contains("no *.safetensors"));

    let index = |map: &str| format!(r#"{{"weight_map":{map}}}"#);
    let write = |map: &str| {
        put(path, "model.safetensors.index.json", index(map).as_bytes());
    };
    write(r#"{"a":"one.safetensors","b":"two.safetensors"}"#);
    put(path, "one.safetensors", &safetensors(TENSOR_A, 1));
    assert!(
        error_of(path).contains("two.safetensors is missing"),
        "{}",
        error_of(path)
    );
    put(path, "two.safetensors", &safetensors(TENSOR_A, 1));
    assert!(error_of(path).contains("tensor a occurs twice"));
    put(
        path,
        "two.safetensors",
        &safetensors(&TENSOR_A.replace("\"a\"", "\"c\""), 1),
    );
    assert!(error_of(path).contains("places tensor b in two.safetensors"));
    put(
        path,
        "two.safetensors",
        &safetensors(&TENSOR_A.replace("\"a\"", "\"b\""), 1)[..20],
    );
    assert!(error_of(path).contains("two.safetensors: header of"));
    write(r#"{"a":"../elsewhere.safetensors"}"#);
    assert!(error_of(path).contains("outside the folder"));
    write("{}");
    assert!(error_of(path).contains("weight_map is empty"));
    write("3");
    assert!(error_of(path).contains("no weight_map"));

    std::fs::remove_file(path.join("model.safetensors.index.json")).unwrap();
    std::fs::remove_file(path.join("two.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(path).unwrap();
    assert_eq!(checkpoint.tensor_names().collect::<Vec<_>>(), ["a"]);
    let error = Tokenizer::from_checkpoint(&checkpoint)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no tokenizer.json"), "{error}");
    put(path, "tokenizer.json", b"{}");
    assert!(Tokenizer::from_checkpoint(&checkpoint).is_err());
}

/// A small valid GGUF file.
pub(crate) fn gguf() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let pairs = [
        ("general.architecture", GgufValue::String("qwen2".into())),
        ("some.number", GgufValue::U32(7)),
        (
            "some.list",
            GgufValue::Array(GgufArray::String(vec!["x".into(), "yz".into()])),
        ),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    let tensors = [
        ("first", DType::F32, vec![2, 3]),
        ("second", DType::Q8_0, vec![1, 32]),
    ]
    .map(|(name, dtype, shape)| PlannedTensor {
        name: name.to_owned(),
        dtype,
        shape,
    })
    .to_vec();
    let writer = GgufWriter::create(&path, &pairs, tensors, GgufSplit::default()).unwrap();
    writer.write_at("second", 0, &[3; 34]).unwrap();
    writer.write_at("first", 0, &[1; 24]).unwrap();
    writer.finish().unwrap();
    std::fs::read(path).unwrap()
}

/// A header without tensors whose one key has the value given by raw bytes.
fn gguf_with_value(value: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.push(b'k');
    bytes.extend(value);
    bytes
}

fn gguf_fault(bytes: &[u8]) -> GgufFault {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path(), "a.gguf", bytes);
    match Checkpoint::open(&path) {
        Err(FormatError::Gguf { fault, .. }) => fault,
        other => panic!("{:?}", other.map(|_| "opened")),
    }
}

pub(crate) fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = gguf();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// The position just behind `name` in the file.
pub(crate) fn behind(name: &str) -> usize {
    let file = gguf();
    let at = file
        .windows(name.len())
        .position(|window| window == name.as_bytes());
    at.unwrap() + name.len()
}

#[test]
fn gguf_attacks_have_names() {
    use GgufFault as Fault;
    assert!(matches!(gguf_fault(&patched(0, b"PK")), Fault::Magic(_)));
    assert!(matches!(gguf_fault(&[]), Fault::Truncated { .. }));
    assert!(matches!(
        gguf_fault(&patched(4, &9_u32.to_le_bytes())),
        Fault::Version(9)
    ));
    for count_at in [8, 16] {
        let absurd = patched(count_at, &u64::MAX.to_le_bytes());
        assert!(matches!(gguf_fault(&absurd), Fault::Limit { .. }));
        let many = patched(count_at, &60_000_u64.to_le_bytes());
        assert!(matches!(
            gguf_fault(&many),
            Fault::Truncated { .. } | Fault::Limit { .. } | Fault::ValueType { .. }
        ));
    }
    let whole = gguf();
    assert!(matches!(gguf_fault(&whole[..60]), Fault::Truncated { .. }));
    assert!(matches!(
        gguf_fault(&whole[..whole.len() - 40]),
        Fault::OutOfRange { .. }
    ));
    // first: u32 dims, 2 x u64, u32 type, u64 offset
    let first = behind("first");
    assert!(matches!(
        gguf_fault(&patched(first, &9_u32.to_le_bytes())),
        Fault::Limit {
            what: "dimension count",
            ..
        }
    ));
    assert!(matches!(
        gguf_fault(&patched(first + 4, &u64::MAX.to_le_bytes())),
        Fault::Shape { .. }
    ));
    assert!(matches!(
        gguf_fault(&patched(first + 20, &777_u32.to_le_bytes())),
        Fault::TensorType { found: 777, .. }
    ));
    assert!(matches!(
        gguf_fault(&patched(first + 24, &5_u64.to_le_bytes())),
        Fault::Misaligned { offset: 5, .. }
    ));
    let far = (u64::MAX - 31).to_le_bytes();
    assert!(matches!(
        gguf_fault(&patched(first + 24, &far)),
        Fault::OutOfRange { .. }
    ));
    let second = behind("second");
    assert!(matches!(
        gguf_fault(&patched(second + 24, &0_u64.to_le_bytes())),
        Fault::Overlap { .. }
    ));
    assert!(matches!(
        gguf_fault(&patched(second + 4, &31_u64.to_le_bytes())),
        Fault::Shape { .. }
    ));
}

#[test]
fn gguf_values_are_checked() {
    use GgufFault as Fault;
    let value = |id: u32, payload: &[u8]| {
        let mut bytes = id.to_le_bytes().to_vec();
        bytes.extend(payload);
        gguf_fault(&gguf_with_value(&bytes))
    };
    assert!(matches!(value(13, &[]), Fault::ValueType { found: 13, .. }));
    assert!(matches!(value(7, &[2]), Fault::Bool(2)));
    let string = [2_u64.to_le_bytes().as_slice(), &[0xFF, 0xFE]].concat();
    assert!(matches!(value(8, &string), Fault::Utf8 { .. }));
    assert!(matches!(
        value(8, &u64::MAX.to_le_bytes()),
        Fault::Limit { .. }
    ));
    assert!(matches!(
        value(8, &1000_u64.to_le_bytes()),
        Fault::Truncated { .. }
    ));
    let list = |element: u32, count: u64| {
        [element.to_le_bytes().as_slice(), &count.to_le_bytes()].concat()
    };
    assert!(matches!(value(9, &list(4, u64::MAX)), Fault::Limit { .. }));
    assert!(matches!(
        value(9, &list(4, 1 << 25)),
        Fault::Truncated { .. }
    ));
    let nested: Vec<u8> = std::iter::repeat_n(list(9, 1), 64).flatten().collect();
    assert!(matches!(
        value(9, &nested),
        Fault::Limit {
            what: "array depth",
            ..
        }
    ));
}

#[test]
fn gguf_alignment_is_checked() {
    for (value, expected) in [(0_u32, "is 0"), (3, "is 3"), (1 << 20, "is 1048576")] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let pairs = [("general.alignment".to_owned(), GgufValue::U32(value))];
        let writer = GgufWriter::create(&path, &pairs, Vec::new(), GgufSplit::default());
        writer.unwrap().finish().unwrap();
        assert!(error_of(&path).contains(expected), "{}", error_of(&path));
    }
}

#[test]
fn gguf_tokenizers_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let strings = |values: &[&str]| {
        GgufValue::Array(GgufArray::String(
            values.iter().map(|v| (*v).to_owned()).collect(),
        ))
    };
    let base = || {
        vec![
            (
                "tokenizer.ggml.model".to_owned(),
                GgufValue::String("gpt2".into()),
            ),
            (
                "tokenizer.ggml.pre".to_owned(),
                GgufValue::String("qwen2".into()),
            ),
            (
                "tokenizer.ggml.tokens".to_owned(),
                strings(&["a", "b", "ab"]),
            ),
            ("tokenizer.ggml.merges".to_owned(), strings(&["a b"])),
        ]
    };
    let outcome = |pairs: &[(String, GgufValue)]| {
        let writer = GgufWriter::create(&path, pairs, Vec::new(), GgufSplit::default());
        writer.unwrap().finish().unwrap();
        Tokenizer::from_checkpoint(&Checkpoint::open(&path).unwrap())
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        outcome(&base()).unwrap().encode("abb", true).unwrap(),
        [2, 1]
    );
    let with = |key: &str, value: GgufValue| {
        let mut pairs = base();
        pairs.retain(|(own, _)| own != key);
        pairs.push((key.to_owned(), value));
        outcome(&pairs).unwrap_err()
    };
    let types = GgufValue::Array(GgufArray::I32(vec![1]));
    assert!(with("tokenizer.ggml.token_type", types).contains("1 entries for 3 tokens"));
    assert!(with("tokenizer.ggml.eos_token_id", GgufValue::U32(3)).contains("beyond the 3"));
    assert!(with("tokenizer.ggml.pre", GgufValue::String("x".into())).contains("qwen2"));
    assert!(with("tokenizer.ggml.model", GgufValue::String("x".into())).contains("gpt2"));
    assert!(with("tokenizer.ggml.model", GgufValue::U8(1)).contains("expected a string"));
    assert!(with("tokenizer.ggml.merges", strings(&["ab"])).contains("without a space"));
    assert!(with("tokenizer.ggml.merges", strings(&["a c"])).contains('c'));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let path = put(folder.path(), "a", &bytes);
        let _ = SafetensorsFile::open(&path);
        let _ = Checkpoint::open(&path);
        let behind_magic = [b"GGUF\x03\0\0\0".as_slice(), &bytes].concat();
        let _ = Checkpoint::open(put(folder.path(), "b", &behind_magic));
        let _ = Checkpoint::open(put(folder.path(), "c", &gguf_with_value(&bytes)));
    }

    #[test]
    fn mutations_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        for mut bytes in [gguf(), safetensors(text, 8)] {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                let path = put(folder.path(), "a", bytes);
                if let Ok(checkpoint) = Checkpoint::open(&path) {
                    checkpoint.fingerprint();
                    let _ = Tokenizer::from_checkpoint(&checkpoint);
                }
                if let Ok(file) = SafetensorsFile::open(&path) {
                    file.tensors().for_each(|tensor| assert!(tensor.data.len() <= bytes.len()));
                }
            }
        }
    }
}
