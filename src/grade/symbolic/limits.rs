//! Every bound of the symbolic grader in one place. They are counts, never clocks: the same input
//! gives the same verdict on any machine. Exceeding one is a verdict ([`super::Outcome::OverLimit`]
//! for the first four, the next weaker method for the others), never an error.

/// Bytes of an answer. The longest gold of the known benchmarks has about 250; a megabyte of
/// braces is not an answer.
pub(super) const MAX_ANSWER_BYTES: usize = 8_192;
/// Tokens of an answer.
pub(super) const MAX_TOKENS: usize = 2_048;
/// Nesting of groups, fractions and functions. The parser recurses, so this bounds its stack.
pub(super) const MAX_DEPTH: usize = 48;
/// Steps of the decision: one per node formed or pair compared, and as many as the next three say
/// for what takes longer. A step is a few tenths of a microsecond, all of them some 50 milliseconds.
pub(super) const MAX_STEPS: usize = 200_000;
/// Steps of one term of a product or sum of polynomials.
pub(super) const STEPS_PER_TERM: usize = 4;
/// Steps of one function or power at one point.
pub(super) const STEPS_PER_FUNCTION: usize = 48;
/// Other points that a point with many bits costs as much as.
pub(super) const STEPS_OF_SHARP_POINT: usize = 4;

/// Digits of one number literal.
pub(super) const MAX_LITERAL_DIGITS: usize = 4_096;
/// Bits of an exact integer. 1000! has 8,530 bits, a literal of 4,096 digits 13,607.
pub(super) const MAX_INTEGER_BITS: u64 = 16_384;
/// The largest n whose factorial is multiplied out.
pub(super) const MAX_FACTORIAL: u32 = 1_000;
/// The largest integer power to which a sum of several terms is multiplied out.
pub(super) const MAX_EXPANSION: u32 = 24;
/// Terms of one polynomial.
pub(super) const MAX_TERMS: usize = 512;
/// Trial divisors when an integer is split into primes. A cofactor without a smaller divisor is
/// kept whole, which costs a normal form, never a wrong verdict.
pub(super) const MAX_TRIAL_DIVISOR: u32 = 2_000;
/// Elements of a list, set or tuple that are compared without order.
pub(super) const MAX_UNORDERED: usize = 128;
/// Values that `\pm` signs may expand to.
pub(super) const MAX_SIGN_CHOICES: usize = 16;
/// Boxes, phrases and numbers that are looked at in one response; the last ones count.
pub(super) const MAX_CANDIDATES: usize = 64;
/// Bytes at the end of a response in which mathematics or a number without any other mark is
/// looked for.
pub(super) const TAIL_BYTES: usize = 65_536;

/// Pseudo-random points at which two expressions with variables are compared.
pub(super) const SAMPLE_POINTS: u64 = 12;
/// Points where variables are whole numbers: a prime, so that each takes all values from 1 to it.
pub(super) const INTEGER_POINTS: u64 = 41;
/// Points at which both sides must have a value before agreement means equality.
pub(super) const MIN_AGREEING_POINTS: usize = 4;
/// Bits with which every point is tried: most differences show at once.
pub(super) const FEW_BITS: u64 = 96;
/// Bits with which agreement is confirmed, 154 decimal places: near-equal constants such as
/// e^(pi sqrt 163) and its nearest integer part after thirty.
pub(super) const MANY_BITS: u64 = 512;
/// Points at which agreement is confirmed with many bits.
pub(super) const SHARP_POINTS: usize = 2;
/// Bits of agreement behind the point that count as such at a sharp point: wider bounds decide
/// nothing, so that 200! and 200! + sin 1 are not the same.
pub(super) const KNOWN_BITS: u64 = 64;
/// The largest factorial that is multiplied out at a point.
pub(super) const MAX_POINT_FACTORIAL: u32 = 200;
/// The largest degree of a root that is taken directly, not by way of logarithms.
pub(super) const MAX_ROOT: u32 = 16;
/// The largest whole power that is multiplied out at a point.
pub(super) const MAX_POWER: u32 = 1 << 20;

/// Decimals from which a decimal fraction stands for the repeating one that it is the beginning of:
/// 2.16666666 for 13/6. Fewer are a rounded value, which only equals itself.
pub(super) const WRITTEN_OUT_DECIMALS: u32 = 8;
