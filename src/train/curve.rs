//! A curve over training steps as an SVG file: the values as logged, and smoothed.

use std::fmt::Write as _;
use std::path::Path;

use super::TrainError;
use crate::durable::write_atomic;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 32.0;
const BOTTOM: f64 = 44.0;
/// Lines of the grid in each direction.
const TICKS: usize = 5;

/// Exponential smoothing with the reference's weight, which grows with the number of points from
/// 0 towards 0.9: `1.8 * (1 / (1 + exp(-0.05 n)) - 0.5)`.
pub(super) fn smoothed(values: &[f64]) -> Vec<f64> {
    let weight = 1.8 * (1.0 / (1.0 + (-0.05 * values.len() as f64).exp()) - 0.5);
    let mut last = values.first().copied().unwrap_or(0.0);
    values
        .iter()
        .map(|value| {
            last = last * weight + (1.0 - weight) * value;
            last
        })
        .collect()
}

/// Writes the curve of (step, value) points. Fewer than two points draw nothing.
///
/// # Errors
/// The disk refuses.
pub(super) fn draw(path: &Path, name: &str, points: &[(f64, f64)]) -> Result<(), TrainError> {
    if points.len() < 2 {
        return Ok(());
    }
    let svg = svg(name, points);
    write_atomic(path, svg.as_bytes()).map_err(|error| TrainError::Io {
        path: path.to_owned(),
        error,
    })
}

fn svg(name: &str, points: &[(f64, f64)]) -> String {
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        (low, if high > low { high } else { low + 1.0 })
    };
    let (x0, x1) = range(&mut points.iter().map(|(step, _)| *step));
    let (y0, y1) = range(&mut points.iter().map(|(_, value)| *value));
    let across = |step: f64| LEFT + (step - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let up = |value: f64| HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
    let line = |values: &mut dyn Iterator<Item = (f64, f64)>| {
        let points: Vec<String> = values
            .map(|(step, value)| format!("{:.1},{:.1}", across(step), up(value)))
            .collect();
        points.join(" ")
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{name} over steps (thin: as logged, thick: \
         smoothed)</text>\n"
    );
    for tick in 0..=TICKS {
        let share = tick as f64 / TICKS as f64;
        let (step, value) = (x0 + share * (x1 - x0), y0 + share * (y1 - y0));
        let (x, y) = (across(step), up(value));
        // Writing to a string does not fail.
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.3}</text>\n\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{step:.0}</text>\n",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            HEIGHT - BOTTOM + 18.0,
        );
    }
    let values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    let steps = points.iter().map(|(step, _)| *step);
    let smooth = line(&mut steps.zip(smoothed(&values)));
    let raw = line(&mut points.iter().copied());
    let _ = write!(
        svg,
        "<polyline fill=\"none\" stroke=\"#9bc\" points=\"{raw}\"/>\n\
         <polyline fill=\"none\" stroke=\"#236\" stroke-width=\"2\" points=\"{smooth}\"/>\n</svg>\n"
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_starts_at_the_first_value_and_follows() {
        let smooth = smoothed(&[4.0, 2.0, 2.0, 2.0]);
        assert_eq!(smooth[0], 4.0);
        assert!(
            smooth
                .windows(2)
                .all(|pair| pair[1] < pair[0] && pair[1] > 2.0)
        );
    }

    #[test]
    fn a_curve_stays_in_its_frame() {
        let points: Vec<(f64, f64)> = (1..50)
            .map(|i| (f64::from(i), 1.0 / f64::from(i)))
            .collect();
        let svg = svg("loss", &points);
        assert!(svg.contains("points=\"64.0,32.0"), "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }
}
