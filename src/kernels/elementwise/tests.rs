//! Every kernel on every instruction set, bit against bit.

use proptest::prelude::*;

use super::*;

const GRIDS: [Rounding; 4] = [Rounding::None, Rounding::Bf16, Rounding::F16, Rounding::F32];
const TYPES: [FloatType; 4] = [
    FloatType::Bf16,
    FloatType::F16,
    FloatType::F32,
    FloatType::F64,
];

/// The bits of everything that a list of operands can give. All NaNs are one: which of two
/// payloads an operation keeps is left open by IEEE 754.
fn outcomes<F: Elementwise>(isa: Isa, a: &[F], b: &[F]) -> Vec<u64> {
    let mut bits = Vec::new();
    let mut seen = |values: &[F]| {
        bits.extend(values.iter().map(|x| match x.to_f64() {
            x if x.is_nan() => u64::MAX,
            x => x.to_bits(),
        }));
    };
    let factor = F::from_f64(0.3);
    let flags: Vec<u8> = a
        .iter()
        .map(|x| (x.to_f32().to_bits() >> 30) as u8)
        .collect();
    let mut with = |act: &dyn Fn(&mut Vec<F>)| {
        let mut out = a.to_vec();
        act(&mut out);
        seen(&out);
    };
    for r in GRIDS {
        with(&|out| F::round(isa, r, out));
        with(&|out| F::accumulate(isa, r, out, b));
        with(&|out| F::subtract(isa, r, out, b));
        with(&|out| F::scale(isa, r, out, factor));
        with(&|out| F::divide(isa, r, out, factor));
        with(&|out| F::divide_by(isa, r, out, b));
        with(&|out| F::blend(isa, r, out, b, factor, F::ONE));
    }
    with(&|out| F::add_scaled(isa, out, b, factor));
    with(&|out| F::add_scaled_fused(isa, out, b, factor));
    with(&|out| F::keep_flagged(isa, out, &flags));
    for bound in [0, b[0].magnitude(), u64::MAX] {
        with(&|out| F::keep_large(isa, out, bound, true));
        with(&|out| F::keep_large(isa, out, bound, false));
    }
    let vectors = [a.to_vec(), b.to_vec(), a.iter().map(|x| -*x).collect()];
    let (mut mix, mut div) = (a.to_vec(), a.to_vec());
    let weights = [factor, F::ONE, factor + factor];
    F::elect(isa, &vectors, &weights, &mut mix, &mut div);
    seen(&mix);
    seen(&div);
    for stored in TYPES {
        let mut bytes = vec![0; a.len() * stored.bytes()];
        F::store(isa, a, stored, &mut bytes);
        for r in GRIDS {
            let mut out = a.to_vec();
            F::load(isa, &bytes, stored, r, &mut out);
            seen(&out);
        }
    }
    let (largest, changed) = F::extent(isa, a);
    seen(&[largest]);
    for sum in [F::sum_of_magnitudes(isa, a), F::sum_of_products(isa, a, b)] {
        bits.push(if sum.is_nan() {
            u64::MAX
        } else {
            sum.to_bits()
        });
    }
    bits.push(changed as u64);
    bits.push(u64::from(F::count_magnitude(isa, a, b[0].magnitude())));
    bits
}

fn agree<F: Elementwise>(a: &[F], b: &[F]) {
    let portable = outcomes("portable".parse().unwrap(), a, b);
    for isa in Isa::available() {
        assert!(outcomes(isa, a, b) == portable, "{isa}");
    }
}

proptest! {
    #[test]
    fn every_instruction_set_gives_the_same_bits(
        pairs in prop::collection::vec((any::<u32>(), any::<u32>(), -3.0_f32..3.0), 1..200),
    ) {
        // Any bits at all, and ordinary numbers with equals among them.
        let wild: Vec<(f32, f32)> = pairs
            .iter()
            .map(|(a, b, _)| (f32::from_bits(*a), f32::from_bits(*b)))
            .collect();
        let tame: Vec<(f32, f32)> = pairs
            .iter()
            .map(|(a, _, x)| (*x, if a % 3 == 0 { *x } else { x * 0.7 }))
            .collect();
        for operands in [wild, tame] {
            let (a, b): (Vec<f32>, Vec<f32>) = operands.into_iter().unzip();
            agree(&a, &b);
            let wide = |values: &[f32]| -> Vec<f64> {
                values.iter().map(|x| f64::from(*x) * 1.000_000_1).collect()
            };
            agree(&wide(&a), &wide(&b));
        }
    }
}

#[test]
fn the_fused_product_is_rounded_once() {
    let (a, b) = (1.0 + f32::EPSILON, 1.0 - f32::EPSILON);
    for isa in Isa::available() {
        let mut sum = [-1.0_f32; 33];
        f32::add_scaled_fused(isa, &mut sum, &[a; 33], b);
        assert_eq!(sum, [-f32::EPSILON * f32::EPSILON; 33], "{isa}");
        let mut sum = [-1.0_f32; 33];
        f32::add_scaled(isa, &mut sum, &[a; 33], b);
        assert_eq!(sum, [0.0; 33], "{isa}");
    }
}

#[test]
fn an_election_takes_what_agrees_with_the_sum() {
    let vectors = [vec![2.0_f32, -1.0, 0.0, 1.0], vec![-1.0, -2.0, -3.0, -1.0]];
    let (mut mix, mut div) = ([0.0; 4], [0.0; 4]);
    let isa = Isa::detect();
    f32::elect(isa, &vectors, &[0.5, 0.25], &mut mix, &mut div);
    // A sum of zero counts as plus.
    assert_eq!(mix, [2.0, -3.0, -3.0, 1.0]);
    assert_eq!(div, [0.5, 0.75, 0.25, 0.5]);
}
