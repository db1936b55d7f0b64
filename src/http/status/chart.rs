//! Small charts: a series of numbers as the `d` of an SVG path.
//!
//! Paths live in a box of [`WIDTH`] by [`HEIGHT`] that the page stretches; the newest value is at
//! the right edge, one unit of width is one second. A gap (`None`) interrupts the line.

use std::fmt::Write;

use super::samples::KEEP;

/// Width of the box, in seconds.
pub const WIDTH: usize = KEEP;
/// Height of the box.
pub const HEIGHT: f64 = 64.0;
/// Room above and below the line, for its own width.
const MARGIN: f64 = 2.0;

/// A line through `values`, scaled so that `top` is at the upper edge.
pub fn line(values: &[Option<f64>], top: f64) -> String {
    let mut d = String::new();
    let mut pen_down = false;
    for (x, value) in points(values) {
        match value {
            None => pen_down = false,
            Some(v) => {
                let _ = write!(d, "{}{x} {:.1}", if pen_down { 'L' } else { 'M' }, y(v, top));
                pen_down = true;
            }
        }
    }
    d
}

/// The area below [`line`].
pub fn area(values: &[Option<f64>], top: f64) -> String {
    let mut d = String::new();
    let mut last = None;
    for (x, value) in points(values).chain([(WIDTH, None)]) {
        match (value, last) {
            (Some(v), None) => {
                let _ = write!(d, "M{x} {HEIGHT}L{x} {:.1}", y(v, top));
            }
            (Some(v), Some(_)) => {
                let _ = write!(d, "L{x} {:.1}", y(v, top));
            }
            (None, Some(from)) => {
                let _ = write!(d, "L{from} {HEIGHT}Z");
            }
            (None, None) => {}
        }
        last = value.map(|_| x);
    }
    d
}

/// A band over the full height wherever `on` is true.
pub fn bands(on: &[bool]) -> String {
    let values: Vec<_> = on.iter().map(|on| on.then_some(0.0)).collect();
    let mut d = String::new();
    for (x, _) in points(&values).filter(|(_, v)| v.is_some()) {
        let _ = write!(d, "M{x} 0h1v{HEIGHT}h-1Z");
    }
    d
}

fn points(values: &[Option<f64>]) -> impl Iterator<Item = (usize, Option<f64>)> {
    let values = &values[values.len().saturating_sub(WIDTH)..];
    let start = WIDTH - values.len();
    values.iter().enumerate().map(move |(i, v)| (start + i, *v))
}

fn y(value: f64, top: f64) -> f64 {
    let share = if top > 0.0 { (value / top).clamp(0.0, 1.0) } else { 0.0 };
    HEIGHT - MARGIN - share * (HEIGHT - 2.0 * MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_interrupt_lines_and_areas() {
        let values = [Some(0.0), Some(10.0), None, Some(5.0)];
        assert_eq!(line(&values, 10.0), "M296 62.0L297 2.0M299 32.0");
        assert_eq!(area(&values, 10.0), "M296 64L296 62.0L297 2.0L297 64ZM299 64L299 32.0L299 64Z");
        assert_eq!(line(&[], 1.0), "");
        assert_eq!(line(&[Some(1.0)], 0.0), "M299 62.0");
        assert_eq!(bands(&[true, false]), "M298 0h1v64h-1Z");
    }

    #[test]
    fn only_the_newest_fit() {
        let values = vec![Some(1.0); WIDTH + 10];
        assert!(line(&values, 1.0).starts_with("M0 2.0L1 "));
    }
}
