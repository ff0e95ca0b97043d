//! Draws line plots with two logarithmic axes as SVG. A white background keeps them readable on dark
//! pages.

use serde::{Deserialize, Serialize};

use super::unit::{Unit, to_f64};

/// A plot, which is one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plot {
    pub(crate) file: String,
    pub(crate) title: String,
    pub(crate) panels: Vec<Panel>,
}

/// One pair of axes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) unit: Unit,
    pub(crate) lines: Vec<Line>,
}

/// Points (x, y) in the order of x, all above 0.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

const COLUMNS: usize = 2;
const PANEL: (f64, f64) = (460.0, 300.0);
/// Margins around the axes of a panel, in pixels: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (80.0, 50.0, 20.0, 45.0);
const HEAD: f64 = 36.0;
const BLACK: &str = "#000000";
/// Colours that colour-blind readers can distinguish.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// A range of whole powers of ten that contains all values.
#[derive(Debug, Clone, Copy)]
struct Decades {
    low: f64,
    high: f64,
}

impl Decades {
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(l, h), v| (l.min(v), h.max(v)));
        let low = low.log10().floor();
        Decades { low, high: high.log10().ceil().max(low + 1.0) }
    }

    /// Returns the position of a value: 0 at the low end, 1 at the high end.
    fn place(self, value: f64) -> f64 {
        (value.log10() - self.low) / (self.high - self.low)
    }

    /// Returns every power of ten with its position.
    fn ticks(self) -> impl Iterator<Item = (f64, f64)> {
        let count = (self.high - self.low).round();
        (0..=20_u8)
            .map(f64::from)
            .take_while(move |i| *i <= count)
            .map(move |i| (10_f64.powf(self.low + i), i / count))
    }
}

/// Returns the content of the file.
pub(crate) fn svg(plot: &Plot) -> String {
    let rows = plot.panels.len().div_ceil(COLUMNS);
    let (width, height) = (PANEL.0 * to_f64(COLUMNS as u64), HEAD + PANEL.1 * to_f64(rows as u64));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{middle}\" y=\"24\" font-size=\"16\" text-anchor=\"middle\" fill=\"#000000\">{title}</text>\n",
        title = escaped(&plot.title),
        middle = width / 2.0,
    );
    for (i, panel) in plot.panels.iter().enumerate() {
        let origin = (PANEL.0 * to_f64((i % COLUMNS) as u64), HEAD + PANEL.1 * to_f64((i / COLUMNS) as u64));
        out.push_str(&panel_svg(panel, origin));
    }
    out.push_str("</svg>\n");
    out
}

fn panel_svg(panel: &Panel, origin: (f64, f64)) -> String {
    let scale = panel.unit.scale();
    let scaled = |line: &Line| line.points.iter().map(|(x, y)| (*x, y / scale)).collect::<Vec<_>>();
    let lines: Vec<Vec<(f64, f64)>> = panel.lines.iter().map(scaled).collect();
    let (x, y) = (
        Decades::around(lines.iter().flatten().map(|point| point.0)),
        Decades::around(lines.iter().flatten().map(|point| point.1)),
    );
    let (left, top) = (MARGIN.0, MARGIN.1);
    let (wide, high) = (PANEL.0 - left - MARGIN.2, PANEL.1 - top - MARGIN.3);
    let at = |(px, py): (f64, f64)| (left + wide * x.place(px), top + high * (1.0 - y.place(py)));
    let bottom = top + high;
    let mut out = format!("<g transform=\"translate({},{})\">\n", origin.0, origin.1);
    let title = format!("{} by {}", panel.title, panel.x);
    out.push_str(&label((left + wide / 2.0, top - 28.0), "middle", BLACK, &title));
    for (value, place) in x.ticks() {
        let tick = left + wide * place;
        out.push_str(&rule((tick, top), (tick, bottom), "#dddddd", ""));
        out.push_str(&label((tick, bottom + 18.0), "middle", BLACK, &count(value)));
    }
    for (value, place) in y.ticks() {
        let tick = top + high * (1.0 - place);
        out.push_str(&rule((left, tick), (left + wide, tick), "#dddddd", ""));
        out.push_str(&label((left - 6.0, tick + 4.0), "end", BLACK, &panel.unit.show(value * scale)));
    }
    if let Some((from, to)) = lines.first().and_then(|first| guide(first, x, y)) {
        out.push_str(&rule(at(from), at(to), "#888888", " stroke-dasharray=\"4 4\""));
    }
    for (i, points) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let places: Vec<(f64, f64)> = points.iter().map(|point| at(*point)).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        out.push_str(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
            path.join(" ")
        ));
        for (x, y) in &places {
            out.push_str(&format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>\n"));
        }
    }
    // A single line has no legend.
    for (i, line) in panel.lines.iter().enumerate().filter(|_| panel.lines.len() > 1) {
        let place = (left + wide * to_f64(i as u64) / to_f64(panel.lines.len() as u64), top - 8.0);
        out.push_str(&label(place, "start", COLOURS[i % COLOURS.len()], &line.name));
    }
    out.push_str("</g>\n");
    out
}

/// Returns the visible part of a line that shows linear growth, drawn back from the last point.
fn guide(points: &[(f64, f64)], x: Decades, y: Decades) -> Option<((f64, f64), (f64, f64))> {
    let &(last_x, last_y) = points.last()?;
    let start_x = 10_f64.powf(x.low).max(last_x / last_y * 10_f64.powf(y.low));
    Some(((start_x, last_y * start_x / last_x), (last_x, last_y)))
}

fn rule(from: (f64, f64), to: (f64, f64), colour: &str, more: &str) -> String {
    format!(
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"{more}/>\n",
        from.0, from.1, to.0, to.1
    )
}

fn label(at: (f64, f64), anchor: &str, colour: &str, text: &str) -> String {
    format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{}</text>\n",
        at.0,
        at.1,
        escaped(text)
    )
}

fn count(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e3 => format!("{}k", value / 1e3),
        value => format!("{value}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
