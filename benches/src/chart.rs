//! Charts as SVG: lines over two logarithmic axes, bars beside a line of one.
//!
//! It owns where things stand on the page and what is escaped. A few elements and no text that is measured, so it takes no
//! package for it.

use std::fmt::Write as _;

/// The page and the field of a line chart in it, in pixels.
const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 84.0;
const TOP: f64 = 84.0;
const FIELD_WIDTH: f64 = 580.0;
const FIELD_HEIGHT: f64 = 320.0;

/// The height of a bar with the gap below it, and where bars begin.
const BAR: f64 = 22.0;
const BARS_LEFT: f64 = 210.0;
const BARS_WIDTH: f64 = 560.0;

/// Colours that are told apart by those who see few of them, too.
const COLOURS: [&str; 8] =
    ["#000000", "#7f7f7f", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];

/// A logarithmic axis, with what stands beside it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) ticks: Vec<(f64, String)>,
}

/// A line of a chart. Its colour is that of its number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) colour: usize,
    pub(crate) points: Vec<(f64, f64)>,
    /// Whether each point gets a dot.
    pub(crate) dots: bool,
}

/// A bar, and the heading of a group where one begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// The heading; bars of one group stand together.
    pub group: String,
    /// What stands before it.
    pub name: String,
    /// The number of its colour; after the last one they begin again.
    pub colour: usize,
    /// How long it is, and what stands behind it as a ratio.
    pub value: f64,
}

impl Axis {
    /// An axis over these values, with ticks at 1, 2 and 5 of each decade, or at its beginning if there are many.
    pub(crate) fn over(label: &str, values: impl Iterator<Item = f64>, show: fn(f64) -> String) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if high <= 0.0 {
            (low, high) = (1.0, 10.0);
        }
        let (first, last) = (low.log10().floor(), high.log10().ceil());
        let steps: &[f64] = if last - first > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let mut ticks = Vec::new();
        let mut decade = first;
        while decade <= last {
            ticks.extend(steps.iter().map(|step| step * 10_f64.powf(decade)));
            decade += 1.0;
        }
        // From the last tick that is not above all to the first that is not below.
        let low = ticks.iter().copied().rfind(|tick| *tick <= low).unwrap_or(low);
        let high = ticks.iter().copied().find(|tick| *tick >= high && *tick > low).unwrap_or(low * 10.0);
        ticks.retain(|tick| (low..=high).contains(tick));
        let ticks = ticks.into_iter().map(|tick| (tick, show(tick))).collect();
        Axis { label: label.to_owned(), low, high, ticks }
    }

    /// How far along the axis a value is, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let span = (self.high / self.low).ln();
        ((value.max(f64::MIN_POSITIVE) / self.low).ln() / span).clamp(0.0, 1.0)
    }
}

/// Lines over two axes, named at the right.
pub(crate) fn lines(title: &str, subtitle: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    let mut svg = open(HEIGHT, title, subtitle);
    let at_x = |value| LEFT + x.place(value) * FIELD_WIDTH;
    let at_y = |value| TOP + (1.0 - y.place(value)) * FIELD_HEIGHT;
    let (right, bottom) = (LEFT + FIELD_WIDTH, TOP + FIELD_HEIGHT);
    for (value, label) in &x.ticks {
        let x = at_x(*value);
        rule(&mut svg, [x, TOP, x, bottom], "#dddddd");
        text(&mut svg, x, bottom + 18.0, "middle", 12, label);
    }
    for (value, label) in &y.ticks {
        let y = at_y(*value);
        rule(&mut svg, [LEFT, y, right, y], "#dddddd");
        text(&mut svg, LEFT - 8.0, y + 4.0, "end", 12, label);
    }
    rule(&mut svg, [LEFT, bottom, right, bottom], "#333333");
    rule(&mut svg, [LEFT, TOP, LEFT, bottom], "#333333");
    text(&mut svg, LEFT + FIELD_WIDTH / 2.0, bottom + 44.0, "middle", 13, &x.label);
    text(&mut svg, LEFT, TOP - 14.0, "middle", 13, &y.label);
    for (index, line) in (0_u32..).zip(lines) {
        let colour = colour(line.colour);
        let points: Vec<String> =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y))).collect();
        let points = points.join(" ");
        push(
            &mut svg,
            format_args!(
                r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>"#
            ),
        );
        for (x, y) in line.points.iter().filter(|_| line.dots) {
            let (x, y) = (at_x(*x), at_y(*y));
            push(&mut svg, format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{colour}"/>"#));
        }
        let y = TOP + 14.0 + f64::from(index) * 22.0;
        push(
            &mut svg,
            format_args!(
                r#"<rect x="{:.1}" y="{:.1}" width="18" height="4" fill="{colour}"/>"#,
                right + 18.0,
                y - 6.0
            ),
        );
        text(&mut svg, right + 44.0, y, "start", 13, &line.name);
    }
    close(svg)
}

/// Bars from zero, in groups, with a line at 1, as an SVG document.
#[must_use]
pub fn bars(title: &str, subtitle: &str, bars: &[Bar]) -> String {
    let groups = bars.chunk_by(|one, other| one.group == other.group);
    let rows = u32::try_from(bars.len() + groups.count()).unwrap_or(u32::MAX);
    let height = TOP + f64::from(rows) * BAR + 8.0;
    let mut svg = open(height, title, subtitle);
    let most = bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
    let one = BARS_LEFT + BARS_WIDTH / most;
    // Behind what is written beside bars.
    rule(&mut svg, [one, TOP - 6.0, one, height - BAR], "#b00000");
    let mut y = TOP;
    for group in bars.chunk_by(|one, other| one.group == other.group) {
        text(&mut svg, 24.0, y + 15.0, "start", 13, &group[0].group);
        for bar in group {
            let (width, colour) = ((bar.value / most * BARS_WIDTH).max(1.0), colour(bar.colour));
            text(&mut svg, BARS_LEFT - 8.0, y + 15.0, "end", 12, &bar.name);
            push(
                &mut svg,
                format_args!(
                    r#"<rect x="{BARS_LEFT}" y="{:.1}" width="{width:.1}" height="16" fill="{colour}"/>"#,
                    y + 2.0
                ),
            );
            let value = format!("{:.2}x", bar.value);
            text(&mut svg, BARS_LEFT + width + 6.0, y + 15.0, "start", 12, &value);
            y += BAR;
        }
        y += BAR;
    }
    text(&mut svg, one, TOP - 10.0, "middle", 12, "1.00x");
    close(svg)
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

fn open(height: f64, title: &str, subtitle: &str) -> String {
    let mut svg = String::new();
    push(
        &mut svg,
        format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" fill="black">"#
        ),
    );
    push(&mut svg, format_args!(r#"<rect width="{WIDTH}" height="{height}" fill="white"/>"#));
    text(&mut svg, 24.0, 24.0, "start", 17, title);
    text(&mut svg, 24.0, 42.0, "start", 12, subtitle);
    svg
}

fn close(mut svg: String) -> String {
    svg.push_str("</svg>\n");
    svg
}

fn rule(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], colour: &str) {
    push(
        svg,
        format_args!(r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"/>"#),
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, size: u32, text: &str) {
    let text = escaped(text);
    push(
        svg,
        format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{text}</text>"#
        ),
    );
}

fn push(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a string takes everything");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Axis, Bar, Line, bars, lines};

    /// The texts of a drawing whose elements all end.
    pub(crate) fn texts(svg: &str) -> Vec<String> {
        let mut open: Vec<String> = Vec::new();
        let mut texts = Vec::new();
        let mut rest = svg.trim();
        while let Some(inner) = rest.strip_prefix('<') {
            let (tag, after) = inner.split_once('>').expect("a tag ends");
            assert!(!tag.contains('<'), "{tag}");
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes come in pairs: {tag}");
            let name = tag.trim_start_matches('/').split_whitespace().next().expect("a tag has a name");
            if tag.starts_with('/') {
                assert_eq!(open.pop().as_deref(), Some(name), "tags are nested");
            } else if !tag.ends_with('/') {
                open.push(name.to_owned());
            }
            let (text, next) = after.split_at(after.find('<').unwrap_or(after.len()));
            for part in text.split('&').skip(1) {
                assert!(["amp;", "lt;", "gt;"].iter().any(|name| part.starts_with(name)), "{text}");
            }
            if !text.trim().is_empty() {
                texts.push(text.trim().to_owned());
            }
            rest = next;
        }
        assert!(open.is_empty() && rest.is_empty(), "{open:?} {rest}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        texts
    }

    fn axis(values: &[f64]) -> Axis {
        Axis::over("size", values.iter().copied(), |value| format!("{value}"))
    }

    #[test]
    fn an_axis_ends_at_ticks_that_hold_all_values() {
        let narrow = axis(&[3.0, 70.0]);
        assert_eq!((narrow.low, narrow.high), (2.0, 100.0));
        let labels: Vec<&str> = narrow.ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["2", "5", "10", "20", "50", "100"]);
        let wide = axis(&[3.0, 70_000.0, 0.0]);
        assert_eq!((wide.low, wide.high, wide.ticks.len()), (1.0, 100_000.0, 6));
        assert_eq!((axis(&[]).low, axis(&[]).high), (1.0, 10.0));
        let one = axis(&[10.0]);
        assert!(one.low <= 10.0 && one.high > one.low, "{one:?}");
        assert!((wide.place(1.0) - 0.0).abs() < 1e-9 && (wide.place(100_000.0) - 1.0).abs() < 1e-9);
        assert_eq!((wide.place(0.0), wide.place(1e9)), (0.0, 1.0));
    }

    #[test]
    fn a_chart_of_lines_is_well_formed_and_names_everything() {
        let line = |name: &str, colour| Line {
            name: name.to_owned(),
            colour,
            points: vec![(1.0, 10.0), (10.0, 500.0)],
            dots: true,
        };
        let svg = lines(
            "Calls & more",
            "a < b",
            &axis(&[1.0, 10.0]),
            &axis(&[10.0, 500.0]),
            &[line("uds", 0), line("hosted", 9)],
        );
        let texts = texts(&svg);
        for text in ["Calls &amp; more", "a &lt; b", "size", "uds", "hosted", "500"] {
            assert!(texts.iter().any(|found| found == text), "{text} is missing in {texts:?}");
        }
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 4));
    }

    #[test]
    fn bars_stand_in_groups_beside_their_values() {
        let bar = |group: &str, name: &str, value| Bar {
            group: group.to_owned(),
            name: name.to_owned(),
            colour: 2,
            value,
        };
        let all = [bar("64 B", "uds", 1.0), bar("64 B", "hosted", 1.33), bar("1 MiB", "hosted", 0.0)];
        let svg = bars("Ratios", "one processor", &all);
        let texts = texts(&svg);
        for text in ["64 B", "1 MiB", "1.33x", "0.00x"] {
            assert_eq!(texts.iter().filter(|found| *found == text).count(), 1, "{text} in {texts:?}");
        }
        assert_eq!(svg.matches(r#"height="16""#).count(), 3);
        assert!(self::texts(&bars("None", "", &[])).contains(&"None".to_owned()));
    }
}
