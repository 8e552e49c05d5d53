//! Cases as data: pairs that mean the same, pairs that do not, and hostile input.

use proptest::prelude::*;

use super::{AnswerStyle, Gold, Outcome, equal, grade};

fn outcome(answer: &str, gold: &str) -> Outcome {
    equal(answer, &Gold::new(gold))
}

#[test]
fn pairs_that_mean_the_same() {
    let pairs = [
        // numbers in every notation
        ("5", "5.0"),
        ("+5", "5"),
        ("005", "5"),
        (".5", r"\frac12"),
        ("5.", "5"),
        ("1,234,567", "1234567"),
        (r"1.27\times 10^2", "127"),
        ("1.5e3", "1500"),
        (r"0.8\overline{4}", r"\frac{38}{45}"),
        ("2.1666666666", r"\frac{13}{6}"),
        ("−4", "-4"),
        ("１２", "12"),
        ("٣", "3"),
        ("½", "0.5"),
        ("4 2/3", r"\frac{14}{3}"),
        (r"4\frac23", r"\frac{14}{3}"),
        ("-1 1/2", "-1.5"),
        ("0.09e2", "9"),
        ("0.333...", "1/3"),
        (r"0.\dot{3}", "1/3"),
        ("0.(3)", "1/3"),
        (r"1.2727\ldots", "14/11"),
        ("twelve", "12"),
        ("twenty-one", "21"),
        (r"\text{three hundred five}", "305"),
        ("**42**", "42"),
        // fractions, roots, powers
        ("3√13", r"3\sqrt{13}"),
        (r"\dfrac{3}{-6}", "-1/2"),
        (r"\cfrac{\frac12}{3}", "1/6"),
        (r"{10 \over 4}", "2.5"),
        (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt 3}{3}"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"\sqrt{\frac{1}{2}}", r"\frac{\sqrt{2}}{2}"),
        (r"\sqrt[3]{-8}", "-2"),
        (r"8^{2/3}", "4"),
        (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
        (r"\frac{1}{\sqrt2-1}", r"\sqrt2+1"),
        ("2^2^3", "256"),
        ("2**10", "1024"),
        (r"2^{-2/3}", r"\frac{1}{\sqrt[3]{4}}"),
        (r"\sqrt{-4}", "2i"),
        // factorials, binomials, floors, logarithms, trigonometry
        ("5!", "120"),
        (r"\binom{5}{2}", "10"),
        (r"\binom{2n}{n}", r"\frac{(2n)!}{n!^2}"),
        (r"\lfloor 7/2 \rfloor", "3"),
        (r"\lceil n/2 \rceil", r"\lfloor (n+1)/2 \rfloor"),
        (r"\lfloor n/2 \rfloor", r"\frac{2n-1+(-1)^n}{4}"),
        (r"|{-3}|", "3"),
        (r"\log_2 8", "3"),
        (r"\ln e^2", "2"),
        (
            r"\frac{\log 2}{\log 2-\log 3}",
            r"\frac{\ln 2}{\ln 2-\ln 3}",
        ),
        (r"-\log_{10} 250", r"\log_{10}\frac{1}{250}"),
        (r"\sin 30^\circ", "1/2"),
        (r"\sin^2 x+\cos^2 x", "1"),
        (r"\cot x", r"\frac{\cos x}{\sin x}"),
        (r"\arctan 1", r"\pi/4"),
        ("12pi", r"12\pi"),
        ("e^{i\\pi}", "-1"),
        (r"\sin^{-1}(1/2)", r"30^\circ"),
        (r"\cos 36^\circ", r"\frac{1+\sqrt 5}{4}"),
        (r"\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}", "1"),
        (r"4\arctan\frac15-\arctan\frac1{239}", r"\frac{\pi}{4}"),
        (r"(1/2)!", r"\frac{\sqrt{\pi}}{2}"),
        (
            r"\left\lfloor\frac{n+1}{3}\right\rfloor",
            r"\lceil\frac{n-1}{3}\rceil",
        ),
        // algebra
        ("(x+1)^2", "x^2+2x+1"),
        ("2^{2n}", "4^n"),
        ("2^{n+1}-2", "2(2^n-1)"),
        (r"\frac{x^2-1}{x-1}", "x+1"),
        (r"\frac{n(n+1)}{2}", "n(n+1)/2"),
        ("2RC+R+C", "R+C+2CR"),
        ("6+9i", "3(2+3i)"),
        // units, currency, percent, degrees
        ("5 cm", "5"),
        (r"864 \mbox{ inches}^2", "864"),
        (r"5\text{ m}", "5"),
        (r"-2 \text{km/h}", "-2"),
        (r"78~\mathrm{cm}", "78"),
        (r"\$18.90", "18.9"),
        ("$36", r"\$36"),
        (r"50\%", "50"),
        (r"50\%", r"\frac12"),
        (r"90^\circ", "90"),
        ("90 degrees", r"90^{\circ}"),
        (r"30^\circ", r"\frac{\pi}{6}"),
        (r"22 \pmod{1000}", "22"),
        ("7 is the answer", "7"),
        (r"96 \quad \text{(as required)}", "96"),
        (r"10\text{ cm}^2", "10 square cm"),
        ("60 mph", "60 miles per hour"),
        ("€5", r"\$5"),
        // wrappers
        (r"\textbf{(C)}\ 8", "8"),
        ("(C) 8", r"\text{(C)}"),
        (r"\text{(B)}", "B"),
        (r"\color{blue}{10}", "10"),
        (r"\displaystyle\frac12", "1/2"),
        (r"\big(1,2\big)", "(1,2)"),
        (r"\text{\frac{1}{2}}", "1/2"),
        (r"\boxed{7}", "7"),
        // labels
        ("x=5", "5"),
        ("m+n = 211", "211"),
        (r"\text{Answer} = 7", "7"),
        ("190+7=197", "197"),
        ("5", "x=5"),
        ("2x", "f(x)=2x"),
        ("f(t)=t^2", "f(n)=n^2"),
        ("2x+3", "y = 2x + 3"),
        ("10x - 14y + 22z + 8 = 0", "5x - 7y + 11z + 4 = 0"),
        // lists, sets, tuples, intervals
        ("3, 5 and 7", "7,5,3"),
        (r"\{1,2\}", "2,1"),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"),
        (r"\{1\pm\sqrt{5},-2\}", r"\{-2,1-\sqrt5,1+\sqrt5\}"),
        ("(1, 2)", r"\left(1,2\right)"),
        ("(3,2),(-3,2)", "(-3,2),(3,2)"),
        (r"x \in [-2,7]", "[-2,7]"),
        (r"-2 \le x \le 7", "[-2,7]"),
        ("x>2", r"(2,\infty)"),
        ("2<x", "x>2"),
        (r"x<1 \text{ or } x>3", r"(-\infty,1)\cup(3,\infty)"),
        (r"(3,\infty)\cup(-\infty,1)", r"(-\infty,1)\cup(3,\infty)"),
        (r"\mathbb{R}", "all real numbers"),
        (r"\{x \mid x>2\}", r"(2,\infty)"),
        (r"\{x : x>2\}", r"(2,\infty)"),
        (r"x \ne 1", r"(-\infty,1)\cup(1,\infty)"),
        (r"\mathbb{R}\setminus\{0\}", r"x\neq 0"),
        (r"\emptyset", "no solution"),
        ("x=1, x=2", "1,2"),
        // matrices, bases, text
        (
            r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}",
            r"\begin{bmatrix} 0.5 \\ 3 \end{bmatrix}",
        ),
        (
            r"[[1,2],[3,4]]",
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        ),
        ("204_5", "204_{5}"),
        ("(1011)_2", "1011_{two}"),
        ("Yes", r"\text{yes.}"),
        ("a hyperbola", r"\text{hyperbola}"),
        ("infinitely many", r"\infty"),
        (r"\boxed{t(0,4]}", "$t(0,4]$"),
        (r"m_{\max}=5", r"m_{\max }=5"),
        (r"\text{Evelyn}", "evelyn"),
        (r"\infty", "infinity"),
    ];
    let wrong: Vec<_> = pairs
        .iter()
        .flat_map(|(a, b)| [(a, b), (b, a)])
        .map(|(a, b)| (a, b, outcome(a, b)))
        .filter(|(.., outcome)| !outcome.is_correct())
        .filter(|(_, b, _)| !has_private_label(b))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Labels that an answer may add and a gold would not have.
fn has_private_label(gold: &str) -> bool {
    ["m+n", "190"].iter().any(|label| gold.contains(label))
}

#[test]
fn pairs_that_differ() {
    let pairs = [
        ("5", "-5"),
        ("5", "5.0001"),
        ("13.0.7", "13"),
        ("3.14159", r"\pi"),
        ("1.41421", r"\sqrt 2"),
        ("0.33", "1/3"),
        ("10^{100}", "10^{100}+1"),
        (r"\frac{11}{0}", r"\frac{11}{2}"),
        ("-x=5", "x=5"),
        ("-x=5", "5"),
        ("2x=10", "10"),
        (r"\text{east}+1", r"\text{east}"),
        (r"-\text{(E)}", r"\text{(E)}"),
        (r"\text{(C)}", r"\text{(B)}"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", "[1,2]"),
        ("(1,2]", "(1,2)"),
        ("1,2", "1,2,3"),
        ("1,1,2", "1,2,2"),
        ("2 hours", r"2 \text{ minutes}"),
        ("5 million", "5"),
        ("at least 5", "5"),
        ("not 5", "5"),
        ("7 or 8", "7"),
        ("1 and 2", "1"),
        (r"1 \pm \sqrt{19}", r"-1 \pm \sqrt{19}"),
        (r"1+\sqrt{19}", r"1 \pm \sqrt{19}"),
        ("x^2", "x^3"),
        (r"\cot x", r"\cot x + 1"),
        (r"\sqrt{x^2}", "x"),
        (
            r"-(-\infty, 2) \cup (3, \infty)",
            r"(-\infty, 2) \cup (3, \infty)",
        ),
        (r"x \ge 2", "x > 2"),
        (
            r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
            r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}",
        ),
        ("204_5", "204_6"),
        ("52_8", "42"),
        (r"\lfloor x \rfloor", "x"),
        (r"\lfloor n/2 \rfloor", r"\lceil n/2 \rceil"),
        ("n!", "(n+1)!"),
        ("9.09e2", "9"),
        (">9", "9"),
        (r"\ge 9", "9"),
        ("(B) and (C)", "B"),
        (r"\$5", "5 cents"),
        (r"10\text{ cm}^2", r"10\text{ cm}^3"),
        ("(1,234)", "(1234)"),
        ("1:2:3", "1:3:2"),
        ("x=1, y=2", "x=2, y=1"),
        (r"\angle B_1=90, \angle C=60", r"\angle B_3=90, \angle C=60"),
        (
            r"\lfloor\frac{2n-1}{5}\rfloor",
            r"\lfloor\frac{2n-2}{5}\rfloor",
        ),
        ("a hyperbola", "a parabola"),
        ("3.14159...", r"\pi"),
        ("", "5"),
        ("?", "5"),
    ];
    let wrong: Vec<_> = pairs
        .iter()
        .flat_map(|(a, b)| [(a, b), (b, a)])
        .map(|(a, b)| (a, b, outcome(a, b)))
        .filter(|(.., outcome)| outcome.is_correct())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn near_equal_values_differ() {
    let pairs = [
        (r"e^{\pi\sqrt{163}}", "262537412640768744"),
        (r"e^{\pi\sqrt{58}}", "24591257752"),
        (r"(e^{\pi\sqrt{163}}-744)^{1/3}", "640320"),
        (r"\frac{\ln 262537412640768744}{\pi}", r"\sqrt{163}"),
        (r"\sqrt2+\sqrt3", "3.1462643699419723423"),
        (
            r"\sin 1",
            "0.84147098480789650665250232163029899962256306079837",
        ),
        (r"\ln(1+10^{-20})", "10^{-20}"),
        (r"\cos(10^{-12})", "1"),
        (r"\sqrt{1000000000001}-1000000", r"5\cdot10^{-7}"),
        (r"\sin x+10^{-40}", r"\sin x"),
        (r"e^{x}+\frac{1}{10^{60}}", "e^x"),
        (r"\arctan(10^{50})", r"\frac{\pi}{2}"),
        (r"\tanh 50", "1"),
        (r"22\pi^4", "2143"),
        (r"\sin(10^{20}\pi+10^{-20})", "0"),
        (r"20!+e^{-90}\sin 1", "20!"),
    ];
    let wrong: Vec<_> = pairs
        .iter()
        .flat_map(|(a, b)| [(a, b), (b, a)])
        .map(|(a, b)| (a, b, outcome(a, b)))
        .filter(|(.., outcome)| *outcome != Outcome::Different(super::Difference::Value))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_cannot_be_told_apart_is_not_called_equal() {
    for (a, b) in [
        (r"999!+998!+\sin 1", "999!+998!"),
        (r"2^{1000}+\sin 1", "2^{1000}"),
    ] {
        assert!(!outcome(a, b).is_correct(), "{a} {b}");
        assert!(!outcome(b, a).is_correct(), "{b} {a}");
    }
}

#[test]
fn hostile_answers_end_in_a_verdict() {
    let nested = |open: &str, n: usize, close: &str| open.repeat(n) + "1" + &close.repeat(n);
    let hostile = [
        "9^{9^{9^9}}".to_owned(),
        "9^{9^{9^{9^{9^9}}}}".to_owned(),
        "2^{10^{10}}".to_owned(),
        "1000000!".to_owned(),
        "((999!)!)!".to_owned(),
        r"\binom{1000000}{500000}".to_owned(),
        "1e999999999".to_owned(),
        "9".repeat(8_000),
        "{".repeat(1 << 20),
        "}".repeat(1 << 20),
        r"\boxed{".repeat(100_000),
        r"\(".repeat(200_000),
        "$".repeat(100_001),
        "the answer is ".repeat(50_000),
        nested("(", 5_000, ")"),
        nested("{", 1_000, "}"),
        nested(r"\frac{1}{", 800, "}"),
        nested(r"\sqrt{", 1_000, "}"),
        nested(r"\text{", 1_000, "}"),
        nested("|", 2_000, "|"),
        "-".repeat(8_000) + "1",
        "1/".repeat(1_000) + "2",
        "x/".repeat(1_000) + "y",
        "x^2".to_owned() + &"^2".repeat(1_000),
        "x".to_owned() + &"!".repeat(4_000),
        "x".to_owned() + &"'".repeat(4_000),
        r"\pm 1".repeat(300),
        "(x+y+z+w)^{24}".to_owned(),
        "(x+y+z+w+a+b+c)^{24}(x-y)^{24}".to_owned(),
        "(1+x)^{1000000}".to_owned(),
        r"A \setminus ".repeat(600) + "B",
        "1,".repeat(1_900),
        "(1,2),".repeat(300),
        r"\sin".repeat(1_000) + "x",
        r"\begin{pmatrix}".repeat(300),
        r"\begin{pmatrix} 1 & 2 \\ 3".to_owned(),
        "x_".repeat(1_000),
        "9223372036854775807^{-9223372036854775808}".to_owned(),
        "x^{-9223372036854775808}".to_owned(),
        "x^{9223372036854775807}x^{9223372036854775807}".to_owned(),
        "\u{202e}\u{0}\u{fffd}\u{10ffff}١٢٣\u{301}".to_owned(),
        "1/0".to_owned(),
        "0^{-1}".to_owned(),
        r"\log_1 5".to_owned(),
        r"\ln 0".to_owned(),
        r"\infty-\infty".to_owned(),
        r"\sqrt[0]{5}".to_owned(),
        "5_".to_owned(),
        "_5".to_owned(),
        r"\frac".to_owned(),
        r"\frac{}{}".to_owned(),
        r"\".to_owned(),
        // Found by fuzzing: brackets that fail inside of bars.
        "|(-}".to_owned(),
        "2|[s\u{5}".to_owned(),
        r"|[2,\ipfty|".to_owned(),
        "968!t^\n16%".to_owned(),
        "(999!)^{2}".to_owned(),
        (900..999).map(|n| format!("{n}!+")).collect::<String>() + "1",
        "(((".to_owned(),
        ")))".to_owned(),
    ];
    for text in &hostile {
        for gold in ["5", "x", "(1,2)", text] {
            let direct = outcome(text, gold);
            let boxed = format!(r"\boxed{{{text}}}");
            let whole = grade(&boxed, gold, AnswerStyle::Boxed);
            let number = grade(text, gold, AnswerStyle::Number);
            let shown: String = text.chars().take(40).collect();
            if gold == "5" || gold == "(1,2)" {
                assert!(!direct.is_correct(), "{shown}: {direct}");
                assert!(!whole.outcome.is_correct(), "{shown}: {}", whole.outcome);
            }
            let _ = number;
        }
    }
}

proptest! {
    #[test]
    fn any_text_ends_in_a_verdict(text in "\\PC{0,80}", gold in "\\PC{0,20}") {
        let _ = grade(&text, &gold, AnswerStyle::Boxed);
        let _ = grade(&text, &gold, AnswerStyle::Number);
        let _ = outcome(&text, &gold);
    }

    #[test]
    fn any_mathematics_ends_in_the_same_verdict_twice(
        text in r"([0-9xyni+*/^_(){}\[\]|,;=<>!%$. -]|\\frac|\\sqrt|\\pm|\\cup|\\text|\\left|\\log|\\sin|\\boxed|\\begin\{pmatrix\}|\\end\{pmatrix\}|\\\\|&|\\infty|\\pi){0,24}",
        gold in r"([0-9x+*/^(){},=-]|\\frac|\\sqrt){1,12}",
    ) {
        prop_assert_eq!(outcome(&text, &gold), outcome(&text, &gold));
        let _ = grade(&text, &gold, AnswerStyle::Boxed);
    }

    #[test]
    fn integers_are_equal_exactly_when_they_are(a in -1_000_000_i64..1_000_000, b in -50_i64..50) {
        let spelled = format!(r"\frac{{{}}}{{{}}}", a * 6, 6);
        prop_assert_eq!(outcome(&spelled, &(a + b).to_string()).is_correct(), b == 0);
    }

    #[test]
    fn polynomials_are_equal_to_their_factors(a in -9_i64..9, b in -9_i64..9, c in 1_i64..9) {
        let factored = format!("({c}x+{a})(x-{b})").replace("+-", "-").replace("--", "+");
        let expanded = format!("{c}x^2 + {}x + {}", a - b * c, -a * b).replace("+ -", "- ");
        prop_assert!(outcome(&factored, &expanded).is_correct(), "{} {}", factored, expanded);
        let off = format!("{c}x^2 + {}x + {}", a - b * c, 1 - a * b).replace("+ -", "- ");
        prop_assert!(!outcome(&factored, &off).is_correct(), "{} {}", factored, off);
    }
}
