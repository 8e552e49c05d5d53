//! Answers graded per second on one core: the reference's rule, extraction, and the symbolic grader
//! by what its decision needs.

#![allow(
    missing_docs,
    reason = "the macros of criterion make functions without documentation"
)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use micota::grade::boxed::{self, Variant};
use micota::grade::symbolic::{AnswerStyle, Gold, equal, grade};

/// Gold and answer by the method that decides them.
const PAIRS: [(&str, &[(&str, &str)]); 4] = [
    (
        "short",
        &[
            ("204", "204"),
            ("27.0", "27"),
            (r"\frac{1}{2}", "0.5"),
            ("025", "24"),
            ("-3", r"-\dfrac{6}{2}"),
        ],
    ),
    (
        "normal_forms",
        &[
            (r"2\sqrt{13}", r"\sqrt{52}"),
            ("x^2-1", "(x-1)(x+1)"),
            (r"\frac{1}{\sqrt2-1}", r"\sqrt2+1"),
        ],
    ),
    (
        "collections",
        &[
            (r"(3,\infty)\cup(-\infty,1)", r"x<1 \text{ or } x>3"),
            (r"\{-2,1-\sqrt5,1+\sqrt5\}", r"1\pm\sqrt5, -2"),
        ],
    ),
    (
        "evaluation",
        &[
            (r"\cos 36^\circ", r"\frac{1+\sqrt5}{4}"),
            (r"\sin 2x", r"2\sin x\cos x"),
            (r"e^{\pi\sqrt{163}}", "262537412640768744"),
        ],
    ),
];

/// A response of some thousand characters, as long as a reasoned answer.
fn response() -> String {
    let step = "Next, we add $3x + 4$ to both sides, so that $\\frac{x}{2} = 7$ follows. ";
    format!(
        "{}Final Answer: \\boxed{{\\frac{{14}}{{28}}}}.",
        step.repeat(40)
    )
}

fn graders(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("symbolic");
    for (name, pairs) in PAIRS {
        group.throughput(Throughput::Elements(pairs.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for (gold, answer) in pairs {
                    black_box(equal(answer, &Gold::new(gold)));
                }
            });
        });
    }
    group.finish();
    let response = response();
    let mut group = criterion.benchmark_group("response");
    group.throughput(Throughput::Bytes(response.len() as u64));
    group.bench_function("legacy", |bencher| {
        bencher.iter(|| black_box(boxed::grade(&response, "1/2", Variant::Plain)));
    });
    group.bench_function("symbolic", |bencher| {
        bencher.iter(|| black_box(grade(&response, "1/2", AnswerStyle::Boxed)));
    });
    group.finish();
}

criterion_group!(benches, graders);
criterion_main!(benches);
