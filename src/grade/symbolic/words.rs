//! Words that mean something in an answer: units, connectors, labels, functions, named sets.

/// A unit of measurement in its canonical spelling, or `None` for any other word.
///
/// Different units of one quantity stay different: `2` hours are not `2` minutes.
pub(super) fn unit(word: &str) -> Option<&'static str> {
    Some(match word.trim_end_matches('.') {
        "mm" | "millimeter" | "millimeters" | "millimetre" | "millimetres" => "mm",
        "cm" | "centimeter" | "centimeters" | "centimetre" | "centimetres" => "cm",
        "m" | "meter" | "meters" | "metre" | "metres" => "m",
        "km" | "kilometer" | "kilometers" | "kilometre" | "kilometres" | "kms" => "km",
        "in" | "inch" | "inches" => "in",
        "ft" | "foot" | "feet" => "ft",
        "yd" | "yard" | "yards" => "yd",
        "mi" | "mile" | "miles" => "mi",
        "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "min" | "mins" | "minute" | "minutes" => "min",
        "h" | "hr" | "hrs" | "hour" | "hours" => "h",
        "day" | "days" => "day",
        "week" | "weeks" => "week",
        "month" | "months" => "month",
        "year" | "years" | "yr" | "yrs" => "year",
        "mg" | "milligram" | "milligrams" => "mg",
        "g" | "gram" | "grams" => "g",
        "kg" | "kilogram" | "kilograms" | "kgs" => "kg",
        "lb" | "lbs" | "pound" | "pounds" => "lb",
        "oz" | "ounce" | "ounces" => "oz",
        "ml" | "mL" | "milliliter" | "milliliters" => "ml",
        "l" | "L" | "liter" | "liters" | "litre" | "litres" => "l",
        "mph" => "mi/h",
        "kmh" | "kph" => "km/h",
        "degree" | "degrees" | "deg" => "degree",
        "radian" | "radians" | "rad" | "rads" => "radian",
        "percent" | "percents" => "percent",
        "dollar" | "dollars" | "usd" | "USD" => "dollar",
        "cent" | "cents" => "cent",
        "unit" | "units" | "square" | "sq" | "cubic" | "per" => "",
        _ => return None,
    })
}

/// A whole number below a thousand in words: `twelve`, `twenty one`, `three hundred five`.
pub(super) fn number(words: &[String]) -> Option<i64> {
    let mut value = 0;
    let mut below = 1_000;
    for word in words {
        let (next, size) = match (small_number(word), word.as_str()) {
            (Some(tens @ 20..), _) => (tens, 100),
            (Some(ones), _) => (ones, if below == 10 { 10 } else { 100 }),
            (None, "hundred") if (1..10).contains(&value) && below != 1 => {
                value *= 100;
                below = 100;
                continue;
            }
            _ => return None,
        };
        if size > below || (below == 10 && next == 0) {
            return None;
        }
        value += next;
        // Only ones may follow tens; nothing but "hundred" follows ones.
        below = if next >= 20 { 10 } else { 0 };
    }
    (!words.is_empty()).then_some(value)
}

/// Number words that stand for themselves: up to twenty, and tens.
pub(super) fn small_number(word: &str) -> Option<i64> {
    const ONES: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = [
        "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
    ];
    let place = |words: &[&str]| words.iter().position(|known| *known == word);
    let ones = place(&ONES).map(|n| n as i64);
    ones.or_else(|| place(&TENS).map(|n| (n as i64 + 2) * 10))
}

/// Answers of two or three letters that are words and no products.
pub(super) fn is_short_answer(word: &str) -> bool {
    matches!(word, "yes" | "odd") || small_number(word).is_some()
}

/// Words that join the elements of a list.
pub(super) fn is_connector(word: &str) -> bool {
    matches!(word, "and" | "or")
}

/// Words after which the answer itself follows: `the answer is`, `Answer:`.
pub(super) fn introduces(word: &str) -> bool {
    matches!(
        word,
        "is" | "are"
            | "equals"
            | "equal"
            | "be"
            | "answer"
            | "answers"
            | "result"
            | "option"
            | "choice"
    )
}

/// Words that change the meaning of a value which they precede or follow, so that it must not be
/// taken for the value alone.
pub(super) fn qualifies(word: &str) -> bool {
    matches!(
        word,
        "not"
            | "no"
            | "least"
            | "most"
            | "more"
            | "less"
            | "than"
            | "fewer"
            | "greater"
            | "over"
            | "under"
            | "above"
            | "below"
            | "between"
            | "minus"
            | "plus"
            | "times"
            | "except"
            | "million"
            | "billion"
            | "thousand"
            | "hundred"
            | "trillion"
            | "dozen"
            | "if"
            | "otherwise"
            | "squared"
            | "cubed"
            | "half"
            | "mod"
            | "to"
    )
}

/// Words without content, dropped from phrases before these are compared.
pub(super) fn is_filler(word: &str) -> bool {
    matches!(
        word,
        "the" | "a" | "an" | "of" | "all" | "there" | "are" | "is" | "only"
    )
}

/// Functions that are written as plain words, and constants.
pub(super) fn is_function_or_constant(word: &str) -> bool {
    matches!(
        word,
        "sin"
            | "cos"
            | "tan"
            | "cot"
            | "sec"
            | "csc"
            | "arcsin"
            | "arccos"
            | "arctan"
            | "sinh"
            | "cosh"
            | "tanh"
            | "asin"
            | "acos"
            | "atan"
            | "log"
            | "ln"
            | "lg"
            | "exp"
            | "sqrt"
            | "pi"
            | "infty"
            | "infinity"
            | "inf"
            | "floor"
            | "ceil"
            | "abs"
            | "gcd"
            | "lcm"
            | "max"
            | "min"
            | "binom"
            | "frac"
            | "cbrt"
            | "theta"
            | "alpha"
            | "beta"
            | "oo"
    )
}
