//! Arithmetic word problems with worked solutions, invented from a seed.
//!
//! A problem is a short story: a person starts with some things, a chain of events changes their
//! number, and the question asks for it. The level is the number of events. Problem `i` of a seed
//! depends on nothing but the two, so any part of a data set can be made alone.
//!
//! Solutions leave nothing to be done in the head but sums, differences, doubles and halves:
//! products of two-digit numbers are taken apart into tens and ones.

use crate::random::CounterRng;

/// The longest chain of events.
pub const MAX_LEVEL: usize = 4;
/// Numbers in a story stay below this: three digits are enough to be hard for a small model.
const MAX_VALUE: u32 = 1000;

const NAMES: [&str; 16] = [
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ian", "June", "Kai", "Lena", "Max",
    "Nora", "Otto", "Pia",
];
const THINGS: [&str; 10] = [
    "apples", "beads", "books", "cards", "coins", "eggs", "marbles", "pens", "shells", "stamps",
];

/// One problem and its worked solutions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The story and its question.
    pub question: String,
    /// One equation per event.
    pub steps: Vec<String>,
    /// The result.
    pub answer: u32,
    /// Number of events.
    pub level: usize,
}

impl Problem {
    /// One equation a line and the boxed answer.
    pub fn short_solution(&self) -> String {
        format!("{}\n{}", self.steps.join("\n"), self.final_line())
    }

    /// Restates the question, numbers the steps and checks each: a long chain of thought.
    pub fn long_solution(&self) -> String {
        let mut text = format!("Let me read it again. {}\n", self.question);
        for (i, step) in self.steps.iter().enumerate() {
            let number = i + 1;
            text.push_str(&format!(
                "Step {number}: {step}\nWait, let me check that. {step} That is right.\n"
            ));
        }
        text.push_str(&self.final_line());
        text
    }

    fn final_line(&self) -> String {
        format!("Final Answer: \\boxed{{{}}}", self.answer)
    }
}

/// Draws in order from one problem's stream.
struct Dice {
    rng: CounterRng,
    drawn: u128,
}

impl Dice {
    fn below(&mut self, bound: u32) -> u32 {
        let value = self.rng.uniform(self.drawn);
        self.drawn += 1;
        (value * f64::from(bound)) as u32
    }

    fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }

    fn pick<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len() as u32) as usize]
    }
}

/// The story so far.
struct Story {
    name: &'static str,
    other: &'static str,
    things: &'static str,
    count: u32,
    text: String,
    steps: Vec<String>,
}

/// Problem number `index` of `seed`, at `level` (1 to [`MAX_LEVEL`]).
///
/// # Panics
/// `level` is out of range.
pub fn problem(seed: u64, index: u64, level: usize) -> Problem {
    assert!(
        (1..=MAX_LEVEL).contains(&level),
        "levels are 1 to {MAX_LEVEL}, not {level}"
    );
    let rng = CounterRng::from_parts(&[seed, index, level as u64]);
    let mut dice = Dice { rng, drawn: 0 };
    let name = dice.below(NAMES.len() as u32) as usize;
    let other = (name + 1 + dice.below(NAMES.len() as u32 - 1) as usize) % NAMES.len();
    let things = dice.pick(&THINGS);
    let most = if level > 2 { 300 } else { 99 };
    let count = dice.between(12, most);
    let name = NAMES[name];
    let mut story = Story {
        name,
        other: NAMES[other],
        things,
        count,
        text: format!("{name} has {count} {things}."),
        steps: Vec::new(),
    };
    for _ in 0..level {
        add_event(&mut story, &mut dice);
    }
    let question = format!("{} How many {things} does {name} have now?", story.text);
    Problem {
        question,
        steps: story.steps,
        answer: story.count,
        level,
    }
}

/// Adds one event that keeps the count between 1 and [`MAX_VALUE`].
fn add_event(story: &mut Story, dice: &mut Dice) {
    let Story {
        name,
        other,
        things,
        count,
        ..
    } = *story;
    let (sentence, step, result) = match dice.below(6) {
        0 if count < MAX_VALUE - 100 => {
            let more = dice.between(3, 99);
            let verb = dice.pick(&["buys", "finds", "makes", "wins"]);
            let result = count + more;
            (
                format!("{name} {verb} {more} more."),
                format!("{count} + {more} = {result}."),
                result,
            )
        }
        1 if count < MAX_VALUE - 200 => {
            let (boxes, each) = (dice.between(2, 9), dice.between(3, 20));
            let product = boxes * each;
            let result = count + product;
            (
                format!("{name} gets {boxes} boxes of {each} {things}."),
                format!(
                    "{} {count} + {product} = {result}.",
                    multiplication(boxes, each)
                ),
                result,
            )
        }
        2 if count < 100 => {
            let result = count * 2;
            (
                format!("Then {name} doubles the number of {things}."),
                format!("{count} * 2 = {result}."),
                result,
            )
        }
        3 if count.is_multiple_of(2) && count > 20 => {
            let result = count / 2;
            (
                format!("{name} sells half of them."),
                format!("{count} / 2 = {result}."),
                result,
            )
        }
        _ if count > 5 => {
            let fewer = dice.between(2, (count - 2).min(99));
            let verb = dice.pick(&["gives", "lends", "sells"]);
            let result = count - fewer;
            (
                format!("{name} {verb} {fewer} to {other}."),
                format!("{count} - {fewer} = {result}."),
                result,
            )
        }
        _ => {
            let more = dice.between(10, 99);
            let result = count + more;
            (
                format!("{other} gives {name} {more} {things}."),
                format!("{count} + {more} = {result}."),
                result,
            )
        }
    };
    story.text.push(' ');
    story.text.push_str(&sentence);
    story.steps.push(step);
    story.count = result;
}

/// `7 * 18 = 70 + 56 = 126.`: a product by tens and ones, where the second factor has both.
fn multiplication(a: u32, b: u32) -> String {
    let (tens, ones) = (b / 10 * 10, b % 10);
    let parts = if tens > 0 && ones > 0 {
        format!("{} + {} = ", a * tens, a * ones)
    } else {
        String::new()
    };
    format!("{a} * {b} = {parts}{}.", a * b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a chain of equal expressions, each of one number or two, says.
    fn value(equation: &str) -> u32 {
        let mut sides = equation.trim_end_matches('.').split(" = ").map(|side| {
            let words: Vec<&str> = side.trim().split(' ').collect();
            let number = |i: usize| words[i].parse::<u32>().unwrap();
            match words.get(1) {
                None => number(0),
                Some(&"+") => number(0) + number(2),
                Some(&"-") => number(0) - number(2),
                Some(&"*") => number(0) * number(2),
                Some(_) => number(0) / number(2),
            }
        });
        let first = sides.next().unwrap();
        assert!(sides.all(|side| side == first), "{equation}");
        first
    }

    #[test]
    fn products_of_two_digits_are_taken_apart() {
        assert_eq!(multiplication(7, 18), "7 * 18 = 70 + 56 = 126.");
        assert_eq!(multiplication(7, 20), "7 * 20 = 140.");
        assert_eq!(multiplication(7, 8), "7 * 8 = 56.");
    }

    #[test]
    fn every_step_of_every_problem_is_true() {
        for index in 0..2000 {
            let problem = problem(7, index, 1 + index as usize % MAX_LEVEL);
            assert_eq!(problem.steps.len(), problem.level);
            let equations = problem.steps.iter().flat_map(|step| step.split(". "));
            let last = equations.map(value).last().unwrap();
            assert_eq!(last, problem.answer);
            assert!(problem.answer > 0 && problem.answer < MAX_VALUE);
        }
    }

    #[test]
    fn a_problem_depends_on_seed_index_and_level_alone() {
        assert_eq!(problem(1, 5, 2), problem(1, 5, 2));
        assert_ne!(problem(1, 5, 2), problem(2, 5, 2));
        assert_ne!(problem(1, 5, 2), problem(1, 6, 2));
    }
}
